package tree

import (
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
)

// Moment is when, and of what, an index is made.
type Moment struct {
	Boot string
	Now  int64 // in nanoseconds since 1970-01-01 UTC
	Live bool  // others write there, too
	Weak map[manifest.Path]bool
}

// After returns the index of a side that was changed to rec, whose body has the
// digest sum: of what was found good before and has not moved since, and of what
// was placed, by its inode; and whether all that lies there was found good in that way.
// before may be nil.
func After(t *Tree, before *Facts, rec *record.Record, sum digest.SHA256, placed func(manifest.Path) (ino uint64, ok bool), m Moment) (x *Index, all bool) {
	x = &Index{Boot: m.Boot, Record: sum, Weak: len(m.Weak) > 0 || before != nil && before.Weak}
	x.entries.Bytes = make([]byte, 0, usualEntry*rec.Len())
	all = true
	c, was := t.Nodes(), before.nodes()
	for e := range rec.Entries() {
		x.count(e)
		n, old := c.On(e.Path), was.On(e.Path)
		if n != nil && after(before, e, n, old, placed) {
			x.add(n, m.flags(rec, e, n))
			continue
		}
		all = false
		// It was there a moment ago: what it is now came since then.
		if ino, ok := placed(e.Path); ok {
			x.add(&Node{Path: e.Path, Ino: ino}, 0)
		} else if has := before.Has(e.Path); has != nil && manifest.SameContent(has, e) {
			x.add(old, 0)
		} else if has != nil || before.uncaptured(e.Path) {
			x.add(&Node{Path: e.Path}, 0)
		}
	}
	x.finish(rec)
	return x, all
}

// nodes goes through what was found. It is safe without facts.
func (f *Facts) nodes() *Cursor {
	if f == nil {
		return (&list{}).Nodes()
	}
	return f.Tree.Nodes()
}

// uncaptured reports whether p is configuration that is known to have been there
// in this run of the machine, and to be another now. In an index it fits nothing:
// once it is gone, it was removed on purpose.
func (f *Facts) uncaptured(p manifest.Path) bool {
	o := f.At(p)
	return o != nil && o.Entry != nil && (o.Finding == Edited || o.Finding == Deleted || o.Finding == Busy)
}

// flags returns what an index notes of n, which lies there as the entry e of rec says.
func (m Moment) flags(rec *record.Record, e *manifest.Entry, n *Node) uint64 {
	dir := n.IsDir()
	switch {
	case !m.Live || dir && !rec.Captures(e):
		return 0
	case dir && len(e.Xattrs) == 0:
		return bare
	case dir || n.Ctime+Granule(n.Ctime) > m.Now:
		return racy
	}
	return 0
}

// Young reports whether n was written less than a tick of the clock ago: in a
// moment its stamps tell more.
func (m Moment) Young(n *Node) bool {
	age := m.Now - n.Ctime
	return !n.IsDir() && age >= 0 && age < Tick && n.Ctime%second != 0
}

// after reports whether n is known to hold e; was is what lay there before, nil for nothing.
func after(before *Facts, e *manifest.Entry, n, was *Node, placed func(manifest.Path) (ino uint64, ok bool)) bool {
	switch e.Type {
	case manifest.Dir:
		return n.IsDir() && manifest.Mode(n.Mode) == e.Mode && n.UID == e.UID && n.GID == e.GID
	case manifest.Symlink:
		return n.kind == kindSymlink && n.target() == string(e.Target) && n.UID == e.UID && n.GID == e.GID
	case manifest.Hardlink:
		return n.Link() == e.Link
	}
	if n.kind != kindFile || n.Size != e.Size {
		return false
	}
	if ino, ok := placed(e.Path); ok {
		return n.Ino == ino && SameTime(n.Mtime, e.Mtime) // else somebody wrote into it already
	}
	if was == nil {
		return false
	}
	has := before.HasAt(was)
	return has != nil && manifest.Equal(has, e) && was.same(n)
}
