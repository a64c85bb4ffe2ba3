// Package firmware knows how a device's firmwares are installed: what only the
// device knows how to write, by a handler that its configuration names.
package firmware

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/sirupsen/logrus"

	"tandem/backup"
	"tandem/backup/record"
	"tandem/internal/child"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// Handler is the part of the device that knows how to write a firmware.
type Handler interface {
	Version(ctx context.Context) (versioning.Version, error)
	Install(ctx context.Context, dir string, from, to versioning.Version, progress func(percent int64)) error
}

// Firmware is one firmware of the device.
type Firmware struct {
	name     string
	fs       fsys.FS // the agent's state
	handler  Handler
	by       record.Author
	cuts     int // that an installation may go through before it has failed
	log      logrus.FieldLogger
	progress backup.Progress // may be nil
}

// Options is what a Firmware works with.
type Options struct {
	Name     string  // as a bundle's app has it
	FS       fsys.FS // the agent's state
	By       record.Author
	Handler  Handler
	Cuts     int // of the power, while the handler runs, until it has failed
	Log      logrus.FieldLogger
	Progress backup.Progress // may be nil
}

// ErrName says that no bundle can be for a firmware of that name.
var ErrName = errors.New("expected a name that a bundle's app can have")

// New makes a Firmware. The error wraps ErrName where its name is none.
func New(o Options) (*Firmware, error) {
	switch {
	case o.Name == "", strings.ContainsAny(o.Name, `/\`), strings.HasPrefix(o.Name, "."):
		return nil, fmt.Errorf("%q: %w", o.Name, ErrName)
	case o.FS == nil:
		return nil, errors.New("firmware.Options: FS is missing")
	case o.Handler == nil:
		return nil, errors.New("firmware.Options: Handler is missing")
	case o.Log == nil:
		return nil, errors.New("firmware.Options: Log is missing")
	case o.Cuts < 0:
		return nil, errors.New("firmware.Options: Cuts is negative")
	}
	return &Firmware{name: o.Name, fs: o.FS, by: o.By, handler: o.Handler, cuts: o.Cuts, log: o.Log, progress: o.Progress}, nil
}

func (f *Firmware) path(name string) string { return path.Join(firmwareDir, f.name, name) }

// admit reports whether a version may be installed, and gives the one that is.
// The error wraps backup.ErrRevoked, backup.ErrDowngrade or child.ErrRefused.
func (f *Firmware) admit(ctx context.Context, s *Record, v versioning.Version, o backup.InstallOptions) (versioning.Version, error) {
	if !o.AllowRevoked && v.In(s.Revoked) {
		return versioning.Version{}, fmt.Errorf("%w: %s %s failed here or was gone back from", backup.ErrRevoked, f.name, v)
	}
	installed, err := f.handler.Version(ctx)
	switch {
	case ctx.Err() != nil:
		return installed, ctx.Err()
	case err != nil && o.AllowDowngrade: // the way out where a firmware is too broken to tell
		f.log.WithError(err).Warn("installing all the same")
		return versioning.Version{}, nil
	case err != nil:
		return installed, err
	}
	switch c := v.Compare(installed); {
	case installed.IsZero(), c > 0, o.AllowDowngrade, c == 0 && o.Reinstall:
		return installed, nil
	case c == 0:
		return installed, fmt.Errorf("%w: %s %s is %w", backup.ErrDowngrade, f.name, installed, backup.ErrInstalled)
	}
	return installed, fmt.Errorf("%w: the bundle has %s %s, the device %s", backup.ErrDowngrade, f.name, v, installed)
}

// When a firmware is gone on with.
type Occasion int

const (
	AtOnce  Occasion = iota // right after it was unpacked
	Later                   // by a later run of tandem
	AtStart                 // at the start of the device
)

// GoOn takes a firmware further, as None's table says, and gives the
// state that it has then; with nothing to do, the one that it had.
//
// After success the state is durable. So it is after an error that says how the
// handler ended. After another error or a power cut it is the one before, or
// installing, and the next goOn finds out which. The error wraps child.ErrPostponed or
// child.ErrRefused for what the handler said, or is that of ctx: the handler was killed,
// and the state is postponed.
func (f *Firmware) GoOn(ctx context.Context, when Occasion) (Record, error) {
	s, err := f.Load()
	switch {
	case err != nil:
		return s, err
	case s.State == Restart:
		return f.afterRestart(ctx, s, when)
	case !s.State.Open():
		return s, nil
	}
	if when != AtOnce {
		if ended, next, err := f.review(ctx, s); ended || err != nil {
			return next, err
		}
	}
	if s.State == Installing {
		if s.Cuts++; s.Cuts > f.cuts {
			return f.fail(s, fmt.Errorf("%w: %s: the device went down %d times while the handler ran", child.ErrRefused, f.name, s.Cuts))
		}
	}
	s.State, s.Reason = Installing, ""
	if err := f.save(s); err != nil {
		return f.before(err)
	}
	f.log.WithFields(logrus.Fields{"firmware": f.name, "from": s.Previous, "version": s.Version}).Info("installing")
	err = f.handler.Install(ctx, f.fs.Path(f.path(s.Payload)), s.Previous, s.Version, func(percent int64) {
		f.report("writing "+f.name, s.Size*percent/100, s.Size)
	})
	switch {
	case err == nil:
		return f.confirm(ctx, s)
	case errors.Is(err, errRestart):
		s.State = Restart
		return f.conclude(s, nil)
	case errors.Is(err, backup.ErrDamage):
		return f.damaged(s, err)
	case ctx.Err() != nil:
		s.State, s.Reason = Postponed, "tandem was told to end"
		return f.conclude(s, err)
	case errors.Is(err, child.ErrPostponed), errors.Is(err, child.ErrNotRun):
		s.State, s.Reason = Postponed, err.Error()
		return f.conclude(s, err)
	}
	return f.fail(s, err)
}

// review looks whether a payload that was left behind is still to be
// installed. If not, ended is true.
func (f *Firmware) review(ctx context.Context, s Record) (ended bool, next Record, err error) {
	now, err := f.handler.Version(ctx)
	switch {
	case ctx.Err() != nil:
		return true, s, ctx.Err()
	case err != nil: // half written it may be unable to tell
		f.log.WithError(err).Warn("installing it again")
	case now.Compare(s.Version) == 0 && s.Previous.Compare(s.Version) != 0:
		next, err = f.finish(s)
		return true, next, err
	case now.Compare(s.Version) > 0 && !s.Downgrade:
		next, err = f.fail(s, fmt.Errorf("%w: %s %s was installed meanwhile", backup.ErrDowngrade, f.name, now))
		return true, next, err
	}
	whole, err := f.whole(ctx, &s)
	if err != nil {
		return true, s, err
	}
	if !whole {
		next, err = f.damaged(s, fmt.Errorf("%w: the unpacked payload of %s %s", backup.ErrDamage, f.name, s.Version))
		return true, next, err
	}
	return false, s, nil
}

// confirm asks whether a handler that says that it is done has done it.
func (f *Firmware) confirm(ctx context.Context, s Record) (Record, error) {
	now, err := f.handler.Version(ctx)
	switch {
	case ctx.Err() != nil:
		return s, ctx.Err() // still installing: the next run asks again
	case err != nil:
		f.log.WithError(err).Warn("the handler says that it is done, but not which version is installed now")
	case now.Compare(s.Version) != 0:
		return f.fail(s, fmt.Errorf("%w: %s: the handler says that it is done, but %s is installed", child.ErrRefused, f.name, orNothing(now)))
	}
	return f.finish(s)
}

// afterRestart finds out what came of a firmware that a restart was to bring
// into use.
func (f *Firmware) afterRestart(ctx context.Context, s Record, when Occasion) (Record, error) {
	now, err := f.handler.Version(ctx)
	switch {
	case ctx.Err() != nil:
		return s, ctx.Err()
	case err != nil:
		return s, err // unknown is not failed: asked again
	case now.Compare(s.Version) == 0:
		return f.finish(s)
	case when != AtStart:
		return s, nil
	}
	return f.fail(s, fmt.Errorf("%w: %s: after the restart %s is installed", child.ErrRefused, f.name, orNothing(now)))
}

// finish ends a firmware that is installed. The one that an operator went back
// from is not to be offered again.
func (f *Firmware) finish(s Record) (Record, error) {
	s.State, s.Payload, s.Reason, s.Cuts = Done, "", "", 0
	s.unrevoke(s.Version)
	if s.Previous.Compare(s.Version) > 0 {
		s.revoke(s.Previous)
	}
	return f.conclude(s, nil)
}

// fail ends a firmware that could not be installed.
func (f *Firmware) fail(s Record, why error) (Record, error) {
	s.State, s.Payload, s.Reason = Failed, "", why.Error()
	s.revoke(s.Version)
	return f.conclude(s, why)
}

// damaged ends a firmware whose payload was damaged here: that says nothing against it.
func (f *Firmware) damaged(s Record, why error) (Record, error) {
	s.State, s.Payload, s.Reason = None, "", "its payload was damaged"
	return f.conclude(s, why)
}

// Withdraw ends what there is of v that is not finished yet as failed, for the reason
// that something else has found: it is not gone on with. After an error or a power
// cut the state is the one before.
func (f *Firmware) Withdraw(v versioning.Version, why string) error {
	s, err := f.Load()
	if err != nil || !s.State.Open() && s.State != Restart || s.Version.Compare(v) != 0 {
		return err
	}
	s.State, s.Payload, s.Reason = Failed, "", why
	s.revoke(v)
	_, err = f.conclude(s, nil)
	return err
}

// conclude saves s and gives it, with the error that led to it. A payload that s no
// longer names goes.
func (f *Firmware) conclude(s Record, why error) (Record, error) {
	if err := f.save(s); err != nil {
		return f.before(errors.Join(why, err))
	}
	return s, errors.Join(why, f.tidy(s.Payload))
}

// before returns the state that still holds, with the error of changing it.
func (f *Firmware) before(why error) (Record, error) {
	s, err := f.Load()
	return s, errors.Join(why, err)
}

func orNothing(v versioning.Version) string {
	if v.IsZero() {
		return "none"
	}
	return v.String()
}
