package memfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/internal/fsys"
	"tandem/internal/fsys/fsystest"
	"tandem/internal/fsys/memfs"
)

func TestConformance(t *testing.T) {
	for name, o := range map[string]memfs.Options{
		"plain":       {},
		"no exchange": {NoExchange: true},
		"no xattrs":   {NoXattrs: true},
		"coarse":      {CoarseMtime: true},
		"limits":      {Capacity: 1 << 20, Inodes: 100},
	} {
		t.Run(name, func(t *testing.T) {
			fsystest.Run(t, func(t *testing.T) fsys.FS {
				return on(memfs.NewMachine().NewDisk("system", o), ".")
			}, tools)
		})
	}
	t.Run("below a directory", func(t *testing.T) {
		fsystest.Run(t, func(t *testing.T) fsys.FS {
			d := memfs.NewMachine().NewDisk("system", memfs.Options{})
			if err := d.FS().Mkdir("home", 0o755); err != nil {
				t.Fatal(err)
			}
			return on(d, "home")
		}, tools)
	})
	t.Run("after restarts", func(t *testing.T) {
		fsystest.Run(t, func(t *testing.T) fsys.FS {
			m := memfs.NewMachine()
			m.NewDisk("system", memfs.Options{})
			m = m.Clone()
			m.Restart(memfs.Nothing())
			return on(m.Clone().Disk("system"), ".")
		}, tools)
	})
}

// onDisk is a tree of a disk, which can be got at.
type onDisk struct {
	fsys.FS
	disk *memfs.Disk
	dir  string
}

func on(d *memfs.Disk, dir string) *onDisk { return &onDisk{d.Sub(dir), d, dir} }

var tools = fsystest.Tools{
	Mount: func(t *testing.T, f fsys.FS, name string) {
		o := f.(*onDisk)
		must(t, o.disk.SetMount(path.Join(o.dir, name), true))
	},
	Fix: func(t *testing.T, f fsys.FS, name string, fixed bool) {
		o := f.(*onDisk)
		must(t, o.disk.SetFixed(path.Join(o.dir, name), fixed))
	},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// device makes a machine with one disk, on which setup is durable.
func device(t testing.TB, o memfs.Options, setup func(f fsys.FS)) *memfs.Machine {
	t.Helper()
	m := memfs.NewMachine()
	f := m.NewDisk("system", o).FS()
	if setup != nil {
		setup(f)
	}
	must(t, f.Sync())
	return m
}

// setAttr sets the attributes of what is there.
func setAttr(f fsys.FS, name string, a fsys.Attr) error {
	i, err := f.Lstat(name)
	if err != nil {
		return err
	}
	return f.SetAttr(name, a, i)
}

func system(m *memfs.Machine) fsys.FS { return m.Disk("system").FS() }

// write makes a file; the steps say whether to sync it.
func write(f fsys.FS, name, data string, sync bool) error {
	w, err := f.Create(name, 0o644)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := io.WriteString(w, data); err != nil {
		return err
	}
	if sync {
		return w.Sync()
	}
	return nil
}

func read(t testing.TB, f fsys.FS, name string) string {
	t.Helper()
	data, err := fsys.ReadFile(f, name, 1<<20)
	if fsys.IsNotExist(err) {
		return "missing"
	}
	must(t, err)
	return string(data)
}

// list describes a tree, with or without attributes and inode numbers.
func list(t testing.TB, f fsys.FS, full bool) string {
	t.Helper()
	var b strings.Builder
	var walk func(dir string)
	walk = func(dir string) {
		infos, err := f.ReadDir(dir)
		must(t, err)
		for _, i := range infos {
			name := path.Join(dir, i.Name)
			fmt.Fprintf(&b, "%s %s", name, i.Type)
			if full {
				fmt.Fprintf(&b, " %+v", i)
			}
			switch i.Type {
			case fsys.TypeFile:
				fmt.Fprintf(&b, " %q", read(t, f, name))
			case fsys.TypeSymlink:
				target, err := f.Readlink(name)
				must(t, err)
				b.WriteString(" -> " + target)
			}
			b.WriteString("\n")
			if i.Type == fsys.TypeDir {
				walk(name)
			}
		}
	}
	walk(".")
	return b.String()
}

// states gives what look finds after a power cut now, in many of the legal states.
func states(m *memfs.Machine, n int, look func(f fsys.FS) string) map[string]int {
	seen := make(map[string]int)
	for _, c := range memfs.Choices(1, n) {
		r := m.Clone()
		r.Restart(c)
		seen[look(system(r))]++
	}
	return seen
}

// wantStates fails unless exactly the given states can be seen.
func wantStates(t *testing.T, got map[string]int, want ...string) {
	t.Helper()
	for s, n := range got {
		if !slices.Contains(want, s) {
			t.Errorf("%d times %q, want one of %q", n, s, want)
		}
	}
	for _, s := range want {
		if got[s] == 0 {
			t.Errorf("never %q, only %v", s, got)
		}
	}
}

// replaceFaults looks for power cuts and errors after which name "a" holds neither
// its old nor its new content, or not the new one although replace succeeded.
func replaceFaults(t *testing.T, o memfs.Options, replace func(f fsys.FS) error) []string {
	t.Helper()
	const before, after = "the old content", "the new content, which is longer"
	start := device(t, o, func(f fsys.FS) { must(t, write(f, "a", before, true)) })
	var faults []string
	check := func(what string, m *memfs.Machine, done bool) {
		for _, c := range memfs.Choices(7, 20) {
			r := m.Clone()
			r.Restart(c)
			got := read(t, system(r), "a")
			if got != after && (done || got != before) {
				faults = append(faults, fmt.Sprintf("%s: %q\n%s", what, got, strings.Join(r.Trace(), "\n")))
			}
			// The next attempt must get over what this one has left.
			if err := fsys.WriteFile(system(r), "a", []byte("third"), 0o644); err != nil {
				faults = append(faults, fmt.Sprintf("%s: then %v", what, err))
			}
		}
	}
	var err error
	cuts := 0
	for n, m := range start.Cuts(func(m *memfs.Machine) { err = replace(system(m)) }) {
		if m.Off() && !errors.Is(err, memfs.ErrPowerCut) {
			t.Errorf("cut %d gives %v", n, err)
		}
		check(fmt.Sprintf("cut %d", n), m, err == nil)
		cuts = n
	}
	for n := 1; n < cuts; n++ {
		m := start.Clone()
		m.FailWriteAt(n, 3, syscall.EIO)
		err := replace(system(m))
		check(fmt.Sprintf("error %d", n), m, err == nil)
	}
	return faults
}

func TestReplaceFile(t *testing.T) {
	const after = "the new content, which is longer"
	tests := []struct {
		name    string
		safe    bool
		replace func(f fsys.FS) error
	}{
		{"WriteFile", true, func(f fsys.FS) error { return fsys.WriteFile(f, "a", []byte(after), 0o644) }},
		{"without sync of the file", false, func(f fsys.FS) error {
			if err := write(f, "a.tmp", after, false); err != nil {
				return err
			}
			if err := f.Rename("a.tmp", "a"); err != nil {
				return err
			}
			return f.SyncDir(".")
		}},
		{"without sync of the directory", false, func(f fsys.FS) error {
			if err := write(f, "a.tmp", after, true); err != nil {
				return err
			}
			return f.Rename("a.tmp", "a")
		}},
		{"remove first", false, func(f fsys.FS) error {
			if err := write(f, "a.tmp", after, true); err != nil {
				return err
			}
			if err := f.Remove("a"); err != nil {
				return err
			}
			if err := f.Rename("a.tmp", "a"); err != nil {
				return err
			}
			return f.SyncDir(".")
		}},
		{"in place", false, func(f fsys.FS) error {
			if err := f.Remove("a"); err != nil {
				return err
			}
			if err := write(f, "a", after, true); err != nil {
				return err
			}
			return f.SyncDir(".")
		}},
		{"failed sync tried again", false, func(f fsys.FS) error {
			w, err := f.Create("a.tmp", 0o644)
			if err != nil {
				return err
			}
			defer w.Close()
			if _, err := io.WriteString(w, after); err != nil {
				return err
			}
			if err := w.Sync(); err != nil {
				if err := w.Sync(); err != nil {
					return err
				}
			}
			if err := f.Rename("a.tmp", "a"); err != nil {
				return err
			}
			return f.SyncDir(".")
		}},
		{"short write not noticed", false, func(f fsys.FS) error {
			w, err := f.Create("a.tmp", 0o644)
			if err != nil {
				return err
			}
			defer w.Close()
			if n, err := io.WriteString(w, after); n == 0 && err != nil {
				return err
			}
			if err := w.Sync(); err != nil {
				return err
			}
			if err := f.Rename("a.tmp", "a"); err != nil {
				return err
			}
			return f.SyncDir(".")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			faults := replaceFaults(t, memfs.Options{}, tt.replace)
			if tt.safe && len(faults) > 0 {
				t.Errorf("%d faults, the first: %s", len(faults), faults[0])
			}
			if !tt.safe && len(faults) == 0 {
				t.Error("the fault was not found")
			}
		})
	}
}

// Each operation on entries is lost or kept, and kept once its directories are
// synced.
func TestEntriesNeedSyncDir(t *testing.T) {
	setup := func(f fsys.FS) {
		must(t, f.Mkdir("d", 0o755))
		must(t, f.Mkdir("e", 0o755))
		must(t, write(f, "d/a", "A", true))
		must(t, write(f, "d/b", "B", true))
		must(t, write(f, "e/c", "C", true))
	}
	tests := []struct {
		name string
		run  func(f fsys.FS) error
		dirs []string
	}{
		{"create", func(f fsys.FS) error { return write(f, "d/n", "N", true) }, []string{"d"}},
		{"mkdir", func(f fsys.FS) error { return f.Mkdir("d/n", 0o755) }, []string{"d"}},
		{"symlink", func(f fsys.FS) error { return f.Symlink("x", "d/n") }, []string{"d"}},
		{"link", func(f fsys.FS) error { return f.Link("d/a", "e/n") }, []string{"e"}},
		{"remove", func(f fsys.FS) error { return f.Remove("d/a") }, []string{"d"}},
		{"rename", func(f fsys.FS) error { return f.Rename("d/a", "d/n") }, []string{"d"}},
		{"rename over", func(f fsys.FS) error { return f.Rename("d/a", "d/b") }, []string{"d"}},
		{"rename across", func(f fsys.FS) error { return f.Rename("d/a", "e/c") }, []string{"d", "e"}},
		{"exchange", func(f fsys.FS) error { return f.Exchange("d/a", "d/b") }, []string{"d"}},
		{"exchange across", func(f fsys.FS) error { return f.Exchange("d/a", "e/c") }, []string{"d", "e"}},
		{"exchange directories", func(f fsys.FS) error { return f.Exchange("d", "e") }, []string{"."}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := device(t, memfs.Options{}, setup)
			look := func(f fsys.FS) string { return list(t, f, false) }
			before := look(system(m))
			must(t, tt.run(system(m)))
			after := look(system(m))
			if before == after {
				t.Fatal("nothing happened")
			}
			for i := range tt.dirs {
				wantStates(t, states(m, 30, look), before, after)
				must(t, system(m).SyncDir(tt.dirs[i]))
			}
			wantStates(t, states(m, 30, look), after)

			m = device(t, memfs.Options{}, setup)
			must(t, tt.run(system(m)))
			must(t, system(m).Sync())
			wantStates(t, states(m, 30, look), after)
		})
	}
}

// A synced entry in a directory that is lost is lost with it.
func TestNewDirectoryNeedsParentSync(t *testing.T) {
	m := device(t, memfs.Options{}, nil)
	f := system(m)
	must(t, f.Mkdir("d", 0o755))
	must(t, write(f, "d/a", "A", true))
	must(t, f.SyncDir("d"))
	look := func(f fsys.FS) string { return list(t, f, false) }
	wantStates(t, states(m, 30, look), "", "d dir\nd/a file \"A\"\n")
	must(t, f.SyncDir("."))
	wantStates(t, states(m, 30, look), "d dir\nd/a file \"A\"\n")
}

func TestFileSyncLeavesEntry(t *testing.T) {
	m := device(t, memfs.Options{}, nil)
	must(t, write(system(m), "a", "A", true))
	wantStates(t, states(m, 30, func(f fsys.FS) string { return read(t, f, "a") }), "A", "missing")
}

// A removed tree is gone for good once its parent is synced, though its own
// directories were not.
func TestRemovedTree(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) {
		must(t, fsys.MkdirAll(f, "d/e", 0o755))
		must(t, write(f, "d/a", "A", true))
		must(t, write(f, "d/e/b", "B", true))
	})
	f := system(m)
	must(t, f.Rename("d/e/b", "kept"))
	must(t, fsys.RemoveAll(f, "d"))
	must(t, f.SyncDir("."))
	wantStates(t, states(m, 50, func(f fsys.FS) string { return list(t, f, false) }), "kept file \"B\"\n")
}

// A durable change takes along the half-synced one that it builds on.
func TestDurableBuildsOn(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) {
		must(t, f.Mkdir("d", 0o755))
		must(t, f.Mkdir("e", 0o755))
		must(t, write(f, "d/a", "A", true))
	})
	f := system(m)
	look := func(f fsys.FS) string { return list(t, f, false) }
	must(t, f.Rename("d/a", "e/b"))
	must(t, f.SyncDir("e"))
	wantStates(t, states(m, 30, look), "d dir\nd/a file \"A\"\ne dir\n", "d dir\ne dir\ne/b file \"A\"\n")
	must(t, f.Rename("e/b", "e/c"))
	must(t, f.SyncDir("e"))
	wantStates(t, states(m, 30, look), "d dir\ne dir\ne/c file \"A\"\n")
}

func TestLinkNeedsItsFile(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) {
		must(t, f.Mkdir("d", 0o755))
		must(t, f.Mkdir("e", 0o755))
	})
	f := system(m)
	look := func(f fsys.FS) string { return read(t, f, "d/a") + " " + read(t, f, "e/b") }
	must(t, write(f, "d/a", "A", true))
	must(t, f.Link("d/a", "e/b"))
	wantStates(t, states(m, 50, look), "missing missing", "A missing", "A A")
	must(t, f.SyncDir("e"))
	wantStates(t, states(m, 50, look), "missing A", "A A")
}

func TestPrefixKeepsOrder(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) { must(t, f.Mkdir("d", 0o755)) })
	f := system(m)
	var want []string
	all := ""
	for _, n := range []string{"1", "2", "3"} {
		want = append(want, all)
		must(t, write(f, "d/"+n, "", false))
		all += n
	}
	want = append(want, all)
	names := func(f fsys.FS) (s string) {
		infos, err := f.ReadDir("d")
		must(t, err)
		for _, i := range infos {
			s += i.Name
		}
		return s
	}
	seen := make(map[string]int)
	anyOrder := false
	for i := range uint64(100) {
		r := m.Clone()
		r.Restart(memfs.Prefix(rand.New(rand.NewPCG(i, 0))))
		seen[names(system(r))]++
		r = m.Clone()
		r.Restart(memfs.Random(rand.New(rand.NewPCG(i, 0))))
		anyOrder = anyOrder || !slices.Contains(want, names(system(r)))
	}
	wantStates(t, seen, want...)
	if !anyOrder {
		t.Error("Random keeps the order")
	}

	// A sync of what came last keeps what came before it.
	must(t, f.Mkdir("e", 0o755))
	must(t, f.SyncDir("."))
	for i := range uint64(20) {
		r := m.Clone()
		r.Restart(memfs.Prefix(rand.New(rand.NewPCG(i, 0))))
		if got := names(system(r)); got != all {
			t.Errorf("%q, want %q", got, all)
		}
	}
}

func TestUnsyncedData(t *testing.T) {
	m := device(t, memfs.Options{}, nil)
	f := system(m)
	w, err := f.Create("a", 0o644)
	must(t, err)
	_, err = io.WriteString(w, "safe")
	must(t, err)
	must(t, w.Sync())
	_, err = io.WriteString(w, "more")
	must(t, err)
	must(t, f.SyncDir("."))
	if got := read(t, f, "a"); got != "safemore" {
		t.Fatalf("%q", got)
	}
	got := states(m, 300, func(f fsys.FS) string { return read(t, f, "a") })
	wantStates(t, got, "safe", "safem", "safemo", "safemor", "safemore",
		"safe\x00\x00\x00\x00", "safem\x00\x00\x00", "safemo\x00\x00", "safemor\x00")
	must(t, w.Sync())
	wantStates(t, states(m, 30, func(f fsys.FS) string { return read(t, f, "a") }), "safemore")
}

func TestFailedSync(t *testing.T) {
	look := func(f fsys.FS) string { return read(t, f, "a") }
	for _, tt := range []struct {
		name string
		o    memfs.Options
		sync func(f fsys.FS, w fsys.File) error
		then error // what the next File.Sync says
	}{
		{"file", memfs.Options{}, func(_ fsys.FS, w fsys.File) error { return w.Sync() }, nil},
		{"disk", memfs.Options{}, func(f fsys.FS, _ fsys.File) error { return f.Sync() }, syscall.EIO},
		{"disk, not reported", memfs.Options{NoSyncReports: true}, func(f fsys.FS, _ fsys.File) error { return f.Sync() }, syscall.EIO},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := device(t, tt.o, nil)
			f := system(m)
			w, err := f.Create("a", 0o644)
			must(t, err)
			must(t, f.SyncDir("."))
			_, err = io.WriteString(w, "one")
			must(t, err)
			must(t, w.Sync())
			_, err = io.WriteString(w, "two")
			must(t, err)
			m.FailAt(1, syscall.EIO)
			if err := tt.sync(f, w); f.SyncReports() != errors.Is(err, syscall.EIO) {
				t.Errorf("the failed Sync says %v", err)
			}
			if err := w.Sync(); !errors.Is(err, tt.then) {
				t.Errorf("the next Sync says %v, want %v", err, tt.then)
			}
			must(t, w.Sync())
			must(t, f.Sync())
			if got := look(f); got != "onetwo" {
				t.Errorf("before the cut: %q", got)
			}
			wantStates(t, states(m, 50, look), "one", "onetwo", "one\x00\x00\x00")

			// What is written and synced now is safe, but leaves a hole before it.
			_, err = io.WriteString(w, "three")
			must(t, err)
			must(t, w.Sync())
			wantStates(t, states(m, 50, look), "onetwothree", "one\x00\x00\x00three")
			r := m.Clone()
			r.Restart(memfs.Nothing())
			if got := look(system(r)); got != "one\x00\x00\x00three" {
				t.Errorf("Nothing keeps data in doubt: %q", got)
			}

			evicted := m.Clone()
			evicted.Evict()
			if got := look(system(evicted)); got != "one\x00\x00\x00three" {
				t.Errorf("out of the cache: %q", got)
			}
			wantStates(t, states(evicted, 20, look), "one\x00\x00\x00three")

			// The doubt ends with the restart.
			m.Restart(memfs.Everything())
			m.Restart(memfs.Nothing())
			if got := look(f); got != "onetwothree" {
				t.Errorf("after a second cut: %q", got)
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	setup := func(f fsys.FS) {
		must(t, f.Mkdir("d", 0o755))
		must(t, write(f, "d/a", "A", true))
	}
	look := func(name string) func(f fsys.FS) string {
		return func(f fsys.FS) string {
			i, err := f.Lstat(name)
			must(t, err)
			x, err := f.Xattrs(name)
			must(t, err)
			return fmt.Sprintf("%o %d %d %s", i.Mode, i.UID, i.Mtime, x["user.x"])
		}
	}
	tests := []struct {
		name, entry string
		settle      func(f fsys.FS) error
		durable     bool
	}{
		{"none", "d/a", func(f fsys.FS) error { return nil }, false},
		{"file", "d/a", func(f fsys.FS) error {
			r, err := f.Open("d/a")
			must(t, err)
			defer r.Close()
			return r.Sync()
		}, true},
		{"directory of the file", "d/a", func(f fsys.FS) error { return f.SyncDir("d") }, false},
		{"disk", "d/a", func(f fsys.FS) error { return f.Sync() }, true},
		{"directory", "d", func(f fsys.FS) error { return f.SyncDir("d") }, true},
		{"parent", "d", func(f fsys.FS) error { return f.SyncDir(".") }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := device(t, memfs.Options{}, setup)
			f := system(m)
			before := look(tt.entry)(f)
			must(t, setAttr(f, tt.entry, fsys.Attr{Mode: 0o4711, UID: 5, GID: 6, Mtime: 7, Xattrs: map[string][]byte{"user.x": []byte("X")}}))
			must(t, tt.settle(f))
			after := look(tt.entry)(f)
			got := states(m, 100, look(tt.entry))
			if tt.durable {
				wantStates(t, got, after)
				return
			}
			if got[before] == 0 || got[after] == 0 || len(got) != 16 {
				t.Errorf("%d of 16 mixtures of old and new: %v", len(got), got)
			}
		})
	}

	t.Run("made with", func(t *testing.T) {
		m := device(t, memfs.Options{}, setup)
		f := system(m)
		w, err := f.Create("d/n", 0o640)
		must(t, err)
		must(t, w.Close())
		must(t, f.SyncDir("d"))
		wantStates(t, states(m, 20, func(f fsys.FS) string {
			i, err := f.Lstat("d/n")
			must(t, err)
			return fmt.Sprintf("%o", i.Mode)
		}), "640")
	})
}

func TestClone(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) {
		must(t, f.Mkdir("d", 0o755))
		must(t, write(f, "d/a", "A", true))
	})
	must(t, system(m).Rename("d/a", "d/b"))
	c := m.Clone()
	must(t, system(c).SyncDir("d")) // durable there, not here
	must(t, write(system(c), "c", "C", true))
	must(t, write(system(m), "m", "M", true))
	line := func(m *memfs.Machine) string { trace := m.Trace(); return trace[len(trace)-1] }
	if line(c) != "system: fsync c" || line(m) != "system: fsync m" || m.Ops() == c.Ops() {
		t.Errorf("%q %q", c.Trace(), m.Trace())
	}
	c.Restart(memfs.Nothing())
	m.Restart(memfs.Nothing())
	if got, want := list(t, system(c), false), "d dir\nd/b file \"A\"\n"; got != want {
		t.Errorf("clone: %s, want %s", got, want)
	}
	if got, want := list(t, system(m), false), "d dir\nd/a file \"A\"\n"; got != want {
		t.Errorf("original: %s, want %s", got, want)
	}
}

func TestClock(t *testing.T) {
	m := device(t, memfs.Options{}, nil)
	now := m.Now()
	m.Advance(time.Hour)
	must(t, system(m).Mkdir("d", 0o755))
	i, err := system(m).Lstat("d")
	must(t, err)
	if got := time.Unix(0, i.Mtime).Sub(now); got != time.Hour+time.Millisecond || !m.Now().Equal(time.Unix(0, i.Mtime)) {
		t.Errorf("made %v later", got)
	}
}

func TestInodeNumbers(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) {
		must(t, write(f, "a", "A", true))
		must(t, f.Mkdir("d", 0o755))
	})
	before := list(t, system(m), true)
	for _, c := range memfs.Choices(1, 3) {
		m.Restart(c)
		if after := list(t, system(m), true); after != before {
			t.Errorf("%v: %s, want %s", c, after, before)
		}
	}
}

func TestPowerCut(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) { must(t, write(f, "a", "A", true)) })
	other := m.NewDisk("usr_data", memfs.Options{}).FS()
	f := system(m)
	r, err := f.Open("a")
	must(t, err)
	w, err := f.Create("w", 0o644)
	must(t, err)

	ops := m.Ops()
	m.CutAt(2)
	must(t, f.Mkdir("happens", 0o755))
	cut := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, memfs.ErrPowerCut) {
			t.Errorf("%s: %v", what, err)
		}
	}
	cut("mkdir", f.Mkdir("does not", 0o755))
	if !m.Off() {
		t.Error("not off")
	}
	if got := m.Ops() - ops; got != 2 {
		t.Errorf("%d operations, want 2", got)
	}
	_, err = f.Lstat("a")
	cut("lstat", err)
	_, err = f.Lstat("missing")
	cut("lstat", err)
	_, err = other.ReadDir(".")
	cut("the other disk", err)
	cut("the other disk", other.Mkdir("x", 0o755))
	_, err = r.Read(make([]byte, 1))
	cut("read", err)
	_, err = f.Space()
	cut("space", err)
	cut("close", r.Close())

	m.Restart(memfs.Everything())
	_, err = r.Read(make([]byte, 1))
	cut("read a dead file", err)
	_, err = w.Write([]byte("x"))
	cut("write a dead file", err)
	if got, want := list(t, f, false), "a file \"A\"\nhappens dir\nw file \"\"\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	trace := m.Trace()
	want := []string{"system: mkdir happens", "system: mkdir does not (power cut)", "restart with everything"}
	if got := trace[len(trace)-3:]; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCounting(t *testing.T) {
	m := device(t, memfs.Options{}, nil)
	f := system(m)
	var w fsys.File
	steps := []struct {
		name  string
		run   func() error
		count int
	}{
		{"create", func() (err error) { w, err = f.Create("a", 0o644); return err }, 1},
		{"write", func() error { _, err := w.Write([]byte("A")); return err }, 1},
		{"write nothing", func() error { _, err := w.Write(nil); return err }, 0},
		{"sync", func() error { return w.Sync() }, 1},
		{"close", func() error { return w.Close() }, 0},
		{"mkdir", func() error { return f.Mkdir("d", 0o755) }, 1},
		{"symlink", func() error { return f.Symlink("x", "l") }, 1},
		{"link", func() error { return f.Link("a", "b") }, 1},
		{"rename to the same file", func() error { return f.Rename("a", "b") }, 0},
		{"rename", func() error { return f.Rename("a", "d/a") }, 1},
		{"exchange", func() error { return f.Exchange("l", "d/a") }, 1},
		{"setattr", func() error { return setAttr(f, "b", fsys.Attr{Mode: 0o600}) }, 1},
		{"setattr again", func() error { return setAttr(f, "b", fsys.Attr{Mode: 0o600}) }, 0},
		{"remove", func() error { return f.Remove("b") }, 1},
		{"remove what is not there", func() error {
			if err := f.Remove("b"); !fsys.IsNotExist(err) {
				return fmt.Errorf("remove: %w", err)
			}
			return nil
		}, 0},
		{"syncdir", func() error { return f.SyncDir("d") }, 1},
		{"sync", func() error { return f.Sync() }, 1},
		{"list", func() error { list(t, f, true); return nil }, 0},
	}
	for _, s := range steps {
		before := m.Ops()
		must(t, s.run())
		if got := m.Ops() - before; got != s.count {
			t.Errorf("%s counts %d, want %d", s.name, got, s.count)
		}
	}
	if got, want := len(m.Trace()), m.Ops(); got != want {
		t.Errorf("%d lines of trace for %d operations", got, want)
	}
}

func TestInjectedErrors(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) { must(t, write(f, "a", "A", true)) })
	f := system(m)
	m.FailAt(2, syscall.ENOSPC)
	m.FailAt(3, nil)
	must(t, f.Mkdir("1", 0o755))
	var pe *fs.PathError
	if err := f.Mkdir("2", 0o755); !errors.As(err, &pe) || pe.Err != syscall.ENOSPC || pe.Path != "/system/2" {
		t.Errorf("%v", err)
	}
	var le *os.LinkError
	if err := f.Rename("1", "3"); !errors.As(err, &le) || le.Err != syscall.EIO || le.Old != "/system/1" || le.New != "/system/3" {
		t.Errorf("%v", err)
	}
	must(t, f.Rename("1", "3"))

	w, err := f.Create("w", 0o644)
	must(t, err)
	m.FailWriteAt(1, 2, syscall.EIO)
	if n, err := io.WriteString(w, "short"); n != 2 || !errors.Is(err, syscall.EIO) {
		t.Errorf("%d, %v", n, err)
	}
	if got := read(t, f, "w"); got != "sh" {
		t.Errorf("%q", got)
	}

	m.FailReads(func(p string) error {
		if p == "/system/a" {
			return syscall.EIO
		}
		return nil
	})
	if _, err := f.Open("a"); !errors.Is(err, syscall.EIO) {
		t.Errorf("open: %v", err)
	}
	m.FailReads(nil)
	r, err := f.Open("a")
	must(t, err)
	m.FailReads(func(string) error { return syscall.EIO })
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
}

// Each look can be made to fail, and nothing else fails by that.
func TestFailLooks(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) {
		must(t, write(f, "a", "a", true))
		must(t, write(f, "b", "b", true))
		must(t, f.Symlink("a", "l"))
	})
	f := system(m)
	file, err := f.Open("a")
	must(t, err)
	buf := make([]byte, 1)
	for at, look := range map[string]func() error{
		"lstat":    func() error { _, err := f.Lstat("a"); return err },
		"readdir":  func() error { _, err := f.ReadDir("."); return err },
		"entry":    func() error { _, err := f.ReadDir("."); return err },
		"readlink": func() error { _, err := f.Readlink("l"); return err },
		"xattrs":   func() error { _, err := file.Xattrs(); return err },
		"open":     func() error { _, err := f.Open("a"); return err },
		"statfs":   func() error { _, err := f.Space(); return err },
		"read":     func() error { _, err := file.ReadAt(buf, 0); return err },
		"stat":     func() error { _, err := file.Stat(); return err },
	} {
		for _, errno := range []syscall.Errno{syscall.ENOMEM, syscall.EMFILE, syscall.EINTR, syscall.EIO} {
			m.FailLooks(func(op, _ string) error {
				if op == at {
					return errno
				}
				return nil
			})
			ops := m.Ops()
			if err := look(); !errors.Is(err, errno) || fsys.IsTransient(err) != (errno != syscall.EIO) || fsys.IsUnreadable(err) == fsys.IsTransient(err) {
				t.Errorf("%s: %v, want %v", at, err, errno)
			}
			if m.Ops() != ops {
				t.Errorf("%s counts as a change", at)
			}
			m.FailLooks(nil)
			must(t, look())
		}
	}

	// What cannot be described keeps the rest from nobody.
	m.FailLooks(func(op, path string) error {
		if op == "entry" && path == "/system/a" {
			return syscall.EUCLEAN
		}
		return nil
	})
	infos, err := f.ReadDir(".")
	var failed fsys.EntryErrors
	if !errors.As(err, &failed) || len(failed) != 1 || !errors.Is(failed["a"], syscall.EUCLEAN) || len(infos) != 2 || infos[0].Name != "b" {
		t.Errorf("%+v, %v", infos, err)
	}
}

// Another program comes between any two operations, but not between its own.
func TestBefore(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) {
		must(t, f.Mkdir("d", 0o755))
		must(t, write(f, "d/a", "a", true))
		must(t, write(f, "d/b", "b", true))
	})
	f := system(m)
	var ops []string
	m.FailLooks(func(_, path string) error { // which is not for the other program
		if path == "/system/other" {
			return syscall.EMFILE
		}
		return nil
	})
	m.Before(func(op, path string) {
		if _, err := f.Lstat("other"); !fsys.IsNotExist(err) {
			t.Error(err)
		}
		ops = append(ops, op+" "+path)
		if op == "entry" && path == "/system/d/a" {
			must(t, f.Rename("d/b", "c"))
		}
	})
	infos, err := f.ReadDir("d")
	must(t, err)
	if len(infos) != 1 || infos[0].Name != "a" {
		t.Errorf("%+v", infos)
	}
	if got := read(t, f, "c"); got != "b" {
		t.Errorf("%q", got)
	}
	want := "readdir /system/d,entry /system/d/a,entry /system/d/b,open /system/c,read /system/c,read /system/c,close /system/c"
	if got := strings.Join(ops, ","); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	m.Before(nil)
	must(t, write(f, "d/c", "c", true))
	if len(ops) != strings.Count(want, ",")+1 {
		t.Errorf("%d operations were told", len(ops))
	}
}

// A write that the kernel could not carry out is told to who had opened a
// barrier before, and to nobody who comes later; and it is lost.
func TestLoseWrites(t *testing.T) {
	for _, o := range []memfs.Options{{}, {NoSyncReports: true}} {
		m := device(t, o, nil)
		f := system(m)
		before, err := f.Barrier()
		must(t, err)
		m.Disk("system").LoseWrites(syscall.EIO) // there was nothing to lose
		must(t, before.Sync())

		w, err := f.Create("a", 0o644)
		must(t, err)
		_, err = io.WriteString(w, "a")
		must(t, err)
		m.Disk("system").LoseWrites(syscall.EIO)
		after, err := f.Barrier()
		must(t, err)
		for name, tt := range map[string]struct {
			sync func() error
			told bool
		}{
			"a barrier opened before": {before.Sync, !o.NoSyncReports},
			"one opened after":        {after.Sync, false},
			"Sync":                    {f.Sync, false},
		} {
			if err := tt.sync(); errors.Is(err, syscall.EIO) != tt.told {
				t.Errorf("%s: %v, want it told: %t", name, err, tt.told)
			}
		}
		must(t, before.Sync()) // once
		if err := w.Sync(); !errors.Is(err, syscall.EIO) {
			t.Errorf("the file: %v", err)
		}
		must(t, w.Sync())
		must(t, f.SyncDir("."))
		m.Restart(memfs.Nothing())
		if got := read(t, f, "a"); got != "" {
			t.Errorf("%q was not lost", got)
		}
		if err := before.Sync(); !errors.Is(err, memfs.ErrPowerCut) {
			t.Errorf("a barrier of the boot before: %v", err)
		}
	}
}

func TestSpace(t *testing.T) {
	const block = 4096
	m := device(t, memfs.Options{Capacity: 5 * block, Inodes: 4}, nil)
	f := system(m)
	wantSpace := func(blocks, inodes int64) {
		t.Helper()
		s, err := f.Space()
		must(t, err)
		if s.Free != blocks*block || s.Inodes != inodes || s.BlockSize != block {
			t.Errorf("%+v, want %d blocks, %d inodes", s, blocks, inodes)
		}
	}
	wantSpace(4, 3)
	must(t, f.Mkdir("d", 0o755))
	must(t, write(f, "d/a", "A", true))
	wantSpace(2, 1)
	w, err := f.Create("b", 0o644)
	must(t, err)
	wantSpace(2, 0)
	n, err := w.Write(make([]byte, 3*block))
	if n != 2*block || !fsys.IsNoSpace(err) {
		t.Errorf("%d, %v", n, err)
	}
	wantSpace(0, 0)
	if err := f.Symlink("x", "l"); !fsys.IsNoSpace(err) {
		t.Errorf("no inodes: %v", err)
	}
	must(t, f.Link("d/a", "d/b"))
	must(t, f.Remove("d/a"))
	wantSpace(0, 0)
	must(t, f.Remove("b"))
	wantSpace(0, 0) // still open
	must(t, w.Close())
	wantSpace(2, 1)
	must(t, f.Rename("d", "e"))
	m.Restart(memfs.Nothing()) // what was never synced gives its space back
	wantSpace(4, 3)
}

func TestOptions(t *testing.T) {
	m := memfs.NewMachine()
	d := m.NewDisk("system", memfs.Options{NoExchange: true, NoXattrs: true, NoSyncReports: true, CoarseMtime: true})
	f := d.FS()
	must(t, write(f, "a", "A", true))
	must(t, write(f, "b", "B", true))
	if err := f.Exchange("a", "b"); !errors.Is(err, fsys.ErrUnsupported) {
		t.Errorf("exchange: %v", err)
	}
	if err := setAttr(f, "a", fsys.Attr{Xattrs: map[string][]byte{"user.x": nil}}); !errors.Is(err, fsys.ErrUnsupported) {
		t.Errorf("xattrs: %v", err)
	}
	if f.SyncReports() {
		t.Error("sync reports")
	}
	must(t, setAttr(f, "a", fsys.Attr{Mode: 0o644, Mtime: 1_500_000_000}))
	for _, n := range []string{"a", "b"} {
		i, err := f.Lstat(n)
		must(t, err)
		if i.Mtime%int64(time.Second) != 0 {
			t.Errorf("%s: mtime %d", n, i.Mtime)
		}
	}

	d.SetReadOnly(true)
	for name, err := range map[string]error{
		"mkdir":   f.Mkdir("d", 0o755),
		"create":  write(f, "c", "", false),
		"rename":  f.Rename("a", "c"),
		"remove":  f.Remove("a"),
		"link":    f.Link("a", "c"),
		"symlink": f.Symlink("a", "c"),
		"setattr": setAttr(f, "a", fsys.Attr{}),
	} {
		if !fsys.IsNotWritable(err) {
			t.Errorf("%s on a read-only disk: %v", name, err)
		}
	}
	d.SetReadOnly(false)
	must(t, f.Mkdir("d", 0o755))

	must(t, d.Mkfifo("p", 0o600))
	if i, err := f.Lstat("p"); err != nil || i.Type != fsys.TypeOther {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := f.Open("p"); err == nil {
		t.Error("opened a FIFO")
	}
}

func TestDamage(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) { must(t, write(f, "a", "A", true)) })
	f := system(m)
	before, err := f.Lstat("a")
	must(t, err)
	ops := m.Ops()
	c := m.Clone()
	must(t, m.Disk("system").Damage("a", func(b []byte) []byte { b[0] ^= 1; return b }))
	m.Restart(memfs.Nothing())
	if got := read(t, f, "a"); got != "@" {
		t.Errorf("%q", got)
	}
	if after, err := f.Lstat("a"); err != nil || after != before || m.Ops() != ops {
		t.Errorf("%+v, %v", after, err)
	}
	if got := read(t, system(c), "a"); got != "A" {
		t.Errorf("the clone has %q", got)
	}
	if err := m.Disk("system").Damage("missing", bytes.ToUpper); !fsys.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}

// Each disk falls into a state of its own.
func TestRestartEach(t *testing.T) {
	m := device(t, memfs.Options{}, nil)
	for _, d := range []string{"system", "usr_data"} {
		must(t, write(m.NewDisk(d, memfs.Options{}).FS(), "a", "content", false))
	}
	m.Restart(memfs.Zeros(), memfs.Nothing())
	if got := read(t, system(m), "a"); got != "\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("system has %q", got)
	}
	if _, err := m.Disk("usr_data").FS().Lstat("a"); !fsys.IsNotExist(err) {
		t.Errorf("usr_data: %v", err)
	}
	if _, what := m.LastOp(); what != "restart with zeros, nothing" {
		t.Errorf("the last operation was %q", what)
	}
}

// A database writes in place: its content stands, the times may be those before.
func TestEditData(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) { must(t, write(f, "a", "before", true)) })
	was, err := system(m).Lstat("a")
	must(t, err)
	m.Advance(time.Hour)
	must(t, m.Disk("system").EditData("a", func([]byte) []byte { return []byte("behind") }))
	now, err := system(m).Lstat("a")
	must(t, err)
	if now.Mtime <= was.Mtime || now.Ctime <= was.Ctime || now.Ino != was.Ino {
		t.Errorf("%+v was %+v", now, was)
	}
	for choice, want := range map[memfs.Choice]fsys.Info{memfs.Nothing(): was, memfs.Everything(): now} {
		c := m.Clone()
		c.Restart(choice)
		got, err := system(c).Lstat("a")
		must(t, err)
		if content := read(t, system(c), "a"); content != "behind" || got != want {
			t.Errorf("%s: %q, %+v, want %+v", choice, content, got, want)
		}
	}
}

// An application writes in place: all names of the file see it, and its time.
func TestEdit(t *testing.T) {
	m := device(t, memfs.Options{}, func(f fsys.FS) {
		must(t, write(f, "a", "A", true))
		must(t, f.Link("a", "b"))
	})
	must(t, m.Disk("system").FS().Sync())
	before, err := system(m).Lstat("a")
	must(t, err)
	m.Advance(time.Second)
	must(t, m.Disk("system").Edit("a", func(b []byte) []byte { return append(b, "BC"...) }))
	m.Restart(memfs.Nothing())
	if got := read(t, system(m), "b"); got != "ABC" {
		t.Errorf("b has %q", got)
	}
	after, err := system(m).Lstat("b")
	if err != nil || after.Ino != before.Ino || after.Mtime <= before.Mtime {
		t.Errorf("%+v, %v", after, err)
	}
}

func TestFingerprint(t *testing.T) {
	base := device(t, memfs.Options{}, func(f fsys.FS) {
		must(t, f.Mkdir("d", 0o755))
		must(t, write(f, "d/a", "A", true))
	})
	must(t, system(base).Sync())
	base.Restart(memfs.Everything())
	same := base.Clone()
	same.Restart(memfs.Nothing())
	if same.Fingerprint() != base.Fingerprint() {
		t.Error("two machines with the same disks differ")
	}
	for name, change := range map[string]func(f fsys.FS) error{
		"a name":      func(f fsys.FS) error { return f.Rename("d/a", "d/b") },
		"a link":      func(f fsys.FS) error { return f.Link("d/a", "d/b") },
		"content":     func(fsys.FS) error { return nil },
		"a mode":      func(f fsys.FS) error { return setAttr(f, "d/a", fsys.Attr{Mode: 0o600}) },
		"a directory": func(f fsys.FS) error { return f.Mkdir("d/e", 0o755) },
		"an inode": func(f fsys.FS) error {
			i, err := f.Lstat("d/a")
			must(t, err)
			must(t, f.Remove("d/a"))
			must(t, write(f, "d/a", "A", true))
			return setAttr(f, "d/a", fsys.Attr{Mode: i.Mode, Mtime: i.Mtime})
		},
	} {
		c := base.Clone()
		must(t, change(system(c)))
		if name == "content" {
			must(t, c.Disk("system").Damage("d/a", bytes.ToLower))
		}
		if c.Fingerprint() == base.Fingerprint() {
			t.Errorf("%s makes no difference", name)
		}
	}
}

// step does something at random, which may well fail.
func step(f fsys.FS, rng *rand.Rand) {
	dirs := []string{"", "d/", "e/", "d/e/", "e/d/"}
	name := func() string {
		return dirs[rng.IntN(len(dirs))] + []string{"a", "b", "d", "e"}[rng.IntN(4)]
	}
	switch rng.IntN(12) {
	case 0, 1:
		_ = write(f, name(), fmt.Sprint("data", rng.IntN(100)), rng.IntN(2) == 0)
	case 2, 3:
		_ = f.Mkdir(name(), 0o755)
	case 4:
		_ = f.Link(name(), name())
	case 5, 6:
		_ = f.Rename(name(), name())
	case 7:
		_ = f.Exchange(name(), name())
	case 8:
		_ = f.Remove(name())
	case 9:
		_ = f.SyncDir(path.Dir(name()))
	case 10:
		_ = setAttr(f, name(), fsys.Attr{Mode: rng.Uint32N(0o1000)})
	case 11:
		if rng.IntN(4) == 0 {
			_ = f.Sync()
		}
	}
}

// Whatever was done and wherever the power was cut: what is left is a tree, the
// counts are right, the same seed gives the same, and clones keep apart.
func TestRandomOperations(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 42))
		m := device(t, memfs.Options{Capacity: 100 * 4096, Inodes: 100}, nil)
		f := system(m)
		for range 3 {
			for range 40 {
				step(f, rng)
			}
			before := list(t, f, true)
			for _, c := range memfs.Choices(seed, 3) {
				r := m.Clone()
				r.Restart(c)
				wellFormed(t, system(r))
				for range 5 {
					step(system(r), rng)
				}
			}
			if after := list(t, f, true); after != before {
				t.Fatalf("seed %d: clones change\n%s\nto\n%s", seed, before, after)
			}
			for i, c := range memfs.Choices(seed, 3) {
				a, b := m.Clone(), m.Clone()
				a.Restart(c)
				b.Restart(memfs.Choices(seed, 3)[i])
				if a, b := list(t, system(a), true), list(t, system(b), true); a != b {
					t.Fatalf("seed %d, %v: first\n%s\nthen\n%s", seed, c, a, b)
				}
			}
			all := m.Clone()
			all.Restart(memfs.Everything())
			if after := list(t, system(all), true); after != before {
				t.Fatalf("seed %d: Everything changes\n%s\nto\n%s", seed, before, after)
			}
			m.Restart(memfs.Random(rng))
			wellFormed(t, f)
			settled := list(t, f, true)
			m.Restart(memfs.Nothing())
			if after := list(t, f, true); after != settled {
				t.Fatalf("seed %d: a second cut changes\n%s\nto\n%s", seed, settled, after)
			}
		}
		must(t, fsys.RemoveAll(f, "a"))
		for _, n := range []string{"a", "b", "d", "e"} {
			must(t, fsys.RemoveAll(f, n))
		}
		if s, err := f.Space(); err != nil || s.Free != 99*4096 || s.Inodes != 99 {
			t.Fatalf("seed %d: an empty disk has %+v, %v", seed, s, err)
		}
	}
}

// wellFormed checks link counts, that no directory has two names, and the space.
func wellFormed(t *testing.T, f fsys.FS) {
	t.Helper()
	names := make(map[uint64][]fsys.Info)
	blocks := int64(1)
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		if depth > 20 {
			t.Fatalf("%s: endless", dir)
		}
		infos, err := f.ReadDir(dir)
		must(t, err)
		for _, i := range infos {
			if len(names[i.Ino]) == 0 {
				blocks += (i.Size + 4095) / 4096
			}
			names[i.Ino] = append(names[i.Ino], i)
			if i.Type == fsys.TypeDir {
				walk(path.Join(dir, i.Name), depth+1)
			}
		}
	}
	walk(".", 0)
	for _, n := range names {
		switch {
		case n[0].Type == fsys.TypeDir && len(n) > 1:
			t.Fatalf("a directory with %d names: %+v", len(n), n)
		case n[0].Type != fsys.TypeDir && int(n[0].Nlink) != len(n):
			t.Fatalf("%d names, Nlink %d: %+v", len(n), n[0].Nlink, n)
		}
	}
	s, err := f.Space()
	must(t, err)
	if s.Free != (100-blocks)*4096 || s.Inodes != 99-int64(len(names)) {
		t.Fatalf("%+v with %d blocks and %d inodes in use", s, blocks, len(names))
	}
}

// What was synced is there, under any choice, after any operations: each round
// makes some things durable and remembers them, and disturbs others.
func TestSyncedSurvives(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := device(t, memfs.Options{}, nil)
		f := system(m)
		want := make(map[string]string)
		for i := range 20 {
			dir := fmt.Sprintf("k%d", i%3)
			must(t, fsys.MkdirAll(f, dir, 0o755))
			name := fmt.Sprintf("%s/f%d", dir, rng.IntN(3))
			data := fmt.Sprint("content ", i)
			must(t, fsys.WriteFile(f, name, []byte(data), 0o644))
			must(t, f.SyncDir("."))
			want[name] = data
			for range 5 {
				step(f, rng)
			}
		}
		for _, c := range memfs.Choices(seed, 5) {
			r := m.Clone()
			r.Restart(c)
			for name, data := range want {
				if got := read(t, system(r), name); got != data {
					t.Fatalf("seed %d, %v: %s holds %q, want %q\n%s", seed, c, name, got, data, strings.Join(r.Trace(), "\n"))
				}
			}
		}
	}
}

func TestBadUse(t *testing.T) {
	m := memfs.NewMachine()
	if m.Disk("none") != nil {
		t.Error("a disk that nobody made")
	}
	d := m.NewDisk("system", memfs.Options{})
	if m.NewDisk("system", memfs.Options{ReadOnly: true}) != d {
		t.Error("two disks of one name")
	}
	m.CutAt(0)
	m.FailAt(-1, nil)
	f := d.Sub("../nowhere")
	for _, name := range []string{"", ".", "..", "/", "a//b", "a/", "\x00"} {
		if err := f.Mkdir(name, 0o755); err == nil {
			t.Errorf("made %q", name)
		}
	}
	must(t, write(d.FS(), "a", "A", false))
	m.Restart(memfs.Random(nil))
	m.Restart(memfs.Choice{})
}

func BenchmarkCloneRestart(b *testing.B) {
	m := device(b, memfs.Options{}, func(f fsys.FS) {
		for i := range 30 {
			must(b, fsys.MkdirAll(f, fmt.Sprintf("apps/d%d", i%5), 0o755))
			must(b, write(f, fmt.Sprintf("apps/d%d/f%d", i%5, i), strings.Repeat("x", 10000), true))
		}
	})
	f := system(m)
	must(b, f.Mkdir("next", 0o755))
	for i := range 30 {
		must(b, write(f, fmt.Sprintf("next/f%d", i), "data", i%2 == 0))
	}
	must(b, f.Exchange("apps", "next"))
	for _, c := range []memfs.Choice{memfs.Nothing(), memfs.Everything(), memfs.Random(rand.New(rand.NewPCG(1, 1)))} {
		b.Run(c.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := m.Clone()
				r.Restart(c)
			}
		})
	}
}
