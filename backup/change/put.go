package change

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"

	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// ErrContent says that what was given is not the content that was expected.
var ErrContent = errors.New("content does not match its sha256")

// Verified is content that hashes itself on its way: Read gives io.EOF only
// after content of that digest.
type Verified interface {
	io.Reader
	Verified() digest.SHA256
}

// Link stages f by another name of what the side keeps for a rollback, where that
// has its content and no other name yet, and reports whether it did. Nothing is
// copied then. Two files of the same content are not one: who changes the one would
// change the other.
func (c *Change) Link(f Content, kept string) (bool, error) {
	if was, err := c.fs.Lstat(kept); c.direct || err != nil || was.Nlink > 1 || c.fs.Link(kept, f.name()) != nil {
		return false, nil
	}
	was, err := c.fs.Lstat(f.name())
	if err == nil {
		err = c.setAttr(f.Path, f.name(), attr(f.Entry), was)
	}
	if err == nil && c.each {
		err = syncFile(c.fs, f.name())
	}
	if err != nil {
		return false, err
	}
	c.has(f.Path, was.Ino)
	return true, nil
}

// Put stages the content of f, and checks it against size and digest; content
// that is Verified is not hashed once more. The error wraps ErrContent where it
// is another.
func (c *Change) Put(ctx context.Context, f Content, content io.Reader) error {
	return PutAll(ctx, []*Change{c}, f.Path, content, func(_ *Change, err error) error { return err })
}

// PutAll stages the content of the file p for several changes at once: it is
// read and hashed once. failed is told when one of them cannot go on; where it
// returns nil the others do.
func PutAll(ctx context.Context, changes []*Change, p manifest.Path, content io.Reader, failed func(*Change, error) error) error {
	var outs []*staged
	defer func() {
		for _, s := range outs {
			s.out.Close() // of no consequence once it was closed below
		}
	}()
	each := func(step func(s *staged) error) error {
		for n := 0; n < len(outs); n++ {
			if err := step(outs[n]); err != nil {
				if err := failed(outs[n].c, err); err != nil {
					return err
				}
				outs[n].out.Close() // nothing of it is of use
				outs = slices.Delete(outs, n, n+1)
				n--
			}
		}
		return nil
	}
	var e *manifest.Entry
	for _, c := range changes {
		f := c.find(p)
		if f == nil {
			return fmt.Errorf("%w: %s: content that nobody asked for", manifest.ErrInvalid, p)
		}
		e = f.Entry
		s, err := c.create(f.Content)
		if err != nil {
			if err := failed(c, err); err != nil {
				return err
			}
		} else if s != nil {
			outs = append(outs, s)
		}
	}
	if len(outs) == 0 {
		return nil // no file system can hold it
	}
	var h hash.Hash // nil where content does it
	if v, ok := content.(Verified); !ok || v.Verified() != *e.SHA256 {
		h = digest.New()
	}
	buf := digest.NewBuffer()
	defer buf.Release()
	var n int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, rerr := io.ReadFull(content, buf[:])
		if n += int64(k); n > e.Size {
			return fmt.Errorf("%s: %w", p, ErrContent)
		}
		if k > 0 {
			if h != nil {
				h.Write(buf[:k])
			}
			if err := each(func(s *staged) error { return s.holes.write(buf[:k]) }); err != nil {
				return err
			}
		}
		if rerr == io.EOF || rerr == io.ErrUnexpectedEOF {
			break
		}
		if rerr != nil {
			return rerr
		}
	}
	if n != e.Size || h != nil && digest.Sum(h) != *e.SHA256 {
		return fmt.Errorf("%s: %w", p, ErrContent)
	}
	return each((*staged).end)
}

// staged is a file that is being staged.
type staged struct {
	c     *Change
	f     Content
	out   fsys.File
	holes holeWriter
}

// create makes the file for the content of f; nil if the file system cannot hold it.
func (c *Change) create(f Content) (*staged, error) {
	if c.cannot.above(f.Path) && c.missing(f.name()) {
		return nil, nil // its directory cannot be held either
	}
	name := f.name()
	if c.direct {
		name = Name(f.Path)
	}
	out, err := c.fs.Create(name, uint32(f.Mode)&0o777)
	if err != nil {
		if !c.Live && cannotHold(err) {
			c.cannot.add(f.Path, reason(err))
			return nil, nil
		}
		return nil, err
	}
	return &staged{c: c, f: f, out: out, holes: holeWriter{f: out}}, nil
}

// missing reports whether the directory of a staged file is not there.
func (c *Change) missing(name string) bool {
	_, err := c.fs.Lstat(path.Dir(name))
	return fsys.IsNotExist(err)
}

// end gives the file its attributes and, if need be, makes it durable.
func (s *staged) end() error {
	if err := s.holes.end(); err != nil {
		return err
	}
	was, err := s.out.Stat()
	if err == nil {
		err = s.c.attributes(s.f.Path, freshAttr(s.f.Entry), was, s.out.SetAttr)
	}
	if err != nil {
		return err
	}
	if s.c.each {
		if err := s.out.Sync(); err != nil {
			return err
		}
	}
	s.c.has(s.f.Path, was.Ino)
	return s.out.Close()
}
