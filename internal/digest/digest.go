// Package digest is the one place where Tandem hashes.
package digest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync"

	simd "github.com/minio/sha256-simd"
)

// SHA256 is a SHA-256 digest; its text form is 64 lower-case hexadecimal digits.
type SHA256 [sha256.Size]byte

// New returns a running SHA-256. It is always New of sha256-simd, never its
// Sum256, which can take the slow path.
func New() hash.Hash { return simd.New() }

// New512 returns a running SHA-512, for what others hash with it.
func New512() hash.Hash { return sha512.New() }

// Of hashes data.
func Of(data []byte) SHA256 {
	h := New()
	h.Write(data)
	return Sum(h)
}

// OfReader hashes what r has to give, and says how many bytes that was.
func OfReader(r io.Reader) (SHA256, int64, error) {
	b := NewBuffer()
	defer b.Release()
	h := New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, b[:])
	return Sum(h), n, err
}

// Buffer is what content is read with: so long that a read costs little beside what is
// done with it.
type Buffer [128 << 10]byte

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// NewBuffer returns a buffer that is free. With Release it is again, so that many files
// take few.
func NewBuffer() *Buffer { return buffers.Get().(*Buffer) }

// Release gives a buffer to the next one who asks.
func (b *Buffer) Release() { buffers.Put(b) }

// Sum returns the digest of what was written to h.
func Sum(h hash.Hash) SHA256 {
	var d SHA256
	h.Sum(d[:0])
	return d
}

// Parse reads the text form.
func Parse(s string) (SHA256, error) {
	var d SHA256
	if len(s) != 2*len(d) {
		return d, fmt.Errorf("digest %.80q: expected %d hexadecimal digits", s, 2*len(d))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return d, fmt.Errorf("digest %.80q: expected %d hexadecimal digits", s, 2*len(d))
	}
	return d, nil
}

// IsZero reports whether d is no digest at all.
func (d SHA256) IsZero() bool { return d == SHA256{} }

func (d SHA256) String() string { return hex.EncodeToString(d[:]) }

// AppendText implements encoding.TextAppender.
func (d SHA256) AppendText(b []byte) ([]byte, error) { return hex.AppendEncode(b, d[:]), nil }

// MarshalText implements encoding.TextMarshaler.
func (d SHA256) MarshalText() ([]byte, error) { return d.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *SHA256) UnmarshalText(text []byte) error {
	p, err := Parse(string(text))
	if err == nil {
		*d = p
	}
	return err
}
