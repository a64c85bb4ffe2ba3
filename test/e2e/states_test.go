package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	dev "tandem/agent/device"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// poll is the setting of tests that want polls soon.
const pollOften = "poll = \"1s\"\n"

// installed gives a device with 1.0.0 on it.
func installed(t testing.TB, o options) *device {
	t.Helper()
	d := newDevice(t, o)
	d.must("install", bundle("1.0.0"))
	return d
}

// shared is the repository with 1.1.0 that tests only read.
func shared() string { return filepath.Join(pubDir, "repo") }

// waitsFor waits until the agent says why it waits.
func (d *device) waitsFor(why string) {
	d.t.Helper()
	d.until(soon, "the agent waits", func(s *dev.Status) error {
		if !strings.Contains(s.Agent.Waiting, why) {
			return fmt.Errorf("it says %q, want %q; it does: %s", s.Agent.Waiting, why, s.Agent.Doing)
		}
		return nil
	})
}

func (d *device) comesToRun(version string) {
	d.t.Helper()
	eventually(d.t, atLast, version+" runs", func() error { return d.runs(version) })
}

func TestEndWhileDownloading(t *testing.T) {
	t.Parallel()
	w := newWeb(t, shared())
	w.be(stall)
	d := installed(t, options{source: w.url, agent: pollOften, hooks: true})
	d.start()
	part := func() error {
		parts, _ := filepath.Glob(d.path("state/downloads/*"))
		for _, p := range parts {
			var st unix.Stat_t // its size is the whole bundle's from the start
			if err := unix.Stat(p, &st); err == nil && st.Blocks*512 > head {
				return nil
			}
		}
		return errors.New("no part of the bundle is there")
	}
	eventually(t, soon, "half a bundle", part)
	d.end()
	if err := part(); err != nil {
		t.Fatal(err)
	}
	w.be(nil)
	before := len(w.requests(bundles))
	d.start()
	d.comesToRun("1.1.0")
	if after := w.requests(bundles)[before:]; len(after) != 1 || strings.HasPrefix(after[0].ranges, "bytes=0-") {
		t.Errorf("the download did not go on from its part: %+v", after)
	}
}

func TestEndWhileAskingForHealth(t *testing.T) {
	t.Parallel()
	w := newWeb(t, shared())
	d := installed(t, options{source: w.url, agent: pollOften, hooks: true})
	d.write("hang-health", "")
	d.start()
	eventually(t, soon, "the health check of 1.1.0", func() error { return d.has("asked", "1.1.0") })
	d.end()
	if s := d.must("status").stdout; !strings.Contains(s, "1.1.0 is not confirmed yet") {
		t.Errorf("what hangs is no answer, but it was taken for one:\n%s", s)
	}
	d.remove("hang-health")
	d.start()
	d.comesToRun("1.1.0")
	want := []string{"pending 1.0.0", "confirmed 1.0.0", "pending 1.1.0", "confirmed 1.1.0"}
	eventually(t, soon, "it is remembered", func() error {
		if got := actions(d.history()); !slices.Equal(got, want) {
			return fmt.Errorf("history: %q, want %q", got, want)
		}
		return nil
	})
}

// has reports whether a line of a file is there.
func (d *device) has(name, line string) error {
	if !slices.Contains(d.lines(name), line) {
		return fmt.Errorf("%s has no %q: %q", name, line, d.lines(name))
	}
	return nil
}

func TestEndWhileInstalling(t *testing.T) {
	t.Parallel()
	w := newWeb(t, shared())
	d := installed(t, options{source: w.url, agent: pollOften, hooks: true})
	d.write("hang-stop", "")
	d.start()
	eventually(t, soon, "the application is stopped", func() error {
		if d.read("running") != "" {
			return errors.New("it runs")
		}
		return nil
	})
	d.end()
	d.remove("hang-stop")
	if got := d.read("running"); got != "hello 1.0.0\n" {
		t.Errorf("%q runs while there is no agent: what was stopped for the installation is to go on", got)
	}
	d.start()
	d.comesToRun("1.1.0")
	if n := w.downloads(); n != 1 {
		t.Errorf("the bundle was asked for %d times", n)
	}
}

// aWindow gives a window of an hour that is opened or shut for hours to come.
func aWindow(open bool) string {
	h := time.Now().Hour()
	if !open {
		h += 12
	}
	return fmt.Sprintf("window = [\"%02d:00-%02d:00\"]\n", (h+23)%24, (h+2)%24)
}

func TestWindow(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "1.1.0")
	w := newWeb(t, r.dir)
	o := options{source: w.url, agent: pollOften + aWindow(false) + "urgent = true\n", hooks: true}
	d := installed(t, o)
	d.start()
	d.waitsFor("outside the window")
	if n := w.downloads(); n != 1 {
		t.Errorf("%d requests for the bundle, want one: it is downloaded before the window opens", n)
	}
	d.end() // waiting
	d.start()
	d.waitsFor("outside the window")
	d.polled()

	// What its publisher takes back meanwhile is not installed when it opens.
	r.add("1.2.0")
	d.until(soon, "1.2.0 in place of 1.1.0", func(s *dev.Status) error {
		if s.Agent.Step != dev.Ready || s.Agent.Version != "1.2.0" {
			return fmt.Errorf("%s %s", s.Agent.Step, s.Agent.Version)
		}
		return nil
	})
	r.yank("1.2.0")
	r.yank("1.1.0")
	d.until(soon, "nothing to do", func(s *dev.Status) error {
		if s.Agent.Step != dev.Idle {
			return fmt.Errorf("%s %s", s.Agent.Step, s.Agent.Version)
		}
		return nil
	})

	r.add("1.4.0", "--urgent")
	d.comesToRun("1.4.0")
	r.add("1.6.0")
	d.waitsFor("outside the window")
	d.end()
	o.agent = pollOften + aWindow(true)
	d.configure(o)
	before := len(w.requests(bundles))
	d.start()
	d.comesToRun("1.6.0")
	if n := len(w.requests(bundles)) - before; n != 0 {
		t.Errorf("%d more requests for a bundle that was downloaded", n)
	}
	want := []string{"pending 1.0.0", "confirmed 1.0.0", "pending 1.4.0", "confirmed 1.4.0", "pending 1.6.0", "confirmed 1.6.0"}
	if got := actions(d.history()); !slices.Equal(got, want) {
		t.Errorf("history: %q, want %q", got, want)
	}
}

// An urgent release is as any other where the device does not allow it.
func TestUrgentNotAllowed(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.add("1.1.0", "--urgent")
	d := installed(t, options{source: newWeb(t, r.dir).url, agent: pollOften + aWindow(false), hooks: true})
	d.start()
	d.waitsFor("outside the window")
	d.polled()
	d.waitsFor("outside the window")
}

func TestPollNow(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	w := newWeb(t, r.dir)
	d := installed(t, options{source: w.url, agent: "poll = \"1000h\"\n", hooks: true})
	d.start()
	d.until(soon, "the agent is idle", func(s *dev.Status) error {
		if s.Agent.Doing != "idle" {
			return errors.New(s.Agent.Doing)
		}
		return nil
	})
	if n := len(w.requests("")); n != 0 {
		t.Fatalf("%d requests before the first poll is due", n)
	}
	r.add("1.1.0")
	d.signal(syscall.SIGHUP)
	d.comesToRun("1.1.0")
	r.add("1.2.0")
	d.must("check")
	d.comesToRun("1.2.0")
}

func TestMetered(t *testing.T) {
	t.Parallel()
	w := newWeb(t, shared())
	o := options{source: w.url, agent: pollOften + "metered = true\n", hooks: true}
	d := installed(t, o)
	d.start()
	d.waitsFor("metered")
	d.polled()
	d.polled()
	if n := len(w.requests(bundles)); n != 0 {
		t.Errorf("%d requests for bundles", n)
	}
	d.end()
	o.agent = pollOften
	d.configure(o)
	d.start()
	d.comesToRun("1.1.0")
}

func TestPreInstall(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "1.1.0")
	w := newWeb(t, r.dir)
	d := installed(t, options{source: w.url, agent: pollOften, hooks: true})
	d.configure(options{source: w.url, agent: pollOften, hooks: true, pre: true})

	d.write("pre-answer", "75")
	d.start()
	d.waitsFor("pre_install")
	d.polled()
	if got := d.lines("pre-asked"); len(got) != 1 {
		t.Errorf("it was asked %d times; the next time is minutes away", len(got))
	}
	if n := w.downloads(); n != 1 {
		t.Errorf("%d requests for the bundle", n)
	}
	d.end()

	d.write("pre-answer", "1")
	d.start()
	d.until(soon, "the release is refused", func(s *dev.Status) error {
		if s.Agent.Step != dev.Idle || len(d.lines("pre-asked")) != 2 {
			return fmt.Errorf("%s, asked: %q", s.Agent.Step, d.lines("pre-asked"))
		}
		return nil
	})
	d.polled()
	d.end()
	d.start()
	d.polled()
	d.polled()
	if got := d.lines("pre-asked"); len(got) != 2 {
		t.Errorf("a release that was refused was asked about again: %q", got)
	}
	if n := w.downloads(); n != 1 {
		t.Errorf("a release that was refused was downloaded again: %d requests", n)
	}

	d.write("pre-answer", "0")
	r.add("1.2.0")
	d.comesToRun("1.2.0")
	want := []string{"pending 1.0.0", "confirmed 1.0.0", "pending 1.2.0", "confirmed 1.2.0"}
	if got := actions(d.history()); !slices.Equal(got, want) {
		t.Errorf("history: %q, want %q", got, want)
	}
}
