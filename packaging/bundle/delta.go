package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/packaging/delta"
	"tandem/packaging/release"
	"tandem/versioning"
)

// maxPatch is how long a patch may be, in bytes: a reader holds it in memory
// until it was compared with its hash.
const maxPatch = 3 << 20

// Delta is what a delta bundle builds on: it carries the files that the base
// lacks, some of them as patches.
type Delta struct {
	// App and Version are those of the release, for whoever lacks the base and
	// so cannot tell what the bundle holds.
	App     string             `json:"app"`
	Version versioning.Version `json:"version"`
	Base    BaseRelease        `json:"base"`
	// Patches are the files that come as patches, sorted by path.
	Patches []Patch `json:"patches"`
}

// BaseRelease is a release that others build on.
type BaseRelease struct {
	Version versioning.Version `json:"version"`
	Release digest.SHA256      `json:"release"`
	Time    int64              `json:"time,omitempty"` // as its release.json has it
}

// A Patch makes a file of the release of one of the base. What is carried in
// the file's place is the patch.
type Patch struct {
	Path   backup.Path   `json:"path"`
	Base   digest.SHA256 `json:"base"`   // of the content that it is for
	Size   int64         `json:"size"`   // of that, bytes
	Length int64         `json:"length"` // of the patch, bytes
	SHA256 digest.SHA256 `json:"sha256"` // of the patch
}

// Needs returns the contents that its patches are for.
func (d *Delta) Needs() map[digest.SHA256]bool {
	need := map[digest.SHA256]bool{}
	for i := range d.Patches {
		need[d.Patches[i].Base] = true
	}
	return need
}

func (d *Delta) check() error {
	switch {
	case d.Version.IsZero() || d.Base.Version.IsZero() || d.Base.Release.IsZero():
		return errors.New("delta: expected the version of the release, and version and release of its base")
	case len(d.Patches) > release.MaxFiles:
		return fmt.Errorf("%d patches, at most %d are allowed", len(d.Patches), release.MaxFiles)
	}
	for i, p := range d.Patches {
		if i > 0 && cmp.Compare(d.Patches[i-1].Path, p.Path) >= 0 {
			return fmt.Errorf("the patch of %.80q comes after that of %.80q: expected them sorted by path", p.Path, d.Patches[i-1].Path)
		}
		if p.Length <= 0 || p.Length > maxPatch || p.Size < 0 || p.Size > delta.MaxFile {
			return fmt.Errorf("the patch of %.80q has %d bytes and is for a file of %d: at most %d and %d are possible", p.Path, p.Length, p.Size, maxPatch, delta.MaxFile)
		}
	}
	return nil
}

// Base is what is here that a delta bundle may build on.
type Base interface {
	// Release returns the content of release.json that of builds on. The error wraps
	// ErrBase if it is not here.
	Release(of *Delta) ([]byte, error)
	// Open opens a file with that content, which the release that was asked for
	// last has and its delta builds on: it was read and compared. The error
	// wraps ErrBase if there is none.
	Open(sum digest.SHA256, size int64) (BaseFile, error)
}

// BaseFile is an open file of a base.
type BaseFile interface {
	io.ReaderAt
	io.Closer
}

// NotHere is the error of a Base that lacks something: what is here instead, for
// people. It wraps ErrBase.
func NotHere(format string, args ...any) error { return &notHere{fmt.Sprintf(format, args...)} }

type notHere struct{ text string }

func (e *notHere) Error() string { return e.text }

func (e *notHere) Unwrap() error { return ErrBase }

// noBase is where nothing is here.
type noBase struct{}

func (noBase) Release(*Delta) ([]byte, error) { return nil, NotHere("that is not here") }

func (noBase) Open(digest.SHA256, int64) (BaseFile, error) { return nil, NotHere("nothing is here") }

// A PatchError says that a file cannot be made of its patch. The files after it
// can be read all the same.
type PatchError struct {
	Path backup.Path
	Err  error // wraps ErrBase or ErrMalformed, or is one of reading
}

func (e *PatchError) Error() string { return fmt.Sprintf("the patch of %q: %v", e.Path, e.Err) }

func (e *PatchError) Unwrap() error { return e.Err }

// baseRelease reads release.json of the base.
func (d *Delta) baseRelease(base Base) ([]byte, error) {
	raw, err := base.Release(d)
	if errors.Is(err, ErrBase) {
		return nil, fmt.Errorf("%w: this bundle makes %s %s of %s, release %s: %w", ErrBase, d.App, d.Version, d.Base.Version, d.Base.Release, err)
	}
	if err != nil {
		return nil, err
	}
	if sum := digest.Of(raw); sum != d.Base.Release {
		return nil, fmt.Errorf("%w: the base's release.json has the SHA-256 %s: expected %s", ErrBase, sum, d.Base.Release)
	}
	return raw, nil
}

// carried decides which files of a release a delta bundle carries: those that
// the base does not have. What an application may have changed is no base for
// anything; a default that stays what it was is not carried, either.
type carried struct {
	contents map[digest.SHA256]bool
	defaults map[backup.Path]digest.SHA256
}

func newCarried(base *release.Manifest) *carried {
	c := &carried{map[digest.SHA256]bool{}, map[backup.Path]digest.SHA256{}}
	for i := range base.Files {
		switch e := &base.Files[i]; {
		case e.Type != manifest.File:
		case base.IsConfig(e.Path):
			c.defaults[e.Path] = *e.SHA256
		default:
			c.contents[*e.SHA256] = true
		}
	}
	return c
}

func (c *carried) lacks(e *manifest.Entry) bool {
	same, ok := c.defaults[e.Path]
	return !c.contents[*e.SHA256] && !(ok && same == *e.SHA256)
}

// deltaLayout is the layout of what a delta bundle carries: patches in the
// places of their files.
func deltaLayout(m, base *release.Manifest, patches []Patch) (*layout, error) {
	all := newLayout(m)
	l := &layout{mtime: all.mtime, patches: map[backup.Path]*patched{}}
	c := newCarried(base)
	for _, e := range all.files {
		if !c.lacks(e) {
			continue
		}
		if len(patches) > 0 && patches[0].Path == e.Path {
			p := patches[0]
			patches = patches[1:]
			if m.IsConfig(e.Path) {
				return nil, fmt.Errorf("a patch of %.80q, which may have been changed", e.Path)
			}
			if e.Size > delta.MaxFile {
				return nil, fmt.Errorf("a patch of %.80q, which has %d bytes: at most %d are possible", e.Path, e.Size, delta.MaxFile)
			}
			l.patches[e.Path] = &patched{p, e}
			part := *e
			part.Size, part.SHA256 = p.Length, &p.SHA256
			e = &part
		}
		l.files = append(l.files, e)
	}
	if len(patches) > 0 {
		return nil, fmt.Errorf("a patch of %.80q, which is no file of the release that the base lacks", patches[0].Path)
	}
	return l, nil
}

// patched is a patch and the file that it makes.
type patched struct {
	Patch
	file *manifest.Entry
}
