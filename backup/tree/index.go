package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// An Index is what a side remembers of its own inodes: which of them were seen
// to hold what the record says. It may be lost, and is never copied.
type Index struct {
	Boot   string        // in which it was made; "" if that was not known
	Record digest.SHA256 // of the record's body that it belongs to
	// Orderly says that nothing was written after it, and all is durable: it was
	// made when the machine was shut down in order.
	Orderly bool
	// Weak says that the file system did not keep all attributes.
	Weak bool
	// Whole says that all that the record knows was seen: no file of the release
	// was deleted, and none is missing.
	Whole    bool
	Revision int // of the record
	Files    int // files and links that it knows

	raw []byte // entries, sorted by path; most take less than usualEntry
	n   int
}

const usualEntry = 48 // bytes

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
	x, err := decodeIndex(raw)
	if err != nil {
		return nil, nil
	}
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
	if err := by.SealTo(f, "index", x.head(), x.raw); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return fs.Rename(tmp, name)
}

// Sum identifies the index.
func (x *Index) Sum() digest.SHA256 {
	h := digest.New()
	h.Write(x.head())
	h.Write(x.raw)
	return digest.Sum(h)
}

const (
	orderly = 1 << iota
	weak
	whole
)

// head returns what comes before the entries.
func (x *Index) head() []byte {
	b := binary.AppendUvarint(nil, uint64(len(x.Boot)))
	b = append(b, x.Boot...)
	b = append(b, x.Record[:]...)
	var traits byte
	if x.Orderly {
		traits |= orderly
	}
	if x.Weak {
		traits |= weak
	}
	if x.Whole {
		traits |= whole
	}
	b = append(b, traits)
	b = binary.AppendUvarint(b, uint64(x.Revision))
	b = binary.AppendUvarint(b, uint64(x.Files))
	return binary.AppendUvarint(b, uint64(x.n))
}

func decodeIndex(b []byte) (*Index, error) {
	r := &reader{b: b}
	x := &Index{}
	x.Boot = string(r.bytes(r.number()))
	copy(x.Record[:], r.bytes(uint64(len(x.Record))))
	if traits := r.bytes(1); len(traits) == 1 {
		x.Orderly, x.Weak, x.Whole = traits[0]&orderly != 0, traits[0]&weak != 0, traits[0]&whole != 0
	}
	x.Revision, x.Files = int(r.number()), int(r.number())
	x.n = int(r.number())
	x.raw = r.b
	if r.bad {
		return nil, fmt.Errorf("%w: an index that is cut short", manifest.ErrInvalid)
	}
	return x, nil
}

// reader reads what binary.Append wrote. Past the end it reads nothing and is bad.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, n = true, len(r.b)
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, n = true, uint64(len(r.b))
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

const (
	// racy marks an entry that could change again without its stamps telling: a file
	// written within the granule in which it was looked at, or a directory with attributes.
	racy = 1 << iota
	// bare marks a directory of configuration without extended attributes: no stamp
	// tells when it gets some.
	bare
)

// add appends the entry of n to the index; paths come in order.
func (x *Index) add(before manifest.Path, n *Node, flags uint64) {
	shared := 0
	for shared < len(before) && shared < len(n.Path) && before[shared] == n.Path[shared] {
		shared++
	}
	b := binary.AppendUvarint(x.raw, uint64(shared))
	b = binary.AppendUvarint(b, uint64(len(n.Path)-shared))
	b = append(b, n.Path[shared:]...)
	for _, v := range stamps(n) {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendUvarint(b, flags)
	x.raw, x.n = b, x.n+1
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
	r := &reader{b: x.raw}
	var buf []byte
	i := 0
	for range x.n {
		shared := r.number()
		if shared > uint64(len(buf)) {
			return gone
		}
		buf = append(buf[:shared], r.bytes(r.number())...)
		var was [7]uint64
		for k := range was {
			was[k] = r.number()
		}
		flags := r.number()
		if r.bad {
			return gone
		}
		for i < len(t.Nodes) && strings.Compare(string(t.Nodes[i].Path), string(buf)) < 0 {
			i++
		}
		if i == len(t.Nodes) || string(t.Nodes[i].Path) != string(buf) {
			gone[manifest.Path(buf)] = true
			continue
		}
		if x.Record != record {
			continue
		}
		n := t.Nodes[i]
		n.flags |= flagSeen
		if stamps(n) == was {
			n.flags |= flagFits
			if flags&racy != 0 {
				n.flags |= flagRacy
			}
		}
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
	x := &Index{Boot: m.Boot, Record: f.Sum, Weak: f.Weak || len(m.Weak) > 0, raw: make([]byte, 0, usualEntry*f.Basis.Len())}
	before := manifest.Path("")
	nodes := f.Tree.Nodes
	for e := range f.Basis.Entries() {
		x.count(e)
		for len(nodes) > 0 && nodes[0].Path < e.Path {
			nodes = nodes[1:]
		}
		switch {
		case f.uncaptured(e.Path):
			x.add(before, &Node{Path: e.Path}, 0)
		case len(nodes) == 0 || nodes[0].Path != e.Path || f.At(e.Path) != nil:
			continue
		default:
			x.add(before, nodes[0], m.flags(f.Basis, e, nodes[0]))
		}
		before = e.Path
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
	return x != nil && y != nil && x.Record == y.Record && x.Weak == y.Weak && string(x.raw) == string(y.raw)
}
