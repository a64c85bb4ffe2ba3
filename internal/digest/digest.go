// Package digest is the one place where Tandem hashes.
package digest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

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

// OfReader hashes what r has to give, and says how many bytes that was. The
// buffer is the caller's, so that hashing many files allocates once.
func OfReader(r io.Reader, buf []byte) (SHA256, int64, error) {
	h := New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, buf)
	return Sum(h), n, err
}

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
