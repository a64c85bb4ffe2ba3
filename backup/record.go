package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"

	"tandem/internal/digest"
)

// maxRecord bounds a record in bytes: 200,000 entries and more.
const maxRecord = 128 << 20

// Record is what a side knows of itself.
type Record struct {
	Manifest Manifest `json:"manifest"`
	// Config is the configuration as it was captured last, sorted by path: what
	// the manifest's config patterns name, and what the manifest does not know.
	Config []*Entry `json:"config"`
	// Revision goes up by one each time changed configuration is captured.
	Revision int `json:"revision"`
}

// Encode gives the content of record.json.
func (r *Record) Encode() ([]byte, error) {
	sum, err := r.sum()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = r.write(&b, sum)
	return b.Bytes(), err
}

// sum gives the digest that the record's seal has.
func (r *Record) sum() (digest.SHA256, error) {
	h := digest.New()
	err := r.writeBody(h)
	return digest.Sum(h), err
}

// write writes the content of record.json.
func (r *Record) write(w io.Writer, sum digest.SHA256) error {
	return writeSealed(w, "record", sum, r.writeBody)
}

// writeBody writes the record as json.Marshal would, piece by piece.
func (r *Record) writeBody(w io.Writer) error {
	m := r.Manifest
	m.Files = nil
	head, err := json.Marshal(m)
	if err != nil {
		return err
	}
	out := &entryWriter{w: w}
	out.text(`{"manifest":`)
	out.text(strings.TrimSuffix(string(head), "null}"))
	out.list(r.Manifest.Files)
	out.text(`},"config":`)
	out.list(r.Config)
	out.text(`,"revision":`)
	out.text(strconv.Itoa(r.Revision))
	out.text("}")
	return out.flush()
}

// DecodeRecord reads the content of record.json and checks every rule of its
// format. The error wraps ErrInvalid.
func DecodeRecord(data []byte) (*Record, error) {
	var r *Record
	_, err := readEnvelope("record", bytes.NewReader(data), int64(len(data)), func(_ digest.SHA256, body io.Reader) (err error) {
		r, err = parseRecord(body)
		return err
	})
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// check says whether r obeys the rules of its format.
func (r *Record) check() error {
	if err := r.Manifest.Check(); err != nil {
		return err
	}
	if r.Revision < 0 {
		return fmt.Errorf("%w: revision %d is below zero", ErrInvalid, r.Revision)
	}
	return checkTree(r.entries(), r.find)
}

// entries gives the whole tree that the record describes, sorted by path: the
// manifest's application files and the captured configuration.
func (r *Record) entries() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		config := r.Config
		for _, e := range r.Manifest.Files {
			if matchAny(r.Manifest.Config, e.Path) {
				continue
			}
			for len(config) > 0 && config[0].Path < e.Path {
				if !yield(config[0]) {
					return
				}
				config = config[1:]
			}
			if !yield(e) {
				return
			}
		}
		for _, e := range config {
			if !yield(e) {
				return
			}
		}
	}
}

// find gives the entry of p in the tree that the record describes; nil if it
// has none. It is safe without a record.
func (r *Record) find(p Path) *Entry {
	if r == nil {
		return nil
	}
	if e := findEntry(r.Config, p); e != nil {
		return e
	}
	if e := findEntry(r.Manifest.Files, p); e != nil && !matchAny(r.Manifest.Config, p) {
		return e
	}
	return nil
}

// typeAt gives the type of the entry at p, "" if there is none.
func (r *Record) typeAt(p Path) EntryType {
	if e := r.find(p); e != nil {
		return e.Type
	}
	return ""
}

// captures says whether e is of the captured configuration.
func (r *Record) captures(e *Entry) bool { return findEntry(r.Config, e.Path) != nil }

// size says how many entries the record's tree may have.
func (r *Record) size() int { return len(r.Manifest.Files) + len(r.Config) }

// shares gives the entry of an older record in place of an equal new one, so
// that a tree that stays the same takes no more memory.
func (r *Record) shares(e *Entry) *Entry {
	if r == nil {
		return e
	}
	for _, list := range [][]*Entry{r.Config, r.Manifest.Files} {
		old := findEntry(list, e.Path)
		if old != nil && old.Mtime == e.Mtime && old.Fresh == e.Fresh && equalEntries(old, e) && (e.Type != Symlink || old.Mode == e.Mode) {
			return old
		}
	}
	return e
}

// isConfig says whether what lies at p may change on the device.
func (m *Manifest) isConfig(p Path) bool {
	return !m.knows(p) && !matchAny(m.Ignore, p) || len(m.Config) > 0 && matchAny(m.Config, p)
}

// isIgnored says whether p is neither application file nor configuration.
func (m *Manifest) isIgnored(p Path) bool {
	return len(m.Ignore) > 0 && !m.knows(p) && matchAny(m.Ignore, p) && !matchAny(m.Config, p)
}

// knows says whether the release shipped something at p.
func (m *Manifest) knows(p Path) bool { return findEntry(m.Files, p) != nil }

// equalEntries says whether two entries of one path describe the same content
// with the same attributes. Times do not count.
func equalEntries(a, b *Entry) bool { return sameContent(a, b) && sameAttr(a, b) }

// sameContent says whether two entries of one path are the same but for attributes.
func sameContent(a, b *Entry) bool {
	if a.Type != b.Type {
		return false
	}
	switch a.Type {
	case File:
		return a.Size == b.Size && *a.SHA256 == *b.SHA256
	case Symlink:
		return a.Target == b.Target
	case Hardlink:
		return a.Link == b.Link
	}
	return true
}

func sameAttr(a, b *Entry) bool {
	if a.Type == Hardlink { // those of the entry it links to
		return true
	}
	return (a.Type == Symlink || a.Mode == b.Mode) && a.UID == b.UID && a.GID == b.GID && sameXattrs(a.Xattrs, b.Xattrs)
}

func sameXattrs(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for n, v := range a {
		if w, ok := b[n]; !ok || !bytes.Equal(v, w) {
			return false
		}
	}
	return true
}

var errNotRegular = errors.New("neither file, directory nor symbolic link")
