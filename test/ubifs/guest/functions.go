//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lab is one run on one machine.
type lab struct {
	seed     uint64
	rand     *rand.Rand
	releases map[string]tree // by version
	counter  int             // makes each edit and each version by hand a new one
	failures []string
}

func newLab(seed uint64) (*lab, error) {
	l := &lab{seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), releases: map[string]tree{}}
	bundles, err := filepath.Glob("/releases/*.tandem")
	if err != nil {
		return nil, err
	}
	for _, b := range bundles {
		version := strings.TrimSuffix(filepath.Base(b), ".tandem")
		t, err := readTree(filepath.Join("/releases", version), "")
		if err != nil {
			return nil, err
		}
		l.releases[version] = t.with("tag", version)
	}
	return l, nil
}

// fail reports what a defect needs to be found: what was done, and what the
// kernel said.
func (l *lab) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fmt.Println("FAILED: " + text)
	first, _, _ := strings.Cut(text, "\n")
	l.failures = append(l.failures, first)
}

func (l *lab) check(what string, ok bool, detail string) {
	if ok {
		fmt.Println("ok: " + what)
	} else {
		l.fail("%s\n%s", what, detail)
	}
}

// facts tells what this file system does and does not, for those who write for
// it.
func (l *lab) facts() {
	var name unix.Utsname
	_ = unix.Uname(&name)
	fmt.Printf("== UBIFS of Linux %s\n", unix.ByteSliceToString(name.Release[:]))
	dir := system.dir
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
	if err := remount(); err != nil {
		l.fail("remount: %v", err)
		return
	}
	_ = unix.Stat(file, &after)
	fmt.Printf("mtime set to .123456789 s: .%09d in memory, .%09d after a remount\n", before.Mtim.Nsec, after.Mtim.Nsec)
	fmt.Printf("inode number stable across a remount: %v; blocks of a one-byte file: %d; links %d\n", before.Ino == after.Ino, after.Blocks, after.Nlink)
	value := make([]byte, 16)
	n, err := unix.Getxattr(file, "user.lab", value)
	say("xattr after a remount", err)
	if err == nil && string(value[:n]) != "value" {
		l.fail("xattr after a remount: %q", value[:n])
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
func (l *lab) expect(what string, want tree) {
	a, errA := side(live)
	b, errB := side(backup)
	ok := errA == nil && errB == nil && maps.Equal(a, want) && maps.Equal(b, want)
	l.check(what+": both sides hold "+want["tag"]+", identical", ok, fmt.Sprintf("    %v %v\n  expected, system:\n%s\n  expected, usr_data:\n%s", errA, errB, differences(want, a), differences(want, b)))
	code, out := tandem("verify", "--quiet")
	l.check(what+": verify", code == 0, out)
	cmd := command("tandem", "status", "--json")
	data, err := cmd.Output()
	var s status
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	ok = err == nil && s.InStep
	for _, side := range []string{"system", "usr_data"} {
		ok = ok && s.Sides[side].State == "intact" && s.Sides[side].Version == want["tag"]
	}
	l.check(what+": status --json", ok, fmt.Sprintf("%v\n%s", err, data))
}

// do runs tandem, which has to exit with the code.
func (l *lab) do(code int, args ...string) {
	start := time.Now()
	got, out := tandem(args...)
	what := fmt.Sprintf("tandem %s: exit code %d", strings.Join(args, " "), code)
	l.check(fmt.Sprintf("%s, %d ms", what, time.Since(start).Milliseconds()), got == code, fmt.Sprintf("got %d:\n%s\n%s", got, out, dmesg(10)))
}

// functions is the main job once through, without a power cut.
func (l *lab) functions() {
	fmt.Println("== Functions")
	l.do(10, "boot")

	// A device from the factory: an application and a tag, no record.
	factory := l.releases["1.0.0"]
	if code, out := finish(command("busybox", "sh", "-c", "mkdir -p /usrapp/apprun && cp -a /releases/1.0.0 /usrapp/apprun/apps && echo 1.0.0 >/usrapp/apprun/app_ver.txt && sync")); code != 0 {
		l.fail("copy the factory's version: %s", out)
	}
	l.do(0, "boot")
	l.expect("first backup", factory)
	l.do(0, "boot")

	for _, v := range volumes {
		if err := v.erase(); err != nil {
			l.fail("erase %s: %v", v.name, err)
		}
		l.do(0, "boot")
		l.expect(v.name+" erased", factory)
	}

	l.do(0, "install", "/releases/1.1.0.tandem")
	// Without a record all of the factory's files count as configuration, so
	// one that no release knows stays.
	const own = "share/only-1.0.0"
	now := afterInstall(l.releases["1.1.0"], factory).with(own, factory[own])
	l.expect("install", now)
	l.do(22, "install", "/releases/1.0.0.tandem")

	now = l.edit(now, true)
	l.do(0, "backup")
	l.expect("edited configuration", now)
	edited := now

	now = l.byHand(now)
	l.do(0, "boot")
	l.expect("upgrade by hand", now)

	l.do(0, "rollback")
	l.expect("rollback", edited)

	l.do(0, "install", "/releases/1.2.0.tandem")
	now = afterInstall(l.releases["1.2.0"], edited).with(own, factory[own])
	l.expect("install with an edited configuration", now)

	// Damage in different places on both sides.
	_ = os.WriteFile(live+"/apps/lib/3.so", []byte("damaged"), 0o644)
	_ = os.WriteFile(backup+"/apps/lib/4.so", nil, 0o644)
	_ = os.Remove(backup + "/apps/etc/app.conf")
	l.do(11, "verify")
	l.do(0, "verify", "--repair")
	l.expect("repair", now)

	if err := remount(); err != nil {
		l.fail("remount: %v", err)
	}
	l.do(0, "boot")
	l.expect("remount", now)
	code, out := tandem("boot", "--dry-run")
	l.check("after a remount there is nothing to do", code == 0 && strings.Contains(out, "nothing"), out)
	l.do(0, "history")
	l.sameSecond()

	// The cuts start from a release, without what the factory left behind.
	for _, v := range volumes {
		if err := v.erase(); err != nil {
			l.fail("erase %s: %v", v.name, err)
		}
	}
	l.do(0, "install", "/releases/1.1.0.tandem")
}

// sameSecond edits a file twice within a second, without a change of its size,
// and captures it after each: UBIFS counts time in whole seconds.
func (l *lab) sameSecond() {
	name := live + "/apps/etc/empty.conf"
	defer func() { // brings the sides in step again
		_ = os.WriteFile(name, []byte("another size"), 0o644)
		tandem("backup")
	}()
	for range 5 {
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		var times [2]int64
		for i := range times {
			l.counter++
			_ = os.WriteFile(name, []byte(fmt.Sprintf("%09d", l.counter)), 0o644)
			if info, err := os.Stat(name); err == nil {
				times[i] = info.ModTime().UnixNano()
			}
			tandem("backup")
		}
		if times[0] == times[1] {
			a, errA := os.ReadFile(name)
			b, errB := os.ReadFile(backup + "/apps/etc/empty.conf")
			l.check("two edits within a second, backed up after each", errA == nil && errB == nil && string(a) == string(b), fmt.Sprintf("    system %q, usr_data %q", a, b))
			return
		}
	}
	fmt.Println("two edits within a second: this machine is too slow to try")
}

// edit changes the configuration as an application does: with care, or by
// writing over the file and leaving the rest to the kernel.
func (l *lab) edit(now tree, careful bool) tree {
	l.counter++
	name := live + "/apps/etc/app.conf"
	data := []byte(fmt.Sprintf("name=Tandem\nedit=%d\n", l.counter))
	var err error
	if careful {
		err = replace(name, data)
		if err == nil {
			err = os.MkdirAll(live+"/apps/data", 0o755)
		}
		if err == nil {
			err = replace(live+"/apps/data/state.db", bytes.Repeat(data, 1000))
		}
	} else {
		err = os.WriteFile(name, data, 0o644)
	}
	if err != nil {
		l.fail("edit: %v", err)
		return now
	}
	t, err := side(live)
	if err != nil {
		l.fail("edit: %v", err)
	}
	return t
}

// byHand makes a new version without tandem: files, sync, tag, sync.
func (l *lab) byHand(now tree) tree {
	l.counter++
	part := strings.SplitN(now["tag"], ".", 3)
	data := make([]byte, 50_000)
	for i := range data {
		data[i] = byte(l.rand.Uint32())
	}
	err := os.WriteFile(live+"/apps/bin/app", data, 0o755)
	unix.Sync()
	if err == nil {
		err = os.WriteFile(live+"/app_ver.txt", []byte(fmt.Sprintf("%s.%s.%d\n", part[0], part[1], l.counter)), 0o644)
	}
	unix.Sync()
	if err != nil {
		l.fail("upgrade by hand: %v", err)
		return now
	}
	t, err := side(live)
	if err != nil {
		l.fail("upgrade by hand: %v", err)
	}
	return t
}

// replace writes a file as one should: new file, fsync, rename, fsync of the
// directory.
func replace(name string, data []byte) error {
	f, err := os.Create(name + "~")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(name+"~", name)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
