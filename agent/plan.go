package agent

import (
	"math"
	"time"

	"tandem/agent/device"
	"tandem/internal/config"
)

// outlook is all that the next step depends on. Times that lie ahead are zero
// where nothing is planned.
type outlook struct {
	Now  time.Time
	Step device.Step
	// Release is what the step is about.
	Urgent  bool      // and the device allows it
	NotYet  time.Time // when what failed or was postponed is tried again
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
	Until time.Time
	Why   string // of waiting, for people
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
	if o.Step != device.Downloading {
		return next
	}
	switch {
	case o.Metered:
		next.Why = "the link is metered: downloads wait"
	case o.Now.Before(o.NotYet):
		next.Until, next.Why = sooner(o.Poll, o.NotYet), "the download is tried again later"
	default:
		return plan{Do: doDownload}
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
	if o.Step != device.Ready {
		return next
	}
	open, opens := config.Open(o.Windows, o.Now)
	switch {
	case o.Now.Before(o.NotYet):
		next.Until, next.Why = sooner(next.Until, o.NotYet), "the installation is tried again later"
	case o.Urgent:
		return plan{Do: doInstall}
	case len(o.Windows) > 0 && o.ClockBehind:
		next.Until, next.Why = sooner(next.Until, o.Now.Add(clockCheck)), "the clock is not set: no window can be told"
	case !open:
		next.Until, next.Why = sooner(next.Until, sooner(opens, o.Now.Add(clockCheck))), "outside the window"
	default:
		return plan{Do: doInstall}
	}
	return next
}

// planScrub decides about the full verification, which reads all there is and
// disturbs nobody.
func planScrub(o outlook) plan {
	if !o.Now.Before(o.Scrub) {
		return plan{Do: doScrub}
	}
	return plan{Do: doWait, Until: o.Scrub}
}

// sooner gives the earlier of two times, of which zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

const (
	maxSpread  = time.Hour        // that first polls are spread over
	firstRetry = 30 * time.Second // after a failure
	maxRetry   = time.Hour
	maxWish    = 24 * time.Hour // that a server may put off a poll
)

// FirstPoll is how long an agent that starts waits before it polls: devices that
// start together, because the power came back, ask one after another. r is random,
// from 0 up to 1.
func FirstPoll(every time.Duration, r float64) time.Duration { return spread(every, r) }

// spread gives a random part of a time, of an hour at most.
func spread(every time.Duration, r float64) time.Duration {
	return time.Duration(r * float64(min(every, maxSpread)))
}

// NextPoll is how long to wait after a poll that succeeded: what the
// configuration says, a tenth more or less, but no shorter than the server asks.
func NextPoll(every, wish time.Duration, r float64) time.Duration {
	return max(time.Duration((0.9+0.2*r)*float64(every)), min(wish, maxWish))
}

// nextTry is how long to wait after the given number of failures in a row: the
// double each time, half of it more or less, but no shorter than the server asks.
func nextTry(failures int, wish time.Duration, r float64) time.Duration {
	d := min(float64(maxRetry), float64(firstRetry)*math.Pow(2, float64(max(0, failures-1))))
	return max(time.Duration((0.5+r)*d), min(wish, maxWish))
}
