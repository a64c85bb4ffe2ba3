package backup

import (
	"context"
	"path"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// afterRemoval calls then once a file of that name was removed.
type afterRemoval struct {
	fsys.FS
	name string
	then func()
}

func (f afterRemoval) Remove(name string) error {
	err := f.FS.Remove(name)
	if path.Base(name) == f.name {
		f.then()
	}
	return err
}

// A capture that is told to end comes to its end once usr_data has it: the edit
// that follows is an edit, and no conflict with a newer configuration.
func TestCaptureToldToEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t, memfs.Options{})
	l.release(System, "1.0.0")
	l.mustBoot()
	const name = "apps/etc/more.conf"
	l.write(System, name, "first")

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := l.reconciler()
	r.UsrData.FS = afterRemoval{r.UsrData.FS, "commit.json", cancel}
	if _, err := r.Reconcile(ctx, Options{}); ctx.Err() == nil {
		t.Fatalf("the capture was not told to end: %v", err)
	}

	l.write(System, name, "second")
	if res := l.mustBoot(); res.Decision.Action != Capture || len(res.Conflicts) > 0 {
		t.Errorf("the next start: %s, conflicts %q", res.Decision.Action, res.Conflicts)
	}
	for _, side := range []SideName{System, UsrData} {
		if got, err := fsys.ReadFile(l.fs(side), name, 100); err != nil || string(got) != "second" {
			t.Errorf("%s has %q, %v", side, got, err)
		}
	}
}
