package change

import (
	"path"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// abandon lets go of a commit of which nobody knows any more how far it came. What it had
// displaced goes aside, but for what a release brings or the new record names: that is to be
// had again. It goes by the path under which a record names it, else by its name.
//
// After an error or a power cut what was displaced lies in next or aside.
func (a *applier) abandon() error {
	again, paths := map[digest.SHA256]bool{}, map[digest.SHA256]manifest.Path{}
	staged := path.Join(nextDir, path.Base(RecordFile))
	for _, name := range []string{staged, RecordFile, path.Join(oldDir, path.Base(RecordFile))} {
		r, _, err := record.Load(a.fs, name, nil)
		if fsys.IsTransient(err) {
			return err
		}
		if r == nil {
			continue
		}
		for _, list := range [][]*manifest.Entry{r.Manifest.Files, r.Config} {
			for _, e := range list {
				if e.Type == manifest.File {
					again[*e.SHA256] = again[*e.SHA256] || name == staged || !r.Captures(e)
					paths[*e.SHA256] = e.Path
				}
			}
		}
	}
	s := &aside{fs: a.fs}
	for _, dir := range []string{newDir, path.Join(oldDir, contentDir), path.Join(oldDir, oddDir)} {
		if err := a.salvage(dir, s, again, paths); err != nil && !fsys.IsNoSpace(err) {
			return err
		}
	}
	a.out.Aside = append(a.out.Aside, s.put...)
	if err := s.sync(); err != nil && !fsys.IsNoSpace(err) {
		return err
	}
	return a.end()
}

// salvage puts aside what lies below dir and is not to be had again.
func (a *applier) salvage(dir string, s *aside, again map[digest.SHA256]bool, paths map[digest.SHA256]manifest.Path) error {
	infos, err := a.fs.ReadDir(dir)
	if err != nil {
		if fsys.IsTransient(err) {
			return err
		}
		return nil // what the disk does not give nobody saves
	}
	for _, i := range infos {
		name := path.Join(dir, i.Name)
		if i.Type == fsys.TypeDir {
			if err := a.salvage(name, s, again, paths); err != nil {
				return err
			}
			continue
		}
		if i.Type != fsys.TypeFile {
			continue
		}
		sum, err := a.hash(name)
		if fsys.IsTransient(err) {
			return err
		}
		if err == nil && again[sum] {
			continue
		}
		p := paths[sum]
		if p == "" {
			p = manifest.Path(path.Join("interrupted", i.Name))
		}
		if err := s.move(name, p); err != nil {
			return err
		}
	}
	return nil
}
