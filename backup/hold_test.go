package backup

import (
	"errors"
	"testing"

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
