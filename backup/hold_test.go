package backup

import (
	"context"
	"errors"
	"strings"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

func TestCouldHold(t *testing.T) {
	l := newLab(t, memfs.Options{Capacity: 100 * 4096})
	l.mustInstall("1.0.0", big("1.0.0"), InstallOptions{})
	r := l.reconciler()
	for _, side := range []SideName{System, UsrData} {
		// All but some blocks of directories and records can be had.
		if err := r.CouldHold(side, 80*4096); err != nil {
			t.Errorf("%s: %v", side, err)
		}
		if err := r.CouldHold(side, 101*4096); !errors.Is(err, ErrNoSpace) {
			t.Errorf("%s: %v, want ErrNoSpace", side, err)
		}
	}
}

// What is deleted while the backup of a version is held back stays deleted, however
// often the device looks, ends in order and starts; and the backup stays held back.
func TestDeletedWhileHeld(t *testing.T) {
	t.Parallel()
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	m, content := bundleOf("1.1.0", nil)
	ctx := context.Background()
	i, err := l.reconciler().BeginInstall(ctx, m, InstallOptions{Pending: true, Now: l.m.Now()})
	l.must(err)
	for _, e := range m.Files {
		if i.Wants(e.Path) {
			l.must(i.Put(ctx, e.Path, strings.NewReader(content[e.Path])))
		}
	}
	l.must(i.Commit(ctx))
	o := Options{Hold: m.Version}
	l.reconcile(o)
	l.remove(System, "apps/etc/app.conf")
	for range 3 {
		l.reconcile(o)
	}
	l.reconcile(Options{Hold: m.Version, Shutdown: true})
	l.m.Restart(memfs.Everything())
	for range 3 {
		l.reconcile(o)
	}
	if got := l.tag(UsrData); got != "1.0.0" {
		t.Errorf("usr_data has %s while the backup is held back", got)
	}
	l.mustBoot()
	l.wantInStep("1.1.0")
	if _, err := l.fs(System).Lstat("apps/etc/app.conf"); !fsys.IsNotExist(err) {
		t.Errorf("it is back: %v", err)
	}
}
