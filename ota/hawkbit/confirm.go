package hawkbit

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"tandem/ota"
)

// askConfirmation says yes where the configuration does, and else remembers that
// a person is to be asked.
func (s *Source) askConfirmation(ctx context.Context, st *State, o offered) (again bool, err error) {
	if s.o.AutoConfirm {
		return true, s.sendConfirmation(ctx, o.number, true, "confirmed by the configuration (source.auto_confirm)")
	}
	if st.Waiting != nil && st.Waiting.Number == o.number {
		return false, nil
	}
	d, err := s.c.deployment(ctx, "confirmationBase", o)
	if errors.Is(err, errVanished) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	w := &Waiting{Number: o.number}
	for _, c := range d.Chunks {
		w.Brings = append(w.Brings, cutRunes(clean(c.Name+" "+c.Version), maxAttribute))
	}
	w.Brings = w.Brings[:min(len(w.Brings), maxParts)]
	s.o.Log.WithField("action", o.number).Info("the server wants a person to confirm an update: tandem confirm-update")
	st.Waiting = w
	return false, s.save(st)
}

func (s *Source) sendConfirmation(ctx context.Context, number int64, yes bool, reason string) error {
	c := confirmation{Confirmation: "denied", Code: codeOther, Details: cleanDetails([]string{reason})}
	if yes {
		c.Confirmation, c.Code = "confirmed", 0
	}
	err := s.c.send(ctx, http.MethodPost, s.c.at.feedback("confirmationBase", number), fmt.Sprintf("action %d", number), c)
	if errors.Is(err, errVanished) {
		return nil
	}
	return err
}

// ErrNothingToConfirm says that the server waits for no confirmation.
var ErrNothingToConfirm = errors.New("the server waits for no confirmation")

// Confirm says yes or no to the action that waits for it, and returns its number.
// After success the server knows; the next Sync finds what it makes of it. The
// error wraps ErrNothingToConfirm where nothing waits.
func (s *Source) Confirm(ctx context.Context, yes bool, reason string) (int64, error) {
	b, err := s.c.poll(ctx)
	if err != nil {
		return 0, err
	}
	w, err := want(b)
	if err != nil {
		return 0, fmt.Errorf("%w: poll: %w", ota.ErrRefused, err)
	}
	if w.confirm.number == 0 {
		return 0, ErrNothingToConfirm
	}
	if err := s.sendConfirmation(ctx, w.confirm.number, yes, reason); err != nil {
		return 0, err
	}
	st, err := s.load()
	if err != nil {
		return 0, err
	}
	if st.Waiting == nil || st.Waiting.Number != w.confirm.number {
		st.Waiting = &Waiting{Number: w.confirm.number}
	}
	if st.Waiting.Denied = !yes; yes {
		st.Waiting = nil
	}
	return w.confirm.number, s.save(st)
}
