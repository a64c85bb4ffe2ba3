// Package manifest has the words in which a version of an application is
// described: paths, modes, entries, the list of a release's files, and the
// patterns that divide a tree. It is pure: nothing here touches a disk.
package manifest

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"tandem/internal/digest"
	"tandem/versioning"
)

// EntryType is the kind of an entry in a manifest or a record.
type EntryType uint8

// The kinds of entry.
const (
	File EntryType = iota + 1
	Dir
	Symlink
	Hardlink // another name of the file that Link names
	Other    // what is none of these; no manifest and no record has it
)

var types = [...]string{"", "file", "dir", "symlink", "hardlink", "special file"}

func (t EntryType) String() string { return types[t] }

// MarshalText implements encoding.TextMarshaler.
func (t EntryType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *EntryType) UnmarshalText(text []byte) error {
	i := slices.Index(types[:], string(text))
	if i < 0 {
		return fmt.Errorf("unknown type %.20q: expected file, dir, symlink or hardlink", text)
	}
	*t = EntryType(i)
	return nil
}

// Mode is a set of permission bits with setuid, setgid and sticky; its text
// form is octal, such as "0755".
type Mode uint16

// MarshalText implements encoding.TextMarshaler.
func (m Mode) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", uint32(m)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *Mode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 16)
	if err != nil || n > 0o7777 {
		return fmt.Errorf("mode %.20q: expected four octal digits, such as 0644", text)
	}
	*m = Mode(n)
	return nil
}

// Entry is one file, directory or link of an application. There are very many.
type Entry struct {
	Path Path      `json:"path"`
	Type EntryType `json:"type"`
	// Adopted says that the file is as it was when a tree with nothing to divide
	// it was taken over: it may be configuration, or an application file.
	Adopted bool              `json:"adopted,omitempty"`
	Mode    Mode              `json:"mode,omitempty"`
	UID     uint32            `json:"uid,omitempty"`
	GID     uint32            `json:"gid,omitempty"`
	Size    int64             `json:"size,omitempty"`   // bytes
	Mtime   int64             `json:"mtime,omitempty"`  // nanoseconds since 1970-01-01 UTC
	SHA256  *digest.SHA256    `json:"sha256,omitempty"` // of a file's content
	Target  Path              `json:"target,omitempty"` // of a symbolic link: any text
	Link    Path              `json:"link,omitempty"`   // of a hard link: the entry that holds the content
	Xattrs  map[string][]byte `json:"xattrs,omitempty"`
}

// Summed is an entry with the digest that it points to, in one piece of memory.
type Summed struct {
	Entry
	Sum digest.SHA256
}

// Manifest is the list of a version's application files, with the rules that
// divide a tree into application files and configuration.
type Manifest struct {
	App     string             `json:"app,omitempty"`
	Version versioning.Version `json:"version"`
	// Release is the SHA-256 of release.json; zero where the version did not come
	// as a release.
	Release    digest.SHA256 `json:"release,omitzero"`
	Compatible []string      `json:"compatible,omitempty"`
	// Config patterns name the files that may change on the device, Ignore those
	// that are neither backed up nor restored. Replace names configuration that
	// a release always brings anew, Remove what earlier releases left and must go.
	Config  []string `json:"config,omitempty"`
	Ignore  []string `json:"ignore,omitempty"`
	Replace []string `json:"replace,omitempty"`
	Remove  []string `json:"remove,omitempty"`
	// Files are sorted by path, parents before what is in them. Records of
	// several versions share them: an entry is replaced, never changed.
	Files []*Entry `json:"files"`
}

// ErrInvalid says that a manifest, record or path breaks a rule of its format.
var ErrInvalid = errors.New("invalid")

// Find returns the entry of p in a list that is sorted by path; nil if it
// has none.
func Find(list []*Entry, p Path) *Entry {
	i, ok := Search(list, p)
	if !ok {
		return nil
	}
	return list[i]
}

// Search returns the place of p in a list that is sorted by path, and whether it has one.
func Search(list []*Entry, p Path) (int, bool) {
	low, high := 0, len(list)
	for low < high {
		if mid := (low + high) / 2; list[mid].Path < p {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < len(list) && list[low].Path == p
}

// ByPath orders entries by path.
func ByPath(a, b *Entry) int { return strings.Compare(string(a.Path), string(b.Path)) }

// checkEntries reports whether entries can be a tree: clean paths, sorted, each
// once, every parent a directory that is listed before it, known types with
// what they need, hard links to files listed before them.
func checkEntries(entries []*Entry) error {
	if slices.Contains(entries, nil) {
		return fmt.Errorf("%w: no entry in its place", ErrInvalid)
	}
	return CheckTree(slices.Values(entries), func(p Path) *Entry { return Find(entries, p) })
}

// CheckTree is checkEntries for a tree that can be looked up by path.
func CheckTree(entries iter.Seq[*Entry], find func(Path) *Entry) error {
	var before *Entry
	parent := "." // of the entry before, which was found good
	for e := range entries {
		if err := CheckPath(e.Path); err != nil {
			return err
		}
		switch {
		case before == nil || before.Path < e.Path:
		case before.Path == e.Path:
			return fmt.Errorf("%w: path %q is listed twice", ErrInvalid, e.Path)
		default:
			return fmt.Errorf("%w: path %q comes after %q: expected paths in order", ErrInvalid, e.Path, before.Path)
		}
		before = e
		if dir := path.Dir(string(e.Path)); dir != "." && dir != parent {
			switch d := find(Path(dir)); {
			case d == nil:
				return fmt.Errorf("%w: path %q: its directory is not listed before it", ErrInvalid, e.Path)
			case d.Type != Dir:
				return fmt.Errorf("%w: path %q goes through %q, which is a %s, not a directory", ErrInvalid, e.Path, dir, d.Type)
			}
			parent = dir
		}
		if err := e.check(find); err != nil {
			return fmt.Errorf("%w: path %q: %w", ErrInvalid, e.Path, err)
		}
	}
	return nil
}

func (e *Entry) check(find func(Path) *Entry) error {
	if e.Mode > 0o7777 {
		return fmt.Errorf("mode %o has more than permission bits", uint32(e.Mode))
	}
	if e.UID == math.MaxUint32 || e.GID == math.MaxUint32 { // to chown it means nobody's
		return fmt.Errorf("owner %d:%d does not exist", e.UID, e.GID)
	}
	switch e.Type {
	case File:
		if e.SHA256 == nil || e.Size < 0 {
			return errors.New("a file needs a size and a sha256")
		}
	case Dir:
	case Symlink:
		if e.Target == "" || len(e.Target) > maxPath || strings.IndexByte(string(e.Target), 0) >= 0 {
			return errors.New("a symbolic link needs a target")
		}
	case Hardlink:
		if to := find(e.Link); to == nil || to.Type != File || to.Path > e.Path {
			return fmt.Errorf("a hard link to %q, which is no file listed before it", e.Link)
		}
	default:
		return fmt.Errorf("unknown type %q: expected file, dir, symlink or hardlink", e.Type)
	}
	return nil
}

// Check reports whether m obeys the rules of its format.
func (m *Manifest) Check() error {
	if m.Version.IsZero() {
		return fmt.Errorf("%w: manifest without a version", ErrInvalid)
	}
	for _, patterns := range [][]string{m.Config, m.Ignore, m.Replace, m.Remove} {
		for _, p := range patterns {
			if err := CheckPattern(p); err != nil {
				return err
			}
		}
	}
	return checkEntries(m.Files)
}
