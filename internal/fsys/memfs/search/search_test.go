package search_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/internal/fsys/memfs/search"
)

// replacing is a device that replaces a file in the way of write.
func replacing(write func(fs fsys.FS) error) *search.Case {
	m := memfs.NewMachine()
	fs := m.NewDisk("d", memfs.Options{}).FS()
	if err := errors.Join(fsys.WriteFile(fs, "a", []byte("old"), 0o644), fs.Sync()); err != nil {
		panic(err)
	}
	content := func(m *memfs.Machine) string {
		data, err := fsys.ReadFile(m.Disk("d").FS(), "a", 100)
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
	return &search.Case{
		Name:  "replace a file",
		Start: m,
		Work:  func(m *memfs.Machine) error { return write(m.Disk("d").FS()) },
		Recover: func(m *memfs.Machine) error {
			fs := m.Disk("d").FS()
			return errors.Join(fsys.RemoveAll(fs, "a.tmp"), fs.SyncDir("."))
		},
		Expect: content,
		During: func(m *memfs.Machine, _ string) error {
			if c := content(m); c != "old" && c != "new" {
				return fmt.Errorf("it has %q", c)
			}
			return nil
		},
		After: func(m *memfs.Machine, expect string, err error) error {
			if c := content(m); c != expect || err != nil {
				return fmt.Errorf("it has %q, expected %q; %v", c, expect, err)
			}
			return nil
		},
		Done: func(m *memfs.Machine) error {
			if c := content(m); c != "new" {
				return fmt.Errorf("it has %q", c)
			}
			return nil
		},
		Failed: func(fault, err error) error {
			if !errors.Is(err, fault) {
				return fmt.Errorf("%v is told as %v", fault, err)
			}
			return nil
		},
	}
}

func write(fs fsys.FS, sync, syncDir, tell bool) error {
	f, err := fs.Create("a.tmp", 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("new"))
	if err == nil && sync {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = fs.Rename("a.tmp", "a")
	}
	if err == nil && syncDir {
		err = fs.SyncDir(".")
	}
	if err != nil && !tell {
		return nil
	}
	return err
}

var thorough = search.Options{Seed: 3, States: 2, Second: 1, Every: 1, FaultStep: 1, LookStep: 1}

func TestNothingToFind(t *testing.T) {
	c := replacing(func(fs fsys.FS) error { return write(fs, true, true, true) })
	r := c.Run(thorough)
	if r.Failure != nil {
		t.Fatal(r.Failure)
	}
	// Create, write, fsync, rename, syncdir, and four errors at each.
	if r.Total() != 5 || r.Faults != 20 || r.Second == 0 || r.Distinct < 4 {
		t.Errorf("%+v", r)
	}
	if got := r.Kinds(); got != "create 1, fsync 1, rename 1, syncdir 1, write 1" {
		t.Errorf("kinds %q", got)
	}
}

// What is wrong is found, has a name, and is found again by that name alone.
func TestFinds(t *testing.T) {
	for name, bad := range map[string]func(fs fsys.FS) error{
		"no fsync":                func(fs fsys.FS) error { return write(fs, false, true, true) },
		"no fsync of a directory": func(fs fsys.FS) error { return write(fs, true, false, true) },
		"an error kept quiet":     func(fs fsys.FS) error { return write(fs, true, true, false) },
		"any error taken for a missing file": func(fs fsys.FS) error {
			if _, err := fs.Lstat("a"); err != nil {
				return fsys.WriteFile(fs, "a", []byte("default"), 0o644)
			}
			return write(fs, true, true, true)
		},
		"an error told as another": func(fs fsys.FS) error {
			if write(fs, true, true, true) != nil {
				return syscall.EPERM
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := replacing(bad).Run(thorough)
			if r.Failure == nil {
				t.Fatal("not found")
			}
			t.Log(r.Failure)
			again := thorough
			again.Only = r.Failure.Name
			if second := replacing(bad).Run(again); second.Failure == nil || second.Failure.Name != r.Failure.Name {
				t.Errorf("%s alone: %v", r.Failure.Name, second.Failure)
			}
		})
	}
}

// A recovery that is cut itself and then goes on from the wrong place.
func TestFindsSecondCut(t *testing.T) {
	c := replacing(func(fs fsys.FS) error { return write(fs, true, true, true) })
	c.Recover = func(m *memfs.Machine) error {
		fs := m.Disk("d").FS()
		if _, err := fs.Lstat("lost"); err == nil {
			return fs.Remove("a")
		}
		return errors.Join(fs.Mkdir("lost", 0o755), fs.SyncDir("."), fs.Remove("lost"), fs.SyncDir("."))
	}
	r := c.Run(thorough)
	if r.Failure == nil {
		t.Fatal("not found")
	}
	again := thorough
	again.Only = r.Failure.Name
	if second := c.Run(again); second.Failure == nil || second.Failure.Name != r.Failure.Name {
		t.Errorf("%s alone: %v", r.Failure.Name, second.Failure)
	}
}
