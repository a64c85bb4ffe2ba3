package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// As long as there is little in memory the collector runs seldom: most
// commands end before they need it. A tree of very many files needs more than
// that whatever is collected; then memory grows in small steps, since at its
// limit the collector would do nothing but run.
const (
	gcPercent      = 400
	memoryLimit    = 16 << 20 // bytes
	largeHeap      = 8 << 20  // bytes in use that leave no room below the limit
	gcPercentLarge = 20
)

func limitMemory() {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	afterCollection()
}

// afterCollection looks at the heap each time the collector has run.
func afterCollection() {
	mark := &struct{ self any }{} // unused, so that the collector finds it
	runtime.AddCleanup(mark, func(struct{}) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		if live[0].Value.Uint64() < largeHeap {
			afterCollection()
			return
		}
		debug.SetGCPercent(gcPercentLarge)
		debug.SetMemoryLimit(math.MaxInt64)
	}, struct{}{})
}
