package tree

import (
	"bytes"
	"encoding/json"
	"errors"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/compact"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// An Index is what a side remembers of its own inodes: which of them were seen
// to hold what the record says. It may be lost, and is never copied.
type Index struct {
	Boot   string        `json:"boot"`   // in which it was made; "" if that was not known
	Record digest.SHA256 `json:"record"` // of the record's body that it belongs to
	// Orderly says that nothing was written after it, and all is durable: it was
	// made when the machine was shut down in order.
	Orderly bool `json:"orderly,omitempty"`
	// Weak says that the file system did not keep all attributes.
	Weak bool `json:"weak,omitempty"`
	// Whole says that all that the record knows was seen: no file of the release
	// was deleted, and none is missing.
	Whole    bool `json:"whole,omitempty"`
	Revision int  `json:"revision"` // of the record
	Files    int  `json:"files"`    // files and links that it knows

	entries entries
	n       int // how many were added
}

const usualEntry = 24 // bytes: most take less

// maxIndex bounds an index in bytes.
const maxIndex = 64 << 20

// LoadIndex reads the index of a side. One that is missing or damaged is nil:
// everything is read again then. The error is the disk's.
func LoadIndex(fs fsys.FS, name string) (*Index, error) {
	raw, err := record.Read(fs, "index", name, maxIndex)
	switch {
	case errors.Is(err, manifest.ErrInvalid), errors.Is(err, record.ErrNewer):
		return nil, nil
	case err != nil && Means(err) == Nothing:
		return nil, err
	case err != nil || raw == nil:
		return nil, nil
	}
	x := &Index{}
	line, all, _ := bytes.Cut(raw, []byte("\n"))
	if json.Unmarshal(line, x) != nil {
		return nil, nil
	}
	x.entries.Bytes = all
	return x, nil
}

// Store writes the index. It is not made durable: a torn one counts as none.
func (x *Index) Store(fs fsys.FS, name string, by record.Author) error {
	tmp := name + ".tmp"
	if err := fsys.RemoveAll(fs, tmp); err != nil {
		return err
	}
	f, err := fs.Create(tmp, 0o600)
	if err != nil {
		return err
	}
	if err := by.SealTo(f, "index", x.head(), x.entries.Bytes); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if there, err := fs.Lstat(name); err == nil && there.Type == fsys.TypeDir { // it is no index
		if err := fsys.RemoveAll(fs, name); err != nil {
			return err
		}
	}
	return fs.Rename(tmp, name)
}

// Sum identifies the index.
func (x *Index) Sum() digest.SHA256 {
	h := digest.New()
	h.Write(x.head())
	h.Write(x.entries.Bytes)
	return digest.Sum(h)
}

// head returns what comes before the entries.
func (x *Index) head() []byte {
	line, _ := json.Marshal(x) // has no error to give
	return append(line, '\n')
}

const (
	// racy marks an entry that could change again without its stamps telling: a file
	// written within the granule in which it was looked at, or a directory with attributes.
	racy = 1 << iota
	// bare marks a directory of configuration without extended attributes: no stamp
	// tells when it gets some.
	bare
	// stamped marks one whose inode, times and size are noted, and changed one whose mode
	// or owner are not those of the last entry that was stamped, or not, as it is.
	stamped
	changed
)

// noted is what was noted last, without and with stamps.
type noted [2][7]uint64

// entries are those of an index as they are written, sorted by path.
type entries struct {
	compact.Writer
	last noted
}

// add appends the entry of n to the index; paths come in order.
func (x *Index) add(n *Node, flags uint64) {
	w, s := &x.entries, stamps(n)
	last := &w.last[0]
	if [4]uint64(s[3:]) != [4]uint64{} {
		flags |= stamped
		last = &w.last[1]
	}
	if [3]uint64(s[:3]) != [3]uint64(last[:3]) {
		flags |= changed
	}
	w.Path(string(n.Path))
	w.Uint(flags)
	if flags&changed != 0 {
		for _, v := range s[:3] {
			w.Uint(v)
		}
	}
	if flags&stamped != 0 {
		for k := 3; k < 6; k++ {
			w.Int(int64(s[k] - last[k]))
		}
		w.Uint(s[6])
	}
	*last, x.n = s, x.n+1
}

// entryReader reads the entries of an index, one after the other.
type entryReader struct {
	compact.Reader
	last  noted
	more  bool // there is a present one, and that is:
	path  []byte
	was   [7]uint64
	flags uint64
}

func (x *Index) read() *entryReader {
	return &entryReader{Reader: *compact.NewReader(bytes.NewReader(x.entries.Bytes))}
}

// next goes to the next entry, and reports whether there is one.
func (r *entryReader) next() bool {
	if r.more = r.More(); !r.more {
		return false
	}
	r.path, r.flags = r.Path(), r.Uint()
	last := &r.last[0]
	if r.flags&stamped != 0 {
		last = &r.last[1]
	}
	if r.flags&changed != 0 {
		for k := range 3 {
			last[k] = r.Uint()
		}
	}
	if r.flags&stamped != 0 {
		for k := 3; k < 6; k++ {
			last[k] += uint64(r.Int())
		}
		last[6] = r.Uint()
	}
	r.was, r.more = *last, r.Err() == nil
	return r.more
}

// stamps are what shows whether something happened to n. The times of a
// directory only tell that something happened in it.
func stamps(n *Node) [7]uint64 {
	s := [7]uint64{uint64(n.Mode), uint64(n.UID), uint64(n.GID)}
	if !n.IsDir() {
		s[3], s[4], s[5], s[6] = n.Ino, uint64(n.Ctime), uint64(n.Mtime), uint64(n.Size)
	}
	return s
}

// Mark notes on the nodes of t what x knows of them, if what they should hold is what x
// was made of, and returns the paths that x saw and that are not there any more.
func (x *Index) Mark(t *Tree, record digest.SHA256) (gone map[manifest.Path]bool) {
	gone = map[manifest.Path]bool{}
	if x == nil {
		return gone
	}
	c := t.Nodes()
	for r := x.read(); r.next(); {
		for c.ahead() && string(c.path) < string(r.path) {
			c.taken = true
		}
		if c.at == t.n || string(c.path) != string(r.path) {
			gone[manifest.Path(r.path)] = true
			continue
		}
		if x.Record != record {
			continue
		}
		note := flagSeen
		if stamps(&c.found) == r.was {
			note |= flagFits
			if r.flags&racy != 0 {
				note |= flagRacy
			}
		}
		t.note(c.at, note)
		t.note(c.at, note)
	}
	return gone
}

// Granule returns within how many nanoseconds after a stamp a file may be
// written again without the stamp telling: a tick of the kernel's clock, or a
// second where the file system keeps no more.
func Granule(stamp int64) int64 {
	if stamp%second == 0 {
		return second
	}
	return Tick
}

const second = 1_000_000_000

// Tick is how long the stamps of a file may stand still, in nanoseconds: the
// slowest clocks of Linux tick a hundred times a second.
const Tick = 10_000_000

// NewIndex returns the index of a side on which a look found what f has. Nodes of
// files that lie there as the record says enter it.
func NewIndex(f *Facts, m Moment) *Index {
	x := &Index{Boot: m.Boot, Record: f.Sum, Weak: f.Weak || len(m.Weak) > 0}
	x.entries.Bytes = make([]byte, 0, usualEntry*f.Basis.Len())
	c := f.Tree.Nodes()
	for e := range f.Basis.Entries() {
		x.count(e)
		n := c.On(e.Path)
		switch {
		case f.uncaptured(e.Path):
			x.add(&Node{Path: e.Path}, 0)
		case n == nil || f.At(e.Path) != nil:
		default:
			x.add(n, m.flags(f.Basis, e, n))
		}
	}
	x.finish(f.Basis)
	return x
}

// count notes that the record knows e.
func (x *Index) count(e *manifest.Entry) {
	if e.Type != manifest.Dir {
		x.Files++
	}
}

// finish notes what the index is of, once all of it was added.
func (x *Index) finish(r *record.Record) {
	known := len(r.Config)
	for _, e := range r.Manifest.Files {
		if manifest.Find(r.Config, e.Path) == nil {
			known++
		}
	}
	x.Revision, x.Whole = r.Revision, x.n == known
}

// Same reports whether x and y say the same of the same inodes.
func (x *Index) Same(y *Index) bool {
	return x != nil && y != nil && x.Record == y.Record && x.Weak == y.Weak && bytes.Equal(x.entries.Bytes, y.entries.Bytes)
}
