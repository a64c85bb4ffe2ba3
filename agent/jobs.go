package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"tandem/agent/device"
	"tandem/agent/firmware"
	"tandem/backup"
	"tandem/internal/child"
	"tandem/internal/digest"
	"tandem/internal/lock"
	"tandem/ota"
	"tandem/packaging/release"
	"tandem/versioning"
)

// nothing is what a job ends with that leaves nothing for the owner to do.
func nothing() {}

// comeUp brings the sides in step and finds out what was under way when the
// agent ended, however that came about.
func (a *Agent) comeUp(ctx context.Context) func() {
	return a.onSides(ctx, nothing, func(d *device.Device) func() {
		mem := memory{Course: device.Course{Step: device.Idle}}
		var since time.Time
		if disk, err := d.State(); err == nil {
			mem, since = loadMemory(disk, a.log), d.PendingSince()
		} else {
			a.log.WithError(err).Warn("the agent's state cannot be used")
		}
		res, err := d.Boot(ctx, "agent", backup.Options{Running: true})
		if err != nil && ctx.Err() == nil && !errors.Is(err, backup.ErrNoApplication) {
			a.log.WithError(err).Error("the sides are not in step")
		}
		if res != nil && ctx.Err() == nil {
			d.CatchUp(ctx, mem.Course, res.Version)
		}
		started := false
		switch {
		case mem.Course.Step == device.Installing:
			mem.Course, started = a.resume(ctx, d, mem.Course, res)
		case mem.Ordered && res != nil: // a command was cut off: it may have stopped the application
			started = d.StartApplication(ctx, versioning.Version{}, res.Version)
		}
		mem.Ordered = false
		behind := d.ClockBehind()
		return func() {
			if ctx.Err() != nil {
				return
			}
			now := a.clock()
			a.up, a.mem = true, mem
			a.saveMemory()
			a.now.NextPoll = now.Add(FirstPoll(a.cfg.Agent.Poll, a.o.Random()))
			a.now.NextScrub = firstScrub(mem.Scrubbed, now, a.cfg.Agent.Scrub, a.o.Random())
			if a.now.Pending != nil {
				a.now.Health, a.now.Unstarted = now, !started
				if !since.IsZero() {
					a.now.PendingSince = since
				}
			}
			a.now.ClockBehind = behind
			a.watchConfig(res)
			a.o.Notify("READY=1")
		}
	})
}

// resume goes on with an installation that was cut off, and gives what is left
// to do. The application may have been stopped for it: started reports whether it
// was started again.
func (a *Agent) resume(ctx context.Context, d *device.Device, c device.Course, res *backup.Result) (left device.Course, started bool) {
	if c.Kind == release.Firmware { // its own record says how far it has come; the next poll finds it
		return device.Course{Step: device.Idle}, false
	}
	log := a.log.WithField("version", c.Version)
	committed := res != nil && res.Version.String() == c.Version.String()
	from, to := c.From, c.Version
	if !committed {
		from, to = c.Version, c.From
	}
	started = d.StartApplication(ctx, from, to)
	if committed {
		log.Info("the installation was cut off after its commit")
		return device.Course{Step: device.Idle}, started
	}
	if revoked, err := d.Revoked(); err == nil && c.Version.In(revoked) {
		log.Info("the installation was cut off after it was taken back")
		return device.Course{Step: device.Idle}, started
	}
	log.Info("the installation was cut off before its commit: it is tried again")
	c.Step = device.Ready
	return c, started
}

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

// noRoom keeps the agent from a release until so many more bytes are free than
// there were, where the error says that there was no room. An error that does
// not say where is one of the state directory.
func (a *Agent) noRoom(c device.Course, err error, free map[string]int64, more int64) Bar {
	b := Bar{SHA256: c.SHA256, Reason: err.Error(), Path: a.cfg.Agent.State}
	var full *backup.SpaceError
	if errors.As(err, &full) {
		for path := range free {
			if full.Path == path || strings.HasPrefix(full.Path, path+"/") {
				b.Path = path
			}
		}
	}
	b.Free = free[b.Path] + more
	return b
}

// candidates returns what could be done about the answers: firmware first, as in
// an update by hand.
func candidates(ans *device.Answers) []device.Course {
	var all []device.Course
	for _, f := range ans.Firmware {
		best := f.Decision.Best
		switch {
		case best != nil && best.Release.Version.Compare(f.Pending.Version) > 0:
			all = append(all, device.CourseOf(best, f.Installed))
		case f.Pending.State != firmware.None && f.Pending.State != firmware.Restart:
			all = append(all, unpackedFirmware(f))
		}
	}
	if ans.App.Best != nil {
		all = append(all, device.CourseOf(ans.App.Best, ans.Installed))
	}
	return all
}

// unpackedFirmware is what the agent does about a firmware that waits for its
// handler. It has no bundle any more; the sum tells it from others.
func unpackedFirmware(f device.FirmwareAnswer) device.Course {
	return device.Course{
		Step: device.Ready, Kind: release.Firmware, App: f.Name, From: f.Installed, Version: f.Pending.Version,
		SHA256: digest.Of([]byte("unpacked " + f.Name + " " + f.Pending.Version.String())),
	}
}

func (a *Agent) pollJob(ctx context.Context) func() {
	d, err := a.open(device.Look)
	var ans *device.Answers
	if err == nil {
		ans, err = d.Ask(ctx)
		a.close(d)
	}
	return func() {
		if ctx.Err() == nil {
			a.polled(ans, err)
		}
	}
}

// polled takes in what a poll found out.
func (a *Agent) polled(ans *device.Answers, err error) {
	now := a.clock()
	a.ledger.polled(err == nil)
	if err != nil {
		a.now.PollFailures++
		a.now.NextPoll = now.Add(nextTry(a.now.PollFailures, retryAfter(err), a.o.Random()))
		if errors.Is(err, lock.ErrBusy) {
			a.now.NextPoll = now.Add(busyRetry)
		}
		log := a.log.WithField("next", a.now.NextPoll.Sub(now).Round(time.Second))
		if text := err.Error(); text != a.now.PollError { // once is enough for a log
			a.now.PollError = text
			log.Warn(text)
		}
		return
	}
	if a.now.PollError != "" {
		a.log.Info("the source answers again")
	}
	a.now.LastPoll, a.now.PollError, a.now.PollFailures = now, "", 0
	a.now.NextPoll = now.Add(NextPoll(a.cfg.Agent.Poll, ans.Wish, a.o.Random()))
	a.queueReport() // there is a network, and another tandem may have left something
	a.choose(ans)
}

// choose makes of the answers what the agent is busy with.
func (a *Agent) choose(ans *device.Answers) {
	a.now.ClockBehind, a.now.Barred = ans.Behind, ""
	if a.mem.Course.Step == device.Installing {
		return
	}
	for _, next := range candidates(ans) {
		if b := a.mem.barred(next.SHA256, a.clock(), ans.Free); b != nil {
			a.log.WithFields(logrus.Fields{"app": next.App, "version": next.Version}).Debug("left alone: " + b.Reason)
			a.now.Barred = fmt.Sprintf("%s %s: %s", next.App, next.Version, b.Reason)
			continue
		}
		c := &a.mem.Course
		if c.Step == device.Idle || c.SHA256 != next.SHA256 || c.Version.String() != next.Version.String() {
			a.log.WithFields(logrus.Fields{"app": next.App, "version": next.Version, "bytes": next.Size}).Info("a release is available")
			a.step(next)
		} else if c.Urgent != next.Urgent {
			c.Urgent = next.Urgent
			a.saveMemory()
		}
		return
	}
	a.drop()
}

// drop ends what the agent is busy with.
func (a *Agent) drop() {
	if a.mem.Course.Step != device.Idle {
		a.step(device.Course{Step: device.Idle})
	}
}

// retryAfter is how long a server asked to be left alone.
func retryAfter(err error) time.Duration {
	var p *ota.Problem
	if errors.As(err, &p) {
		return p.RetryAfter
	}
	return 0
}

func (a *Agent) downloadJob(c device.Course) func(context.Context) func() {
	return func(ctx context.Context) func() {
		d, err := a.open(device.Look)
		var free map[string]int64
		if err == nil {
			free = d.Free()
			c.File, err = d.Fetch(ctx, c.Offer())
			if errors.Is(err, backup.ErrNoSpace) || errors.Is(err, ota.ErrNoSpace) {
				d.Remember(device.Event{Command: "agent", From: c.From, Version: c.Version, Error: err.Error()})
			}
			a.close(d)
		}
		return func() {
			if ctx.Err() == nil {
				a.downloaded(c, free, err)
			}
		}
	}
}

// downloaded takes in what became of a download.
func (a *Agent) downloaded(c device.Course, free map[string]int64, err error) {
	log := a.log.WithFields(logrus.Fields{"app": c.App, "version": c.Version})
	switch {
	case err == nil:
		log.Info("downloaded")
		c.Step = device.Ready
		a.step(c)
	case errors.Is(err, backup.ErrNoSpace), errors.Is(err, ota.ErrNoSpace):
		log.WithError(err).Error("there is no room for the release: it is not tried again until there is more")
		a.mem.bar(a.noRoom(c, err, free, moreRoom))
		a.step(device.Course{Step: device.Idle})
		a.queueReport()
	default:
		if errors.Is(err, ota.ErrRefused) { // it may have been replaced: ask again
			a.now.NextPoll = a.clock().Add(nextTry(a.now.Tries+1, 0, a.o.Random()))
		}
		a.later(err, retryAfter(err))
		log.WithError(err).WithField("next", a.now.NotYet.Sub(a.clock()).Round(time.Second)).Warn("the download did not come to its end")
	}
}

// moreRoom is by how many bytes a disk must have grown to be tried again.
const moreRoom = 64 << 10

func (a *Agent) installJob(c device.Course) func(context.Context) func() {
	return func(ctx context.Context) func() {
		again := func() { c.Step = device.Ready; a.mem.Course = c; a.saveMemory() }
		return a.onSides(ctx, again, func(d *device.Device) func() {
			free := d.Free()
			err := d.InstallFetched(ctx, c)
			res, lookErr := d.Plan(context.WithoutCancel(ctx), backup.Options{})
			if lookErr != nil {
				res = nil
			}
			return func() {
				if ctx.Err() == nil { // else the next start finds out
					a.installed(c, free, err)
					a.watchConfig(res)
				}
			}
		})
	}
}

const (
	barTime       = 24 * time.Hour   // that a release which was refused is left alone
	postponeRetry = 10 * time.Minute // until a hook that postponed is asked again
	maxTries      = 8                // of an installation, until its release is left alone
)

// installed takes in what became of an installation.
func (a *Agent) installed(c device.Course, free map[string]int64, err error) {
	now := a.clock()
	log := a.log.WithFields(logrus.Fields{"app": c.App, "version": c.Version})
	idle, ready := device.Course{Step: device.Idle}, c
	ready.Step = device.Ready
	switch {
	case err == nil:
		log.Info("installed")
		a.now.NextPoll = now // there may be more
		a.step(idle)
	case errors.Is(err, device.ErrNotStarted):
		log.WithError(err).Error("installed; the start hook is tried again")
		a.now.Unstarted = true
		a.step(idle)
	case errors.Is(err, device.ErrUnhealthy):
		log.WithError(err).Error("the release was taken back")
		a.step(idle)
	case errors.Is(err, backup.ErrNoSpace), errors.Is(err, ota.ErrNoSpace):
		log.WithError(err).Error("there is no room for the release: it is not tried again until there is more")
		a.mem.bar(a.noRoom(c, err, free, c.Size+moreRoom))
		a.step(idle)
	case errors.Is(err, child.ErrPostponed) && c.Kind == release.Firmware: // the others need not wait for it
		log.WithError(err).Info("postponed")
		a.mem.bar(Bar{SHA256: unpackedFirmware(device.FirmwareAnswer{Name: c.App, Pending: firmware.Result{Version: c.Version}}).SHA256,
			Reason: err.Error(), Until: now.Add(postponeRetry)})
		a.step(idle)
		a.now.NextPoll = now
	case errors.Is(err, child.ErrPostponed):
		log.WithError(err).Info("postponed")
		a.step(ready)
		a.now.NotYet, a.now.Failed = now.Add(postponeRetry), err.Error()
	case errors.Is(err, device.ErrNoBundle):
		ready.Step = device.Downloading
		a.step(ready)
	case device.Final(err), a.now.Tries >= maxTries:
		log.WithError(err).Error("the release was refused")
		a.mem.bar(Bar{SHA256: c.SHA256, Reason: err.Error(), Until: now.Add(barTime)})
		a.step(idle)
	default:
		tries := a.now.Tries
		a.step(ready)
		a.now.Tries = tries
		a.later(err, 0)
		log.WithError(err).WithField("next", a.now.NotYet.Sub(now).Round(time.Second)).Warn("the installation failed")
	}
}

func (a *Agent) proveJob(ctx context.Context) func() {
	unstarted := a.now.Unstarted
	return a.onSides(ctx, nothing, func(d *device.Device) func() {
		p, err := d.Pending()
		if err == nil && p != nil {
			_, err = d.Prove(ctx, p.Previous, p.Version, !unstarted)
		}
		return func() {
			if ctx.Err() == nil {
				a.now.Unstarted = errors.Is(err, device.ErrNotStarted)
			}
			if err != nil && ctx.Err() == nil {
				a.log.WithError(err).Error("the health of the version")
			}
			if a.now.Pending == nil {
				a.now.NextPoll = a.clock()
				return
			}
			a.now.HealthTries++
			wait := min(maxHealth, firstHealth<<min(a.now.HealthTries, 10))
			a.now.Health = a.clock().Add(wait)
		}
	})
}

// captureJob backs up what was edited, and mends what an edit has damaged.
func (a *Agent) captureJob(ctx context.Context) func() {
	again := func() { a.config.edits.seen(a.clock()) }
	return a.onSides(ctx, again, func(d *device.Device) func() {
		began := a.clock()
		res, err := d.Boot(ctx, "agent", backup.Options{Running: true})
		return func() {
			if ctx.Err() != nil {
				return
			}
			w, now := &a.config, a.clock()
			w.cost = now.Sub(began)
			switch {
			case err != nil:
				w.failures++
				w.wait = now.Add(nextTry(w.failures, 0, a.o.Random()))
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
		res, err := d.Boot(ctx, "agent", backup.Options{Full: true, Running: true})
		return func() {
			if ctx.Err() != nil {
				return
			}
			a.now.Repair = false
			if err != nil {
				a.log.WithError(err).Error("damage that was found could not be mended")
			}
			a.watchConfig(res)
		}
	})
}

// configWatch is what the agent does about edits of the configuration.
type configWatch struct {
	watch    *watch
	scan     bool // the kernel cannot tell what changes
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

// watchConfig watches the tree that the application runs from, as it is now: a
// new version is another tree. res is what was found at the last look; nil if
// nothing is known.
func (a *Agent) watchConfig(res *backup.Result) {
	w := &a.config
	if res == nil || res.System == nil {
		return
	}
	if len(res.Busy) > 0 { // written, it is told; given up, it is not
		w.rest = a.clock().Add(backup.RestTime + time.Second)
	}
	if w.watch != nil && len(res.Changed)+len(res.Finished) == 0 && !w.watch.blind.Load() && w.watch.version == res.Version.String() {
		return
	}
	w.stop()
	var err error
	dir := filepath.Join(a.cfg.System.Path, "apps")
	w.watch, err = startWatch(dir, res.System.Ignored(), w.changed, a.log)
	switch {
	case errors.Is(err, fs.ErrNotExist): // no application yet: its installation comes through here
		w.scan = false
	case err != nil && !w.scan:
		a.log.WithError(err).Warn("the configuration cannot be watched: it is scanned from time to time")
		w.scan = true
	case err == nil:
		w.scan = false
		w.watch.version = res.Version.String()
		w.edits.seen(a.clock()) // what changed between the look and the watch, nobody has told
	}
}
