package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"tandem/agent/firmware"
	"tandem/backup"
	"tandem/backup/record"
	"tandem/internal/config"
	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/versioning"
)

// firmware returns the firmware that c configures, with its record in the agent's
// state.
func (d *Device) firmware(c config.Firmware) (*firmware.Firmware, error) {
	state, err := d.State()
	if err != nil {
		return nil, fmt.Errorf("%w: agent.state: %w", ota.ErrNotWritable, err)
	}
	return d.firmwareIn(state, c)
}

func (d *Device) firmwareIn(state fsys.FS, c config.Firmware) (*firmware.Firmware, error) {
	handler, err := d.handler(c)
	if err != nil {
		return nil, err
	}
	return d.firmwareWith(state, c, handler)
}

// firmwareOf is firmware with another handler.
func (d *Device) firmwareOf(c config.Firmware, h firmware.Handler) (*firmware.Firmware, error) {
	state, err := d.State()
	if err != nil {
		return nil, fmt.Errorf("%w: agent.state: %w", ota.ErrNotWritable, err)
	}
	return d.firmwareWith(state, c, h)
}

func (d *Device) firmwareWith(state fsys.FS, c config.Firmware, handler firmware.Handler) (*firmware.Firmware, error) {
	f, err := firmware.New(firmware.Options{
		Name: c.Name, FS: state, By: d.Author(), Cuts: d.cfg.Agent.Boots, Log: d.env.Log, Progress: d.env.Progress, Handler: handler,
	})
	if errors.Is(err, firmware.ErrName) {
		err = &config.Error{File: d.cfg.File, Key: "firmware.name", Message: err.Error()}
	}
	return f, err
}

func (d *Device) handler(c config.Firmware) (firmware.Handler, error) {
	if kind(c) == release.Agent {
		return program{d}, nil
	}
	return d.command(c)
}

func (d *Device) command(c config.Firmware) (*firmware.Command, error) {
	return firmware.NewCommand(c.Name, c.Handler, []string{HookVariable + "=firmware"}, d.env.Log, d.env.Outside)
}

// unpackers returns what ota.Installer asks for the firmwares of this device.
func (d *Device) unpackers(o backup.InstallOptions) map[string]func(context.Context, *bundle.Reader) (versioning.Version, error) {
	all := map[string]func(context.Context, *bundle.Reader) (versioning.Version, error){}
	for _, c := range d.cfg.Firmware {
		all[c.Name] = func(ctx context.Context, r *bundle.Reader) (versioning.Version, error) {
			handler, err := d.command(c)
			if err != nil {
				return versioning.Version{}, err
			}
			if err := handler.Check(); err != nil {
				return versioning.Version{}, &HookError{d.cfg.File, "firmware.handler", err}
			}
			f, err := d.firmware(c)
			if err != nil {
				return versioning.Version{}, err
			}
			return f.Unpack(ctx, r, o)
		}
	}
	return all
}

// advance goes on with a firmware and remembers what came of it. What holds
// afterwards is said at firmware.GoOn.
func (d *Device) advance(ctx context.Context, c config.Firmware, when firmware.Occasion) firmware.Result {
	f, err := d.firmware(c)
	if err != nil {
		return firmware.Result{Name: c.Name, State: firmware.None, Err: err}
	}
	end := func() bool { return false }
	if s, err := f.Load(); err != nil || s.State.Open() || s.State == firmware.Restart { // else no handler runs
		end = d.announce("firmware", "")
	}
	r, news := f.Advance(ctx, when)
	end()
	if news {
		d.Remember(firmwareEvent(r))
	}
	return r
}

// firmwareEvent describes what came of a firmware. The reason names it.
func firmwareEvent(r firmware.Result) Event {
	e := Event{Command: "firmware", Action: string(r.State), Reason: r.Name, From: r.From, Version: r.Version}
	if r.State == firmware.Done {
		e.Action = "installed"
	}
	if r.Err != nil {
		e.Error = r.Err.Error()
	}
	return e
}

// flash has the handler write a firmware that was just unpacked.
func (d *Device) flash(ctx context.Context, name string) (*firmware.Result, error) {
	for _, c := range d.followed() {
		if c.Name == name {
			r := d.advance(ctx, c, firmware.AtOnce)
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
	for _, c := range d.followed() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r := d.advance(ctx, c, firmware.AtStart)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(r.Err, backup.ErrUnavailable): // the side that the state lies on is told of
		case r.Err != nil:
			d.env.Log.WithField("firmware", r.Name).WithField("version", r.Version).WithError(r.Err).Warn("the firmware is not installed")
		}
	}
	return nil
}

// FirmwareStatus is what is known of a firmware.
type FirmwareStatus struct {
	Name    string             `json:"name"`
	Version versioning.Version `json:"version"` // installed, as its handler says; "" if that is not known
	State   firmware.State     `json:"state"`
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
		h, err := d.handler(c)
		if err != nil {
			return nil, err
		}
		s := firmware.Record{State: firmware.None}
		if disk != nil {
			f, err := d.firmwareIn(disk, c)
			if err != nil {
				return nil, err
			}
			if s, err = f.Load(); err != nil && !errors.Is(err, record.ErrNewer) { // whoever asks says so of that
				return nil, err
			}
		}
		st := FirmwareStatus{Name: c.Name, State: s.State, Version: s.Previous, Detail: s.Reason}
		if s.State != firmware.Installing && d.env.Hook != "firmware" { // else it is the handler who asks
			if st.Version, err = h.Version(ctx); err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				st.Detail = strings.TrimPrefix(st.Detail+": "+err.Error(), ": ")
			}
		}
		switch {
		case s.State.Open(), s.State == firmware.Restart:
			st.Next = s.Version
		case s.State == firmware.Failed:
			st.Failed = s.Version
		}
		all = append(all, st)
	}
	return all, nil
}
