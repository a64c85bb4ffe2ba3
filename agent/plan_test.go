package agent

import (
	"testing"
	"time"

	"tandem/agent/device"
	"tandem/internal/config"

	"github.com/sirupsen/logrus"
)

func TestPlan(t *testing.T) {
	now := time.Date(2024, 1, 1, 12, 0, 0, 0, time.UTC) // a Monday
	in := func(d time.Duration) time.Time { return now.Add(d) }
	night, err := config.ParseWindow("02:00-04:00")
	if err != nil {
		t.Fatal(err)
	}
	noon, err := config.ParseWindow("Mon 11:00-13:00")
	if err != nil {
		t.Fatal(err)
	}
	soon, err := config.ParseWindow("12:05-13:00")
	if err != nil {
		t.Fatal(err)
	}
	const (
		none = time.Duration(-1)
		m    = time.Minute
	)
	works := func(w ...device.Work) []device.Work { return w }
	for _, tt := range []struct {
		name         string
		o            outlook
		network      move
		networkUntil time.Duration
		sides        move
		sidesUntil   time.Duration
	}{
		{"one that waits keeps no other one waiting", outlook{Source: true, Poll: in(m), Works: works(
			device.Work{Course: device.Course{Step: device.Downloading}, NotYet: in(5 * m)},
			device.Work{Course: device.Course{Step: device.Ready}, NotYet: in(5 * m)},
			device.Work{Course: device.Course{Step: device.Downloading}},
			device.Work{Course: device.Course{Step: device.Ready}})}, doDownload, 0, doInstall, 0},
		{"held by the source", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready, Hold: "not yet", Urgent: true}}), Urgent: true}, doWait, none, doWait, none},
		{"no source", outlook{Works: works(device.Work{Course: device.Course{Step: device.Idle}})}, doWait, none, doWait, none},
		{"idle", outlook{Works: works(device.Work{Course: device.Course{Step: device.Idle}}), Source: true, Poll: in(m)}, doWait, m, doWait, none},
		{"poll is due", outlook{Works: works(device.Work{Course: device.Course{Step: device.Idle}}), Source: true, Poll: now}, doPoll, 0, doWait, none},
		{"poll before a download", outlook{Works: works(device.Work{Course: device.Course{Step: device.Downloading}}), Source: true, Poll: in(-m)}, doPoll, 0, doWait, none},
		{"download", outlook{Works: works(device.Work{Course: device.Course{Step: device.Downloading}}), Source: true, Poll: in(m)}, doDownload, 0, doWait, none},
		{"download outside the window", outlook{Works: works(device.Work{Course: device.Course{Step: device.Downloading}}), Source: true, Poll: in(m), Windows: []config.Window{night}}, doDownload, 0, doWait, none},
		{"download that failed", outlook{Works: works(device.Work{Course: device.Course{Step: device.Downloading}, NotYet: in(2 * m)}), Source: true, Poll: in(5 * m)}, doWait, 2 * m, doWait, none},
		{"download that failed, poll sooner", outlook{Works: works(device.Work{Course: device.Course{Step: device.Downloading}, NotYet: in(2 * m)}), Source: true, Poll: in(m)}, doWait, m, doWait, none},
		{"metered: polls", outlook{Works: works(device.Work{Course: device.Course{Step: device.Downloading}}), Source: true, Poll: now, Metered: true}, doPoll, 0, doWait, none},
		{"metered: no download", outlook{Works: works(device.Work{Course: device.Course{Step: device.Downloading}}), Source: true, Poll: in(m), Metered: true}, doWait, m, doWait, none},
		{"metered: urgent waits, too", outlook{Works: works(device.Work{Course: device.Course{Step: device.Downloading, Urgent: true}}), Source: true, Poll: in(m), Metered: true, Urgent: true}, doWait, m, doWait, none},
		{"metered: what is here is installed", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}}), Source: true, Poll: in(m), Metered: true}, doWait, m, doInstall, 0},
		{"install", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}}), Source: true, Poll: in(m)}, doWait, m, doInstall, 0},
		{"install without a source", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}})}, doWait, none, doInstall, 0},
		{"in the window", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}}), Windows: []config.Window{night, noon}}, doWait, none, doInstall, 0},
		{"outside the window", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}}), Windows: []config.Window{night}}, doWait, none, doWait, clockCheck},
		{"window opens soon", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}}), Windows: []config.Window{night, soon}}, doWait, none, doWait, 5 * m},
		{"urgent", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready, Urgent: true}}), Windows: []config.Window{night}, Urgent: true}, doWait, none, doInstall, 0},
		{"urgent, postponed", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready, Urgent: true}, NotYet: in(3 * m)}), Windows: []config.Window{night}, Urgent: true}, doWait, none, doWait, 3 * m},
		{"postponed", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}, NotYet: in(3 * m)})}, doWait, none, doWait, 3 * m},
		{"no clock", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}}), Windows: []config.Window{noon}, ClockBehind: true}, doWait, none, doWait, clockCheck},
		{"no clock, urgent", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready, Urgent: true}}), Windows: []config.Window{noon}, ClockBehind: true, Urgent: true}, doWait, none, doInstall, 0},
		{"no clock, no window", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}}), ClockBehind: true}, doWait, none, doInstall, 0},
		{"while installing", outlook{Works: works(device.Work{Course: device.Course{Step: device.Installing}}), Source: true, Poll: in(m)}, doWait, m, doWait, none},
		{"pending", outlook{Works: works(device.Work{Course: device.Course{Step: device.Idle}}), Pending: true, Health: now}, doWait, none, doProve, 0},
		{"pending, asked before", outlook{Works: works(device.Work{Course: device.Course{Step: device.Idle}}), Pending: true, Health: in(m)}, doWait, none, doWait, m},
		{"the next release supersedes a pending one", outlook{Works: works(device.Work{Course: device.Course{Step: device.Ready}}), Pending: true, Health: in(m)}, doWait, none, doInstall, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Now = now
			check := func(what string, p plan, want move, until time.Duration) {
				if p.Do != want {
					t.Errorf("%s: %s, want %s", what, p.Do, want)
				}
				if want != doWait {
					return
				}
				if got := p.Until.Sub(now); p.Until.IsZero() != (until == none) || until != none && got != until {
					t.Errorf("%s: until %v, want %v", what, p.Until, until)
				}
			}
			check("network", planNetwork(tt.o), tt.network, tt.networkUntil)
			check("sides", planSides(tt.o), tt.sides, tt.sidesUntil)
		})
	}
}

// Whatever the outlook, there is a next attempt: an agent with a source never
// waits for ever.
func FuzzPlanNeverWedges(f *testing.F) {
	f.Add(int64(0), uint8(1), true, false, int64(5), int64(-3), uint16(120), uint16(240))
	f.Fuzz(func(t *testing.T, now int64, n uint8, metered, behind bool, pollIn, notYetIn int64, from, to uint16) {
		at := time.Unix(now%1e10, 0).UTC()
		after := func(s int64) time.Time { return at.Add(time.Duration(s%1e6) * time.Second) }
		step := []device.Step{device.Idle, device.Downloading, device.Ready, device.Installing}[n%4]
		o := outlook{
			Now: at, Works: []device.Work{{Course: device.Course{Step: step}, NotYet: after(notYetIn)}}, Metered: metered, ClockBehind: behind,
			Source: true, Poll: after(pollIn),
		}
		if from%1440 != to%1440 {
			o.Windows = []config.Window{{Days: [7]bool{n%7 == 0, true}, From: int(from % 1440), To: int(to % 1440)}}
		}
		for _, p := range []plan{planNetwork(o), planSides(o)} {
			if p.Do == doWait && p.Until.Before(at) && !p.Until.IsZero() {
				t.Fatalf("%+v: waits until %v, which is past", o, p.Until)
			}
		}
		if p := planNetwork(o); p.Do == doWait && p.Until.IsZero() {
			t.Fatalf("%+v: never polls again", o)
		}
		if p := planSides(o); step == device.Ready && p.Do == doWait && p.Until.IsZero() {
			t.Fatalf("%+v: never installs", o)
		}
	})
}

func TestWaits(t *testing.T) {
	const h, m, s = time.Hour, time.Minute, time.Second
	for _, tt := range []struct {
		what      string
		got, want time.Duration
	}{
		{"first poll, first device", spread(h, 0), 0},
		{"first poll, middle", spread(h, 0.5), 30 * m},
		{"first poll of a daily one", spread(24*h, 0.5), 30 * m},
		{"next poll, early", NextPoll(h, 0, 0), 54 * m},
		{"next poll, middle", NextPoll(h, 0, 0.5), h},
		{"the server asks for more", NextPoll(h, 6*h, 0.5), 6 * h},
		{"the server asks for less", NextPoll(h, m, 0.5), h},
		{"the server asks for ever", NextPoll(h, 1e6*h, 0.5), 24 * h},
		{"first failure", device.NextTry(1, 0, 0.5), 30 * s},
		{"third failure", device.NextTry(3, 0, 0.5), 2 * m},
		{"many failures", device.NextTry(100000, 0, 0.5), h},
		{"many failures, late", device.NextTry(100000, 0, 0.999999), 89*m + 59*s},
		{"failure, the server asks for more", device.NextTry(1, 2*h, 0), 2 * h},
	} {
		if got := tt.got.Truncate(s); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.what, tt.got, tt.want)
		}
	}
}

// Windows are told in the device's zone, whatever the clock's own one is.
func TestOutlookZone(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 20, 30, 0, 0, time.UTC)
	a := testAgent(t, &config.Config{}, logrus.New(), func() time.Time { return now })
	a.o.Zone = time.FixedZone("CST", 8*3600)
	w, err := config.ParseWindow("04:00-05:00")
	if err != nil {
		t.Fatal(err)
	}
	if open, _ := config.Open([]config.Window{w}, a.outlook(a.clock()).Now); !open {
		t.Error("at 04:30 there, the window from 04:00 to 05:00 is not open")
	}
}
