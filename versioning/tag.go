package versioning

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"tandem/internal/fsys"
)

// maxTagFile bounds how much of a tag file is read, in bytes.
const maxTagFile = 4096

// ErrNoTag says that there is no tag, or none that can be read.
var ErrNoTag = errors.New("no tag")

// TagError says why a tag that is there counts as none. It wraps ErrNoTag.
type TagError struct {
	Path   string
	Reason string
}

func (e *TagError) Error() string {
	return fmt.Sprintf("%s: %s: expected one line with a version, such as 1.4.2", e.Path, e.Reason)
}

func (e *TagError) Unwrap() error { return ErrNoTag }

// ParseTag reads the content of a tag file: one version, with white space
// around it as editors and echo leave it.
func ParseTag(content []byte) (Version, error) {
	text := bytes.TrimSpace(content)
	if len(text) == 0 {
		return Version{}, fmt.Errorf("%w: empty", ErrNoTag)
	}
	return Parse(string(text))
}

// ReadTag reads the tag file name. A missing one gives ErrNoTag itself, one that
// cannot be taken for a tag a *TagError: both mean that the side has no tag.
// Other errors are those of the disk.
func ReadTag(fs fsys.FS, name string) (Version, error) {
	info, err := fs.Lstat(name)
	switch {
	case fsys.IsNotExist(err):
		return Version{}, ErrNoTag
	case err != nil:
		return Version{}, err
	case info.Type != fsys.TypeFile:
		return Version{}, &TagError{fs.Path(name), fmt.Sprintf("a %s, not a file", info.Type)}
	}
	content, err := fsys.ReadFile(fs, name, maxTagFile)
	var long *fsys.TooLongError
	switch {
	case errors.As(err, &long):
		return Version{}, &TagError{fs.Path(name), fmt.Sprintf("longer than %d bytes", long.Limit)}
	case err != nil: // a read error is damage: the tag cannot be read
		return Version{}, &TagError{fs.Path(name), err.Error()}
	}
	v, err := ParseTag(content)
	switch {
	case errors.Is(err, ErrNoTag):
		return Version{}, &TagError{fs.Path(name), "empty"}
	case err != nil:
		reason, _, _ := strings.Cut(err.Error(), ": expected") // TagError says that itself
		return Version{}, &TagError{fs.Path(name), reason}
	}
	return v, nil
}

// WriteTag durably makes v the tag: its original text and a newline.
//
// After success the tag survives a power cut. After an error or a power cut
// the file holds the old tag or the new one, whole.
func WriteTag(fs fsys.FS, name string, v Version) error {
	return fsys.WriteFile(fs, name, EncodeTag(v), 0o644)
}

// EncodeTag gives the content of the tag file for v.
func EncodeTag(v Version) []byte { return []byte(v.String() + "\n") }
