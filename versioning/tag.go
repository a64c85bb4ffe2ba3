package versioning

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"tandem/internal/fsys"
)

// maxTagFile bounds how much of a tag file is read, in bytes.
const maxTagFile = 4096

// ErrNoTag says that a side has no tag: it is missing or empty, the vendor's
// sign of an unfinished copy.
var ErrNoTag = errors.New("no tag")

// expected is what a message about a tag ends with.
const expected = "expected one line with a version, such as 1.4.2"

// TagError says why a tag that is there cannot be read. It is no ErrNoTag: what
// lies beside such a tag may be whole.
type TagError struct {
	Path   string
	Reason string
	Err    error // why the disk did not give it, or nil
}

func (e *TagError) Error() string { return fmt.Sprintf("%s: %s: %s", e.Path, e.Reason, expected) }

func (e *TagError) Unwrap() error { return e.Err }

// emptyError is the ErrNoTag of a tag that is there.
type emptyError struct{ path string }

func (e *emptyError) Error() string { return fmt.Sprintf("%s: empty: %s", e.path, expected) }

func (e *emptyError) Unwrap() error { return ErrNoTag }

// parseTag reads the content of a tag file as a person would: a version, whose
// leading v, leading zeros and missing numbers do not count, and after white
// space a comment. A byte order mark and white space around it are of no matter.
// The Version is spelled as Parse wants it. Nothing but these is ErrNoTag; what
// cannot be read, or names two versions, is ErrMalformed.
func parseTag(content []byte) (Version, error) {
	text := string(bytes.TrimSpace(bytes.TrimPrefix(content, []byte("\uFEFF"))))
	if text == "" {
		return Version{}, fmt.Errorf("%w: empty", ErrNoTag)
	}
	first, rest, _ := strings.Cut(text, "\n")
	v, ok := parseByHand(first)
	if !ok {
		return Parse(strings.TrimSpace(first)) // which says what is wrong with it
	}
	for line := range strings.Lines(rest) {
		if w, ok := parseByHand(line); ok {
			return Version{}, fmt.Errorf("%w: two of them, %s and %s", ErrMalformed, v, w)
		}
	}
	return v, nil
}

// parseByHand reads the version that a line begins with.
func parseByHand(line string) (v Version, ok bool) {
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return v, false
	}
	text := strings.TrimLeft(fields[0][:1], "vV") + fields[0][1:]
	suffix := ""
	if i := strings.IndexAny(text, "-+"); i >= 0 {
		text, suffix = text[:i], text[i:]
	}
	parts := strings.Split(text, ".")
	if len(parts) > 3 || !all(parts, isDigits) || suffix != "" && len(parts) < 3 {
		return v, false
	}
	for i := range parts {
		parts[i] = cmp.Or(strings.TrimLeft(parts[i], "0"), "0")
	}
	if len(parts) == 2 { // one alone is as the vendor's script writes it
		parts = append(parts, "0")
	}
	v, err := Parse(strings.Join(parts, ".") + suffix)
	return v, err == nil
}

// ReadTag reads the tag file name. A missing or empty one is ErrNoTag, and one
// that is there but cannot be read a *TagError. An error that says nothing about
// the tag (fsys.IsTransient) is returned as it is.
func ReadTag(fs fsys.FS, name string) (Version, error) {
	unreadable := func(reason string, err error) (Version, error) {
		return Version{}, &TagError{fs.Path(name), reason, err}
	}
	info, err := fs.Lstat(name)
	if err == nil && info.Type != fsys.TypeFile {
		return unreadable(fmt.Sprintf("a %s, not a file", info.Type), nil)
	}
	var content []byte
	if err == nil {
		content, err = fsys.ReadFile(fs, name, maxTagFile)
	}
	var long *fsys.TooLongError
	var errno syscall.Errno
	switch {
	case fsys.IsNotExist(err):
		return Version{}, ErrNoTag
	case fsys.IsTransient(err):
		return Version{}, err
	case errors.As(err, &long):
		return unreadable(fmt.Sprintf("longer than %d bytes", long.Limit), nil)
	case errors.As(err, &errno), errors.Is(err, fsys.ErrElsewhere):
		return unreadable(err.Error(), err)
	case err != nil:
		return Version{}, err
	}
	v, err := parseTag(content)
	switch {
	case errors.Is(err, ErrNoTag):
		return Version{}, &emptyError{fs.Path(name)}
	case err != nil:
		reason, _, _ := strings.Cut(err.Error(), ": expected") // TagError says that itself
		return unreadable(reason, nil)
	}
	return v, nil
}

// IsTag reports whether the tag file name holds v as WriteTag writes it.
func IsTag(fs fsys.FS, name string, v Version) bool {
	content, err := fsys.ReadFile(fs, name, maxTagFile)
	return err == nil && bytes.Equal(content, EncodeTag(v))
}

// WriteTag durably makes v the tag: its original text and a newline.
//
// After success the tag survives a power cut. After an error or a power cut
// the file holds the old tag or the new one, whole.
func WriteTag(fs fsys.FS, name string, v Version) error {
	return fsys.WriteFile(fs, name, EncodeTag(v), 0o644)
}

// EncodeTag returns the content of the tag file for v.
func EncodeTag(v Version) []byte { return []byte(v.String() + "\n") }
