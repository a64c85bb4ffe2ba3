package agent

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"tandem/agent/device"
	"tandem/backup"
	"time"

	"golang.org/x/time/rate"
)

// captureJob backs up what was edited, and mends what an edit has damaged.
func (a *Agent) captureJob(ctx context.Context) func() {
	again := func() { a.config.edits.seen(a.clock()) }
	return a.onSides(ctx, again, func(d *device.Device) func() {
		began := a.clock()
		res, err := d.Boot(ctx, "agent", backup.Options{})
		return func() {
			if ctx.Err() != nil {
				return
			}
			w, now := &a.config, a.clock()
			w.cost = now.Sub(began)
			switch {
			case err != nil:
				w.failures++
				w.wait = now.Add(device.NextTry(w.failures, 0, a.o.Random()))
				if w.failures == 1 {
					a.log.WithError(err).Warn("the configuration is not backed up; it is tried again")
				}
				again()
			case len(res.Changed) > 0:
				w.failures, w.wait = 0, now.Add(w.captures.ReserveN(now, 1).DelayFrom(now))
			default:
				w.failures = 0
			}
			a.watchConfig(res)
		}
	})
}

// configWatch is what the agent does about edits of the configuration.
type configWatch struct {
	watch    *watch
	scan     bool      // the kernel cannot tell what changes
	retry    time.Time // while it scans: when it is asked again whether it can
	changed  chan struct{}
	edits    edits
	captures *rate.Limiter
	cost     time.Duration // of the last look at the sides
	next     time.Time     // of the next scan
	failures int           // in a row
	wait     time.Time     // until which captures are held: they come too often, or fail
	rest     time.Time     // when what was being written at the last look has come to rest; zero: nothing was
}

// due says when the sides are to be looked at for edits; zero: when something
// changes.
func (w *configWatch) due(now time.Time) time.Time {
	due := sooner(w.edits.due(), w.rest)
	if w.scan {
		due = sooner(due, w.next)
	}
	if !due.IsZero() && due.Before(w.wait) {
		return w.wait
	}
	return due
}

// begin takes note that the sides are looked at now.
func (w *configWatch) begin(now time.Time) {
	w.edits, w.rest = edits{}, time.Time{}
	w.next = now.Add(max(scanEvery, scanShare*w.cost))
}

func (w *configWatch) stop() {
	if w.watch != nil {
		w.watch.stop()
		w.watch = nil
	}
}

// restTime is how long an application that never came to rest is given before its
// configuration is looked at again.
const restTime = 10 * time.Second

// watchConfig watches the tree that the application runs from, as it is now: a
// new version is another tree. res is what was found at the last look; nil if
// nothing is known.
func (a *Agent) watchConfig(res *backup.Result) {
	w := &a.config
	if res == nil || res.System == nil {
		return
	}
	if len(res.Busy) > 0 { // written, it is told; given up, it is not
		w.rest = a.clock().Add(restTime)
	}
	if w.watch != nil && len(res.Changed)+len(res.Finished) == 0 && !w.watch.blind.Load() && w.watch.version == res.Version.String() {
		return
	}
	if w.scan && a.clock().Before(w.retry) {
		return
	}
	w.stop()
	var err error
	dir := filepath.Join(a.cfg.System.Path, "apps")
	w.watch, err = startWatch(dir, res.System.Ignored(), w.changed, a.log)
	switch {
	case errors.Is(err, fs.ErrNotExist): // no application yet: its installation comes through here
		w.scan = false
	case err != nil:
		if !w.scan {
			a.log.WithError(err).Warn("the configuration cannot be watched: it is scanned from time to time")
			w.next = a.clock() // what changed since the look, nobody has told
		}
		w.scan, w.retry = true, a.clock().Add(watchRetry)
	default:
		w.scan = false
		w.watch.version = res.Version.String()
		w.edits.seen(a.clock()) // what changed between the look and the watch, nobody has told
	}
}
