package change

import (
	"path"

	"tandem/backup/manifest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// DropPrevious gives up what was kept for a rollback and put aside, and returns
// what that freed, in bytes. After a power cut some of it may be left.
func DropPrevious(fs fsys.FS) (int64, error) {
	var freed int64
	for _, dir := range []string{PreviousDir, AsideDir} {
		n, err := Allocated(fs, dir)
		if err != nil {
			return freed, err
		}
		if n == 0 {
			continue
		}
		if err := clear(fs, dir); err != nil {
			return freed, err
		}
		freed += n
	}
	if freed == 0 {
		return 0, nil
	}
	return freed, fs.Sync() // some file systems give space back only then
}

// Fits reports whether p has room on fs once what was kept for a rollback and put
// aside is gone and, in place, what it replaces is gone before it.
func Fits(fs fsys.FS, p *Plan, inPlace bool) (bool, error) {
	c := newChange(fs, p)
	need, err := c.need()
	if err != nil {
		return false, err
	}
	for _, dir := range []string{PreviousDir, AsideDir} {
		n, err := Allocated(fs, dir)
		if err != nil {
			return false, err
		}
		need.FreeBytes += n
	}
	for i := range p.Ops {
		if o := &p.Ops[i]; inPlace && o.seen != nil && o.seen.Type != fsys.TypeDir && !o.Attr && o.seen.Nlink <= 1 {
			need.FreeBytes += o.seen.Alloc
			if need.FreeEntries >= 0 {
				need.FreeEntries++
			}
		}
	}
	return !need.short(), nil
}

// BeginInPlace is Begin for a side that has no room for what is new beside what
// is old: the tag goes first, then what is replaced. The caller has verified that
// the other side is whole.
//
// After an error or a power cut the side is an unfinished copy, without a tag;
// what of it is right already is found again by its hashes.
func BeginInPlace(fs fsys.FS, p *Plan) (*Change, error) {
	c := newChange(fs, p)
	c.direct = true
	if err := fsys.RemoveAll(fs, TagFile); err != nil {
		return nil, err
	}
	if err := fs.SyncDir("."); err != nil {
		return nil, err
	}
	if err := discard(fs); err != nil {
		return nil, err
	}
	if _, err := DropPrevious(fs); err != nil {
		return nil, err
	}
	for i := range c.Ops {
		o := &c.Ops[i]
		if o.Old == nil || o.Attr {
			continue
		}
		if err := makeWay(fs, Name(o.Path)); err != nil {
			return nil, err
		}
	}
	if err := fs.Sync(); err != nil { // gives the space back
		return nil, err
	}
	var err error
	if c.barrier, err = fs.Barrier(); err != nil {
		return nil, err
	}
	for i := range c.Ops {
		if err := c.makeInPlace(&c.Ops[i]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// makeWay removes a file, or a directory that has nothing in it any more. A
// directory that holds what is not ours to remove stays.
func makeWay(fs fsys.FS, name string) error {
	info, err := fs.Lstat(name)
	if err == nil && info.Type == fsys.TypeDir {
		if left, err := fs.ReadDir(name); err != nil || len(left) > 0 {
			return err
		}
	}
	if err == nil {
		err = fs.Remove(name)
	}
	if fsys.IsNotExist(err) {
		return nil
	}
	return err
}

// makeInPlace makes the directories and links of an op.
func (c *Change) makeInPlace(o *Op) error {
	if o.New == nil || o.Attr {
		return nil
	}
	make := func(e *manifest.Entry) error {
		switch e.Type {
		case manifest.Dir:
			if info, err := c.fs.Lstat(Name(e.Path)); err == nil && info.Type == fsys.TypeDir {
				return nil
			}
			mode := uint32(0o700)
			if e.Path == "." {
				mode = 0o755
			}
			return c.fs.Mkdir(Name(e.Path), mode)
		case manifest.Symlink:
			return c.symlink(e, Name(e.Path))
		}
		return nil
	}
	if err := make(o.New); err != nil {
		return err
	}
	if o.Slot == "" || o.New.Type != manifest.Dir {
		return nil
	}
	for e := range c.Record.Entries() {
		if under(o.Path, e.Path) {
			if err := make(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// commitDirect ends what BeginInPlace began: the files are made durable, then the
// record is written, then the tag.
func (c *Change) commitDirect() (*Outcome, error) {
	var dirs []*manifest.Entry
	for e := range c.Record.Entries() {
		switch e.Type {
		case manifest.Dir:
			dirs = append(dirs, e)
		case manifest.Hardlink:
			if _, err := c.fs.Lstat(Name(e.Path)); fsys.IsNotExist(err) {
				if err := c.fs.Link(Name(e.Link), Name(e.Path)); err != nil {
					return nil, err
				}
			}
		}
	}
	for i := range c.Ops {
		if o := &c.Ops[i]; o.Attr {
			dirs = append(dirs, o.New)
		}
	}
	for i := range dirs {
		e := dirs[len(dirs)-1-i]
		info, err := c.fs.Lstat(Name(e.Path))
		if fsys.IsNotExist(err) {
			continue
		}
		if err == nil && info.Type == fsys.Type(e.Type.String()) && !(c.Live && info.Type == fsys.TypeFile && info.Nlink > 1) {
			err = c.setAttr(e.Path, Name(e.Path), attr(e), info)
		}
		if err != nil {
			return nil, err
		}
	}
	if !c.fs.SyncReports() {
		for e := range c.Record.Entries() {
			var err error
			switch e.Type {
			case manifest.File:
				err = syncFile(c.fs, Name(e.Path))
			case manifest.Dir:
				err = c.fs.SyncDir(Name(e.Path))
			}
			if err != nil && !fsys.IsNotExist(err) {
				return nil, err
			}
		}
		if err := syncDirs(c.fs, AppsDir, "."); err != nil {
			return nil, err
		}
	}
	if err := c.barrier.Sync(); err != nil {
		return nil, err
	}
	if err := ownPlace(c.fs, RecordFile); err != nil {
		return nil, err
	}
	if err := fsys.WriteFileFrom(c.fs, RecordFile, 0o600, c.writeRecord); err != nil {
		return nil, err
	}
	if err := syncDirs(c.fs, path.Dir(RecordFile), "."); err != nil {
		return nil, err
	}
	return &Outcome{Wrote: true, Left: c.Left}, versioning.WriteTag(c.fs, TagFile, c.Record.Manifest.Version)
}
