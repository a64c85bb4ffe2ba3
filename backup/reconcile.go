package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/internal/fsys"
	"tandem/versioning"
)

// Progress tells how far a copy has come, in bytes.
type Progress func(what string, done, total int64)

// Reconciler keeps two sides in step. One at a time may work on a pair of
// sides; the caller holds a lock.
type Reconciler struct {
	System, UsrData *Side
	Log             logrus.FieldLogger
	Progress        Progress // may be nil
	Now             func() time.Time
}

func (r *Reconciler) now() time.Time { return r.Now() }

// Options of a reconciliation.
type Options struct {
	Full bool // hash every file instead of trusting size, mode, owner and time
	// Running says that the application may be at work. Captured configuration
	// that it has just emptied or removed it may be about to write anew: that is
	// left alone, and damage only once it has rested for RestTime.
	Running bool
	// Hold is a version that is not to replace another one on usr_data yet,
	// while that is whole: it is what a rollback returns to.
	Hold versioning.Version
}

// Result is what a reconciliation found and did.
type Result struct {
	Decision  Decision
	Returned  bool       // the version on system was given up: it returned to the one before
	Held      bool       // the backup is held back until the version is confirmed
	Finished  []Finished // interrupted changes that were finished first
	System    *Snapshot  // as found, before anything was done
	UsrData   *Snapshot
	Version   versioning.Version // of both sides afterwards
	Revision  int
	Changed   []SideName // sides that were written
	InPlace   []SideName // of those, where there was no room for old and new at once
	Files     int        // files that were copied
	Bytes     int64      // that were copied
	Conflicts []Path     // configuration kept beside the one that won
	Lost      []Path     // captured configuration that neither side has any more
	Busy      []Path     // configuration that was left alone, because it is being written
}

// Finished is a change that recovery rolled forward.
type Finished struct {
	Side    SideName           `json:"side"`
	Version versioning.Version `json:"version"`
}

func (r *Reconciler) sides() []*Side { return []*Side{r.System, r.UsrData} }

// Recover finishes or undoes what a power cut interrupted on either side. It
// is the first step of all that changes a side.
//
// After success nothing is pending. After an error or a power cut it can be
// run again; a side that could not be used does not keep the other one waiting.
func (r *Reconciler) Recover() ([]Finished, error) {
	var done []Finished
	var errs []error
	for _, s := range r.sides() {
		if err := s.ready(); err != nil {
			errs = append(errs, err) // the other one may be all that there is to start from
			continue
		}
		v, err := recoverSide(s.FS)
		if err != nil {
			errs = append(errs, sideError(s, fmt.Errorf("finish the interrupted change: %w", err)))
			continue
		}
		if !v.IsZero() {
			r.Log.WithFields(logrus.Fields{"side": s.Name, "version": v}).Info("finished an interrupted change")
			done = append(done, Finished{s.Name, v})
		}
	}
	return done, errors.Join(errs...)
}

// Look takes a snapshot of both sides and decides. It changes nothing. An
// error that Decide gives comes with the snapshots.
func (r *Reconciler) Look(ctx context.Context, o Options) (*Result, error) {
	return r.look(ctx, newInspector(r.now(), o))
}

func (r *Reconciler) look(ctx context.Context, in *inspector) (*Result, error) {
	system, usrData, err := in.look(ctx, r.System, r.UsrData)
	if err != nil {
		return nil, err
	}
	res := &Result{System: system, UsrData: usrData}
	bad, err := r.Revoked()
	if err != nil {
		return nil, err
	}
	src := newSources(system, usrData)
	res.Decision, err = Decide(candidate(system, src, bad), candidate(usrData, src, bad))
	if err == nil {
		w := res.winner()
		res.Version, res.Revision = w.Version, w.Revision
	}
	return res, err
}

func (res *Result) winner() *Snapshot {
	if res.Decision.From == UsrData {
		return res.UsrData
	}
	return res.System
}

// held says whether the decision is to back up a version that is to be held back.
func (res *Result) held(hold versioning.Version) bool {
	return res.Decision.Action == BackUp && !hold.IsZero() && res.System.State == Intact && res.UsrData.State == Intact &&
		res.System.Version.String() == hold.String() && res.UsrData.Version.String() != hold.String()
}

func candidate(s *Snapshot, src *sources, bad []versioning.Version) Candidate {
	c := Candidate{
		State: s.State, Version: s.Version, Revision: s.Revision,
		Revoked: s.Version.In(bad), Edited: len(s.Edited) > 0, Adopted: s.Adopted, Nested: s.Nested, Record: s.ownSum,
	}
	if s.State == Damaged {
		c.Mendable = src.mendable(s)
	}
	return c
}

// Revoked gives the versions that are revoked on either side.
func (r *Reconciler) Revoked() ([]versioning.Version, error) {
	var all []versioning.Version
	for _, s := range r.sides() {
		if s.ready() != nil {
			continue
		}
		versions, err := loadRevoked(s.FS)
		if err != nil {
			return nil, sideError(s, err)
		}
		for _, v := range versions {
			if !v.In(all) {
				all = append(all, v)
			}
		}
	}
	slices.SortFunc(all, versioning.Version.Compare)
	return all, nil
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

func (r *Reconciler) setRevoked(versions []versioning.Version) error {
	for _, s := range r.sides() {
		if err := s.ready(); err != nil {
			return err
		}
		if err := saveRevoked(s.FS, versions); err != nil {
			return sideError(s, err)
		}
	}
	return nil
}

// rounds bounds how often the sides are looked at again: each round finds
// damage that the one before could not know of, or an application that writes.
const rounds = 16

// Reconcile finishes what was interrupted, decides, and brings both sides to
// the version and configuration that won.
//
// After success both sides are identical and complete. After an error or a
// power cut each side that was complete still is, as its old or its new
// version, and Reconcile can be run again. The error wraps ErrNoApplication,
// ErrDamage, ErrUnavailable or ErrNoSpace where that is the reason.
func (r *Reconciler) Reconcile(ctx context.Context, o Options) (*Result, error) {
	finished, err := r.Recover()
	if err != nil {
		return &Result{Finished: finished}, err
	}
	in := newInspector(r.now(), o)
	var total *Result
	for range rounds {
		if total != nil { // what was found first is told, but not used any more
			total.System.forget()
			total.UsrData.forget()
		}
		res, err := r.look(ctx, in)
		if total == nil && res != nil {
			total = res
			total.Finished = finished
		}
		if err != nil {
			return total, err
		}
		in.full = false // what was found damaged is a suspect from here on
		if returned, err := r.resumeRollback(ctx, in, res); err != nil {
			return total, err
		} else if returned {
			total.Returned = true
			continue
		}
		if res.held(o.Hold) {
			total.Version, total.Revision, total.Held = res.Version, res.Revision, true
			return total, nil
		}
		done, err := r.round(ctx, in, res, total)
		var stale *staleError
		switch {
		case errors.As(err, &stale):
			r.Log.WithFields(logrus.Fields{"side": stale.side, "file": stale.path}).Warn("a file is damaged or changed meanwhile; looking again")
			in.suspects[stale.side][stale.path] = true
			if stale.side == System {
				in.stale[stale.path]++
			}
		case err != nil:
			return total, err
		case done:
			return total, r.remaining(res, total)
		}
		for p := range res.System.busy {
			in.stale[p] = busyAfter // one capture is enough
		}
		for _, s := range []*Snapshot{res.System, res.UsrData} {
			for _, p := range s.Problems {
				in.suspects[s.Side][p.Path] = true
			}
		}
	}
	return total, fmt.Errorf("%w: the sides did not settle within %d rounds: is something writing to them?", ErrDamage, rounds)
}

func (r *Reconciler) remaining(res, total *Result) error {
	total.Busy = res.System.Busy
	if n := len(res.System.Problems) + len(res.UsrData.Problems); n > 0 {
		p := slices.Concat(res.System.Problems, res.UsrData.Problems)[0]
		return fmt.Errorf("%w: %s, the first on %s: %s: %s: %s", ErrDamage, files(n), p.Side, p.Path, p.Kind, p.Detail)
	}
	for _, p := range res.System.Busy {
		r.Log.WithField("file", p).Warn("is being written, or was emptied or removed just now: left alone until it rests")
	}
	if len(total.Lost) > 0 {
		return fmt.Errorf("%w: configuration %s was lost on both sides", ErrDamage, total.Lost[0])
	}
	return nil
}

func files(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}

// round carries out one decision. It is done when there was nothing to change.
func (r *Reconciler) round(ctx context.Context, in *inspector, res, total *Result) (done bool, err error) {
	if res.Decision.Action == Nothing {
		total.Version, total.Revision = res.Version, res.Revision
		return true, errors.Join(r.settleTimes(res), r.shareRevoked())
	}
	winner := res.winner()
	d, err := in.aim(ctx, res.Decision.From, res.System, res.UsrData)
	if err != nil {
		return false, err
	}
	changed := false
	// The side that follows comes first: should it fail, the one that won
	// still says what is on it, and what it lost can be had from the other.
	for _, side := range r.order(winner.Side) {
		snap := res.System
		if side.Name == UsrData {
			snap = res.UsrData
		}
		if changed && res.Decision.Action == Capture {
			// Until system has the record, too, usr_data is ahead of it, and
			// what is edited next would count as a conflict.
			ctx = context.WithoutCancel(ctx)
		}
		wrote, err := r.bring(ctx, in, side, snap, d, total)
		if err != nil {
			return false, sideError(side, err)
		}
		if wrote { // what was read from it before may have moved
			d.src = newSources(brought(side, d.record), res.other(side.Name))
			total.add(d)
		}
		changed = changed || wrote
	}
	total.Version, total.Revision = d.record.Manifest.Version, d.record.Revision
	total.add(d)
	return !changed, nil
}

func (res *Result) other(n SideName) *Snapshot {
	if n == System {
		return res.UsrData
	}
	return res.System
}

// add notes what became of configuration; the round after an interrupted one
// notes it again.
func (res *Result) add(d *desired) {
	for _, p := range d.kept {
		if !slices.Contains(res.Conflicts, p) {
			res.Conflicts = append(res.Conflicts, p)
		}
	}
	for _, p := range d.lost {
		if !slices.Contains(res.Lost, p) {
			res.Lost = append(res.Lost, p)
		}
	}
}

// brought is a side that was just brought to a record.
func brought(side *Side, record *Record) *Snapshot {
	return &Snapshot{Side: side.Name, State: Intact, Version: record.Manifest.Version, basis: record, trusted: true, tree: &tree{fs: side.FS, root: appsDir}}
}

// shareRevoked gives each side what the other one knows to be revoked.
func (r *Reconciler) shareRevoked() error {
	all, err := r.Revoked()
	if err != nil || len(all) == 0 {
		return err
	}
	for _, s := range r.sides() {
		have, err := loadRevoked(s.FS)
		if err == nil && len(have) < len(all) {
			err = saveRevoked(s.FS, all)
		}
		if err != nil {
			return sideError(s, err)
		}
	}
	return nil
}

func (r *Reconciler) order(winner SideName) []*Side {
	if winner == System {
		return []*Side{r.UsrData, r.System}
	}
	return []*Side{r.System, r.UsrData}
}

// bring makes a side hold what is desired, and says whether it had to write.
func (r *Reconciler) bring(ctx context.Context, in *inspector, side *Side, snap *Snapshot, d *desired, total *Result) (bool, error) {
	st, err := planStaging(ctx, side, snap, d.record, in.buf)
	if err != nil {
		return false, err
	}
	st.dropUnmendable(d.src)
	var done, all int64
	for _, w := range st.wanted {
		all += w.Size
	}
	st.report = func(n int64) {
		done += n
		if r.Progress != nil {
			r.Progress("copying to "+string(side.Name), done, all)
		}
	}
	if !st.idle() {
		r.Log.WithFields(logrus.Fields{"side": side.Name, "version": d.record.Manifest.Version, "files": len(st.wanted), "bytes": all}).Info("writing")
	}
	err = r.makeRoom(ctx, st, d.record)
	if err == nil {
		err = st.fill(ctx, d.src)
	}
	if err != nil {
		_ = st.discard() // makes room; where it fails, recovery does it
		return false, err
	}
	if st.direct {
		total.InPlace = append(total.InPlace, side.Name)
	}
	wrote, err := st.seal(ctx)
	if err != nil {
		return false, err
	}
	in.decoded[st.sum] = d.record
	if wrote {
		if !slices.Contains(total.Changed, side.Name) {
			total.Changed = append(total.Changed, side.Name)
		}
		total.Files += len(st.wanted)
		total.Bytes += all
	}
	return wrote, nil
}

// settleTimes gives files back the time that their record has, where only that
// differs, so that the next look need not hash them again.
func (r *Reconciler) settleTimes(res *Result) error {
	for _, s := range []struct {
		side *Side
		snap *Snapshot
	}{{r.System, res.System}, {r.UsrData, res.UsrData}} {
		for i := range s.snap.touched {
			if err := setAttr(s.side.FS, s.snap.touched[i]); err != nil {
				return sideError(s.side, err)
			}
		}
	}
	return nil
}

// sideError adds the side and what the failure means for it.
func sideError(s *Side, err error) error {
	if err == nil {
		return nil
	}
	var space *SpaceError
	switch {
	case errors.As(err, &space), errors.Is(err, ErrUnavailable):
		return fmt.Errorf("%s: %w", s.Name, err)
	case fsys.IsNoSpace(err):
		return fmt.Errorf("%s: %w: %w", s.Name, ErrNoSpace, err)
	case fsys.IsNotWritable(err):
		return fmt.Errorf("%s: %w: not writable: %w", s.Name, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", s.Name, err)
}
