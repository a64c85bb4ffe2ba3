// Package backup keeps two sides in step: it decides which one the other
// follows, captures configuration, merges it, installs releases and returns to
// earlier ones. What it finds comes from backup/tree, what it changes goes
// through backup/change; the decision between is a pure function.
package backup

import (
	"errors"
	"fmt"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/fsys"
)

// The words of backup/manifest that others know by this package.
type (
	// Path is the name of an entry below apps/.
	Path = manifest.Path
	// Manifest is the list of a version's application files.
	Manifest = manifest.Manifest
)

// SideName names one of the two homes of the application.
type SideName string

// The two sides.
const (
	System  SideName = "system"   // live: the application runs from it
	UsrData SideName = "usr_data" // backup
)

// Other returns the other side.
func (n SideName) Other() SideName {
	if n == System {
		return UsrData
	}
	return System
}

// Side is one of the two homes of the application.
type Side struct {
	Name SideName
	FS   fsys.FS // rooted at the side's path
	// Ready makes sure that the side can be used: mounted, there. Its error
	// wraps ErrUnavailable. nil means always ready.
	Ready func() error
	// Mounted opens apps where another file system is mounted there: it can be
	// looked at and backed up then, but not changed. nil means never.
	Mounted func() (fsys.FS, error)

	known bool  // newer was looked for
	newer error // what keeps our hands off it: a newer Tandem's files, or a mount in their place; nil for nothing
}

// NewSide is a side on fs that is always ready. A file that fs cannot give at
// the first try is asked for again before it counts as damage.
func NewSide(name SideName, fs fsys.FS) *Side { return &Side{Name: name, FS: fsys.ReadAgain(fs)} }

// ready makes sure that the side can be used, and that all of our files on it are its own,
// and of formats that this Tandem knows: else the error wraps ErrUnavailable, or is a
// *record.NewerError, and the side is left alone.
func (s *Side) ready() error {
	if s.Ready != nil {
		if err := s.Ready(); err != nil {
			return err
		}
	}
	if !s.known {
		own, err := s.FS.Lstat(change.OwnDir)
		switch {
		case err == nil && own.Mount: // it would be lost with the mount, or hide what is below
			err = fmt.Errorf("%w: %s: something is mounted at %s: unmount it", ErrUnavailable, s.Name, s.FS.Path(change.OwnDir))
		case !fsys.IsTransient(err):
			err = change.Newer(s.FS)
		}
		if fsys.IsTransient(err) {
			return sideError(s, err)
		}
		s.known, s.newer = true, err
		if errors.Is(err, ErrNewer) {
			s.newer = sideError(s, err)
		}
	}
	return s.newer
}

// usable reports whether a side can be used, as ready does: the error is for what
// must not be passed over.
func (s *Side) usable() (bool, error) {
	err := s.ready()
	if errors.Is(err, ErrNewer) || fsys.IsTransient(err) {
		return false, err
	}
	return err == nil, nil
}

func (s *Side) live() bool { return s.Name == System }

// The outcomes that are not a change. The program gives each an exit code of
// its own.
var (
	ErrNoApplication = errors.New("no application on either side")
	ErrDamage        = errors.New("damage remains")
	ErrUnavailable   = errors.New("a side cannot be used")
	ErrNoSpace       = change.ErrNoSpace
	ErrBlocked       = change.ErrBlocked
	ErrNewer         = record.ErrNewer
	// ErrBusy says that configuration could not be captured, because it never
	// came to rest: its directory keeps the capture that it had.
	ErrBusy = errors.New("not captured")
	// ErrTooLarge says that usr_data has no room for some configuration, and has all
	// else. It wraps ErrNoSpace.
	ErrTooLarge = fmt.Errorf("%w for all configuration", ErrNoSpace)
)

// SpaceError says how much room a change needs and how much there is.
type SpaceError = change.SpaceError

// sideError adds the side and what the failure means for it.
func sideError(s *Side, err error) error {
	if err == nil {
		return nil
	}
	var space *SpaceError
	switch {
	case errors.As(err, &space), errors.Is(err, ErrUnavailable), errors.Is(err, ErrBlocked):
		return fmt.Errorf("%s: %w", s.Name, err)
	case fsys.IsNoSpace(err):
		return fmt.Errorf("%s: %w: %w", s.Name, ErrNoSpace, err)
	case fsys.IsNotWritable(err):
		return fmt.Errorf("%s: %w: not writable: %w", s.Name, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", s.Name, err)
}
