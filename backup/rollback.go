package backup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// ErrNothingToReturnTo says that no other version is kept on this device.
var ErrNothingToReturnTo = errors.New("nothing to return to")

// Rollback leaves the version on system for the one that was there before, or
// for the version named: it revokes the present one, on both sides, then
// commits the other one on system. The backup is Reconcile's. Configuration
// comes back as it was in that version.
//
// After success system is the version it returns, also after a power cut.
// After an error or a power cut the present version may be revoked already;
// then the next Reconcile carries the rollback through. The error wraps
// ErrNothingToReturnTo if no such version is kept here, ErrBlocked or ErrNoSpace if it
// cannot be put in place: nothing is changed then. stop is called before
// anything is changed, with the version that goes and the one that comes back.
func (r *Reconciler) Rollback(ctx context.Context, to versioning.Version, stop func(from, now versioning.Version)) (from, now versioning.Version, err error) {
	if _, err := r.Recover(); err != nil {
		return from, now, err
	}
	l, err := r.leave(ctx, func(bad []versioning.Version) wish { return wish{to: to, bad: bad} })
	if l == nil || err != nil {
		return l.from(), now, err
	}
	if err := l.wayFree(l.system, l.usrData, l.to); err != nil {
		return l.from(), now, err
	}
	stop(l.from(), l.back())
	if err := l.revoke(); err != nil {
		return l.from(), now, err
	}
	return l.from(), l.back(), l.commit(ctx)
}

// Withdrawal says from which release a device returns, and where to.
type Withdrawal struct {
	Release digest.SHA256        // that runs
	To      versioning.Version   // to return to; zero: the highest that is kept
	Never   []versioning.Version // not to be returned to, beside those that are revoked
	Pending bool                 // the version that comes back is to be confirmed
}

// ErrOtherRelease says that the release to be left does not run.
var ErrOtherRelease = errors.New("another release runs")

// Withdraw leaves a release that its publisher recalled, as Rollback does, but never
// for a version that is revoked; that recall is done with then, also if the release
// comes back. With Pending the version that it returns to waits to be confirmed, and
// what was left is what a rollback goes back to.
//
// agree is asked before anything is changed, stop called before the commit; an error
// of either ends it. After success system is the version it returns, also after a
// power cut. After an error or a power cut the release may be revoked already; then
// the next Reconcile carries it through. The version that was left stays kept as
// long as there is room. The error wraps ErrOtherRelease, or ErrNothingToReturnTo.
func (r *Reconciler) Withdraw(ctx context.Context, wd Withdrawal, agree, stop func(from, now versioning.Version) error) (from, now versioning.Version, err error) {
	if _, err := r.Recover(); err != nil {
		return from, now, err
	}
	l, err := r.withdraw(ctx, wd)
	if err != nil {
		return l.from(), now, err
	}
	for _, ask := range []func(from, now versioning.Version) error{agree, stop} {
		if err := ask(l.from(), l.back()); err != nil {
			return l.from(), now, err
		}
	}
	pending, err := r.Pending()
	if err != nil {
		return l.from(), now, err
	}
	// A version that waits to be confirmed is revoked first: it must not be without
	// that mark and without a watch. Else the watch comes first, so that the version
	// that comes back never runs without.
	steps := []func() error{
		func() error { return r.SetPending(Pending{Version: l.back(), Previous: l.from()}) },
		func() error { return l.revoke(wd.Release) },
	}
	switch {
	case !wd.Pending:
		steps = steps[1:]
	case pending != nil:
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return l.from(), now, err
		}
	}
	return l.from(), l.back(), l.commit(ctx)
}

// CanWithdraw returns the version that Withdraw would return to. It changes
// nothing, and its error wraps what that of Withdraw does.
func (r *Reconciler) CanWithdraw(ctx context.Context, wd Withdrawal) (versioning.Version, error) {
	l, err := r.withdraw(ctx, wd)
	if err != nil {
		return versioning.Version{}, err
	}
	return l.back(), nil
}

// CanReturn returns the version that Rollback would return to. It changes nothing, and
// its error wraps what that of Rollback does.
func (r *Reconciler) CanReturn(ctx context.Context, to versioning.Version) (versioning.Version, error) {
	l, err := r.leave(ctx, func(bad []versioning.Version) wish { return wish{to: to, bad: bad} })
	if err != nil {
		return versioning.Version{}, err
	}
	return l.back(), nil
}

// withdraw is leave for a release that is recalled.
func (r *Reconciler) withdraw(ctx context.Context, wd Withdrawal) (*leaving, error) {
	l, err := r.leave(ctx, func(bad []versioning.Version) wish {
		return wish{to: wd.To, bad: bad, never: append(slices.Clone(bad), wd.Never...)}
	})
	if l != nil && l.system.Release != wd.Release {
		return l, fmt.Errorf("%w: %s is not the one that was recalled", ErrOtherRelease, l.from())
	}
	return l, err
}

// leaving is a version that is about to be left for another one that is kept.
type leaving struct {
	*job
	system, usrData *Snapshot
	bad             []versioning.Version // revoked so far
	to              *record.Record
}

func (l *leaving) from() versioning.Version {
	if l == nil {
		return versioning.Version{}
	}
	return l.system.Version
}

func (l *leaving) back() versioning.Version { return l.to.Manifest.Version }

// revoke durably revokes the version that is left, on both sides, and not the one
// that comes back. The recall of a release that is named is done with.
func (l *leaving) revoke(recalled ...digest.SHA256) error {
	rest := versioning.Without(l.bad, l.back())
	if len(rest) < len(l.bad) { // first, or a cut between the sides would leave both versions revoked
		if err := l.r.setRevoked(rest); err != nil {
			return err
		}
	}
	return l.r.setRevoked(append(rest, l.system.Version), recalled...)
}

// commit brings the version that is kept back. Where somebody writes meanwhile it looks
// again, and takes what is there then.
func (l *leaving) commit(ctx context.Context) error {
	for {
		err := l.returnTo(ctx, l.system, l.usrData, l.to)
		if again, err := l.again(ctx, err); !again {
			return err
		}
		if l.system, l.usrData, err = l.snapshots(ctx); err != nil {
			return err
		}
	}
}

// leave looks at the sides and finds the version to return to. Where the error wraps
// ErrNothingToReturnTo there is a result all the same.
func (r *Reconciler) leave(ctx context.Context, want func(bad []versioning.Version) wish) (*leaving, error) {
	l := &leaving{job: newJob(r, Options{})}
	var err error
	if l.system, l.usrData, err = l.snapshots(ctx); err != nil {
		return nil, err
	}
	if err := available(l.system, l.usrData); err != nil {
		return nil, err
	}
	if !l.system.usable() {
		return nil, fmt.Errorf("%w: %s is %s", ErrNoApplication, System, l.system.State)
	}
	if l.bad, err = r.Revoked(); err != nil {
		return nil, err
	}
	l.to, err = l.kept(ctx, l.system, l.usrData, want(l.bad))
	return l, err
}

// wish is which version is to come back.
type wish struct {
	to    versioning.Version   // that one alone; zero: the highest that is not bad
	bad   []versioning.Version // revoked
	never []versioning.Version // not to come back in any case
}

// kept finds the version to return to: the one named, or the highest that is
// kept, whole, and not revoked; the one that the version on system was installed
// over counts, revoked or not, until that is confirmed. Another build of the
// version on system is none: it would be revoked with it. usr_data's own version
// counts, too: it is what the device returns to while a backup is held back.
func (j *job) kept(ctx context.Context, system, usrData *Snapshot, want wish) (*record.Record, error) {
	to, bad := want.to, want.bad
	pending, err := j.r.Pending()
	if err != nil {
		return nil, err
	}
	var found *record.Record
	var passed []string
	before := func(k *record.Record) bool {
		return pending != nil && k.Manifest.Version.String() == pending.Previous.String()
	}
	consider := func(k *record.Record) {
		v := k.Manifest.Version
		if v.In(want.never) && v.Compare(system.Version) != 0 {
			passed = append(passed, v.String())
			return
		}
		switch {
		case v.Compare(system.Version) == 0:
		case !to.IsZero() && v.String() != to.String():
		case to.IsZero() && v.In(bad) && !before(k):
			passed = append(passed, v.String())
		case found == nil || !before(found) && (before(k) || j.r.higher(&k.Manifest, &found.Manifest)):
			found = k
		}
	}
	src := j.sources(system, usrData)
	for _, side := range j.r.sides() {
		k, err := j.previous(ctx, side, system, src)
		if err != nil {
			return nil, sideError(side, err)
		}
		if k != nil {
			consider(k)
		}
	}
	if usrData.State == Intact { // last: what system keeps of a version may have newer configuration
		consider(usrData.facts.Basis)
	}
	switch {
	case found != nil:
		return found, nil
	case len(passed) > 0 && (to.IsZero() || slices.Contains(passed, to.String())):
		return nil, fmt.Errorf("%w: %s is kept, and is revoked or was taken back itself", ErrNothingToReturnTo, passed[0])
	case to.IsZero():
		return nil, fmt.Errorf("%w: no other version is kept whole on this device", ErrNothingToReturnTo)
	}
	return nil, fmt.Errorf("%w: %s is not kept whole on this device", ErrNothingToReturnTo, to)
}

// higher reports whether m is what a device rather returns to than n.
func (r *Reconciler) higher(m, n *Manifest) bool {
	if fits := r.fits(m); fits != r.fits(n) {
		return fits
	}
	return m.Version.Compare(n.Version) > 0
}

// previous returns the record of the version that a side keeps for a rollback;
// nil if there is none, or its application files are not all to be had.
// Configuration that is nowhere any more is as system has it now.
func (j *job) previous(ctx context.Context, side *Side, system *Snapshot, src *sources) (*record.Record, error) {
	if side.ready() != nil {
		return nil, nil
	}
	r, _, err := record.Load(side.FS, path.Join(change.PreviousDir, path.Base(change.RecordFile)), j.known)
	if err != nil && tree.Means(err) == tree.Nothing {
		return nil, err
	}
	if r == nil { // what cannot be read is nothing to return to
		return nil, nil
	}
	k := *r
	gone := map[Path]*manifest.Entry{}
	for e := range r.Entries() {
		if e.Type != manifest.File {
			continue
		}
		from, there := src.find(side.Name, e)
		for there && from.node == nil {
			whole, err := j.whole(ctx, from, *e.SHA256)
			if err != nil {
				return nil, err
			}
			if whole {
				break
			}
			from, there = src.find(side.Name, e) // that one is known to be bad now
		}
		if there {
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
func (j *job) whole(ctx context.Context, from source, want digest.SHA256) (bool, error) {
	f, err := from.fs.Open(from.name)
	var sum digest.SHA256
	if err == nil {
		defer f.Close()
		sum, _, err = digest.OfReader(fsys.InContext(ctx, f))
	}
	if err != nil && tree.Means(err) == tree.Nothing {
		return false, err
	}
	if err != nil || sum != want {
		j.badKept[kept{from.side, want}] = true
		return false, nil
	}
	return true, nil
}

// way is what there is to do on system to return to a version that is kept.
func (j *job) way(system, usrData *Snapshot, kept *record.Record) (*work, *desired, error) {
	d := returning(kept, system.facts, usrData.Revision)
	w, err := j.plan(j.r.System, system, d, UsrData)
	if err == nil {
		w.plan.Tag = true
	}
	return w, d, err
}

// wayFree returns the error that returnTo would end with before it changes anything.
func (j *job) wayFree(system, usrData *Snapshot, kept *record.Record) error {
	w, _, err := j.way(system, usrData, kept)
	if err == nil {
		var short *SpaceError
		if short, err = change.Shortage(j.r.System.FS, w.plan); short != nil {
			err = short
		}
	}
	return sideError(j.r.System, err)
}

// returnTo commits a version that is kept on system. Where that is in the way of it what
// has nothing to do with it need not wait for, j.stuck says so: nothing is changed then.
func (j *job) returnTo(ctx context.Context, system, usrData *Snapshot, kept *record.Record) error {
	src := j.sources(system, usrData)
	w, d, err := j.way(system, usrData, kept)
	if err == nil {
		w.change, err = change.Begin(j.r.System.FS, w.plan)
	}
	if err == nil {
		if err = j.fill(ctx, w, src); err != nil {
			err = errors.Join(err, w.change.Discard())
		}
	}
	if err = sideError(j.r.System, err); err != nil {
		if errors.Is(err, ErrBlocked) || errors.Is(err, ErrNoSpace) {
			j.stuck = err
		}
		return err
	}
	bad, err := j.r.Revoked()
	if err == nil && kept.Manifest.Version.In(bad) { // it was, by the installation that is taken back
		err = j.r.setRevoked(versioning.Without(bad, kept.Manifest.Version))
	}
	if err != nil {
		return errors.Join(err, w.change.Discard())
	}
	_, err = j.commit(ctx, w, d, src)
	j.after(ctx, d, w)
	return sideError(j.r.System, err)
}

// returning works out what system shall hold once the version of k is back: what that
// had, and what was made here since and is of no release. Of a file that both have
// the one of k comes back; the other one goes aside. It is pure.
func returning(k *record.Record, now *tree.Facts, revision int) *desired {
	d := &desired{loses: map[Path]bool{}}
	shipped := map[digest.SHA256]bool{}
	for _, e := range now.Basis.Manifest.Files {
		if e.Type == manifest.File {
			shipped[*e.SHA256] = true
		}
	}
	stays := map[Path]*manifest.Entry{}
	for p := range now.Paths() {
		e := now.Holds(p)
		if e == nil || e.Type == manifest.File && shipped[*e.SHA256] && !journaled(now, p) || k.Manifest.IsIgnored(p) {
			continue
		}
		if b := now.Basis.Find(p); b != nil && !now.Basis.Captures(b) { // the application's
			continue
		}
		o := now.At(p)
		if o != nil && o.Finding.IsDamage() {
			continue
		}
		was := k.Find(p)
		switch {
		case was != nil && (e.Type == manifest.Dir || manifest.SameContent(was, e)):
			continue
		case was != nil || notDir(k, p) || otherDatabase(k, now, p):
			d.loses[p] = e.Type != manifest.Dir
			continue
		case e.Type == manifest.Hardlink && stays[e.Link] == nil: // the file that it shares may not stay
			if now.Has(e.Link) == nil {
				continue
			}
			own := *now.Has(e.Link)
			own.Path, e = p, &own
		}
		stays[p] = e
		if o != nil && o.Finding == tree.Edited {
			d.written = append(d.written, p)
		}
	}
	for i := range now.Odd {
		if o := &now.Odd[i]; o.Finding == tree.Deleted {
			d.written = append(d.written, o.Path)
		}
	}
	rec := *k
	if len(stays) > 0 {
		rec.Config, rec.Revision = overlay(k.Config, stays), max(k.Revision, revision)+1
		dropOrphans(&rec)
	}
	d.record = &rec
	return d
}

// journaled reports whether the application has a journal beside p that no release brought.
func journaled(f *tree.Facts, p Path) bool {
	for _, end := range manifest.Journals {
		q := p + Path(end)
		if e := f.Holds(q); e != nil && e.Size > 0 && !f.Basis.Manifest.Knows(q) {
			return true
		}
	}
	return false
}

// otherDatabase reports whether p is a journal of a database that is another one in k.
func otherDatabase(k *record.Record, now *tree.Facts, p Path) bool {
	db := manifest.JournalOf(p)
	was, is := k.Find(db), now.Has(db)
	return was != nil && is != nil && !manifest.SameContent(was, is)
}

// notDir reports whether k has something else than a directory above p.
func notDir(k *record.Record, p Path) bool {
	for dir := path.Dir(string(p)); dir != "."; dir = path.Dir(dir) {
		if e := k.Find(Path(dir)); e != nil && e.Type != manifest.Dir {
			return true
		}
	}
	return false
}
