package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tandem/backup/change"
	"tandem/backup/tree"
	"tandem/internal/fsys"
)

// index returns the index of a side, and whether what it saw is known not to
// have gone through a power cut since.
func (l *looker) index(side *Side) (*tree.Index, bool, error) {
	if side.FS == nil { // not made yet
		return nil, false, nil
	}
	x, err := tree.LoadIndex(side.FS, change.IndexFile)
	if err == nil {
		l.notes[side.Name] = l.notes[side.Name] || x != nil && x.Orderly
	}
	if err != nil || x == nil {
		return nil, false, err
	}
	return x, l.holds(side, x), nil
}

// holds reports whether what an index saw is known not to have gone through a power
// cut since.
func (l *looker) holds(side *Side, x *tree.Index) bool {
	if x.Orderly {
		return true
	}
	sum := x.Sum()
	return sum == l.made[side.Name] || l.r.Boot != "" && (x.Boot == l.r.Boot || l.r.seen(side.Name) == sum)
}

// at is the moment of an index that is made now.
func (l *looker) at(side *Side) tree.Moment {
	return tree.Moment{Boot: l.r.Boot, Now: l.r.Now().UnixNano(), Live: side.live(), Weak: l.weak[side.Name]}
}

// young reports whether something on system was written so shortly before it was
// looked at that it may be written again without its stamps telling.
func (j *job) young(system *Snapshot) bool {
	if j.waited || system.facts == nil {
		return false
	}
	return system.facts.Tree.Any(system.young)
}

func (s *Snapshot) young(n *tree.Node) bool { return tree.Moment{Now: s.looked}.Young(n) }

// remember stores the index of a side that is in step with its record, where it
// says more than the one that lies there.
func (j *job) remember(side *Side, s *Snapshot) error {
	if s.facts == nil || s.facts.Sum.IsZero() || s.Nested {
		return nil
	}
	m := j.at(side)
	m.Now = s.looked
	fresh := tree.NewIndex(s.facts, m)
	old, err := tree.LoadIndex(side.FS, change.IndexFile) // it was not kept: it may be large
	if err != nil {
		return err
	}
	if old != nil && (len(s.facts.Of(tree.Deleted)) > 0 || j.shutdown && len(s.Edited) > 0) && j.holds(side, old) {
		// They are not captured yet, and that they were there, and whole, tells an edit from damage.
		same := *old
		same.Boot, same.Orderly = j.r.Boot, false
		fresh = &same
	}
	if j.shutdown {
		return j.note(side, fresh)
	}
	switch {
	case !fresh.Same(old) || old.Orderly:
		err = fresh.Store(bare(side), change.IndexFile, j.r.By)
	case old.Boot != j.r.Boot:
		err = j.r.see(side.Name, old.Sum())
	}
	if err != nil {
		j.r.Log.WithField("side", side.Name).WithError(err).Debug("the index could not be written: files are read again next time")
	}
	return nil
}

// bare is the file system of a side as it is mounted: an index is not worth a remount.
func bare(side *Side) fsys.FS {
	if r, ok := side.FS.(*fsys.Remounting); ok {
		return r.FS
	}
	return side.FS
}

// note durably notes on a side that the machine comes to an orderly end: what x
// says holds at the next start. On a side that cannot be written nothing is noted:
// nobody else writes it, either.
func (j *job) note(side *Side, x *tree.Index) error {
	disk := bare(side)
	x.Orderly = true
	err := disk.Sync() // what the index tells of comes before it
	if err == nil {
		err = x.Store(disk, change.IndexFile, j.r.By)
	}
	if err == nil {
		err = disk.Sync()
	}
	if err == nil {
		err = disk.SyncDir(change.OwnDir)
	}
	if fsys.IsNotWritable(err) {
		return nil
	}
	if err != nil {
		return sideError(side, fmt.Errorf("note the orderly end: %w", err))
	}
	delete(j.notes, side.Name)
	j.noted = append(j.noted, side.Name)
	return nil
}

// useUp durably takes back the notes of an orderly end that a job found, however it
// ended: what comes after it is not covered by them. What they say of the files
// holds in this run of the machine.
func (j *job) useUp() {
	for _, side := range j.r.sides() {
		found, looked := j.notes[side.Name]
		if slices.Contains(j.noted, side.Name) || looked && !found || side.ready() != nil {
			continue
		}
		disk := bare(side)
		x, err := tree.LoadIndex(disk, change.IndexFile)
		if err == nil && x != nil && x.Orderly {
			found, x.Orderly, x.Boot = true, false, j.r.Boot
			err = x.Store(disk, change.IndexFile, j.r.By)
		}
		if err == nil && found {
			err = disk.SyncDir(change.OwnDir)
		}
		if err != nil {
			j.r.Log.WithField("side", side.Name).WithError(err).Warn("the note of an orderly end stays")
		}
	}
}

// noteLive notes the orderly end on system where a job ended before both sides were in step:
// what differs there from its last capture was meant all the same.
func (j *job) noteLive(ctx context.Context) {
	if slices.Contains(j.noted, System) {
		return
	}
	system, _, err := j.snapshots(ctx)
	if err == nil && system.err == nil && system.Commit.IsZero() {
		err = j.remember(j.r.System, system)
	}
	if err != nil {
		j.r.Log.WithError(err).Warn("the orderly end is not noted on system")
	}
}

// after notes what the sides hold now whose change was committed: what did not
// change, and what was placed. Where that fails the next look reads what it has to.
func (j *job) after(ctx context.Context, d *desired, jobs ...*work) {
	made, errs := make([]*tree.Index, len(jobs)), make([]error, len(jobs))
	_ = j.r.each(len(jobs), func(i int) error {
		if errs[i] = errUnseen; jobs[i] != nil && jobs[i].placed != nil {
			made[i], errs[i] = j.afterOn(ctx, d, jobs[i])
		}
		return nil // the other one is done all the same
	})
	j.seen = errors.Join(errs...) == nil
	for i, x := range made {
		if x != nil {
			j.made[jobs[i].side.Name] = x.Sum()
		}
	}
}

// errUnseen says that the next look has to tell what lies there.
var errUnseen = errors.New("not all of it is known")

// afterOn makes and stores the index of a side. The error says why there is none, or that it
// does not tell of all that lies there.
func (j *job) afterOn(ctx context.Context, d *desired, w *work) (*tree.Index, error) {
	before := w.snap.facts
	if w.plan.Whole {
		before = nil
	}
	again := map[Path]bool{}
	for _, o := range w.plan.Ops {
		again[o.Path] = true
	}
	look := func() (*tree.Tree, error) {
		if before == nil {
			return tree.Scan(ctx, w.side.FS, change.AppsDir)
		}
		return before.Tree.Again(ctx, again)
	}
	if w.side.live() && before != nil {
		for p := range d.take { // it may have been written since it was first read
			again[p] = true
		}
		for c := before.Tree.Nodes(); c.Next(); {
			if n := c.Node(); w.snap.young(n) {
				again[n.Path] = true
			}
		}
	}
	now := j.at(w.side)
	t, err := look()
	if err == nil && w.side.live() && t.Any(now.Young) {
		if err := j.r.wait(ctx, tree.Tick); err != nil {
			return nil, err // the change is made
		}
		now = j.at(w.side)
		t, err = look()
	}
	if err != nil {
		return nil, err
	}
	x, all := tree.After(t, before, w.plan.Record, w.plan.Body.Sum, w.placed, now)
	err = x.Store(w.side.FS, change.IndexFile, j.r.By)
	if err == nil && w.side.live() {
		// From here on the application writes in place, maybe under the stamps that were
		// captured: after a power cut only the index tells that from damage.
		err = change.SyncOwn(w.side.FS, change.IndexFile)
	}
	if err != nil {
		j.r.Log.WithField("side", w.side.Name).WithError(err).Debug("the index could not be written: files are read again next time")
	} else if !all {
		err = errUnseen
	}
	return x, err
}
