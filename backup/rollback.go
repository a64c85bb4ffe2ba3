package backup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"tandem/internal/fsys"
	"tandem/versioning"
)

// ErrNothingToReturnTo says that no other version is kept on this device.
var ErrNothingToReturnTo = errors.New("nothing to return to")

// previous takes a snapshot of the version that a side keeps for a rollback,
// every byte read. nil if there is none, or none that has a name.
func (in *inspector) previous(ctx context.Context, side *Side) (*Snapshot, error) {
	if side.ready() != nil {
		return nil, nil
	}
	s := &Snapshot{Side: side.Name, Path: side.FS.Path(prevDir), bad: map[Path]ProblemKind{}, edited: map[Path]bool{}, busy: map[Path]bool{}}
	var err error
	if s.Version, err = versioning.ReadTag(side.FS, path.Join(prevDir, tagFile)); err != nil {
		return nil, nil
	}
	if s.own, s.ownSum, err = in.loadRecord(side.FS, path.Join(prevDir, path.Base(recordFile))); err != nil {
		s.Detail = err.Error()
	}
	if s.tree, err = scan(ctx, side.FS, app(prevDir, ""), s.own); fsys.IsNotExist(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	full := *in
	full.full = true
	if err := full.judge(ctx, s, &Snapshot{State: Absent}); err != nil {
		return nil, err
	}
	if !s.usable() {
		return nil, nil
	}
	return s, nil
}

// Rollback leaves the version on system for the one that was there before, or
// for the version named: it revokes the present one, on both sides, then
// commits the other one on system. The backup is Reconcile's. Configuration
// comes back as it was in that version.
//
// After success system is the version it returns, also after a power cut.
// After an error or a power cut the present version may be revoked already;
// then the next Reconcile carries the rollback through. The error wraps
// ErrNothingToReturnTo if no such version is kept here. stop is called before
// anything is changed, with the version that goes and the one that comes back.
func (r *Reconciler) Rollback(ctx context.Context, to versioning.Version, stop func(from, now versioning.Version)) (from, now versioning.Version, err error) {
	if _, err := r.Recover(); err != nil {
		return from, now, err
	}
	in := newInspector(r.now(), Options{})
	system, usrData, err := in.look(ctx, r.System, r.UsrData)
	if err != nil {
		return from, now, err
	}
	for _, s := range []*Snapshot{system, usrData} {
		if s.State == Unavailable {
			return from, now, fmt.Errorf("%w: %s", ErrUnavailable, s.Detail)
		}
	}
	if !system.usable() {
		return from, now, fmt.Errorf("%w: %s is %s", ErrNoApplication, System, system.State)
	}
	bad, err := r.Revoked()
	if err != nil {
		return from, now, err
	}
	kept, err := r.kept(ctx, in, system, usrData, bad, to)
	if err != nil {
		return system.Version, now, err
	}
	stop(system.Version, kept.Version)
	rest := versioning.Without(bad, kept.Version)
	if len(rest) < len(bad) { // first, or a cut between the sides would leave both versions revoked
		if err := r.setRevoked(rest); err != nil {
			return system.Version, now, err
		}
	}
	if err := r.setRevoked(append(rest, system.Version)); err != nil {
		return system.Version, now, err
	}
	return system.Version, kept.Version, r.returnTo(ctx, in, system, usrData, kept)
}

// kept finds the version to return to: the one named, or the highest that is
// kept, whole, and not revoked. Another build of the version on system is none:
// it would be revoked with it. usr_data's own version counts, too: it is what
// the device returns to while a backup is held back.
func (r *Reconciler) kept(ctx context.Context, in *inspector, system, usrData *Snapshot, bad []versioning.Version, to versioning.Version) (*Snapshot, error) {
	var found *Snapshot
	consider := func(s *Snapshot) {
		switch {
		case s == nil || !s.usable() || s.State != Intact || s.Version.Compare(system.Version) == 0:
		case !to.IsZero() && s.Version.String() != to.String():
		case to.IsZero() && s.Version.In(bad):
		case found == nil || s.Version.Compare(found.Version) > 0:
			found = s
		}
	}
	consider(usrData)
	for _, side := range r.sides() {
		s, err := in.previous(ctx, side)
		if err != nil {
			return nil, sideError(side, err)
		}
		consider(s)
	}
	switch {
	case found != nil:
		return found, nil
	case to.IsZero():
		return nil, fmt.Errorf("%w: no other version is kept whole on this device", ErrNothingToReturnTo)
	}
	return nil, fmt.Errorf("%w: %s is not kept whole on this device", ErrNothingToReturnTo, to)
}

// returnTo commits a version that is kept on system.
func (r *Reconciler) returnTo(ctx context.Context, in *inspector, system, usrData, kept *Snapshot) error {
	record, err := in.withEdits(ctx, kept)
	if err != nil {
		return err
	}
	st, err := planStaging(ctx, r.System, system, record, in.buf)
	if err != nil {
		return err
	}
	if kept.Side == System {
		if err := st.linkFrom(ctx, kept); err != nil {
			return err
		}
	}
	src := newSources(system, usrData, kept)
	st.dropUnmendable(src)
	if err = st.begin(); err == nil {
		err = st.fill(ctx, src)
	}
	if err != nil {
		_ = st.discard() // makes room; where it fails, recovery does it
		return sideError(r.System, err)
	}
	_, err = st.seal(ctx)
	return sideError(r.System, err)
}

// withEdits is the record of a version with its configuration as it is, be it
// captured or not.
func (in *inspector) withEdits(ctx context.Context, s *Snapshot) (*Record, error) {
	edits, err := in.entriesOf(ctx, s, s.Edited)
	if err != nil {
		return nil, err
	}
	r := &Record{Manifest: s.basis.Manifest, Revision: max(s.basis.Revision, 1)}
	for _, e := range s.basis.Config {
		if !s.edited[e.Path] {
			r.Config = append(r.Config, e)
		}
	}
	if len(edits) > 0 {
		r.Config = append(r.Config, edits...)
		r.Revision++
	}
	slices.SortFunc(r.Config, byPath)
	dropOrphans(r)
	return r, nil
}

// resumeRollback carries a rollback through that a power cut came into: the
// version on system is revoked, and one that is not is kept. It says whether
// it did.
func (r *Reconciler) resumeRollback(ctx context.Context, in *inspector, res *Result) (bool, error) {
	bad, err := r.Revoked()
	if err != nil || !res.System.usable() || !res.Version.In(bad) {
		return false, err
	}
	kept, err := r.kept(ctx, in, res.System, res.UsrData, bad, versioning.Version{})
	if errors.Is(err, ErrNothingToReturnTo) {
		return false, nil // a revoked version is better than none
	}
	if err != nil {
		return false, err
	}
	r.Log.WithField("version", kept.Version).Warn("the installed version is revoked; returning to the one before")
	return true, r.returnTo(ctx, in, res.System, res.UsrData, kept)
}

// Unrevoke durably takes the mark from a version, on both sides.
func (r *Reconciler) Unrevoke(v versioning.Version) error {
	bad, err := r.Revoked()
	if err != nil {
		return err
	}
	return r.setRevoked(versioning.Without(bad, v))
}
