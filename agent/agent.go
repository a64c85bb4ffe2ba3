package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/lock"
)

// Options is what an Agent works with. Poll and Notify may be nil.
type Options struct {
	Config      *config.Config
	Environment device.Environment // its Progress and Happened are the agent's own business
	// After gives a channel that receives once d has passed, and what stops it.
	After func(d time.Duration) (c <-chan time.Time, stop func())
	// Zone is where the windows' hours of the day are told.
	Zone *time.Location
	// Random gives numbers from 0 up to 1, which spread the polls of a fleet.
	Random func() float64
	// Poll receives when somebody wants a poll now.
	Poll <-chan os.Signal
	// Notify tells the service manager how the agent is, in the words of
	// sd_notify(3). Watchdog is how often it wants to hear; 0 for never.
	Notify   func(state string)
	Watchdog time.Duration
	// Listener is the local interface's, where the program before handed it over;
	// nil: it is opened. Listening is given it; it may be nil.
	Listener  *net.UnixListener
	Listening func(*net.UnixListener)
}

// Agent is the daemon: it polls, downloads, installs, captures configuration and
// verifies both sides, unattended.
//
// One goroutine, in Run, owns what the agent knows, and decides. What takes time
// runs beside it in lanes, one job at most in each: one changes the sides under
// the lock that all tandems share, one talks to the source, one verifies, one
// reports. A job ends by giving the owner a function to carry out.
type Agent struct {
	o       Options
	cfg     *config.Config
	log     *logrus.Logger
	ledger  *ledger
	journal journal
	began   time.Time // by the device's clock: since then the ledger counts

	sides, network, scrubbing, reporting lane
	jobs                                 sync.WaitGroup
	ended                                chan func() // what jobs end with
	asked                                chan func() // what the local interface wants done by the owner
	orders                               []*order    // of people, oldest first

	up     bool // the sides were brought in step once
	anew   bool // another program is in place, and is to go on
	mem    memory
	saved  []byte // of it, as it lies on the disk
	now    situation
	config configWatch
}

// lane is where one job at a time runs.
type lane struct {
	job    string // "" while it is free
	about  device.Course
	cancel context.CancelCauseFunc
}

// situation is what the agent has found out and need not remember for ever.
type situation struct {
	LastPoll, NextPoll time.Time
	PollError          string // of the last poll
	PollFailures       int    // in a row
	ClockBehind        bool   // the clock was not set since the power came

	Waiting map[int]string // why a work does not go on

	Obeying string // what the command wants that is carried out

	Busy time.Time // another tandem is at work: when the sides are tried again

	Pending      *backup.Pending
	PendingSince time.Time
	Health       time.Time // when its health is asked for next
	Unstarted    bool      // the start hook has to run before
	HealthTries  int

	Settle time.Time // when Tandem itself is looked after; zero: it was, or keeps no copy

	NextScrub time.Time
	Repair    bool // the last one found something to mend

	NextReport     time.Time // zero: nothing is left to report
	ReportFailures int

	NextMetrics     time.Time // zero: nobody is told
	MetricsFailures int       // in a row
}

// validate says what is missing.
func (o *Options) validate() error {
	missing := ""
	switch {
	case o.Config == nil:
		missing = "Config"
	case o.After == nil:
		missing = "After"
	case o.Zone == nil:
		missing = "Zone"
	case o.Random == nil:
		missing = "Random"
	case o.Watchdog < 0:
		return errors.New("agent.Options: Watchdog is negative")
	default:
		return o.Environment.Validate()
	}
	return fmt.Errorf("agent.Options: %s is missing", missing)
}

// New makes an Agent.
func New(o Options) (*Agent, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	o.Environment.Hopeless, o.Environment.Warned = map[string]bool{}, map[string]bool{}
	a := &Agent{
		o: o, cfg: o.Config, log: o.Environment.Log,
		ended: make(chan func()), asked: make(chan func()),
	}
	a.ledger, a.began = newLedger(o.Environment.Now), o.Environment.Now()
	a.log.AddHook(&a.journal)
	a.config.changed = make(chan struct{}, 1)
	a.config.captures = rate.NewLimiter(rate.Every(captureEvery), captureBurst)
	return a, nil
}

// busyRetry is how soon the sides are tried again while another tandem is at work.
const (
	busyRetry  = 2 * time.Second
	startRetry = 30 * time.Second // where it cannot be opened
)

// stopTime bounds how long an agent that is told to end waits for its jobs. All
// they do can be cut off anywhere; waiting is for their clean-up.
const stopTime = 4 * time.Second

// How often, and after which wait, the pid file of an agent that was killed is tried.
const (
	pidTries = 100
	pidWait  = 50 * time.Millisecond
)

// ErrAnew says that another program has taken the place of the one that runs: it is
// to go on with what the agent was at, as the same process.
var ErrAnew = errors.New("another tandem is in place")

// Run is the agent's life: it ends when ctx does, within five seconds, and what
// was under way is resumed by the next Run. The error is one of starting, or ErrAnew:
// the socket and the file with the process id are left as they are then.
func (a *Agent) Run(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	release, err := a.takePID(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if a.anew {
			return // the file is the next program's
		}
		if err := release(); err != nil {
			a.log.WithError(err).Warn("the pid file could not be removed")
		}
	}()
	server, err := a.serve()
	if err != nil {
		return err
	}
	defer func() { server.close(a.anew) }()
	defer a.config.stop()
	if err := a.startPage(ctx); err != nil {
		return err
	}
	a.log.WithField("version", a.o.Environment.Version).Info("the agent runs")

	told := ""
	for ctx.Err() == nil && !a.anew {
		until := a.schedule(ctx)
		if s := a.summary(); s != told {
			told = s
			a.o.Notify("STATUS=" + s)
		}
		if a.o.Watchdog > 0 {
			a.o.Notify("WATCHDOG=1")
			if !a.up { // there may be much to bring in step
				a.o.Notify(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", a.o.Watchdog.Microseconds()))
			}
			until = sooner(until, a.clock().Add(a.o.Watchdog/2))
		}
		a.await(ctx, until)
	}
	if a.anew {
		end()
		a.stop()
		return ErrAnew
	}
	a.o.Notify("STOPPING=1")
	a.stop()
	return nil
}

// takePID makes this the only agent. One that was killed is waited for until the last of
// its threads is gone.
func (a *Agent) takePID(ctx context.Context) (release func() error, err error) {
	for try := range pidTries {
		release, err = lock.AcquirePID(a.cfg.Agent.PID, os.Getpid())
		// While it is waited for the file may name nobody: what held it lets go just now.
		if !errors.Is(err, lock.ErrBusy) || try == 0 && !lock.Ends(a.cfg.Agent.PID) || ctx.Err() != nil {
			break
		}
		if try == 0 {
			a.log.Info("the agent before was killed, and is not gone yet: it is waited for")
		}
		c, stop := a.o.After(pidWait)
		select {
		case <-c:
		case <-ctx.Done():
		}
		stop()
	}
	return release, err
}

func (a *Agent) clock() time.Time { return a.o.Environment.Now() }

// await waits until something happens, or until a time; zero is never.
func (a *Agent) await(ctx context.Context, until time.Time) {
	var timer <-chan time.Time
	if !until.IsZero() {
		c, stop := a.o.After(max(0, until.Sub(a.clock())))
		defer stop()
		timer = c
	}
	select {
	case <-ctx.Done():
	case <-timer:
	case f := <-a.ended:
		f()
	case f := <-a.asked:
		f()
	case <-a.config.changed:
		a.config.edits.seen(a.clock())
	case <-a.o.Poll:
		a.log.Info("asked to poll now")
		a.now.NextPoll = a.clock()
	}
}

// stop waits for the jobs, whose context has ended.
func (a *Agent) stop() {
	limit, stop := a.o.After(stopTime)
	defer stop()
	over := make(chan struct{})
	go func() {
		a.jobs.Wait()
		close(over)
	}()
	for {
		select {
		case f := <-a.ended:
			f()
		case <-over:
			a.log.Info("the agent ends")
			return
		case <-limit:
			a.log.Warn("the agent ends while work is under way; the next start goes on from there")
			return
		}
	}
}

// start runs a job in a lane that is free.
func (a *Agent) start(ctx context.Context, l *lane, name string, job func(ctx context.Context) func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	l.job, l.cancel = name, cancel
	a.jobs.Go(func() {
		after := job(ctx)
		a.ended <- func() {
			*l = lane{}
			after() // it may ask whether the job was cut off
			cancel(nil)
			debug.FreeOSMemory() // the next job may be hours away
		}
	})
}

// schedule starts what is due, and gives the time of what is due next.
func (a *Agent) schedule(ctx context.Context) time.Time {
	now := a.clock()
	if !a.up {
		if a.sides.job == "" && !now.Before(a.now.Busy) {
			a.start(ctx, &a.sides, "starting", a.comeUp)
		}
		return a.now.Busy
	}
	if len(a.orders) > 0 {
		return a.obey(ctx)
	}
	o := a.outlook(now)
	a.now.Waiting = map[int]string{}
	until := a.scheduleSides(ctx, o)
	until = sooner(until, a.scheduleNetwork(ctx, o))
	if a.scrubbing.job == "" {
		if p := planScrub(o); p.Do == doScrub {
			a.start(ctx, &a.scrubbing, "verifying", a.scrub)
		} else {
			until = sooner(until, p.Until)
		}
	}
	if a.reporting.job == "" {
		due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
		switch {
		case due(a.now.NextReport):
			a.start(ctx, &a.reporting, "reporting", a.reportJob(a.mem.Reported))
		case due(a.now.NextMetrics):
			a.start(ctx, &a.reporting, "reporting", a.metricsJob)
		default:
			until = sooner(until, sooner(a.now.NextReport, a.now.NextMetrics))
		}
	}
	return until
}

// outlook gathers what the plans are made from.
func (a *Agent) outlook(now time.Time) outlook {
	return outlook{
		Now: now.In(a.o.Zone), Works: a.mem.Works, Urgent: a.cfg.Agent.Urgent,
		Windows: a.cfg.Agent.Window, ClockBehind: a.now.ClockBehind,
		Metered: a.cfg.Agent.Metered, Source: a.cfg.Source != nil, Poll: a.now.NextPoll,
		Pending: a.now.Pending != nil, Health: a.now.Health, Scrub: a.now.NextScrub,
	}
}

func (a *Agent) scheduleSides(ctx context.Context, o outlook) time.Time {
	if a.sides.job != "" {
		return time.Time{}
	}
	if o.Now.Before(a.now.Busy) {
		return a.now.Busy
	}
	p := planSides(o)
	maps.Copy(a.now.Waiting, p.Why)
	due := a.config.due(o.Now)
	switch {
	case p.Do == doProve:
		a.start(ctx, &a.sides, "asking for health", a.proveJob)
	case p.Do == doInstall && a.network.job == "downloading": // of another release: that goes on later
		a.network.cancel(nil)
	case p.Do == doInstall && a.network.job == "":
		c := a.mem.Works[p.Work].Course
		a.mem.At(c, device.Installing)
		a.saveMemory()
		a.start(ctx, &a.sides, "installing", a.installJob(c))
		a.sides.about = c
	case !a.now.Settle.IsZero() && !o.Now.Before(a.now.Settle) && len(a.orders) == 0:
		a.start(ctx, &a.sides, "looking after itself", a.settleJob)
	case a.now.Repair:
		a.start(ctx, &a.sides, "repairing", a.repairJob)
	case !due.IsZero() && !o.Now.Before(due):
		a.config.begin(o.Now)
		a.start(ctx, &a.sides, "capturing", a.captureJob)
	default:
		return sooner(sooner(p.Until, due), a.now.Settle)
	}
	return time.Time{}
}

func (a *Agent) scheduleNetwork(ctx context.Context, o outlook) time.Time {
	if a.network.job != "" || a.sides.job == "installing" {
		return time.Time{}
	}
	p := planNetwork(o)
	maps.Copy(a.now.Waiting, p.Why)
	switch p.Do {
	case doPoll:
		a.start(ctx, &a.network, "polling", a.pollJob)
	case doDownload:
		c := a.mem.Works[p.Work].Course
		a.start(ctx, &a.network, "downloading", a.downloadJob(c))
		a.network.about = c
	default:
		return p.Until
	}
	return time.Time{}
}

// open opens the device for a job.
func (a *Agent) open(access device.Access) (*device.Device, error) { return a.openIn(access, "") }

// openIn is open, for somebody in a hook.
func (a *Agent) openIn(access device.Access, hook string) (*device.Device, error) {
	env := a.o.Environment
	env.Hook = hook
	env.Progress, env.Happened, env.Received = a.ledger.progress, a.ledger.happened, a.ledger.received
	return device.Open(a.cfg, env, access)
}

// onSides runs work with the device opened for a change. What it gives is
// carried out by the owner, and not before the owner knows whether a version is
// pending. busy is carried out where another tandem is at work.
func (a *Agent) onSides(ctx context.Context, busy func(), work func(d *device.Device) func()) func() {
	d, err := a.open(device.Change)
	if err != nil {
		return func() {
			a.now.Busy = a.clock().Add(busyRetry)
			if !errors.Is(err, lock.ErrBusy) {
				a.log.WithError(err).Error("the device cannot be opened")
				a.now.Busy = a.clock().Add(startRetry)
			}
			busy()
		}
	}
	after := work(d)
	pending, err := d.Pending()
	if err != nil {
		a.log.WithError(err).Warn("it is not known whether a version waits to be confirmed")
	}
	anew := d.Renewed()
	a.close(d)
	return func() {
		a.anew = a.anew || anew
		if err == nil {
			a.pending(pending)
		}
		a.queueReport()
		after()
	}
}

func (a *Agent) close(d *device.Device) {
	if err := d.Close(); err != nil {
		a.log.WithError(err).Warn("the device could not be closed")
	}
}

// pending takes note of the version that waits to be confirmed.
func (a *Agent) pending(p *backup.Pending) {
	switch {
	case p == nil:
		a.now.Unstarted = false
		a.now.PendingSince, a.now.Health, a.now.HealthTries = time.Time{}, time.Time{}, 0
	case a.now.Pending == nil || a.now.Pending.Version.String() != p.Version.String():
		a.now.PendingSince, a.now.HealthTries = a.clock(), 0
		a.now.Health = a.clock().Add(firstHealth)
	}
	a.now.Pending = p
}

// firstHealth is when a version whose health check postponed is asked about
// again; the waits grow from there to maxHealth.
const (
	firstHealth = 10 * time.Second
	maxHealth   = 10 * time.Minute
)

// saveMemory writes down what a power cut must not take. What cannot be written
// is no reason to stop: the sides remember by themselves what they need.
func (a *Agent) saveMemory() {
	data, err := json.Marshal(&a.mem)
	if err == nil && bytes.Equal(data, a.saved) {
		return
	}
	var d *device.Device
	if err == nil {
		d, err = a.open(device.Look)
	}
	if err == nil {
		defer a.close(d)
		err = a.mem.save(d)
	}
	if err != nil {
		a.log.WithError(err).Warn("the agent's step could not be written down")
		return
	}
	a.saved = data
}

// summary says in a line what the agent does.
func (a *Agent) summary() string {
	c := a.mem.Underway()
	switch {
	case !a.up:
		return "bringing the sides in step"
	case c.Recall && (a.sides.job == "installing" || c.Step == device.Installing):
		return fmt.Sprintf("returning from %s %s to %s", c.App, c.From, c.Version)
	case c.Recall && c.Step != device.Idle:
		return fmt.Sprintf("the return from %s %s to %s waits: %s", c.App, c.From, c.Version, a.waiting(c))
	case a.sides.job == "installing" || c.Step == device.Installing:
		return fmt.Sprintf("installing %s %s", c.App, c.Version)
	case a.sides.job == "obeying":
		return a.now.Obeying
	case a.sides.job != "" && a.sides.job != "capturing":
		return a.sides.job
	case a.network.job == "downloading":
		return fmt.Sprintf("downloading %s %s", a.network.about.App, a.network.about.Version)
	case c.Step != device.Idle:
		return fmt.Sprintf("%s %s waits: %s", c.App, c.Version, a.waiting(c))
	case a.now.Pending != nil:
		return fmt.Sprintf("%s is not confirmed yet", a.now.Pending.Version)
	}
	return "idle"
}

// waiting says why a release does not go on; "" if it does.
func (a *Agent) waiting(c device.Course) string {
	for i, w := range a.mem.Works {
		if w.App == c.App && w.Kind == c.Kind {
			return a.now.Waiting[i]
		}
	}
	return ""
}
