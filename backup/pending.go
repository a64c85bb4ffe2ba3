package backup

import (
	"errors"

	"tandem/internal/fsys"
	"tandem/versioning"
)

// maxPending bounds pending.json in bytes.
const maxPending = 1 << 16

// Pending is a version that is installed and not yet confirmed healthy.
type Pending struct {
	Version  versioning.Version `json:"version"`
	Previous versioning.Version `json:"previous"` // zero if there was none
	Starts   int                `json:"starts"`   // boots since it was installed
}

// Pending gives the version that waits to be confirmed; nil if none does.
// What a side says of a version that system does not have is left over, and
// counts for nothing.
func (r *Reconciler) Pending() (*Pending, error) {
	if r.System.ready() != nil {
		return nil, nil
	}
	tag, err := versioning.ReadTag(r.System.FS, tagFile)
	if err != nil {
		return nil, nil
	}
	if c, err := loadCommit(r.System.FS); err == nil && c != nil {
		tag = c.Version
	}
	for _, s := range r.sides() {
		if s.ready() != nil {
			continue
		}
		data, err := readSealed(s.FS, pendingFile, maxPending)
		if err != nil && !errors.Is(err, ErrInvalid) {
			return nil, sideError(s, err)
		}
		var p Pending
		switch err := unseal("pending", data, &p); {
		case data == nil, errors.Is(err, ErrInvalid): // the other side has it too
		case err != nil:
			return nil, sideError(s, err)
		case p.Version.String() == tag.String():
			return &p, nil
		}
	}
	return nil, nil
}

// SetPending durably remembers, on both sides, that a version waits to be
// confirmed.
//
// After an error or a power cut one side may have it already, the other one
// still what it had before; the system side, which comes first, decides.
func (r *Reconciler) SetPending(p Pending) error {
	data, err := seal("pending", p)
	if err != nil {
		return err
	}
	for _, s := range r.sides() {
		if err := s.ready(); err != nil {
			return err
		}
		err := ownPlace(s.FS, pendingFile)
		if err == nil {
			err = fsys.WriteFile(s.FS, pendingFile, data, 0o644)
		}
		if err == nil {
			err = s.FS.SyncDir(".")
		}
		if err != nil {
			return sideError(s, err)
		}
	}
	return nil
}

// ClearPending durably forgets it, on both sides. After an error or a power
// cut it may still be there.
func (r *Reconciler) ClearPending() error {
	for _, s := range r.sides() {
		if err := s.ready(); err != nil {
			return err
		}
		if _, err := s.FS.Lstat(pendingFile); err != nil {
			if fsys.IsNotExist(err) {
				continue
			}
			return sideError(s, err)
		}
		err := fsys.RemoveAll(s.FS, pendingFile)
		if err == nil {
			err = s.FS.SyncDir(ownDir)
		}
		if err != nil {
			return sideError(s, err)
		}
	}
	return nil
}
