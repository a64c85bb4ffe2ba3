package bundle

import (
	"bytes"
	"context"
	"fmt"
	"hash"
	"io"

	"tandem/internal/digest"
	"tandem/packaging/delta"
)

// patchReader gives the file that a patch makes. It ends with io.EOF only if
// the file has the SHA-256 of the release.
type patchReader struct {
	p    *patched
	out  *io.PipeReader
	hash hash.Hash
	left int64
	// told says that an error of this file was given to somebody.
	told bool
	stop context.CancelFunc
	done chan struct{} // closed once the old file is
}

// applyPatch begins to make the file. The error is a *PatchError.
func applyPatch(base Base, p *patched, patch []byte) (*patchReader, error) {
	old, err := base.Open(p.Base, p.Size)
	if err != nil {
		return nil, &PatchError{p.Path, err}
	}
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	r := &patchReader{p: p, out: out, hash: digest.New(), left: p.file.Size, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		err := delta.Apply(ctx, in, bytes.NewReader(patch), old, delta.Lengths{Old: p.Size, New: p.file.Size})
		if e := old.Close(); err == nil {
			err = e
		}
		in.CloseWithError(err) // nil is the end of the file
	}()
	return r, nil
}

func (r *patchReader) Read(b []byte) (int, error) {
	n, err := r.out.Read(b)
	r.hash.Write(b[:n])
	r.left -= int64(n)
	if err == io.EOF {
		if sum := digest.Sum(r.hash); r.left != 0 || sum != *r.p.file.SHA256 {
			err = fmt.Errorf("%w: it makes a file with the SHA-256 %s: expected %s as the release says", ErrMalformed, sum, r.p.file.SHA256)
		}
	}
	if err != nil && err != io.EOF {
		r.told = true
		err = &PatchError{r.p.Path, err}
	}
	return n, err
}

// close ends the work, whether it is done or not.
func (r *patchReader) close() {
	r.stop()
	r.out.Close()
	<-r.done
}
