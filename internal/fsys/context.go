package fsys

import (
	"context"
	"io"
)

// InContext returns a reader that ends with ctx's error once ctx is done. It
// can seek if r can.
func InContext(ctx context.Context, r io.Reader) io.Reader {
	c := contextReader{ctx, r}
	if s, ok := r.(io.Seeker); ok {
		return contextSeeker{c, s}
	}
	return c
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

type contextSeeker struct {
	contextReader
	s io.Seeker
}

func (c contextSeeker) Seek(offset int64, whence int) (int64, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.s.Seek(offset, whence)
}

// ReadErrors reads R, and keeps the error of a read apart from those of what is done with
// what was read: it is in Err then, and comes again with each Read.
type ReadErrors struct {
	R   io.Reader
	Err error
}

// Read implements io.Reader.
func (r *ReadErrors) Read(p []byte) (int, error) {
	if r.Err != nil {
		return 0, r.Err
	}
	n, err := r.R.Read(p)
	if err != nil && err != io.EOF {
		r.Err = err
	}
	return n, err
}
