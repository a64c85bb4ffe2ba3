package fsys_test

import (
	"path/filepath"
	"syscall"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/fsystest"
)

func TestOS(t *testing.T) {
	fsystest.Run(t, func(t *testing.T) fsys.FS {
		f, err := fsys.OpenOS(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	})
}

// A FIFO without a writer must not hold up who looks at it.
func TestOSOther(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.OpenOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if i, err := f.Lstat("fifo"); err != nil || i.Type != fsys.TypeOther {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := f.Open("fifo"); err == nil {
		t.Error("opened a FIFO")
	}
	if _, err := f.Xattrs("fifo"); err != nil {
		t.Error(err)
	}
}
