package repository

import (
	"errors"
	"fmt"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// ErrSame says that a rotation would change nothing.
var ErrSame = errors.New("nothing to change")

// StageRotate returns the change after which exactly the keys of add sign for
// role, threshold of them together; 0 keeps the present threshold. Nothing is
// written before Apply.
//
// For root, or where what is in force is signed well enough already, that is
// one new root. Otherwise it is two: with the first the old keys and the new
// ones are valid, so that what is in force can be signed anew, and with the
// second the new ones alone. Devices accept the repository after each step,
// and no old key of the role is needed, which may be lost.
//
// With the same keys and threshold only root can be rotated: that makes it
// valid for longer. For another role the error wraps ErrSame.
func (r *Repository) StageRotate(role string, add []*metadata.Key, threshold int) (*Change, error) {
	if !slices.Contains(roles(), role) {
		return nil, fmt.Errorf("role %.40q: expected root, targets, snapshot or timestamp", role)
	}
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	old := s.root.Metadata().Signed.Roles[role]
	if threshold == 0 {
		threshold = old.Threshold
	}
	last, err := r.successor(s.root.Metadata())
	if err != nil {
		return nil, err
	}
	if err := setKeys(last, role, add, threshold); err != nil {
		return nil, err
	}
	if role != metadata.ROOT && sameKeys(last.Signed.Roles[role], old) {
		return nil, fmt.Errorf("%s has these keys and this threshold: %w", role, ErrSame)
	}
	if role == metadata.ROOT || signedAlready(s, role, last) {
		return r.change(s, []*metadata.Metadata[metadata.RootType]{last}, nil)
	}
	first, err := r.successor(s.root.Metadata())
	if err != nil {
		return nil, err
	}
	for _, key := range add {
		if err := first.Signed.AddKey(key, role); err != nil {
			return nil, err
		}
	}
	first.Signed.Roles[role].Threshold = min(old.Threshold, threshold)
	last.Signed.Version++
	var targets *metadata.Metadata[metadata.TargetsType]
	if role == metadata.TARGETS {
		targets = r.next(s)
	}
	return r.change(s, []*metadata.Metadata[metadata.RootType]{first, last}, targets)
}

// successor returns a root with the content of root as the next version, without
// a signature.
func (r *Repository) successor(root *metadata.Metadata[metadata.RootType]) (*metadata.Metadata[metadata.RootType], error) {
	raw, err := root.ToBytes(false)
	if err != nil {
		return nil, err
	}
	next, err := new(metadata.Metadata[metadata.RootType]).FromBytes(raw)
	if err != nil {
		return nil, err
	}
	next.ClearSignatures()
	next.Signed.Version++
	next.Signed.Expires = r.expires(r.expiry.Root)
	return next, nil
}

// setKeys makes keys those of role, and no others.
func setKeys(root *metadata.Metadata[metadata.RootType], role string, keys []*metadata.Key, threshold int) error {
	if len(keys) == 0 {
		return fmt.Errorf("no new key for %s", role)
	}
	for _, id := range slices.Clone(root.Signed.Roles[role].KeyIDs) {
		if err := root.Signed.RevokeKey(id, role); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if err := root.Signed.AddKey(key, role); err != nil {
			return fmt.Errorf("%s key: %w", role, err)
		}
	}
	return setThreshold(root, Threshold{role, threshold})
}

func sameKeys(a, b *metadata.Role) bool {
	if a.Threshold != b.Threshold || len(a.KeyIDs) != len(b.KeyIDs) {
		return false
	}
	return !slices.ContainsFunc(a.KeyIDs, func(id string) bool { return !slices.Contains(b.KeyIDs, id) })
}

// signedAlready reports whether what is in force of role carries the signatures
// that root, which need not be signed itself, asks for.
func signedAlready(s *state, role string, root *metadata.Metadata[metadata.RootType]) bool {
	switch role {
	case metadata.TARGETS:
		return root.VerifyDelegate(role, s.targets) == nil
	case metadata.SNAPSHOT:
		return root.VerifyDelegate(role, s.snapshot) == nil
	}
	return root.VerifyDelegate(role, s.timestamp) == nil
}
