package tree

import (
	"context"
	"io"

	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// Reader reads a file as far as it went when it was looked at. Where a sparse
// one has holes, zeros come without the disk being asked for them.
type Reader struct {
	ctx  context.Context
	f    fsys.File
	at   int64
	size int64
	data int64 // below it there is a hole
	// sparse says that there are fewer bytes on the disk than in the file.
	sparse bool
}

// NewReader reads the first n.Size bytes of f, until ctx ends.
func NewReader(ctx context.Context, f fsys.File, n *Node) *Reader {
	return &Reader{ctx: ctx, f: f, size: n.Size, sparse: n.Alloc < n.Size}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (n int, err error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if left := r.size - r.at; left <= 0 {
		return 0, io.EOF
	} else if int64(len(p)) > left {
		p = p[:left]
	}
	if !r.sparse {
		n, err = r.f.Read(p)
		r.at += int64(n)
		return n, err
	}
	if r.at >= r.data {
		switch r.data, err = r.f.NextData(r.at); {
		case err == io.EOF:
			r.data = r.size
		case err != nil:
			return 0, err
		}
	}
	if hole := min(r.data-r.at, int64(len(p))); hole > 0 {
		clear(p[:hole])
		r.at += hole
		return int(hole), nil
	}
	n, err = r.f.ReadAt(p, r.at)
	r.at += int64(n)
	if n > 0 {
		err = nil // it comes again with the next Read
	}
	return n, err
}

// hash returns the digest of the file of n, as far as it went when it was looked at.
func hash(ctx context.Context, f fsys.File, n *Node) (digest.SHA256, error) {
	sum, _, err := digest.OfReader(NewReader(ctx, f, n))
	return sum, err
}
