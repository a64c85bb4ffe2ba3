package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/versioning"
)

// FirmwareResult is what became of one firmware.
type FirmwareResult struct {
	Name    string
	From    versioning.Version // that was installed before; zero if none was
	Version versioning.Version // that the state is about
	State   FirmwareState
	Err     error // why it is not installed; nil for one that is, or has nothing to do
}

// FirmwareError says why a firmware is not installed. It wraps ErrPostponed,
// ErrHook, or what else was the reason.
type FirmwareError struct {
	State FirmwareState
	err   error
}

func (e *FirmwareError) Error() string { return e.err.Error() }
func (e *FirmwareError) Unwrap() error { return e.err }

// Hint says what happens next, or what can be done.
func (e *FirmwareError) Hint() string {
	switch e.State {
	case FirmwarePostponed:
		return "it is kept: the next \"tandem update\" or the next start goes on with it"
	case FirmwareFailed:
		return "the handler's output above says why; only --allow-revoked has this version tried again"
	case FirmwareRestart:
		return "restart the device"
	}
	return "see whether the handler that [[firmware]] names works by hand"
}

// firmware gives the firmware that c configures.
func (d *Device) firmware(c config.Firmware) (*firmware, error) {
	if strings.ContainsAny(c.Name, `/\`) || strings.HasPrefix(c.Name, ".") {
		return nil, &config.Error{File: d.cfg.File, Key: "firmware.name", Message: fmt.Sprintf("%q: expected a name that a bundle's app can have", c.Name)}
	}
	state, err := d.state()
	if err != nil {
		return nil, fmt.Errorf("%w: agent.state: %w", ota.ErrNotWritable, err)
	}
	return &firmware{
		name: c.Name, fs: state, cuts: d.cfg.Agent.Boots, log: d.env.Log, progress: d.env.Progress,
		handler: &command{name: c.Name, argv: c.Handler, log: d.env.Log},
	}, nil
}

// unpackers gives what ota.Installer asks for the firmwares of this device.
func (d *Device) unpackers(o backup.InstallOptions) map[string]func(context.Context, *bundle.Reader) (versioning.Version, error) {
	all := map[string]func(context.Context, *bundle.Reader) (versioning.Version, error){}
	for _, c := range d.cfg.Firmware {
		all[c.Name] = func(ctx context.Context, r *bundle.Reader) (versioning.Version, error) {
			f, err := d.firmware(c)
			if err != nil {
				return versioning.Version{}, err
			}
			from, err := f.unpack(ctx, r, o)
			return from, f.unwritable(err)
		}
	}
	return all
}

// unwritable tells that the agent's state may not be written.
func (f *firmware) unwritable(err error) error {
	switch {
	case err == nil, errors.Is(err, backup.ErrNoSpace):
		return err
	case fsys.IsNoSpace(err):
		return fmt.Errorf("%w: %w", backup.ErrNoSpace, err)
	case fsys.IsNotWritable(err):
		return fmt.Errorf("%w: %w", ota.ErrNotWritable, err)
	}
	return err
}

// advance goes on with a firmware and remembers what came of it. What holds
// afterwards is said at firmware.goOn.
func (d *Device) advance(ctx context.Context, c config.Firmware, when occasion) FirmwareResult {
	f, err := d.firmware(c)
	if err != nil {
		return FirmwareResult{Name: c.Name, State: FirmwareNone, Err: err}
	}
	before := f.load()
	s, err := f.goOn(ctx, when)
	r := FirmwareResult{Name: c.Name, From: s.Previous, Version: s.Version, State: s.State}
	if ctx.Err() != nil {
		r.Err = ctx.Err()
		return r
	}
	if err = f.unwritable(err); err != nil {
		r.Err = &FirmwareError{s.State, err}
	}
	// One that is postponed again and again is no news: flash wears out.
	if s.State != before.State || before.open() && s.State != FirmwarePostponed {
		d.remember(r.event())
	}
	return r
}

// event describes what came of a firmware. The reason names it.
func (r *FirmwareResult) event() Event {
	e := Event{Command: "firmware", Action: string(r.State), Reason: r.Name, From: r.From, Version: r.Version}
	if r.State == FirmwareDone {
		e.Action = "installed"
	}
	if r.Err != nil {
		e.Error = r.Err.Error()
	}
	return e
}

// flash has the handler write a firmware that was just unpacked.
func (d *Device) flash(ctx context.Context, name string) (*FirmwareResult, error) {
	for _, c := range d.cfg.Firmware {
		if c.Name == name {
			r := d.advance(ctx, c, atOnce)
			return &r, r.Err
		}
	}
	return nil, fmt.Errorf("%w: no handler for the firmware %q", ota.ErrIncompatible, name)
}

// startFirmware goes on with each firmware at the start of the device: it tells
// what came of those that waited for it, and has the handler run for those that
// were interrupted or postponed. None of that is a reason not to start the
// application; the error is that of ctx.
func (d *Device) startFirmware(ctx context.Context) error {
	for _, c := range d.cfg.Firmware {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r := d.advance(ctx, c, atStart)
		log := d.env.Log.WithField("firmware", r.Name).WithField("version", r.Version)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case r.Err != nil:
			log.WithError(r.Err).Warn("the firmware is not installed")
		}
	}
	return nil
}

// FirmwareStatus is what is known of a firmware.
type FirmwareStatus struct {
	Name    string             `json:"name"`
	Version versioning.Version `json:"version"` // installed, as its handler says; "" if that is not known
	State   FirmwareState      `json:"state"`
	Next    versioning.Version `json:"next,omitzero"` // that is unpacked, or waits for a restart
	Failed  versioning.Version `json:"failed,omitzero"`
	Detail  string             `json:"detail,omitempty"` // why it is postponed or failed, or why the version is not known
}

// firmwareStatus looks at each firmware. A handler that is at work is not
// disturbed: what was installed before is told then.
func (d *Device) firmwareStatus(ctx context.Context) ([]FirmwareStatus, error) {
	if len(d.cfg.Firmware) == 0 {
		return nil, nil
	}
	disk, err := fsys.OpenOS(d.cfg.Agent.State)
	switch {
	case err == nil:
		defer disk.Close()
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	var all []FirmwareStatus
	for _, c := range d.cfg.Firmware {
		h := &command{name: c.Name, argv: c.Handler, log: d.env.Log}
		s := firmwareState{State: FirmwareNone}
		if disk != nil {
			f := &firmware{name: c.Name, fs: disk, log: d.env.Log}
			s = f.load()
		}
		st := FirmwareStatus{Name: c.Name, State: s.State, Version: s.Previous, Detail: s.Reason}
		if s.State != FirmwareInstalling {
			if st.Version, err = h.Version(ctx); err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				st.Detail = strings.TrimPrefix(st.Detail+": "+err.Error(), ": ")
			}
		}
		switch {
		case s.open(), s.State == FirmwareRestart:
			st.Next = s.Version
		case s.State == FirmwareFailed:
			st.Failed = s.Version
		}
		all = append(all, st)
	}
	return all, nil
}

// FirmwareAnswer is what the source has for one firmware.
type FirmwareAnswer struct {
	Name      string
	Installed versioning.Version
	Decision  ota.Decision
	Pending   FirmwareResult // what was unpacked before and is still to be installed; State is none without
	Err       error          // the handler does not tell what is installed: nothing was chosen
}

// CheckFirmware asks the source which release each firmware should have: the
// same as Check does for the application, one poll for all. It is empty where no
// firmware is configured.
func (d *Device) CheckFirmware(ctx context.Context) ([]FirmwareAnswer, error) {
	if len(d.cfg.Firmware) == 0 {
		return nil, nil
	}
	if _, err := d.source(); err != nil {
		return nil, err
	}
	answers := make([]FirmwareAnswer, len(d.cfg.Firmware))
	var devices []ota.Device
	var asked []*FirmwareAnswer
	for i, c := range d.cfg.Firmware {
		a := &answers[i]
		a.Name, a.Pending = c.Name, FirmwareResult{Name: c.Name, State: FirmwareNone}
		f, err := d.firmware(c)
		if err == nil {
			a.Installed, err = f.handler.Version(ctx)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if a.Err = err; f == nil {
			continue
		}
		s := f.load()
		if s.open() || s.State == FirmwareRestart {
			a.Pending = FirmwareResult{Name: c.Name, From: s.Previous, Version: s.Version, State: s.State}
		}
		if err != nil {
			continue
		}
		devices = append(devices, d.about(c.Name, a.Installed, s.Revoked))
		asked = append(asked, a)
	}
	if len(devices) == 0 { // each of them says why
		return answers, nil
	}
	listing, err := d.listing(ctx)
	if err != nil {
		return answers, err
	}
	var missing error
	for i, a := range asked {
		dec, err := listing.ChooseFirmware(devices[i])
		a.Decision, missing = dec, cmp.Or(missing, err)
	}
	return answers, missing
}

// UpdateFirmware asks the source and brings each firmware to the release that
// it should have, one after the other. One that was unpacked before is gone on
// with, without a download, unless the source has a higher one; so it is where
// the source cannot be reached. It is the first half of an update: Update is the
// other one, for the application.
//
// The results are in the order of the configuration, one for each firmware;
// there are none where no firmware is configured. A firmware that fails says so
// in its result and stops neither the others nor the application. The error is
// that of the source, or of ctx. What holds afterwards is said at FirmwareNone.
func (d *Device) UpdateFirmware(ctx context.Context) ([]FirmwareResult, error) {
	answers, sourceErr := d.CheckFirmware(ctx)
	if answers == nil {
		return nil, sourceErr
	}
	results := make([]FirmwareResult, len(answers))
	for i, a := range answers {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		best, r := a.Decision.Best, &results[i]
		switch {
		case best != nil && best.Release.Version.Compare(a.Pending.Version) > 0:
			*r = d.takeFirmware(ctx, a, *best)
		case a.Pending.State != FirmwareNone:
			*r = d.advance(ctx, d.cfg.Firmware[i], later)
		default:
			*r = FirmwareResult{Name: a.Name, From: a.Installed, Version: a.Installed, State: FirmwareNone, Err: a.Err}
			if a.Err != nil {
				r.Err = &FirmwareError{FirmwareNone, a.Err}
			}
		}
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
	}
	return results, sourceErr
}

// takeFirmware downloads and installs what the source offers for a firmware.
func (d *Device) takeFirmware(ctx context.Context, a FirmwareAnswer, o ota.Offer) FirmwareResult {
	r := FirmwareResult{Name: a.Name, From: a.Installed, Version: o.Release.Version, State: FirmwareNone}
	file, err := d.fetch(ctx, o)
	if err != nil {
		r.Err = err
		return r
	}
	u, err := d.install(ctx, "update", func() (io.ReadCloser, error) { return os.Open(file) }, backup.InstallOptions{})
	if u == nil {
		r.Err = err
		return r
	}
	if e := os.Remove(file); e != nil { // it is unpacked; the space is scarce
		d.env.Log.WithError(e).Warnf("%s could not be removed", filepath.Base(file))
	}
	if u.Firmware == nil {
		r.Err = fmt.Errorf("%w: %s: listed as a firmware, but it carries an application", ota.ErrIncompatible, o.Name)
		return r
	}
	return *u.Firmware
}
