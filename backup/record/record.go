// Package record has what a side knows of itself: its record, and the other
// small files of ours, each in a sealed envelope that tells damage from content
// and a newer Tandem's file from both.
package record

import (
	"fmt"
	"io"
	"iter"

	"tandem/backup/manifest"
	"tandem/internal/compact"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// maxRecord bounds a record, in bytes on the disk and in memory: 500,000 entries and more.
const maxRecord = 128 << 20

// Record is what a side knows of itself: a version and its configuration. It is
// a value; nobody changes one that others may hold.
type Record struct {
	Manifest manifest.Manifest
	// Config is the configuration as it was captured last, sorted by path: what
	// the manifest's config patterns name, and what the manifest does not know.
	Config []*manifest.Entry
	// Revision goes up by one each time changed configuration is captured.
	Revision int
}

// Write writes the file of r, whose body is known.
func (r *Record) Write(w io.Writer, by Author, body Body) error {
	if _, err := w.Write(by.head("record", body.Size, body.Sum).line()); err != nil {
		return err
	}
	return r.writeBody(w)
}

// Body is what a record looks like on the disk. Two records with one digest describe
// the same tree.
type Body struct {
	Size int64
	Sum  digest.SHA256
}

// Body returns length and digest of the record's body. It takes as long as writing it.
func (r *Record) Body() (Body, error) {
	h := digest.New()
	n := &counter{w: h}
	err := r.writeBody(n)
	return Body{n.n, digest.Sum(h)}, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Load reads the record name of a side; a missing one gives nil and no error.
// Records that are known already by the digest of their body are not parsed
// again. The error wraps manifest.ErrInvalid for a record that is damaged, is a
// *NewerError for one of a newer Tandem, and is the disk's otherwise.
func Load(fs fsys.FS, name string, known map[digest.SHA256]*Record) (*Record, digest.SHA256, error) {
	var r *Record
	head, err := load(fs, name, func(h Head, body io.Reader) (err error) {
		if r = known[h.SHA256]; r == nil {
			r, err = parse(body)
		}
		return err
	})
	if head == nil || err != nil {
		return nil, digest.SHA256{}, err
	}
	if known != nil {
		known[head.SHA256] = r
	}
	return r, head.SHA256, nil
}

// load reads a record by parse; a missing one has no head.
func load(fs fsys.FS, name string, parse func(Head, io.Reader) error) (*Head, error) {
	f, size, err := open(fs, name)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	head, err := readEnvelope("record", f, size, maxRecord, parse)
	if err != nil {
		return nil, named(fs, name, err)
	}
	return &head, nil
}

// Outline returns what the manifest in the record name says but for its files, and the
// digest of the record's body, which is checked; nil for none. The error is one of
// Load's.
func Outline(fs fsys.FS, name string) (*manifest.Manifest, digest.SHA256, error) {
	var o outline
	head, err := load(fs, name, func(_ Head, body io.Reader) (err error) {
		o, err = readOutline(compact.NewReader(body))
		return err
	})
	if head == nil || err != nil {
		return nil, digest.SHA256{}, err
	}
	return &o.Manifest, head.SHA256, nil
}

// check reports what rule of its format r breaks, if any.
func (r *Record) check() error {
	if err := r.Manifest.Check(); err != nil {
		return err
	}
	if r.Revision < 0 {
		return fmt.Errorf("%w: revision %d is below zero", manifest.ErrInvalid, r.Revision)
	}
	return manifest.CheckTree(r.Entries(), r.Find)
}

// Entries returns the whole tree that the record describes, sorted by path: the
// manifest's application files and the captured configuration.
func (r *Record) Entries() iter.Seq[*manifest.Entry] {
	return func(yield func(*manifest.Entry) bool) {
		config := r.Config
		for _, e := range r.Manifest.Files {
			if r.Manifest.Captured(e) {
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

// Find returns the entry of p in the tree that the record describes; nil if it
// has none. It is safe without a record.
func (r *Record) Find(p manifest.Path) *manifest.Entry {
	if r == nil {
		return nil
	}
	if e := manifest.Find(r.Config, p); e != nil {
		return e
	}
	if e := manifest.Find(r.Manifest.Files, p); e != nil && !r.Manifest.Captured(e) {
		return e
	}
	return nil
}

// TypeAt returns the type of the entry at p, 0 if there is none.
func (r *Record) TypeAt(p manifest.Path) manifest.EntryType {
	if e := r.Find(p); e != nil {
		return e.Type
	}
	return 0
}

// Writable reports whether e is configuration that may go: unlike a file that is as it was
// when a tree was adopted with nothing to divide it, which counts as the application's.
func (r *Record) Writable(e *manifest.Entry) bool { return !e.Adopted && r.Captures(e) }

// Captures reports whether e is of the captured configuration.
func (r *Record) Captures(e *manifest.Entry) bool { return manifest.Find(r.Config, e.Path) != nil }

// Len returns how many entries the record's tree may have.
func (r *Record) Len() int { return len(r.Manifest.Files) + len(r.Config) }

// Files counts files and links.
func (r *Record) Files() int {
	n := 0
	for e := range r.Entries() {
		if e.Type != manifest.Dir {
			n++
		}
	}
	return n
}

// Names reports whether a file of that content is part of the version.
func (r *Record) Names(sum digest.SHA256) bool {
	for _, list := range [][]*manifest.Entry{r.Config, r.Manifest.Files} {
		for _, e := range list {
			if e.SHA256 != nil && *e.SHA256 == sum {
				return true
			}
		}
	}
	return false
}

// Shares returns the entry of an older record in place of an equal new one, so
// that a tree that stays the same takes no more memory.
func (r *Record) Shares(e *manifest.Entry) *manifest.Entry {
	if r == nil {
		return e
	}
	for _, list := range [][]*manifest.Entry{r.Config, r.Manifest.Files} {
		old := manifest.Find(list, e.Path)
		if old != nil && same(old, e) {
			return old
		}
	}
	return e
}

// same reports whether two entries of one path are the same in all that is written.
func same(a, b *manifest.Entry) bool {
	return a.Mtime == b.Mtime && a.Adopted == b.Adopted && manifest.Equal(a, b) && (a.Type != manifest.Symlink || a.Mode == b.Mode)
}
