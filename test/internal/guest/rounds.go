//go:build linux

package guest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// recovery is the name of the boot that follows a cut, when it is cut itself.
const recovery = "boot after a cut"

// Limit says how long to go on.
type Limit struct {
	Budget time.Duration
	Cuts   int // if not 0, it counts alone
}

// Part is a share of it.
func (n Limit) Part(share float64) Limit {
	p := Limit{Budget: time.Duration(share * float64(n.Budget)), Cuts: int(share * float64(n.Cuts))}
	if n.Cuts > 0 {
		p.Cuts = max(p.Cuts, 1)
	}
	return p
}

// Left reports whether more is to be done.
func (n Limit) Left(start time.Time, cuts int) bool {
	if n.Cuts > 0 {
		return cuts < n.Cuts
	}
	return time.Since(start) < n.Budget
}

// damageRemains is the exit code of a boot that could not repair all.
const damageRemains = 11

// tooMany failures end a part: they are likely to be the same defect.
const tooMany = 5

// enough reports whether to stop looking.
func (l *Lab) enough(bad int) bool { return bad >= tooMany || l.first && len(l.Failures) > 0 }

// Rounds does the operations in turn, each with a cut, until the limit is
// reached. reset is what to do after a failure.
func (l *Lab) Rounds(title string, operations []*Operation, n Limit, reset func() error) {
	fmt.Printf("== %s\n", title)
	start, before, bad := time.Now(), l.Report.Cuts(), 0
	said := start
	for i := 0; !l.enough(bad) && n.Left(start, l.Report.Cuts()-before); i++ {
		op := operations[l.turn%len(operations)]
		l.turn++
		if !l.round(op) {
			bad++
			if l.enough(bad) {
				break
			}
			if err := reset(); err != nil {
				l.Fail("start over: %v", err)
				break
			}
		}
		if time.Since(said) > 20*time.Second {
			said = time.Now()
			fmt.Printf("  %d rounds, %d cuts, %.0f s\n", i+1, l.Report.Cuts()-before, time.Since(start).Seconds())
		}
	}
	fmt.Printf("  %d cuts in %.0f s, %d failures\n", l.Report.Cuts()-before, time.Since(start).Seconds(), bad)
}

// round is one operation with a cut, the boot after it, in every second round
// with a cut of its own, and a last boot that is let to its end.
func (l *Lab) round(op *Operation) (ok bool) {
	defer func(start time.Time) { l.Report.Round(op.Name, time.Since(start), ok) }(time.Now())
	now, err := ReadSide(Live)
	if err != nil {
		l.Fail("read %s: %v", Live, err)
		return false
	}
	t, err := op.prepare(l, now)
	if err != nil {
		l.Fail("%s: %v", op.Name, err)
		return false
	}
	KernelLog() // what it said so far is of no interest
	log := ""
	story := []string{fmt.Sprintf("%s: from %s, tandem %s", op.Name, now["tag"], strings.Join(t.args, " "))}
	tell := func(what string, args ...any) bool {
		l.Fail("%s: %s\n    %s\n  kernel:\n%s\n  state:\n%s", op.Name, fmt.Sprintf(what, args...), strings.Join(story, "\n    "),
			lastLines(log+KernelLog(), 15, "UBI", "EXT4", "JBD2"), leftovers())
		return false
	}
	// What the sides hold now is as good before the boot as what they may hold
	// after it.
	was, err := bothSides()
	if err != nil {
		return tell("%v", err)
	}
	legal, least, promised := t.legal, "", func() string { return "" }
	for n, name, args := 0, op.Name, t.args; ; n++ {
		c, err := l.Device.Cut(name, append([]string{"tandem"}, args...))
		log += c.Log
		if err != nil {
			return tell("%s: %v", c.At, err)
		}
		story = append(story, fmt.Sprintf("cut %s, exit code %d: %s", c.At, c.Code, strings.TrimSpace(c.Out)))
		l.Report.Cut(name, c.Kind)
		switch said := n == 0 && c.Done; { // if it said that it is done, it has to be
		case said && t.done != nil:
			legal = []Tree{t.done}
		case said:
			legal = legal[1:]
		}
		held, why := l.between(legal, was)
		if why != "" {
			return tell("before the boot: %s", why)
		}
		if slices.Contains(held, t.least) {
			least = t.least
		}
		if n == 0 && c.Done && t.promise != nil {
			promised = t.promise
		}
		if n == 2 || l.Rand.IntN(2) == 0 {
			break
		}
		name, args = recovery, []string{"boot"}
	}
	code, out := Tandem("boot")
	story = append(story, fmt.Sprintf("boot, exit code %d: %s", code, strings.TrimSpace(out)))
	if t.mends && code == damageRemains {
		legal = []Tree{t.done}
		code, out = Tandem(t.args...)
		story = append(story, fmt.Sprintf("again, exit code %d: %s", code, strings.TrimSpace(out)))
	}
	if code != 0 {
		return tell("boot: exit code %d", code)
	}
	if why := l.after(legal, least); why != "" {
		return tell("%s", why)
	}
	if why := promised(); why != "" {
		return tell("%s", why)
	}
	if l.Rand.IntN(6) > 0 {
		return true
	}
	if code, out := Tandem("verify", "--quiet"); code != 0 {
		return tell("verify: exit code %d: %s", code, out)
	}
	return true
}

// nearest is one of legal to compare with, of the same version if there is one.
func nearest(legal []Tree, t Tree) Tree {
	for _, l := range legal {
		if l["tag"] == t["tag"] {
			return l
		}
	}
	return legal[0]
}

func bothSides() ([]Tree, error) {
	a, errA := ReadSide(Live)
	b, errB := ReadSide(Backup)
	if errA != nil || errB != nil {
		return nil, fmt.Errorf("read the sides: %v, %v", errA, errB)
	}
	return []Tree{a, b}, nil
}

// between says what is wrong before the boot unless one side is whole, and what
// was whole still is (P1), and no tag names a version that is not there (P3).
// A side with a commit is the new version: recovery alone can tell. was is what
// the sides held before; held are the versions of those that are whole.
func (l *Lab) between(legal, was []Tree) (held []string, why string) {
	commits, whole := 0, slices.Concat(legal, was)
	for i, dir := range []string{Live, Backup} {
		t, err := ReadSide(dir)
		if err != nil {
			return nil, err.Error()
		}
		_, err = os.Lstat(dir + "/.tandem/commit.json")
		switch {
		case err == nil:
			commits++
		case t["tag"] == "":
			if had := was[i]["tag"]; had != "" && !l.InPlace {
				return nil, fmt.Sprintf("%s had the tag %s, and now has none", dir, had)
			}
		case slices.ContainsFunc(whole, func(l Tree) bool { return sameApplication(t, l) }):
			held = append(held, t["tag"])
		default:
			return nil, fmt.Sprintf("%s has the tag %s, but not its files:\n%s", dir, t["tag"], Differences(nearest(whole, t), t))
		}
	}
	if len(held)+commits == 0 {
		return nil, "no side holds a version"
	}
	return held, outside()
}

// after says what is wrong after the boot: both sides have to hold the same
// version, whole (P2), one that was there before, and nothing may be left over.
func (l *Lab) after(legal []Tree, least string) string {
	both, err := bothSides()
	if err != nil {
		return err.Error()
	}
	switch a, b := both[0], both[1]; {
	case !maps.Equal(a, b):
		return fmt.Sprintf("the sides differ (system, usr_data):\n%s", Differences(a, b))
	case !oneOf(a, legal):
		return fmt.Sprintf("neither the old version nor the new (expected, found):\n%s", Differences(nearest(legal, a), a))
	case least != "" && a["tag"] != least:
		return fmt.Sprintf("one side held %s before the boot, both hold %s after it", least, a["tag"])
	}
	for _, dir := range []string{Live, Backup} {
		for _, name := range []string{"next", "commit.json"} {
			if _, err := os.Lstat(filepath.Join(dir, ".tandem", name)); err == nil {
				return fmt.Sprintf("%s is left behind in %s", name, dir)
			}
		}
	}
	return outside()
}

// leftovers lists what tandem has put beside the application.
func leftovers() string {
	var lines []string
	for _, dir := range []string{Live, Backup} {
		for _, pattern := range []string{"*", ".tandem/*", ".tandem/*/*"} {
			names, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, n := range names {
				if info, err := os.Lstat(n); err == nil {
					lines = append(lines, fmt.Sprintf("    %v %d %s", info.Mode(), info.Size(), n))
				}
			}
		}
	}
	return strings.Join(lines, "\n")
}
