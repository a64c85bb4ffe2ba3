package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/internal/testprograms"
	packaged "tandem/packaging/release"
	"tandem/test/hawkbit"
)

// TestHawkBitActions is the short form of TestLongHawkBitActions.
func TestHawkBitActions(t *testing.T) {
	t.Parallel()
	runActions(t, len(kinds))
}

// Forty actions and more, of every kind in random order, while agent and server
// are killed, and the network loses requests and answers. Each ends as it must, and
// at the end the server's view is the device's: nothing was installed twice, and
// nothing waits for ever.
func TestLongHawkBitActions(t *testing.T) {
	if os.Getenv("TANDEM_LONG") == "" {
		t.Skip("set TANDEM_LONG=1 to run it")
	}
	t.Parallel()
	runActions(t, max(40, 3*len(kinds)))
}

// Of a release only those parts are fetched that hold what the device lacks, and
// the server counts none of it as a download.
func TestHawkBitFrames(t *testing.T) {
	t.Parallel()
	h := newHawk(t, nil)
	d := installed(t, options{source: "http://" + h.address, agent: pollOften, more: "type = \"hawkbit\"\ntarget_token_file = \"token\"\n"})
	d.write("token", deviceToken+"\n")
	content, err := os.ReadFile(bundle("1.1.0"))
	h.check(err)
	n := h.assign(hawkbit.Assignment{Set: h.set("1.1.0", map[string][]byte{"hello 1.1.0.tandem": content}), Type: "forced"})
	check := d.must("check").stdout
	for _, part := range []string{"hello 1.1.0 is available", "source: hawkBit http://" + h.address + ", as test", fmt.Sprintf("action %d is open: forced", n)} {
		if !strings.Contains(check, part) {
			t.Errorf("check does not tell %q:\n%s", part, check)
		}
	}
	update := d.must("update").stdout
	if !strings.Contains(update, fmt.Sprintf("action %d succeeded: hello 1.1.0: installed", n)) {
		t.Errorf("update tells:\n%s", update)
	}
	if got := h.over(n, func() {}); got != "finished" {
		t.Errorf("the action is %s:\n%s", got, h.told(n))
	}
	if sent := h.sent.Load(); sent < freshSize || sent > int64(len(content))-sameSize/2 {
		t.Errorf("%d bytes were sent of a bundle of %d", sent, len(content))
	}
	if told := h.told(n); strings.Contains(told, "Target downloads") {
		t.Errorf("the server counts a download:\n%s", told)
	}
	if status := d.must("status").stdout; !strings.Contains(status, fmt.Sprintf("action %d succeeded", n)) {
		t.Errorf("status tells:\n%s", status)
	}
}

// Of a whole bundle and delta bundles the one is taken that costs the device least. What
// a patch cannot bring comes from the whole one, and delta bundles for another
// base alone are refused with what is here.
func TestHawkBitDelta(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(seed(t), 0))
	h := newHawk(t, nil)
	dir := t.TempDir()
	table := make([]byte, sameSize)
	for i := range table {
		table[i] = byte(random.Uint32())
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	made := func(version string) {
		h.check(os.MkdirAll(file(version), 0o755))
		table[len(table)/2]++
		h.check(os.WriteFile(filepath.Join(file(version), "table"), table, 0o644))
		h.check(os.WriteFile(filepath.Join(file(version), "note"), []byte(version+"\n"), 0o644))
		h.check(release("bundle", "create", file(version), "--app", "hello", "--version", version, "--compatible", "demo",
			"--keys", "keys", "--root", "repo/root.json", "--out", file(version+".tandem")))
	}
	delta := func(from, to string) []byte {
		out := file(from + "-" + to)
		h.check(release("bundle", "delta", file(from+".tandem"), file(to+".tandem"), "--keys", "keys", "--root", "repo/root.json", "--out", out))
		content, err := os.ReadFile(out)
		h.check(err)
		return content
	}
	whole := func(version string) []byte {
		content, err := os.ReadFile(file(version + ".tandem"))
		h.check(err)
		return content
	}
	for _, v := range []string{"3.0.0", "3.1.0", "3.2.0", "3.3.0"} {
		made(v)
	}
	d := newDevice(t, options{source: "http://" + h.address, agent: pollOften, more: "type = \"hawkbit\"\ntarget_token_file = \"token\"\n"})
	d.write("token", deviceToken+"\n")
	d.must("install", file("3.0.0.tandem"))
	for _, c := range []struct {
		name, version string
		files         map[string][]byte
		damaged       bool // what the patch is for
		least, most   int64
		status, tells string
	}{
		{"a delta bundle", "3.1.0", map[string][]byte{
			"a whole": whole("3.1.0"), "delta": delta("3.0.0", "3.1.0"), "delta for another": delta("3.2.0", "3.1.0"),
		}, false, 500, sameSize / 4, "finished", "hello 3.1.0: installed"},
		{"what the patch is for is not here", "3.2.0", map[string][]byte{
			"a whole": whole("3.2.0"), "delta": delta("3.1.0", "3.2.0"),
		}, true, sameSize, sameSize * 5 / 4, "finished", "hello 3.2.0: installed"},
		{"for another base alone", "3.3.0", map[string][]byte{
			"delta": delta("3.1.0", "3.3.0"),
		}, false, 0, sameSize / 4, "error", "it builds on version 3.1.0, "},
	} {
		if c.name == "for another base alone" { // which the sides kept as the one before
			for _, side := range []string{"system", "usr_data"} {
				d.check(os.RemoveAll(d.path(filepath.Join(side, ".tandem/previous"))))
			}
		}
		n := h.assign(hawkbit.Assignment{Set: h.set(c.version, c.files), Type: "forced"})
		before := h.sent.Load()
		if check := d.run("check").stdout; strings.Contains(check, ", as a delta bundle") != (c.status == "finished") {
			t.Errorf("%s: check tells:\n%s", c.name, check)
		}
		for _, side := range []string{"system", "usr_data"} {
			if c.damaged {
				d.write(filepath.Join(side, "apps/table"), "nothing of what it was\n")
			}
		}
		update := d.run("update")
		if got := h.over(n, func() {}); got != c.status || !strings.Contains(h.told(n), c.tells) {
			t.Errorf("%s: the action is %s:\n%s\n%s%s", c.name, got, h.told(n), update.stdout, update.stderr)
		}
		if sent := h.sent.Load() - before; sent < c.least || sent > c.most {
			t.Errorf("%s: %d bytes were sent: expected %d to %d", c.name, sent, c.least, c.most)
		}
	}
}

// fleet is one device of a hawkBit server, and what it should have become.
type fleet struct {
	*hawk
	d       *device
	random  *rand.Rand
	dir     string // of bundles
	made    int    // releases
	version string // that the device should run
	actions []int64
	killed  map[string]int
}

// kinds are the kinds of actions. Each brings one about and holds what comes of it
// to what must.
var kinds = []struct {
	name string
	run  func(f *fleet)
}{
	{"forced", (*fleet).forced}, {"soft", (*fleet).soft}, {"time-forced", (*fleet).timeForced}, {"download-only", (*fleet).downloadOnly},
	{"window", (*fleet).window}, {"unhealthy", (*fleet).unhealthy}, {"no bundle", (*fleet).noBundle}, {"older", (*fleet).older},
	{"other hardware", (*fleet).otherHardware}, {"canceled before", (*fleet).canceledBefore}, {"canceled", (*fleet).canceled},
	{"force quit", (*fleet).forceQuit}, {"superseded", (*fleet).superseded}, {"confirmed", (*fleet).confirmed}, {"denied", (*fleet).denied},
	{"stick", (*fleet).stick}, {"rolled back by hand", (*fleet).rolledBack}, {"system is lost", (*fleet).systemIsLost},
	{"delta bundles", (*fleet).deltas}, {"not let in for a while", (*fleet).notLetIn},
}

func runActions(t *testing.T, n int) {
	seed := seed(t)
	part := func(i uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, i)) }
	f := &fleet{hawk: newHawk(t, part(1)), random: part(0), dir: t.TempDir(), version: "1.0.0", killed: map[string]int{}}
	f.set("1.0.0", map[string][]byte{"hello.tandem": f.read(bundle("1.0.0"))})
	f.d = installed(t, options{source: "http://" + f.address, agent: pollOften, hooks: true, more: `type = "hawkbit"
target_token_file = "token"
distribution_set = "hello"
`})
	f.d.write("token", deviceToken+"\n")
	f.d.check(os.Chmod(f.d.path("token"), 0o600))
	f.d.launch()
	for round := 0; round < n; {
		for _, i := range f.random.Perm(len(kinds)) {
			if round++; round > n {
				break
			}
			began, before := time.Now(), f.version
			kinds[i].run(f)
			t.Logf("%2d %s: %s to %s, actions to %d, %s", round, kinds[i].name, before, f.version, f.actions[len(f.actions)-1], time.Since(began).Round(100*time.Millisecond))
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	f.well()
	f.settles()
	f.agrees()
	t.Logf("%d actions; killed: %v; %d requests met a fault", len(f.actions), f.killed, f.faults)
}

func (f *fleet) read(name string) []byte {
	f.t.Helper()
	return read(f.t, name)
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// release makes a bundle of the next version.
func (f *fleet) release(healthy, hardware string) (version string, content []byte) {
	f.t.Helper()
	f.made++
	version = fmt.Sprintf("2.0.%d", f.made)
	app := filepath.Join(f.dir, version)
	noise := func(r *rand.Rand, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return string(b)
	}
	for name, text := range map[string]string{
		"bin/hello": "#!/bin/sh\necho hello " + version + "\n", "healthy": healthy + "\n", "etc/hello.conf": "greeting = hello\n",
		"share/same": noise(rand.New(rand.NewPCG(1, 1)), 100<<10), "share/fresh": noise(f.random, 50<<10),
	} {
		f.check(os.MkdirAll(filepath.Dir(filepath.Join(app, name)), 0o755))
		f.check(os.WriteFile(filepath.Join(app, name), []byte(text), 0o755))
	}
	out := app + ".tandem"
	f.check(release("bundle", "create", app, "--app", "hello", "--version", version, "--compatible", hardware,
		"--config-pattern", "etc/*.conf", "--keys", "keys", "--root", "repo/root.json", "--out", out))
	return version, f.read(out)
}

// good makes a set with the next release, and returns its number.
func (f *fleet) good() (version string, set int64) {
	f.t.Helper()
	version, content := f.release("yes", "demo")
	return version, f.set(version, map[string][]byte{"hello " + version + ".tandem": content})
}

func (f *fleet) give(a hawkbit.Assignment) int64 {
	n := f.assign(a)
	f.actions = append(f.actions, n)
	return n
}

// poke has an agent that met a server that was down ask again at once.
func (f *fleet) poke() {
	if s, err := f.d.status(); err == nil && (s.Agent.PollError != "" || strings.Contains(s.Agent.Waiting, "again later")) {
		f.d.signal(syscall.SIGHUP)
	}
}

// badLuck kills the agent, or cuts the network, at a random moment, or does not.
func (f *fleet) badLuck() {
	f.t.Helper()
	for range f.random.IntN(3) {
		f.pause(1500)
		switch f.random.IntN(3) {
		case 0:
			f.killed["network"]++
			f.down()
			f.pause(300)
			f.up()
		default:
			f.killed["agent"]++
			f.d.kill()
			f.pause(200)
			f.d.launch()
		}
	}
}

// pause waits up to some milliseconds, for a moment that is as good as any.
func (f *fleet) pause(most int) {
	<-time.After(time.Duration(f.random.IntN(most)) * time.Millisecond)
}

// ends waits until an action is over and holds its end to those that may be.
func (f *fleet) ends(action int64, may ...string) string {
	f.t.Helper()
	got := f.over(action, f.poke)
	if !slices.Contains(may, got) {
		f.t.Errorf("action %d is %s: expected %q\n%s", action, got, may, f.told(action))
	}
	return got
}

// settles waits until the device rests, with the version that it should run.
func (f *fleet) settles() {
	f.t.Helper()
	eventually(f.t, atLast, f.version+" runs", func() error { f.poke(); return f.d.runs(f.version) })
}

// agrees holds the server's view to the device's.
func (f *fleet) agrees() {
	f.t.Helper()
	ctx := f.t.Context()
	eventually(f.t, atLast, "the server's view is the device's", func() error {
		f.poke()
		have, err := f.op.Installed(ctx, controller)
		f.check(err)
		attributes, err := f.op.Attributes(ctx, controller)
		f.check(err)
		if want := "hello:" + f.version; have != want || attributes["system_version"] != f.version || attributes["in_step"] != "yes" {
			return fmt.Errorf("the server has %q, %v: expected %q", have, attributes, want)
		}
		return nil
	})
	for _, n := range f.actions {
		if a, err := f.op.Action(ctx, controller, n); err != nil || a.Active {
			f.t.Errorf("action %d: %v, %v", n, a, err)
		}
	}
	times := map[string]int{}
	for _, e := range f.d.history() {
		if e.Action == "pending" || e.Action == "installed" && e.Command == "update" {
			if times[e.Version.String()]++; times[e.Version.String()] > 1 {
				f.t.Errorf("%s was installed twice", e.Version)
			}
		}
	}
}

// succeeds waits until an action has brought a version.
func (f *fleet) succeeds(action int64, version string) {
	f.t.Helper()
	f.ends(action, "finished")
	f.version = version
	f.settles()
}

// fails waits until an action has failed, with the cause told, and nothing changed.
func (f *fleet) fails(action int64, cause string) {
	f.t.Helper()
	f.ends(action, "error")
	if told := f.told(action); !strings.Contains(told, cause) {
		f.t.Errorf("action %d does not tell %q:\n%s", action, cause, told)
	}
	f.settles()
}

func (f *fleet) forced() {
	v, ds := f.good()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced"})
	f.badLuck()
	f.succeeds(n, v)
}

func (f *fleet) soft() {
	v, ds := f.good()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "soft"})
	f.badLuck()
	f.succeeds(n, v)
}

func (f *fleet) timeForced() {
	v, ds := f.good()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "timeforced", ForceTime: time.Now().Add(time.Second).UnixMilli()})
	f.badLuck()
	f.succeeds(n, v)
}

func (f *fleet) downloadOnly() {
	_, ds := f.good()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "downloadonly"})
	f.badLuck()
	f.ends(n, "downloaded")
	f.settles()
}

func (f *fleet) window() {
	v, ds := f.good()
	a := hawkbit.Window(time.Now().Add(3*time.Second), 5*time.Minute)
	a.Set, a.Type = ds, "forced"
	n := f.give(a)
	f.badLuck()
	f.succeeds(n, v)
}

func (f *fleet) unhealthy() {
	v, content := f.release("no", "demo")
	n := f.give(hawkbit.Assignment{Set: f.set(v, map[string][]byte{"hello.tandem": content}), Type: "forced"})
	f.badLuck()
	f.fails(n, "rolled back")
}

func (f *fleet) noBundle() {
	v, content := f.release("yes", "demo")
	n := f.give(hawkbit.Assignment{Set: f.set(v, map[string][]byte{"hello.tandem": content, "README.txt": []byte("read me\n")}), Type: "forced"})
	f.badLuck()
	f.fails(n, "README.txt")
}

func (f *fleet) older() {
	n := f.give(hawkbit.Assignment{Set: f.set(fmt.Sprint("older ", len(f.actions)), map[string][]byte{"hello.tandem": f.read(bundle("1.0.0"))}), Type: "forced"})
	f.badLuck()
	if f.version == "1.0.0" { // which is what it has
		f.ends(n, "finished")
		f.settles()
		return
	}
	f.fails(n, "older than "+f.version)
}

func (f *fleet) otherHardware() {
	v, content := f.release("yes", "toaster")
	n := f.give(hawkbit.Assignment{Set: f.set(v, map[string][]byte{"hello.tandem": content}), Type: "forced"})
	f.badLuck()
	f.fails(n, "it is for toaster")
}

func (f *fleet) canceledBefore() {
	_, ds := f.good()
	f.d.kill()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced"})
	f.check(f.op.Cancel(f.t.Context(), controller, n, false))
	f.d.launch()
	f.badLuck()
	f.ends(n, "canceled")
	f.settles()
}

// became takes what an action has become that came to its end one way or the other.
func (f *fleet) became(version string) {
	f.t.Helper()
	old := f.version
	eventually(f.t, atLast, "the device rests", func() error {
		f.poke()
		for _, v := range []string{old, version} {
			if f.d.runs(v) == nil {
				f.version = v
				return nil
			}
		}
		return errors.Join(f.d.runs(old), f.d.runs(version))
	})
}

func (f *fleet) canceled() {
	v, ds := f.good()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced"})
	f.pause(2500)
	f.check(f.op.Cancel(f.t.Context(), controller, n, false))
	f.badLuck()
	if f.ends(n, "canceled", "finished") == "finished" {
		f.version = v
	}
	f.settles()
}

func (f *fleet) forceQuit() {
	v, ds := f.good()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced"})
	f.pause(2500)
	f.check(f.op.Cancel(f.t.Context(), controller, n, false))
	f.check(f.op.Cancel(f.t.Context(), controller, n, true))
	f.badLuck()
	f.ends(n, "canceled", "finished")
	f.became(v)
	f.agrees() // also where the device had it before it heard
}

func (f *fleet) superseded() {
	_, first := f.good()
	v, second := f.good()
	n := f.give(hawkbit.Assignment{Set: first, Type: "forced"})
	f.pause(2000)
	m := f.give(hawkbit.Assignment{Set: second, Type: "forced"})
	f.badLuck()
	f.ends(n, "canceled", "finished")
	f.succeeds(m, v)
}

// asks waits until the device knows that a person is to confirm an action.
func (f *fleet) asks(action int64) {
	f.t.Helper()
	eventually(f.t, atLast, "the device asks", func() error {
		f.poke()
		s, err := f.d.status()
		if err == nil && (s.Source.Waiting == nil || s.Source.Waiting.Number != action) {
			err = errors.New("it does not")
		}
		return err
	})
}

// says has a person say yes or no, until the server has heard it.
func (f *fleet) says(args ...string) {
	f.t.Helper()
	eventually(f.t, atLast, "a person is heard", func() error {
		if o := f.d.run(append([]string{"confirm-update"}, args...)...); o.exit != 0 && !strings.Contains(o.stderr, "waits for no confirmation") {
			return errors.New(o.stderr)
		}
		return nil
	})
}

func (f *fleet) confirmed() {
	v, ds := f.good()
	yes := true
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced", Confirm: &yes})
	f.badLuck()
	f.asks(n)
	f.says()
	f.badLuck()
	f.succeeds(n, v)
}

func (f *fleet) denied() {
	_, ds := f.good()
	yes := true
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced", Confirm: &yes})
	f.asks(n)
	f.says("--deny", "--reason", "not now")
	f.badLuck()
	f.check(f.op.Cancel(f.t.Context(), controller, n, false))
	f.ends(n, "canceled")
	if told := f.told(n); !strings.Contains(told, "not now") {
		f.t.Errorf("the server was not told why:\n%s", told)
	}
	f.settles()
}

// stick installs something newer than the action brings, by hand.
func (f *fleet) stick() {
	_, ds := f.good()
	v, content := f.release("yes", "demo")
	f.set(v, map[string][]byte{"hello.tandem": content})
	f.d.kill()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced"})
	f.d.must("install", filepath.Join(f.dir, v+".tandem"))
	f.version = v
	f.d.launch()
	f.badLuck()
	f.fails(n, "older than "+v)
	f.agrees()
}

func (f *fleet) rolledBack() {
	before := f.version
	v, ds := f.good()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced"})
	f.succeeds(n, v)
	f.d.must("rollback")
	f.version = before
	f.badLuck()
	f.settles()
	f.agrees()
}

// systemIsLost takes the live side away while an action is on its way.
func (f *fleet) systemIsLost() {
	v, ds := f.good()
	f.d.kill()
	f.d.remove("system")
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced"})
	f.d.launch()
	f.badLuck()
	f.succeeds(n, v)
}

// deltas brings a release whole, and as delta bundles of what runs and of what does not.
func (f *fleet) deltas() {
	v, content := f.release("yes", "demo")
	delta := func(from string) []byte {
		out := filepath.Join(f.dir, from+"-"+v)
		f.check(release("bundle", "delta", f.bundle(from), f.bundle(v), "--keys", "keys", "--root", "repo/root.json", "--out", out))
		return f.read(out)
	}
	files := map[string][]byte{"hello.tandem": content, "of this.tandem": delta(f.version)}
	if f.version != "1.0.0" {
		files["of another.tandem"] = delta("1.0.0")
	}
	n := f.give(hawkbit.Assignment{Set: f.set(v, files), Type: "forced"})
	f.badLuck()
	f.succeeds(n, v)
}

// bundle is the file of a release that was made.
func (f *fleet) bundle(version string) string {
	if version == "1.0.0" {
		return bundle(version)
	}
	return filepath.Join(f.dir, version+".tandem")
}

// notLetIn has the server not know the device's token while it is at work.
func (f *fleet) notLetIn() {
	v, ds := f.good()
	n := f.give(hawkbit.Assignment{Set: ds, Type: "forced"})
	f.pause(2000)
	f.check(f.op.ChangeTarget(f.t.Context(), controller, map[string]any{"securityToken": "another"}))
	f.badLuck()
	f.check(f.op.ChangeTarget(f.t.Context(), controller, map[string]any{"securityToken": deviceToken}))
	f.succeeds(n, v)
}

// What the server wants must also be in the repository that source.metadata names.
func TestHawkBitMetadata(t *testing.T) {
	t.Parallel()
	h := newHawk(t, nil)
	d := installed(t, options{source: "http://" + h.address, agent: pollOften, more: fmt.Sprintf("type = \"hawkbit\"\ntarget_token_file = \"token\"\nmetadata = %q\n", "file://"+shared())})
	d.write("token", deviceToken+"\n")
	for _, c := range []struct{ version, status string }{{"1.2.0", "error"}, {"1.1.0", "finished"}} {
		content, err := os.ReadFile(bundle(c.version))
		h.check(err)
		n := h.assign(hawkbit.Assignment{Set: h.set(c.version, map[string][]byte{"hello.tandem": content}), Type: "forced"})
		d.run("update")
		if got := h.over(n, func() {}); got != c.status {
			t.Errorf("%s is %s: expected %s\n%s", c.version, got, c.status, h.told(n))
		}
		if told := h.told(n); c.status == "error" && !strings.Contains(told, "is not in the repository") {
			t.Errorf("the server is told:\n%s", told)
		}
	}
}

// One action brings the application and a firmware. Each is told of by its bundle; a
// firmware that fails does not keep the application waiting, and the action says so.
func TestHawkBitFirmware(t *testing.T) {
	t.Parallel()
	h := newHawk(t, nil)
	d := installed(t, options{source: "http://" + h.address, agent: pollOften, more: "type = \"hawkbit\"\ntarget_token_file = \"token\"\n"})
	d.write("token", deviceToken+"\n")
	d.write("modem-version", "1.0.0\n")
	d.write("modem.sh", fmt.Sprintf(`cd %q
case $1 in
version) cat modem-version ;;
install) [ ! -e modem-fails ] || exit 1
	cp "$2/version" modem-version ;;
esac
`, d.dir))
	d.write("tandem.toml", d.read("tandem.toml")+fmt.Sprintf("[[firmware]]\nname = \"modem\"\nhandler = [\"/bin/sh\", %q]\n", d.path("modem.sh")))
	dir := t.TempDir()
	modem := func(v string) []byte {
		h.check(os.MkdirAll(filepath.Join(dir, v), 0o755))
		h.check(os.WriteFile(filepath.Join(dir, v, "version"), []byte(v+"\n"), 0o644))
		out := filepath.Join(dir, v+".tandem")
		h.check(release("bundle", "create", filepath.Join(dir, v), "--kind", "firmware", "--app", "modem", "--version", v, "--compatible", "demo",
			"--keys", "keys", "--root", "repo/root.json", "--out", out))
		content, err := os.ReadFile(out)
		h.check(err)
		return content
	}
	for _, c := range []struct {
		modem, app, status string
		fails              bool
		tells              []string
	}{
		{"1.1.0", "1.1.0", "finished", false, []string{"modem 1.1.0: installed", "hello 1.1.0: installed"}},
		{"1.2.0", "1.2.0", "error", true, []string{"modem 1.2.0: ", "exit status 1", "hello 1.2.0: installed"}},
	} {
		app, err := os.ReadFile(bundle(c.app))
		h.check(err)
		d.remove("modem-fails")
		if c.fails {
			d.write("modem-fails", "")
		}
		n := h.assign(hawkbit.Assignment{Set: h.set(c.app, map[string][]byte{"hello.tandem": app, "modem.tandem": modem(c.modem)}), Type: "forced"})
		d.run("update")
		if got := h.over(n, func() {}); got != c.status {
			t.Errorf("modem %s: the action is %s: expected %s\n%s", c.modem, got, c.status, h.told(n))
		}
		for _, tells := range c.tells {
			if told := h.told(n); !strings.Contains(told, tells) {
				t.Errorf("modem %s: the server is not told %q:\n%s", c.modem, tells, told)
			}
		}
	}
}

// One action brings the application and Tandem itself; the server is told of both, and
// which Tandems the device has.
func TestHawkBitItself(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("two more programs are built")
	}
	h := newHawk(t, nil)
	d := installed(t, options{source: "http://" + h.address, agent: pollOften, more: "type = \"hawkbit\"\ntarget_token_file = \"token\"\n"})
	d.write("token", deviceToken+"\n")
	for _, p := range []struct{ version, dir string }{{"1.0.0", "lib"}, {"2.0.0", "two"}} {
		h.check(testprograms.Build(d.path(p.dir), testprograms.Versioned(p.version, packaged.ProgramMark, ""), "tandem/cmd/tandem"))
	}
	d.program = d.path("lib/tandem")
	h.check(release("bundle", "create", d.path("two/tandem"), "--kind", "agent", "--arch", runtime.GOARCH, "--version", "2.0.0",
		"--keys", "keys", "--root", "repo/root.json", "--out", d.path("two.tandem")))
	app, err := os.ReadFile(bundle("1.1.0"))
	h.check(err)
	n := h.assign(hawkbit.Assignment{Set: h.set("1.1.0", map[string][]byte{"hello.tandem": app, "tandem.tandem": []byte(d.read("two.tandem"))}), Type: "forced"})
	d.run("update")
	if got := h.over(n, func() {}); got != "finished" {
		t.Errorf("the action is %s\n%s", got, h.told(n))
	}
	for _, tells := range []string{"tandem 2.0.0: installed", "hello 1.1.0: installed"} {
		if told := h.told(n); !strings.Contains(told, tells) {
			t.Errorf("the server is not told %q:\n%s", tells, told)
		}
	}
	if o := d.must("version"); !strings.Contains(o.stdout, "tandem 2.0.0 ") || !strings.Contains(o.stdout, "not confirmed yet, previous 1.0.0") {
		t.Errorf("in place is %s", o.stdout)
	}
	d.must("keep")
	d.must("update") // which tells what is different since the last time
	attributes, err := h.op.Attributes(t.Context(), controller)
	h.check(err)
	for name, want := range map[string]string{"tandem": "2.0.0", "tandem_previous": "1.0.0", "tandem_kept": "2.0.0", "tandem_pending": "none"} {
		if attributes[name] != want {
			t.Errorf("the attribute %s is %q: expected %q", name, attributes[name], want)
		}
	}
}
