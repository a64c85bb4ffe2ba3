package backup

import (
	"context"
	"testing"

	"tandem/backup/change"
	"tandem/internal/fsys/memfs"
)

// A dry run tells of an interrupted change that is to be finished, as what finishes it does.
func TestForeseeInterrupted(t *testing.T) {
	base := newLab(t, memfs.Options{})
	base.mustInstall("1.0.0", nil, InstallOptions{})
	base.write(System, "apps/etc/app.conf", "edited")
	interrupted := 0
	for n := 1; ; n++ {
		l := base.clone()
		l.m.CutAt(n)
		if _, err := l.boot(); err == nil {
			break
		}
		l.m.Restart(memfs.Everything())
		told, err := l.reconciler().Foresee(context.Background(), Options{})
		l.must(err)
		if u, err := change.Pending(l.fs(UsrData), nil); err == nil && u != nil {
			interrupted++
		}
		done := l.mustBoot()
		if len(told.Finished) != len(done.Finished) || told.Decision.Action != done.Decision.Action {
			t.Errorf("cut %d: told %v and %q, done %v and %q", n, told.Finished, told.Decision.Action, done.Finished, done.Decision.Action)
		}
	}
	if interrupted == 0 {
		t.Error("no change was interrupted")
	}
}
