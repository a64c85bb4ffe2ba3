package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dev "tandem/agent/device"
	"tandem/internal/testprograms"
	"tandem/packaging/repository"
)

// world is a device, the server that it updates from, the one it reports to,
// and bad luck. Server and agent are killed at random moments.
type world struct {
	*device
	repo      *repo
	collector *collector
	random    *rand.Rand
	editing   *rand.Rand

	address string
	form    form                // in which the release is to be had from the server
	server  interface{ kill() } // nil while none runs
	asked   []string            // paths of bundles, of a server that the test itself is
	mu      sync.Mutex          // guards asked

	edits  map[string]string // of configuration, that must survive
	unsure map[string]bool   // those that may have come while the application was stopped
	killed map[string]int    // what, and how often
	starts int               // of the application, when the unhealthy version was taken back
}

// form is the one in which a release is to be had that is new.
type form int

const (
	frames form = iota // from tandem-release
	delta              // from a server of the test's own
	whole              // from one that knows no ranges
)

// Ten releases, one after the other, each form in turn: an unhealthy one, one for other hardware,
// one that is taken back, one outside the rollout, and six that are installed. The
// short form has the first three, the unhealthy one among them.
func TestLongTenReleases(t *testing.T) {
	if os.Getenv("TANDEM_LONG") == "" {
		t.Skip("set TANDEM_LONG=1 to run it")
	}
	t.Parallel()
	// Each has random numbers of its own: what is drawn depends on no one's pace.
	seed := seed(t)
	random, edits, faults := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
	w := &world{
		repo: newRepo(t, "1.0.0"), collector: newCollector(t, faults), random: random, editing: edits, address: testprograms.FreeAddress(t, "127.0.0.1"),
		edits: map[string]string{}, unsure: map[string]bool{}, killed: map[string]int{},
	}
	lines := pollOften
	if random.IntN(2) == 0 {
		lines += "backup = \"confirmed\"\n"
	}
	w.device = newDevice(t, options{
		source: "http://" + w.address, slow: "512KiB/s", report: w.collector.url, agent: lines, hooks: true,
	})
	w.must("install", bundle("1.0.0"))
	t.Cleanup(func() {
		if w.server != nil {
			w.server.kill()
		}
	})
	w.serve()
	w.launch()

	want := []string{"pending 1.0.0", "confirmed 1.0.0"}
	runs := "1.0.0"
	releases := versions[1:]
	if os.Getenv("TANDEM_LONG") == "short" {
		releases = releases[:slices.Index(releases, unhealthy)+1]
	}
	for i, v := range releases {
		w.edit()
		w.replaceServer(form(i % 3))
		switch v {
		case unhealthy:
			w.repo.add(v)
			w.badLuck()
			eventually(t, atLast, v+" is taken back", func() error { return w.taken(v, runs) })
			w.starts = len(w.started())
			w.putAside()
			w.reports()
			want = append(want, "pending "+v, "rolled back from "+v+" to "+runs)
		case otherHardware:
			w.repo.add(v)
			w.badLuck()
			w.stays(runs)
		case "1.6.0": // nobody sees it but as one that was taken back
			if w.server != nil {
				w.stopServer()
			}
			w.repo.add(v)
			w.repo.yank(v)
			w.badLuck()
			w.stays(runs)
		case "1.7.0":
			w.repo.add(v, "--percent", "0")
			w.badLuck()
			w.stays(runs)
			w.reports()
		default:
			if w.form == delta {
				w.repo.add(v, "--deltas", "9")
			} else {
				w.repo.add(v)
			}
			w.badLuck()
			eventually(t, atLast, v+" runs", func() error { return errors.Join(w.impatient(), w.runs(v)) })
			w.came(v, runs)
			runs = v
			want = append(want, "pending "+v, "confirmed "+v)
		}
		t.Logf("%s is dealt with, %s runs", v, runs)
	}

	w.edit()
	w.settle()
	w.collector.mu.Lock()
	w.collector.random = nil // the network is well from now on
	w.collector.mu.Unlock()
	w.end()
	w.start()
	w.stays(runs)
	w.haveEdits()
	w.haveTold(want)
	w.neverAgain(unhealthy)
	c := w.collector
	t.Logf("killed: %v; %d reports, %d of them met a fault; %d events, %d came again", w.killed, c.posts, c.faults, len(c.order), c.again)
}

// replaceServer stops the server, and starts another one in its place.
func (w *world) replaceServer(f form) {
	w.t.Helper()
	w.stopServer()
	w.mu.Lock()
	w.form, w.asked = f, nil
	w.mu.Unlock()
	w.serve()
}

// own is a server that runs in the test.
type own struct{ *http.Server }

func (o own) kill() { o.Close() }

// serveHere starts a server that remembers which bundles it was asked for.
func (w *world) serveHere() {
	w.t.Helper()
	root, err := os.OpenRoot(w.repo.dir)
	w.check(err)
	w.t.Cleanup(func() { root.Close() })
	l, err := net.Listen("tcp", w.address)
	w.check(err)
	good, ranges := repository.NewHandler(root), w.form != whole
	s := own{&http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, bundles) {
			w.mu.Lock()
			w.asked = append(w.asked, r.URL.Path)
			w.mu.Unlock()
		}
		if !ranges {
			r.Header.Del("Range")
		}
		good.ServeHTTP(rw, r)
	})}}
	w.server = s
	go func() { _ = s.Serve(l) }() // until it is killed
}

// came expects that a release came in the form in which it was to be had.
func (w *world) came(version, from string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.form == frames {
		return
	}
	isDelta := func(name string) bool { return strings.Contains(name, from) && strings.Contains(name, version) }
	if len(w.asked) == 0 || slices.ContainsFunc(w.asked, isDelta) != (w.form == delta) {
		w.t.Errorf("%s after %s, form %d: asked for %q", version, from, w.form, w.asked)
	}
}

// serve starts the server.
func (w *world) serve() {
	w.t.Helper()
	if w.form != frames {
		w.serveHere()
		return
	}
	cmd := exec.Command(filepath.Join(binDir, "tandem-release"), "repo", "serve", w.repo.dir, "--listen", w.address)
	out, err := cmd.StdoutPipe()
	w.check(err)
	w.check(cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		w.t.Fatalf("the server says %q: %v", line, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	w.server = p
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
}

func (w *world) stopServer() {
	w.server.kill()
	w.server = nil
}

// The moments at which something is killed, beside those at random.
var moments = []func(w *world) bool{
	func(w *world) bool { return true },
	func(w *world) bool { return w.step() == dev.Downloading },
	func(w *world) bool { return w.step() == dev.Installing },
	func(w *world) bool { return w.step() == dev.Installing },
	func(w *world) bool { return w.read("running") == "" },
	func(w *world) bool { return strings.Contains(w.read("usr_data/.tandem/pending.json"), "version") },
}

// badLuck kills the agent and the server a few times, and edits configuration
// meanwhile. Both run at its end.
func (w *world) badLuck() {
	w.t.Helper()
	for range 2 + w.random.IntN(3) {
		moment := moments[w.random.IntN(len(moments))]
		then := time.Duration(w.random.IntN(400)) * time.Millisecond
		server, both := w.random.IntN(3) == 0, w.random.IntN(4) == 0
		down := time.Duration(w.random.IntN(300)) * time.Millisecond
		editBefore, editMeanwhile, serveAtOnce := w.random.IntN(2) == 0, w.random.IntN(3) == 0, w.random.IntN(2) == 0
		w.wait(2*time.Second, func() bool { return moment(w) })
		w.wait(then, nil)
		if editBefore {
			w.edit()
		}
		if !server || both {
			w.kill()
			w.killed["agent"]++
		}
		if server && w.server != nil {
			w.stopServer()
			w.killed["server"]++
		}
		if editMeanwhile {
			w.edit()
		}
		w.wait(down, nil)
		if w.agent == nil {
			w.launch()
		}
		if w.server == nil && serveAtOnce {
			w.serve()
		}
	}
	if w.server == nil {
		w.serve()
	}
}

// wait lets time pass: at most so much, and no more once until holds.
func (w *world) wait(most time.Duration, until func() bool) {
	limit := time.NewTimer(most)
	defer limit.Stop()
	tick := time.NewTicker(often)
	defer tick.Stop()
	for until == nil || !until() {
		select {
		case <-limit.C:
			return
		case <-tick.C:
		}
	}
}

// impatient has an agent that met a server that was down ask again at once, as
// a person would. It never has an error.
func (w *world) impatient() error {
	if s, err := w.status(); err == nil && s.Agent.PollError != "" {
		w.signal(syscall.SIGHUP)
	}
	return nil
}

// edit changes a file of the configuration.
func (w *world) edit() {
	name := fmt.Sprintf("etc/%d.conf", w.editing.IntN(4))
	switch w.editing.IntN(5) {
	case 0:
		name = "etc/hello.conf"
	case 1:
		name = "etc/other.conf"
	}
	w.edits[name] = fmt.Sprintf("edit %d\n", w.editing.Uint64())
	w.unsure[name] = true
	w.settleOne(name)
}

// settle makes those edits again which may have come while the application was
// stopped to be replaced: then it is not there to save anything, and what is
// written is written to a tree that is about to go.
func (w *world) settle() {
	w.t.Helper()
	for name := range w.unsure {
		eventually(w.t, atLast, "an edit", func() error {
			if !w.settleOne(name) {
				return errors.New("the application does not run")
			}
			return nil
		})
	}
}

func (w *world) settleOne(name string) bool {
	w.t.Helper()
	before, err := os.Stat(w.path("running"))
	if err != nil {
		return false
	}
	file := filepath.Join(w.dir, "system/apps", name)
	if w.editing.IntN(2) == 0 {
		err = os.WriteFile(file, []byte(w.edits[name]), 0o644)
	} else if err = os.WriteFile(file+".tmp", []byte(w.edits[name]), 0o644); err == nil {
		err = os.Rename(file+".tmp", file)
	}
	after, e := os.Stat(w.path("running"))
	if err != nil || e != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		return false
	}
	delete(w.unsure, name)
	w.t.Logf("%s %s: %s", time.Now().UTC().Format("15:04:05.000"), name, strings.TrimSpace(w.edits[name]))
	return true
}

// putAside expects of each edit that lost to the configuration which came back
// with the version before that it was put aside. Those may come that were made
// while the version ran which is taken back; they are made again.
func (w *world) putAside() {
	w.t.Helper()
	aside := map[string]bool{}
	w.check(filepath.WalkDir(w.path("system/.tandem/aside"), func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // nothing is aside
			return nil
		case err != nil || !d.Type().IsRegular():
			return err
		}
		text, err := os.ReadFile(name)
		aside[string(text)] = true
		return err
	}))
	for name, text := range w.edits {
		if file := "system/apps/" + name; w.unsure[name] || w.read(file) == text || w.read(file+".conflict") == text {
			continue
		}
		if !aside[text] {
			w.t.Errorf("%s: %q is neither there nor aside", name, text)
		}
		w.t.Logf("%s: %s lies aside", name, strings.TrimSpace(text))
		w.unsure[name] = true
	}
}

// taken says what keeps a version from having been taken back.
func (w *world) taken(version, before string) error {
	if err := w.impatient(); err != nil {
		return err
	}
	s, err := w.status()
	if err != nil {
		return err
	}
	for _, v := range s.Revoked {
		if v.String() == version {
			return w.runs(before)
		}
	}
	return fmt.Errorf("%s is not revoked (%s)", version, s.Agent.Doing)
}

// stays polls, and expects that the version which runs is the one that is
// installed afterwards, too.
func (w *world) stays(version string) {
	w.t.Helper()
	for range 2 {
		now := time.Now()
		eventually(w.t, atLast, "a poll", func() error {
			s, err := w.status()
			if err != nil {
				return err
			}
			if !s.Agent.LastPoll.After(now) {
				return errors.Join(fmt.Errorf("none, %s", s.Agent.PollError), w.impatient())
			}
			return w.runs(version)
		})
	}
}

// haveEdits expects the last edit of each file on both sides. One that was made
// after the agent was killed in the middle of a capture may lie beside the file:
// usr_data is ahead of system then, as it is when system comes from an image.
func (w *world) haveEdits() {
	w.t.Helper()
	eventually(w.t, atLast, "the edits are on both sides", func() error {
		var errs []error
		for name, text := range w.edits {
			for _, side := range []string{"system", "usr_data"} {
				file := filepath.Join(side, "apps", name)
				if got := w.read(file); got != text && w.read(file+".conflict") != text {
					errs = append(errs, fmt.Errorf("%s: %s is %q, want %q", side, name, got, text))
				}
			}
		}
		return errors.Join(errs...)
	})
}

// haveTold expects that the server knows all that the device does, and that it
// is what happened.
func (w *world) haveTold(want []string) {
	w.t.Helper()
	eventually(w.t, atLast, "all events are reported", func() error {
		events, _ := w.collector.get()
		if history := w.history(); len(events) < len(history) {
			return fmt.Errorf("%d of %d", len(events), len(history))
		}
		return w.impatient()
	})
	events, wrong := w.collector.get()
	for _, what := range wrong {
		w.t.Error(what)
	}
	if got := actions(events); !slices.Equal(got, want) {
		w.t.Errorf("reported:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, e := range events {
		// A capture may have been under way when the agent was told to end.
		if e.Error != "" && e.Action != "rolled back" && !strings.Contains(e.Error, "context canceled") {
			w.t.Errorf("what failed and should not have: %+v", e)
		}
	}
	for _, r := range w.collector.status {
		if v := r.Version.String(); v == unhealthy && r.Pending.String() != v && !slices.ContainsFunc(r.Events, rolledBack) {
			w.t.Errorf("%s was told as the version, and not as one that is pending: %+v", v, r)
		}
	}
}

func rolledBack(e dev.Event) bool { return e.Action == "rolled back" }

// reports waits until the device has tried to report once more, or has nothing
// left to report.
func (w *world) reports() {
	w.t.Helper()
	posts := func() int {
		w.collector.mu.Lock()
		defer w.collector.mu.Unlock()
		return w.collector.posts
	}
	before := posts()
	eventually(w.t, atLast, "a report", func() error {
		h := w.history()
		w.collector.mu.Lock()
		_, all := w.collector.events[h[len(h)-1].ID]
		w.collector.mu.Unlock()
		if posts() == before && !all {
			return errors.New("none came")
		}
		return nil
	})
}

// started gives the versions that the application was started with.
func (w *world) started() []string {
	var all []string
	for line := range strings.Lines(w.read("started")) {
		version, _, _ := strings.Cut(line, " ")
		all = append(all, version)
	}
	return all
}

// neverAgain expects that a version was not started after it was taken back.
func (w *world) neverAgain(version string) {
	w.t.Helper()
	all := w.started()
	if w.starts == 0 || !slices.Contains(all[:w.starts], version) || slices.Contains(all[w.starts:], version) {
		w.t.Errorf("%s was not started once, or again after start %d: %q", version, w.starts, all)
	}
}
