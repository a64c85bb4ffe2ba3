//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tandem/test/internal/guest"
)

// facts tells what this file system does and does not, for those who write for
// it.
func (l *lab) facts() {
	var name unix.Utsname
	_ = unix.Uname(&name)
	fmt.Printf("== UBIFS of Linux %s\n", unix.ByteSliceToString(name.Release[:]))
	dir := guest.SystemDir
	var st unix.Statfs_t
	_ = unix.Statfs(dir, &st)
	fmt.Printf("statfs, empty: block size %d, %d blocks, %d free, %d available, %d inodes, %d free, type %#x\n", st.Bsize, st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, st.Type)

	a, b := dir+"/a", dir+"/b"
	say := func(what string, err error) {
		if err != nil {
			fmt.Printf("%s: %v\n", what, err)
		} else {
			fmt.Printf("%s: works\n", what)
		}
	}
	_ = os.Mkdir(a, 0o755)
	_ = os.Mkdir(b, 0o755)
	say("RENAME_EXCHANGE of directories", unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
	file := a + "/file"
	say("write", os.WriteFile(file, []byte("x"), 0o644))
	say("hard link", os.Link(file, b+"/link"))
	say("xattr user.*", unix.Setxattr(file, "user.lab", []byte("value"), 0))
	say("xattr security.capability", unix.Setxattr(file, "security.capability", append([]byte{0, 0, 0, 2}, make([]byte, 16)...), 0))
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NOATIME, 0)
	say("O_NOATIME", err)
	say("syncfs", unix.Syncfs(fd))
	_ = unix.Close(fd)
	want := unix.NsecToTimespec(1234567890_123456789)
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{want, want}, 0)
	var before, after unix.Stat_t
	_ = unix.Stat(file, &before)
	if err := l.Device.Remount(); err != nil {
		l.Fail("remount: %v", err)
		return
	}
	_ = unix.Stat(file, &after)
	fmt.Printf("mtime set to .123456789 s: .%09d in memory, .%09d after a remount\n", before.Mtim.Nsec, after.Mtim.Nsec)
	fmt.Printf("inode number stable across a remount: %v; blocks of a one-byte file: %d; links %d\n", before.Ino == after.Ino, after.Blocks, after.Nlink)
	value := make([]byte, 16)
	n, err := unix.Getxattr(file, "user.lab", value)
	say("xattr after a remount", err)
	if err == nil && string(value[:n]) != "value" {
		l.Fail("xattr after a remount: %q", value[:n])
	}
	var full unix.Statfs_t
	_ = os.WriteFile(dir+"/big", bytes.Repeat([]byte("zero "), 200_000), 0o644)
	_ = unix.Statfs(dir, &st)
	unix.Sync()
	_ = unix.Statfs(dir, &full)
	fmt.Printf("available after 1 MB that compresses well: %d blocks before sync, %d after\n", st.Bavail, full.Bavail)
	for _, p := range []string{a, b, dir + "/big"} {
		_ = os.RemoveAll(p)
	}
}

// status is what of "tandem status --json" is checked.
type status struct {
	InStep bool `json:"in_step"`
	Sides  map[string]struct {
		State, Version, Previous string
	}
}

// expect checks all that can be seen of a healthy device.
func (l *lab) expect(what string, want guest.Tree) {
	a, errA := guest.ReadSide(guest.Live)
	b, errB := guest.ReadSide(guest.Backup)
	ok := errA == nil && errB == nil && maps.Equal(a, want) && maps.Equal(b, want)
	l.Check(what+": both sides hold "+want["tag"]+", identical", ok, fmt.Sprintf("    %v %v\n  expected, system:\n%s\n  expected, usr_data:\n%s", errA, errB, guest.Differences(want, a), guest.Differences(want, b)))
	code, out := guest.Tandem("verify", "--quiet")
	l.Check(what+": verify", code == 0, out)
	cmd := exec.Command("tandem", "status", "--json")
	data, err := cmd.Output()
	var s status
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	ok = err == nil && s.InStep
	for _, side := range []string{"system", "usr_data"} {
		ok = ok && s.Sides[side].State == "intact" && s.Sides[side].Version == want["tag"]
	}
	l.Check(what+": status --json", ok, fmt.Sprintf("%v\n%s", err, data))
}

// do runs tandem, which has to exit with the code.
func (l *lab) do(code int, args ...string) {
	start := time.Now()
	got, out := guest.Tandem(args...)
	what := fmt.Sprintf("tandem %s: exit code %d", strings.Join(args, " "), code)
	l.Check(fmt.Sprintf("%s, %d ms", what, time.Since(start).Milliseconds()), got == code, fmt.Sprintf("got %d:\n%s\n%s", got, out, guest.KernelLog()))
}

// functions is the main job once through, without a power cut.
func (l *lab) functions() {
	fmt.Println("== Functions")
	l.do(10, "boot")

	// A device from the factory: an application and a tag, no record.
	factory := l.Releases["1.0.0"]
	if code, out := guest.Run("busybox", "sh", "-c", "mkdir -p /usrapp/apprun && cp -a /releases/usual/1.0.0 /usrapp/apprun/apps && echo 1.0.0 >/usrapp/apprun/app_ver.txt && sync"); code != 0 {
		l.Fail("copy the factory's version: %s", out)
	}
	l.do(0, "boot")
	l.expect("first backup", factory)
	l.do(0, "boot")

	for _, v := range l.flash.Volumes {
		if err := l.Erase(v.Dir); err != nil {
			l.Fail("erase %s: %v", v.Name, err)
		}
		l.do(0, "boot")
		l.expect(v.Name+" erased", factory)
	}

	l.do(0, "install", "/releases/usual/1.1.0.tandem")
	// Without a record all of the factory's files count as configuration, so
	// one that no release knows stays.
	const own = "share/only-1.0.0"
	now := guest.AfterInstall(l.Releases["1.1.0"], factory).With(own, factory[own])
	l.expect("install", now)
	l.do(22, "install", "/releases/usual/1.0.0.tandem")

	now = l.must(l.Edit(true))
	l.do(0, "backup")
	l.expect("edited configuration", now)
	edited := now

	now = l.must(l.ByHand(now))
	l.do(0, "boot")
	l.expect("upgrade by hand", now)

	l.do(0, "rollback")
	l.expect("rollback", edited)

	l.do(0, "install", "/releases/usual/1.2.0.tandem")
	now = guest.AfterInstall(l.Releases["1.2.0"], edited).With(own, factory[own])
	l.expect("install with an edited configuration", now)

	// Damage in different places on both sides.
	_ = os.WriteFile(guest.Live+"/apps/lib/3.so", []byte("damaged"), 0o644)
	_ = os.WriteFile(guest.Backup+"/apps/lib/4.so", nil, 0o644)
	_ = os.Remove(guest.Backup + "/apps/etc/app.conf")
	l.do(11, "verify")
	l.do(0, "verify", "--repair")
	l.expect("repair", now)

	if err := l.Device.Remount(); err != nil {
		l.Fail("remount: %v", err)
	}
	l.do(0, "boot")
	l.expect("remount", now)
	code, out := guest.Tandem("boot", "--dry-run")
	l.Check("after a remount there is nothing to do", code == 0 && strings.Contains(out, "nothing"), out)
	l.do(0, "history")
	l.sameSecond()
}

// must reports an error of what makes ready for a check.
func (l *lab) must(t guest.Tree, err error) guest.Tree {
	if err != nil {
		l.Fail("%v", err)
	}
	return t
}

// sameSecond edits a file twice within a second, without a change of its size,
// and captures it after each: UBIFS counts time in whole seconds.
func (l *lab) sameSecond() {
	name := guest.Live + "/apps/etc/empty.conf"
	defer func() { // brings the sides in step again
		_ = os.WriteFile(name, []byte("another size"), 0o644)
		guest.Tandem("backup")
	}()
	for try := range 5 {
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		var times [2]int64
		for i := range times {
			_ = os.WriteFile(name, []byte(fmt.Sprintf("%09d", 2*try+i)), 0o644)
			if info, err := os.Stat(name); err == nil {
				times[i] = info.ModTime().UnixNano()
			}
			guest.Tandem("backup")
		}
		if times[0] == times[1] {
			a, errA := os.ReadFile(name)
			b, errB := os.ReadFile(guest.Backup + "/apps/etc/empty.conf")
			l.Check("two edits within a second, backed up after each", errA == nil && errB == nil && string(a) == string(b), fmt.Sprintf("    system %q, usr_data %q", a, b))
			return
		}
	}
	fmt.Println("two edits within a second: this machine is too slow to try")
}
