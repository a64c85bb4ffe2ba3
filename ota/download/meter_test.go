package download

import (
	"errors"
	"syscall"
	"testing"

	"tandem/internal/fsys/memfs"
	"tandem/ota/fault"
)

// What was spent for a release counts after a restart. Where it cannot be read just now
// nothing comes, and nothing is written in its place.
func TestMeterCannotBeRead(t *testing.T) {
	m := memfs.NewMachine()
	disk := m.NewDisk("state", memfs.Options{}).FS()
	if err := disk.Mkdir(downloadDir, 0o755); err != nil {
		t.Fatal(err)
	}
	anew := func() *meter { return &meter{fs: disk, stem: downloadDir + "/hello.x", most: 100} }
	first := anew()
	if err := first.came(70); err != nil {
		t.Fatal(err)
	}
	first.close()
	m.FailReads(func(string) error { return syscall.EMFILE })
	for _, err := range []error{anew().allows(1), anew().came(1)} {
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("no descriptors: %v", err)
		}
	}
	m.FailReads(nil)
	if err := anew().allows(30); err != nil {
		t.Error(err)
	}
	if err := anew().allows(31); !errors.Is(err, fault.ErrBudget) {
		t.Errorf("more than is left: %v", err)
	}
}
