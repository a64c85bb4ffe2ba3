package device

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"tandem/agent/firmware"
	"tandem/backup"
	"tandem/internal/child"
	"tandem/internal/digest"
	"tandem/ota"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/versioning"
)

func version(t testing.TB, text string) versioning.Version {
	t.Helper()
	v, err := versioning.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// answer is what a source has for a unit, with 1.0.0 installed.
func answer(t testing.TB, kind release.Kind, name, offered string) UnitAnswer {
	t.Helper()
	u := UnitAnswer{Unit: Unit{Kind: kind, Name: name, Installed: version(t, "1.0.0")}, Unpacked: firmware.Result{Name: name, State: firmware.None}}
	if offered != "" {
		o := &ota.Offer{Name: name + "-" + offered, Size: 100, SHA256: digest.Of([]byte(name + offered))}
		o.Release.Kind, o.Release.App, o.Release.Version = kind, name, version(t, offered)
		u.Offered.Best = o
	}
	return u
}

// A firmware that is broken, in whatever way, never keeps the application or
// another firmware waiting; and it is left in peace between its own tries.
func TestBrokenFirmware(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]struct {
		step Step
		err  error
		most int // tries within 1,000 hours
	}{
		"its download is refused":    {Downloading, fmt.Errorf("%w: its hash", ota.ErrRefused), 1100},
		"its download never ends":    {Downloading, ota.ErrUnreachable, 1100},
		"its bundle is not signed":   {Ready, trust.ErrUntrusted, 50},
		"its handler says no":        {Ready, child.ErrRefused, 50},
		"its handler cannot run":     {Ready, child.ErrNotRun, 1100},
		"its handler postpones":      {Ready, child.ErrPostponed, 6100},
		"something else is the case": {Ready, errors.New("anything"), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var m Machine
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			tries, installed := 0, map[string]time.Time{}
			begun := now
			for poll := range 1000 {
				ans := &Answers{Units: []UnitAnswer{
					answer(t, release.Firmware, "modem", "2.0.0"), answer(t, release.Firmware, "loader", "2.0.0"), answer(t, release.App, "hello", "2.0.0"),
				}}
				if poll > 0 { // what is installed is not offered again
					for i := 1; i < len(ans.Units); i++ {
						ans.Units[i].Offered.Best = nil
					}
				}
				m.Choose(ans, now)
				next := now.Add(time.Hour)
				for now.Before(next) {
					soonest := next
					for i := range m.Works {
						w := m.Works[i]
						switch {
						case w.Step == Idle:
							continue
						case now.Before(w.NotYet):
							if w.NotYet.Before(soonest) {
								soonest = w.NotYet
							}
							continue
						}
						after, err := w.Course, error(nil)
						switch {
						case w.App == "modem" && w.Step == broken.step:
							tries++
							err = broken.err
						case w.Step == Downloading:
							after.Step = Ready
						default:
							after.Step = Idle
							installed[w.App] = now
						}
						m.Settle(w.Course, after, err, Circumstances{Now: now, Random: 0.5})
						soonest = now.Add(time.Second)
					}
					now = soonest
				}
			}
			for _, app := range []string{"hello", "loader"} {
				if at, ok := installed[app]; !ok || at.Sub(begun) > time.Minute {
					t.Errorf("%s was installed at %s, the release was there at %s", app, at, begun)
				}
			}
			if tries < 2 || tries > broken.most {
				t.Errorf("the firmware was tried %d times in 1,000 hours, expected up to %d", tries, broken.most)
			}
		})
	}
}

func TestSettle(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hopeless := fmt.Errorf("%w: %w", backup.ErrDamage, errors.New("x"))
	for _, c := range []struct {
		name  string
		kind  release.Kind
		step  Step
		tries int
		err   error
		want  Verdict
		step2 Step
		wait  time.Duration
		bars  int
	}{
		{"downloaded", release.App, Downloading, 0, nil, Advanced, Ready, 0, 0},
		{"installed", release.App, Installing, 0, nil, Installed, Idle, 0, 0},
		{"unreachable", release.App, Downloading, 0, ota.ErrUnreachable, Failed, Downloading, 30 * time.Second, 0},
		{"unreachable again and again", release.App, Downloading, 100, ota.ErrUnreachable, Failed, Downloading, time.Hour, 0},
		{"no room to download", release.App, Downloading, 0, ota.ErrNoSpace, NoRoom, Idle, 0, 1},
		{"no room to install", release.App, Installing, 0, backup.ErrNoSpace, NoRoom, Idle, 0, 1},
		{"unhealthy", release.App, Installing, 0, ErrUnhealthy, TakenBack, Idle, 0, 0},
		{"not signed", release.App, Installing, 0, trust.ErrUntrusted, Refused, Idle, 0, 1},
		{"a hook says no", release.App, Installing, 0, child.ErrRefused, Refused, Idle, 0, 1},
		{"a hook says later", release.App, Installing, 3, child.ErrPostponed, Postponed, Ready, 10 * time.Minute, 0},
		{"a hook cannot run", release.App, Installing, 0, child.ErrNotRun, Failed, Ready, 30 * time.Second, 0},
		{"a hook cannot run, for years", release.App, Installing, 1000, child.ErrNotRun, Failed, Ready, time.Hour, 0},
		{"a hook that was checked cannot run", release.App, Installing, 1000, &HookError{err: child.ErrNotRun}, Failed, Ready, time.Hour, 0},
		{"the application was not started", release.App, Installing, 0, fmt.Errorf("%w: %w", ErrNotStarted, child.ErrNotRun), Installed, Idle, 0, 0},
		{"the bundle is gone", release.App, Installing, 0, ErrNoBundle, Advanced, Ready, 0, 0},
		{"damage", release.App, Installing, 0, hopeless, Failed, Ready, 30 * time.Second, 0},
		{"damage for long", release.App, Installing, maxTries, hopeless, Refused, Idle, 0, 1},
	} {
		var m Machine
		ans := &Answers{Units: []UnitAnswer{answer(t, c.kind, "hello", "2.0.0")}}
		if begun := m.Choose(ans, now); len(begun) != 1 {
			t.Fatalf("%s: begun: %v", c.name, begun)
		}
		m.Works[0].Step, m.Works[0].Tries = c.step, c.tries
		next := m.Works[0].Course
		switch {
		case c.err != nil && c.step == Installing:
			next.Step = Ready
		case c.err == nil && c.step == Downloading:
			next.Step = Ready
		case c.err == nil:
			next.Step = Idle
		}
		got := m.Settle(m.Works[0].Course, next, c.err, Circumstances{Now: now, Random: 0.5, State: "/state"})
		w := m.Works[0]
		wait := time.Duration(0)
		if !w.NotYet.IsZero() {
			wait = w.NotYet.Sub(now)
		}
		if got != c.want || w.Step != c.step2 || wait != c.wait || len(m.Bars) != c.bars {
			t.Errorf("%s: %s, step %s, wait %s, %d bars; want %s, %s, %s, %d", c.name, got, w.Step, wait, len(m.Bars), c.want, c.step2, c.wait, c.bars)
		}
		begun := m.Choose(ans, now)
		if again := c.want == TakenBack || c.want == Installed; (len(begun) == 1) != again {
			t.Errorf("%s: the same answer begins %v", c.name, begun)
		}
	}
}

// What a poll finds changes what is under way, and only that.
func TestChoose(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var m Machine
	both := func(modem, hello string) *Answers {
		return &Answers{Units: []UnitAnswer{answer(t, release.Firmware, "modem", modem), answer(t, release.App, "hello", hello)}}
	}
	state := func() string {
		return fmt.Sprintf("%s %s, %s %s", m.Works[0].Step, m.Works[0].Version, m.Works[1].Step, m.Works[1].Version)
	}
	expect := func(want string) {
		t.Helper()
		if got := state(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	m.Choose(both("2.0.0", "3.0.0"), now)
	expect("downloading 2.0.0, downloading 3.0.0")
	m.Works[1].Step = Ready
	m.Choose(both("", "3.0.0"), now)
	expect("idle , ready 3.0.0")
	m.Choose(both("2.1.0", "3.1.0"), now)
	expect("downloading 2.1.0, downloading 3.1.0")
	lost := both("", "")
	lost.Units[1].Offered.Err = ota.ErrUnreachable
	m.Choose(lost, now)
	expect("idle , downloading 3.1.0")
	m.Works[1].Step = Installing
	m.Choose(both("", "4.0.0"), now)
	expect("idle , installing 3.1.0")
	unpacked := both("2.0.0", "")
	unpacked.Units[0].Unpacked = firmware.Result{Name: "modem", State: firmware.Postponed, Version: version(t, "2.0.0")}
	m.Choose(unpacked, now)
	if w := m.Works[0]; w.Step != Ready || w.Name != "" {
		t.Errorf("what is unpacked is fetched again: %+v", w)
	}
	unpacked.Units[0].Offered = both("2.1.0", "").Units[0].Offered
	unpacked.Hold, unpacked.Urgent = "the window is closed", true
	m.Choose(unpacked, now)
	if w := m.Works[0]; w.Step != Downloading || w.Hold != unpacked.Hold || !w.Urgent {
		t.Errorf("a higher one is not fetched: %+v", w)
	}
}

// A release that is recalled is left for a higher one where that can be had, else for
// the one before.
func TestChooseRecalled(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := &recalling{Recalled: Recalled{Version: version(t, "1.0.0"), To: version(t, "0.9.0"), Urgent: true}, release: digest.Of([]byte("release"))}
	ask := func(offered string, change func(*Answers)) *Answers {
		ans := &Answers{Units: []UnitAnswer{answer(t, release.App, "hello", offered)}}
		ans.Units[0].Recalled = r
		if change != nil {
			change(ans)
		}
		return ans
	}
	var m Machine
	expect := func(step Step, version string, recall bool) {
		t.Helper()
		if w := m.Works[0]; w.Step != step || w.Version.String() != version || w.Recall != recall {
			t.Errorf("%s %s, recall %t; want %s %s, %t", w.Step, w.Version, w.Recall, step, version, recall)
		}
	}
	if begun := m.Choose(ask("", nil), now); len(begun) != 1 || !begun[0].Urgent {
		t.Errorf("begun: %v", begun)
	}
	expect(Ready, "0.9.0", true)
	if begun := m.Choose(ask("", nil), now); len(begun) != 0 {
		t.Errorf("begun again: %v", begun)
	}
	m.Choose(ask("2.0.0", nil), now)
	expect(Downloading, "2.0.0", false)
	m.Choose(ask("2.0.0", func(a *Answers) { a.Metered = true }), now)
	expect(Ready, "0.9.0", true)
	m.Choose(ask("2.0.0", nil), now)
	m.Works[0].Tries = patience
	m.Choose(ask("2.0.0", nil), now)
	expect(Downloading, "2.0.0", false)
	m.Works[0].Tries = patience + 1
	m.Choose(ask("2.0.0", nil), now)
	expect(Ready, "0.9.0", true)
	m.bar(Bar{SHA256: digest.Of([]byte("hello2.0.0")), Reason: "a hook refused it", Until: now.Add(time.Hour)})
	m.Choose(ask("2.0.0", nil), now)
	expect(Ready, "0.9.0", true)
	// Where the application wants it later, or not at all, it is left alone for a while.
	c := m.Works[0].Course
	if v := m.Settle(c, c, child.ErrPostponed, Circumstances{Now: now, Random: 0.5}); v != Postponed || m.Works[0].Step != Ready {
		t.Errorf("postponed: %s, %s", v, m.Works[0].Step)
	}
	if v := m.Settle(c, c, child.ErrRefused, Circumstances{Now: now, Random: 0.5}); v != Refused {
		t.Errorf("refused: %s", v)
	}
	m.Choose(ask("", nil), now)
	expect(Idle, "", false)
	m.Choose(ask("", nil), now.Add(barTime))
	expect(Ready, "0.9.0", true)
	m.Choose(ask("", func(a *Answers) { a.Units[0].Recalled = &recalling{Recalled: Recalled{Stays: "nothing is kept"}} }), now)
	expect(Idle, "", false)
	m.Choose(ask("", nil), now.Add(barTime))
	m.Works[0].Step = Installing
	m.Choose(ask("2.0.0", nil), now.Add(barTime))
	expect(Installing, "0.9.0", true)
}

// After an update that a person ended the device goes on with no release by itself,
// neither with one that it had begun nor with one that a poll finds; an hour later it does.
func TestLeaveAlone(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, begun := range map[string]bool{"begun": true, "found later": false} {
		var m Machine
		ans := &Answers{Units: []UnitAnswer{answer(t, release.App, "hello", "1.1.0")}}
		if begun {
			m.Choose(ans, now)
		}
		m.LeaveAlone(now)
		m.Choose(ans, now.Add(time.Minute))
		if w := m.Works[0]; w.Step != Downloading || !w.NotYet.Equal(now.Add(time.Hour)) || w.Failed == "" {
			t.Errorf("%s: %+v, want it to wait for an hour", name, w)
		}
	}
	var m Machine
	m.LeaveAlone(now)
	later := &Answers{Units: []UnitAnswer{answer(t, release.App, "hello", "1.1.0")}}
	for _, at := range []time.Time{now.Add(time.Hour), now.AddDate(-1, 0, 0)} { // or the clock went back
		m.Works = nil
		if m.Choose(later, at); !m.Works[0].NotYet.IsZero() {
			t.Errorf("at %s it waits until %s", at, m.Works[0].NotYet)
		}
	}
}
