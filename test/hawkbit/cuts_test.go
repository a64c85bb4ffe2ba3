package hawkbit_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"tandem/internal/fsys/memfs"
	"tandem/test/hawkbit"
)

// fates are what becomes of an action. Each is driven by what the operator and the
// device do before a round; it is called before each one.
var fates = []struct {
	name     string
	act      func(b *bench, action int64, round int)
	ends     []string // how the server may see its end
	installs int      // at most
}{
	{"success", func(*bench, int64, int) {}, []string{"finished"}, 1},
	{"unhealthy", func(b *bench, _ int64, _ int) {
		if b.installed["hello"] == "2.0.0" {
			b.installed["hello"], b.failed["2.0.0"] = "1.0.0", "rolled back"
		}
	}, []string{"error"}, 1},
	{"canceled at once", func(b *bench, n int64, round int) {
		if round == 0 {
			b.check(b.op.Cancel(b.ctx, device, n, false))
		}
	}, []string{"canceled"}, 0},
	{"canceled", func(b *bench, n int64, round int) {
		if round == 1 {
			b.check(b.op.Cancel(b.ctx, device, n, false))
		}
	}, []string{"canceled", "finished"}, 1},
	{"force quit", func(b *bench, n int64, round int) {
		if round == 1 {
			b.check(b.op.Cancel(b.ctx, device, n, false))
			_ = b.op.Cancel(b.ctx, device, n, true) // it may be over
		}
	}, []string{"canceled", "finished"}, 1},
	{"refused", func(b *bench, _ int64, _ int) {
		b.hold = true // a hook says so each time it is asked
		_ = b.source().Failed(b.sumOf("2.0.0"), errors.New("a hook says no"))
	}, []string{"error"}, 0},
}

// The power is cut at each operation on the disk, what was not durable is lost in
// several ways, and the device goes on: the server's action ends as it must, and
// nothing is installed twice.
func TestCutAnywhere(t *testing.T) {
	for _, fate := range fates {
		t.Run(fate.name, func(t *testing.T) {
			t.Parallel()
			cuts := 0
			for cut := 1; ; cut++ {
				struck := false
				choices := []memfs.Choice{memfs.Nothing(), memfs.Everything(), memfs.Random(rand.New(rand.NewPCG(1, uint64(cut))))}
				for _, choice := range choices {
					m := memfs.NewMachine()
					b := newBenchOn(t, m.NewDisk("state", memfs.Options{}).FS())
					n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
					m.CutAt(m.Ops() + cut)
					struck = b.live(m, choice, n, fate.act) || struck
					state, err := b.op.Action(b.ctx, device, n)
					b.check(err)
					if state.Active || !slices.Contains(fate.ends, state.Status) {
						t.Errorf("cut at %d, %s: the action is %s, active %v: expected %q\n%s", cut, choice, state.Status, state.Active, fate.ends, b.history(n))
					}
					if len(b.installs) > fate.installs {
						t.Errorf("cut at %d, %s: installed %q", cut, choice, b.installs)
					}
					b.server.Close()
				}
				if !struck {
					break
				}
				cuts++
			}
			t.Logf("%d operations to cut at", cuts)
			if cuts < 3 {
				t.Error("too few: nothing was written")
			}
		})
	}
}

// live takes rounds until the action is over and the device has nothing to do. It
// reports whether the power was cut.
func (b *bench) live(m *memfs.Machine, choice memfs.Choice, action int64, act func(*bench, int64, int)) (struck bool) {
	b.t.Helper()
	for round := range 12 {
		act(b, action, round)
		v, err := b.source().Sync(b.ctx, b.facts())
		if err == nil && !m.Off() {
			for _, o := range v.Offers {
				if !b.hold {
					b.installed[o.Release.App] = o.Release.Version.String()
					b.installs = append(b.installs, fmt.Sprint(o.Release.App, " ", o.Release.Version))
				}
			}
		}
		if m.Off() {
			struck = true
			m.Restart(choice)
			m.CutAt(0)
			continue
		}
		b.check(err)
		state, err := b.op.Action(b.ctx, device, action)
		b.check(err)
		if !state.Active && v.Action == 0 {
			return struck
		}
	}
	return struck
}
