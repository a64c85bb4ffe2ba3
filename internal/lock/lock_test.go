package lock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	if _, err := Directory(side); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d) holds the directory %s", os.Getpid(), side)) {
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
	name := filepath.Join(t.TempDir(), "run/tandem.lock") // in a directory that is missing
	release, err := Acquire(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(name); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d) holds %s", os.Getpid(), name)) {
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
	fifo := filepath.Join(t.TempDir(), "fifo") // is not waited for
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if release, err = Acquire(fifo); err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

func TestHolding(t *testing.T) {
	const table = `1: POSIX  ADVISORY  WRITE 700 08:02:4242 0 EOF
2: FLOCK  ADVISORY  WRITE 812 08:02:4242 0 EOF
2: -> FLOCK  ADVISORY  WRITE 900 08:02:4242 0 EOF
3: FLOCK  ADVISORY  WRITE 813 00:1a:42 0 EOF
`
	for inode, want := range map[uint64]int{4242: 812, 42: 813, 242: 0} {
		if got := holding([]byte(table), inode); got != want {
			t.Errorf("%d: process %d, want %d", inode, got, want)
		}
	}
	if got := called([]byte("/usr/bin/tandem\x00--config\x00a b\x00update\x00")); got != "tandem --config a b update" {
		t.Errorf("%q", got)
	}
}

// A directory that is missing is made for each kind of lock; where there cannot be one,
// the error says so.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	pid := func(name string) (func() error, error) { return AcquirePID(name, 1) }
	for kind, acquire := range map[string]func(string) (func() error, error){"lock": Acquire, "pid": pid} {
		release, err := acquire(filepath.Join(dir, kind, "run", "tandem"))
		if err != nil {
			t.Fatal(err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
		for _, name := range []string{dir, "/proc/nowhere/tandem", "/dev/null/tandem"} {
			if _, err := acquire(name); !errors.Is(err, ErrPlace) {
				t.Errorf("%s %s: %v", kind, name, err)
			}
		}
	}
}
