package backup

import (
	"context"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/versioning"
)

// What a command has captured is on flash on system, too, though the application never synced
// it: an edit, a deletion, and all that a raised tag takes as it is. Else what a power cut
// brings back would be the next edit.
func TestCapturedIsDurable(t *testing.T) {
	for name, o := range map[string]memfs.Options{"exchange": {SyncCheap: true}, "flash": {}, "sync tells nothing": {NoSyncReports: true}} {
		for how, work := range map[string]func(l *lab){
			"boot":         func(l *lab) { l.mustBoot() },
			"installation": func(l *lab) { l.mustInstall("1.0.1", nil, InstallOptions{}) },
			"rollback": func(l *lab) {
				l.must(l.rollback(""))
				l.mustBoot()
			},
			"tag by hand": func(l *lab) {
				l.write(System, "app_ver.txt", "1.0.1\n")
				l.mustBoot()
			},
			"bump": func(l *lab) {
				_, err := l.reconciler().Bump(context.Background(), func(versioning.Version) (versioning.Version, error) { return v("1.0.1"), nil })
				l.must(err)
				l.mustBoot()
			},
		} {
			for k, choice := range memfs.Choices(1, 12) {
				l := newLab(t, o)
				l.mustInstall("0.9.0", nil, InstallOptions{})
				l.mustInstall("1.0.0", nil, InstallOptions{})
				l.write(System, "apps/data/db", "captured")
				l.write(System, "apps/other/gone", "captured")
				l.write(System, "apps/other/stays", "captured")
				l.mustBoot()
				l.must(l.fs(System).Sync())
				l.write(System, "apps/data/new", "edited")
				l.must(l.fs(System).Rename("apps/data/new", "apps/data/db"))
				l.write(System, "apps/more/own", "edited")
				l.remove(System, "apps/other/gone")
				work(l)
				l.m.Restart(choice)
				l.mustBoot()
				for _, side := range []SideName{System, UsrData} {
					for _, file := range []string{"apps/data/db", "apps/more/own"} {
						if data, err := fsys.ReadFile(l.fs(side), file, 100); err != nil || string(data) != "edited" {
							t.Errorf("%s, %s, cut %d: %s: %s is %q, %v", name, how, k, side, file, data, err)
						}
					}
					if _, err := l.fs(side).Lstat("apps/other/gone"); !fsys.IsNotExist(err) {
						t.Errorf("%s, %s, cut %d: %s: what was removed is back: %v", name, how, k, side, err)
					}
				}
			}
		}
	}
}
