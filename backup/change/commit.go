package change

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// Op is what a change does at one path: what is there, and what shall be.
type Op struct {
	Path manifest.Path   `json:"path"`
	Old  *manifest.Entry `json:"old,omitempty"` // nil for nothing
	New  *manifest.Entry `json:"new,omitempty"` // nil for nothing
	// Slot is the name of what is staged, in next/new; "" for what needs no
	// content: a directory that is made, a hard link, attributes, a removal.
	Slot string `json:"slot,omitempty"`
	// Attr says that only attributes change.
	Attr bool `json:"attr,omitempty"`
	// Config says that the application may write here: what it wrote meanwhile
	// stays.
	Config bool `json:"config,omitempty"`
	// Aside says that what is displaced is put where people find it.
	Aside bool `json:"aside,omitempty"`

	seen *fsys.Info // what the look found; nil at recovery
}

// commit is the content of commit.json: a change that is staged and durable, and
// only has to be put in place.
type commit struct {
	Version versioning.Version `json:"version"`
	Record  digest.SHA256      `json:"record"` // of the body of the staged record
	Tag     bool               `json:"tag"`    // the version changes: the tag is written, and the undo log kept
	// Undo says that the change could not be finished and is taken back.
	Undo bool `json:"undo,omitempty"`
	Ops  []Op `json:"ops"`
}

// maxCommit bounds commit.json in bytes.
const maxCommit = 128 << 20

func decodeCommit(raw []byte) (*commit, error) {
	c := &commit{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("%w: %w", manifest.ErrInvalid, err)
	}
	for i := range c.Ops {
		if err := c.Ops[i].check(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (o *Op) check() error {
	if o.Path != "." {
		if err := manifest.CheckPath(o.Path); err != nil {
			return err
		}
	}
	if o.Attr && (o.Old == nil || o.New == nil) {
		return fmt.Errorf("%w: attributes of nothing at %q", manifest.ErrInvalid, o.Path)
	}
	for _, e := range []*manifest.Entry{o.Old, o.New} {
		if e != nil && e.Path != o.Path {
			return fmt.Errorf("%w: an entry for %q at %q", manifest.ErrInvalid, e.Path, o.Path)
		}
	}
	if o.New != nil && o.New.Type == manifest.Hardlink {
		if err := manifest.CheckPath(o.New.Link); err != nil {
			return err
		}
	}
	if strings.Trim(o.Slot, "0123456789") != "" {
		return fmt.Errorf("%w: staged as %q: expected a number", manifest.ErrInvalid, o.Slot)
	}
	return nil
}

// load reads commit.json; without one it returns nil and no error.
func load(fs fsys.FS) (*commit, error) {
	raw, err := record.Read(fs, "commit", CommitFile, maxCommit)
	if err != nil || raw == nil {
		return nil, err
	}
	c, err := decodeCommit(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fs.Path(CommitFile), err)
	}
	return c, nil
}

// Pending returns the version and the record of a change that was committed and
// not finished; nil if there is none. The error is that of reading the commit.
func Pending(fs fsys.FS, known map[digest.SHA256]*record.Record) (*Unfinished, error) {
	c, err := load(fs)
	if errors.Is(err, manifest.ErrInvalid) || c == nil && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	u := &Unfinished{Version: c.Version, Undo: c.Undo}
	for _, name := range []string{path.Join(nextDir, path.Base(RecordFile)), RecordFile} {
		if r, sum, err := record.Load(fs, name, known); err == nil && r != nil && sum == c.Record {
			u.Record, u.Sum = r, sum
			break
		}
	}
	return u, nil
}

// Unfinished is a change that a power cut came into.
type Unfinished struct {
	Version versioning.Version
	Record  *record.Record // nil if it is lost
	Sum     digest.SHA256
	Undo    bool // it could not be finished, and is being taken back
}

// encode makes the content of commit.json, and makes way for it.
func (c *commit) encode(fs fsys.FS, by record.Author) ([]byte, error) {
	data, err := by.Seal("commit", c)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > maxCommit { // it could not be read back
		return nil, fmt.Errorf("%s: a change of %d paths: at most %d bytes can be told", fs.Path(CommitFile), len(c.Ops), maxCommit)
	}
	return data, ownPlace(fs, CommitFile)
}

func (c *commit) store(fs fsys.FS, by record.Author) error {
	data, err := c.encode(fs, by)
	if err != nil {
		return err
	}
	return fsys.WriteFile(fs, CommitFile, data, 0o600)
}
