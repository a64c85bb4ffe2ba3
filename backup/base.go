package backup

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"time"

	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// Bases are the versions that lie on a device, and that a release may come as a
// difference from: those of both sides, and those before that they keep.
type Bases struct {
	trees []base
	buf   []byte
}

// base is a version, and where it lies.
type base struct {
	fs  fsys.FS
	dir string // of the version
	own *Record
}

// Bases looks for versions. What cannot be read is not there. Nothing is changed.
func (r *Reconciler) Bases() *Bases {
	in := newInspector(time.Time{}, Options{})
	b := &Bases{buf: in.buf}
	for _, side := range r.sides() {
		if side.ready() != nil {
			continue
		}
		for _, v := range []struct{ dir, record string }{{".", recordFile}, {prevDir, path.Join(prevDir, path.Base(recordFile))}} {
			if own, _, err := in.loadRecord(side.FS, v.record); err == nil && own != nil {
				b.trees = append(b.trees, base{side.FS, v.dir, own})
			}
		}
	}
	return b
}

// Manifests returns what is recorded of the versions.
func (b *Bases) Manifests() []*Manifest {
	var all []*Manifest
	for _, t := range b.trees {
		all = append(all, &t.own.Manifest)
	}
	return all
}

// Open opens a file with that content, wherever it lies: it was read and compared.
// The error wraps fs.ErrNotExist if there is none.
func (b *Bases) Open(ctx context.Context, sum digest.SHA256, size int64) (fsys.File, error) {
	for _, t := range b.trees {
		for e := range t.own.entries() {
			if e.Type != File || e.Size != size || *e.SHA256 != sum {
				continue
			}
			f, err := b.open(ctx, t, e)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err == nil && f != nil {
				return f, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: no file with the SHA-256 %s is on either side", fs.ErrNotExist, sum)
}

// open opens the file of e; nil if it is another one now.
func (b *Bases) open(ctx context.Context, t base, e *Entry) (fsys.File, error) {
	name := app(t.dir, e.Path)
	if info, err := t.fs.Lstat(name); err != nil || info.Type != fsys.TypeFile || info.Size != e.Size {
		return nil, err
	}
	f, err := t.fs.Open(name)
	if err != nil {
		return nil, err
	}
	h := digest.New()
	for at := int64(0); err == nil && at < e.Size; {
		part := b.buf[:min(int64(len(b.buf)), e.Size-at)]
		n, e := f.ReadAt(part, at)
		if err = ctx.Err(); n < len(part) {
			err = e
		}
		h.Write(part[:n])
		at += int64(n)
	}
	if err == nil && digest.Sum(h) == *e.SHA256 {
		return f, nil
	}
	f.Close()
	return nil, err
}

// MatchAny reports whether one of the patterns matches p.
func MatchAny(patterns []string, p Path) bool { return matchAny(patterns, p) }
