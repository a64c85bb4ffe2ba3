package backup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"tandem/internal/fsys"
	"tandem/versioning"
)

// commit is the content of commit.json: a change to a side that is staged and
// durable, and only has to be put in place. From the moment it is durable the
// side is the new version.
type commit struct {
	Version versioning.Version `json:"version"`
	// Apps is the inode number of the staged tree, when the whole tree is
	// swapped: it tells the staged tree from the old one whatever they are
	// called. 0 for a patch.
	Apps uint64 `json:"apps,omitempty"`
	// Damaged says that the old tree is not worth a rollback, but is kept for
	// people to look at.
	Damaged bool `json:"damaged,omitempty"`
	// The rest is for a patch, which changes single files of the tree.
	Remove []Path   `json:"remove,omitempty"`
	Put    []place  `json:"put,omitempty"`
	Attr   []*Entry `json:"attr,omitempty"`
	// seen has what the look at the side found at the paths of Remove and Put, nil
	// for nothing. Recovery has none.
	seen map[Path]*found
}

// untouched says whether at p there is still what the look at the side found. A
// running application may have written it since.
func (c *commit) untouched(p Path, now *fsys.Info, exists bool) bool {
	seen, known := c.seen[p]
	switch {
	case !known:
		return true
	case !exists || seen == nil:
		return !exists && seen == nil
	}
	// A directory was written when what the patch removes went from it.
	return seen.is(now.Type) && seen.ino == now.Ino && (now.Type == fsys.TypeDir || seen.size == now.Size && seen.mtime == now.Mtime)
}

// place is an entry that a patch puts in place.
type place struct {
	Entry *Entry `json:"entry"`
	File  string `json:"file,omitempty"` // its staged content below next/files/
}

func (c *commit) encode() ([]byte, error) { return seal("commit", c) }

func decodeCommit(data []byte) (*commit, error) {
	var c commit
	if err := unseal("commit", data, &c); err != nil {
		return nil, err
	}
	for _, p := range c.Remove {
		if err := CheckPath(p); err != nil {
			return nil, err
		}
	}
	for _, e := range c.Attr {
		if err := checkCommitted(e); err != nil {
			return nil, err
		}
	}
	for i := range c.Put {
		if err := checkCommitted(c.Put[i].Entry); err != nil {
			return nil, err
		}
		if f := c.Put[i].File; strings.Trim(f, "0123456789") != "" {
			return nil, fmt.Errorf("%w: staged file %q: expected a number", ErrInvalid, f)
		}
	}
	return &c, nil
}

func checkCommitted(e *Entry) error {
	if e == nil {
		return fmt.Errorf("%w: no entry", ErrInvalid)
	}
	return CheckPath(e.Path)
}

// loadCommit reads commit.json; without one it gives nil and no error.
func loadCommit(fs fsys.FS) (*commit, error) {
	data, err := readSealed(fs, commitFile, maxRecord)
	if err != nil || data == nil {
		return nil, err
	}
	c, err := decodeCommit(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fs.Path(commitFile), err)
	}
	return c, nil
}

// recoverSide finishes or undoes what a power cut interrupted: with a
// commit.json it rolls forward, without one it discards what was staged. It
// says which version it rolled forward to, if any.
//
// After success nothing is pending. After an error or a power cut it can be
// run again, from wherever it came to.
func recoverSide(fs fsys.FS) (versioning.Version, error) {
	if info, err := fs.Lstat(ownDir); err == nil && info.Type != fsys.TypeDir {
		if err := fs.Remove(ownDir); err != nil { // the name is ours, what lies there is not
			return versioning.Version{}, err
		}
	}
	c, err := loadCommit(fs)
	switch {
	case errors.Is(err, ErrInvalid):
		// It was durable before anything was moved, so this is flash that went
		// bad. The record and the other side say what is left to save.
		return versioning.Version{}, abandon(fs)
	case err != nil:
		return versioning.Version{}, err
	case c != nil:
		return c.Version, c.finish(fs)
	}
	// The commit that next/ belongs to may have been removed, and that not be
	// durable: it must not come back when next/ is gone.
	if _, err := fs.Lstat(nextDir); err == nil {
		if err := fs.SyncDir(ownDir); err != nil {
			return versioning.Version{}, err
		}
	}
	return versioning.Version{}, discard(fs)
}

// discard removes what was staged and never committed.
func discard(fs fsys.FS) error {
	for _, tmp := range []string{recordFile + ".tmp", commitFile + ".tmp", revokedFile + ".tmp", pendingFile + ".tmp", tagFile + ".tmp"} {
		if err := fsys.RemoveAll(fs, tmp); err != nil {
			return err
		}
	}
	return fsys.RemoveAll(fs, nextDir)
}

func abandon(fs fsys.FS) error {
	if _, err := fs.Lstat(appsDir); fsys.IsNotExist(err) {
		if err := fs.Rename(path.Join(nextDir, oldDir, appsDir), appsDir); err != nil && !fsys.IsNotExist(err) {
			return err
		}
	}
	if err := fs.SyncDir("."); err != nil {
		return err
	}
	if err := fsys.RemoveAll(fs, commitFile); err != nil {
		return err
	}
	return discard(fs)
}

// ownPlace makes way for a file of ours: its directory is there, and nothing
// but a file lies in its place. All below .tandem is ours to remove.
func ownPlace(fs fsys.FS, name string) error {
	if err := fsys.MkdirAll(fs, path.Dir(name), 0o755); err != nil {
		return err
	}
	if info, err := fs.Lstat(name); err != nil || info.Type == fsys.TypeFile {
		return nil
	}
	return fsys.RemoveAll(fs, name)
}

// finish puts the staged change in place: the tree or the files, then the
// record, then the tag. Each step looks at what is done already, so that it
// can be run again after a power cut at any point.
func (c *commit) finish(fs fsys.FS) error {
	var err error
	if c.Apps != 0 {
		err = c.swap(fs)
	} else {
		err = c.patch(fs)
	}
	if err != nil {
		return err
	}
	if err := moveStaged(fs, recordFile); err != nil {
		return err
	}
	if err := fs.SyncDir(ownDir); err != nil {
		return err
	}
	if err := moveStaged(fs, tagFile); err != nil {
		return err
	}
	// Without next all is in place, and the removal of commit.json was lost
	// although that of next, which came after it, was not.
	if err := syncDirs(fs, ".", nextDir); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	if err := c.keepOld(fs); err != nil {
		return err
	}
	if err := fs.Remove(commitFile); err != nil {
		return err
	}
	if err := fs.SyncDir(ownDir); err != nil {
		return err
	}
	return discard(fs)
}

func syncDirs(fs fsys.FS, names ...string) error {
	for _, n := range names {
		if err := fs.SyncDir(n); err != nil {
			return err
		}
	}
	return nil
}

// moveStaged moves the staged file to its name. A file that is not staged has
// been moved before.
func moveStaged(fs fsys.FS, name string) error {
	staged := path.Join(nextDir, path.Base(name))
	if _, err := fs.Lstat(staged); err != nil {
		if fsys.IsNotExist(err) {
			return nil
		}
		return err
	}
	if name != tagFile {
		if err := ownPlace(fs, name); err != nil {
			return err
		}
	} else if info, err := fs.Lstat(name); err == nil && info.Type == fsys.TypeDir {
		// Somebody made a directory of that name. It is not ours to delete.
		aside := name + ".damaged"
		if err := fsys.RemoveAll(fs, aside); err != nil {
			return err
		}
		if err := fs.Rename(name, aside); err != nil {
			return err
		}
	}
	return fs.Rename(staged, name)
}

// swap exchanges the tree with the staged one and leaves the old one in
// next/old/apps. After a power cut the inode number of the staged tree tells
// how far it came.
func (c *commit) swap(fs fsys.FS) error {
	staged, old := path.Join(nextDir, appsDir), path.Join(nextDir, oldDir, appsDir)
	now, err := fs.Lstat(appsDir)
	if err != nil && !fsys.IsNotExist(err) {
		return err
	}
	exists := err == nil
	if !exists || now.Ino != c.Apps {
		next, err := fs.Lstat(staged)
		if err != nil {
			return err
		}
		if next.Ino != c.Apps {
			return fmt.Errorf("%s: not the tree that was staged: expected inode %d, found %d", fs.Path(staged), c.Apps, next.Ino)
		}
		if exists {
			err = fs.Exchange(appsDir, staged)
			if errors.Is(err, fsys.ErrUnsupported) {
				if err := clearWay(fs, old); err != nil {
					return err
				}
				if err := fs.Rename(appsDir, old); err != nil {
					return err
				}
				if err := syncDirs(fs, ".", path.Join(nextDir, oldDir)); err != nil {
					return err
				}
				err = fs.Rename(staged, appsDir)
			}
		} else {
			err = fs.Rename(staged, appsDir)
		}
		if err != nil {
			return err
		}
		if err := syncDirs(fs, ".", nextDir); err != nil {
			return err
		}
	}
	if err := fs.Rename(staged, old); err != nil {
		if fsys.IsNotExist(err) {
			return nil // not left there, or moved on already
		}
		return err
	}
	return syncDirs(fs, nextDir, path.Join(nextDir, oldDir))
}

// clearWay moves an old tree that was moved out already to where people can
// look at it. It is in the way only if something made a new tree between the
// two renames, without recovery.
func clearWay(fs fsys.FS, old string) error {
	if _, err := fs.Lstat(old); err != nil {
		if fsys.IsNotExist(err) {
			return nil
		}
		return err
	}
	if err := fsys.RemoveAll(fs, damagedDir); err != nil {
		return err
	}
	if err := fs.Mkdir(damagedDir, 0o755); err != nil {
		return err
	}
	if err := fs.Rename(old, path.Join(damagedDir, appsDir)); err != nil {
		return err
	}
	return syncDirs(fs, path.Dir(old), damagedDir, ownDir)
}

// keepOld makes the tree that was swapped out the one that a rollback returns
// to, unless what was there had no name.
func (c *commit) keepOld(fs fsys.FS) error {
	old, keep := path.Join(nextDir, oldDir), prevDir
	if c.Damaged {
		keep = damagedDir
	}
	for _, part := range []string{appsDir, tagFile} {
		if _, err := fs.Lstat(path.Join(old, part)); err != nil {
			if fsys.IsNotExist(err) {
				return nil
			}
			return err
		}
	}
	if err := fsys.RemoveAll(fs, keep); err != nil {
		return err
	}
	if err := fs.Rename(old, keep); err != nil {
		return err
	}
	return syncDirs(fs, nextDir, ownDir)
}

// patch puts single files in place.
func (c *commit) patch(fs fsys.FS) error {
	dirs := map[string]bool{}
	info, err := fs.Lstat(appsDir)
	if err == nil && info.Type != fsys.TypeDir { // nothing that an application can be in
		err = fs.Remove(appsDir)
	}
	if err != nil && !fsys.IsNotExist(err) {
		return err
	}
	if info.Type != fsys.TypeDir {
		if err := fs.Mkdir(appsDir, 0o755); err != nil {
			return err
		}
		dirs["."] = true
	}
	for _, p := range c.Remove {
		name := app(".", p)
		if info, err := fs.Lstat(name); err == nil && !c.untouched(p, &info, true) {
			continue
		}
		if err := removeLeaf(fs, name); err != nil {
			return err
		}
		dirs[path.Dir(name)] = true
	}
	for i := range c.Put {
		if err := c.inPlace(fs, &c.Put[i]); err != nil {
			return err
		}
		dirs[path.Dir(app(".", c.Put[i].Entry.Path))] = true
		dirs[path.Join(nextDir, filesDir)] = true
	}
	for i := range c.Attr {
		if err := setAttr(fs, c.Attr[i]); err != nil {
			if fsys.IsNotExist(err) {
				continue
			}
			return err
		}
	}
	var order []string
	for d := range dirs {
		order = append(order, d)
	}
	slices.Sort(order)
	for _, d := range order {
		if err := fs.SyncDir(d); err != nil && !fsys.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// setAttrOf sets the attributes of what lies at name.
func setAttrOf(fs fsys.FS, name string, a fsys.Attr) error {
	is, err := fs.Lstat(name)
	if err != nil {
		return err
	}
	return fs.SetAttr(name, a, is)
}

// setAttr durably sets the attributes of an entry that is in place.
func setAttr(fs fsys.FS, e *Entry) error {
	name := app(".", e.Path)
	if err := setAttrOf(fs, name, e.attr()); err != nil {
		return err
	}
	switch e.Type {
	case Dir:
		return fs.SyncDir(name)
	case File:
		return syncFile(fs, name)
	}
	return nil
}

func syncFile(fs fsys.FS, name string) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (c *commit) inPlace(fs fsys.FS, p *place) error {
	name := app(".", p.Entry.Path)
	info, err := fs.Lstat(name)
	if err != nil && !fsys.IsNotExist(err) {
		return err
	}
	exists := err == nil
	switch p.Entry.Type {
	case Dir:
		if exists && info.Type != fsys.TypeDir {
			if err := fs.Remove(name); err != nil {
				return err
			}
			exists = false
		}
		if !exists {
			if err := fs.Mkdir(name, 0o700); err != nil {
				return err
			}
		}
		if err := setAttrOf(fs, name, p.Entry.attr()); err != nil {
			return err
		}
		return fs.SyncDir(name)
	case Hardlink:
		to := app(".", p.Entry.Link)
		target, err := fs.Lstat(to)
		if err != nil {
			return err
		}
		if exists && info.Ino == target.Ino {
			return nil
		}
		if exists {
			if err := fsys.RemoveAll(fs, name); err != nil {
				return err
			}
		}
		return fs.Link(to, name)
	}
	staged := path.Join(nextDir, filesDir, p.File)
	if _, err := fs.Lstat(staged); fsys.IsNotExist(err) {
		return nil // in place already
	}
	if !c.untouched(p.Entry.Path, &info, exists) {
		return nil // the next look takes it for what it is
	}
	if exists && info.Type == fsys.TypeDir {
		if err := fsys.RemoveAll(fs, name); err != nil {
			return err
		}
	}
	return fs.Rename(staged, name)
}

// freshAttr is attr for an entry that was just made, and has no attributes yet
// that would have to go.
func (e *Entry) freshAttr() fsys.Attr {
	return fsys.Attr{Mode: uint32(e.Mode), UID: e.UID, GID: e.GID, Mtime: e.Mtime, Xattrs: e.Xattrs}
}

func (e *Entry) attr() fsys.Attr {
	x := e.Xattrs
	if x == nil {
		x = map[string][]byte{}
	}
	return fsys.Attr{Mode: uint32(e.Mode), UID: e.UID, GID: e.GID, Mtime: e.Mtime, Xattrs: x}
}
