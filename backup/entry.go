package backup

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"tandem/internal/digest"
	"tandem/versioning"
)

// EntryType is the kind of an entry in a manifest or a record.
type EntryType string

// The kinds of entry.
const (
	File     EntryType = "file"
	Dir      EntryType = "dir"
	Symlink  EntryType = "symlink"
	Hardlink EntryType = "hardlink" // another name of the file that Link names
)

// Path is the name of an entry below apps/, its elements separated by slashes.
//
// File names are bytes, JSON is Unicode: in its text form each byte that is
// not part of valid UTF-8, each control character and each "%" is written as
// "%" and two upper-case hexadecimal digits.
type Path string

// String gives the text form, so that messages stay readable whatever a file
// is called.
func (p Path) String() string {
	b, _ := p.MarshalText() // has no error to give
	return string(b)
}

// MarshalText implements encoding.TextMarshaler.
func (p Path) MarshalText() ([]byte, error) {
	var b strings.Builder
	for i := 0; i < len(p); {
		r, n := utf8.DecodeRuneInString(string(p[i:]))
		if r < 0x20 || r == 0x7f || r == '%' || r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, "%%%02X", p[i])
		} else {
			b.WriteString(string(p[i : i+n]))
		}
		i += n
	}
	return []byte(b.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Path) UnmarshalText(text []byte) error {
	if !strings.Contains(string(text), "%") {
		*p = Path(text)
		return nil
	}
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' {
			if i+2 >= len(text) {
				return fmt.Errorf("path %.80q: a %% needs two hexadecimal digits after it", text)
			}
			n, err := strconv.ParseUint(string(text[i+1:i+3]), 16, 8)
			if err != nil {
				return fmt.Errorf("path %.80q: a %% needs two hexadecimal digits after it", text)
			}
			c = byte(n)
			i += 2
		}
		b = append(b, c)
	}
	*p = Path(b)
	return nil
}

// Mode is a set of permission bits with setuid, setgid and sticky; its text
// form is octal, such as "0755".
type Mode uint32

// MarshalText implements encoding.TextMarshaler.
func (m Mode) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", uint32(m)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *Mode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 32)
	if err != nil || n > 0o7777 {
		return fmt.Errorf("mode %.20q: expected four octal digits, such as 0644", text)
	}
	*m = Mode(n)
	return nil
}

// Entry is one file, directory or link of an application.
type Entry struct {
	Path   Path              `json:"path"`
	Type   EntryType         `json:"type"`
	Mode   Mode              `json:"mode,omitempty"`
	UID    int               `json:"uid,omitempty"`
	GID    int               `json:"gid,omitempty"`
	Size   int64             `json:"size,omitempty"`   // bytes
	Mtime  int64             `json:"mtime,omitempty"`  // nanoseconds since 1970-01-01 UTC
	SHA256 *digest.SHA256    `json:"sha256,omitempty"` // of a file's content
	Target Path              `json:"target,omitempty"` // of a symbolic link: any text
	Link   Path              `json:"link,omitempty"`   // of a hard link: the entry that holds the content
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
	// Fresh says that the file was written so shortly before it was captured
	// that it may be written again without its time telling: UBIFS keeps whole
	// seconds. Its content is looked at each time.
	Fresh bool `json:"fresh,omitempty"`
}

// Manifest is the list of a version's application files, with the rules that
// divide a tree into application files and configuration.
type Manifest struct {
	App        string             `json:"app,omitempty"`
	Version    versioning.Version `json:"version"`
	Compatible []string           `json:"compatible,omitempty"`
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

// The limits of a tree, which keep a hostile manifest from costing more than
// its bytes. Linux has the same for a path and its elements.
const (
	maxPath    = 4095
	maxElement = 255
)

// CheckPath says whether p is a clean relative path that stays below its root.
func CheckPath(p Path) error {
	s := string(p)
	switch {
	case s == "" || s == ".":
		return fmt.Errorf("%w: empty path", ErrInvalid)
	case len(s) > maxPath:
		return fmt.Errorf("%w: path %.40q… has %d bytes, at most %d are allowed", ErrInvalid, s, len(s), maxPath)
	case strings.HasPrefix(s, "/"):
		return fmt.Errorf("%w: path %q is absolute: expected one below apps/", ErrInvalid, s)
	case strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%w: path %q holds a zero byte", ErrInvalid, s)
	}
	for el := range strings.SplitSeq(s, "/") {
		switch {
		case el == "..":
			return fmt.Errorf("%w: path %q climbs out of its directory", ErrInvalid, s)
		case el == "" || el == ".":
			return fmt.Errorf("%w: path %q is not clean: expected %q", ErrInvalid, s, path.Clean(s))
		case len(el) > maxElement:
			return fmt.Errorf("%w: path %.40q… has an element of %d bytes, at most %d are allowed", ErrInvalid, s, len(el), maxElement)
		}
	}
	return nil
}

// findEntry gives the entry of p in a list that is sorted by path; nil if it
// has none.
func findEntry(list []*Entry, p Path) *Entry {
	if i, ok := searchEntry(list, p); ok {
		return list[i]
	}
	return nil
}

func searchEntry(list []*Entry, p Path) (int, bool) {
	return slices.BinarySearchFunc(list, p, func(e *Entry, p Path) int { return strings.Compare(string(e.Path), string(p)) })
}

func byPath(a, b *Entry) int { return strings.Compare(string(a.Path), string(b.Path)) }

// CheckEntries says whether entries can be a tree: clean paths, sorted, each
// once, every parent a directory that is listed before it, known types with
// what they need, hard links to files listed before them.
func CheckEntries(entries []*Entry) error {
	if slices.Contains(entries, nil) {
		return fmt.Errorf("%w: no entry in its place", ErrInvalid)
	}
	return checkTree(slices.Values(entries), func(p Path) *Entry { return findEntry(entries, p) })
}

// checkTree is CheckEntries for a tree that can be looked up by path.
func checkTree(entries iter.Seq[*Entry], find func(Path) *Entry) error {
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
	if e.UID < 0 || e.GID < 0 || e.UID > math.MaxInt32 || e.GID > math.MaxInt32 {
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

// Check says whether m obeys the rules of its format.
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
	return CheckEntries(m.Files)
}
