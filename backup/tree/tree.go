// Package tree finds facts: what lies on a side, and how that compares to what
// a record says. It changes nothing. Its facts are values that nobody changes
// afterwards, and it is the one place that decides what an error of the disk
// means.
//
// Work is bounded: no file is read past the size that it had at first, holes are
// not read, and what is deeper, more or larger than the limits below is named
// and left alone.
package tree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// The limits of a tree. What lies beyond is none of Tandem's.
const (
	maxDepth   = 64      // directories below each other
	maxEntries = 250_000 // of a tree
	maxPath    = 3900    // bytes of a path: where a file is staged it is longer, and Linux has 4,095
	maxHole    = 1 << 30 // bytes that a file may have more than it takes on the disk
)

// ErrBeyond says that something is deeper, more or larger than Tandem keeps.
var ErrBeyond = errors.New("beyond what Tandem keeps")

// Node is what lies at a path of a side. A tree has as many as files, so that
// each field counts: it says what fsys.Info says, and keeps elsewhere what few
// files have.
type Node struct {
	Path  manifest.Path
	Size  int64
	Alloc int64
	Mtime int64
	Ctime int64
	Dev   uint64
	Ino   uint64
	rare  *rare
	UID   uint32
	GID   uint32
	Nlink uint32
	Mode  uint16
	kind  kind
	flags uint8
}

// rare is what most files do not have.
type rare struct {
	target string        // of a symbolic link
	link   manifest.Path // the first path of the same inode, if this is not it
	err    error         // why it cannot be read
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

const (
	flagMount   uint8 = 1 << iota // something is mounted on it, or it is of another file system
	flagFixed                     // immutable or append-only
	flagSeen                      // the index has an entry for its path
	flagFits                      // and that describes what lies there now
	flagUnnamed                   // its path cannot be written down
	flagRacy                      // but was made within the granule of its last write
	flagTold                      // what it holds was found out for the record that it is compared with
)

// Type returns what n is.
func (n *Node) Type() fsys.Type { return kinds[n.kind] }

// EntryType returns what n is as an entry.
func (n *Node) EntryType() manifest.EntryType {
	return [...]manifest.EntryType{manifest.File, manifest.Dir, manifest.Symlink, manifest.Other}[n.kind]
}

// IsDir reports whether n is a directory of the tree.
func (n *Node) IsDir() bool { return n.kind == kindDir }

// IsFile reports whether n is a regular file.
func (n *Node) IsFile() bool { return n.kind == kindFile }

// Foreign reports whether n is not Tandem's to keep: a socket, FIFO or device
// node, or a directory that another file system is mounted on.
func (n *Node) Foreign() bool {
	return n.kind == kindOther || n.kind == kindDir && n.flags&flagMount != 0
}

// Fixed reports whether n cannot be replaced: it is immutable or append-only, or
// something is mounted on it.
func (n *Node) Fixed() bool { return n.flags&(flagMount|flagFixed) != 0 }

// target returns where a symbolic link points to.
func (n *Node) target() string {
	if n.rare == nil {
		return ""
	}
	return n.rare.target
}

// Link returns the first path of the same inode; "" if n is that, or the only one.
func (n *Node) Link() manifest.Path {
	if n.rare == nil {
		return ""
	}
	return n.rare.link
}

// Err returns why n cannot be read, or what is below it.
func (n *Node) Err() error {
	if n == nil || n.rare == nil {
		return nil
	}
	return n.rare.err
}

// Known reports whether n holds what the record of an index says that was marked on
// its tree.
func (n *Node) Known() bool { return n.flags&(flagFits|flagRacy) == flagFits }

// same reports whether nothing seems to have happened to n between two looks.
func (n *Node) same(m *Node) bool {
	return n.kind == m.kind && n.Ino == m.Ino && n.Ctime == m.Ctime && n.Mtime == m.Mtime && n.Size == m.Size &&
		n.Mode == m.Mode && n.UID == m.UID && n.GID == m.GID && n.Fixed() == m.Fixed()
}

// sameContent reports whether n was not written to between two looks, whatever
// name it has now.
func (n *Node) sameContent(m *Node) bool {
	return n.kind == m.kind && n.Ino == m.Ino && n.Mtime == m.Mtime && n.Size == m.Size
}

func node(p manifest.Path, i *fsys.Info) *Node {
	n := &Node{}
	n.set(p, i)
	return n
}

// set makes n what i says of p.
func (n *Node) set(p manifest.Path, i *fsys.Info) {
	*n = Node{
		Path: p, Size: i.Size, Alloc: i.Alloc, Mtime: i.Mtime, Ctime: i.Ctime, Dev: i.Dev, Ino: i.Ino,
		UID: i.UID, GID: i.GID, Nlink: uint32(i.Nlink), Mode: uint16(i.Mode),
		kind: kind(slices.Index(kinds[:], i.Type)),
	}
	if i.Mount {
		n.flags |= flagMount
	}
	if i.Fixed {
		n.flags |= flagFixed
	}
}

// Tree is what lies below a directory, as a walk found it.
type Tree struct {
	FS   fsys.FS
	Root string // of the tree, on FS
	list
}

// Scan walks the directory root of fs. What cannot be read is part of the
// result. An error means that nothing was found out: root is missing
// (fsys.IsNotExist), the kernel had no means (fsys.IsTransient), or ctx ended.
func Scan(ctx context.Context, fs fsys.FS, root string) (*Tree, error) {
	t := &Tree{FS: fs, Root: root}
	w := walker{Tree: t, ctx: ctx, found: t.add}
	if err := w.walk("", 0); err != nil {
		return nil, err
	}
	t.findLinks()
	return t, nil
}

// walker walks a tree in the order of paths.
type walker struct {
	*Tree
	ctx   context.Context
	found func(*Node) // which is good until the next one
	node  Node
	n     int // of nodes
}

// walk finds what lies in the directory at, "" for the root, and below it.
func (w *walker) walk(at manifest.Path, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	infos, err := w.FS.ReadDir(w.Name(at))
	switch {
	case err == nil:
	case at == "" || Means(err) == Nothing:
		return err
	default:
		w.seldom(at).err = err
		return nil
	}
	switch {
	case depth >= maxDepth && len(infos) > 0:
		w.seldom(at).err = fmt.Errorf("%w: deeper than %d directories", ErrBeyond, maxDepth)
		return nil
	case at != "" && w.n+len(infos) > maxEntries:
		w.seldom(at).err = fmt.Errorf("%w: more than %d files", ErrBeyond, maxEntries)
		return nil
	}
	for _, s := range steps(infos) {
		p := below(string(at), s.info.Name)
		if !s.below {
			err = w.look(p, s.info)
		} else if named(p) {
			err = w.walk(p, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// named reports whether p can be written down.
func named(p manifest.Path) bool { return len(p) <= maxPath && manifest.CheckPath(p) == nil }

// look finds what lies at p itself.
func (w *walker) look(p manifest.Path, i *fsys.Info) error {
	n := &w.node
	n.set(p, i)
	switch {
	case !named(p):
		n.flags |= flagUnnamed
		w.seldom(p).err = fmt.Errorf("%w: its path is too long", ErrBeyond)
	case n.kind == kindSymlink:
		target, err := w.FS.Readlink(w.Name(p))
		if err != nil && Means(err) == Nothing {
			return err
		}
		r := w.seldom(p)
		r.target, r.err = target, err
	case n.kind == kindFile && n.Size-n.Alloc > maxHole:
		w.seldom(p).err = fmt.Errorf("%w: %d bytes long, of which it has %d on the disk", ErrBeyond, n.Size, n.Alloc)
	}
	w.found(n)
	w.n++
	return nil
}

// Again returns the tree as it is once the paths in at, and what is new below them,
// were looked at again. All of it is where a file has several names, or at has
// the root. The error is one of those of Scan.
func (t *Tree) Again(ctx context.Context, at map[manifest.Path]bool) (*Tree, error) {
	if len(at) == 0 {
		return t, nil
	}
	now := &Tree{FS: t.FS, Root: t.Root}
	var found []*Node
	w := walker{Tree: now, ctx: ctx, n: t.n}
	w.found = func(n *Node) {
		own := *n
		found = append(found, &own)
	}
	for p := range at {
		info, err := t.FS.Lstat(t.Name(p))
		switch {
		case fsys.IsNotExist(err), errors.Is(err, fsys.ErrElsewhere): // a directory above it may be a link by now
			continue
		case err != nil:
			return nil, err
		}
		if err = w.look(p, &info); err != nil {
			return nil, err
		}
		if n := &w.node; n.IsDir() && !n.Foreign() && named(p) {
			if was := t.Get(p); was == nil || !was.IsDir() {
				err = w.walk(p, strings.Count(string(p), "/")+1)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(found, byPath)
	several := at["."]
	add := func(n *Node) {
		if now.n == 0 || now.last.Path != n.Path {
			several = several || n.kind == kindFile && n.Nlink > 1
			now.add(n)
		}
	}
	kept := t.Nodes()
	keep := func() {
		if n := kept.Node(); !at[n.Path] {
			if n.rare != nil {
				*now.seldom(n.Path) = *n.rare
			}
			add(n)
		}
	}
	for _, n := range found {
		for kept.Before(n.Path) {
			keep()
		}
		add(n)
	}
	for kept.Next() {
		keep()
	}
	if several {
		return Scan(ctx, t.FS, t.Root)
	}
	return now, nil
}

// Listing returns what lies in these directories now, and nothing of what lies below that.
// A directory that cannot be read lists nothing.
func (t *Tree) Listing(dirs map[manifest.Path]bool) (*Tree, error) {
	now := &Tree{FS: t.FS, Root: t.Root}
	var found []*Node
	for dir := range dirs {
		infos, err := t.FS.ReadDir(t.Name(dir))
		if err != nil && Means(err) == Nothing {
			return nil, err
		}
		at := string(dir)
		if at == "." {
			at = ""
		}
		for i := range infos {
			found = append(found, node(below(at, infos[i].Name), &infos[i]))
		}
	}
	slices.SortFunc(found, byPath)
	for _, n := range found {
		now.add(n)
	}
	return now, nil
}

func byPath(a, b *Node) int { return strings.Compare(string(a.Path), string(b.Path)) }

// findLinks notes which names are further names of a file.
func (t *Tree) findLinks() {
	var several []*Node
	for c := t.Nodes(); c.Next(); {
		if c.found.kind == kindFile && c.found.Nlink > 1 {
			n := *c.Node()
			several = append(several, &n)
		}
	}
	slices.SortFunc(several, func(a, b *Node) int { return cmp.Or(cmp.Compare(a.Ino, b.Ino), byPath(a, b)) })
	for i, first := 1, 0; i < len(several); i++ {
		if several[i].Ino == several[first].Ino {
			t.seldom(several[i].Path).link = several[first].Path
		} else {
			first = i
		}
	}
}

// Name returns the name of p on the side's file system.
func (t *Tree) Name(p manifest.Path) string { return path.Join(t.Root, string(p)) }

// Get returns what lies at p; nil if nothing does. It is safe without a tree.
func (t *Tree) Get(p manifest.Path) *Node {
	if t == nil {
		return nil
	}
	return t.get(p)
}

// Told notes that the record that the node i is compared with next was made from what that
// holds.
func (t *Tree) Told(i int) { t.note(i, flagTold) }

// Empty reports whether there is nothing at all.
func (t *Tree) Empty() bool { return t == nil || t.n == 0 }

// Above returns the nearest directory above p that is there, or what is in its
// place; nil for the root.
func (t *Tree) Above(p manifest.Path) *Node {
	for dir := path.Dir(string(p)); dir != "."; dir = path.Dir(dir) {
		if n := t.Get(manifest.Path(dir)); n != nil {
			return n
		}
	}
	return nil
}

// content is what a file holds.
type content struct {
	sum    digest.SHA256
	xattrs map[string][]byte
}

// errUnsettled says that a file is being written.
var errUnsettled = errors.New("keeps changing while it is read")

// read hashes the file of n, which must be and stay what n says: else the error
// is errUnsettled. What it holds is right all the same where only its names or
// attributes changed meanwhile.
func (t *Tree) read(ctx context.Context, n *Node) (c content, err error) {
	f, err := t.FS.Open(t.Name(n.Path))
	if err != nil {
		return c, err
	}
	defer f.Close()
	if c.sum, err = hash(ctx, f, n); err != nil {
		return c, err
	}
	now, err := f.Stat()
	if err != nil {
		return c, err
	}
	if c.xattrs, err = f.Xattrs(); err == nil && (!n.sameContent(node(n.Path, &now)) || n.Ctime != now.Ctime) {
		err = fmt.Errorf("%s: %w", t.FS.Path(t.Name(n.Path)), errUnsettled)
	}
	return c, err
}

// Info returns what a look at n said of it.
func (n *Node) Info() fsys.Info {
	return fsys.Info{
		Name: path.Base(string(n.Path)), Type: n.Type(), Mode: uint32(n.Mode), UID: n.UID, GID: n.GID,
		Size: n.Size, Alloc: n.Alloc, Mtime: n.Mtime, Ctime: n.Ctime, Dev: n.Dev, Ino: n.Ino, Nlink: uint64(n.Nlink),
		Mount: n.flags&flagMount != 0, Fixed: n.flags&flagFixed != 0,
	}
}
