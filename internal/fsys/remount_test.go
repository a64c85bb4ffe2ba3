package fsys_test

import (
	"errors"
	"syscall"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

func TestOnReadOnly(t *testing.T) {
	disk := memfs.NewMachine().NewDisk("d", memfs.Options{ReadOnly: true})
	calls := 0
	fs := fsys.OnReadOnly(disk.FS(), func() error { calls++; disk.SetReadOnly(false); return nil })
	if _, err := fs.ReadDir("."); err != nil || calls != 0 || fs.Remounted() {
		t.Fatalf("reading: %v, %d calls", err, calls)
	}
	for _, name := range []string{"a", "b"} {
		if err := fs.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 1 || !fs.Remounted() {
		t.Errorf("%d calls", calls)
	}
	disk.SetReadOnly(true)
	if err := fs.Mkdir("c", 0o755); !errors.Is(err, syscall.EROFS) || calls != 1 {
		t.Errorf("read-only again: %v, %d calls", err, calls)
	}

	disk = memfs.NewMachine().NewDisk("d", memfs.Options{ReadOnly: true})
	fs = fsys.OnReadOnly(disk.FS(), func() error { return syscall.EPERM })
	if err := fs.Mkdir("a", 0o755); !errors.Is(err, syscall.EROFS) || !errors.Is(err, syscall.EPERM) {
		t.Errorf("%v, want both reasons", err)
	}
}
