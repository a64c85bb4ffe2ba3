package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// found is what lies at a path of a side. A tree has as many as files, so that
// each field counts: it says what fsys.Info says, and keeps elsewhere what few
// files have.
type found struct {
	path  Path
	sum   *digest.SHA256 // of the content, once it is known
	size  int64
	alloc int64
	mtime int64
	ino   uint64
	rare  *rare
	uid   uint32
	gid   uint32
	nlink uint32
	mode  uint16
	kind  kind
}

// rare is what most files do not have.
type rare struct {
	target string            // of a symbolic link
	link   Path              // the first path of the same inode, if this is not it
	xattrs map[string][]byte // with sum
	err    error             // why it cannot be read
}

// kind is an fsys.Type in one byte.
type kind uint8

const (
	kindFile kind = iota
	kindDir
	kindSymlink
	kindOther
)

var kinds = [...]fsys.Type{kindFile: fsys.TypeFile, kindDir: fsys.TypeDir, kindSymlink: fsys.TypeSymlink, kindOther: fsys.TypeOther}

func (f *found) is(t fsys.Type) bool { return kinds[f.kind] == t }

// take notes what a look at the disk said.
func (f *found) take(i *fsys.Info) {
	f.size, f.alloc, f.mtime, f.ino = i.Size, i.Alloc, i.Mtime, i.Ino
	f.uid, f.gid, f.nlink, f.mode = uint32(i.UID), uint32(i.GID), uint32(i.Nlink), uint16(i.Mode)
	f.kind = kind(slices.Index(kinds[:], i.Type))
}

// same says whether nothing seems to have happened to a file between two looks.
func (f *found) same(g *found) bool {
	return f.kind == g.kind && f.size == g.size && f.alloc == g.alloc && f.mtime == g.mtime && f.ino == g.ino &&
		f.uid == g.uid && f.gid == g.gid && f.mode == g.mode && f.nlink == g.nlink
}

// seldom gives the part that most do not have, to be changed.
func (f *found) seldom() *rare {
	if f.rare == nil {
		f.rare = &rare{}
	}
	return f.rare
}

func (f *found) target() string {
	if f.rare == nil {
		return ""
	}
	return f.rare.target
}

func (f *found) link() Path {
	if f.rare == nil {
		return ""
	}
	return f.rare.link
}

func (f *found) err() error {
	if f.rare == nil {
		return nil
	}
	return f.rare.err
}

func (f *found) setErr(err error) {
	if err != nil || f.rare != nil {
		f.seldom().err = err
	}
}

func (f *found) xattrs() map[string][]byte {
	if f.rare == nil {
		return nil
	}
	return f.rare.xattrs
}

// tree is what lies below a directory, as a stat walk finds it.
type tree struct {
	fs    fsys.FS
	root  string   // of the tree, on fs
	found []*found // sorted by path
	next  int      // what get is likely to be asked for: callers go in order
}

// scan walks the directory root of fs. What cannot be read is part of the
// result; only a missing root is an error. Paths that known has are taken from
// there, so that they are in memory once.
func scan(ctx context.Context, fs fsys.FS, root string, known *Record) (*tree, error) {
	t := &tree{fs: fs, root: root}
	var names []*Entry
	if known != nil {
		t.found = make([]*found, 0, known.size())
		names = slices.Collect(known.entries())
	}
	if err := t.walk(ctx, nil); err != nil {
		return nil, err
	}
	slices.SortFunc(t.found, func(a, b *found) int { return strings.Compare(string(a.path), string(b.path)) })
	for _, f := range t.found {
		for len(names) > 0 && names[0].Path < f.path {
			names = names[1:]
		}
		if len(names) > 0 && names[0].Path == f.path {
			f.path = names[0].Path
		}
	}
	t.findLinks()
	return t, nil
}

// findLinks notes which names are further names of a file.
func (t *tree) findLinks() {
	var several []*found
	for _, f := range t.found {
		if f.kind == kindFile && f.nlink > 1 {
			several = append(several, f)
		}
	}
	slices.SortStableFunc(several, func(a, b *found) int { return cmp.Compare(a.ino, b.ino) })
	for i, first := 1, 0; i < len(several); i++ {
		if several[i].ino == several[first].ino {
			several[i].seldom().link = several[first].path
		} else {
			first = i
		}
	}
}

// walk adds what lies in a directory, nil for the root, and below it.
func (t *tree) walk(ctx context.Context, dir *found) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at := ""
	if dir != nil {
		at = string(dir.path)
	}
	infos, err := t.fs.ReadDir(t.name(Path(at)))
	if err != nil && dir != nil {
		dir.seldom().err = err
		return nil
	}
	if err != nil {
		return err
	}
	for i := range infos {
		f := &found{path: Path(path.Join(at, infos[i].Name))}
		f.take(&infos[i])
		t.found = append(t.found, f)
		switch f.kind {
		case kindDir:
			if err := t.walk(ctx, f); err != nil {
				return err
			}
		case kindSymlink:
			r := f.seldom()
			r.target, r.err = t.fs.Readlink(t.name(f.path))
		}
	}
	return nil
}

func (t *tree) name(p Path) string { return path.Join(t.root, string(p)) }

// get gives what lies at p; nil if nothing does. It is safe on a side without
// a tree.
func (t *tree) get(p Path) *found {
	if t == nil {
		return nil
	}
	if t.next >= len(t.found) || t.found[t.next].path != p {
		i, ok := slices.BinarySearchFunc(t.found, p, func(f *found, p Path) int { return strings.Compare(string(f.path), string(p)) })
		if !ok {
			return nil
		}
		t.next = i
	}
	f := t.found[t.next]
	t.next++
	return f
}

// empty says whether there is nothing at all.
func (t *tree) empty() bool { return t == nil || len(t.found) == 0 }

// hash gives the digest of the file at p, and remembers it. A file that
// changes while it is read is read again.
func (t *tree) hash(ctx context.Context, f *found, buf []byte) (*digest.SHA256, error) {
	if f.sum != nil {
		return f.sum, nil
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	for range hashAttempts {
		content, err := readContent(ctx, t.fs, t.name(f.path), buf)
		if err != nil {
			if ctx.Err() == nil {
				f.setErr(err)
			}
			return nil, err
		}
		i := &content.info
		settled := content.size == i.Size && i.Size == f.size && i.Mtime == f.mtime && i.Ino == f.ino
		f.take(i)
		if content.xattrs != nil || f.rare != nil {
			f.seldom().xattrs = content.xattrs
		}
		if settled {
			f.sum = new(content.sum)
			return f.sum, nil
		}
	}
	f.setErr(fmt.Errorf("%s: %w", t.fs.Path(t.name(f.path)), errUnsettled))
	return nil, f.err()
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

// entry describes what was found, content included. A hard link is told as
// such, unless it is to be a file of its own.
func (t *tree) entry(ctx context.Context, f *found, own bool, buf []byte) (*Entry, error) {
	e := &Entry{Path: f.path, Mode: Mode(f.mode), UID: int(f.uid), GID: int(f.gid), Mtime: f.mtime}
	switch {
	case f.err() != nil:
		return nil, f.err()
	case f.kind == kindSymlink:
		e.Type, e.Mode, e.Target = Symlink, 0, Path(f.target())
		return e, nil
	case f.link() != "" && !own:
		return &Entry{Path: f.path, Type: Hardlink, Link: f.link()}, nil
	case f.kind == kindDir:
		e.Type = Dir
	case f.kind == kindFile:
		sum, err := t.hash(ctx, f, buf)
		if err != nil {
			return nil, err
		}
		e.Type, e.SHA256, e.Size, e.Mtime, e.Xattrs = File, sum, f.size, f.mtime, f.xattrs()
		return e, nil
	default:
		return nil, errNotRegular
	}
	xattrs, err := t.fs.Xattrs(t.name(f.path))
	if err != nil {
		return nil, err
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
	if err := f.err(); err != nil {
		return unreadable, err
	}
	switch e.Type {
	case Hardlink:
		if f.link() == e.Link {
			return matches, nil
		}
		return differs, nil
	case Symlink:
		if f.kind != kindSymlink || f.target() != string(e.Target) {
			return differs, nil
		}
		if int(f.uid) != e.UID || int(f.gid) != e.GID {
			return attrDiffers, nil
		}
		return matches, nil
	case Dir:
		if f.kind != kindDir {
			return differs, nil
		}
	case File:
		if f.kind != kindFile || f.link() != "" || f.size != e.Size {
			return differs, nil
		}
		if full || f.sum != nil || e.Fresh || !sameMtime(f.mtime, e.Mtime) {
			sum, err := t.hash(ctx, f, buf)
			if err := ctx.Err(); err != nil {
				return unreadable, err
			}
			if err != nil {
				return unreadable, err
			}
			if *sum != *e.SHA256 {
				return differs, nil
			}
			f.sum = e.SHA256 // one of the two is enough
		}
	}
	if Mode(f.mode) != e.Mode || int(f.uid) != e.UID || int(f.gid) != e.GID {
		return attrDiffers, nil
	}
	if full {
		xattrs := f.xattrs()
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
