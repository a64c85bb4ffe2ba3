package lock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who holds a directory holds it without any file that could be removed.
func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	side := filepath.Join(dir, "system")
	if err := os.Mkdir(side, 0o700); err != nil {
		t.Fatal(err)
	}
	release, err := Directory(side)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Directory(side); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), side) {
		t.Errorf("a second one: %v", err)
	}
	if other, err := Directory(dir); err != nil {
		t.Errorf("the directory above: %v", err)
	} else if err := other(); err != nil {
		t.Error(err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	again, err := Directory(side)
	if err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
	if _, err := Directory(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none that is missing: %v", err)
	}
}

// A lock file that is removed while it is held lets a second one in: that is why
// the directories are locked, too.
func TestAcquire(t *testing.T) {
	name := filepath.Join(t.TempDir(), "tandem.lock")
	release, err := Acquire(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(name); !errors.Is(err, ErrBusy) {
		t.Errorf("a second one: %v", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	second, err := Acquire(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []func() error{second, release} {
		if err := r(); err != nil {
			t.Error(err)
		}
	}
}
