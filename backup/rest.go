package backup

import (
	"context"
	"errors"
	"path"

	"tandem/backup/change"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// rest returns snapshots of both sides if they lie as their indexes saw them, and hold
// the same record, which is not revoked: then there is nothing to do, and what else a
// look finds is not needed. nil if anything is otherwise, or cannot be read: then the
// look tells.
func (l *looker) rest(ctx context.Context) (system, usrData *Snapshot) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	snaps, walks := map[SideName]*Snapshot{}, map[SideName]func() *tree.Rest{}
	for _, side := range l.r.sides() {
		s, walk := l.restOf(ctx, side)
		if s == nil || side.Name == UsrData && s.ownSum != snaps[System].ownSum {
			return nil, nil
		}
		snaps[side.Name], walks[side.Name] = s, walk
	}
	if bad, err := l.r.Revoked(); err != nil || snaps[System].Version.In(bad) {
		return nil, nil
	}
	err := l.r.each(2, func(i int) error {
		n := []SideName{System, UsrData}[i]
		rest := walks[n]()
		if rest == nil {
			end() // the other one need not be walked any more
			return errRestless
		}
		snaps[n].Foreign = rest.Foreign
		return nil
	})
	if err != nil {
		return nil, nil
	}
	return snaps[System], snaps[UsrData]
}

var errRestless = errors.New("not as the index saw it")

// restOf returns what a side is if the walk finds it at rest; nil if that is out of the
// question. It is called for one side after the other, the walk for both at once.
func (l *looker) restOf(ctx context.Context, side *Side) (*Snapshot, func() *tree.Rest) {
	if side.ready() != nil {
		return nil, nil
	}
	disk := side.FS
	s := &Snapshot{Side: side.Name, Path: disk.Path("."), State: Intact, looked: l.r.Now().UnixNano()}
	if u, err := change.Pending(disk, nil); u != nil || err != nil {
		return nil, nil
	}
	index, same, err := l.index(side)
	if err != nil || !same {
		return nil, nil
	}
	outline, sum, err := record.Outline(disk, change.RecordFile)
	if err != nil || outline == nil || index.Record != sum {
		return nil, nil
	}
	if s.Version = outline.Version; !versioning.IsTag(disk, change.TagFile, s.Version) {
		return nil, nil
	}
	if apps, err := disk.Lstat(change.AppsDir); err != nil || apps.Type != fsys.TypeDir || apps.Mount {
		return nil, nil
	}
	if prev, err := versioning.ReadTag(disk, path.Join(change.PreviousDir, change.TagFile)); err == nil {
		s.Previous = prev
	}
	s.ownSum, s.patterns = sum, Manifest{Config: outline.Config, Ignore: outline.Ignore}
	s.Release, s.Revision, s.Files = outline.Release, index.Revision, index.Files
	return s, func() *tree.Rest { return index.AtRest(ctx, disk, change.AppsDir, outline, side.live(), s.looked) }
}
