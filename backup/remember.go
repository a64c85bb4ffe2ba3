package backup

import (
	"context"
	"fmt"
	"slices"

	"tandem/backup/change"
	"tandem/backup/tree"
	"tandem/internal/fsys"
)

// index returns the index of a side, and whether what it saw is known not to
// have gone through a power cut since.
func (in *inspector) index(side *Side) (*tree.Index, bool, error) {
	if side.FS == nil { // not made yet
		return nil, false, nil
	}
	x, err := tree.LoadIndex(side.FS, change.IndexFile)
	if err == nil {
		in.notes[side.Name] = in.notes[side.Name] || x != nil && x.Orderly
	}
	if err != nil || x == nil {
		delete(in.indexes, side.Name)
		return nil, false, err
	}
	in.indexes[side.Name] = x
	return x, in.holds(side, x), nil
}

// holds reports whether what an index saw is known not to have gone through a power
// cut since.
func (in *inspector) holds(side *Side, x *tree.Index) bool {
	if x.Orderly {
		return true
	}
	sum := x.Sum()
	return sum == in.made[side.Name] || in.r.Boot != "" && (x.Boot == in.r.Boot || in.r.seen(side.Name) == sum)
}

// at is the moment of an index that is made now.
func (in *inspector) at(side *Side) tree.Moment {
	return tree.Moment{Boot: in.r.Boot, Now: in.r.Now().UnixNano(), Live: side.live(), Weak: in.weak[side.Name]}
}

// young reports whether something on system was written so shortly before it was
// looked at that it may be written again without its stamps telling.
func (in *inspector) young(system *Snapshot) bool {
	if in.waited || system.facts == nil {
		return false
	}
	return slices.ContainsFunc(system.facts.Tree.Nodes, system.young)
}

func (s *Snapshot) young(n *tree.Node) bool { return tree.Moment{Now: s.looked}.Young(n) }

// remember stores the index of a side that is in step with its record, where it
// says more than the one that lies there.
func (in *inspector) remember(side *Side, s *Snapshot) error {
	if s.facts == nil || s.facts.Sum.IsZero() || s.Nested {
		return nil
	}
	m := in.at(side)
	m.Now = s.looked
	fresh := tree.NewIndex(s.facts, m)
	old := in.indexes[side.Name]
	if old != nil && (len(s.facts.Of(tree.Deleted)) > 0 || in.shutdown && len(s.Edited) > 0) && in.holds(side, old) {
		// They are not captured yet, and that they were there, and whole, tells an edit from damage.
		same := *old
		same.Boot, same.Orderly = in.r.Boot, false
		fresh = &same
	}
	if in.shutdown {
		return in.note(side, fresh)
	}
	if fresh.Same(old) && !old.Orderly {
		if old.Boot != in.r.Boot {
			return in.r.see(side.Name, old.Sum())
		}
		return nil
	}
	return fresh.Store(bare(side), change.IndexFile, in.r.By)
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
func (in *inspector) note(side *Side, x *tree.Index) error {
	disk := bare(side)
	x.Orderly = true
	err := disk.Sync() // what the index tells of comes before it
	if err == nil {
		err = x.Store(disk, change.IndexFile, in.r.By)
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
	delete(in.notes, side.Name)
	in.noted = append(in.noted, side.Name)
	return nil
}

// useUp durably takes back the notes of an orderly end that a job found, however it
// ended: what comes after it is not covered by them. What they say of the files
// holds in this run of the machine.
func (in *inspector) useUp() {
	for _, side := range in.r.sides() {
		found, looked := in.notes[side.Name]
		if slices.Contains(in.noted, side.Name) || looked && !found || side.ready() != nil {
			continue
		}
		disk := bare(side)
		x, err := tree.LoadIndex(disk, change.IndexFile)
		if err == nil && x != nil && x.Orderly {
			found, x.Orderly, x.Boot = true, false, in.r.Boot
			err = x.Store(disk, change.IndexFile, in.r.By)
		}
		if err == nil && found {
			err = disk.SyncDir(change.OwnDir)
		}
		if err != nil {
			in.r.Log.WithField("side", side.Name).WithError(err).Warn("the note of an orderly end stays")
		}
	}
}

// noteLive notes the orderly end on system where a job ended before both sides were in step:
// what differs there from its last capture was meant all the same.
func (in *inspector) noteLive(ctx context.Context) {
	if slices.Contains(in.noted, System) {
		return
	}
	system, _, err := in.look(ctx, in.r.System, in.r.UsrData)
	if err == nil && system.err == nil && system.Commit.IsZero() {
		err = in.remember(in.r.System, system)
	}
	if err != nil {
		in.r.Log.WithError(err).Warn("the orderly end is not noted on system")
	}
}
