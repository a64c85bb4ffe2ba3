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

// whenNamed calls then before something is given a name that ends like this.
type whenNamed struct {
	fsys.FS
	name string
	then func()
}

func (f whenNamed) Rename(from, to string) error {
	if strings.HasSuffix(to, f.name) {
		f.then()
	}
	return f.FS.Rename(from, to)
}

// lossOfContent is what may be the beginning of writing conf, or damage.
var lossOfContent = map[string]func(*lab){
	"emptied": func(l *lab) { l.write(System, conf, "") },
	"removed": func(l *lab) { l.remove(System, conf) },
}

// running reconciles while the application runs.
func (l *lab) running(r *Reconciler) *Result {
	l.t.Helper()
	res, err := r.Reconcile(context.Background(), Options{Running: true})
	if err != nil {
		l.t.Fatalf("backup: %v", err)
	}
	return res
}

func (l *lab) bothHave(want string) {
	l.t.Helper()
	for _, side := range []SideName{System, UsrData} {
		if got, err := fsys.ReadFile(l.fs(side), conf, 100); err != nil || string(got) != want {
			l.t.Errorf("%s has %q, %v; want %q", side, got, err, want)
		}
	}
}

// A running application writes a file by emptying or removing it first. What
// a look finds in between is no damage, unless it stays like that.
func TestWrittenWhileCaptured(t *testing.T) {
	t.Parallel()
	for name, begin := range lossOfContent {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			device := func() *lab {
				l := newLab(t, memfs.Options{})
				l.release(System, "1.0.0")
				l.mustBoot()
				l.m.Advance(time.Hour)
				l.write(System, conf, "first")
				r := l.reconciler()
				r.UsrData.FS = whenNamed{r.UsrData.FS, conf, func() { begin(l) }}
				if res := l.running(r); len(res.Busy) != 1 || app(".", res.Busy[0]) != conf {
					t.Errorf("left alone: %q", res.Busy)
				}
				return l
			}

			l := device()
			l.write(System, conf, "2nd 1")
			l.running(l.reconciler())
			l.bothHave("2nd 1")

			l = device() // it was no writing
			l.m.Advance(RestTime + time.Second)
			l.running(l.reconciler())
			l.bothHave("first")

			l = device() // the next start
			l.mustBoot()
			l.bothHave("first")

			l = device() // a release comes between
			l.release(System, "2.0.0")
			begin(l)
			l.running(l.reconciler())
			l.write(System, conf, "2nd 2")
			l.running(l.reconciler())
			l.bothHave("2nd 2")
		})
	}
}

// What the application writes while damage is being mended is not written over.
func TestWrittenWhileMended(t *testing.T) {
	t.Parallel()
	for name, damage := range lossOfContent {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, memfs.Options{})
			l.release(System, "1.0.0")
			l.mustBoot()
			damage(l)
			l.m.Advance(time.Hour)
			r := l.reconciler()
			once := false
			r.System.FS = whenNamed{r.System.FS, path.Base(commitFile), func() {
				if !once {
					once = true
					l.write(System, conf, "anew")
				}
			}}
			l.running(r)
			if !once {
				t.Fatal("nothing was mended")
			}
			l.bothHave("anew")
		})
	}
}
