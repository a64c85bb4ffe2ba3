package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// The limit follows what is in use: neither less, which would keep the collector running,
// nor much more.
func TestInUse(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	const size = 64 << 20
	large := make([]byte, size)
	runtime.GC()
	got := inUse()
	runtime.KeepAlive(large)
	if got < size || got > size+size/2 {
		t.Errorf("in use: %d bytes, expected %d and what else the tests have", got, size)
	}
}
