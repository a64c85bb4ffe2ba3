package backup

import (
	"context"
	"fmt"
	"io/fs"
	"path"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// Bases are the versions that lie on a device, and that a release may come as a
// difference from: those of both sides, and those before that they keep.
type Bases struct {
	sides     []base
	manifests []*Manifest
	buf       []byte
}

// base is a side with the record of what lies there.
type base struct {
	fs  fsys.FS
	own *record.Record // nil if there is none
}

// Bases looks for versions. What cannot be read is not there. Nothing is changed.
func (r *Reconciler) Bases() *Bases {
	b := &Bases{buf: make([]byte, 128<<10)}
	for _, side := range r.sides() {
		if side.ready() != nil {
			continue
		}
		own, _, err := record.Load(side.FS, change.RecordFile, nil)
		if err != nil {
			own = nil
		}
		previous, _, err := record.Load(side.FS, path.Join(change.PreviousDir, path.Base(change.RecordFile)), nil)
		if err != nil {
			previous = nil
		}
		b.sides = append(b.sides, base{side.FS, own})
		for _, v := range []*record.Record{own, previous} {
			if v != nil {
				b.manifests = append(b.manifests, &v.Manifest)
			}
		}
	}
	return b
}

// Manifests returns what is recorded of the versions.
func (b *Bases) Manifests() []*Manifest { return b.manifests }

// Open opens a file with that content, wherever it lies: it was read and compared.
// The error wraps fs.ErrNotExist if there is none.
func (b *Bases) Open(ctx context.Context, sum digest.SHA256, size int64) (fsys.File, error) {
	for _, s := range b.sides {
		names := []string{change.Kept(change.PreviousDir, sum.String())}
		if s.own != nil {
			for e := range s.own.Entries() {
				if e.Type == manifest.File && e.Size == size && *e.SHA256 == sum {
					names = append(names, change.Name(e.Path))
				}
			}
		}
		for _, name := range names {
			f, err := b.open(ctx, s.fs, name, sum, size)
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

// open opens a file; nil if it is another one now.
func (b *Bases) open(ctx context.Context, disk fsys.FS, name string, sum digest.SHA256, size int64) (fsys.File, error) {
	if info, err := disk.Lstat(name); err != nil || info.Type != fsys.TypeFile || info.Size != size {
		return nil, err
	}
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	h := digest.New()
	for at := int64(0); err == nil && at < size; {
		part := b.buf[:min(int64(len(b.buf)), size-at)]
		n, e := f.ReadAt(part, at)
		if err = ctx.Err(); n < len(part) {
			err = e
		}
		h.Write(part[:n])
		at += int64(n)
	}
	if err == nil && digest.Sum(h) == sum {
		return f, nil
	}
	f.Close()
	return nil, err
}
