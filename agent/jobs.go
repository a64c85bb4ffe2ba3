package agent

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/fsys"
	"tandem/internal/lock"
	"tandem/ota"
	"tandem/ota/hawkbit"
	"tandem/packaging/release"
)

// nothing is what a job ends with that leaves nothing for the owner to do.
func nothing() {}

// comeUp brings the sides in step and finds out what was under way when the
// agent ended, however that came about.
func (a *Agent) comeUp(ctx context.Context) func() {
	return a.onSides(ctx, nothing, func(d *device.Device) func() {
		mem := memory{}
		var since time.Time
		disk, err := d.State()
		if err == nil {
			mem, err = loadMemory(disk, a.log)
		}
		switch {
		case fsys.IsTransient(err): // what was under way is not begun anew for that
			return func() {
				a.log.WithError(err).Error("the agent's state cannot be read just now")
				a.now.Busy = a.clock().Add(startRetry)
			}
		case err != nil:
			a.log.WithError(err).Warn("the agent's state cannot be used")
		default:
			since = d.PendingSince()
		}
		d.RecoverItself()
		res, err := d.Boot(ctx, "agent", backup.Options{})
		if err != nil && ctx.Err() == nil && !errors.Is(err, backup.ErrNoApplication) {
			a.log.WithError(err).Error("the sides are not in step")
		}
		under := mem.Underway()
		if res != nil && ctx.Err() == nil {
			d.CatchUp(ctx, under, res.Version)
		}
		started := false
		if under.Step == device.Installing {
			var left device.Course
			left, started = a.resume(ctx, d, under, res)
			mem.Put(left)
		}
		behind := d.ClockBehind()
		return func() {
			if ctx.Err() != nil {
				return
			}
			now := a.clock()
			a.up, a.mem = true, mem
			if a.o.Environment.Program != "" {
				a.now.Settle = now.Add(a.cfg.Agent.Trial)
			}
			a.saveMemory()
			a.now.NextPoll = now.Add(FirstPoll(a.cfg.Agent.Poll, a.o.Random()))
			if a.fromHawkBit() {
				a.mem.Hold(askedFirst)
				a.now.NextPoll = now.Add(FirstPoll(min(a.cfg.Agent.Poll, maxFirstAsk), a.o.Random()))
			}
			if r := a.cfg.Report; r != nil && r.Format == config.OTLP {
				a.now.NextMetrics = now.Add(reportDelay + spread(r.Metrics, a.o.Random()))
			}
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
	idle := device.Course{Step: device.Idle, Kind: c.Kind, App: c.App}
	if c.Kind != release.App { // its own record says how far it has come; the next poll finds it
		return idle, false
	}
	log := a.log.WithField("version", c.Version)
	committed := res != nil && res.Version.String() == c.Version.String()
	from, to := c.From, c.Version
	if !committed {
		from, to = c.Version, c.From
	}
	started = d.StartApplication(ctx, from, to)
	if committed && c.Recall {
		log.Info("the return was cut off after its commit")
		if err := d.Watch(c); err != nil {
			log.WithError(err).Warn("it could not be noted that the version is to be confirmed")
		}
		return idle, started
	}
	if committed {
		log.Info("the installation was cut off after its commit")
		return idle, started
	}
	if revoked, err := d.Revoked(); err == nil && c.Version.In(revoked) {
		log.Info("the installation was cut off after it was taken back")
		return idle, started
	}
	log.Info("the installation was cut off before its commit: it is tried again")
	c.Step = device.Ready
	return c, started
}

// settleJob confirms Tandem itself, once it has polled or was idle for a while.
func (a *Agent) settleJob(ctx context.Context) func() {
	return a.onSides(ctx, nothing, func(d *device.Device) func() {
		d.SettleItself()
		return func() { a.now.Settle = time.Time{} }
	})
}

func (a *Agent) pollJob(ctx context.Context) func() {
	d, err := a.open(device.Look)
	var ans *device.Answers
	if err == nil {
		if ans, err = d.Ask(ctx); err == nil {
			ans.Metered = a.cfg.Agent.Metered
			d.TellRecall(ans)
		}
		a.close(d)
	}
	return func() {
		if ctx.Err() == nil {
			a.polled(ans, err)
		}
	}
}

// polled takes in what a poll found out. What is known is gone on with, also
// where something else is not.
func (a *Agent) polled(ans *device.Answers, err error) {
	now := a.clock()
	answered := err == nil
	if answered {
		err = ans.Err()
	}
	a.ledger.polled(err == nil)
	if answered && ans.Unfit() != nil {
		a.log.WithError(ans.Unfit()).Warn("no release will ever come")
	}
	switch {
	case err != nil:
		a.now.PollFailures++
		a.now.NextPoll = now.Add(device.NextTry(a.now.PollFailures, retryAfter(err), a.o.Random()))
		if errors.Is(err, lock.ErrBusy) {
			a.now.NextPoll = now.Add(busyRetry)
		}
		log := a.log.WithField("next", a.now.NextPoll.Sub(now).Round(time.Second))
		if text := err.Error(); text != a.now.PollError { // once is enough for a log
			a.now.PollError = text
			log.Warn(text)
		}
	default:
		if a.now.PollError != "" {
			a.log.Info("the source answers again")
		}
		a.now.LastPoll, a.now.PollError, a.now.PollFailures = now, "", 0
		a.now.NextPoll = now.Add(NextPoll(cmp.Or(ans.Every, a.cfg.Agent.Poll), ans.Wish, a.o.Random()))
		a.queueReport() // there is a network, and another tandem may have left something
	}
	if !answered {
		return
	}
	if !a.now.Settle.IsZero() {
		a.now.Settle = now // what has polled works
	}
	a.now.ClockBehind = ans.Behind
	for _, c := range a.mem.Choose(ans, now) {
		if c.Recall {
			a.about(c).WithField("from", c.From).Warn("the release that runs is recalled by its publisher: the device returns")
			continue
		}
		a.about(c).WithField("bytes", c.Size).Info("a release is available")
	}
	for i := range a.mem.Works {
		if w := &a.mem.Works[i]; w.Barred != "" {
			a.log.Debug("left alone: " + w.Barred)
		}
	}
	a.saveMemory()
}

// about returns a log that names a release.
func (a *Agent) about(c device.Course) *logrus.Entry {
	return a.log.WithFields(logrus.Fields{"app": c.App, "version": c.Version})
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
		next := c
		var free map[string]int64
		if err == nil {
			free = d.Free()
			next, _, err = d.Advance(ctx, c)
			if errors.Is(err, backup.ErrNoSpace) || errors.Is(err, ota.ErrNoSpace) {
				d.Remember(device.Event{Command: "agent", From: c.From, Version: c.Version, Error: err.Error()})
			}
			a.close(d)
		}
		return func() {
			if err, ended := outcome(ctx, err); ended {
				a.settle(c, next, free, err)
			}
		}
	}
}

func (a *Agent) installJob(c device.Course) func(context.Context) func() {
	return func(ctx context.Context) func() {
		again := func() { a.mem.At(c, device.Ready); a.saveMemory() }
		return a.onSides(ctx, again, func(d *device.Device) func() {
			free := d.Free()
			next, _, err := d.Advance(ctx, c)
			res, lookErr := d.Plan(context.WithoutCancel(ctx), backup.Options{})
			if lookErr != nil {
				res = nil
			}
			return func() {
				if err, ended := outcome(ctx, err); ended { // else the next start finds out
					a.settle(c, next, free, err)
					a.watchConfig(res)
				}
			}
		})
	}
}

// outcome returns what became of a job, and reports whether it came to an end: one
// that gave way, or that the end of the agent cut off, goes on later.
func outcome(ctx context.Context, err error) (result error, ended bool) {
	if errors.Is(context.Cause(ctx), device.ErrCancelled) && err != nil {
		return device.ErrCancelled, true
	}
	return err, ctx.Err() == nil
}

// settle takes in what a step of a release led to.
func (a *Agent) settle(c, next device.Course, free map[string]int64, err error) {
	now := a.clock()
	verdict := a.mem.Settle(c, next, err, device.Circumstances{
		Now: now, Free: free, State: a.cfg.Agent.State, Wish: retryAfter(err), Random: a.o.Random(),
	})
	log := a.about(c)
	switch verdict {
	case device.Advanced:
		if c.Step == device.Downloading {
			log.Info("downloaded")
		}
	case device.Installed:
		log.Info(map[bool]string{false: "installed", true: "returned"}[c.Recall])
		if err != nil {
			log.WithError(err).Error("the start hook is tried again")
			a.now.Unstarted = true
		}
		a.now.NextPoll = now // there may be more, and the source may want to know
	case device.TakenBack:
		log.WithError(err).Error("the release was taken back")
		a.now.NextPoll = now
	case device.NoRoom:
		log.WithError(err).Error("there is no room for the release: it is not tried again until there is more")
		a.refused(c, err)
		a.queueReport()
	case device.Postponed:
		log.WithError(err).Info("postponed")
	case device.Cancelled:
		log.Warn("cancelled: it is left alone for an hour")
	case device.Refused:
		log.WithError(err).Error("the release was refused")
		a.refused(c, err)
		a.now.NextPoll = now
	case device.Failed:
		w := a.mem.Of(c)
		switch {
		case errors.Is(err, hawkbit.ErrWithdrawn):
			a.now.NextPoll = now // which tells what is wanted now
		case errors.Is(err, ota.ErrRefused) && w.Tries > maxRefusals && a.refused(c, err):
			a.mem.Put(device.Course{Step: device.Idle, Kind: c.Kind, App: c.App})
		case c.Step == device.Downloading && errors.Is(err, ota.ErrRefused): // it may have been replaced: ask again
			a.now.NextPoll = sooner(a.now.NextPoll, w.NotYet)
		}
		log.WithError(err).WithField("next", w.NotYet.Sub(now).Round(time.Second)).Warn(map[bool]string{true: "the download did not come to its end", false: "the installation failed"}[c.Step == device.Downloading])
	}
	a.saveMemory()
}

// fromHawkBit reports whether the source is a hawkBit server.
func (a *Agent) fromHawkBit() bool {
	return a.cfg.Source != nil && a.cfg.Source.Type == config.HawkBit
}

// refused has a hawkBit server told that a release cannot be taken: its action is
// over then, and the same release may come with another one, so that nothing bars
// it here. It reports whether that is so; of another source nobody is told.
func (a *Agent) refused(c device.Course, why error) bool {
	if !a.fromHawkBit() {
		return false
	}
	d, err := a.open(device.Look)
	if err == nil {
		err = d.Refused(c.SHA256, why)
		a.close(d)
	}
	if err != nil {
		a.log.WithError(err).Warn("it could not be written down that the release was refused")
		return false
	}
	a.mem.Forgive(c.SHA256)
	a.now.NextPoll = a.clock()
	return true
}

const (
	// maxRefusals is how often what a hawkBit server sends may be refused until
	// its release is.
	maxRefusals = 2
	// askedFirst holds back what an action of a hawkBit server brings until the
	// server was asked: it may have called the action off meanwhile.
	askedFirst = "the server is asked first whether it still wants it"
)

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
