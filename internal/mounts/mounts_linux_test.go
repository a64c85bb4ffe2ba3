package mounts

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside makes a test run in a process with mounts of its own, and reports
// whether this is that process.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	if os.Getenv("MOUNTS_INSIDE") == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), "MOUNTS_INSIDE="+t.Name(), "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a namespace of its own: %v\n%s", err, out)
	}
	return false
}

func makeDirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func mountTmpfs(t *testing.T, at string) {
	t.Helper()
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
}

// bind makes from appear at at, as ReadWritePaths= and a container's volumes do.
func bind(t *testing.T, from, at string) {
	t.Helper()
	if err := unix.Mount(from, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, dir string, want bool) {
	t.Helper()
	if got, err := Mounted(dir); err != nil || got != want {
		t.Errorf("Mounted = %v, %v, want %v", got, err, want)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil { // it is missing
		return
	}
	asked, err := point(real)
	listed, err2 := inTable(real)
	if err != nil || err2 != nil || asked != listed {
		t.Errorf("a mount point: %v, %v, in the list: %v, %v", asked, err, listed, err2)
	}
}

// A partition is there, or is not; what a service's sandbox makes of its
// directory changes nothing about that.
func TestMountedInSandbox(t *testing.T) {
	if !inside(t) {
		return
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, top, at string)
		want bool
	}{
		"nothing":                         {func(*testing.T, string, string) {}, false},
		"a partition":                     {func(t *testing.T, _, at string) { mountTmpfs(t, at) }, true},
		"ReadWritePaths without it":       {func(t *testing.T, _, at string) { bind(t, at, at) }, false},
		"ReadWritePaths with it":          {func(t *testing.T, _, at string) { mountTmpfs(t, at); bind(t, at, at) }, true},
		"it comes into the sandbox later": {func(t *testing.T, _, at string) { bind(t, at, at); mountTmpfs(t, at) }, true},
		"it is gone again": {func(t *testing.T, _, at string) {
			mountTmpfs(t, at)
			if err := unix.Unmount(at, 0); err != nil {
				t.Fatal(err)
			}
		}, false},
		"a directory of the same file system": {func(t *testing.T, top, at string) {
			makeDirs(t, top+"/elsewhere")
			bind(t, top+"/elsewhere", at)
		}, false},
		"a directory of the same file system over it": {func(t *testing.T, top, at string) {
			makeDirs(t, top+"/elsewhere")
			mountTmpfs(t, at)
			bind(t, top+"/elsewhere", at)
		}, false},
		"a directory of another file system": {func(t *testing.T, top, at string) {
			makeDirs(t, top+"/disk")
			mountTmpfs(t, top+"/disk")
			makeDirs(t, top+"/disk/usrdata")
			bind(t, top+"/disk/usrdata", at)
		}, true},
		"a directory of the root below another file system": {func(t *testing.T, top, at string) {
			makeDirs(t, top+"/elsewhere")
			mountTmpfs(t, filepath.Dir(at))
			makeDirs(t, at)
			bind(t, top+"/elsewhere", at)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			top, err := os.MkdirTemp("/", ".tandem-mounts-") // on the root's file system
			if err != nil {
				t.Fatal(err)
			}
			at := filepath.Join(top, "parent/usrdata")
			t.Cleanup(func() {
				for _, dir := range []string{at, at, at, filepath.Dir(at), top + "/disk"} {
					_ = unix.Unmount(dir, unix.MNT_DETACH) // there may be none
				}
				if err := os.RemoveAll(top); err != nil {
					t.Error(err)
				}
			})
			makeDirs(t, at)
			c.make(t, top, at)
			want(t, at, c.want)
			link := filepath.Join(top, "link")
			if err := os.Symlink("parent/usrdata", link); err != nil {
				t.Fatal(err)
			}
			want(t, link, c.want)
		})
	}
}

// A container has a root of its own, and a partition comes as a volume.
func TestMountedInContainer(t *testing.T) {
	if !inside(t) {
		return
	}
	root, disk := t.TempDir(), t.TempDir()
	mountTmpfs(t, root)
	mountTmpfs(t, disk)
	makeDirs(t, root+"/proc", root+"/usrapp", root+"/usrdata", disk+"/volume")
	bind(t, "/proc", root+"/proc")
	bind(t, disk+"/volume", root+"/usrapp")
	bind(t, root+"/usrdata", root+"/usrdata")
	if err := unix.Chroot(root); err != nil {
		t.Fatal(err)
	}
	if err := os.Chdir("/"); err != nil {
		t.Fatal(err)
	}
	for dir, is := range map[string]bool{"/": true, "/usrapp": true, "/usrdata": false, "/missing": false} {
		t.Run(dir, func(t *testing.T) { want(t, dir, is) })
	}
}

// What the sandbox makes read-only is told from what is read-only for everybody.
func TestOnlyHere(t *testing.T) {
	if !inside(t) {
		return
	}
	dir := t.TempDir()
	mountTmpfs(t, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	remount := func(flags uintptr) {
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		flags uintptr
		want  bool
	}{
		{"writable", 0, false},
		{"a read-only view of it", unix.MS_BIND | unix.MS_RDONLY, true},
		{"read-only", unix.MS_RDONLY, false},
	} {
		remount(c.flags)
		for _, d := range []string{dir, filepath.Join(dir, "not/there")} {
			if got, err := OnlyHere(d); err != nil || got != c.want {
				t.Errorf("%s: OnlyHere = %v, %v, want %v", c.name, got, err, c.want)
			}
		}
	}
}
