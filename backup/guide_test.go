package backup

import (
	"errors"
	"testing"

	"tandem/backup/change"
	"tandem/internal/fsys/memfs"
)

// The situations and tests of the vendor's guide, each side in turn.
func TestGuide(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(l *lab)
		action  Action
		want    string
	}{
		{"first flash: the backup is empty", func(l *lab) { l.release(System, "1.0.0") }, BackUp, "1.0.0"},
		{"only the backup is left", func(l *lab) { l.release(UsrData, "1.0.0") }, Restore, "1.0.0"},
		{"usr_data was formatted", func(l *lab) { l.release(System, "1.0.0"); l.mustBoot(); l.erase(UsrData) }, BackUp, "1.0.0"},
		{"system was erased", func(l *lab) { l.release(System, "1.0.0"); l.mustBoot(); l.erase(System) }, Restore, "1.0.0"},
		{"the application was upgraded by hand", func(l *lab) {
			l.release(System, "1.0.0")
			l.mustBoot()
			l.remove(System, "apps")
			l.release(System, "1.1.0")
		}, BackUp, "1.1.0"},
		{"the backup was upgraded by hand", func(l *lab) {
			l.release(System, "1.0.0")
			l.mustBoot()
			l.remove(UsrData, "apps")
			l.release(UsrData, "1.1.0")
		}, Restore, "1.1.0"},
		{"system was reset to the factory's version", func(l *lab) {
			l.release(System, "1.1.0")
			l.mustBoot()
			l.erase(System)
			l.release(System, "1.0.0")
		}, Restore, "1.1.0"},
		{"applications and tag deleted on system", func(l *lab) {
			l.release(System, "1.0.0")
			l.mustBoot()
			l.remove(System, "apps", "app_ver.txt")
		}, Restore, "1.0.0"},
		{"applications and tag deleted on usr_data", func(l *lab) {
			l.release(System, "1.0.0")
			l.mustBoot()
			l.remove(UsrData, "apps", "app_ver.txt")
		}, BackUp, "1.0.0"},
		{"only the files deleted on system", func(l *lab) {
			l.release(System, "1.0.0")
			l.mustBoot()
			l.remove(System, "apps")
		}, Repair, "1.0.0"},
		{"only the files deleted on usr_data", func(l *lab) {
			l.release(System, "1.0.0")
			l.mustBoot()
			l.remove(UsrData, "apps")
		}, Repair, "1.0.0"},
		{"whole-number tags", func(l *lab) { l.release(System, "9"); l.release(UsrData, "10") }, Restore, "10"},
		{"a backup without a tag is an unfinished copy", func(l *lab) {
			l.release(System, "1.0.0")
			l.release(UsrData, "2.0.0")
			l.remove(UsrData, "app_ver.txt")
		}, BackUp, "1.0.0"},
		{"a backup nested by the vendor's script", func(l *lab) {
			l.release(UsrData, "3")
			l.must(l.fs(UsrData).Rename("apps", "x"))
			l.must(l.fs(UsrData).Mkdir("apps", 0o755))
			l.must(l.fs(UsrData).Rename("x", "apps/apps"))
		}, Restore, "3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, o := range []memfs.Options{{}, {NoExchange: true, NoSyncReports: true, CoarseMtime: true}} {
				l := newLab(t, o)
				tc.prepare(l)
				if res := l.mustBoot(); res.Decision.Action != tc.action {
					t.Errorf("decided to %s (%s), want %s", res.Decision.Action, res.Decision.Reason, tc.action)
				}
				l.wantInStep(tc.want)
				if err := l.holdsRelease(System, change.AppsDir, tc.want); err != nil {
					t.Error(err)
				}
				ops := l.m.Ops()
				if res := l.mustBoot(); res.Decision.Action != Nothing {
					t.Errorf("the next boot decided to %s (%s)", res.Decision.Action, res.Decision.Reason)
				}
				if n := l.m.Ops() - ops; n != 0 {
					t.Errorf("a boot with nothing to do made %d changes: %v", n, l.m.Trace()[ops:])
				}
			}
		})
	}
}

func TestNothingToSave(t *testing.T) {
	l := newLab(t, memfs.Options{})
	if _, err := l.boot(); !errors.Is(err, ErrNoApplication) {
		t.Errorf("empty device: %v", err)
	}
	l.write(System, "apps/bin/app", "half a copy")
	if _, err := l.boot(); !errors.Is(err, ErrDamage) {
		t.Errorf("files without a tag: %v", err)
	}
	if got := l.read(System, "apps/bin/app"); got != "half a copy" {
		t.Errorf("the files were touched: %q", got)
	}
}
