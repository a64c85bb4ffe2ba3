package fsystest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tandem/internal/fsys"
)

// through are the operations on a name, and on two.
var through = map[string]func(f fsys.FS, name string) error{
	"lstat":         lstatErr,
	"readdir":       readDirErr,
	"readlink":      readlinkErr,
	"xattrs":        xattrsErr,
	"open":          openErr,
	"create":        createErr,
	"mkdir":         mkdirErr,
	"symlink":       func(f fsys.FS, name string) error { return f.Symlink("x", name) },
	"link from":     func(f fsys.FS, name string) error { return f.Link(name, "new") },
	"link to":       func(f fsys.FS, name string) error { return f.Link("file", name) },
	"rename from":   func(f fsys.FS, name string) error { return f.Rename(name, "new") },
	"rename to":     func(f fsys.FS, name string) error { return f.Rename("file", name) },
	"exchange":      func(f fsys.FS, name string) error { return f.Exchange(name, "file") },
	"exchange with": func(f fsys.FS, name string) error { return f.Exchange("file", name) },
	"remove":        fsys.FS.Remove,
	"setattr":       setAttrErr,
	"syncdir":       fsys.FS.SyncDir,
}

// wantElsewhere wants each operation on names to end with ErrElsewhere and to
// leave everything as it is.
func wantElsewhere(t *testing.T, f fsys.FS, names ...string) {
	t.Helper()
	before := list(t, f, ".")
	for op, run := range through {
		for _, name := range names {
			err := run(f, name)
			if strings.HasPrefix(op, "exchange") && errors.Is(err, fsys.ErrUnsupported) {
				continue
			}
			if !errors.Is(err, fsys.ErrElsewhere) || fsys.IsNotExist(err) || fsys.IsUnreadable(err) || fsys.IsTransient(err) {
				t.Errorf("%s %s: %v, want %v", op, name, err, fsys.ErrElsewhere)
			}
		}
	}
	if after := list(t, f, "."); !slices.Equal(before, after) {
		t.Errorf("that changed\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// A link that stays inside is no better than one that leads out.
func testElsewhere(t *testing.T, f fsys.FS) {
	ok(t, fsys.MkdirAll(f, "dir/sub/deep", 0o755))
	put(t, f, "dir/sub/x", "x")
	put(t, f, "file", "file")
	ok(t, f.Symlink("dir", "in"))
	ok(t, f.Symlink("sub", "dir/link"))
	ok(t, f.Symlink("/", "out"))
	ok(t, f.Symlink("nowhere", "dangling"))
	ok(t, f.Symlink("loop", "loop"))
	wantElsewhere(t, f, "in/sub/x", "in/x", "in/sub/deep/x", "in/sub", "dir/link/x", "dir/link/deep/x",
		"out/etc", "out/fsystest/x", "dangling/x", "loop/x")
	for _, name := range []string{"in", "dir/link", "out", "dangling", "loop"} {
		for op, run := range map[string]func(fsys.FS, string) error{"open": openErr, "readdir": readDirErr, "syncdir": fsys.FS.SyncDir} {
			if err := run(f, name); !errors.Is(err, fsys.ErrElsewhere) || fsys.IsNotExist(err) {
				t.Errorf("%s %s: %v, want %v", op, name, err, fsys.ErrElsewhere)
			}
		}
	}
	// Where nothing would have to be followed the link itself is meant.
	ok(t, f.Rename("in", "dir/in"))
	ok(t, f.Remove("dir/in"))
}

// A directory that was used just now is another when its name leads elsewhere.
func testSwapped(t *testing.T, f fsys.FS) {
	put(t, f, "file", "file")
	for _, d := range []string{"dir", "dir/sub", "other", "other/sub"} {
		ok(t, f.Mkdir(d, 0o755))
		put(t, f, d+"/x", d)
	}
	wantData(t, f, "dir/sub/x", "dir/sub")
	ok(t, f.Rename("dir", "away"))
	wantGone(t, f, "dir")
	if err := createErr(f, "dir/sub/y"); !fsys.IsNotExist(err) {
		t.Errorf("in a directory that was moved away: %v", err)
	}
	ok(t, f.Symlink("away", "dir"))
	for _, name := range []string{"dir/x", "dir/sub/x", "dir/sub/y"} {
		for op, run := range through {
			if err := run(f, name); !errors.Is(err, fsys.ErrElsewhere) && !errors.Is(err, fsys.ErrUnsupported) {
				t.Errorf("%s %s: %v, want %v", op, name, err, fsys.ErrElsewhere)
			}
		}
	}
	ok(t, f.Remove("dir"))
	ok(t, f.Rename("other", "dir")) // another directory of that name
	wantData(t, f, "dir/sub/x", "other/sub")
	put(t, f, "dir/sub/y", "y")
	wantData(t, f, "dir/sub/y", "y")
	wantGone(t, f, "away/sub/y")
	if err := f.Exchange("dir", "away"); !errors.Is(err, fsys.ErrUnsupported) {
		ok(t, err)
		wantData(t, f, "away/sub/y", "y")
		wantGone(t, f, "dir/sub/y")
		wantData(t, f, "dir/sub/x", "dir/sub")
	}
	ok(t, fsys.RemoveAll(f, "dir"))
	ok(t, fsys.MkdirAll(f, "dir/sub", 0o755))
	put(t, f, "dir/sub/x", "new")
	wantData(t, f, "dir/sub/x", "new")
}

func testMounts(t *testing.T, f fsys.FS, tools Tools) {
	for _, d := range []string{"dir", "dir/m", "dir/plain"} {
		ok(t, f.Mkdir(d, 0o755))
	}
	put(t, f, "dir/m/x", "covered")
	put(t, f, "dir/b", "covered")
	put(t, f, "file", "file")
	tools.Mount(t, f, "dir/m")
	tools.Mount(t, f, "dir/b")
	for _, d := range []string{"1", "2", "3", "4", "5"} { // so that nothing is open any more
		ok(t, f.Mkdir(d, 0o755))
		put(t, f, d+"/x", "")
	}

	infos, err := f.ReadDir("dir")
	ok(t, err)
	for _, i := range infos {
		if mount := i.Name != "plain"; i.Mount != mount || lstat(t, f, "dir/"+i.Name) != i {
			t.Errorf("%+v, want a mount: %t", i, mount)
		}
	}
	for _, name := range []string{".", "dir", "file"} {
		if i := lstat(t, f, name); i.Mount {
			t.Errorf("%+v", i)
		}
	}
	for op, run := range through {
		for _, name := range []string{"dir/m/x", "dir/m/y/z"} {
			if err := run(f, name); !errors.Is(err, fsys.ErrElsewhere) && !errors.Is(err, fsys.ErrUnsupported) {
				t.Errorf("%s %s: %v, want %v", op, name, err, fsys.ErrElsewhere)
			}
		}
	}
	if err := openErr(f, "dir/b"); err != nil {
		t.Errorf("what is mounted on a file can be read: %v", err)
	}
	b := lstat(t, f, "dir/b")
	for op, err := range map[string]error{
		"readdir": readDirErr(f, "dir/m"),
		"syncdir": f.SyncDir("dir/m"),
		"xattrs":  xattrsErr(f, "dir/b"),
		"setattr": f.SetAttr("dir/b", fsys.Attr{Mode: 0o600, UID: b.UID, GID: b.GID}, b),
	} {
		if !errors.Is(err, fsys.ErrElsewhere) {
			t.Errorf("%s: %v, want %v", op, err, fsys.ErrElsewhere)
		}
	}
	for op, err := range map[string]error{
		"remove directory": f.Remove("dir/m"),
		"remove file":      f.Remove("dir/b"),
		"rename":           f.Rename("dir/b", "new"),
		"rename over":      f.Rename("file", "dir/b"),
		"exchange":         f.Exchange("file", "dir/b"),
		"link":             f.Link("dir/b", "new"),
	} {
		if !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.EXDEV) && !errors.Is(err, fsys.ErrUnsupported) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if i := lstat(t, f, "dir/b"); i != b {
		t.Errorf("%+v is %+v now", b, i)
	}
	wantData(t, f, "file", "file")
}

func testFixed(t *testing.T, f fsys.FS, tools Tools) {
	put(t, f, "a", "a")
	put(t, f, "b", "b")
	ok(t, f.Mkdir("d", 0o755))
	put(t, f, "d/x", "x")
	tools.Fix(t, f, "a", true)
	tools.Fix(t, f, "d", true)
	before := list(t, f, ".")
	for name, fixed := range map[string]bool{".": false, "a": true, "b": false, "d": true, "d/x": false} {
		if i := lstat(t, f, name); i.Fixed != fixed {
			t.Errorf("%+v, want fixed %t", i, fixed)
		}
	}
	for op, err := range map[string]error{
		"remove":      f.Remove("a"),
		"rename":      f.Rename("a", "c"),
		"rename over": f.Rename("b", "a"),
		"link":        f.Link("a", "c"),
		"setattr":     setAttr(f, "a", fsys.Attr{Mode: 0o600}),
		"create":      createErr(f, "d/y"),
		"remove in":   f.Remove("d/x"),
		"rename in":   f.Rename("d/x", "y"),
		"rename into": f.Rename("b", "d/y"),
	} {
		if !errors.Is(err, syscall.EPERM) || !fsys.IsNotWritable(err) {
			t.Errorf("%s: %v, want %v", op, err, syscall.EPERM)
		}
	}
	wantData(t, f, "a", "a")
	if after := list(t, f, "."); !slices.Equal(before, after) {
		t.Errorf("that changed\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	tools.Fix(t, f, "a", false)
	tools.Fix(t, f, "d", false)
	ok(t, f.Rename("a", "d/y"))
}

// Attributes land on what was looked at, or nowhere.
func testReplaced(t *testing.T, f fsys.FS) {
	reset := func() fsys.Info {
		ok(t, fsys.RemoveAll(f, "a"))
		ok(t, fsys.RemoveAll(f, "b"))
		put(t, f, "a", "a")
		put(t, f, "b", "b")
		return lstat(t, f, "a")
	}
	for name, change := range map[string]func(){
		"another file":      func() { ok(t, f.Rename("b", "a")) },
		"a new one":         func() { ok(t, f.Remove("a")); put(t, f, "a", "a") },
		"a directory":       func() { ok(t, f.Remove("a")); ok(t, f.Mkdir("a", 0o644)) },
		"a link to it":      func() { ok(t, f.Rename("a", "b")); ok(t, f.Symlink("b", "a")) },
		"a link to nothing": func() { ok(t, f.Remove("a")); ok(t, f.Symlink("nowhere", "a")) },
		"the same, linked":  func() { ok(t, f.Remove("b")); ok(t, f.Link("a", "b")) },
		"the same, changed": func() {
			tick(t, f)
			ok(t, setAttr(f, "a", fsys.Attr{Mode: 0o640, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}))
		},
	} {
		was := reset()
		tick(t, f)
		change()
		before := list(t, f, ".")
		a := attrOf(was)
		a.Mode, a.Mtime = 0o6755, 1
		if err := f.SetAttr("a", a, was); !errors.Is(err, fsys.ErrReplaced) || fsys.IsNotExist(err) {
			t.Errorf("%s: %v, want %v", name, err, fsys.ErrReplaced)
		}
		if after := list(t, f, "."); !slices.Equal(before, after) {
			t.Errorf("%s: it changed\n%s\nto\n%s", name, strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
	}

	was := reset()
	ok(t, f.Remove("a"))
	if err := f.SetAttr("a", attrOf(was), was); !fsys.IsNotExist(err) {
		t.Errorf("gone: %v", err)
	}
	was = reset()
	ok(t, f.Rename("b", "c")) // of no matter
	ok(t, f.Rename("c", "b"))
	was.Ctime = 0 // of no matter then: only identity counts
	ok(t, setAttr(f, "a", fsys.Attr{Mode: 0o600, UID: was.UID, GID: was.GID}))
	ok(t, f.SetAttr("a", attrOf(was), was))

	ok(t, f.Symlink("a", "l"))
	link := lstat(t, f, "l")
	ok(t, f.Rename("a", "l"))
	if err := f.SetAttr("l", attrOf(link), link); !errors.Is(err, fsys.ErrReplaced) {
		t.Errorf("a link that is a file now: %v", err)
	}
	if i := lstat(t, f, "l"); i.Mode != was.Mode {
		t.Errorf("%+v", i)
	}

	reset()
	ok(t, f.Remove("b"))
	ok(t, f.Link("a", "b"))
	two := lstat(t, f, "a")
	a := attrOf(two)
	a.Mode = 0o600
	ok(t, f.SetAttr("a", a, two)) // it was known to have two names
}

// Attributes land on the file, whatever its name leads to.
func testFileSetAttr(t *testing.T, f fsys.FS) {
	w, err := f.Create("a", 0o600)
	ok(t, err)
	_, err = io.WriteString(w, "content")
	ok(t, err)
	ok(t, f.Rename("a", "b"))
	ok(t, f.Symlink("victim", "a"))
	put(t, f, "victim", "victim")
	before := lstat(t, f, "victim")
	i, err := w.Stat()
	ok(t, err)
	a := attrOf(i)
	a.Mode, a.Mtime = 0o4755, 1_500_000_000_000_000_000
	if os.Geteuid() == 0 {
		a.UID, a.GID = 1234, 1235
	}
	ok(t, w.SetAttr(a))
	ok(t, w.Sync())
	ok(t, w.Close())
	if got := attrOf(lstat(t, f, "b")); got.Mode != a.Mode || got.Mtime != a.Mtime || got.UID != a.UID || got.GID != a.GID {
		t.Errorf("%+v, want %+v", got, a)
	}
	if got := lstat(t, f, "victim"); got != before {
		t.Errorf("%+v was %+v", got, before)
	}
	if err := w.SetAttr(a); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	tick(t, f)
	was := lstat(t, f, "b")
	r, err := f.Open("b")
	ok(t, err)
	defer r.Close()
	ok(t, r.SetAttr(a)) // as it is already
	if got := lstat(t, f, "b"); got != was {
		t.Errorf("set again: %+v was %+v", got, was)
	}
	a.Mode = 0o640
	ok(t, r.SetAttr(a))
	if got := lstat(t, f, "b"); got.Mode != 0o640 {
		t.Errorf("%+v", got)
	}
}

func testUmask(t *testing.T, newFS func(t *testing.T) fsys.FS) {
	umasks := []int{0, 0o022, 0o077}
	if os.Geteuid() == 0 {
		umasks = append(umasks, 0o777)
	}
	for _, umask := range umasks {
		f := newFS(t)
		func() {
			defer syscall.Umask(syscall.Umask(umask))
			for _, mode := range []uint32{0o600, 0o644, 0o755, 0o666, 0o4711, 0o2755} {
				w, err := f.Create("f", mode)
				ok(t, err)
				ok(t, w.Close())
				ok(t, f.Mkdir("d", mode|0o100))
				file, dir := lstat(t, f, "f"), lstat(t, f, "d")
				if file.Mode != mode || dir.Mode != mode|0o100 {
					t.Errorf("umask %o: made with mode %o a file of %o, a directory of %o", umask, mode, file.Mode, dir.Mode)
				}
				ok(t, errors.Join(f.Remove("f"), f.Remove("d")))
			}
		}()
	}
}

// tick waits until the clock of the file system has moved on.
func tick(t *testing.T, f fsys.FS) {
	t.Helper()
	put(t, f, "clock", "")
	start := lstat(t, f, "clock").Ctime
	for lstat(t, f, "clock").Ctime == start {
		ok(t, f.Remove("clock"))
		put(t, f, "clock", "")
	}
	ok(t, f.Remove("clock"))
}

func testCtime(t *testing.T, f fsys.FS) {
	w, err := f.Create("a", 0o644)
	ok(t, err)
	ok(t, f.Mkdir("d", 0o755))
	ok(t, f.Mkdir("e", 0o755))
	put(t, f, "same", "")
	same := lstat(t, f, "same").Ctime
	for _, tt := range []struct {
		name    string
		run     func() error
		changed []string
	}{
		{"write", func() error { _, err := io.WriteString(w, "x"); return err }, []string{"a"}},
		{"attributes of the open file", func() error {
			return w.SetAttr(fsys.Attr{Mode: 0o600, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
		}, []string{"a"}},
		{"attributes", func() error {
			return setAttr(f, "a", fsys.Attr{Mode: 0o640, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
		}, []string{"a"}},
		{"link", func() error { return f.Link("a", "d/b") }, []string{"a", "d"}},
		{"rename", func() error { return f.Rename("d/b", "e/b") }, []string{"a", "d", "e"}},
		{"remove", func() error { return f.Remove("e/b") }, []string{"a", "e"}},
		{"create", func() error { return createErr(f, "d/c") }, []string{"d"}},
		{"nothing", func() error { return setAttr(f, "a", attrOf(lstat(t, f, "a"))) }, nil},
		{"reading", func() error { _, err := fsys.ReadFile(f, "a", 100); return err }, nil},
	} {
		before := map[string]int64{}
		for _, n := range []string{"a", "d", "e"} {
			before[n] = lstat(t, f, n).Ctime
		}
		tick(t, f)
		ok(t, tt.run())
		for n, old := range before {
			if got, want := lstat(t, f, n).Ctime > old, slices.Contains(tt.changed, n); got != want {
				t.Errorf("%s: the change time of %s moved: %t, want %t", tt.name, n, got, want)
			}
		}
		i, err := w.Stat()
		ok(t, err)
		if i.Ctime != lstat(t, f, "a").Ctime {
			t.Errorf("%s: Stat %+v", tt.name, i)
		}
	}
	ok(t, w.Close())
	if got := lstat(t, f, "same").Ctime; got != same {
		t.Error("the change time moved of what nobody touched")
	}
}

func testHoles(t *testing.T, f fsys.FS) {
	const block, hole = 64 << 10, 256 << 10
	w, err := f.Create("a", 0o644)
	ok(t, err)
	data := strings.Repeat("x", block)
	_, err = io.WriteString(w, data)
	ok(t, err)
	ok(t, w.Skip(hole))
	_, err = io.WriteString(w, "end")
	ok(t, err)
	ok(t, w.Sync())
	ok(t, w.Close())
	const size = block + hole + 3
	if i := lstat(t, f, "a"); i.Size != size {
		t.Errorf("%+v", i)
	}
	r, err := f.Open("a")
	ok(t, err)
	defer r.Close()
	for off, want := range map[int64][2]int64{0: {0, 0}, 5: {5, 5}, block: {block, block + hole}, block + 7: {block + 7, block + hole}, size - 1: {size - 1, size - 1}} {
		if next, err := r.NextData(off); err != nil || next < want[0] || next > want[1] {
			t.Errorf("the next data after %d lie at %d, %v; want %d to %d", off, next, err, want[0], want[1])
		}
	}
	for _, off := range []int64{size, size + 1} {
		if next, err := r.NextData(off); err != io.EOF {
			t.Errorf("the next data after %d lie at %d, %v; want %v", off, next, err, io.EOF)
		}
	}
	buf := make([]byte, 4)
	for off, want := range map[int64]string{0: "xxxx", block - 2: "xx\x00\x00", block + hole - 1: "\x00end"} {
		if n, err := r.ReadAt(buf, off); n != 4 || err != nil || string(buf) != want {
			t.Errorf("at %d: %d, %q, %v, want %q", off, n, buf, err, want)
		}
	}
	for off, want := range map[int64]int{size - 3: 3, size: 0, size + 100: 0} {
		if n, err := r.ReadAt(buf, off); n != want || err != io.EOF {
			t.Errorf("at %d: %d, %v, want %d and %v", off, n, err, want, io.EOF)
		}
	}
	all, err := io.ReadAll(r) // which none of that has moved
	ok(t, err)
	if string(all) != data+strings.Repeat("\x00", hole)+"end" {
		t.Errorf("%d bytes, which are others", len(all))
	}
}

func testBarrier(t *testing.T, f fsys.FS) {
	b, err := f.Barrier()
	ok(t, err)
	put(t, f, "a", "a")
	ok(t, b.Sync())
	ok(t, f.Rename("a", "b"))
	ok(t, b.Sync())
	ok(t, b.Close())
	if err := b.Sync(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := b.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
}
