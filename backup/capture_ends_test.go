package backup

import (
	"context"
	"path"
	"strings"
	"testing"
	"time"

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

// What belongs to a captured file and is written while that is staged is captured with it:
// the two are of one moment on usr_data, also as soon as the command has ended.
func TestCaptureIsOneMoment(t *testing.T) {
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.write(System, "apps/data/pages", "1")
	l.write(System, "apps/data/index", "1")
	l.m.Advance(time.Minute)
	l.mustBoot()
	l.write(System, "apps/data/pages", "2")
	l.m.Advance(time.Minute)
	wrote := false
	l.m.Before(func(op, name string) {
		if op == "create" && strings.Contains(name, "usr_data/.tandem/next/new/") && !wrote {
			wrote = true
			l.write(System, "apps/data/index", "2")
		}
	})
	l.mustBoot()
	l.m.Before(nil)
	pages, index := l.read(UsrData, "apps/data/pages"), l.read(UsrData, "apps/data/index")
	if !wrote || pages != "2" || index != "2" {
		t.Errorf("written meanwhile: %t; usr_data has pages of %s, an index of %s", wrote, pages, index)
	}
}
