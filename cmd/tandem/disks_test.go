package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// disks are the file systems that the scripts of testdata/disks have both sides on, each with
// the least size that it can have. What lies on disk is made by mkfs in a file.
var disks = map[string]string{"tmpfs": "", "overlay": "", "ext4": "16M", "btrfs": "128M", "xfs": "320M"}

// TestDisks has each script work on each file system.
func TestDisks(t *testing.T) {
	t.Parallel()
	programsOnly(t)
	for kind := range disks {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if !canMount(t) {
				t.Skip("file systems may not be mounted here")
			}
			if !canMake(kind) {
				t.Skipf("there is no mkfs.%s, or the kernel has no %s", kind, kind)
			}
			testscript.Run(t, params(t, filepath.Join("testdata", "disks"), "KIND", kind))
		})
	}
}

// canMake reports whether there are such file systems, and what makes them.
func canMake(kind string) bool {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(known), "\t"+kind+"\n") && exec.Command("modprobe", "-q", kind).Run() != nil {
		return false
	}
	_, err = exec.LookPath("mkfs." + kind)
	return disks[kind] == "" || err == nil
}

// system runs a program of the system's.
func system(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w\n%s", name, args, err, bytes.TrimSpace(out))
	}
	return nil
}

const disksKey = "disks"

// cmdDisk mounts a new file system. An overlay has its upper layer on a tmpfs.
func cmdDisk(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "disk DIR KIND [SIZE [ARGS...]]")
	dir, kind := ts.MkAbs(args[0]), args[1]
	ts.Check(os.MkdirAll(dir, 0o755))
	size := disks[kind]
	if len(args) > 2 {
		size = args[2]
	}
	how := []string{"-t", kind}
	switch kind {
	case "tmpfs":
		how = append(how, "-o", "mode=755,size=16m", "tmpfs")
	case "overlay":
		layers := dir + ".layers"
		ts.Check(os.Mkdir(layers, 0o755))
		mount(ts, layers, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
		for _, d := range []string{"lower", "upper", "work"} {
			ts.Check(os.Mkdir(filepath.Join(layers, d), 0o755))
		}
		how = append(how, "-o", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", layers), "overlay")
	default:
		image := dir + ".image"
		ts.Check(os.WriteFile(image, nil, 0o600))
		ts.Check(system("truncate", "-s", size, image))
		ts.Check(system("mkfs."+kind, append(args[min(3, len(args)):], "-q", image)...))
		how = append(how, "-o", "loop", image)
	}
	ts.Value(disksKey).(map[string][]string)[dir] = how
	mount(ts, dir, how...)
}

// cmdAgain unmounts what cmdDisk mounted, and mounts it again.
func cmdAgain(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1, "again DIR")
	dir := ts.MkAbs(args[0])
	how := ts.Value(disksKey).(map[string][]string)[dir]
	if len(how) == 0 || how[1] == "tmpfs" { // which is gone then
		return
	}
	// What another test begins has our open files for a moment, until it runs its program.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	err := unix.Unmount(dir, 0)
	for n := 0; errors.Is(err, unix.EBUSY) && n < 500; n++ {
		<-tick.C
		err = unix.Unmount(dir, 0)
	}
	ts.Check(err)
	mount(ts, dir, how...)
}

func cmdMount(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "mount ARGS... DIR")
	mount(ts, ts.MkAbs(args[len(args)-1]), args[:len(args)-1]...)
}

// mount runs mount(8), and has it undone when the script ends.
func mount(ts *testscript.TestScript, at string, args ...string) {
	ts.Check(system("mount", append(args, at)...))
	ts.Defer(func() { _ = unix.Unmount(at, unix.MNT_DETACH) }) // it may be unmounted already
}

func cmdImmutable(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, false, len(args) == 1, "immutable FILE")
	name := ts.MkAbs(args[0])
	ts.Check(fix(name, !neg))
	if !neg {
		ts.Defer(func() { _ = fix(name, false) }) // it may be gone
	}
}

// fix makes a file immutable, or no more.
func fix(name string, fixed bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	const immutable = 0x10 // FS_IMMUTABLE_FL
	if flags &^= immutable; fixed {
		flags |= immutable
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
