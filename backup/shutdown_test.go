package backup

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"tandem/backup/change"
	"tandem/backup/tree"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// What is removed or emptied between an orderly end and the next start was meant;
// after a power cut, or a start that came in between, it is damage.
func TestOrderlyEnd(t *testing.T) {
	t.Parallel()
	const gone, empty = "apps/etc/gone.conf", "apps/own/empty.conf"
	end := Options{Shutdown: true}
	cut := func(l *lab, seed uint64) { l.m.Restart(memfs.Random(rand.New(rand.NewPCG(1, seed)))) }
	for name, tc := range map[string]struct {
		before func(l *lab, seed uint64)
		meant  bool
	}{
		"orderly":            {func(l *lab, _ uint64) { l.reconcile(end) }, true},
		"twice":              {func(l *lab, _ uint64) { l.reconcile(end); l.reconcile(end) }, true},
		"a power cut":        {func(l *lab, _ uint64) { l.mustBoot() }, false},
		"a backup after it":  {func(l *lab, _ uint64) { l.reconcile(end); l.mustBoot() }, false},
		"a start after it":   {func(l *lab, seed uint64) { l.reconcile(end); cut(l, seed); l.mustBoot() }, false},
		"a start that fails": {func(l *lab, seed uint64) { l.reconcile(end); cut(l, seed); l.failedBoot() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(20) {
				l := newLab(t, memfs.Options{})
				l.release(System, "1.0.0")
				l.mustBoot()
				l.write(System, gone, "mine")
				l.write(System, empty, "mine")
				l.mustBoot()
				tc.before(l, seed)
				l.remove(System, gone)
				l.write(System, empty, "")
				l.must(l.fs(System).Sync())
				cut(l, seed)
				res := l.mustBoot()
				l.wantInStep("1.0.0")
				_, err := l.fs(UsrData).Lstat(gone)
				if fsys.IsNotExist(err) != tc.meant || (l.read(UsrData, empty) == "") != tc.meant {
					t.Fatalf("seed %d: %s: the one: %v, the other: %q", seed, res.Decision.Action, err, l.read(UsrData, empty))
				}
			}
		})
	}
}

// A note of an orderly end is used up durably, however the next start ends.
func TestOrderlyEndIsUsedUp(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(l *lab){
		"nothing to do": func(l *lab) { l.mustBoot() },
		"a side is not mounted": func(l *lab) {
			r := l.reconciler()
			r.UsrData.Ready = func() error { return ErrUnavailable }
			if _, err := r.Reconcile(context.Background(), Options{}); !errors.Is(err, ErrUnavailable) {
				t.Errorf("%v, want ErrUnavailable", err)
			}
		},
		"a repair":       func(l *lab) { l.remove(System, "apps/bin/app"); l.mustBoot() },
		"it is told off": func(l *lab) { l.failedBoot() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(20) {
				l := newLab(t, memfs.Options{})
				l.release(System, "1.0.0")
				l.mustBoot()
				l.reconcile(Options{Shutdown: true})
				l.m.Restart(memfs.Random(rand.New(rand.NewPCG(2, seed))))
				x, err := tree.LoadIndex(l.fs(System), change.IndexFile)
				if err != nil || x == nil || !x.Orderly {
					t.Fatalf("seed %d: no note after the orderly end: %v, %v", seed, x, err)
				}
				start(l)
				l.m.Restart(memfs.Random(rand.New(rand.NewPCG(3, seed))))
				if x, err = tree.LoadIndex(l.fs(System), change.IndexFile); err != nil || x != nil && x.Orderly {
					t.Errorf("seed %d: the note is still there after a start and a power cut (%v)", seed, err)
				}
			}
		})
	}
}

// An orderly end without usr_data is one for system: what was removed or emptied there was meant.
func TestOrderlyEndWithoutBackup(t *testing.T) {
	const gone, empty = "apps/etc/gone.conf", "apps/own/empty.conf"
	for seed := range uint64(20) {
		l := newLab(t, memfs.Options{})
		l.release(System, "1.0.0")
		l.mustBoot()
		l.write(System, gone, "mine")
		l.write(System, empty, "mine")
		l.mustBoot()
		if seed%2 == 0 {
			l.remove(System, gone)
		}
		l.write(System, empty, "")
		r := l.reconciler()
		r.UsrData.Ready = func() error { return ErrUnavailable }
		if _, err := r.Reconcile(t.Context(), Options{Shutdown: true}); !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		l.m.Restart(memfs.Random(rand.New(rand.NewPCG(2, seed))))
		l.mustBoot()
		l.wantInStep("1.0.0")
		_, err := l.fs(UsrData).Lstat(gone)
		if fsys.IsNotExist(err) != (seed%2 == 0) || l.read(UsrData, empty) != "" {
			t.Errorf("seed %d: the one: %v, the other: %q", seed, err, l.read(UsrData, empty))
		}
	}
}

func (l *lab) reconcile(o Options) {
	l.t.Helper()
	if _, err := l.reconciler().Reconcile(context.Background(), o); err != nil {
		l.t.Fatal(err)
	}
}

// failedBoot is a boot that is told to end before it looked.
func (l *lab) failedBoot() {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.reconciler().Reconcile(ctx, Options{}); err == nil {
		l.t.Fatal("the boot did not fail")
	}
}
