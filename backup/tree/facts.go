package tree

import (
	"iter"
	"path"
	"sort"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
)

// Finding is what became of a path.
type Finding string

// The findings. What is as the record says has none.
const (
	Edited     Finding = "edited"     // configuration was written, made or replaced here
	Deleted    Finding = "deleted"    // configuration was removed here
	Corrupt    Finding = "damaged"    // its content is not what the record says
	Missing    Finding = "missing"    // it is not there
	Unreadable Finding = "unreadable" // the disk does not give it
	Attributes Finding = "attributes" // mode, owner or extended attributes are wrong
	Extra      Finding = "unexpected" // it has no place in a backup
	Busy       Finding = "busy"       // it is being written
	Unknown    Finding = "unknown"    // the disk does not say, for a reason of its own: it is left as it is
	Skipped    Finding = "skipped"    // not Tandem's, or beyond what it keeps: it is left as it is
)

// IsDamage reports whether the finding is something to mend.
func (f Finding) IsDamage() bool {
	switch f {
	case Corrupt, Missing, Unreadable, Attributes, Extra:
		return true
	}
	return false
}

// Fact is what was found at a path that is not as the record says.
type Fact struct {
	Path    manifest.Path
	Finding Finding
	Entry   *manifest.Entry // what the record says; nil for what it does not know
	Node    *Node           // what lies there; nil for nothing
	Now     *manifest.Entry // the same with its content, where that was read
	Detail  string          // for people
	// Aside says that what lies there, or the last capture of what is gone, may
	// be of worth to somebody.
	Aside bool
}

// Facts are what a look at a side found. Nobody changes them afterwards.
type Facts struct {
	Tree    *Tree
	Basis   *record.Record // what the files were compared with
	Sum     digest.SHA256  // of the basis, as it lies on the side; zero if it does not
	Odd     []Fact         // what is not as the basis says, sorted by path
	Foreign []manifest.Path
	// Weak says that the file system cannot keep all attributes.
	Weak bool
}

// At returns what was found at p; nil if it is as the basis says, or nobody
// knows it. It is safe without facts.
func (f *Facts) At(p manifest.Path) *Fact {
	if f == nil {
		return nil
	}
	if i := sort.Search(len(f.Odd), func(i int) bool { return f.Odd[i].Path >= p }); i < len(f.Odd) && f.Odd[i].Path == p {
		return &f.Odd[i]
	}
	return nil
}

// Has returns what is known to lie at p, content included: as the basis says, or
// as it was read. nil if that is not known.
func (f *Facts) Has(p manifest.Path) *manifest.Entry {
	if f == nil {
		return nil
	}
	if o := f.At(p); o != nil {
		return o.Now
	}
	if !f.Tree.Has(p) {
		return nil
	}
	return f.Basis.Find(p)
}

// HasAt is Has for what lies at n.
func (f *Facts) HasAt(n *Node) *manifest.Entry {
	if o := f.At(n.Path); o != nil {
		return o.Now
	}
	return f.Basis.Find(n.Path)
}

// Holds is Has, and of configuration of which nothing can be said now, since it is being
// written or something is mounted over it, the last capture.
func (f *Facts) Holds(p manifest.Path) *manifest.Entry {
	e := f.Has(p)
	if o := f.At(p); e == nil && o != nil && o.Leaves() && o.Entry != nil && f.Basis.Captures(o.Entry) {
		return o.Entry
	}
	return e
}

// Paths returns the paths that Holds may tell of.
func (f *Facts) Paths() iter.Seq[manifest.Path] {
	return func(yield func(manifest.Path) bool) {
		for c := f.Tree.Nodes(); c.Next(); {
			if !yield(c.Node().Path) {
				return
			}
		}
		for i := range f.Odd {
			if f.Odd[i].Node == nil && !yield(f.Odd[i].Path) {
				return
			}
		}
	}
}

// Leaves reports whether what a fact is about stays as it is.
func (o *Fact) Leaves() bool {
	return o.Finding == Busy || o.Finding == Skipped || o.Finding == Unknown
}

// Of returns the paths with a finding.
func (f *Facts) Of(finding Finding) []manifest.Path {
	if f == nil {
		return nil
	}
	var list []manifest.Path
	for i := range f.Odd {
		if f.Odd[i].Finding == finding {
			list = append(list, f.Odd[i].Path)
		}
	}
	return list
}

// Moved returns the first path of configuration that is not any more what it was in an
// earlier look, "" for none. now is a new walk of the same tree; or the Listing of those
// directories, where dirs is not nil.
func (f *Facts) Moved(now *Tree, dirs map[manifest.Path]bool) manifest.Path {
	config := func(p manifest.Path) bool {
		return (dirs == nil || dirs[manifest.Path(path.Dir(string(p)))]) && f.Basis.Manifest.IsConfig(p)
	}
	a, b := f.Tree.Nodes(), now.Nodes()
	for a.Next() {
		p := manifest.Path(a.path)
		for b.Before(p) {
			if q := b.Node().Path; config(q) {
				return q
			}
		}
		if n := b.On(p); (n == nil || !n.IsDir() && !n.same(&a.found)) && config(p) {
			return p
		}
	}
	for b.Next() {
		if q := b.Node().Path; config(q) {
			return q
		}
	}
	return ""
}
