package device

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"tandem/backup"
	"tandem/internal/child"
	"tandem/internal/config"
	"tandem/internal/fsys"
	"tandem/versioning"

	"golang.org/x/time/rate"
)

// Boot brings the sides in step: backup.Reconciler.Reconcile says what holds
// afterwards. It remembers what it did under the name of the command.
//
// Where a newer Tandem wrote into the agent's state alone, the sides are brought in step
// all the same, and the error says so.
func (d *Device) Boot(ctx context.Context, command string, o backup.Options) (*backup.Result, error) {
	res, err := d.reconcile(ctx, command, o)
	return res, errors.Join(err, d.knownState())
}

func (d *Device) reconcile(ctx context.Context, command string, o backup.Options) (*backup.Result, error) {
	var err error
	if o.Hold, err = d.hold(); err != nil {
		return nil, err
	}
	res, err := d.reconciler.Reconcile(ctx, o)
	if res != nil && len(res.Changed) > 0 {
		d.warnOfOneDisk()
	}
	d.startAgain(ctx, command, res)
	changed := res != nil && len(res.Changed)+len(res.Finished) > 0
	if errors.Is(err, backup.ErrNewer) { // the newer one has the history, too
		return res, err
	}
	if changed || err != nil && ctx.Err() == nil && !told(err) {
		d.Remember(reconciled(command, res, err))
	}
	return res, err
}

// told reports whether err is told to whoever asked, and no event of the device.
func told(err error) bool {
	for _, e := range []error{backup.ErrNoApplication, backup.ErrBusy, backup.ErrApplicationFile, backup.ErrNoSuchPath} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// startAgain starts what a tandem that was killed had stopped. At boot that is
// the init script's business.
func (d *Device) startAgain(ctx context.Context, command string, res *backup.Result) {
	switch {
	case !d.stopped:
	case command == "boot":
		d.removeNote(stoppedNote)
	case res != nil && ctx.Err() == nil:
		d.stopped = false
		d.env.Log.Info("starting the application, which was stopped and not started since")
		d.StartApplication(ctx, versioning.Version{}, res.Version)
	}
}

// hold returns the version whose backup waits until it is confirmed; zero if
// there is none, or the configuration wants it backed up at once.
func (d *Device) hold() (versioning.Version, error) {
	if d.cfg.Agent.Backup != config.Confirmed {
		return versioning.Version{}, nil
	}
	p, err := d.reconciler.Pending()
	if errors.Is(err, backup.ErrNewer) { // whoever looks at the sides says so
		err = nil
	}
	if err != nil || p == nil {
		return versioning.Version{}, err
	}
	return p.Version, nil
}

// Start is Boot at the start of the device: it counts the starts of a version
// that waits to be confirmed, and rolls it back when they are used up. The error
// wraps ErrUnhealthy then. The firmwares are gone on with after it.
func (d *Device) Start(ctx context.Context) (*backup.Result, error) {
	res, err := d.start(ctx)
	if e := d.knownState(); e != nil {
		return res, errors.Join(err, e)
	}
	return res, errors.Join(err, d.startFirmware(ctx))
}

func (d *Device) start(ctx context.Context) (*backup.Result, error) {
	res, err := d.reconcile(ctx, "boot", backup.Options{})
	if err != nil {
		return res, err
	}
	p, err := d.reconciler.Pending()
	if err != nil || p == nil {
		return res, err
	}
	if p.Starts < d.cfg.Agent.Boots {
		p.Starts++
		d.env.Log.WithField("version", p.Version).Warnf("not confirmed yet: start %d of %d", p.Starts, d.cfg.Agent.Boots)
		return res, d.reconciler.SetPending(*p)
	}
	if err := d.unasked(); err != nil {
		d.env.Log.WithError(err).WithField("version", p.Version).Warn("not confirmed yet, and not rolled back: nothing could say whether it works")
		return res, nil
	}
	returned, err := d.giveUp(ctx, *p, d.waited(p), false)
	if returned != nil {
		res = returned
		d.decidedTo(res, p, res.Version)
	}
	return res, err
}

// decidedTo makes the decision of res that to leave a version whose starts are used up.
func (d *Device) decidedTo(res *backup.Result, p *backup.Pending, to versioning.Version) {
	res.Decision = backup.Decision{Action: backup.Return, From: backup.System, To: to, Reason: d.waited(p) + "; " + to.String() + " is kept"}
}

// waited is why a version is given up whose starts are used up.
func (d *Device) waited(p *backup.Pending) string {
	return fmt.Sprintf("%s was not confirmed within %d starts", p.Version, d.cfg.Agent.Boots)
}

// unasked says why a version that waits could not be asked about: what is to
// start it, or to say whether it works, cannot run. nil: that could have been.
func (d *Device) unasked() error {
	for _, argv := range [][]string{d.cfg.Hooks.Start, d.cfg.Hooks.Health} {
		if len(argv) == 0 || d.Shipped("start", argv) {
			continue
		}
		if err := child.Check(argv); err != nil {
			return err
		}
	}
	return nil
}

// Plan says what Boot would do, and changes nothing.
func (d *Device) Plan(ctx context.Context, o backup.Options) (*backup.Result, error) {
	var err error
	if o.Hold, err = d.hold(); err != nil {
		return nil, err
	}
	res, err := d.reconciler.Foresee(ctx, o)
	return res, errors.Join(err, d.knownState())
}

// Foretell says what a command, boot or backup, would do, and changes nothing. The error
// is of the kind that it would end with.
func (d *Device) Foretell(ctx context.Context, command string) (*backup.Result, error) {
	res, err := d.Plan(ctx, backup.Options{})
	if err == nil {
		var written []backup.SideName
		switch res.Decision.Action {
		case backup.Capture:
			written = []backup.SideName{backup.System, backup.UsrData}
		case backup.BackUp:
			written = []backup.SideName{backup.UsrData}
		case backup.Restore, backup.RestoreConfig, backup.Return:
			written = []backup.SideName{backup.System}
		}
		for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
			if (s.Adopted || len(s.Problems) > 0) && res.Decision.Action != backup.Nothing {
				written = append(written, s.Side)
			}
			if len(s.Edited) > 0 && res.Decision.Action != backup.Hold {
				written = append(written, backup.System, backup.UsrData)
			}
		}
		err = d.writable(written...)
	}
	if err != nil || command != "boot" {
		return res, err
	}
	p, err := d.reconciler.Pending()
	if err != nil || p == nil || p.Version.Compare(res.Version) != 0 || p.Starts < d.cfg.Agent.Boots || d.unasked() != nil {
		return res, err
	}
	to, err := d.reconciler.CanReturn(ctx, left(*p))
	if errors.Is(err, backup.ErrNothingToReturnTo) && !left(*p).IsZero() {
		to, err = d.reconciler.CanReturn(ctx, versioning.Version{})
	}
	switch {
	case errors.Is(err, backup.ErrNothingToReturnTo):
		return res, stays(p.Version, d.waited(p))
	case err != nil:
		return res, err
	}
	d.decidedTo(res, p, to)
	res.Version, res.Revision, res.Held = to, 0, false
	return res, &verdict{fmt.Sprintf("unhealthy: %s: %s comes back", d.waited(p), to), `where it works, say "tandem confirm" before the next start`}
}

// Pending returns the version that waits to be confirmed; nil if there is none.
func (d *Device) Pending() (*backup.Pending, error) { return d.reconciler.Pending() }

// Revoked returns the versions that are never to be chosen.
func (d *Device) Revoked() ([]versioning.Version, error) { return d.reconciler.Revoked() }

// Verify hashes every file of both sides. The error wraps backup.ErrDamage if
// a side is not as it should be.
func (d *Device) Verify(ctx context.Context) (*backup.Result, error) {
	res, err := d.reconciler.Look(ctx, backup.Options{Full: true})
	if err = errors.Join(err, d.knownState()); err != nil {
		return res, err
	}
	var wrong []string
	for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
		if s.State != backup.Intact {
			wrong = append(wrong, fmt.Sprintf("%s is %s", s.Side, s.State))
		}
	}
	if len(wrong) > 0 {
		return res, fmt.Errorf("%w: %s", backup.ErrDamage, strings.Join(wrong, ", "))
	}
	return res, nil
}

// Bump makes what lies on system a new version and backs it up.
func (d *Device) Bump(ctx context.Context, next func(versioning.Version) (versioning.Version, error)) (*backup.Result, error) {
	if err := d.Known(); err != nil {
		return nil, err
	}
	if _, err := d.reconciler.Bump(ctx, next); err != nil {
		return nil, err
	}
	return d.Boot(ctx, "bump", backup.Options{})
}

// Forget removes configuration, a file or a directory, on both sides. The error
// wraps backup.ErrApplicationFile or backup.ErrNoSuchPath where there is none.
func (d *Device) Forget(ctx context.Context, p backup.Path) (*backup.Result, error) {
	if err := d.Known(); err != nil {
		return nil, err
	}
	return d.Boot(ctx, "forget", backup.Options{Forget: p})
}

// Aside returns what was put aside on both sides.
func (d *Device) Aside() ([]backup.Aside, error) {
	if err := d.Known(); err != nil {
		return nil, err
	}
	return d.reconciler.ListAside()
}

// Recall brings back what was put aside last as p or below it, and captures it. With bump
// what lies on system becomes a new version then, as it has to with an application
// file; else the error wraps backup.ErrApplicationFile for one.
func (d *Device) Recall(ctx context.Context, p backup.Path, bump bool) (*backup.Result, error) {
	if err := d.Known(); err != nil {
		return nil, err
	}
	// What was edited here is captured before it is replaced.
	res, err := d.Boot(ctx, "recall", backup.Options{})
	if err != nil && !errors.Is(err, backup.ErrDamage) && !errors.Is(err, backup.ErrBusy) {
		return res, err
	}
	back, err := d.reconciler.Recall(ctx, p, bump)
	for _, a := range back {
		d.env.Log.WithField("file", a.File).Infof("brought back %s", a.Path)
	}
	if err != nil {
		return nil, err
	}
	if bump {
		next := func(v versioning.Version) (versioning.Version, error) { return v.Bump(versioning.Patch) }
		if _, err := d.reconciler.Bump(ctx, next); err != nil {
			return nil, err
		}
	}
	return d.Boot(ctx, "recall", backup.Options{})
}

// SlowDown bounds how fast the sides are read.
func (d *Device) SlowDown(ctx context.Context, bandwidth int64) {
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

// Prove asks whether a version that was just installed is healthy: if so it is
// confirmed, if not it is revoked and the one before comes back. The error wraps
// ErrUnhealthy then. What "tandem confirm" said in one of its hooks is the verdict. A health check that postpones or cannot run leaves it waiting.
// started says that the application was started with it already; where it could
// not be, the error wraps ErrNotStarted, and the version waits.
func (d *Device) Prove(ctx context.Context, from, to versioning.Version, started bool) (*backup.Result, error) {
	if err := d.Known(); err != nil {
		return nil, err
	}
	var err error
	said, asked := false, "start"
	if !started {
		said, err = d.listenToHook(ctx, "start", d.cfg.Hooks.Start, hookTimeout, from, to)
		if errors.Is(err, child.ErrNotRun) && ctx.Err() == nil {
			return nil, fmt.Errorf("%s %w: %w", to, ErrNotStarted, err)
		}
	}
	if err == nil && !said {
		asked = "health"
		said, err = d.listenToHook(ctx, "health", d.cfg.Hooks.Health, d.cfg.Hooks.HealthTimeout, from, to)
	}
	if said && ctx.Err() == nil { // that is the verdict, whatever the hook ends with
		err = nil
	}
	switch {
	case err == nil && (said || len(d.cfg.Hooks.Health) > 0):
		return d.Confirm(ctx)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, child.ErrPostponed), errors.Is(err, child.ErrNotRun):
		d.env.Log.WithError(err).Warn("not confirmed yet")
		return nil, nil
	case err != nil:
		res, failed := d.giveUp(ctx, backup.Pending{Version: to, Previous: from}, err.Error(), true)
		if child.LacksProgram(err) && res != nil && res.Version.Compare(to) != 0 {
			return res, d.acquit(ctx, asked, res.Version, to, failed)
		}
		return res, failed
	}
	return nil, nil
}

// acquit asks a hook that lacked a program about the version that was returned to: if it
// lacks one there, too, that says nothing against the version that was given up, which
// is revoked no more. The error wraps ErrHook then; else it is failed.
func (d *Device) acquit(ctx context.Context, hook string, now, gone versioning.Version, failed error) error {
	err := d.unstarted
	if hook == "health" {
		err = d.hook(ctx, hook, d.cfg.Hooks.Health, d.cfg.Hooks.HealthTimeout, gone, now)
	}
	if !child.LacksProgram(err) || ctx.Err() != nil {
		return failed
	}
	if e := d.Unrevoke(gone); e != nil {
		return errors.Join(failed, e)
	}
	return fmt.Errorf("%w: with %s as with %s: %v; returned to %s", ErrHook, gone, now, err, now)
}

// giveUp revokes a version that failed and returns to the one before. The
// error wraps ErrUnhealthy, also where there is none to return to. running says
// that the application may run.
func (d *Device) giveUp(ctx context.Context, p backup.Pending, reason string, running bool) (*backup.Result, error) {
	err := fmt.Errorf("%w: %s", ErrUnhealthy, reason)
	to := left(p)
	if e := d.reconciler.GiveUp(reason); e != nil {
		d.env.Log.WithError(e).Warn("it could not be noted why the version is given up")
	}
	remember := func(_, now versioning.Version, e error) {
		if to.IsZero() || !errors.Is(e, backup.ErrNothingToReturnTo) {
			d.Remember(rolledBack(p.Version, now, reason, e))
		}
	}
	res, e := d.rollback(ctx, to, running, remember)
	if errors.Is(e, backup.ErrNothingToReturnTo) && !to.IsZero() {
		to = versioning.Version{}
		res, e = d.rollback(ctx, to, running, remember)
	}
	if errors.Is(e, backup.ErrNothingToReturnTo) {
		// It is the only one there is: it stays, but is never offered again.
		return res, errors.Join(stays(p.Version, reason), d.reconciler.Revoke(p.Version), d.reconciler.ClearPending())
	}
	if errors.Is(e, backup.ErrBlocked) || errors.Is(e, backup.ErrNoSpace) { // it returns once that is out of the way
		e = errors.Join(e, d.reconciler.Revoke(p.Version))
	}
	return res, errors.Join(err, e)
}

// left returns the version that an operator went back from to the one that waits: it is
// revoked for that alone. Zero: it was an update.
func left(p backup.Pending) versioning.Version {
	if p.Previous.Compare(p.Version) > 0 {
		return p.Previous
	}
	return versioning.Version{}
}

// verdict is an ErrUnhealthy in words of its own, with what can be done.
type verdict struct{ text, hint string }

// stays says that a version does not work, and is the only one there is.
func stays(v versioning.Version, reason string) error {
	return &verdict{
		fmt.Sprintf("unhealthy: %s; %s stays, because there is nothing to return to", reason, v),
		"it is revoked: install a higher version, or this one with --allow-revoked once what it needs is there",
	}
}

func (e *verdict) Error() string { return e.text }

// Unwrap returns ErrUnhealthy.
func (e *verdict) Unwrap() error { return ErrUnhealthy }

// Hint says what can be done.
func (e *verdict) Hint() string { return e.hint }

// rollback returns to another version that is kept here and brings the sides
// in step. An application that may run is stopped before and started after it;
// at boot that is the init script's business. What became of it is remembered before
// it is forgotten why the version was left.
func (d *Device) rollback(ctx context.Context, to versioning.Version, running bool, remember func(from, now versioning.Version, err error)) (res *backup.Result, err error) {
	stopped := false
	from, now, err := d.reconciler.Rollback(ctx, to, func(from, now versioning.Version) {
		if !running {
			return
		}
		stopped = true
		if err := d.hook(ctx, "stop", d.cfg.Hooks.Stop, hookTimeout, from, now); err != nil {
			d.env.Log.WithError(err).Warn("rolling back all the same")
		}
	})
	if err == nil {
		if res, err = d.reconciler.Reconcile(ctx, backup.Options{}); res != nil {
			res.Returned = true
		}
	}
	remember(from, now, err)
	if err == nil {
		err = d.reconciler.ClearPending()
	}
	if stopped {
		d.StartApplication(ctx, from, now)
	}
	return res, err
}

// Rollback returns to the version before, or to the one named. What holds
// afterwards is said at backup.Reconciler.Rollback.
func (d *Device) Rollback(ctx context.Context, to versioning.Version) (*backup.Result, error) {
	err := d.Known()
	if err == nil {
		err = d.writable(backup.System, backup.UsrData)
	}
	if err != nil {
		return nil, err
	}
	return d.rollback(ctx, to, true, func(from, now versioning.Version, err error) { d.Remember(rolledBack(from, now, "", err)) })
}

// Confirm takes the version on system for healthy. With backup = "confirmed"
// it is backed up now.
func (d *Device) Confirm(ctx context.Context) (*backup.Result, error) {
	if err := d.Known(); err != nil {
		return nil, err
	}
	p, err := d.reconciler.Pending()
	if err != nil {
		return nil, err
	}
	if err := d.reconciler.ClearPending(); err != nil {
		return nil, err
	}
	if p != nil {
		d.Remember(Event{Command: "confirm", Action: "confirmed", Version: p.Version})
		d.env.Log.Infof("%s is confirmed", p.Version)
	} else {
		d.env.Log.Info("no version waits to be confirmed")
	}
	return d.Boot(ctx, "confirm", backup.Options{})
}

// Revoke marks a version as one that is never to be chosen while anything else
// is intact. If it is the one that runs, the one before comes back.
func (d *Device) Revoke(ctx context.Context, v versioning.Version) (*backup.Result, error) {
	if err := d.Known(); err != nil {
		return nil, err
	}
	look, err := d.reconciler.Look(ctx, backup.Options{})
	if err != nil {
		return nil, err
	}
	runs := look.Version.Compare(v) == 0
	if runs {
		if err := d.hook(ctx, "stop", d.cfg.Hooks.Stop, hookTimeout, v, versioning.Version{}); err != nil {
			d.env.Log.WithError(err).Warn("revoking all the same")
		}
	}
	before, err := d.reconciler.Revoked()
	if err != nil {
		return nil, err
	}
	if err := d.reconciler.Revoke(v); err != nil {
		return nil, err
	}
	if v.In(before) {
		d.env.Log.Infof("%s was revoked already", v)
	} else {
		d.Remember(Event{Command: "revoke", Action: "revoked", Version: v})
		d.env.Log.Infof("%s is revoked", v)
	}
	res, err := d.Boot(ctx, "revoke", backup.Options{})
	if runs && res != nil {
		d.StartApplication(ctx, v, res.Version)
	}
	return res, err
}

// Unrevoke takes that mark away.
func (d *Device) Unrevoke(v versioning.Version) error {
	if err := d.Known(); err != nil {
		return err
	}
	before, err := d.reconciler.Revoked()
	if err != nil {
		return err
	}
	if !v.In(before) {
		d.env.Log.Infof("%s was not revoked", v)
	}
	if err := d.reconciler.Unrevoke(v); err != nil {
		return err
	}
	if v.In(before) {
		d.Remember(Event{Command: "unrevoke", Action: "unrevoked", Version: v})
	}
	return nil
}
