package bundle

import (
	"bytes"
	"context"
	"io"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/release"
)

// Archive reads single files of a whole bundle, in any order. It is a Base.
type Archive struct {
	*Head
	ctx    context.Context
	src    io.ReaderAt
	size   int64
	raw    []byte // release.json
	byHash map[digest.SHA256]*manifest.Entry
}

// OpenArchive reads the head of the bundle of size bytes that src holds. What
// it returns of a file has the file's hash; until ctx is done it can be asked by several at once.
func OpenArchive(ctx context.Context, src io.ReaderAt, size int64, v Verifier) (*Archive, error) {
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	defer dec.close()
	in := &outer{src: fsys.InContext(ctx, io.NewSectionReader(src, 0, size))}
	h, err := readHead(in, v, dec, noBase{}, false)
	if err != nil {
		return nil, err
	}
	if h.Size() != size {
		return nil, malformed(payloadName, "the bundle has %d bytes: expected %d", size, h.Size())
	}
	a := &Archive{Head: h, ctx: ctx, src: src, size: size, byHash: map[digest.SHA256]*manifest.Entry{}}
	if a.raw, err = dec.decode(h.packed, h.parts.Release.Length, nil); err != nil {
		return nil, err
	}
	for _, e := range h.layout.files {
		if a.byHash[*e.SHA256] == nil {
			a.byHash[*e.SHA256] = e
		}
	}
	return a, nil
}

// content returns a file of the release; nil if it has none of that hash.
func (a *Archive) content(sum digest.SHA256) ([]byte, error) {
	e := a.byHash[sum]
	if e == nil {
		return nil, nil
	}
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	defer dec.close()
	src := io.NewSectionReader(a.src, 0, a.size)
	if _, err := src.Seek(a.length, io.SeekStart); err != nil {
		return nil, err
	}
	in := &outer{src: fsys.InContext(a.ctx, src), seek: src, off: a.length, size: a.parts.Payload(), left: a.parts.Payload()}
	r := &Reader{Head: a.Head, base: noBase{}, in: in, dec: dec}
	r.Want(func(p backup.Path) bool { return p == e.Path })
	_, content, err := r.Next()
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, e.Size+bytes.MinRead))
	_, err = b.ReadFrom(content)
	return b.Bytes(), err
}

// Release implements Base.
func (a *Archive) Release(of *Delta) ([]byte, error) {
	if of.Base.Release != a.Head.Release() {
		m := a.Manifest()
		return nil, NotHere("here is %s %s, release %s", m.App, m.Version, a.Head.Release())
	}
	return a.raw, nil
}

// Open implements Base. The file is in memory.
func (a *Archive) Open(sum digest.SHA256, size int64) (BaseFile, error) {
	b, err := a.content(sum)
	switch {
	case err != nil:
		return nil, err
	case b == nil || int64(len(b)) != size:
		return nil, NotHere("no file with the SHA-256 %s is in %s %s", sum, a.Manifest().App, a.Manifest().Version)
	}
	return memory{bytes.NewReader(b)}, nil
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// describe tells of the release to those that build on it.
func (a *Archive) describe() BaseRelease {
	m := a.Manifest()
	return BaseRelease{Version: m.Version, Release: a.Head.Release(), Time: m.Time}
}

// canRebuild reports whether a device that has the release can tell its
// release.json.
func (a *Archive) canRebuild() bool {
	b := a.Manifest().Backup()
	raw, err := release.Rebuild(&b, a.Manifest().Time)
	return err == nil && bytes.Equal(raw, a.raw)
}
