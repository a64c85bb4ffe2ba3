package agent

import (
	"time"

	"tandem/agent/device"
	"tandem/internal/config"
)

// outlook is all that the next step depends on. Times that lie ahead are zero
// where nothing is planned.
type outlook struct {
	Now     time.Time
	Works   []device.Work // in the order in which they are gone on with
	Urgent  bool          // the device lets a release ask for not waiting
	Windows []config.Window
	// ClockBehind says that the clock shows a time that has passed for sure: it
	// was never set, and the hour of the day is not known.
	ClockBehind bool
	Metered     bool
	Source      bool      // there is one to poll
	Poll        time.Time // when it is polled next
	Pending     bool      // a version waits to be confirmed
	Health      time.Time // when its health is asked for next
	Scrub       time.Time
}

// move is something to do.
type move string

const (
	doWait     move = "wait"
	doPoll     move = "poll"
	doDownload move = "download"
	doInstall  move = "install"
	doProve    move = "prove"
	doScrub    move = "scrub"
)

// plan is what to do now. Where that is to wait, until says when to plan again
// at the latest; zero: when something happens.
type plan struct {
	Do    move
	Work  int // that is gone on with
	Until time.Time
	Why   map[int]string // of works that wait, for people
}

// wait notes why a work waits, and until when at most.
func (p *plan) wait(work int, until time.Time, why string) {
	p.Until = sooner(p.Until, until)
	if p.Why == nil {
		p.Why = map[int]string{}
	}
	p.Why[work] = why
}

// clockCheck is how long a wait for a time of day may take before the clock is
// looked at again: it may have been set meanwhile.
const clockCheck = 10 * time.Minute

// planNetwork decides about the source.
func planNetwork(o outlook) plan {
	if !o.Source {
		return plan{Do: doWait}
	}
	if !o.Now.Before(o.Poll) {
		return plan{Do: doPoll}
	}
	next := plan{Do: doWait, Until: o.Poll}
	for i := range o.Works {
		w := &o.Works[i]
		if w.Step != device.Downloading {
			continue
		}
		switch {
		case o.Metered:
			next.wait(i, time.Time{}, "the link is metered: downloads wait")
		case o.Now.Before(w.NotYet):
			next.wait(i, w.NotYet, because("the download is tried again later", w))
		default:
			return plan{Do: doDownload, Work: i}
		}
	}
	return next
}

// planSides decides about the sides.
func planSides(o outlook) plan {
	if o.Pending && !o.Now.Before(o.Health) {
		return plan{Do: doProve}
	}
	next := plan{Do: doWait}
	if o.Pending {
		next.Until = o.Health
	}
	for i := range o.Works {
		w := &o.Works[i]
		if w.Step != device.Ready {
			continue
		}
		open, opens := config.Open(o.Windows, o.Now)
		switch {
		case o.Now.Before(w.NotYet):
			next.wait(i, w.NotYet, because("the installation is tried again later", w))
		case w.Hold != "":
			next.wait(i, time.Time{}, w.Hold)
		case w.Urgent && o.Urgent:
			return plan{Do: doInstall, Work: i}
		case len(o.Windows) > 0 && o.ClockBehind:
			next.wait(i, o.Now.Add(clockCheck), "the clock is not set: no window can be told")
		case !open:
			next.wait(i, sooner(opens, o.Now.Add(clockCheck)), "outside the window")
		default:
			return plan{Do: doInstall, Work: i}
		}
	}
	return next
}

// because adds to why a work waits what went wrong before.
func because(why string, w *device.Work) string {
	if w.Failed == "" {
		return why
	}
	return why + ": " + w.Failed
}

// planScrub decides about the full verification, which reads all there is and
// disturbs nobody.
func planScrub(o outlook) plan {
	if !o.Now.Before(o.Scrub) {
		return plan{Do: doScrub}
	}
	return plan{Do: doWait, Until: o.Scrub}
}

// sooner returns the earlier of two times, of which zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

const (
	maxSpread   = time.Hour      // that first polls are spread over
	maxFirstAsk = time.Minute    // of a hawkBit server, whose action may be under way
	maxWish     = 24 * time.Hour // that a server may put off a poll
)

// FirstPoll is how long an agent that starts waits before it polls: devices that
// start together, because the power came back, ask one after another. r is random,
// from 0 up to 1.
func FirstPoll(every time.Duration, r float64) time.Duration { return spread(every, r) }

// spread returns a random part of a time, of an hour at most.
func spread(every time.Duration, r float64) time.Duration {
	return time.Duration(r * float64(min(every, maxSpread)))
}

// NextPoll is how long to wait after a poll that succeeded: what the
// configuration says, a tenth more or less, but no shorter than the server asks.
func NextPoll(every, wish time.Duration, r float64) time.Duration {
	return max(time.Duration((0.9+0.2*r)*float64(every)), min(wish, maxWish))
}
