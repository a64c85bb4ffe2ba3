package bundle

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
