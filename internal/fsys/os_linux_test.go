package fsys_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"tandem/internal/fsys"
	"tandem/internal/fsys/fsystest"
	"tandem/internal/testprograms"
)

// kernels are what Linux has had at a time to look at a tree with.
var kernels = map[string]func(o *fsys.OS){
	"this one": func(o *fsys.OS) {},
	"5.6":      func(o *fsys.OS) { o.Without(false, true, false) },
	"4.11":     func(o *fsys.OS) { o.Without(true, true, false) },
	"3.18":     func(o *fsys.OS) { o.Without(true, true, true) },
}

func TestOS(t *testing.T) {
	for name, grow := range kernels {
		t.Run(name, func(t *testing.T) {
			with := tools(t)
			if name == "3.18" {
				with.Fix = nil // without statx nobody is told
			}
			fsystest.Run(t, func(t *testing.T) fsys.FS { return open(t, t.TempDir(), grow) }, with)
		})
	}
}

func open(t *testing.T, dir string, grow func(o *fsys.OS)) *fsys.OS {
	t.Helper()
	o, err := fsys.OpenOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	grow(o)
	return o
}

// tools are those that this process may use.
func tools(t *testing.T) fsystest.Tools {
	if os.Geteuid() != 0 {
		return fsystest.Tools{}
	}
	return fsystest.Tools{Mount: mount, Fix: fix(t)}
}

// mount lets a mount cover a file or directory until the end of the test.
func mount(t *testing.T, f fsys.FS, name string) {
	t.Helper()
	from := filepath.Join(t.TempDir(), "x")
	write(t, from, "mounted")
	point := f.Path(name)
	if i, err := os.Stat(point); err == nil && i.IsDir() {
		from = filepath.Dir(from)
	}
	if err := unix.Mount(from, point, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fix gives what makes a file immutable, or nil where the file system of the
// tests has no such files, or does not tell.
func fix(t *testing.T) func(t *testing.T, f fsys.FS, name string, fixed bool) {
	set := func(file string, fixed bool) error {
		d, err := os.Open(file)
		if err != nil {
			return err
		}
		defer d.Close()
		flags := 0
		if fixed {
			flags = 0x10 // FS_IMMUTABLE_FL
		}
		return unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, flags)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	var st unix.Statx_t
	if err := set(file, true); err != nil {
		return nil
	}
	err := unix.Statx(unix.AT_FDCWD, file, 0, unix.STATX_BASIC_STATS, &st)
	if e := set(file, false); e != nil {
		t.Fatal(e)
	}
	if err != nil || st.Attributes&unix.STATX_ATTR_IMMUTABLE == 0 {
		return nil
	}
	return func(t *testing.T, f fsys.FS, name string, fixed bool) {
		if err := set(f.Path(name), fixed); err != nil {
			t.Fatal(err)
		}
		if fixed {
			t.Cleanup(func() { _ = set(f.Path(name), false) }) // or nobody can remove it; it may be gone
		}
	}
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
	i, err := f.Lstat("fifo")
	if err != nil || i.Type != fsys.TypeOther {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := f.Open("fifo"); err == nil {
		t.Error("opened a FIFO")
	}
	if _, err := f.Xattrs("fifo"); err != nil {
		t.Error(err)
	}
	if err := f.SetAttr("fifo", fsys.Attr{Mode: 0o644}, i); err == nil {
		t.Error("set the attributes of a FIFO")
	}
	i.Type = fsys.TypeFile
	if err := f.SetAttr("fifo", fsys.Attr{Mode: 0o644}, i); !errors.Is(err, fsys.ErrReplaced) {
		t.Errorf("a FIFO where a file was: %v", err)
	}
}

// Names of any length lead as deep as they lead.
func TestOSDeep(t *testing.T) {
	f := open(t, t.TempDir(), kernels["this one"])
	name := "0"
	for i := range 110 {
		if err := f.Mkdir(name, 0o755); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		name += "/" + "directory-with-a-long-name-of-its-own-" + strconv.Itoa(i)
	}
	if len(name) <= unix.PathMax {
		t.Fatalf("%d bytes are not long", len(name))
	}
	if err := fsys.WriteFile(f, name, []byte("deep"), 0o644); err != nil {
		t.Fatal(err)
	}
	if data, err := fsys.ReadFile(f, name, 100); err != nil || string(data) != "deep" {
		t.Errorf("%q, %v", data, err)
	}
	if err := fsys.RemoveAll(f, "0"); err != nil {
		t.Fatal(err)
	}
}

// While another program moves directories and files and puts links in their place
// that stay inside, what is done lands on what had that name or nowhere.
func TestOSAttacked(t *testing.T) {
	for name, grow := range kernels {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			outside := filepath.Join(dir, "bin")
			real, away := filepath.Join(dir, "conf"), filepath.Join(dir, "away")
			victim := filepath.Join(outside, "file")
			for _, d := range []string{real, filepath.Join(real, "sub"), filepath.Join(outside, "sub")} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, d := range []string{real, outside} {
				write(t, filepath.Join(d, "file"), "here")
				write(t, filepath.Join(d, "sub", "file"), "here")
			}
			f := open(t, dir, grow)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			end := sync.OnceFunc(func() { close(stop); wg.Wait() })
			defer end()
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_ = os.Rename(real, away) // whatever is there
						_ = os.Symlink("bin", real)
						_ = os.Remove(real)
						_ = os.Rename(away, real)
						_ = os.Rename(filepath.Join(real, "file"), filepath.Join(real, "kept"))
						_ = os.Symlink("../bin/file", filepath.Join(real, "file"))
						_ = os.Rename(filepath.Join(real, "kept"), filepath.Join(real, "file"))
					}
				}
			})
			before, err := os.Stat(victim)
			if err != nil {
				t.Fatal(err)
			}
			done, refused := 0, 0
			for i := 0; done < 200 || refused < 200; i++ {
				if i == 100_000 {
					t.Fatalf("%d made, %d refused", done, refused)
				}
				n := "conf/new" + strconv.Itoa(i%7)
				if i%2 == 0 {
					n = "conf/sub/new" + strconv.Itoa(i%7)
				}
				if w, err := f.Create(n, 0o644); err == nil {
					done++
					w.Close()
				} else if errors.Is(err, fsys.ErrElsewhere) {
					refused++
				} else if !fsys.IsNotExist(err) && !errors.Is(err, os.ErrExist) {
					t.Fatal(err)
				}
				_ = f.Remove(n)
				if info, err := f.Lstat("conf/file"); err == nil {
					_ = f.SetAttr("conf/file", fsys.Attr{Mode: 0o4755 - uint32(i%2), UID: info.UID, GID: info.GID}, info)
				}
				if data, err := fsys.ReadFile(f, "conf/file", 10); err == nil && string(data) != "here" {
					t.Fatalf("%q", data)
				}
			}
			end()
			after, err := os.Stat(victim)
			if err != nil {
				t.Fatal(err)
			}
			if after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
				t.Errorf("%v at %v was %v at %v", after.Mode(), after.ModTime(), before.Mode(), before.ModTime())
			}
			for _, d := range []string{outside, filepath.Join(outside, "sub")} {
				entries, err := os.ReadDir(d)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					if e.Name() != "file" && e.Name() != "sub" {
						t.Errorf("made elsewhere: %s", e.Name())
					}
				}
			}
		})
	}
}

// A directory that somebody else has moved away is let go of soon.
func TestOSMovedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for _, d := range []string{"conf", "next"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, d, "file"), d)
		}
		f := open(t, dir, kernels["this one"])
		read := func() string {
			data, err := fsys.ReadFile(f, "conf/file", 10)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
		if got := read(); got != "conf" {
			t.Fatal(got)
		}
		for _, mv := range [][2]string{{"conf", "old"}, {"next", "conf"}} {
			if err := os.Rename(filepath.Join(dir, mv[0]), filepath.Join(dir, mv[1])); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if got := read(); got != "next" {
			t.Errorf("it still reads %s", got)
		}
	})
}

// What holds on the file system of the tests holds on others.
func TestOSFileSystems(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
	for _, name := range []string{"tmpfs", "overlay"} {
		t.Run(name, func(t *testing.T) {
			dir := mountNew(t, name)
			fsystest.Run(t, func(t *testing.T) fsys.FS {
				sub, err := os.MkdirTemp(dir, "")
				if err != nil {
					t.Fatal(err)
				}
				return open(t, sub, kernels["this one"])
			}, fsystest.Tools{Mount: mount})
		})
	}
}

// mountNew mounts a new file system of a kind; the overlay has a layer below
// with the directory low and a file in it.
func mountNew(t *testing.T, kind string) string {
	t.Helper()
	tmp := func() string {
		dir := t.TempDir()
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	if kind == "tmpfs" {
		return tmp()
	}
	lower, upper, dir := tmp(), tmp(), t.TempDir()
	for _, d := range []string{lower + "/low", upper + "/upper", upper + "/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, lower+"/low/file", "low")
	if err := unix.Mount("none", dir, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+"/upper,workdir="+upper+"/work"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A file of a lower layer shows another device, and is no mount for that. What
// syncfs reports there is not to be relied on.
func TestOSOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
	dir := mountNew(t, "overlay")
	for name, grow := range kernels {
		f := open(t, dir, grow)
		if f.SyncReports() {
			t.Errorf("%s: SyncReports", name)
		}
		for _, n := range []string{".", "low", "low/file"} {
			if i, err := f.Lstat(n); err != nil || i.Mount {
				t.Errorf("%s: %+v, %v", name, i, err)
			}
		}
		if data, err := fsys.ReadFile(f, "low/file", 10); err != nil || string(data) != "low" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	f := open(t, dir, kernels["this one"])
	i, err := f.Lstat("low/file")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetAttr("low/file", fsys.Attr{Mode: 0o4711, UID: 5, GID: 6, Mtime: 7}, i); err != nil {
		t.Fatal(err)
	}
	if i, err = f.Lstat("low/file"); err != nil || i.Mode != 0o4711 || i.UID != 5 || i.Mtime != 7 {
		t.Errorf("%+v, %v", i, err)
	}
	if err := f.Rename("low", "new"); !errors.Is(err, syscall.EXDEV) || errors.Is(err, fsys.ErrElsewhere) {
		t.Errorf("a directory of a lower layer: %v, want %v", err, syscall.EXDEV)
	}
}

// All of this holds on a kernel as old as that of small devices: this test runs
// the others as if on one.
func TestOldKernel(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("test/oldkernel knows the system calls of amd64 only")
	}
	if os.Getenv("TANDEM_OLD_KERNEL") != "" {
		return // there already
	}
	bin := t.TempDir()
	if err := testprograms.Build(bin, testprograms.Small(), "tandem/test/oldkernel"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "oldkernel"), os.Args[0], "-test.run", "^TestOS/^this_one$|^TestOSOther$|^TestOSDeep$|^TestOSAttacked$/^this_one$")
	cmd.Env = append(os.Environ(), "TANDEM_OLD_KERNEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
