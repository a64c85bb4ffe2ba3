// Package fsystest says by tests what every fsys.FS does.
package fsystest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tandem/internal/fsys"
)

// Tools do to a file system what it cannot do to itself. What needs one that is
// nil is not tested.
type Tools struct {
	// Mount mounts something else at a file, or at a directory with one entry x.
	Mount func(t *testing.T, f fsys.FS, name string)
	// Fix makes an entry immutable, or no more.
	Fix func(t *testing.T, f fsys.FS, name string, fixed bool)
}

// Run tests the file system that newFS makes: an empty directory, writable.
func Run(t *testing.T, newFS func(t *testing.T) fsys.FS, tools Tools) {
	type test struct {
		name string
		run  func(t *testing.T, f fsys.FS)
	}
	tests := []test{
		{"files", testFiles},
		{"directories", testDirectories},
		{"symbolic links", testSymlinks},
		{"hard links", testLinks},
		{"rename", testRename},
		{"exchange", testExchange},
		{"remove", testRemove},
		{"attributes", testAttributes},
		{"owner", testOwner},
		{"extended attributes", testXattrs},
		{"times", testTimes},
		{"sync and space", testSync},
		{"helpers", testHelpers},
		{"links on the way", testElsewhere},
		{"swapped for a link", testSwapped},
		{"another file", testReplaced},
		{"attributes of an open file", testFileSetAttr},
		{"change times", testCtime},
		{"holes", testHoles},
		{"barrier", testBarrier},
	}
	if tools.Mount != nil {
		tests = append(tests, test{"mounts", func(t *testing.T, f fsys.FS) { testMounts(t, f, tools) }})
	}
	if tools.Fix != nil {
		tests = append(tests, test{"immutable", func(t *testing.T, f fsys.FS) { testFixed(t, f, tools) }})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, newFS(t)) })
	}
	t.Run("umask", func(t *testing.T) { testUmask(t, newFS) })
	t.Run("errors", func(t *testing.T) { testErrors(t, newFS) })
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put makes a file.
func put(t *testing.T, f fsys.FS, name, data string) {
	t.Helper()
	w, err := f.Create(name, 0o644)
	ok(t, err)
	n, err := w.Write([]byte(data))
	ok(t, err)
	if n != len(data) {
		t.Fatalf("wrote %d of %d bytes", n, len(data))
	}
	ok(t, w.Sync())
	ok(t, w.Close())
}

func wantData(t *testing.T, f fsys.FS, name, want string) {
	t.Helper()
	r, err := f.Open(name)
	ok(t, err)
	defer r.Close()
	got, err := io.ReadAll(r)
	ok(t, err)
	if string(got) != want {
		t.Fatalf("%s holds %q, want %q", name, got, want)
	}
}

func lstat(t *testing.T, f fsys.FS, name string) fsys.Info {
	t.Helper()
	i, err := f.Lstat(name)
	ok(t, err)
	if i.Name != path.Base(name) {
		t.Fatalf("Lstat(%q).Name = %q", name, i.Name)
	}
	return i
}

// setAttr sets the attributes of what is there.
func setAttr(f fsys.FS, name string, a fsys.Attr) error {
	i, err := f.Lstat(name)
	if err != nil {
		return err
	}
	return f.SetAttr(name, a, i)
}

func wantGone(t *testing.T, f fsys.FS, name string) {
	t.Helper()
	if _, err := f.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Lstat(%q): %v, want it gone", name, err)
	}
}

// list returns a line for each entry: all that an operation may have changed but times.
func list(t *testing.T, f fsys.FS, dir string) []string {
	t.Helper()
	infos, err := f.ReadDir(dir)
	ok(t, err)
	var lines []string
	for _, i := range infos {
		name := path.Join(dir, i.Name)
		line := fmt.Sprintf("%s %s %o %d", name, i.Type, i.Mode, i.Ino)
		switch i.Type {
		case fsys.TypeFile:
			r, err := f.Open(name)
			ok(t, err)
			data, err := io.ReadAll(r)
			ok(t, err)
			r.Close()
			line += fmt.Sprintf(" %d %q", i.Nlink, data)
		case fsys.TypeSymlink:
			target, err := f.Readlink(name)
			ok(t, err)
			line += " " + target
		}
		lines = append(lines, line)
		if i.Type == fsys.TypeDir {
			lines = append(lines, list(t, f, name)...)
		}
	}
	return lines
}

func testFiles(t *testing.T, f fsys.FS) {
	w, err := f.Create("a", 0o600)
	ok(t, err)
	for _, part := range []string{"one ", "", "two"} {
		n, err := io.WriteString(w, part)
		ok(t, err)
		if n != len(part) {
			t.Fatalf("wrote %d of %d bytes", n, len(part))
		}
	}
	if _, err := w.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("reading a file open for writing: %v", err)
	}
	wantData(t, f, "a", "one two") // before it is synced or closed
	ok(t, w.Sync())
	ok(t, w.Close())
	if err := w.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}

	i := lstat(t, f, "a")
	if i.Type != fsys.TypeFile || i.Mode != 0o600 || i.Size != 7 || i.Nlink != 1 || i.Ino == 0 {
		t.Errorf("%+v", i)
	}
	if int(i.UID) != os.Geteuid() && i.UID != 0 {
		t.Errorf("owner %d", i.UID)
	}

	r, err := f.Open("a")
	ok(t, err)
	if _, err := r.Write([]byte("x")); err == nil {
		t.Error("wrote to a file open for reading")
	}
	buf := make([]byte, 4)
	for _, want := range []string{"one ", "two"} {
		n, err := r.Read(buf)
		ok(t, err)
		if string(buf[:n]) != want {
			t.Errorf("read %q, want %q", buf[:n], want)
		}
	}
	if n, err := r.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	ok(t, f.Remove("a"))
	wantGone(t, f, "a")
	ok(t, r.Close())

	put(t, f, "b", "still here")
	r, err = f.Open("b")
	ok(t, err)
	ok(t, f.Remove("b"))
	got, err := io.ReadAll(r)
	ok(t, err)
	if string(got) != "still here" {
		t.Errorf("an open file without a name holds %q", got)
	}
	ok(t, r.Close())
}

func testDirectories(t *testing.T, f fsys.FS) {
	for _, name := range []string{"d", "d/b", "d/a", "d/a/x"} {
		ok(t, f.Mkdir(name, 0o755))
	}
	put(t, f, "d/c", "c")
	put(t, f, "d/a.b", "")
	infos, err := f.ReadDir("d")
	ok(t, err)
	var names []string
	for _, i := range infos {
		names = append(names, i.Name)
		if l := lstat(t, f, "d/"+i.Name); l != i {
			t.Errorf("ReadDir gives %+v, Lstat %+v", i, l)
		}
	}
	if got, want := strings.Join(names, " "), "a a.b b c"; got != want {
		t.Errorf("ReadDir gives %s, want %s", got, want)
	}
	if i := lstat(t, f, "d"); i.Type != fsys.TypeDir || i.Mode != 0o755 {
		t.Errorf("%+v", i)
	}
	if i := lstat(t, f, "."); i.Type != fsys.TypeDir {
		t.Errorf("root: %+v", i)
	}
	if infos, err := f.ReadDir("d/b"); err != nil || len(infos) != 0 {
		t.Errorf("empty directory: %v, %v", infos, err)
	}
	if got, want := f.Path("d/a"), f.Path(".")+"/d/a"; got != want {
		t.Errorf("Path gives %s, want %s", got, want)
	}
}

func testSymlinks(t *testing.T, f fsys.FS) {
	put(t, f, "a", "a")
	for _, target := range []string{"a", "nowhere", "/absolute/../x", "../outside"} {
		ok(t, f.Symlink(target, "l"))
		got, err := f.Readlink("l")
		ok(t, err)
		if got != target {
			t.Errorf("Readlink gives %q, want %q", got, target)
		}
		if i := lstat(t, f, "l"); i.Type != fsys.TypeSymlink {
			t.Errorf("%+v", i)
		}
		if _, err := f.Open("l"); err == nil {
			t.Errorf("opened a link to %s", target)
		}
		ok(t, f.Remove("l"))
	}
	wantData(t, f, "a", "a")
}

func testLinks(t *testing.T, f fsys.FS) {
	ok(t, f.Mkdir("d", 0o755))
	put(t, f, "a", "a")
	ok(t, f.Link("a", "d/b"))
	a, b := lstat(t, f, "a"), lstat(t, f, "d/b")
	if a.Ino != b.Ino || a.Dev != b.Dev || a.Nlink != 2 || b.Nlink != 2 {
		t.Errorf("%+v %+v", a, b)
	}
	ok(t, f.Remove("a"))
	wantData(t, f, "d/b", "a")
	if i := lstat(t, f, "d/b"); i.Nlink != 1 {
		t.Errorf("%d names, want 1", i.Nlink)
	}
	ok(t, f.Symlink("nowhere", "l"))
	ok(t, f.Link("l", "m"))
	if i := lstat(t, f, "m"); i.Type != fsys.TypeSymlink {
		t.Errorf("link to a symbolic link: %+v", i)
	}
}

func testRename(t *testing.T, f fsys.FS) {
	ok(t, f.Mkdir("d", 0o755))
	ok(t, f.Mkdir("e", 0o755))
	put(t, f, "a", "a")
	put(t, f, "b", "b")
	ino := lstat(t, f, "a").Ino

	ok(t, f.Rename("a", "b"))
	wantGone(t, f, "a")
	wantData(t, f, "b", "a")
	ok(t, f.Rename("b", "d/b"))
	wantGone(t, f, "b")
	ok(t, f.Rename("d/b", "d/b"))
	if i := lstat(t, f, "d/b"); i.Ino != ino || i.Nlink != 1 {
		t.Errorf("%+v", i)
	}

	ok(t, f.Link("d/b", "a"))
	ok(t, f.Rename("a", "d/b")) // names of one file: nothing happens
	wantData(t, f, "a", "a")
	if i := lstat(t, f, "a"); i.Nlink != 2 {
		t.Errorf("%d names, want 2", i.Nlink)
	}

	ok(t, f.Rename("d", "e")) // over an empty directory
	wantGone(t, f, "d")
	wantData(t, f, "e/b", "a")

	ok(t, f.Symlink("nowhere", "l"))
	ok(t, f.Rename("l", "a")) // over a file
	if i := lstat(t, f, "a"); i.Type != fsys.TypeSymlink {
		t.Errorf("%+v", i)
	}
	put(t, f, "n", "n")
	ok(t, f.Rename("n", "a")) // over the link, not what it points to
	wantData(t, f, "a", "n")

	ok(t, f.Mkdir("e/sub", 0o755))
	put(t, f, "e/sub/x", "x")
	ok(t, f.Rename("e/sub", "sub"))
	wantData(t, f, "sub/x", "x")
}

func testExchange(t *testing.T, f fsys.FS) {
	for _, name := range []string{"d", "e", "p"} {
		ok(t, f.Mkdir(name, 0o755))
	}
	put(t, f, "d/x", "from d")
	put(t, f, "e/y", "from e")
	put(t, f, "a", "a")
	err := f.Exchange("d", "e")
	if errors.Is(err, fsys.ErrUnsupported) {
		t.Skip(err)
	}
	ok(t, err)
	wantData(t, f, "e/x", "from d")
	wantData(t, f, "d/y", "from e")
	wantGone(t, f, "d/x")

	ok(t, f.Exchange("a", "e")) // a file and a directory
	wantData(t, f, "e", "a")
	wantData(t, f, "a/x", "from d")

	ok(t, f.Exchange("a/x", "d/y")) // across directories
	wantData(t, f, "a/x", "from e")
	wantData(t, f, "d/y", "from d")

	ok(t, f.Exchange("a", "a"))
	wantData(t, f, "a/x", "from e")
	ok(t, f.Rename("d", "p/d"))
	ok(t, f.Exchange("a", "p/d"))
	wantData(t, f, "a/y", "from d")
	wantData(t, f, "p/d/x", "from e")
}

func testRemove(t *testing.T, f fsys.FS) {
	ok(t, f.Mkdir("d", 0o755))
	put(t, f, "d/a", "a")
	ok(t, f.Symlink("d", "l"))
	ok(t, f.Remove("l"))
	ok(t, f.Remove("d/a"))
	ok(t, f.Remove("d"))
	if l := list(t, f, "."); len(l) != 0 {
		t.Errorf("left: %q", l)
	}
}

// attrOf returns what SetAttr would have to set to change nothing.
func attrOf(i fsys.Info) fsys.Attr {
	return fsys.Attr{Mode: i.Mode, UID: i.UID, GID: i.GID, Mtime: i.Mtime}
}

func testAttributes(t *testing.T, f fsys.FS) {
	const mtime = 1_600_000_000_000_000_000
	put(t, f, "a", "a")
	ok(t, f.Mkdir("d", 0o755))
	for _, tt := range []struct {
		name string
		mode uint32
	}{{"a", 0o600}, {"a", 0o4755}, {"a", 0o755}, {"a", 0}, {"a", 0o644}, {"d", 0o1777}, {"d", 0o2750}, {"d", 0o700}} {
		a := attrOf(lstat(t, f, tt.name))
		a.Mode, a.Mtime = tt.mode, mtime
		ok(t, setAttr(f, tt.name, a))
		if got := attrOf(lstat(t, f, tt.name)); got.Mode != tt.mode || got.Mtime != mtime || got.UID != a.UID || got.GID != a.GID {
			t.Errorf("%s: %+v, want %+v", tt.name, got, a)
		}
	}
	wantData(t, f, "a", "a")

	// A link gets the time, not the mode, and what it points to stays alone.
	ok(t, f.Symlink("a", "l"))
	before, target := lstat(t, f, "l"), lstat(t, f, "a")
	a := attrOf(before)
	a.Mode, a.Mtime, a.Xattrs = 0o600, mtime+1e9, map[string][]byte{}
	ok(t, setAttr(f, "l", a))
	if got := lstat(t, f, "l"); got.Mtime != mtime+1e9 || got.Mode != before.Mode {
		t.Errorf("link: %+v", got)
	}
	if got := lstat(t, f, "a"); got != target {
		t.Errorf("what the link points to: %+v, want %+v", got, target)
	}
}

func testOwner(t *testing.T, f fsys.FS) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	put(t, f, "a", "a")
	ok(t, f.Mkdir("d", 0o755))
	ok(t, f.Symlink("a", "l"))
	for _, name := range []string{"a", "d", "l"} {
		// A change of owner clears setuid on some and leaves it on others.
		for i, mode := range []uint32{0o755, 0o6755, 0o6755, 0o755, 0o2644, 0o644, 0o2755, 0o755} {
			a := attrOf(lstat(t, f, name))
			a.Mode, a.UID, a.GID = mode, uint32(1000+i), uint32(2000+i)
			ok(t, setAttr(f, name, a))
			got := attrOf(lstat(t, f, name))
			if got.UID != a.UID || got.GID != a.GID || name != "l" && got.Mode != mode {
				t.Errorf("%s: mode %o, owner %d:%d; want %o, %d:%d", name, got.Mode, got.UID, got.GID, mode, a.UID, a.GID)
			}
		}
	}
	if got := lstat(t, f, "a"); got.UID != 1007 {
		t.Errorf("owner %d", got.UID)
	}
}

func testXattrs(t *testing.T, f fsys.FS) {
	put(t, f, "a", "a")
	ok(t, f.Mkdir("d", 0o755))
	ok(t, f.Symlink("a", "l"))
	if x, err := f.Xattrs("l"); err != nil || len(x) != 0 {
		t.Errorf("of a symbolic link: %v, %v", x, err)
	}
	type xattrs = map[string][]byte
	for _, name := range []string{"a", "d"} {
		for _, tt := range []struct{ set, want xattrs }{
			{xattrs{"user.one": []byte("1"), "user.two": []byte("2\x00")}, xattrs{"user.one": []byte("1"), "user.two": []byte("2\x00")}},
			{nil, xattrs{"user.one": []byte("1"), "user.two": []byte("2\x00")}},
			{xattrs{"user.two": []byte("II"), "user.three": {}}, xattrs{"user.two": []byte("II"), "user.three": nil}},
			{xattrs{}, nil},
		} {
			a := attrOf(lstat(t, f, name))
			a.Xattrs = tt.set
			err := setAttr(f, name, a)
			if errors.Is(err, fsys.ErrUnsupported) {
				t.Skip(err)
			}
			ok(t, err)
			got, err := f.Xattrs(name)
			ok(t, err)
			same := len(got) == len(tt.want)
			for k, v := range tt.want {
				g, have := got[k]
				same = same && have && bytes.Equal(g, v)
			}
			if !same {
				t.Errorf("%s: after %q it has %q, want %q", name, tt.set, got, tt.want)
			}
		}
	}
}

func testTimes(t *testing.T, f fsys.FS) {
	const old = 1_000_000_000_000_000_000
	ok(t, f.Mkdir("d", 0o755))
	ok(t, f.Mkdir("e", 0o755))
	put(t, f, "a", "a")
	age := func(names ...string) {
		for _, n := range names {
			a := attrOf(lstat(t, f, n))
			a.Mtime = old
			ok(t, setAttr(f, n, a))
		}
	}
	for _, tt := range []struct {
		name    string
		run     func() error
		changed []string
		same    []string
	}{
		{"create", func() error { w, err := f.Create("d/a", 0o644); ok(t, err); return w.Close() }, []string{"d"}, []string{"e", "a"}},
		{"mkdir", func() error { return f.Mkdir("d/d", 0o755) }, []string{"d"}, []string{"e"}},
		{"symlink", func() error { return f.Symlink("x", "d/l") }, []string{"d"}, []string{"e"}},
		{"link", func() error { return f.Link("a", "d/h") }, []string{"d"}, []string{"e", "a"}},
		{"rename", func() error { return f.Rename("d/h", "e/h") }, []string{"d", "e"}, []string{"a"}},
		{"remove", func() error { return f.Remove("e/h") }, []string{"e"}, []string{"d", "a"}},
		{"attributes", func() error {
			return setAttr(f, "d/a", fsys.Attr{Mode: 0o600, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
		}, nil, []string{"d", "e"}},
	} {
		age("d", "e", "a")
		ok(t, tt.run())
		for _, n := range tt.changed {
			if lstat(t, f, n).Mtime == old {
				t.Errorf("%s leaves the time of %s", tt.name, n)
			}
		}
		for _, n := range tt.same {
			if lstat(t, f, n).Mtime != old {
				t.Errorf("%s changes the time of %s", tt.name, n)
			}
		}
	}
}

func testSync(t *testing.T, f fsys.FS) {
	ok(t, f.Mkdir("d", 0o755))
	put(t, f, "d/a", "a")
	ok(t, f.SyncDir("d"))
	ok(t, f.SyncDir("."))
	ok(t, f.Sync())
	r, err := f.Open("d/a")
	ok(t, err)
	ok(t, r.Sync()) // a file open for reading can be synced
	ok(t, r.Close())
	s, err := f.Space()
	ok(t, err)
	if s.Free <= 0 || s.Total < s.Free || s.BlockSize <= 0 || s.Inodes < -1 {
		t.Errorf("%+v", s)
	}
}

func testHelpers(t *testing.T, f fsys.FS) {
	ok(t, fsys.MkdirAll(f, "a/b/c", 0o755))
	ok(t, fsys.MkdirAll(f, "a/b/c", 0o755))
	for _, data := range []string{"first", "second"} {
		ok(t, fsys.WriteFile(f, "a/b/c/x", []byte(data), 0o640))
		got, err := fsys.ReadFile(f, "a/b/c/x", 6)
		ok(t, err)
		if string(got) != data || lstat(t, f, "a/b/c/x").Mode != 0o640 {
			t.Errorf("%q", got)
		}
	}
	if _, err := fsys.ReadFile(f, "a/b/c/x", 5); !errors.As(err, new(*fsys.TooLongError)) {
		t.Errorf("longer than allowed: %v", err)
	}
	if err := fsys.MkdirAll(f, "a/b/c/x/y", 0o755); err == nil {
		t.Error("made a directory below a file")
	}
	ok(t, f.Symlink("..", "a/b/up"))
	ok(t, fsys.RemoveAll(f, "a"))
	ok(t, fsys.RemoveAll(f, "a"))
	if l := list(t, f, "."); len(l) != 0 {
		t.Errorf("left: %q", l)
	}
}

func testErrors(t *testing.T, newFS func(t *testing.T) fsys.FS) {
	long := strings.Repeat("n", 256)
	tests := []struct {
		op   string
		run  func(f fsys.FS) error
		want []error // one of them; none is any error
	}{
		{"lstat missing", one(lstatErr, "missing"), is(syscall.ENOENT)},
		{"lstat missing/x", one(lstatErr, "missing/x"), is(syscall.ENOENT)},
		{"lstat file/x", one(lstatErr, "file/x"), is(syscall.ENOTDIR)},
		{"lstat long name", one(lstatErr, long), is(syscall.ENAMETOOLONG)},
		{"readdir missing", one(readDirErr, "missing"), is(syscall.ENOENT)},
		{"readdir file", one(readDirErr, "file"), is(syscall.ENOTDIR)},
		{"readlink missing", one(readlinkErr, "missing"), is(syscall.ENOENT)},
		{"readlink file", one(readlinkErr, "file"), is(syscall.EINVAL)},
		{"xattrs missing", one(xattrsErr, "missing"), is(syscall.ENOENT)},
		{"open missing", one(openErr, "missing"), is(syscall.ENOENT)},
		{"open dir", one(openErr, "dir"), nil},
		{"open link", one(openErr, "link"), nil},
		{"open file/x", one(openErr, "file/x"), is(syscall.ENOTDIR)},

		{"create file", one(createErr, "file"), is(syscall.EEXIST)},
		{"create dir", one(createErr, "dir"), is(syscall.EEXIST)},
		{"create link", one(createErr, "link"), is(syscall.EEXIST)},
		{"create dangling link", one(createErr, "dangling"), is(syscall.EEXIST)},
		{"create missing/x", one(createErr, "missing/x"), is(syscall.ENOENT)},
		{"create file/x", one(createErr, "file/x"), is(syscall.ENOTDIR)},
		{"create root", one(createErr, "."), nil},
		{"create long name", one(createErr, long), is(syscall.ENAMETOOLONG)},
		{"mkdir file", one(mkdirErr, "file"), is(syscall.EEXIST)},
		{"mkdir dir", one(mkdirErr, "dir"), is(syscall.EEXIST)},
		{"mkdir dangling link", one(mkdirErr, "dangling"), is(syscall.EEXIST)},
		{"mkdir root", one(mkdirErr, "."), is(syscall.EEXIST)},
		{"mkdir missing/x", one(mkdirErr, "missing/x"), is(syscall.ENOENT)},
		{"mkdir file/x", one(mkdirErr, "file/x"), is(syscall.ENOTDIR)},

		{"symlink file", two(fsys.FS.Symlink, "x", "file"), is(syscall.EEXIST)},
		{"symlink dangling link", two(fsys.FS.Symlink, "x", "dangling"), is(syscall.EEXIST)},
		{"symlink missing/x", two(fsys.FS.Symlink, "x", "missing/x"), is(syscall.ENOENT)},
		{"link missing new", two(fsys.FS.Link, "missing", "new"), is(syscall.ENOENT)},
		{"link file dir", two(fsys.FS.Link, "file", "dir"), is(syscall.EEXIST)},
		{"link file other", two(fsys.FS.Link, "file", "other"), is(syscall.EEXIST)},
		{"link file missing/x", two(fsys.FS.Link, "file", "missing/x"), is(syscall.ENOENT)},
		{"link dir new", two(fsys.FS.Link, "dir", "new"), is(syscall.EPERM)},

		{"rename missing new", two(fsys.FS.Rename, "missing", "new"), is(syscall.ENOENT)},
		{"rename missing file", two(fsys.FS.Rename, "missing", "file"), is(syscall.ENOENT)},
		{"rename file missing/x", two(fsys.FS.Rename, "file", "missing/x"), is(syscall.ENOENT)},
		{"rename file other/x", two(fsys.FS.Rename, "file", "other/x"), is(syscall.ENOTDIR)},
		{"rename file empty", two(fsys.FS.Rename, "file", "empty"), is(syscall.EISDIR)},
		{"rename file dir", two(fsys.FS.Rename, "file", "dir"), is(syscall.EISDIR)},
		{"rename empty file", two(fsys.FS.Rename, "empty", "file"), is(syscall.ENOTDIR)},
		{"rename empty dir", two(fsys.FS.Rename, "empty", "dir"), is(syscall.ENOTEMPTY, syscall.EEXIST)},
		{"rename dir dir/x", two(fsys.FS.Rename, "dir", "dir/x"), is(syscall.EINVAL)},
		{"rename dir dir/sub/x", two(fsys.FS.Rename, "dir", "dir/sub/x"), is(syscall.EINVAL)},
		{"rename dir/sub dir", two(fsys.FS.Rename, "dir/sub", "dir"), is(syscall.ENOTEMPTY, syscall.EEXIST)},
		{"rename root new", two(fsys.FS.Rename, ".", "new"), nil},
		{"rename empty root", two(fsys.FS.Rename, "empty", "."), nil},
		{"exchange file missing", two(fsys.FS.Exchange, "file", "missing"), is(syscall.ENOENT, fsys.ErrUnsupported)},
		{"exchange missing file", two(fsys.FS.Exchange, "missing", "file"), is(syscall.ENOENT, fsys.ErrUnsupported)},
		{"exchange dir dir/sub", two(fsys.FS.Exchange, "dir", "dir/sub"), nil},
		{"exchange dir/sub dir", two(fsys.FS.Exchange, "dir/sub", "dir"), nil},

		{"remove missing", one(fsys.FS.Remove, "missing"), is(syscall.ENOENT)},
		{"remove file/x", one(fsys.FS.Remove, "file/x"), is(syscall.ENOTDIR)},
		{"remove dir", one(fsys.FS.Remove, "dir"), is(syscall.ENOTEMPTY, syscall.EEXIST)},
		{"remove root", one(fsys.FS.Remove, "."), nil},
		{"setattr missing", one(setAttrErr, "missing"), is(syscall.ENOENT)},
		{"setattr file/x", one(setAttrErr, "file/x"), is(syscall.ENOTDIR)},
		{"syncdir missing", one(fsys.FS.SyncDir, "missing"), is(syscall.ENOENT)},
		{"syncdir file", one(fsys.FS.SyncDir, "file"), is(syscall.ENOTDIR)},

		// Out of the root.
		{"lstat ..", one(lstatErr, ".."), nil},
		{"lstat ../x", one(lstatErr, "../x"), nil},
		{"lstat dir/../..", one(lstatErr, "dir/../.."), nil},
		{"lstat /", one(lstatErr, "/"), nil},
		{"lstat /etc", one(lstatErr, "/etc"), nil},
		{"xattrs ..", one(xattrsErr, ".."), nil},
		{"readdir ..", one(readDirErr, ".."), nil},
		{"mkdir ../x", one(mkdirErr, "../x"), nil},
		{"mkdir /x", one(mkdirErr, "/fsystest-x"), nil},
		{"syncdir ..", one(fsys.FS.SyncDir, ".."), nil},
		{"lstat out/x", one(lstatErr, "out/etc"), nil},
		{"readdir out/etc", one(readDirErr, "out/etc"), nil},
		{"rename file ../x", two(fsys.FS.Rename, "file", "../fsystest-x"), nil},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.op, "/", "|"), func(t *testing.T) {
			f := newFS(t)
			ok(t, f.Mkdir("dir", 0o755))
			ok(t, f.Mkdir("dir/sub", 0o755))
			ok(t, f.Mkdir("empty", 0o755))
			put(t, f, "file", "file")
			put(t, f, "other", "other")
			ok(t, f.Symlink("file", "link"))
			ok(t, f.Symlink("nowhere", "dangling"))
			ok(t, f.Symlink("/", "out"))
			before := list(t, f, ".")
			err := tt.run(f)
			if err == nil {
				t.Fatal("no error")
			}
			if tt.want != nil && !slices.ContainsFunc(tt.want, func(w error) bool { return errors.Is(err, w) }) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if !errors.As(err, new(*fs.PathError)) && !errors.As(err, new(*os.LinkError)) {
				t.Errorf("%T, want *fs.PathError or *os.LinkError", err)
			}
			if root := f.Path("."); !strings.Contains(tt.op, "..") && !strings.Contains(err.Error(), root) {
				t.Errorf("%v does not give the path below %s", err, root)
			}
			if after := list(t, f, "."); !slices.Equal(before, after) {
				t.Errorf("it changed\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
		})
	}
}

func is(errs ...error) []error { return errs }

func one(op func(fsys.FS, string) error, name string) func(fsys.FS) error {
	return func(f fsys.FS) error { return op(f, name) }
}

func two(op func(f fsys.FS, a, b string) error, a, b string) func(fsys.FS) error {
	return func(f fsys.FS) error { return op(f, a, b) }
}

func lstatErr(f fsys.FS, name string) error    { _, err := f.Lstat(name); return err }
func readDirErr(f fsys.FS, name string) error  { _, err := f.ReadDir(name); return err }
func readlinkErr(f fsys.FS, name string) error { _, err := f.Readlink(name); return err }
func xattrsErr(f fsys.FS, name string) error   { _, err := f.Xattrs(name); return err }
func openErr(f fsys.FS, name string) error     { _, err := f.Open(name); return err }
func createErr(f fsys.FS, name string) error   { _, err := f.Create(name, 0o644); return err }
func mkdirErr(f fsys.FS, name string) error    { return f.Mkdir(name, 0o755) }
func setAttrErr(f fsys.FS, name string) error  { return f.SetAttr(name, fsys.Attr{}, fsys.Info{}) }
