package backup

import (
	"os"
	"runtime/debug"
	"testing"
)

// The tests run the reconciler thousands of times on disks in memory, which is there: a
// fourth of the time went into saving it.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
