package codec

import (
	"fmt"
	"io"
)

// A window is a part of the old file in memory.
type window struct {
	file io.ReaderAt
	size int // of the file
	buf  []byte
	at   int
	n    int
	err  error // the first; what is read after it is of no worth
}

func newWindow(file io.ReaderAt, size, buffer int) *window {
	return &window{file: file, size: size, buf: make([]byte, buffer)}
}

// bytes returns k bytes at off, which are valid until the next call. They have
// to lie in the file and be fewer than the buffer holds.
func (w *window) bytes(off, k int) []byte {
	if off < w.at || off+k > w.at+w.n {
		w.at, w.n = off, min(len(w.buf), w.size-off)
		if n, err := w.file.ReadAt(w.buf[:w.n], int64(off)); n < w.n && w.err == nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			w.err = fmt.Errorf("read the old file: %w", err)
		}
	}
	return w.buf[off-w.at : off-w.at+k]
}
