package firmware

import (
	"context"
	"errors"

	"tandem/internal/child"
	"tandem/ota/fault"
	"tandem/versioning"
)

// Result is what became of one firmware.
type Result struct {
	Name    string
	From    versioning.Version // that was installed before; zero if none was
	Version versioning.Version // that the state is about
	State   State
	Err     error // why it is not installed; nil for one that is, or has nothing to do
}

// Error says why a firmware is not installed. It wraps child.ErrPostponed,
// child.ErrRefused, or what else was the reason.
type Error struct {
	State State
	err   error
}

func (e *Error) Error() string { return e.err.Error() }
func (e *Error) Unwrap() error { return e.err }

// Hint says what happens next, or what can be done.
func (e *Error) Hint() string {
	switch e.State {
	case Postponed:
		return "it is kept: the next \"tandem update\" or the next start goes on with it"
	case Failed:
		return "the messages above say why; only --allow-revoked has this version tried again"
	case Restart:
		return "restart the device"
	}
	if !errors.Is(e.err, child.ErrNotRun) && !errors.Is(e.err, child.ErrRefused) {
		return ""
	}
	return "see whether the handler that [[firmware]] names works by hand"
}

// NewError makes an Error of what led to a state.
func NewError(s State, err error) *Error { return &Error{s, err} }

// Installed returns the version that is installed, as the handler says.
func (f *Firmware) Installed(ctx context.Context) (versioning.Version, error) {
	return f.handler.Version(ctx)
}

// Advance goes on with a firmware: GoOn says what holds afterwards. news reports
// whether something came of it: one that is postponed again and again is no news,
// as flash wears out.
func (f *Firmware) Advance(ctx context.Context, when Occasion) (r Result, news bool) {
	before, err := f.Load()
	if err != nil {
		return Result{Name: f.name, State: None, Err: &Error{None, err}}, false
	}
	s, err := f.GoOn(ctx, when)
	r = Result{Name: f.name, From: s.Previous, Version: s.Version, State: s.State}
	if ctx.Err() != nil {
		r.Err = ctx.Err()
		return r, false
	}
	if err = fault.Unwritable(err); err != nil {
		r.Err = &Error{s.State, err}
	}
	return r, s.State != before.State || before.State.Open() && s.State != Postponed
}
