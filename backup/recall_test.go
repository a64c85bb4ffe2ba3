package backup

import (
	"context"
	"errors"
	"fmt"
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
