package backup

import (
	"encoding/json"
	"errors"
	"slices"
	"sort"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// What else lies on both sides: the versions that are revoked, the releases whose
// recall is done with, and the version that waits to be confirmed.

// Bounds of these files, in bytes.
const (
	maxRecalls = 100 // releases, the newest
	maxRevoked = 1 << 20
	maxPending = 1 << 16
)

// revoked is the content of revoked.json.
type revoked struct {
	Versions []versioning.Version `json:"versions"`
	// Recalls are releases whose recall counts for nothing here any more, oldest
	// first: the device has returned from them once, or a person has installed them
	// all the same.
	Recalls []digest.SHA256 `json:"recalls,omitempty"`
}

// Pending is a version that is installed and not yet confirmed healthy.
type Pending struct {
	Version  versioning.Version `json:"version"`
	Previous versioning.Version `json:"previous"` // zero if there was none
	Starts   int                `json:"starts"`   // boots since it was installed
	// Failed says why it is given up: then the version before is about to come back.
	Failed string `json:"failed,omitempty"`
}

// loadPending reads pending.json. One that is damaged counts as missing: the other
// side has it too.
func (s *Side) loadPending() (p Pending, there bool, err error) {
	there, err = record.ReadJSON(s.FS, "pending", change.PendingFile, maxPending, &p)
	if errors.Is(err, manifest.ErrInvalid) {
		return p, false, nil
	}
	return p, there, sideError(s, err)
}

// listRevoked reads revoked.json, and reports whether it is there and whole.
func (s *Side) listRevoked() (list revoked, whole bool, err error) {
	whole, err = record.ReadJSON(s.FS, "revoked", change.RevokedFile, maxRevoked, &list)
	if errors.Is(err, manifest.ErrInvalid) {
		return revoked{}, false, nil
	}
	return list, whole, sideError(s, err)
}

// salvageRevoked reads what can be made out of a damaged revoked.json.
func (s *Side) salvageRevoked() (list revoked, err error) {
	var found struct{ Versions, Recalls []string }
	body, err := record.Salvage(s.FS, change.RevokedFile, maxRevoked)
	if err != nil || json.Unmarshal(body, &found) != nil {
		return list, err
	}
	for _, text := range found.Versions {
		if v, err := versioning.Parse(text); err == nil {
			list.Versions = append(list.Versions, v)
		}
	}
	for _, text := range found.Recalls {
		if sum, err := digest.Parse(text); err == nil {
			list.Recalls = append(list.Recalls, sum)
		}
	}
	return list, nil
}

// saveOwn durably writes a file of ours on both sides, system first. After an
// error or a power cut some sides may have it.
func (r *Reconciler) saveOwn(kind, name string, body any) error {
	data, err := r.By.Seal(kind, body)
	if err != nil {
		return err
	}
	if err := r.ready(); err != nil {
		return err
	}
	for _, s := range r.sides() {
		if err := change.WriteOwn(s.FS, name, data); err != nil {
			return sideError(s, err)
		}
	}
	return nil
}

// ready makes sure that both sides can be used.
func (r *Reconciler) ready() error {
	for _, s := range r.sides() {
		if err := s.ready(); err != nil {
			return err
		}
	}
	return nil
}

// Known makes sure that nothing on either side was made by a newer Tandem: the error
// wraps ErrNewer else. A side that cannot be used is passed over.
func (r *Reconciler) Known() error {
	for _, s := range r.sides() {
		if _, err := s.usable(); err != nil {
			return err
		}
	}
	return nil
}

// loadRevoked returns what either side has. Where neither side has a whole list, what
// can be made out of the damaged ones counts: a version that was taken back never comes
// again for a bit that flipped.
func (r *Reconciler) loadRevoked() (revoked, error) {
	var all revoked
	add := func(list revoked) {
		for _, v := range list.Versions {
			if !v.In(all.Versions) {
				all.Versions = append(all.Versions, v)
			}
		}
		for _, sum := range list.Recalls {
			if !slices.Contains(all.Recalls, sum) {
				all.Recalls = append(all.Recalls, sum)
			}
		}
	}
	whole := false
	var there []*Side
	for _, s := range r.sides() {
		ok, err := s.usable()
		if err != nil {
			return all, err
		}
		if !ok {
			continue
		}
		there = append(there, s)
		list, is, err := s.listRevoked()
		if err != nil {
			return all, err
		}
		whole = whole || is
		add(list)
	}
	if !whole {
		for _, s := range there {
			list, err := s.salvageRevoked()
			if err != nil {
				return all, err
			}
			add(list)
		}
	}
	sort.Slice(all.Versions, func(i, j int) bool { return all.Versions[i].Compare(all.Versions[j]) < 0 })
	return all, nil
}

// Revoked returns the versions that are revoked on either side.
func (r *Reconciler) Revoked() ([]versioning.Version, error) {
	all, err := r.loadRevoked()
	return all.Versions, err
}

// Returned reports whether the recall of a release counts for nothing here any
// more: the device has returned from it once, or a person has installed it all the
// same.
func (r *Reconciler) Returned(sum digest.SHA256) (bool, error) {
	all, err := r.loadRevoked()
	return slices.Contains(all.Recalls, sum), err
}

// Revoke durably marks versions as revoked, on both sides.
//
// After success neither survives on its own without the mark. After an error
// or a power cut some sides may have it; that is enough for it to hold.
func (r *Reconciler) Revoke(versions ...versioning.Version) error {
	all, err := r.Revoked()
	if err != nil {
		return err
	}
	for _, v := range versions {
		if !v.In(all) {
			all = append(all, v)
		}
	}
	return r.setRevoked(all)
}

// Unrevoke durably takes the mark from a version, on both sides.
func (r *Reconciler) Unrevoke(v versioning.Version) error {
	bad, err := r.Revoked()
	if err != nil {
		return err
	}
	return r.setRevoked(versioning.Without(bad, v))
}

// setRevoked replaces the versions that are revoked, and notes releases whose
// recall is done with.
func (r *Reconciler) setRevoked(versions []versioning.Version, recalls ...digest.SHA256) error {
	all, err := r.loadRevoked()
	if err != nil {
		return err
	}
	for _, sum := range recalls {
		if !slices.Contains(all.Recalls, sum) {
			all.Recalls = append(all.Recalls, sum)
		}
	}
	all.Recalls = all.Recalls[max(0, len(all.Recalls)-maxRecalls):]
	return r.saveOwn("revoked", change.RevokedFile, revoked{versions, all.Recalls})
}

// shareRevoked gives each side what the other one knows to be revoked.
func (r *Reconciler) shareRevoked() error {
	all, err := r.loadRevoked()
	if err != nil || len(all.Versions)+len(all.Recalls) == 0 {
		return err
	}
	for _, s := range r.sides() {
		list, _, err := s.listRevoked()
		if err != nil {
			return err
		}
		if len(list.Versions) < len(all.Versions) || len(list.Recalls) < len(all.Recalls) {
			return r.setRevoked(all.Versions)
		}
	}
	return nil
}

// Pending returns the version that waits to be confirmed; nil if none does.
// What a side says of a version that system does not have is left over, and
// counts for nothing.
func (r *Reconciler) Pending() (*Pending, error) {
	if ok, err := r.System.usable(); !ok {
		return nil, err
	}
	tag, err := versioning.ReadTag(r.System.FS, change.TagFile)
	if fsys.IsTransient(err) {
		return nil, sideError(r.System, err)
	}
	u, err := change.Pending(r.System.FS, nil)
	if err != nil {
		return nil, sideError(r.System, err)
	}
	if u != nil {
		tag = u.Version
	}
	for _, s := range r.sides() {
		ok, err := s.usable()
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		p, there, err := s.loadPending()
		if err != nil {
			return nil, err
		}
		if there && p.Version.String() == tag.String() {
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
	return r.saveOwn("pending", change.PendingFile, p)
}

// GiveUp durably notes why the version that waits to be confirmed is given up. Until
// ClearPending GivenUp tells, whatever else is cut off.
func (r *Reconciler) GiveUp(why string) error {
	p, err := r.Pending()
	if err != nil || p == nil {
		return err
	}
	p.Failed = why
	return r.SetPending(*p)
}

// GivenUp returns the version that was given up last, and why; nil if that is over.
// Unlike with Pending it may have been left already.
func (r *Reconciler) GivenUp() *Pending {
	for _, s := range r.sides() {
		if ok, err := s.usable(); err != nil || !ok {
			continue
		}
		if p, there, err := s.loadPending(); err == nil && there && p.Failed != "" {
			return &p
		}
	}
	return nil
}

// ClearPending durably forgets it, on both sides. After an error or a power
// cut it may still be there.
func (r *Reconciler) ClearPending() error {
	if err := r.ready(); err != nil {
		return err
	}
	for _, s := range r.sides() {
		if _, err := s.FS.Lstat(change.PendingFile); err != nil {
			if fsys.IsNotExist(err) {
				continue
			}
			return sideError(s, err)
		}
		err := fsys.RemoveAll(s.FS, change.PendingFile)
		if err == nil {
			err = s.FS.SyncDir(change.OwnDir)
		}
		if err != nil {
			return sideError(s, err)
		}
	}
	return nil
}
