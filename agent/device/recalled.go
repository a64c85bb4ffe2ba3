package device

import (
	"context"
	"errors"
	"fmt"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/ota"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Recalled is what comes of the recall of the release that runs.
type Recalled struct {
	Version versioning.Version `json:"version"`         // that is recalled
	To      versioning.Version `json:"to,omitzero"`     // that the device returns to
	Stays   string             `json:"stays,omitempty"` // why the device keeps the release instead
	Urgent  bool               `json:"urgent,omitempty"`
}

// recalling is what a poll found out about a recall.
type recalling struct {
	Recalled
	release digest.SHA256
	told    bool // why it stays is in the history by other words
}

const recallReason = "recalled by its publisher"

// recalled finds out what a recall means for this device. It changes nothing.
func (d *Device) recalled(ctx context.Context, r *ota.Recall) (*recalling, error) {
	out := &recalling{Recalled: Recalled{Version: r.Version, Urgent: r.Urgent}, release: r.Release}
	done, err := d.reconciler.Returned(r.Release)
	if err != nil {
		return nil, err
	}
	if done {
		out.Stays, out.told = "it came back here after a recall, or was installed all the same", true
		return out, nil
	}
	out.To, err = d.reconciler.CanWithdraw(ctx, backup.Withdrawal{Release: r.Release, To: r.To, Never: r.Never})
	switch {
	case errors.Is(err, backup.ErrOtherRelease):
		return nil, nil
	case errors.Is(err, backup.ErrNothingToReturnTo):
		out.Stays = err.Error()
	case err != nil:
		return nil, err
	}
	return out, nil
}

// course is what there is to do about it.
func (r *recalling) course(app string) Course {
	return Course{
		Step: Ready, Kind: release.App, App: app, From: r.Version, Version: r.To, Recall: true,
		Urgent: r.Urgent, SHA256: r.release, Release: r.release,
	}
}

// TellRecall remembers, once, that the device keeps a release though it is recalled.
func (d *Device) TellRecall(ans *Answers) {
	r := ans.app().Recalled
	if r == nil || r.Stays == "" || r.told {
		return
	}
	e := Event{Command: "rollback", Version: r.Version, Reason: recallReason, Error: "it stays: " + r.Stays}
	events, err := d.History()
	if err != nil {
		return // whoever adds to it says so
	}
	for _, before := range events {
		if e.Error == before.Error && e.repeats(before) {
			return
		}
	}
	d.env.Log.WithField("version", r.Version).Warn(recallReason + ", but " + e.Error)
	d.Remember(e)
}

// returnFrom leaves the release that runs for the version that c names. What holds
// on the disk is said at backup.Reconciler.Withdraw: a power cut leaves the release or
// the version before, whole, and the next start finds out which.
func (d *Device) returnFrom(ctx context.Context, c Course) (next Course, u *Update, err error) {
	idle := Course{Step: Idle, Kind: c.Kind, App: c.App}
	watched := len(d.cfg.Hooks.Health) > 0
	stopped := false
	agree := func(from, to versioning.Version) error {
		if err := errors.Join(d.checkHooks(), d.writable(backup.System, backup.UsrData)); err != nil {
			return err
		}
		return d.hook(ctx, "pre_install", d.cfg.Hooks.PreInstall, hookTimeout, from, to)
	}
	stop := func(from, to versioning.Version) error {
		stopped = true
		if err := d.hook(ctx, "stop", d.cfg.Hooks.Stop, hookTimeout, from, to); err != nil {
			d.env.Log.WithError(err).Warn("returning all the same")
		}
		return nil
	}
	d.env.Log.WithField("version", c.From).Warnf("%s: returning to %s", recallReason, c.Version)
	from, now, err := d.reconciler.Withdraw(ctx, backup.Withdrawal{Release: c.Release, To: c.Version, Pending: watched}, agree, stop)
	switch {
	case errors.Is(err, backup.ErrOtherRelease): // it was left otherwise
		return idle, nil, nil
	case err != nil:
		if stopped { // what was stopped goes on as it was
			err = errors.Join(err, d.hook(ctx, "start", d.cfg.Hooks.Start, hookTimeout, now, from))
		}
		if ctx.Err() == nil || stopped {
			d.Remember(Event{Command: "rollback", Version: c.From, Reason: recallReason, Error: err.Error()})
		}
		return c, nil, err
	}
	u = &Update{Installed: &ota.Installed{Kind: c.Kind, App: c.App, From: from, Version: now}, Recalled: true}
	event := Event{Command: "rollback", Action: "pending", From: from, Version: now, Reason: recallReason}
	if !watched {
		event.Action, err = "recalled", d.reconciler.ClearPending()
	}
	if err == nil {
		var o backup.Options
		if o.Hold, err = d.hold(); err == nil {
			u.BackUp, err = d.reconciler.Reconcile(ctx, o)
		}
	}
	if err != nil {
		err = fmt.Errorf("%s is back on system, but not backed up: %w", now, err)
		event.Error = err.Error()
	}
	d.Remember(event)
	res, unproven := d.Prove(ctx, from, now, false)
	if res != nil && (u.BackUp == nil || unproven != nil) {
		u.BackUp = res
	}
	return idle, u, errors.Join(err, unproven)
}

// Watch has the version that a device returned to wait to be confirmed, where a power
// cut came before that was noted.
func (d *Device) Watch(c Course) error {
	p, err := d.reconciler.Pending()
	if err != nil || p != nil || len(d.cfg.Hooks.Health) == 0 {
		return err
	}
	return d.reconciler.SetPending(backup.Pending{Version: c.Version, Previous: c.From})
}
