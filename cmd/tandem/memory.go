package main

import (
	"math"
	"runtime"
	"runtime/debug"
)

// As long as there is little in memory the collector runs seldom: most commands
// end before they need it. It runs often where memory nears the limit, which
// leaves room in 20 MiB for the pages of the program itself. A tree of very many
// files needs more than that whatever is collected; then the limit moves
// with what is in use, since at it the collector would do nothing but run.
const (
	gcPercent   = 400
	memoryLimit = 11 << 20   // bytes
	elsewhere   = 2560 << 10 // bytes of stacks and of the runtime, at most, beside what inUse adds
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
		used := inUse()
		debug.SetMemoryLimit(max(memoryLimit, used+used/3+elsewhere))
		afterCollection()
	}, struct{}{})
}

// inUse returns how many bytes the collector found in use, and part of the stacks: without a
// limit it would run next when gcPercent is added to them. The package runtime/metrics
// tells the same, but every start of the program would pay for it.
func inUse() int64 {
	debug.SetMemoryLimit(math.MaxInt64)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.NextGC / (100 + gcPercent) * 100)
}
