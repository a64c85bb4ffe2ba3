package backup

import (
	"context"
	"errors"
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
