package backup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/backup/tree"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// Whatever happens to the sides: where they are said to rest, a whole look finds
// nothing to do, and the same. Looked at both at once they are what they are one after
// the other.
func TestRestAgreesWithALook(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		restAgrees(t, 12)
	} else {
		restAgrees(t, 120)
	}
}

// The same, 2,000 times.
func TestLongRestAgreesWithALook(t *testing.T) {
	if os.Getenv("TANDEM_LONG") == "" {
		t.Skip("set TANDEM_LONG=1 to run it")
	}
	restAgrees(t, 2000)
}

func restAgrees(t *testing.T, seeds uint64) {
	names := []string{"bin/app", "etc/app.conf", "etc/own.conf", "etc/own.conf-x", "etc/own.conf/below", "etc/app.pid", "share/deep", "a-b", "a/c", "a"}
	rested := 0
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 17))
		l := newLab(t, memfs.Options{})
		l.release(System, "1.0.0")
		l.sameAtOnce(Options{})
		var done []string
		for range 12 {
			side := System
			if rng.IntN(4) == 0 {
				side = UsrData
			}
			name := "apps/" + names[rng.IntN(len(names))]
			disk, fs := l.m.Disk(string(side)), l.fs(side)
			info, err := fs.Lstat(name)
			file := err == nil && info.Type == fsys.TypeFile
			what := rng.IntN(10)
			switch {
			case what == 0 && file:
				l.must(disk.Edit(name, func(b []byte) []byte { return append(b, 'e') }))
			case what == 1 && file && info.Size > 0:
				l.must(disk.Damage(name, func(b []byte) []byte { b[0] ^= 1; return b }))
			case what == 2 && err == nil:
				l.remove(side, name)
			case what == 3 && fsys.IsNotExist(err):
				_ = fs.Mkdir(name, 0o700) // the directory above may not be there
			case what == 4 && fsys.IsNotExist(err):
				if f, err := fs.Create(name, 0o644); err == nil {
					l.must(f.Close())
				}
			case what == 5 && fsys.IsNotExist(err):
				_ = disk.Mkfifo(name, 0o600)
			case what == 6 && file:
				l.must(fs.SetAttr(name, fsys.Attr{Mode: info.Mode ^ 0o022, UID: info.UID, GID: info.GID, Mtime: info.Mtime}, info))
			case what == 7:
				l.m.Advance(time.Duration(rng.IntN(3)) * tree.Tick)
			case what == 8:
				l.m.Restart(memfs.Random(rng))
			default:
				l.sameAtOnce(Options{Shutdown: rng.IntN(3) == 0})
			}
			done = append(done, fmt.Sprint(what, " ", side, " ", name))
			r, atOnce := l.reconciler(), l.reconciler()
			atOnce.AtOnce = true
			if one, both := told(r), told(atOnce); one != both {
				t.Fatalf("seed %d: %s, but at once %s after\n%q", seed, one, both, done)
			}
			system, usrData := newJob(r, Options{}).rest(context.Background())
			if system == nil {
				continue
			}
			rested++
			j := newJob(r, Options{})
			j.fresh = false
			res, err := j.look(context.Background(), Options{})
			if err == nil && j.young(res.System) {
				t.Fatalf("seed %d: at rest, but just written after\n%q", seed, done)
			}
			if err != nil || res.Decision.Action != Nothing {
				t.Fatalf("seed %d: at rest, but a whole look says %v, %v after\n%q", seed, res.Decision, err, done)
			}
			for _, s := range [][2]*Snapshot{{system, res.System}, {usrData, res.UsrData}} {
				a, b := s[0], s[1]
				if a.Revision != b.Revision || a.Files != b.Files || a.Version.String() != b.Version.String() || !slices.Equal(a.Foreign, b.Foreign) || a.ownSum != b.ownSum || len(b.facts.Odd) > 0 {
					t.Fatalf("seed %d: at rest %+v, by a whole look %+v after\n%q", seed, a, b, done)
				}
			}
		}
	}
	if uint64(rested) < seeds*5/6 {
		t.Errorf("at rest %d times: this compares nothing", rested)
	}
	t.Logf("at rest %d times", rested)
}

// sameAtOnce reconciles, and holds that it comes to the same where files are described and
// copied several at once.
func (l *lab) sameAtOnce(o Options) {
	l.t.Helper()
	atOnce := l.clone()
	end := func(l *lab, at bool) string {
		r := l.reconciler()
		r.AtOnce = at
		res, err := r.Reconcile(context.Background(), o)
		return fmt.Sprintln(err, res.Version, res.Revision, res.Files, res.Bytes, res.Conflicts, l.tag(System), l.tag(UsrData), l.files(System, "apps"), l.files(UsrData, "apps"))
	}
	if one, both := end(l, false), end(atOnce, true); one != both {
		l.t.Fatalf("one after the other:\n%s\nat once:\n%s", one, both)
	}
}

// told is what two looks find, a quick one and a full one, and how they decide.
func told(r *Reconciler) string {
	var all strings.Builder
	for _, full := range []bool{false, true} {
		res, err := r.Look(context.Background(), Options{Full: full})
		fmt.Fprintln(&all, err)
		if res == nil {
			continue
		}
		fmt.Fprintf(&all, "%+v\n", res.Decision)
		for _, s := range []*Snapshot{res.System, res.UsrData} {
			fmt.Fprintln(&all, s.State, s.Version, s.Revision, s.Files, s.Detail, s.Problems, s.Edited, s.Busy, s.Skipped, s.Foreign, s.Adopted, s.Nested, s.Commit)
		}
	}
	return all.String()
}
