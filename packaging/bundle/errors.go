package bundle

import (
	"errors"
	"fmt"
)

// Sentinels of this package.
var (
	// ErrMalformed says that a bundle is truncated, damaged or breaks a rule of its format.
	ErrMalformed = errors.New("malformed bundle")
	// ErrCodec says that a bundle needs a codec that this program does not
	// know. It wraps ErrMalformed.
	ErrCodec = fmt.Errorf("%w: unknown codec", ErrMalformed)
	// ErrBase says that a delta bundle builds on what is not here.
	ErrBase = errors.New("builds on another release")
	// ErrOptions says that no bundle can be what was asked for.
	ErrOptions = errors.New("impossible bundle")
	// ErrTree says that a tree holds what no bundle can carry.
	ErrTree = errors.New("cannot be made into a bundle")
)

// malformed says what is wrong in which member of a bundle.
func malformed(member, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %w", ErrMalformed, member, fmt.Errorf(format, args...))
}
