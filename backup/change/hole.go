package change

import (
	"bytes"

	"tandem/internal/fsys"
)

// holeWriter leaves holes where a file has whole blocks of zeros.
type holeWriter struct {
	f     fsys.File
	zeros int64 // not written yet
}

const holeSize = 4096

var noBytes [holeSize]byte // never written to

func (w *holeWriter) write(p []byte) error {
	for len(p) > 0 {
		k := min(len(p), holeSize)
		if k == holeSize && bytes.Equal(p[:k], noBytes[:]) {
			w.zeros += holeSize
			p = p[k:]
			continue
		}
		// As much as goes in one piece: up to the next block of zeros.
		for k < len(p) && !(len(p)-k >= holeSize && bytes.Equal(p[k:k+holeSize], noBytes[:])) {
			k += min(holeSize, len(p)-k)
		}
		if err := w.skip(0); err != nil {
			return err
		}
		if _, err := w.f.Write(p[:k]); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
}

// skip makes the hole, but for the last bytes of it.
func (w *holeWriter) skip(but int64) error {
	n := w.zeros - but
	w.zeros = but
	if n <= 0 {
		return nil
	}
	return w.f.Skip(n)
}

// end gives a file that ends with zeros its length.
func (w *holeWriter) end() error {
	if w.zeros == 0 {
		return nil
	}
	if err := w.skip(1); err != nil {
		return err
	}
	_, err := w.f.Write(noBytes[:1])
	return err
}
