package agent

import (
	"context"
	"errors"
	"tandem/agent/device"
	"tandem/backup"
	"time"
)

// firstScrub is when both sides are verified after a start. A device that starts
// every day is verified every day; one whose clock went back, soon.
func firstScrub(last, now time.Time, every time.Duration, r float64) time.Time {
	soon := now.Add(spread(min(every, scrubSpread), r))
	if last.IsZero() || last.After(now) || last.Add(every).Before(soon) {
		return soon
	}
	return last.Add(every)
}

const scrubSpread = 15 * time.Minute

// scrub verifies both sides without the lock, so that it holds up nothing.
// What it finds is looked at again under the lock before it is mended.
func (a *Agent) scrub(ctx context.Context) func() {
	done := func(found bool) func() {
		return func() {
			if ctx.Err() != nil {
				return
			}
			a.now.Repair = a.now.Repair || found
			a.mem.Scrubbed = a.clock()
			a.now.NextScrub = a.mem.Scrubbed.Add(a.cfg.Agent.Scrub)
			a.saveMemory()
		}
	}
	beGentle() // until the end of this goroutine
	d, err := a.open(device.Look)
	if err != nil {
		a.log.WithError(err).Warn("the sides cannot be verified")
		return done(false)
	}
	defer a.close(d)
	d.SlowDown(ctx, a.cfg.Agent.ScrubBandwidth)
	res, err := d.Verify(ctx)
	switch {
	case ctx.Err() != nil:
		return nothing
	case err != nil && !errors.Is(err, backup.ErrNoApplication):
		a.log.WithError(err).Warn("verifying both sides")
		return done(true)
	}
	a.log.Info("both sides are verified")
	return done(res != nil && res.Decision.Action != backup.Nothing)
}

// repairJob verifies everything under the lock and mends it.
func (a *Agent) repairJob(ctx context.Context) func() {
	return a.onSides(ctx, nothing, func(d *device.Device) func() {
		res, err := d.Boot(ctx, "agent", backup.Options{Full: true})
		return func() {
			if ctx.Err() != nil {
				return
			}
			a.now.Repair = false
			if err != nil {
				a.log.WithError(err).Error("damage that was found could not be repaired")
			}
			a.watchConfig(res)
		}
	})
}
