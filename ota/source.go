// Package ota finds out which release a device should have, fetches it, and
// installs it onto a side.
package ota

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Source answers which release a device should have, and gets it.
type Source interface {
	// Check finds the release that d should have. A nil Offer says that there
	// is nothing newer for it.
	Check(ctx context.Context, d Device) (*Offer, error)
	// Fetch gives the path of a local file that holds what o offers, its
	// length and SHA-256 verified and its data durable.
	Fetch(ctx context.Context, o Offer, p Progress) (path string, err error)
}

// Device is what a source must know of a device.
type Device struct {
	ID         string // tells this device from others; "" is outside every partial rollout
	App        string
	Compatible []string // the hardware names it answers to
	Channel    string
	Installed  versioning.Version // the zero Version: nothing is installed
	Revoked    []versioning.Version
}

// Offer is a release and the file that carries it.
type Offer struct {
	Release release.Target
	Name    string // of the file, as the repository lists it
	Size    int64  // bytes
	SHA256  digest.SHA256
}

// Progress is told how many bytes of a file are here, out of how many. It may
// be nil.
type Progress func(done, total int64)

// Sentinels of this package.
var (
	// ErrUnreachable says that the source gave no answer that is one: no such
	// host, refused, timed out, cut off, or an HTTP error.
	ErrUnreachable = errors.New("source unreachable")
	// ErrRefused says that the source answered and that the answer is not
	// trusted: signature, expiry, an older version, length or hash.
	ErrRefused = errors.New("answer of the source refused")
	// ErrNoSpace says that the agent's state directory has not enough room. It
	// wraps syscall.ENOSPC.
	ErrNoSpace = fmt.Errorf("not enough space: %w", syscall.ENOSPC)
	// ErrNotWritable says that the agent's state directory may not be written.
	ErrNotWritable = errors.New("not writable")
)

// Problem is an error with a source: what went wrong where, what was expected,
// and what can be done. It wraps ErrUnreachable or ErrRefused, and the cause.
type Problem struct {
	URL      string // without its password
	Found    string
	Expected string // "" if that goes without saying
	Advice   string // what to do
	// RetryAfter is how long the server asked to be left alone; 0 if it did not.
	RetryAfter time.Duration

	kind  error
	cause error
}

func (p *Problem) Error() string {
	s := p.URL + ": " + p.Found
	if p.Expected != "" {
		s += ": expected " + p.Expected
	}
	return s
}

// Unwrap gives the sentinel, and the cause if there is one.
func (p *Problem) Unwrap() []error {
	if p.cause == nil {
		return []error{p.kind}
	}
	return []error{p.kind, p.cause}
}

// Hint says what can be done.
func (p *Problem) Hint() string { return p.Advice }

// unwritable adds the sentinel to an error of the state directory.
func unwritable(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrNoSpace), errors.Is(err, ErrNotWritable):
		return err
	case fsys.IsNoSpace(err):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case fsys.IsNotWritable(err):
		return fmt.Errorf("%w: %w", ErrNotWritable, err)
	}
	return err
}

// list joins names for a message.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
