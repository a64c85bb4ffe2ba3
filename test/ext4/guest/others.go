//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"tandem/test/internal/guest"
)

// place is where a side lies for a part of the lab that has no cuts.
type place struct {
	dir, dev, kind string
}

// renew mounts an empty file system.
func (p place) renew() error {
	blank, err := os.ReadFile("/" + p.kind + ".img")
	if err == nil {
		err = os.WriteFile(p.dev, blank, 0)
	}
	if err != nil {
		return err
	}
	return p.mount()
}

func (p place) mount() error {
	if err := unix.Mount(p.dev, p.dir, p.kind, 0, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", p.kind, p.dir, err)
	}
	return nil
}

func (p place) again() error { return errors.Join(guest.Unmount(p.dir), p.mount()) }

// steps runs commands until one does not end as it should.
type steps struct {
	what string
	l    *guest.Lab
	bad  bool
}

func (s *steps) run(want int, args ...string) string {
	if s.bad {
		return ""
	}
	code, out := guest.Tandem(args...)
	if code != want {
		s.bad = true
		s.l.Fail("%s: tandem %q: exit code %d, want %d\n%s", s.what, args, code, want, out)
	}
	return out
}

func (s *steps) do(err error) {
	if err != nil && !s.bad {
		s.bad = true
		s.l.Fail("%s: %v", s.what, err)
	}
}

func (s *steps) holds(name, want string) {
	data, err := os.ReadFile(name)
	if s.do(err); string(data) != want && !s.bad {
		s.do(fmt.Errorf("%s holds %q, want %q", name, data, want))
	}
}

// life runs a device with both sides on other file systems.
func life(l *guest.Lab, system, usrData place) {
	s := &steps{what: "a life with system on " + system.kind + " and usr_data on " + usrData.kind, l: l}
	s.do(errors.Join(system.renew(), usrData.renew()))
	s.run(0, "install", l.Bundle("1.0.0"))
	live := guest.Live + "/apps/"
	s.do(os.WriteFile(live+"etc/app.conf", []byte("edited"), 0o600))
	s.do(os.WriteFile(live+"etc/Own.conf", []byte("own"), 0o640))
	s.do(os.Chown(live+"etc/Own.conf", 12, 34))
	s.do(os.Symlink("app.conf", live+"etc/link.conf"))
	s.run(0, "backup")
	s.holds(guest.Backup+"/apps/etc/app.conf", "edited")
	s.do(errors.Join(system.again(), usrData.again()))
	if out := s.run(0, "boot"); !strings.Contains(out, "in step at 1.0.0") {
		s.do(fmt.Errorf("boot does not say that there is nothing to do: %s", out))
	}
	s.run(0, "verify")
	s.run(0, "install", l.Bundle("1.1.0"))
	s.do(os.WriteFile(live+"etc/app.conf", []byte("edited again"), 0o600))
	s.run(0, "boot")
	s.run(0, "rollback")
	s.do(errors.Join(system.again(), usrData.again()))
	s.run(0, "boot")
	s.do(os.Remove(live + "etc/Own.conf"))
	s.do(os.WriteFile(live+"etc/Own.conf", []byte("another"), 0o640))
	s.run(0, "backup")
	s.holds(guest.Backup+"/apps/etc/Own.conf", "another")
	// The record brings back what the file system of the backup cannot hold.
	s.do(guest.Unmount(system.dir))
	s.do(system.renew())
	s.run(0, "boot")
	s.holds(live+"etc/Own.conf", "another")
	s.holds(live+"etc/link.conf", "edited") // as it came back with 1.0.0
	if info, err := os.Stat(live + "bin/app"); err != nil || info.Mode().Perm() != 0o755 {
		s.do(fmt.Errorf("bin/app after a restore: %v, %v", info, err))
	}
	s.do(guest.Unmount(usrData.dir))
	s.do(usrData.renew())
	s.run(0, "boot")
	s.do(errors.Join(system.again(), usrData.again()))
	s.run(0, "verify")
	s.do(errors.Join(guest.Unmount(system.dir), guest.Unmount(usrData.dir)))
	if !s.bad {
		fmt.Println("ok: " + s.what)
	}
}

// hooked is a configuration whose stop hook has the disk of a side fail.
const hooked = "/etc/failing.toml"

// failing has the disk of one side fail in the middle of an installation: between what is
// staged and what is committed.
func failing(l *guest.Lab, name string) {
	s := &steps{what: "the disk of " + name + " fails in the middle of an installation", l: l}
	text, err := os.ReadFile("/etc/tandem.toml")
	s.do(err)
	s.do(os.WriteFile(hooked, fmt.Appendf(text, "\n[hooks]\nstop = [\"/init\", \"fail\", %q]\n", name), 0o644))
	blank, err := os.Stat("/ext4.img")
	s.do(err)
	if s.bad {
		return
	}
	sectors := blank.Size() / sector
	sides := []place{{guest.SystemDir, "/dev/dm-0", "ext4"}, {guest.UsrDataDir, "/dev/dm-1", "ext4"}}
	for i, p := range []string{"system", "usr_data"} {
		s.do(dmAdd(p, sectors, "linear", fmt.Sprintf("/dev/ram%d 0", i)))
		s.do(guest.WaitFor(sides[i].dev))
		s.do(sides[i].renew())
	}
	s.run(0, "install", l.Bundle("1.0.0"))
	code, out := guest.Tandem("--config", hooked, "install", l.Bundle("1.1.0"))
	if code == 0 {
		s.do(fmt.Errorf("the installation said that it is done: %s", out))
	}
	for i, p := range []string{"system", "usr_data"} {
		s.do(guest.Unmount(sides[i].dir))
		s.do(dmSwap(p, sectors, "linear", fmt.Sprintf("/dev/ram%d 0", i)))
		s.do(sides[i].mount())
	}
	s.run(0, "boot")
	s.run(0, "verify")
	tags := map[string]bool{}
	for _, side := range []string{guest.Live, guest.Backup} {
		tag, err := os.ReadFile(filepath.Join(side, "app_ver.txt"))
		s.do(err)
		tags[string(tag)] = true
	}
	if len(tags) != 1 {
		s.do(fmt.Errorf("the sides hold %v after the boot", tags))
	}
	for i, p := range []string{"system", "usr_data"} {
		s.do(guest.Unmount(sides[i].dir))
		s.do(dm(dmRemove, p, 0, nil))
	}
	if !s.bad {
		fmt.Printf("ok: %s: exit code %d\n", s.what, code)
	}
}

// fail has the disk of a side fail from now on.
func fail(name string) error {
	blank, err := os.Stat("/ext4.img")
	if err != nil {
		return err
	}
	return dmSwap(name, blank.Size()/sector, "error", "")
}

// others runs what has no cuts: the disk is not in use.
func others(l *guest.Lab) {
	fmt.Println("== Other file systems, and disks that fail")
	system, usrData := place{guest.SystemDir, "/dev/ram0", "f2fs"}, place{guest.UsrDataDir, "/dev/ram1", "f2fs"}
	life(l, system, usrData)
	system.kind, usrData.kind = "ext4", "vfat"
	life(l, system, usrData)
	failing(l, "system")
	failing(l, "usr_data")
}
