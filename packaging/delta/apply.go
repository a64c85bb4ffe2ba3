package delta

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"tandem/packaging/delta/internal/codec"
)

const (
	// Magic is how a patch begins.
	Magic = "TDP1"
	// MaxFile is how long either file may be.
	MaxFile = codec.MaxLength
)

// ErrMalformed means that a patch is not what the format allows, or is for
// files of other lengths.
var ErrMalformed = codec.ErrMalformed

// Lengths are those that the old and the new file have, as the caller knows
// them from what is signed.
type Lengths struct{ Old, New int64 }

// Apply writes to w the file that patch makes of old. It returns
// ErrMalformed if the patch is not for files of these lengths, or is damaged in a way
// that shows; other errors are the context's or those of reading and writing.
// After an error some of the new file may have been written, and is of no worth.
func Apply(ctx context.Context, w io.Writer, patch io.Reader, old io.ReaderAt, want Lengths) error {
	in := bufio.NewReaderSize(patch, 4<<10)
	found, err := readHeader(in)
	if err != nil {
		return err
	}
	if found != want {
		return fmt.Errorf("%w: it is for %d bytes and makes %d: expected %d and %d", ErrMalformed, found.Old, found.New, want.Old, want.New)
	}
	return codec.Decode(ctx, w, in, old, int(found.Old), int(found.New))
}

// readHeader takes what comes before the coded part, and leaves in after it.
func readHeader(in *bufio.Reader) (Lengths, error) {
	var magic [len(Magic)]byte
	if _, err := io.ReadFull(in, magic[:]); err != nil {
		return Lengths{}, early(err)
	}
	if string(magic[:]) != Magic {
		return Lengths{}, fmt.Errorf("%w: it begins with %q, expected %q", ErrMalformed, magic, Magic)
	}
	from, err := readLength(in)
	if err != nil {
		return Lengths{}, err
	}
	to, err := readLength(in)
	return Lengths{from, to}, err
}

// readLength takes a number of seven bits a byte, low ones first, all but the
// last with the high bit set.
func readLength(in io.ByteReader) (int64, error) {
	n := int64(0)
	for shift := 0; ; shift += 7 {
		b, err := in.ReadByte()
		if err != nil {
			return 0, early(err)
		}
		n |= int64(b&0x7f) << shift
		if n > MaxFile || shift > 28 {
			return 0, fmt.Errorf("%w: a file of more than %d bytes", ErrMalformed, MaxFile)
		}
		if b < 0x80 {
			return n, nil
		}
	}
}

// early tells a patch that ends in its header from one that cannot be read.
func early(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends in its header", ErrMalformed)
	}
	return fmt.Errorf("read the patch: %w", err)
}
