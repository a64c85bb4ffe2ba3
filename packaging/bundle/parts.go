package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"tandem/internal/digest"
	"tandem/packaging/delta"
	"tandem/packaging/release"
)

const (
	// maxDecoded is how many bytes a frame may decode to: with the same again for
	// its compressed form, the most memory that a payload makes a reader hold.
	maxDecoded = 4 << 20
	// maxParts is how long parts.json may be, in bytes.
	maxParts = 8 << 20
	// maxNeeds is how many things a bundle may ask of its reader.
	maxNeeds = 16
)

// Parts is parts.json: how a bundle carries its release.
type Parts struct {
	Release Whole `json:"release"`
	// Needs names what a reader must know beyond whole files in frames. Whoever
	// does not know one of them refuses the bundle.
	Needs []string `json:"needs,omitempty"`
	// Delta is what a delta bundle builds on; nil for one that is whole.
	Delta *Delta `json:"delta,omitempty"`
	// Frames are those of the payload, in their order.
	Frames []Frame `json:"frames"`
}

// Whole is release.json once it is unpacked.
type Whole struct {
	Length int64         `json:"length"` // bytes
	SHA256 digest.SHA256 `json:"sha256"`
}

// Frame is one frame of the payload; in JSON a list of the two numbers.
type Frame struct {
	Length int64 // as it stands in the bundle, bytes
	Size   int64 // of the part of the tar that it decodes to, bytes
}

// MarshalJSON implements json.Marshaler.
func (f Frame) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[%d,%d]", f.Length, f.Size), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *Frame) UnmarshalJSON(data []byte) error {
	var two []int64
	if err := json.Unmarshal(data, &two); err != nil {
		return err
	}
	if len(two) != 2 {
		return fmt.Errorf("a frame of %d numbers: expected 2", len(two))
	}
	f.Length, f.Size = two[0], two[1]
	return nil
}

// longest is how long a frame of size bytes can be, if nothing in it could be
// compressed: each block of 128 KiB costs three bytes, the frame some more.
func longest(size int64) int64 { return size + size>>10 + 64 }

// decodeParts reads parts.json. The error wraps ErrMalformed, or ErrCodec where
// the bundle needs what this program does not know.
func decodeParts(data []byte) (*Parts, error) {
	p := &Parts{}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, malformed(partsName, "%w", err)
	}
	if len(p.Needs) > maxNeeds {
		return nil, malformed(partsName, "needs %d things, at most %d are allowed", len(p.Needs), maxNeeds)
	}
	for _, n := range p.Needs {
		if n == delta.Magic {
			continue
		}
		return nil, fmt.Errorf("%w: %s: needs %.40q; a newer tandem may know it", ErrCodec, partsName, n)
	}
	if p.Release.Length <= 0 || p.Release.Length > release.MaxManifest {
		return nil, malformed(partsName, "%s has %d bytes unpacked: expected 1 to %d", releaseName, p.Release.Length, release.MaxManifest)
	}
	if (p.Delta != nil) != slices.Contains(p.Needs, delta.Magic) {
		return nil, malformed(partsName, "a delta bundle needs %s, and no other", delta.Magic)
	}
	if p.Delta != nil {
		if err := p.Delta.check(); err != nil {
			return nil, malformed(partsName, "%w", err)
		}
	}
	for i, f := range p.Frames {
		if f.Size <= 0 || f.Size > maxDecoded {
			return nil, malformed(partsName, "frame %d decodes to %d bytes: expected 1 to %d", i+1, f.Size, maxDecoded)
		}
		if f.Length <= 0 || f.Length > longest(f.Size) {
			return nil, malformed(partsName, "frame %d has %d bytes and decodes to %d: expected 1 to %d", i+1, f.Length, f.Size, longest(f.Size))
		}
	}
	return p, nil
}

// Encode returns the content of parts.json.
func (p *Parts) Encode() ([]byte, error) {
	data, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// Payload is how long the payload is in the bundle, in bytes.
func (p *Parts) Payload() (n int64) {
	for _, f := range p.Frames {
		n += f.Length
	}
	return n
}

// place is a frame and what it holds.
type place struct {
	Frame
	at    int64 // of the payload, where it begins
	first int   // number of the first file in it
	count int   // how many files it holds; 1 for a piece of one
	skip  int64 // how much of the tar of the first file came in the frames before
}

// place finds what each frame of p holds: whole files, or a piece of one. The
// end of the tar belongs to what comes last.
func (l *layout) place(p *Parts) ([]place, error) {
	places := make([]place, 0, len(p.Frames))
	next, skip, at := 0, int64(0), int64(0)
	for i, f := range p.Frames {
		if next == l.len() {
			return nil, fmt.Errorf("frame %d comes after the last file", i+1)
		}
		pl := place{Frame: f, at: at, first: next, skip: skip}
		at += f.Length
		if whole := l.size(next); skip > 0 || f.Size < whole {
			pl.count = 1
			if skip += f.Size; skip > whole {
				return nil, fmt.Errorf("frame %d goes beyond %q", i+1, l.name(next))
			}
			if skip == whole {
				next, skip = next+1, 0
			}
			places = append(places, pl)
			continue
		}
		left := f.Size
		for ; next < l.len() && l.size(next) <= left; next++ {
			left -= l.size(next)
			pl.count++
		}
		if left > 0 {
			return nil, fmt.Errorf("frame %d does not end where a file does", i+1)
		}
		places = append(places, pl)
	}
	if next != l.len() {
		return nil, errors.New("the frames end before the last file")
	}
	return places, nil
}
