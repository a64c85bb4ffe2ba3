package backup

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// recordFormat is the version of the record's format, which has no other yet.
const recordFormat = 1

// maxRecord bounds a record in bytes: 200,000 entries and more.
const maxRecord = 128 << 20

// Record is what a side knows of itself.
type Record struct {
	Manifest Manifest `json:"manifest"`
	// Config is the configuration as it was captured last, sorted by path: what
	// the manifest's config patterns name, and what the manifest does not know.
	Config []Entry `json:"config"`
	// Revision goes up by one each time changed configuration is captured.
	Revision int `json:"revision"`
}

// envelope is the outer form of our files: the body with its digest, so that
// a damaged file is never taken for a good one.
type envelope struct {
	Tandem string        `json:"tandem"` // what the body is
	Format int           `json:"format"`
	SHA256 digest.SHA256 `json:"sha256"` // of the body's bytes, as they stand
	Body   []byte        `json:"-"`
}

func seal(kind string, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"tandem":%q,"format":%d,"sha256":"%s","body":`, kind, recordFormat, digest.Of(raw))
	b.Write(raw)
	b.WriteString("}\n")
	return b.Bytes(), nil
}

// unseal reads what seal wrote. There is one way to write the outer form, so
// that its body need not be parsed twice.
func unseal(kind string, data []byte, body any) error {
	e, err := open(data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch {
	case e.Tandem != kind:
		return fmt.Errorf("%w: a %q where a %q was expected", ErrInvalid, e.Tandem, kind)
	case e.Format != recordFormat:
		return fmt.Errorf("%w: format %d: this Tandem knows %d", ErrInvalid, e.Format, recordFormat)
	case e.SHA256 != digest.Of(e.Body):
		return fmt.Errorf("%w: its content does not match its sha256", ErrInvalid)
	}
	if err := json.Unmarshal(e.Body, body); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// open takes the envelope apart.
func open(data []byte) (envelope, error) {
	const mark = `,"body":`
	head, body, ok := bytes.Cut(data, []byte(mark))
	body, end := bytes.CutSuffix(body, []byte("}\n"))
	if !ok || !end {
		return envelope{}, errors.New("not a file of Tandem's, or cut short")
	}
	var e envelope
	if err := json.Unmarshal(append(head[:len(head):len(head)], '}'), &e); err != nil {
		return envelope{}, err
	}
	e.Body = body
	return e, nil
}

// Encode gives the content of record.json.
func (r *Record) Encode() ([]byte, error) { return seal("record", r) }

// DecodeRecord reads the content of record.json and checks every rule of its
// format. The error wraps ErrInvalid.
func DecodeRecord(data []byte) (*Record, error) {
	var r Record
	if err := unseal("record", data, &r); err != nil {
		return nil, err
	}
	if err := r.Manifest.Check(); err != nil {
		return nil, err
	}
	if r.Revision < 0 {
		return nil, fmt.Errorf("%w: revision %d is below zero", ErrInvalid, r.Revision)
	}
	if err := CheckEntries(r.Tree()); err != nil {
		return nil, err
	}
	return &r, nil
}

// Tree gives the whole tree that the record describes, sorted by path: the
// manifest's application files and the captured configuration.
func (r *Record) Tree() []Entry {
	tree := make([]Entry, 0, len(r.Manifest.Files)+len(r.Config))
	for _, e := range r.Manifest.Files {
		if !matchAny(r.Manifest.Config, e.Path) {
			tree = append(tree, e)
		}
	}
	tree = append(tree, r.Config...)
	slices.SortFunc(tree, byPath)
	return tree
}

func byPath(a, b Entry) int { return cmp.Compare(a.Path, b.Path) }

// split divides the paths of a tree as the manifest says.
type split struct {
	config, ignore []string
	known          map[Path]bool
}

func (m *Manifest) split() split {
	s := split{config: m.Config, ignore: m.Ignore, known: make(map[Path]bool, len(m.Files))}
	for _, e := range m.Files {
		s.known[e.Path] = true
	}
	return s
}

// isConfig says whether what lies at p may change on the device.
func (s *split) isConfig(p Path) bool {
	return !s.known[p] && !matchAny(s.ignore, p) || len(s.config) > 0 && matchAny(s.config, p)
}

// isIgnored says whether p is neither application file nor configuration.
func (s *split) isIgnored(p Path) bool {
	return len(s.ignore) > 0 && !s.known[p] && matchAny(s.ignore, p) && !matchAny(s.config, p)
}

// readSealed reads one of our files. A missing one gives nil and no error;
// something else of that name, or one that is too long, wraps ErrInvalid.
func readSealed(fs fsys.FS, name string, limit int64) ([]byte, error) {
	info, err := fs.Lstat(name)
	switch {
	case fsys.IsNotExist(err):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Type != fsys.TypeFile:
		return nil, fmt.Errorf("%s: %w: a %s, expected a file", fs.Path(name), ErrInvalid, info.Type)
	}
	data, err := fsys.ReadFile(fs, name, limit)
	var long *fsys.TooLongError
	switch {
	case fsys.IsNotExist(err):
		return nil, nil
	case errors.As(err, &long), errors.Is(err, syscall.EIO): // a read error is damage
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return data, err
}

// equalEntries says whether two lists describe the same content with the same
// attributes. Times of directories and links do not count.
func equalEntries(a, b []Entry) bool {
	return slices.EqualFunc(a, b, func(x, y Entry) bool { return sameContent(&x, &y) && sameAttr(&x, &y) })
}

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
