package backup

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"tandem/backup/change"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// TestDamageIsNotCopied has bits that flipped under an unchanged size and time,
// which a quick look cannot see: the copy sees them (P5).
func TestDamageIsNotCopied(t *testing.T) {
	flip := func(b []byte) []byte { b[0] ^= 1; return b }
	for _, tc := range []struct {
		name string
		bad  SideName // whose file is damaged
		hurt func(l *lab)
	}{
		{"the backup is made from it", System, func(l *lab) { l.erase(UsrData) }},
		{"system is restored from it", UsrData, func(l *lab) { l.erase(System) }},
		{"a file is mended from it", UsrData, func(l *lab) { l.remove(System, "apps/bin/app") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, memfs.Options{})
			l.mustInstall("1.0.0", nil, InstallOptions{})
			tc.hurt(l)
			l.must(l.m.Disk(string(tc.bad)).Damage("apps/bin/app", flip))
			if _, err := l.boot(); !errors.Is(err, ErrDamage) {
				t.Errorf("boot: %v, want ErrDamage", err)
			}
			other := tc.bad.Other()
			if _, err := l.fs(other).Lstat("apps/bin/app"); !fsys.IsNotExist(err) {
				t.Errorf("%s has the file now: %q (%v)", other, l.read(other, "apps/bin/app"), err)
			}
			if got := l.tag(other); got != "" && tc.name != "a file is mended from it" {
				t.Errorf("%s has the tag %s", other, got)
			}
		})
	}
}

// What the disk gives at the second try is no damage: an edit that nobody captured yet is not
// replaced by the capture before.
func TestSecondTry(t *testing.T) {
	for _, op := range []string{"open", "read", "stat", "xattrs", "readdir", "readlink"} {
		for n := 1; ; n++ {
			l := newLab(t, memfs.Options{})
			l.mustInstall("1.0.0", nil, InstallOptions{})
			l.write(System, "apps/etc/new/app.conf", "captured")
			l.must(l.fs(System).Symlink("old", "apps/etc/new/link"))
			l.mustBoot()
			l.write(System, "apps/etc/new/app.conf", "edited")
			l.remove(System, "apps/etc/new/link")
			l.must(l.fs(System).Symlink("edited", "apps/etc/new/link"))
			looks := 0
			l.m.FailLooks(func(o, path string) error {
				if o == op && strings.Contains(path, "system/apps/etc/new") {
					if looks++; looks == n {
						return syscall.EIO
					}
				}
				return nil
			})
			r := l.reconciler()
			r.System, r.UsrData = NewSide(System, l.fs(System)), NewSide(UsrData, l.fs(UsrData))
			_, err := r.Reconcile(t.Context(), Options{})
			l.must(err)
			l.m.FailLooks(nil)
			if looks < n {
				break
			}
			target, err := l.fs(UsrData).Readlink("apps/etc/new/link")
			if got := l.read(UsrData, "apps/etc/new/app.conf"); got != "edited" || target != "edited" || err != nil {
				t.Errorf("%s %d: usr_data has %q and a link to %q (%v)", op, n, got, target, err)
			}
		}
	}
}

// An edit that the disk does not give makes way for its last capture, and goes aside: it may
// be read another time.
func TestUnreadableEditGoesAside(t *testing.T) {
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.write(System, "apps/etc/app.conf", "captured")
	l.mustBoot()
	l.write(System, "apps/etc/app.conf", "edited")
	l.m.FailLooks(func(op, path string) error {
		if op == "read" && strings.HasSuffix(path, "system/apps/etc/app.conf") {
			return syscall.EIO
		}
		return nil
	})
	res, err := l.boot()
	l.must(err)
	l.m.FailLooks(nil)
	if got := l.read(System, "apps/etc/app.conf"); got != "captured" {
		t.Errorf("system has %q", got)
	}
	if len(res.Aside) != 1 {
		t.Fatalf("aside: %v", res.Aside)
	}
	if got := l.read(System, ".tandem/aside/00000001/etc/app.conf"); got != "edited" {
		t.Errorf("aside is %q", got)
	}
}

// A directory that the disk never gives is written anew once at a start, not again and again.
func TestMendedInVain(t *testing.T) {
	for _, side := range []SideName{System, UsrData} {
		l := newLab(t, memfs.Options{})
		l.mustInstall("1.0.0", nil, InstallOptions{})
		l.write(System, "apps/etc/new/app.conf", "captured")
		l.mustBoot()
		looks := 0
		l.m.FailLooks(func(op, path string) error {
			if op == "readdir" && strings.HasSuffix(path, string(side)+"/apps/etc/new") {
				looks++
				return syscall.EIO
			}
			return nil
		})
		if _, err := l.boot(); !errors.Is(err, ErrDamage) || !strings.Contains(err.Error(), "etc/new") {
			t.Errorf("%s: %v, want ErrDamage that names the directory", side, err)
		}
		if looks > 8 {
			t.Errorf("%s: it was read %d times", side, looks)
		}
	}
}

// What could not be removed takes no room for good: each start tries again.
func TestStuckIsTriedAgain(t *testing.T) {
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	for _, side := range []SideName{System, UsrData} {
		l.write(side, ".tandem/stuck-0/new/1", "a version that was in the way once")
	}
	l.mustBoot()
	for _, side := range []SideName{System, UsrData} {
		if _, err := l.fs(side).Lstat(".tandem/stuck-0"); !fsys.IsNotExist(err) {
			t.Errorf("%s still has it (%v)", side, err)
		}
	}
}

// A file that is as it was when a tree was adopted with nothing to divide it counts as the
// application's, also once the tree has another tag: lost on both sides, it is damage at each
// look, and none of its going is captured.
func TestAdoptedFileLost(t *testing.T) {
	for _, lost := range []string{"apps/bin/app", "apps"} {
		for _, tags := range [][]string{{"1.0.0"}, {"1.0.0", "1.0.1"}, {"1.0.0", "1.0.1", "restart"}} {
			l := newLab(t, memfs.Options{})
			l.write(System, "apps/bin/app", "1.0.0")
			l.write(System, "apps/etc/app.conf", "default")
			for _, tag := range tags {
				if tag == "restart" { // all is read again then
					l.m.Restart(memfs.Everything())
					tag = "1.0.2"
				}
				l.write(System, "app_ver.txt", tag+"\n")
				l.mustBoot()
			}
			for _, side := range []SideName{System, UsrData} {
				l.must(fsys.RemoveAll(l.fs(side), lost))
			}
			for range 3 {
				if _, err := l.boot(); !errors.Is(err, ErrDamage) || !strings.Contains(err.Error(), "bin/app") {
					t.Errorf("%v, then without %s: %v", tags, lost, err)
				}
			}
		}
	}
}

// A record that cannot be read for a while ends no rollback half way: an edit that is in
// what is kept alone comes back with it.
func TestRollbackWithUnreadableRecord(t *testing.T) {
	base := newLab(t, memfs.Options{})
	base.mustInstall("1.0.0", nil, InstallOptions{})
	base.write(System, "apps/etc/app.conf", "edited in 1.0.0")
	base.mustBoot()
	m, content := bundleOf("1.1.0", nil)
	m.Replace = []string{"etc/**"}
	_, err := base.install(m, content, InstallOptions{})
	base.must(err)
	base.must(base.reconciler().SetPending(Pending{Version: v("1.1.0"), Previous: v("1.0.0")}))
	base.erase(UsrData)
	base.release(UsrData, "1.0.0")
	for first, last := 1, false; !last; first++ {
		l := base.clone()
		reads := 0
		l.m.FailReads(func(path string) error {
			if strings.HasSuffix(path, "system/"+change.RecordFile) {
				if reads++; reads >= first && reads < first+4 {
					return syscall.EIO
				}
			}
			return nil
		})
		err := l.rollback("")
		l.m.FailReads(nil)
		if last = first > 1 && reads < first; err != nil {
			l.mustBoot()
		}
		if got := l.read(System, "apps/etc/app.conf"); got != "edited in 1.0.0" {
			t.Errorf("reads %d to %d failed (%v): the edit is %q", first, first+3, err, got)
		}
		l.wantInStep("1.0.0")
	}
}

// Where the memory is short for a moment to ask what one side keeps for a rollback, and it does
// not have it, the other side's is taken.
func TestKeptByTheOtherSide(t *testing.T) {
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.write(System, "apps/etc/app.conf", "edited in 1.0.0")
	l.mustBoot()
	m, content := bundleOf("1.1.0", nil)
	m.Replace = []string{"etc/**"}
	_, err := l.install(m, content, InstallOptions{})
	l.must(err)
	l.mustBoot()
	name := change.Kept(change.PreviousDir, digest.Of([]byte("edited in 1.0.0")).String())
	l.remove(System, name)
	asked := false
	l.m.FailLooks(func(op, path string) error {
		if op == "lstat" && strings.HasSuffix(path, "system/"+name) && !asked {
			asked = true
			return syscall.ENOMEM
		}
		return nil
	})
	err = l.rollback("")
	l.m.FailLooks(nil)
	if got := l.read(System, "apps/etc/app.conf"); err != nil || !asked || got != "edited in 1.0.0" {
		t.Errorf("%v, asked %v: the edit is %q", err, asked, got)
	}
}

// A side that cannot be written keeps the other one from nothing that it needs: neither where
// both have one version, nor where one is behind.
func TestOneSideCannotBeWritten(t *testing.T) {
	for _, frozen := range []SideName{System, UsrData} {
		for _, behind := range []bool{false, true} {
			l := newLab(t, memfs.Options{})
			l.mustInstall("1.0.0", nil, InstallOptions{})
			if behind {
				m, content := bundleOf("1.1.0", nil)
				r := l.reconciler()
				i, err := r.BeginInstall(t.Context(), m, InstallOptions{})
				l.must(err)
				for _, e := range m.Files {
					if i.Wants(e.Path) {
						l.must(i.Put(t.Context(), e.Path, strings.NewReader(content[e.Path])))
					}
				}
				l.must(i.Commit(t.Context()))
			}
			l.remove(System, "apps/bin/helper")
			l.write(System, "apps/etc/app.conf", "edited")
			if !behind {
				l.remove(UsrData, "apps/bin/app")
			}
			l.m.Disk(string(frozen)).SetReadOnly(true)
			if _, err := l.boot(); !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s is read-only, behind %v: %v", frozen, behind, err)
			}
			version := l.tag(System)
			if err := l.holdsRelease(frozen.Other(), change.AppsDir, version); err != nil {
				t.Errorf("%s is read-only, behind %v: %v", frozen, behind, err)
			}
			l.m.Disk(string(frozen)).SetReadOnly(false)
			l.mustBoot()
			l.wantInStep(version)
			if got := l.read(UsrData, "apps/etc/app.conf"); got != "edited" {
				t.Errorf("%s was read-only, behind %v: the edit is %q", frozen, behind, got)
			}
		}
	}
}
