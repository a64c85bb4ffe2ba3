package change

import (
	"errors"
	"path"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// finish ends a change that is in place, its record with it, and durable: the tag is
// written, and what was displaced gets its place.
func (a *applier) finish() error {
	if a.again {
		// One that is damaged or unreadable is told at the next look: all else is in place.
		head, err := record.ReadHead(a.fs, RecordFile)
		switch {
		case errors.Is(err, manifest.ErrInvalid):
		case err != nil:
			return err
		case head == nil || head.SHA256 != a.commit.Record:
			// What was staged is lost, and the disk with it: the record and the other
			// side say what is left to save.
			return a.abandon()
		}
	}
	if a.commit.Tag {
		if err := a.moveStaged(TagFile); err != nil {
			return err
		}
		if a.again && !versioning.IsTag(a.fs, TagFile, a.commit.Version) { // what was staged is lost
			if err := WriteTag(a.fs, a.commit.Version); err != nil {
				return err
			}
		}
	}
	if err := a.putAside(); err != nil {
		return err
	}
	if err := a.keepPrevious(); err != nil {
		return err
	}
	if a.commit.Tag {
		if err := syncChanged(a.fs, map[string]bool{".": true, OwnDir: true, nextDir: true}); err != nil {
			return err
		}
	}
	if a.again { // an earlier try may have moved these, and not come to its sync
		if err := a.fs.Sync(); err != nil {
			return err
		}
	}
	return a.end()
}

// abandon lets go of a commit of which nobody knows any more how far it came: what it staged
// and displaced, of which some may be nowhere else, goes aside as it lies there, while there is
// room.
func (a *applier) abandon() error {
	s := &aside{fs: a.fs}
	err := s.move(nextDir, "interrupted")
	if err == nil {
		err = s.sync()
	}
	if err != nil && !fsys.IsNotExist(err) && !fsys.IsNoSpace(err) {
		return err
	}
	a.out.Aside = append(a.out.Aside, s.put...)
	return a.end()
}

// end lets go of the commit.
func (a *applier) end() error {
	if !a.unwritten {
		if err := fsys.RemoveAll(a.fs, CommitFile); err != nil {
			return err
		}
		if err := a.fs.SyncDir(OwnDir); err != nil {
			return err
		}
	}
	_ = clear(a.fs, nextDir) // the next change does it, if need be
	return nil
}

// moveStaged moves a file of ours to its name. One that is not staged has been
// moved before. It is durable once the directories are synced.
func (a *applier) moveStaged(name string) error {
	staged := path.Join(nextDir, path.Base(name))
	info, there, err := a.lstat(staged)
	if err != nil || !there {
		return err
	}
	if info.Type != fsys.TypeFile { // it is not what was staged
		return clear(a.fs, staged)
	}
	info, there, err = a.lstat(name)
	switch {
	case err != nil:
		return err
	case there && info.Type == fsys.TypeDir && name == TagFile: // somebody made it: it is not ours to delete
		s := &aside{fs: a.fs}
		if err := s.move(name, TagFile); err != nil {
			return err
		}
		if err := s.sync(); err != nil {
			return err
		}
	case there && info.Type == fsys.TypeDir:
		if err := clear(a.fs, name); err != nil {
			return err
		}
	}
	return a.fs.Rename(staged, name)
}

// putAside takes from the undo log what people may miss.
func (a *applier) putAside() error {
	s := &aside{fs: a.fs}
	for i := range a.commit.Ops {
		o := &a.commit.Ops[i]
		if !o.Aside {
			continue
		}
		content, odd := a.slots(i, o)
		for _, from := range []string{odd, content} {
			if from == "" {
				continue
			}
			_, there, err := a.lstat(from)
			if err != nil {
				return err
			}
			if there {
				put := s.move
				if a.commit.Tag && o.Config && from == content { // the version that is kept has it, too
					put = s.link
				}
				if err := put(from, o.Path); err != nil {
					return err
				}
				break
			}
		}
	}
	a.out.Aside = append(a.out.Aside, s.put...)
	return s.sync()
}

// keepPrevious makes the undo log the version that a rollback returns to; or, where the
// version stays, adds to that what it names of what was displaced.
func (a *applier) keepPrevious() error {
	if a.commit.Tag {
		if _, there, err := a.lstat(path.Join(oldDir, path.Base(RecordFile))); err != nil || !there {
			return err
		}
		for _, d := range []string{path.Join(oldDir, oddDir), PreviousDir} {
			if err := clear(a.fs, d); err != nil {
				return err
			}
		}
		return a.fs.Rename(oldDir, PreviousDir)
	}
	kept, err := a.fs.ReadDir(path.Join(oldDir, contentDir))
	if err != nil || len(kept) == 0 {
		if fsys.IsNotExist(err) {
			err = nil
		}
		return err
	}
	previous, _, err := record.Load(a.fs, path.Join(PreviousDir, path.Base(RecordFile)), nil)
	if fsys.IsTransient(err) {
		return err
	}
	if previous == nil && err == nil {
		return nil
	}
	added := false
	for _, i := range kept {
		sum, err := digest.Parse(i.Name)
		if err != nil || previous != nil && !previous.Names(sum) { // one that cannot be read may name each
			continue
		}
		if err := a.fs.Rename(Kept(oldDir, i.Name), Kept(PreviousDir, i.Name)); err != nil {
			return err
		}
		added = true
	}
	if added {
		return syncDirs(a.fs, path.Join(PreviousDir, contentDir), path.Join(oldDir, contentDir))
	}
	return nil
}
