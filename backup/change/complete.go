package change

import (
	"fmt"
	"io"
	"path"

	"tandem/backup/manifest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// Outcome is what became of a change.
type Outcome struct {
	Wrote bool
	Left  []Left          // paths that are not as they should be, and why
	Newer []manifest.Path // configuration that was written meanwhile, and stays
	Aside []manifest.Path // what was put aside

	Cannot []Left // attributes that the file system turned out not to be able to hold
}

// Commit makes the change. written are files of the side that others wrote, and
// that the new record speaks of: they are made durable first.
//
// After success the side is what the plan makes of it, also after a power cut.
// After an error or a power cut it is that or what it was, whole; Recover
// finishes or takes back what is left. The error wraps ErrBlocked where the
// change could not be finished and was taken back.
func (c *Change) Commit(written []manifest.Path) (*Outcome, error) {
	defer func() {
		if c.barrier != nil {
			c.barrier.Close() // what it had to tell was asked for
		}
	}()
	if err := c.syncWritten(written); err != nil {
		return nil, err
	}
	if c.Idle() {
		wrote, err := c.replaceRecord()
		return &Outcome{Wrote: wrote, Left: c.Left}, err
	}
	if err := c.Prepare(); err != nil {
		return nil, err
	}
	if c.direct {
		return c.commitDirect()
	}
	if !c.fresh {
		if err := c.fs.Rename(commitTmp, CommitFile); err != nil {
			return nil, err
		}
		if err := c.fs.SyncDir(OwnDir); err != nil {
			return nil, err
		}
	}
	a := &applier{fs: c.fs, commit: c.ready, unwritten: c.fresh, live: c.Live, by: c.By, barrier: c.barrier}
	out, err := a.run()
	if out != nil {
		out.Left = append(out.Left, c.Left...)
		out.Wrote = true
	}
	return out, err
}

// Prepare makes durable what Commit puts in place then, where all of that is staged. It may
// be left to Commit.
//
// After an error or a power cut the side is as it was.
func (c *Change) Prepare() error {
	if c.Idle() || c.ready != nil {
		return nil
	}
	for _, f := range c.Wanted() {
		if !c.cannot.above(f.Path) {
			return fmt.Errorf("%w: %s: its content was never given", manifest.ErrInvalid, f.Path)
		}
	}
	if c.direct {
		return nil
	}
	var err error
	if c.fresh, err = c.isFresh(); err != nil {
		return err
	}
	m := &commit{Version: c.Record.Manifest.Version, Record: c.Body.Sum, Tag: c.Tag, Ops: c.Ops}
	if err := c.complete(m); err != nil {
		return err
	}
	c.ready = m
	return nil
}

// commitTmp is what commit.json is before it has its name: it is made durable with
// all that it tells of.
const commitTmp = CommitFile + ".tmp"

// isFresh reports whether the side has nothing that a power cut could leave mixed with
// what is new, and the other side has all of that: then no commit is written. Until
// the tag is there, last of all, the side is an unfinished copy.
func (c *Change) isFresh() (bool, error) {
	if !c.Tag || !c.Copy || c.Facts != nil || c.Whole {
		return false, nil
	}
	for _, name := range []string{AppsDir, TagFile} {
		if _, err := c.fs.Lstat(name); !fsys.IsNotExist(err) {
			return false, err
		}
	}
	return true, nil
}

// complete adds what needs all files to be there, and makes everything durable,
// the commit included, unless the side is fresh. It has its name with the rename that
// follows.
func (c *Change) complete(m *commit) error {
	for i := range c.Ops {
		if err := c.completeDir(&c.Ops[i]); err != nil {
			return err
		}
	}
	if err := c.write(path.Join(nextDir, path.Base(RecordFile)), c.writeRecord); err != nil {
		return err
	}
	if c.Tag {
		if err := c.write(path.Join(nextDir, TagFile), c.writeTag); err != nil {
			return err
		}
		if err := c.keepRecord(); err != nil {
			return err
		}
	}
	if !c.fresh {
		data, err := m.encode(c.fs, c.By)
		if err == nil {
			err = fsys.RemoveAll(c.fs, commitTmp)
		}
		if err == nil {
			err = c.write(commitTmp, func(w io.Writer) error { _, err := w.Write(data); return err })
		}
		if err != nil {
			return err
		}
	}
	if !c.each {
		return c.barrier.Sync()
	}
	if err := c.syncStaged(newDir); err != nil {
		return err
	}
	return syncDirs(c.fs, newDir, oldDir, nextDir, OwnDir, ".")
}

// completeDir gives a directory that is staged as a whole its hard links, and
// all directories in it their attributes.
func (c *Change) completeDir(o *Op) error {
	if o.Slot == "" || o.New.Type != manifest.Dir {
		return nil
	}
	dirs := []*manifest.Entry{}
	if o.Path != "." {
		dirs = append(dirs, o.New)
	} else if err := c.rootMode(o); err != nil {
		return err
	}
	for e := range c.Record.Entries() {
		if !under(o.Path, e.Path) {
			continue
		}
		switch e.Type {
		case manifest.Dir:
			dirs = append(dirs, e)
		case manifest.Hardlink:
			if !under(o.Path, e.Link) || c.dropped[e.Link] {
				continue // linked once all is in place, or left out, too
			}
			if err := c.fs.Link(member(o, e.Link), member(o, e.Path)); err != nil {
				if c.Live || !cannotHold(err) {
					return err
				}
				c.cannot.add(e.Path, reason(err))
			}
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		e := dirs[i]
		name := path.Join(newDir, o.Slot)
		if e.Path != o.Path {
			name = member(o, e.Path)
		}
		was, err := c.fs.Lstat(name)
		if fsys.IsNotExist(err) {
			continue // it cannot be held
		}
		if err == nil {
			err = c.setAttr(e.Path, name, freshAttr(e), was)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rootMode lets others look into apps: what lies there is run by others.
func (c *Change) rootMode(o *Op) error {
	name := path.Join(newDir, o.Slot)
	was, err := c.fs.Lstat(name)
	if err != nil {
		return err
	}
	return c.setAttr(o.Path, name, fsys.Attr{Mode: 0o755, UID: was.UID, GID: was.GID, Mtime: was.Mtime}, was)
}

// keepRecord adds the present version to the undo log, which becomes the one that
// a rollback returns to. What had no name is none.
func (c *Change) keepRecord() error {
	if c.Facts == nil || c.Whole || c.Facts.Basis.Manifest.Version.IsZero() {
		return nil
	}
	tag := versioning.EncodeTag(c.Facts.Basis.Manifest.Version)
	if err := c.write(path.Join(oldDir, TagFile), func(w io.Writer) error { _, err := w.Write(tag); return err }); err != nil {
		return err
	}
	to := path.Join(oldDir, path.Base(RecordFile))
	if !c.Facts.Sum.IsZero() && c.fs.Link(RecordFile, to) == nil { // nobody writes it in place
		return nil
	}
	return c.write(to, func(w io.Writer) error {
		body, err := c.Facts.Basis.Body()
		if err != nil {
			return err
		}
		return c.Facts.Basis.Write(w, c.By, body)
	})
}

// write makes a file of ours. Where one barrier makes all durable, it is left to
// do so.
func (c *Change) write(name string, content func(io.Writer) error) error {
	f, err := c.fs.Create(name, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // of no consequence once it was closed below
	if err := content(f); err != nil {
		return err
	}
	if path.Base(name) == TagFile { // others read it
		info, err := f.Stat()
		if err == nil {
			err = c.attributes(".", fsys.Attr{Mode: 0o644, UID: info.UID, GID: info.GID, Mtime: info.Mtime}, info, f.SetAttr)
		}
		if err != nil {
			return err
		}
	}
	if c.each {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

func (c *Change) writeRecord(w io.Writer) error {
	return c.Record.Write(w, c.By, c.Body)
}

func (c *Change) writeTag(w io.Writer) error {
	_, err := w.Write(versioning.EncodeTag(c.Record.Manifest.Version))
	return err
}

// replaceRecord gives the record that was staged its name.
func (c *Change) replaceRecord() (wrote bool, err error) {
	if c.sameRecord() {
		return false, nil
	}
	if err := syncFile(c.fs, recordTmp); err != nil {
		return false, err
	}
	if err := c.fs.Rename(recordTmp, RecordFile); err != nil {
		return false, err
	}
	return true, syncDirs(c.fs, OwnDir, ".")
}

func (c *Change) sameRecord() bool { return c.Facts != nil && c.Body.Sum == c.Facts.Sum }
