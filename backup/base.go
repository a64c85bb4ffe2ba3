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
	fs    fsys.FS
	own   *record.Record // nil if there is none
	names map[digest.SHA256][]string
}

// Bases looks for versions. What cannot be read is not there. Nothing is changed.
func (r *Reconciler) Bases() *Bases {
	b := &Bases{buf: make([]byte, 128<<10)}
	known := map[digest.SHA256]*record.Record{}
	for _, side := range r.sides() {
		if side.ready() != nil {
			continue
		}
		own, _, err := record.Load(side.FS, change.RecordFile, known)
		if err != nil {
			own = nil
		}
		previous, _, err := record.Load(side.FS, path.Join(change.PreviousDir, path.Base(change.RecordFile)), known)
		if err != nil {
			previous = nil
		}
		b.sides = append(b.sides, base{fs: side.FS, own: own})
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

// Keep finds the files of those contents, which Open opens, and lets go of what is recorded
// of all others.
func (b *Bases) Keep(need map[digest.SHA256]bool) {
	for i := range b.sides {
		s := &b.sides[i]
		s.names = map[digest.SHA256][]string{}
		if s.own == nil {
			continue
		}
		for e := range s.own.Entries() {
			if e.Type == manifest.File && need[*e.SHA256] {
				s.names[*e.SHA256] = append(s.names[*e.SHA256], change.Name(e.Path))
			}
		}
		s.own = nil
	}
	b.manifests = nil
}

// Open opens a file with that content, wherever it lies: it was read and compared.
// The error wraps fs.ErrNotExist if there is none.
func (b *Bases) Open(ctx context.Context, sum digest.SHA256, size int64) (fsys.File, error) {
	for _, s := range b.sides {
		for _, name := range append([]string{change.Kept(change.PreviousDir, sum.String())}, s.names[sum]...) {
			f, err := b.open(ctx, s.fs, name, sum, size)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err == nil && f != nil {
				return f, nil
			}
		}
	}
	return nil, fmt.Errorf("a file with the SHA-256 %s is on neither side: it was changed or went bad (%w)", sum, fs.ErrNotExist)
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
