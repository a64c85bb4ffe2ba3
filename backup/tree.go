package backup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// found is what lies at a path of a side.
type found struct {
	info   fsys.Info
	target string            // of a symbolic link
	link   Path              // the first path of the same inode, if this is not it
	sum    *digest.SHA256    // of the content, once it is known
	xattrs map[string][]byte // with sum
	err    error             // why it cannot be read
}

// tree is what lies below a directory, as a stat walk finds it.
type tree struct {
	fs     fsys.FS
	root   string // of the tree, on fs
	byPath map[Path]*found
	paths  []Path // sorted
}

// scan walks the directory root of fs. What cannot be read is part of the
// result; only a missing root is an error.
func scan(ctx context.Context, fs fsys.FS, root string) (*tree, error) {
	t := &tree{fs: fs, root: root, byPath: make(map[Path]*found)}
	if err := t.walk(ctx, ""); err != nil {
		return nil, err
	}
	slices.Sort(t.paths)
	first := make(map[uint64]Path)
	for _, p := range t.paths {
		f := t.byPath[p]
		if f.info.Type != fsys.TypeFile || f.info.Nlink < 2 {
			continue
		}
		if q, ok := first[f.info.Ino]; ok {
			f.link = q
		} else {
			first[f.info.Ino] = p
		}
	}
	return t, nil
}

func (t *tree) walk(ctx context.Context, dir Path) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	infos, err := t.fs.ReadDir(t.name(dir))
	if err != nil {
		if f := t.byPath[dir]; f != nil {
			f.err = err
			return nil
		}
		return err
	}
	for _, info := range infos {
		p := Path(path.Join(string(dir), info.Name))
		f := &found{info: info}
		t.byPath[p] = f
		t.paths = append(t.paths, p)
		switch info.Type {
		case fsys.TypeDir:
			if err := t.walk(ctx, p); err != nil {
				return err
			}
		case fsys.TypeSymlink:
			f.target, f.err = t.fs.Readlink(t.name(p))
		}
	}
	return nil
}

func (t *tree) name(p Path) string { return path.Join(t.root, string(p)) }

// get is safe on a side without a tree.
func (t *tree) get(p Path) *found {
	if t == nil {
		return nil
	}
	return t.byPath[p]
}

// empty says whether there is nothing at all.
func (t *tree) empty() bool { return t == nil || len(t.paths) == 0 }

// hash gives the digest of the file at p, and remembers it. A file that
// changes while it is read is read again.
func (t *tree) hash(ctx context.Context, p Path, buf []byte) (digest.SHA256, error) {
	f := t.byPath[p]
	if f.sum != nil {
		return *f.sum, nil
	}
	if f.err != nil {
		return digest.SHA256{}, f.err
	}
	for range hashAttempts {
		content, err := readContent(ctx, t.fs, t.name(p), buf)
		if err != nil {
			if ctx.Err() == nil {
				f.err = err
			}
			return digest.SHA256{}, err
		}
		info := content.info
		info.Name = f.info.Name
		settled := content.size == info.Size && info.Size == f.info.Size && info.Mtime == f.info.Mtime && info.Ino == f.info.Ino
		f.info, f.xattrs = info, content.xattrs
		if settled {
			f.sum = &content.sum
			return content.sum, nil
		}
	}
	f.err = fmt.Errorf("%s: %w", t.fs.Path(t.name(p)), errUnsettled)
	return digest.SHA256{}, f.err
}

// hashAttempts is how often a file that is being written is read again.
const hashAttempts = 5

var errUnsettled = errors.New("keeps changing while it is read")

// content is what a file holds, and what was said of it once that was read.
type content struct {
	sum    digest.SHA256
	size   int64
	info   fsys.Info
	xattrs map[string][]byte
}

func readContent(ctx context.Context, fs fsys.FS, name string, buf []byte) (c content, err error) {
	f, err := fs.Open(name)
	if err != nil {
		return c, err
	}
	defer f.Close()
	if c.sum, c.size, err = digest.OfReader(withContext(ctx, f), buf); err != nil {
		return c, err
	}
	if c.info, err = f.Stat(); err != nil {
		return c, err
	}
	c.xattrs, err = f.Xattrs()
	return c, err
}

// entry describes what lies at p, content included.
func (t *tree) entry(ctx context.Context, p Path, buf []byte) (Entry, error) {
	f := t.byPath[p]
	e := Entry{Path: p, Mode: Mode(f.info.Mode), UID: f.info.UID, GID: f.info.GID, Mtime: f.info.Mtime}
	switch {
	case f.err != nil:
		return e, f.err
	case f.info.Type == fsys.TypeSymlink:
		e.Type, e.Mode, e.Target = Symlink, 0, Path(f.target)
		return e, nil
	case f.link != "":
		return Entry{Path: p, Type: Hardlink, Link: f.link}, nil
	case f.info.Type == fsys.TypeDir:
		e.Type = Dir
	case f.info.Type == fsys.TypeFile:
		e.Type = File
		sum, err := t.hash(ctx, p, buf)
		if err != nil {
			return e, err
		}
		e.SHA256, e.Size, e.Mtime, e.Xattrs = &sum, f.info.Size, f.info.Mtime, f.xattrs
		return e, nil
	default:
		return e, errNotRegular
	}
	xattrs, err := t.fs.Xattrs(t.name(p))
	if err != nil {
		return e, err
	}
	e.Xattrs = xattrs
	return e, nil
}

// match says how what lies at a path compares to an entry.
type match int

const (
	matches     match = iota
	attrDiffers       // content as wanted; mode, owner or xattrs are not
	differs
	missing
	unreadable
)

// compare compares by size, mode, owner and time, and reads the content only
// where these leave a doubt, or where full is set.
func (t *tree) compare(ctx context.Context, e *Entry, full bool, buf []byte) (match, error) {
	f := t.get(e.Path)
	if f == nil {
		return missing, nil
	}
	if f.err != nil {
		return unreadable, f.err
	}
	switch e.Type {
	case Hardlink:
		if f.link == e.Link {
			return matches, nil
		}
		return differs, nil
	case Symlink:
		if f.info.Type != fsys.TypeSymlink || f.target != string(e.Target) {
			return differs, nil
		}
		if f.info.UID != e.UID || f.info.GID != e.GID {
			return attrDiffers, nil
		}
		return matches, nil
	case Dir:
		if f.info.Type != fsys.TypeDir {
			return differs, nil
		}
	case File:
		if f.info.Type != fsys.TypeFile || f.link != "" || f.info.Size != e.Size {
			return differs, nil
		}
		if full || f.sum != nil || e.Fresh || !sameMtime(f.info.Mtime, e.Mtime) {
			sum, err := t.hash(ctx, e.Path, buf)
			if err := ctx.Err(); err != nil {
				return unreadable, err
			}
			if err != nil {
				return unreadable, err
			}
			if sum != *e.SHA256 {
				return differs, nil
			}
		}
	}
	if Mode(f.info.Mode) != e.Mode || f.info.UID != e.UID || f.info.GID != e.GID {
		return attrDiffers, nil
	}
	if full {
		xattrs := f.xattrs
		if e.Type != File {
			var err error
			if xattrs, err = t.fs.Xattrs(t.name(e.Path)); err != nil {
				return unreadable, err
			}
		}
		if !sameXattrs(xattrs, e.Xattrs) {
			return attrDiffers, nil
		}
	}
	return matches, nil
}

const second = 1_000_000_000

// freshFor is how long after its last write a file may be written again in the
// same second, as clocks and file systems count it.
const freshFor = 2 * second

// sameMtime compares a file's time with a recorded one; the file may lie on a
// file system that keeps whole seconds only.
func sameMtime(found, recorded int64) bool {
	return found == recorded || found%second == 0 && found/second == recorded/second
}
