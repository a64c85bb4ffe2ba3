package self

import (
	"os"
	"runtime/debug"
	"testing"
)

// The tests cut the power of disks in memory thousands of times. Memory is there: a
// sixth of the time went into saving it.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
