//go:build linux

package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// operation is something during which the power fails.
type operation struct {
	name string
	// prepare makes ready for it, without a cut, and gives the command, what
	// system may hold when it was cut, and what both hold once it succeeded.
	prepare func(l *lab, now tree) (args []string, legal []tree, done tree, err error)

	next  int           // the erase block at which to cut next
	lasts time.Duration // as seen so far
}

var operations = []*operation{
	{name: "back up", prepare: func(l *lab, now tree) ([]string, []tree, tree, error) {
		hand := l.byHand(now)
		return []string{"boot"}, []tree{hand}, hand, nil
	}},
	{name: "restore", prepare: func(l *lab, now tree) ([]string, []tree, tree, error) {
		return []string{"boot"}, []tree{now}, now, system.erase()
	}},
	{name: "back up again", prepare: func(l *lab, now tree) ([]string, []tree, tree, error) {
		return []string{"boot"}, []tree{now}, now, usrData.erase()
	}},
	{name: "install", prepare: func(l *lab, now tree) ([]string, []tree, tree, error) {
		versions := slices.Sorted(maps.Keys(l.releases))
		versions = slices.DeleteFunc(versions, func(v string) bool { return v == now["tag"] })
		v := versions[l.rand.IntN(len(versions))]
		next := afterInstall(l.releases[v], now)
		return []string{"install", "--allow-downgrade", "--allow-revoked", "/releases/" + v + ".tandem"}, []tree{now, next}, next, nil
	}},
	{name: "rollback", prepare: func(l *lab, now tree) ([]string, []tree, tree, error) {
		legal := kept(now)
		if len(legal) == 1 { // there is nothing to return to yet
			for _, v := range slices.Sorted(maps.Keys(l.releases)) {
				if v != now["tag"] {
					tandem("install", "--allow-downgrade", "--allow-revoked", "/releases/"+v+".tandem")
					break
				}
			}
			var err error
			if now, err = side(live); err != nil {
				return nil, nil, nil, err
			}
			legal = kept(now)
		}
		return []string{"rollback"}, legal, nil, nil
	}},
	{name: "capture", prepare: func(l *lab, now tree) ([]string, []tree, tree, error) {
		edited := l.edit(now, true)
		return []string{"backup"}, []tree{edited}, edited, nil
	}},
	{name: "capture of a careless edit", prepare: func(l *lab, now tree) ([]string, []tree, tree, error) {
		edited := l.edit(now, false)
		return []string{"backup"}, []tree{now, edited}, edited, nil
	}},
}

// kept is the version of now, and then those that a rollback may return to.
func kept(now tree) []tree {
	legal := []tree{now}
	for _, dir := range []string{live, backup} {
		if t, err := side(dir + "/.tandem/previous"); err == nil && t["tag"] != "" && t["tag"] != now["tag"] {
			legal = append(legal, t)
		}
	}
	return legal
}

var boot = &operation{name: "boot after a cut"}

// tally is what cuts were made.
type tally map[string]int

func (l *lab) cuts(budget time.Duration) {
	fmt.Printf("== Power cuts for %v, seed %d\n", budget, l.seed)
	end := time.Now().Add(budget)
	made, where := tally{}, tally{}
	var slowest time.Duration
	bad := 0
	for i := 0; time.Now().Before(end) && bad < 5; i++ {
		start := time.Now()
		if !l.round(operations[i%len(operations)], made, where) {
			bad++
			if err := l.reset(); err != nil {
				l.fail("start over: %v", err)
				break
			}
		}
		slowest = max(slowest, time.Since(start))
		if i%20 == 19 {
			fmt.Printf("%d rounds, %d cuts, %d failures\n", i+1, made.total(), len(l.failures))
		}
	}
	fmt.Printf("tandem: %d cuts, %d failures\n", made.total(), len(l.failures))
	for _, t := range []tally{where, made} {
		for _, k := range slices.Sorted(maps.Keys(t)) {
			fmt.Printf("  %4d %s\n", t[k], k)
		}
	}
	fmt.Printf("slowest round: %v\n", slowest.Round(time.Millisecond))
}

func (t tally) total() (n int) {
	for _, k := range t {
		n += k
	}
	return n
}

// round is one operation with a cut, the boot after it, in every second round
// with a cut of its own, and a last boot that is let to its end.
func (l *lab) round(op *operation, made, where tally) (ok bool) {
	now, err := side(live)
	if err != nil {
		l.fail("read %s: %v", live, err)
		return false
	}
	args, legal, done, err := op.prepare(l, now)
	if err != nil {
		l.fail("%s: %v", op.name, err)
		return false
	}
	if op.name == "rollback" { // an installation may have come before it
		now = legal[0]
	}
	was, err := side(backup)
	if err != nil {
		l.fail("read %s: %v", backup, err)
		return false
	}
	story := []string{fmt.Sprintf("%s: from %s, tandem %s", op.name, now["tag"], strings.Join(args, " "))}
	tell := func(what string, args ...any) bool {
		l.fail("%s: %s\n    %s\n  kernel:\n%s\n  state:\n%s", op.name, fmt.Sprintf(what, args...), strings.Join(story, "\n    "), dmesg(15), leftovers())
		return false
	}
	for n := 0; ; n++ {
		c := l.choose(op, n)
		code, out, kind, err := l.cutDuring(op, c, append([]string{"tandem"}, args...))
		if err != nil {
			return tell("%s: %v", c, err)
		}
		story = append(story, fmt.Sprintf("cut %v (%s), exit code %d: %s", c, kind, code, strings.TrimSpace(out)))
		made[kind]++
		where[op.name]++
		switch said := n == 0 && code == 0; { // if it said that it is done, it has to be
		case said && done != nil:
			legal = []tree{done}
		case said && len(legal) > 1:
			legal = legal[1:]
		}
		if err := remount(); err != nil {
			return tell("remount: %v", err)
		}
		if why := atLeastOne(append(legal, now, was)); why != "" {
			return tell("before the boot: %s", why)
		}
		if n == 2 || l.rand.IntN(2) == 0 {
			break
		}
		op, args = boot, []string{"boot"}
	}
	code, out := tandem("boot")
	story = append(story, fmt.Sprintf("boot, exit code %d: %s", code, strings.TrimSpace(out)))
	if code != 0 {
		return tell("boot: exit code %d", code)
	}
	a, errA := side(live)
	b, errB := side(backup)
	switch {
	case errA != nil || errB != nil:
		return tell("read the sides: %v, %v", errA, errB)
	case !maps.Equal(a, b):
		return tell("the sides differ (system, usr_data):\n%s", differences(a, b))
	case !oneOf(a, legal):
		return tell("neither the old version nor the new (expected, found):\n%s", differences(legal[len(legal)-1], a))
	}
	for _, dir := range []string{live, backup} {
		for _, name := range []string{"next", "commit.json"} {
			if _, err := os.Lstat(filepath.Join(dir, ".tandem", name)); err == nil {
				return tell("%s is left behind in %s", name, dir)
			}
		}
	}
	if l.rand.IntN(4) > 0 {
		return true
	}
	if code, out := tandem("verify", "--quiet"); code != 0 {
		return tell("verify: exit code %d: %s", code, out)
	}
	return true
}

// choose goes through the erase blocks of an operation one by one, and takes a
// moment at random in turn.
func (l *lab) choose(op *operation, n int) cut {
	if op.lasts == 0 {
		op.lasts = time.Second
	}
	// Most of a short run's time is the start of the program.
	after := time.Duration(l.rand.Int64N(int64(op.lasts + op.lasts/10)))
	switch l.rand.IntN(3) {
	case 0:
		op.next++
		return cut{kind: header, n: op.next}
	case 1:
		return cut{kind: torn, after: after}
	}
	return cut{kind: plug, after: after}
}

// cutDuring runs a program and lets the power fail. kind is how it
// failed; afterwards it has failed in any case.
func (l *lab) cutDuring(op *operation, c cut, args []string) (code int, out, kind string, err error) {
	kind = c.kind
	if err := c.arm(); err != nil {
		return 0, "", "", err
	}
	var said strings.Builder
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, "", "", err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var timer <-chan time.Time
	if c.after > 0 && c.kind != header {
		timer = time.After(c.after)
	}
	often := 10 * time.Millisecond // a look takes time from tandem
	if c.kind == torn {
		often = 2 * time.Millisecond // because it strikes one volume only
	}
	look := time.NewTicker(often)
	defer look.Stop()
wait:
	for {
		select {
		case <-done:
			if !struck() {
				kind = noneHit
				op.lasts = (3*op.lasts + time.Since(start)) / 4
				if c.kind == header {
					op.next = 0 // it has no more erase blocks than this
				}
			}
			pull()
			break wait
		case <-timer:
			kind = plug
			pull()
		case <-look.C:
			if struck() {
				pull() // the other volume as well
				_ = cmd.Process.Kill()
				<-done
				break wait
			}
		}
	}
	return cmd.ProcessState.ExitCode(), said.String(), kind, nil
}

// atLeastOne says what is wrong unless one side is whole, as the design has it
// (P1), and no tag names a version that is not there (P3). A side with a commit
// is the new version: recovery alone can tell.
func atLeastOne(legal []tree) string {
	whole := 0
	for _, dir := range []string{live, backup} {
		t, err := side(dir)
		if err != nil {
			return err.Error()
		}
		_, err = os.Lstat(dir + "/.tandem/commit.json")
		switch {
		case err == nil, oneOf(t, legal):
			whole++
		case t["tag"] != "" && !slices.ContainsFunc(legal, func(l tree) bool { return sameApplication(t, l) }):
			return fmt.Sprintf("%s has the tag %s, but not its files:\n%s", dir, t["tag"], differences(legal[0], t))
		case t["tag"] != "":
			whole++
		}
	}
	if whole == 0 {
		return "no side holds a version"
	}
	return ""
}

// sameApplication leaves out the configuration, which the application may have
// written without care.
func sameApplication(a, b tree) bool {
	without := func(t tree) tree {
		t = maps.Clone(t)
		maps.DeleteFunc(t, func(name, _ string) bool { return name == "etc/app.conf" })
		return t
	}
	return maps.Equal(without(a), without(b))
}

// leftovers lists what tandem has put beside the application.
func leftovers() string {
	var lines []string
	for _, dir := range []string{live, backup} {
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

// reset starts over with empty partitions and the first release.
func (l *lab) reset() error {
	if err := remount(); err != nil {
		return err
	}
	for _, v := range volumes {
		if err := v.erase(); err != nil {
			return err
		}
	}
	if code, out := tandem("install", "/releases/1.0.0.tandem"); code != 0 {
		return fmt.Errorf("install: exit code %d: %s", code, out)
	}
	return nil
}
