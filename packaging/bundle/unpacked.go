package bundle

import (
	"context"
	"io"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/release"
)

// Unpacked is a whole bundle whose files lie in a directory, each by its hash.
// It is a Base.
type Unpacked struct {
	*Head
	raw   []byte // release.json
	files fsys.FS
}

// Unpack writes the files of the bundle that src holds into dir, which is
// empty. Nothing of it is durable.
func Unpack(ctx context.Context, src io.Reader, v Verifier, dir fsys.FS) (*Unpacked, error) {
	r, err := NewReader(InContext(ctx, src), v)
	if err != nil {
		return nil, err
	}
	for {
		e, content, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if _, err := dir.Lstat(e.SHA256.String()); err == nil {
			continue // the reader verifies this one, too
		}
		f, err := dir.Create(e.SHA256.String(), 0o600)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(f, content)
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			return nil, err
		}
	}
	if err := r.Finish(); err != nil {
		return nil, err
	}
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	defer dec.close()
	raw, err := dec.decode(r.packed, r.parts.Release.Length, nil)
	return &Unpacked{r.Head, raw, dir}, err
}

// Release implements Base.
func (u *Unpacked) Release(b BaseRelease) ([]byte, error) {
	if b.Release != u.Head.Release() {
		m := u.Manifest()
		return nil, NotHere("here is %s %s, release %s", m.App, m.Version, u.Head.Release())
	}
	return u.raw, nil
}

// Open implements Base.
func (u *Unpacked) Open(sum digest.SHA256, size int64) (BaseFile, error) {
	f, err := u.files.Open(sum.String())
	if fsys.IsNotExist(err) {
		err = NotHere("no file with the SHA-256 %s is in %s %s", sum, u.Manifest().App, u.Manifest().Version)
	}
	return f, err
}

// content reads a file of the release.
func (u *Unpacked) content(sum digest.SHA256, size int64) ([]byte, error) {
	f, err := u.files.Open(sum.String())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, size)
	_, err = io.ReadFull(f, b)
	return b, err
}

// base describes the release for those that build on it.
func (u *Unpacked) base() BaseRelease {
	m := u.Manifest()
	return BaseRelease{Version: m.Version, Release: u.Head.Release(), Time: m.Time}
}

// canRebuild reports whether a device that has the release can tell its
// release.json.
func (u *Unpacked) canRebuild() bool {
	b := u.Manifest().Backup()
	raw, err := release.Rebuild(&b, u.Manifest().Time)
	return err == nil && string(raw) == string(u.raw)
}
