package tree

import (
	"context"
	"errors"

	"tandem/internal/fsys"
)

// Meaning is what an error of the disk says of what was asked for.
type Meaning int

// The meanings.
const (
	Nothing Meaning = iota // the kernel had no means, or the work was ended: look again
	Gone                   // it is not there any more
	Damage                 // the disk says of itself that it cannot give it
	Opaque                 // anything else: it is left as it is
)

// Means returns what err means. Only what the disk says of itself is damage.
func Means(err error) Meaning {
	switch {
	case fsys.IsTransient(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Nothing
	case fsys.IsUnreadable(err):
		return Damage
	case errors.Is(err, fsys.ErrElsewhere):
		return Opaque
	case fsys.IsNotExist(err):
		return Gone
	}
	return Opaque
}
