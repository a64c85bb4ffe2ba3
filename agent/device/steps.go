package device

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"tandem/agent/firmware"
	"tandem/backup"
	"tandem/internal/child"
	"tandem/ota"
	"tandem/ota/hawkbit"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
)

// ErrNoBundle says that what was downloaded is not there any more.
var ErrNoBundle = errors.New("the bundle is gone")

// Advance carries out the step that a release is at: it downloads the bundle,
// or installs it, or goes on with a firmware that is unpacked. next is the step
// that follows; after an error that is what is left to do, if it is to be tried
// again. What holds on the disk is said at Step.
//
// The Update is that of an installation that has changed something, also one
// that was taken back since.
func (d *Device) Advance(ctx context.Context, c Course) (next Course, u *Update, err error) {
	if err := d.Known(); err != nil {
		return c, nil, err
	}
	if c.Step == Downloading {
		if c.File, err = d.Fetch(ctx, c.Offer()); err == nil {
			c.Step = Ready
		}
		return c, nil, err
	}
	idle := Course{Step: Idle, Kind: c.Kind, App: c.App}
	c.Step = Ready
	if c.Recall {
		return d.returnFrom(ctx, c)
	}
	if c.unpacked() {
		r := d.goOn(ctx, c.App)
		if r.State == firmware.Postponed || r.State == firmware.Installing || r.State == firmware.Unpacked {
			idle = c
		}
		return idle, &Update{Firmware: &r}, r.Err
	}
	if _, err := os.Stat(c.File); err != nil {
		c.Step = Downloading
		return c, nil, fmt.Errorf("%w: %w", ErrNoBundle, err)
	}
	offer := c.Offer()
	u, err = d.install(ctx, "update", func() (io.ReadCloser, error) { return os.Open(c.File) }, &offer, backup.InstallOptions{})
	if u != nil || Final(err) {
		// It has done its work, and the space is scarce. A delta bundle that did not
		// apply has made room for the whole one already.
		if e := os.Remove(c.File); e != nil && !os.IsNotExist(e) {
			d.env.Log.WithError(e).Warn("the bundle could not be removed")
		}
	}
	switch {
	case u != nil && u.Firmware != nil && c.Kind == release.App:
		err = fmt.Errorf("%w: %s: listed as an application, but it carries a firmware", ota.ErrIncompatible, c.Name)
	case u != nil && u.Firmware == nil && c.Kind != release.App && c.Kind != "":
		err = fmt.Errorf("%w: %s: listed as a firmware, but it carries an application", ota.ErrIncompatible, c.Name)
	case u != nil && u.Firmware != nil && u.Firmware.State == firmware.Postponed:
		return unpackedCourse(c.Kind, *u.Firmware), u, err
	case u == nil && err != nil && !Final(err):
		return c, nil, err
	}
	return idle, u, err
}

// goOn goes on with a firmware that was unpacked.
func (d *Device) goOn(ctx context.Context, name string) firmware.Result {
	for _, f := range d.followed() {
		if f.Name == name {
			return d.advance(ctx, f, firmware.Later)
		}
	}
	return firmware.Result{Name: name, State: firmware.None, Err: fmt.Errorf("%w: no handler for the firmware %q", ota.ErrIncompatible, name)}
}

// Final reports whether an installation that failed will fail again: the release,
// or a hook, is against it.
func Final(err error) bool {
	for _, reason := range []error{
		trust.ErrUntrusted, bundle.ErrMalformed, ota.ErrIncompatible, backup.ErrDowngrade, backup.ErrRevoked,
		backup.ErrNoSpace, ota.ErrNoSpace, ErrUnhealthy,
	} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return errors.Is(err, child.ErrRefused) && !errors.Is(err, child.ErrPostponed)
}

// Updating is what an update by hand did, to each unit that there is something to
// tell of.
type Updating struct {
	Firmware []firmware.Result // in the order of the configuration
	App      *Update           // nil: nothing was installed
	Offer    *ota.Offer        // of the application; nil: there is nothing newer
	Answers  *Answers
}

// Update asks the source, and brings each unit to the release that it should
// have, once, one after the other: the firmwares, then the application. One that
// fails keeps no other one waiting. The error is that of the source and of the
// application; a firmware's is in its result. What holds after an error is said
// at Advance.
func (d *Device) Update(ctx context.Context) (*Updating, error) {
	ans, err := d.Ask(ctx)
	if ans == nil {
		return nil, err
	}
	done := &Updating{Answers: ans}
	unasked := err
	var m Machine
	m.Choose(ans, d.env.Now())
	for i := range ans.Units {
		a := &ans.Units[i]
		c := m.Works[i].Course
		u, err := d.finish(ctx, c)
		if c.Step == Idle && a.Unpacked.State == firmware.Restart { // which may have come
			r := d.goOn(ctx, a.Name)
			u, err = &Update{Firmware: &r}, r.Err
		}
		if ctx.Err() != nil {
			return done, ctx.Err()
		}
		if a.Kind == release.App {
			d.TellRecall(ans)
			done.App, done.Offer = u, a.Offered.Best
			if err == nil && unasked == nil && c.Step == Idle {
				err = errors.Join(a.Offered.Err, a.Offered.Unfit)
			}
			return done, errors.Join(unasked, err)
		}
		done.Firmware = append(done.Firmware, firmwareResult(a, c, u, err))
	}
	return done, unasked
}

// finish takes a release through all of its steps.
func (d *Device) finish(ctx context.Context, c Course) (u *Update, err error) {
	for c.Step != Idle && err == nil {
		if c.Step == Ready && c.Hold != "" {
			d.env.Log.WithField("version", c.Version).Warn("downloaded, not installed: " + c.Hold)
			return u, nil
		}
		sum, fetching := c.SHA256, c.Step == Downloading
		c, u, err = d.Advance(ctx, c)
		if fetching && errors.Is(err, ota.ErrRefused) && !errors.Is(err, hawkbit.ErrWithdrawn) && ctx.Err() == nil {
			err = errors.Join(err, d.doubted(sum, err))
		}
		if Final(err) && !errors.Is(err, ErrUnhealthy) { // which is read off the device
			err = errors.Join(err, d.Refused(sum, err))
		}
	}
	return u, err
}

// firmwareResult says what came of a firmware in an update.
func firmwareResult(a *UnitAnswer, c Course, u *Update, err error) firmware.Result {
	if u != nil && u.Firmware != nil {
		return *u.Firmware
	}
	r := firmware.Result{Name: a.Name, From: a.Installed, Version: a.Installed, State: firmware.None}
	if c.Step != Idle {
		r.Version, r.Err = c.Version, err
		return r
	}
	if err := a.Offered.Err; err != nil {
		r.Err = err
	}
	if a.Err != nil {
		r.Err = firmware.NewError(firmware.None, a.Err)
	}
	return r
}
