package backup

import (
	"testing"

	"tandem/internal/fsys/memfs"
)

// Why a version is given up is told until that is over, whatever is cut off meanwhile, and
// also where one side is lost.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.mustInstall("1.1.0", nil, InstallOptions{})
	r := l.reconciler()
	l.must(r.GiveUp("nothing waits"))
	if p := r.GivenUp(); p != nil {
		t.Fatalf("given up is %v, and nothing waited to be confirmed", p)
	}
	l.must(r.SetPending(Pending{Version: v("1.1.0")}))
	l.must(r.GiveUp("no answer"))
	told := func(when string, r *Reconciler) {
		t.Helper()
		if p := r.GivenUp(); p == nil || p.Version.String() != "1.1.0" || p.Failed != "no answer" {
			t.Errorf("%s: given up is %v", when, p)
		}
	}
	told("at once", r)
	cut := l.clone()
	cut.m.Restart(memfs.Nothing())
	told("after a power cut", cut.reconciler())
	for _, lost := range []SideName{System, UsrData} {
		c := l.clone()
		c.erase(lost)
		told(string(lost)+" is lost", c.reconciler())
	}
	l.must(r.ClearPending())
	if p := r.GivenUp(); p != nil {
		t.Errorf("it is over, and given up is %v", p)
	}
}
