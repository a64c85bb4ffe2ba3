package backup

import (
	"errors"
	"testing"

	"tandem/internal/fsys/memfs"
)

// TestRecoversAlone has a side that was cut between the two renames, and the
// other one not mounted: the application is there all the same.
func TestRecoversAlone(t *testing.T) {
	m, content := bundleOf("1.1.0", nil)
	l := newLab(t, memfs.Options{NoExchange: true})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	found := false
	for _, machine := range l.m.Cuts(func(machine *memfs.Machine) { _, _ = (&lab{t, machine}).install(m, content, InstallOptions{}) }) {
		machine.Restart(memfs.Everything())
		after := &lab{t, machine}
		if _, err := after.fs(System).Lstat(appsDir); err == nil {
			continue
		}
		found = true
		r := after.reconciler()
		r.UsrData.Ready = func() error { return ErrUnavailable }
		if _, err := r.Reconcile(t.Context(), Options{}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		if err := after.holdsRelease(System, appsDir, "1.1.0"); err != nil {
			t.Error(err)
		}
	}
	if !found {
		t.Error("no cut fell between the two renames")
	}
}
