package change

import (
	"errors"
	"fmt"

	"tandem/backup/manifest"
	"tandem/internal/fsys"
)

// ErrNoSpace says that there is not enough space.
var ErrNoSpace = errors.New("not enough space")

// SpaceError says how much room a change needs and how much there is. It wraps
// ErrNoSpace.
type SpaceError struct {
	Path                     string
	NeedBytes, FreeBytes     int64
	NeedEntries, FreeEntries int64 // FreeEntries is below zero where the file system does not count them
	// Full is what a file system said that was full sooner than it had told; nil for none. What
	// is free is a guess then.
	Full error
}

func (e *SpaceError) Error() string {
	if e.Full != nil {
		return fmt.Sprintf("%s: %v: %v", e.Path, ErrNoSpace, e.Full)
	}
	if e.FreeEntries >= 0 && e.NeedEntries > e.FreeEntries {
		return fmt.Sprintf("%s: %v: needs %d new files, the file system has room for %d", e.Path, ErrNoSpace, e.NeedEntries, e.FreeEntries)
	}
	return fmt.Sprintf("%s: %v: needs %d bytes, %d are free", e.Path, ErrNoSpace, e.NeedBytes, e.FreeBytes)
}

// Unwrap returns ErrNoSpace.
func (e *SpaceError) Unwrap() error { return ErrNoSpace }

// short reports whether there is less than is needed.
func (e *SpaceError) short() bool {
	return e.NeedBytes > e.FreeBytes || e.FreeEntries >= 0 && e.NeedEntries > e.FreeEntries
}

// What an entry takes in a record and in a commit, in bytes; generous, names are
// short.
const (
	recordEntry = 256
	commitEntry = 512
)

func (c *Change) checkSpace() error {
	need, err := c.need()
	if err == nil && need.short() {
		// UBIFS guesses what is not written out yet, and guesses low.
		if err := c.fs.Sync(); err != nil {
			return err
		}
		need, err = c.need()
	}
	if err == nil && need.short() {
		err = need
	}
	return err
}

// need works out what the change takes, and what there is.
func (c *Change) need() (*SpaceError, error) {
	space, err := c.fs.Space()
	if err != nil {
		return nil, err
	}
	block := max(space.BlockSize, 1)
	round := func(n int64) int64 { return (n + block - 1) / block * block }
	need := &SpaceError{Path: c.fs.Path("."), FreeBytes: space.Free, FreeEntries: space.Inodes}
	if c.Idle() {
		if !c.sameRecord() {
			need.NeedBytes, need.NeedEntries = round(c.Body.Size+recordEntry), 1
		}
		return need, nil
	}
	for i := range c.content {
		need.NeedEntries++
		need.NeedBytes += round(c.content[i].Size)
	}
	for i := range c.Ops {
		o := &c.Ops[i]
		if o.New == nil || o.New.Type == manifest.File {
			continue
		}
		if o.Old == nil {
			need.NeedBytes += block
			need.NeedEntries++
		}
		if o.New.Type != manifest.Dir || o.Slot == "" {
			continue
		}
		for e := range c.Record.Entries() { // which is staged as a whole
			if under(o.Path, e.Path) && (e.Type == manifest.Dir || e.Type == manifest.Symlink) {
				need.NeedBytes += block
				need.NeedEntries++
			}
		}
	}
	need.NeedBytes -= c.Holes
	need.NeedBytes += round(int64(c.Record.Len())*recordEntry) + round(int64(len(c.Ops))*commitEntry) + 8*block
	need.NeedEntries += 10
	for i := 0; i < len(c.content) && need.short(); i++ {
		if f := &c.content[i]; f.linked(c.fs) {
			need.NeedBytes -= round(f.Size)
		}
	}
	return need, nil
}

// linked reports whether the side keeps this content for a rollback: then it takes no room.
func (g *given) linked(fs fsys.FS) bool {
	_, err := fs.Lstat(Kept(PreviousDir, g.SHA256.String()))
	return err == nil
}

// Shortage reports how much room p needs on fs, if that is more than there is.
func Shortage(fs fsys.FS, p *Plan) (*SpaceError, error) {
	c := newChange(fs, p)
	err := c.checkEnd()
	if err == nil {
		err = c.checkSpace()
	}
	var short *SpaceError
	if errors.As(err, &short) {
		return short, nil
	}
	return nil, err
}
