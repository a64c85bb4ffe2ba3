package backup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// What is forgotten right after a power cut stays away, also where another one
// comes at any point of it once the change is committed; before, it is all there.
func TestForgetAfterPowerCut(t *testing.T) {
	t.Parallel()
	l := newLab(t, memfs.Options{})
	l.release(System, "1.0.0")
	l.mustBoot()
	names := []string{"apps/own/one.conf", "apps/own/two.conf"}
	for _, n := range names {
		l.write(System, n, "mine")
	}
	l.mustBoot()
	l.m.Restart(memfs.Everything())
	for i, machine := range l.m.Cuts(func(m *memfs.Machine) {
		_, _ = (&lab{t, m}).reconciler().Reconcile(context.Background(), Options{Forget: "own"})
	}) {
		machine.Restart(memfs.Everything())
		after := &lab{t, machine}
		after.mustBoot()
		after.wantInStep("1.0.0")
		_, one := after.fs(UsrData).Lstat(names[0])
		_, two := after.fs(UsrData).Lstat(names[1])
		if fsys.IsNotExist(one) != fsys.IsNotExist(two) {
			t.Errorf("cut %d: %v, %v", i, one, two)
		}
	}
	if _, err := l.reconciler().Reconcile(context.Background(), Options{Forget: "own"}); err != nil {
		t.Fatal(err)
	}
	l.m.Restart(memfs.Everything())
	l.mustBoot()
	l.wantInStep("1.0.0")
	if _, err := l.fs(System).Lstat("apps/own"); !fsys.IsNotExist(err) {
		t.Errorf("it is back: %v", err)
	}
	if _, err := l.reconciler().Reconcile(context.Background(), Options{Forget: "own"}); !errors.Is(err, ErrNoSuchPath) {
		t.Errorf("%v, want ErrNoSuchPath", err)
	}
}

// A program that goes on writing a file of the release, which is mended each time, does not
// push out what else lies aside.
func TestAsideKeepsOtherPaths(t *testing.T) {
	t.Parallel()
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.write(System, "apps/bin/helper", "of a person")
	for i := range 40 {
		l.write(System, "apps/bin/app", fmt.Sprint("of the application ", i))
		l.mustBoot()
	}
	list, err := l.reconciler().ListAside()
	l.must(err)
	if n := len(list); n == 0 || n > 33 || list[0].Path != "bin/app" || list[n-1].Path != "bin/helper" {
		t.Fatalf("aside lies %v", list)
	}
	if got := l.read(System, list[0].it.Name); got != "of the application 39" {
		t.Errorf("the newest is %q", got)
	}
}

// Wherever the power fails while a database is recalled, what lay there and what is recalled
// are in their place or aside, each with its journal; and it can be recalled again.
func TestRecallPowerCut(t *testing.T) {
	t.Parallel()
	const db = "apps/own/db"
	for name, o := range map[string]memfs.Options{"exchange": {SyncCheap: true}, "flash": {}, "two renames": {NoExchange: true, NoSyncReports: true}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, o)
			l.release(System, "1.0.0")
			l.mustBoot()
			l.write(System, db, "edited")
			l.write(System, db+"-journal", "journal of what was edited")
			l.mustBoot()
			l.write(System, db, "")
			l.write(System, db+"-journal", "")
			l.mustBoot()
			l.remove(System, db+"-journal")
			l.write(System, db, "newer")
			l.write(System, db+"-wal", "journal of what is newer")
			l.mustBoot()
			l.m.Restart(memfs.Everything())
			l.mustBoot()
			recall := func(l *lab) error {
				if _, err := l.reconciler().Recall(context.Background(), "own/db", false); err != nil {
					return err
				}
				_, err := l.boot()
				return err
			}
			lies := func(l *lab, name, content string) bool {
				list, err := l.reconciler().ListAside()
				l.must(err)
				found := l.read(System, name) == content
				for _, a := range list {
					found = found || l.read(a.Side, a.it.Name) == content
				}
				return found
			}
			for i, machine := range l.m.Cuts(func(m *memfs.Machine) { _ = recall(&lab{t, m}) }) {
				for n, survives := range []memfs.Choice{memfs.Everything(), memfs.Nothing(), memfs.Random(rand.New(rand.NewPCG(1, uint64(i)))), memfs.Random(rand.New(rand.NewPCG(2, uint64(i))))} {
					after := (&lab{t, machine}).clone()
					after.m.Restart(survives)
					after.mustBoot()
					after.wantInStep("1.0.0")
					for content, name := range map[string]string{"edited": db, "journal of what was edited": db + "-journal", "newer": db, "journal of what is newer": db + "-wal"} {
						if !lies(after, name, content) {
							t.Errorf("cut %d, choice %d: %q is nowhere", i, n, content)
						}
					}
					if _, err := after.fs(System).Lstat(db + "-wal"); after.read(System, db) == "edited" && !fsys.IsNotExist(err) {
						t.Errorf("cut %d, choice %d: it has the journal of another: %v", i, n, err)
					}
				}
			}
			l.must(recall(l))
			l.wantInStep("1.0.0")
			if a, b := l.read(UsrData, db), l.read(UsrData, db+"-journal"); a != "edited" || b != "journal of what was edited" {
				t.Errorf("recalled %q with %q", a, b)
			}
			if _, err := l.fs(UsrData).Lstat(db + "-wal"); !fsys.IsNotExist(err) {
				t.Errorf("the journal of the other is still there: %v", err)
			}
		})
	}
}
