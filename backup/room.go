package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/internal/text"
)

// Where something does not fit, or cannot be written, all else is done.

// freezes reports whether a side cannot be written, and what has nothing to do with that is to
// be done without it: where system cannot take even a record, or one side cannot be mended.
func (j *job) freezes(w *work, mends bool, err error) bool {
	cannot := fsys.IsNotWritable(err) || errors.Is(err, ErrNoSpace) || errors.Is(err, ErrBlocked) || mends && fsys.IsUnreadable(err)
	if j.stuck != nil || !cannot || !mends && !(w.side.live() && w.plan.Idle()) {
		return false
	}
	j.stuck, j.frozen = err, w.side.Name
	return true
}

// Foresee is Look, and finds out besides what would keep Reconcile from success: files that
// are damaged everywhere, or too little room. The error is of the kind that it would end with.
func (r *Reconciler) Foresee(ctx context.Context, o Options) (*Result, error) {
	j := newJob(r, o)
	res, err := j.look(ctx, o)
	if err != nil {
		return res, err
	}
	for _, s := range []*Snapshot{res.System, res.UsrData} {
		if !s.Commit.IsZero() {
			res.Finished = append(res.Finished, Finished{s.Side, s.Commit, s.undoes})
		}
	}
	// What is staged is to be told from what lacks.
	if a := res.Decision.Action; a == Nothing || a == Hold || len(res.Finished) > 0 {
		return res, nil
	}
	if res.Decision.Action == Return {
		kept, err := j.kept(ctx, res.System, res.UsrData, wish{to: res.Decision.To})
		if err != nil {
			return res, err
		}
		return res, j.wayFree(res.System, res.UsrData, kept)
	}
	src := j.sources(res.System, res.UsrData)
	var damage error
	for n := res.Decision.From; r.side(n).FS != nil; { // else it is not made yet
		d := aim(res.Decision.From, res.System, res.UsrData, src, j.keepsCapture, j.tooLarge, "")
		w, err := j.plan(r.side(n), res.of(n), d, res.Decision.From)
		if err == nil {
			if j.drop(w, src) {
				damage = fmt.Errorf("%w: application files are damaged on both sides", ErrDamage)
			} else if left := w.plan.Left; n == UsrData && len(left) > 0 {
				damage = fmt.Errorf("%w: %s: %s: %s", ErrDamage, n, left[0].Path, left[0].Why)
			}
			err = j.foresee(w, src)
		}
		switch {
		case err != nil && (n != UsrData || res.Decision.From != System || !j.spares(w, err)):
			return res, sideError(r.side(n), err)
		case err != nil:
		case n == res.Decision.From:
			n = n.Other()
		case damage != nil:
			return res, damage
		case len(d.lost) > 0:
			return res, lostError(d.lost)
		default:
			return res, j.spared(slices.Sorted(maps.Keys(j.large)))
		}
	}
	return res, nil
}

// foresee returns the error of a change that there is no room for, as stage does.
func (j *job) foresee(w *work, src *sources) error {
	w.plan.Holes = src.holes(w.side.Name, w.plan)
	short, err := change.Shortage(w.side.FS, w.plan)
	if short == nil || err != nil {
		return err
	}
	if fits, err := change.Fits(w.side.FS, w.plan, true); fits || err != nil {
		return err
	}
	return short
}

// givePrevious begins a change once more without what is kept for a rollback, if
// there is room for it then; else the error stays what it was.
func (j *job) givePrevious(w *work, src *sources, short error) (*change.Change, error) {
	fits, err := change.Fits(w.side.FS, w.plan, false)
	if err != nil {
		return nil, err
	}
	if !fits {
		return nil, short
	}
	if _, err := j.r.giveUp(w.side, src); err != nil {
		return nil, err
	}
	return change.Begin(w.side.FS, w.plan)
}

// unforeseen is the error of a side that is full before the room is used up that its file
// system told of, as with a quota. Its numbers let spares leave out the larger half.
func unforeseen(w *work, full error) error {
	err := w.change.Discard()
	if w.change = nil; err != nil {
		return err
	}
	var all int64
	for _, f := range w.plan.Content() {
		all += f.Size
	}
	return &SpaceError{Path: w.side.FS.Path("."), NeedBytes: all, FreeBytes: all / 2, FreeEntries: -1, Full: full}
}

// giveUp drops what a side keeps for a rollback, and reports whether that made room.
func (r *Reconciler) giveUp(side *Side, src *sources) (freed bool, err error) {
	n, err := change.DropPrevious(side.FS)
	if n > 0 {
		src.known = nil
		r.Log.WithField("side", side.Name).Warn("not enough space: the previous version is given up")
	}
	return n > 0, err
}

// drop leaves files alone that are damaged everywhere, so that the others of the
// same version can be mended all the same. It reports whether there are any.
func (j *job) drop(w *work, src *sources) bool {
	return !w.plan.Tag && w.plan.Drop(func(e *manifest.Entry) bool { return !src.has(w.side.Name, e) })
}

// inPlace writes a side over what is there, for want of room: only while the
// other side is verified whole.
func (j *job) inPlace(ctx context.Context, w *work, src *sources, rec *record.Record) error {
	short, err := change.Shortage(w.side.FS, w.plan)
	if err != nil {
		return err
	}
	if err := j.r.whole(ctx, w.side.Name.Other(), rec); err != nil {
		return fmt.Errorf("%w; writing in place needs the other side whole: %w", short, err)
	}
	j.r.Log.WithField("side", w.side.Name).Warn("not enough space for two versions: writing in place; until that is done only the other side has the application")
	if w.change, err = change.BeginInPlace(w.side.FS, w.plan); err != nil {
		return err
	}
	rest := j.sources(slices.DeleteFunc(slices.Clone(src.snaps), func(s *Snapshot) bool { return s.Side == w.side.Name })...)
	return j.fill(ctx, w, rest)
}

// spares finds the largest configuration that usr_data has no room for, where err
// says that there is too little for all, and reports whether to try without it.
func (j *job) spares(w *work, err error) bool {
	var short *SpaceError
	if w.side.live() || !errors.As(err, &short) {
		return false
	}
	if short.Full != nil {
		if freed, err := j.r.giveUp(w.side, &sources{}); freed && err == nil {
			return true
		}
		if w.plan.Tag { // a new version has to fit, and what is free is a guess
			return false
		}
	}
	content := w.plan.Content()
	sort.Slice(content, func(i, j int) bool {
		a, b := content[i].Entry, content[j].Entry
		return a.Size > b.Size || a.Size == b.Size && a.Path < b.Path
	})
	bytes, entries := short.NeedBytes, short.NeedEntries
	fits := func() bool {
		return bytes <= short.FreeBytes && (short.FreeEntries < 0 || entries <= short.FreeEntries)
	}
	var spared []Path
	for _, f := range content {
		if fits() {
			break
		}
		if w.plan.Record.Writable(f.Entry) && !j.large[f.Path] {
			spared = append(spared, f.Path)
			bytes, entries = bytes-f.Size, entries-1
		}
	}
	if len(spared) == 0 || !fits() && w.plan.Tag { // a new version has to fit; else what is on system need not wait
		return false
	}
	for _, p := range spared {
		j.large[p] = true
	}
	j.short = short
	return true
}

// spared is the error of a reconciliation that left out configuration.
func (j *job) spared(large []Path) error {
	if len(large) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w: %s keeps the capture that it had, if any (%s in all); with it: %v", UsrData, ErrTooLarge, large[0], text.Count(len(large), "file"), j.short)
}

// tooLarge reports whether usr_data has no room for p, or for what it belongs to: a
// database that does not fit takes its journal with it.
func (j *job) tooLarge(p Path) bool {
	if j.large[p] || len(j.large) == 0 {
		return j.large[p]
	}
	for q := range j.large {
		a, b := string(p), string(q)
		if len(a) > len(b) {
			a, b = b, a
		}
		if rest, ok := strings.CutPrefix(b, a); ok && strings.IndexByte("-._~", rest[0]) >= 0 {
			return true
		}
	}
	return false
}
