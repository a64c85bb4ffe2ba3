package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// As long as there is little in memory the collector runs seldom: most commands
// end before they need it. It runs often where memory nears the limit, which
// leaves room in 20 MiB for the pages of the program itself. A tree of very many
// files needs more than that whatever is collected; then the limit moves
// with what is in use, since at it the collector would do nothing but run.
const (
	gcPercent   = 400
	memoryLimit = 11 << 20 // bytes
	elsewhere   = 3 << 20  // bytes of stacks and of the runtime's own, at most
)

func limitMemory() {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	afterCollection()
}

// afterCollection sets the limit anew each time the collector has run.
func afterCollection() {
	mark := &struct{ self any }{} // unused, so that the collector finds it
	runtime.AddCleanup(mark, func(struct{}) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		used := int64(live[0].Value.Uint64())
		debug.SetMemoryLimit(max(memoryLimit, used+used/3+elsewhere))
		afterCollection()
	}, struct{}{})
}
