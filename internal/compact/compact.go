// Package compact is how lists of files that are sorted by path are written in few
// bytes: numbers are as long as they need to be, and a path begins with what it shares
// with the path before.
package compact

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// MaxPath is how long a path may be, in bytes.
const MaxPath = 4095

// Writer appends to Bytes.
type Writer struct {
	Bytes []byte
	path  string // written last
}

// Uint writes a number.
func (w *Writer) Uint(v uint64) { w.Bytes = binary.AppendUvarint(w.Bytes, v) }

// Int writes a number that may be below zero, best a difference.
func (w *Writer) Int(v int64) { w.Bytes = binary.AppendVarint(w.Bytes, v) }

// Text writes any bytes, with their number.
func (w *Writer) Text(s string) {
	w.Uint(uint64(len(s)))
	w.Bytes = append(w.Bytes, s...)
}

// Path writes a path, as what it has in common with the one before and what follows.
func (w *Writer) Path(p string) {
	shared := 0
	for shared < min(len(w.path), len(p)) && w.path[shared] == p[shared] {
		shared++
	}
	w.Uint(uint64(shared))
	w.Text(p[shared:])
	w.path = p
}

// Reader reads what a Writer wrote. From the first error on it reads nothing.
type Reader struct {
	in   *bufio.Reader
	path []byte // read last
	err  error
}

// NewReader returns a Reader of src.
func NewReader(src io.Reader) *Reader { return &Reader{in: bufio.NewReaderSize(src, 8<<10)} }

// Err returns the first error, and what it means that the source ends too early.
func (r *Reader) Err() error { return r.err }

// ErrRange says that something is longer or larger than it can be.
var ErrRange = errors.New("a length or number out of range")

func (r *Reader) fail(err error) {
	if err == nil {
		err = ErrRange
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if r.err == nil {
		r.err = err
	}
}

// More reports whether anything is left, and nothing went wrong.
func (r *Reader) More() bool {
	if r.err == nil {
		if _, err := r.in.Peek(1); err == nil {
			return true
		} else if err != io.EOF {
			r.fail(err)
		}
	}
	return false
}

// Uint reads a number.
func (r *Reader) Uint() uint64 {
	if r.err != nil {
		return 0
	}
	b, err := r.in.Peek(binary.MaxVarintLen64)
	v, n := binary.Uvarint(b)
	if n <= 0 {
		if n < 0 {
			err = nil // too large
		}
		r.fail(err)
		return 0
	}
	_, _ = r.in.Discard(n) // they are buffered
	return v
}

// UpTo reads a number that is at most limit.
func (r *Reader) UpTo(limit uint64) uint64 {
	v := r.Uint()
	if v > limit {
		r.fail(ErrRange)
		return 0
	}
	return v
}

// Int reads what Writer.Int wrote.
func (r *Reader) Int() int64 {
	v := r.Uint()
	return int64(v>>1) ^ -int64(v&1)
}

// Fill reads as many bytes as b has.
func (r *Reader) Fill(b []byte) {
	if r.err == nil {
		if _, err := io.ReadFull(r.in, b); err != nil {
			r.fail(err)
		}
	}
}

// Text reads what Writer.Text wrote, of at most limit bytes. It takes no more memory than
// a few times what there is to read.
func (r *Reader) Text(limit int) string {
	var text []byte
	for n := int(r.UpTo(uint64(limit))); len(text) < n && r.err == nil; {
		done := len(text)
		text = append(text, make([]byte, min(n-done, max(done, 4<<10)))...)
		r.Fill(text[done:])
	}
	return string(text)
}

// Line reads up to the next newline, which is part of it.
func (r *Reader) Line() []byte {
	line, err := r.in.ReadBytes('\n')
	if err != nil {
		r.fail(err)
	}
	return line
}

// Path reads a path. It is good until the next one is read.
func (r *Reader) Path() []byte {
	shared := r.UpTo(uint64(len(r.path)))
	n := r.UpTo(MaxPath - shared)
	if r.err != nil {
		return nil
	}
	r.path = slices.Grow(r.path[:shared], int(n))[:shared+n]
	r.Fill(r.path[shared:])
	return r.path
}
