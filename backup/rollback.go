package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/digest"
	"tandem/versioning"
)

// ErrNothingToReturnTo says that no other version is kept on this device.
var ErrNothingToReturnTo = errors.New("nothing to return to")

// keptVersion is a version that the device could return to.
type keptVersion struct {
	record *record.Record
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
	in := newInspector(r, Options{})
	system, usrData, err := in.look(ctx, r.System, r.UsrData)
	if err != nil {
		return from, now, err
	}
	for _, s := range []*Snapshot{system, usrData} {
		if s.err != nil {
			return from, now, unusable(s)
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
	back := kept.record.Manifest.Version
	stop(system.Version, back)
	rest := versioning.Without(bad, back)
	if len(rest) < len(bad) { // first, or a cut between the sides would leave both versions revoked
		if err := r.setRevoked(rest); err != nil {
			return system.Version, now, err
		}
	}
	if err := r.setRevoked(append(rest, system.Version)); err != nil {
		return system.Version, now, err
	}
	return system.Version, back, r.returnTo(ctx, in, system, usrData, kept)
}

// kept finds the version to return to: the one named, or the highest that is
// kept, whole, and not revoked; the one that the version on system was installed
// over counts, revoked or not, until that is confirmed. Another build of the
// version on system is none: it would be revoked with it. usr_data's own version
// counts, too: it is what the device returns to while a backup is held back.
func (r *Reconciler) kept(ctx context.Context, in *inspector, system, usrData *Snapshot, bad []versioning.Version, to versioning.Version) (*keptVersion, error) {
	pending, err := r.Pending()
	if err != nil {
		return nil, err
	}
	var found *record.Record
	consider := func(k *record.Record) {
		v := k.Manifest.Version
		before := pending != nil && v.String() == pending.Previous.String()
		switch {
		case v.Compare(system.Version) == 0:
		case !to.IsZero() && v.String() != to.String():
		case to.IsZero() && v.In(bad) && !before:
		case found == nil || before || v.Compare(found.Manifest.Version) > 0 && (pending == nil || found.Manifest.Version.String() != pending.Previous.String()):
			found = k
		}
	}
	if usrData.State == Intact {
		consider(usrData.facts.Basis)
	}
	src := in.sources(system, usrData)
	for _, side := range r.sides() {
		k, err := in.previous(ctx, side, system, src)
		if err != nil {
			return nil, sideError(side, err)
		}
		if k != nil {
			consider(k)
		}
	}
	switch {
	case found != nil:
		return &keptVersion{found}, nil
	case to.IsZero():
		return nil, fmt.Errorf("%w: no other version is kept whole on this device", ErrNothingToReturnTo)
	}
	return nil, fmt.Errorf("%w: %s is not kept whole on this device", ErrNothingToReturnTo, to)
}

// previous returns the record of the version that a side keeps for a rollback;
// nil if there is none, or its application files are not all to be had.
// Configuration that is nowhere any more is as system has it now.
func (in *inspector) previous(ctx context.Context, side *Side, system *Snapshot, src *sources) (*record.Record, error) {
	if side.ready() != nil {
		return nil, nil
	}
	r, _, err := record.Load(side.FS, path.Join(change.PreviousDir, path.Base(change.RecordFile)), in.known)
	if errors.Is(err, manifest.ErrInvalid) || errors.Is(err, record.ErrNewer) || r == nil && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k := *r
	gone := map[Path]*manifest.Entry{}
	for e := range r.Entries() {
		if e.Type != manifest.File {
			continue
		}
		from, whole := src.find(side.Name, e)
		if whole && from.node == nil {
			if whole, err = in.whole(ctx, from, *e.SHA256); err != nil {
				return nil, err
			}
		}
		if whole {
			continue
		}
		if !r.Captures(e) {
			return nil, nil
		}
		gone[e.Path] = nil
		if now := system.facts.Has(e.Path); now != nil && now.Type == manifest.File {
			gone[e.Path] = now
		}
	}
	k.Config = overlay(k.Config, gone)
	dropOrphans(&k)
	k.Revision = max(k.Revision, 1)
	return &k, nil
}

// whole reports whether what is kept for a rollback is whole: it is read, since
// nothing else ever does.
func (in *inspector) whole(ctx context.Context, from source, want digest.SHA256) (bool, error) {
	f, err := from.fs.Open(from.name)
	var sum digest.SHA256
	if err == nil {
		defer f.Close()
		sum, _, err = digest.OfReader(inContext{ctx, f}, in.buf)
	}
	if err != nil && tree.Means(err) == tree.Nothing {
		return false, err
	}
	if err != nil || sum != want {
		in.badKept[kept{from.side, want}] = true
		return false, nil
	}
	return true, nil
}

// inContext ends a long read when its context does.
type inContext struct {
	ctx context.Context
	r   io.Reader
}

func (c inContext) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// returnTo commits a version that is kept on system.
func (r *Reconciler) returnTo(ctx context.Context, in *inspector, system, usrData *Snapshot, kept *keptVersion) error {
	bad, err := r.Revoked()
	if err != nil {
		return err
	}
	if v := kept.record.Manifest.Version; v.In(bad) { // it was, by the installation that is taken back
		if err := r.setRevoked(versioning.Without(bad, v)); err != nil {
			return err
		}
	}
	d := &desired{record: kept.record}
	w, err := in.plan(r.System, system, d, UsrData)
	if err != nil {
		return sideError(r.System, err)
	}
	w.plan.Tag = true
	src := in.sources(system, usrData)
	if w.change, err = change.Begin(r.System.FS, w.plan, in.buf); err != nil {
		return sideError(r.System, err)
	}
	if err := r.fill(ctx, w, src); err != nil {
		return errors.Join(sideError(r.System, err), w.change.Discard())
	}
	_, err = r.commit(ctx, in, w, d, src, &Result{})
	return sideError(r.System, err)
}
