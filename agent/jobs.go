package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/lock"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/versioning"
)

// nothing is what a job ends with that leaves nothing for the owner to do.
func nothing() {}

// keep durably writes down what the agent must remember.
func (d *Device) keep(m *memory) error {
	disk, err := d.state()
	if err != nil {
		return err
	}
	return m.save(disk)
}

// comeUp brings the sides in step and finds out what was under way when the
// agent ended, however that came about.
func (a *Agent) comeUp(ctx context.Context) func() {
	return a.onSides(ctx, nothing, func(d *Device) func() {
		mem := memory{Course: Course{Step: Idle}}
		var since time.Time
		if disk, err := d.state(); err == nil {
			mem, since = loadMemory(disk, a.log), d.pendingSince()
		} else {
			a.log.WithError(err).Warn("the agent's state cannot be used")
		}
		res, err := d.Boot(ctx, "agent", backup.Options{Running: true})
		if err != nil && ctx.Err() == nil && !errors.Is(err, backup.ErrNoApplication) {
			a.log.WithError(err).Error("the sides are not in step")
		}
		if res != nil && ctx.Err() == nil {
			d.catchUp(ctx, mem.Course, res.Version)
		}
		switch {
		case mem.Course.Step == Installing:
			mem.Course = a.resume(ctx, d, mem.Course, res)
		case mem.Ordered && res != nil: // a command was cut off: it may have stopped the application
			if err := d.hook(ctx, "start", a.cfg.Hooks.Start, hookTimeout, versioning.Version{}, res.Version); err != nil {
				a.log.WithError(err).Warn("the application did not start")
			}
		}
		mem.Ordered = false
		behind := d.clockBehind()
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
				a.now.Health = now
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
// to do. The application may have been stopped for it.
func (a *Agent) resume(ctx context.Context, d *Device, c Course, res *backup.Result) Course {
	if c.Kind == release.Firmware { // its own record says how far it has come; the next poll finds it
		return Course{Step: Idle}
	}
	log := a.log.WithField("version", c.Version)
	committed := res != nil && res.Version.String() == c.Version.String()
	from, to := c.From, c.Version
	if !committed {
		from, to = c.Version, c.From
	}
	if err := d.hook(ctx, "start", a.cfg.Hooks.Start, hookTimeout, from, to); err != nil {
		log.WithError(err).Warn("the application did not start")
	}
	if committed {
		log.Info("the installation was cut off after its commit")
		return Course{Step: Idle}
	}
	if revoked, err := d.reconciler.Revoked(); err == nil && c.Version.In(revoked) {
		log.Info("the installation was cut off after it was taken back")
		return Course{Step: Idle}
	}
	log.Info("the installation was cut off before its commit: it is tried again")
	c.Step = Ready
	return c
}

// pendingSince is when the version that waits to be confirmed was installed, as
// far as that is remembered.
func (d *Device) pendingSince() (since time.Time) {
	events, err := d.History()
	if err != nil {
		return since
	}
	for i := range events {
		if events[i].Action == "pending" {
			since = events[i].Time
		}
	}
	return since
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

// answers is what a poll found out.
type answers struct {
	firmware  []FirmwareAnswer
	app       ota.Decision
	installed versioning.Version
	free      map[string]int64 // bytes, by where a release needs them
	behind    bool             // the clock shows a time that has passed for sure
	wish      time.Duration    // how soon the server wants to be asked again; 0: it did not say
}

// ask polls the source for all that the device runs.
func (d *Device) ask(ctx context.Context) (*answers, error) {
	var ans answers
	var err error
	if ans.firmware, err = d.CheckFirmware(ctx); err != nil {
		return nil, err
	}
	if ans.app, ans.installed, err = d.Check(ctx); err != nil {
		return nil, err
	}
	ans.wish = d.repo.Fresh()
	ans.free, ans.behind = d.free(), d.clockBehind()
	return &ans, nil
}

// clockBehind says whether the clock shows a time that has passed for sure: it
// was not set since the power came.
func (d *Device) clockBehind() bool {
	now := d.env.Now()
	return d.now().Sub(now) > time.Minute
}

// free gives the bytes that are free where a release needs them: on the sides
// and in the agent's state, by path.
func (d *Device) free() map[string]int64 {
	disks := []fsys.FS{d.reconciler.System.FS, d.reconciler.UsrData.FS}
	if state, err := d.state(); err == nil {
		disks = append(disks, state)
	}
	free := map[string]int64{}
	for _, disk := range disks {
		if disk == nil {
			continue
		}
		if s, err := disk.Space(); err == nil {
			free[disk.Path(".")] = s.Free
		}
	}
	return free
}

// noRoom keeps the agent from a release until so many more bytes are free than
// there were, where the error says that there was no room. An error that does
// not say where is one of the state directory.
func (a *Agent) noRoom(c Course, err error, free map[string]int64, more int64) Bar {
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

// candidates gives what could be done about the answers: firmware first, as in
// an update by hand.
func (ans *answers) candidates() []Course {
	var all []Course
	for _, f := range ans.firmware {
		best := f.Decision.Best
		switch {
		case best != nil && best.Release.Version.Compare(f.Pending.Version) > 0:
			all = append(all, courseOf(best, f.Installed))
		case f.Pending.State != FirmwareNone && f.Pending.State != FirmwareRestart:
			all = append(all, unpackedFirmware(f))
		}
	}
	if ans.app.Best != nil {
		all = append(all, courseOf(ans.app.Best, ans.installed))
	}
	return all
}

// unpackedFirmware is what the agent does about a firmware that waits for its
// handler. It has no bundle any more; the sum tells it from others.
func unpackedFirmware(f FirmwareAnswer) Course {
	return Course{
		Step: Ready, Kind: release.Firmware, App: f.Name, From: f.Installed, Version: f.Pending.Version,
		SHA256: digest.Of([]byte("unpacked " + f.Name + " " + f.Pending.Version.String())),
	}
}

func (a *Agent) pollJob(ctx context.Context) func() {
	d, err := a.open(Look)
	var ans *answers
	if err == nil {
		ans, err = d.ask(ctx)
		a.close(d)
	}
	return func() {
		if ctx.Err() == nil {
			a.polled(ans, err)
		}
	}
}

// polled takes in what a poll found out.
func (a *Agent) polled(ans *answers, err error) {
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
	a.now.NextPoll = now.Add(NextPoll(a.cfg.Agent.Poll, ans.wish, a.o.Random()))
	a.queueReport() // there is a network, and another tandem may have left something
	a.choose(ans)
}

// choose makes of the answers what the agent is busy with.
func (a *Agent) choose(ans *answers) {
	a.now.ClockBehind, a.now.Barred = ans.behind, ""
	if a.mem.Course.Step == Installing {
		return
	}
	for _, next := range ans.candidates() {
		if b := a.mem.barred(next.SHA256, a.clock(), ans.free); b != nil {
			a.log.WithFields(logrus.Fields{"app": next.App, "version": next.Version}).Debug("left alone: " + b.Reason)
			a.now.Barred = fmt.Sprintf("%s %s: %s", next.App, next.Version, b.Reason)
			continue
		}
		c := &a.mem.Course
		if c.Step == Idle || c.SHA256 != next.SHA256 || c.Version.String() != next.Version.String() {
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
	if a.mem.Course.Step != Idle {
		a.step(Course{Step: Idle})
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

func (a *Agent) downloadJob(c Course) func(context.Context) func() {
	return func(ctx context.Context) func() {
		d, err := a.open(Look)
		var free map[string]int64
		if err == nil {
			free = d.free()
			c.File, err = d.fetch(ctx, c.offer())
			if errors.Is(err, backup.ErrNoSpace) || errors.Is(err, ota.ErrNoSpace) {
				d.remember(Event{Command: "agent", From: c.From, Version: c.Version, Error: err.Error()})
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
func (a *Agent) downloaded(c Course, free map[string]int64, err error) {
	log := a.log.WithFields(logrus.Fields{"app": c.App, "version": c.Version})
	switch {
	case err == nil:
		log.Info("downloaded")
		c.Step = Ready
		a.step(c)
	case errors.Is(err, backup.ErrNoSpace), errors.Is(err, ota.ErrNoSpace):
		log.WithError(err).Error("there is no room for the release: it is not tried again until there is more")
		a.mem.bar(a.noRoom(c, err, free, moreRoom))
		a.step(Course{Step: Idle})
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

func (a *Agent) installJob(c Course) func(context.Context) func() {
	return func(ctx context.Context) func() {
		again := func() { c.Step = Ready; a.mem.Course = c; a.saveMemory() }
		return a.onSides(ctx, again, func(d *Device) func() {
			free := d.free()
			err := d.take(ctx, c)
			res, lookErr := d.reconciler.Look(context.WithoutCancel(ctx), backup.Options{})
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

// take installs a release that was downloaded, or goes on with a firmware that
// was unpacked.
func (d *Device) take(ctx context.Context, c Course) error {
	if c.Name == "" {
		for _, f := range d.cfg.Firmware {
			if f.Name == c.App {
				return d.advance(ctx, f, later).Err
			}
		}
		return fmt.Errorf("%w: no handler for the firmware %q", ota.ErrIncompatible, c.App)
	}
	if _, err := os.Stat(c.File); err != nil {
		return fmt.Errorf("%w: %w", errNoBundle, err)
	}
	u, err := d.install(ctx, "update", func() (io.ReadCloser, error) { return os.Open(c.File) }, backup.InstallOptions{})
	if u != nil || final(err) {
		if e := os.Remove(c.File); e != nil { // it has done its work; the space is scarce
			d.env.Log.WithError(e).Warn("the bundle could not be removed")
		}
	}
	return err
}

// errNoBundle says that what was downloaded is not there any more.
var errNoBundle = errors.New("the bundle is gone")

// final says whether an installation that failed will fail again: the release,
// or a hook, is against it.
func final(err error) bool {
	for _, reason := range []error{
		trust.ErrUntrusted, bundle.ErrMalformed, ota.ErrIncompatible, backup.ErrDowngrade, backup.ErrRevoked,
		backup.ErrNoSpace, ota.ErrNoSpace, ErrUnhealthy,
	} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return errors.Is(err, ErrHook) && !errors.Is(err, ErrPostponed) && !errors.Is(err, errNotRun)
}

const (
	barTime       = 24 * time.Hour   // that a release which was refused is left alone
	postponeRetry = 10 * time.Minute // until a hook that postponed is asked again
	maxTries      = 8                // of an installation, until its release is left alone
)

// installed takes in what became of an installation.
func (a *Agent) installed(c Course, free map[string]int64, err error) {
	now := a.clock()
	log := a.log.WithFields(logrus.Fields{"app": c.App, "version": c.Version})
	idle, ready := Course{Step: Idle}, c
	ready.Step = Ready
	switch {
	case err == nil:
		log.Info("installed")
		a.now.NextPoll = now // there may be more
		a.step(idle)
	case errors.Is(err, ErrUnhealthy):
		log.WithError(err).Error("the release was taken back")
		a.step(idle)
	case errors.Is(err, backup.ErrNoSpace), errors.Is(err, ota.ErrNoSpace):
		log.WithError(err).Error("there is no room for the release: it is not tried again until there is more")
		a.mem.bar(a.noRoom(c, err, free, c.Size+moreRoom))
		a.step(idle)
	case errors.Is(err, ErrPostponed) && c.Kind == release.Firmware: // the others need not wait for it
		log.WithError(err).Info("postponed")
		a.mem.bar(Bar{SHA256: unpackedFirmware(FirmwareAnswer{Name: c.App, Pending: FirmwareResult{Version: c.Version}}).SHA256,
			Reason: err.Error(), Until: now.Add(postponeRetry)})
		a.step(idle)
		a.now.NextPoll = now
	case errors.Is(err, ErrPostponed):
		log.WithError(err).Info("postponed")
		a.step(ready)
		a.now.NotYet, a.now.Failed = now.Add(postponeRetry), err.Error()
	case errors.Is(err, errNoBundle):
		ready.Step = Downloading
		a.step(ready)
	case final(err), a.now.Tries >= maxTries:
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
	return a.onSides(ctx, nothing, func(d *Device) func() {
		p, err := d.reconciler.Pending()
		if err == nil && p != nil {
			_, err = d.prove(ctx, p.Previous, p.Version, true)
		}
		return func() {
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
	return a.onSides(ctx, again, func(d *Device) func() {
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
	d, err := a.open(Look)
	if err != nil {
		a.log.WithError(err).Warn("the sides cannot be verified")
		return done(false)
	}
	defer a.close(d)
	d.slowDown(ctx, a.cfg.Agent.ScrubBandwidth)
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

// slowDown bounds how fast the sides are read.
func (d *Device) slowDown(ctx context.Context, bandwidth int64) {
	if bandwidth == 0 {
		return
	}
	const burst = 256 << 10
	limit := rate.NewLimiter(rate.Limit(bandwidth), burst)
	wait := func(n int) error {
		for ; n > 0; n -= burst {
			if err := limit.WaitN(ctx, min(n, burst)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, s := range []*backup.Side{d.reconciler.System, d.reconciler.UsrData} {
		if s.FS != nil {
			s.FS = fsys.Slow(s.FS, wait)
		}
	}
}

// repairJob verifies everything under the lock and mends it.
func (a *Agent) repairJob(ctx context.Context) func() {
	return a.onSides(ctx, nothing, func(d *Device) func() {
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
