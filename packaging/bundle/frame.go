package bundle

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"tandem/packaging/release"
)

// decoder decodes frames, one at a time.
type decoder struct{ zstd *zstd.Decoder }

func newDecoder() (*decoder, error) {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(release.MaxManifest),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &decoder{z}, nil
}

func (d *decoder) close() { d.zstd.Close() }

// decode decodes data, which must be one frame of exactly size bytes, into buf.
func (d *decoder) decode(data []byte, size int64, buf []byte) ([]byte, error) {
	if err := checkFrame(data, size); err != nil {
		return nil, err
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, 0, size)
	}
	out, err := d.zstd.DecodeAll(data, buf[:0:size])
	if err == nil && int64(len(out)) != size {
		err = fmt.Errorf("decodes to %d bytes: expected %d", len(out), size)
	}
	return out, err
}

// checkFrame returns why data is not the whole of one zstd frame that says to
// decode to size bytes and has a checksum: no dictionary, nothing that a decoder
// skips, nothing after it. Whether the checksum fits only decoding tells.
func checkFrame(data []byte, size int64) error {
	var h zstd.Header
	if err := h.Decode(data); err != nil {
		return err
	}
	switch {
	case h.Skippable:
		return errors.New("a frame that is meant to be skipped")
	case h.DictionaryID != 0:
		return fmt.Errorf("a frame that needs the dictionary %d", h.DictionaryID)
	case !h.HasFCS || h.FrameContentSize != uint64(size):
		return fmt.Errorf("a frame that does not say that it has %d bytes decoded", size)
	case !h.HasCheckSum:
		return errors.New("a frame without a checksum")
	}
	rest := data[h.HeaderSize:]
	for last := false; !last; {
		if len(rest) < 3 {
			return errors.New("the frame ends too early")
		}
		head := int(rest[0]) | int(rest[1])<<8 | int(rest[2])<<16
		last = head&1 != 0
		n := head >> 3
		switch head >> 1 & 3 {
		case 1: // one byte, repeated
			n = 1
		case 3:
			return errors.New("a block of a type that is reserved")
		}
		if len(rest) < 3+n {
			return errors.New("the frame ends too early")
		}
		rest = rest[3+n:]
	}
	if len(rest) != 4 { // the checksum
		return fmt.Errorf("%d bytes after the frame's blocks: expected a checksum of 4", len(rest))
	}
	return nil
}

// encoder makes frames, several at a time. The same input gives the same bytes everywhere.
type encoder struct{ zstd *zstd.Encoder }

func newEncoder() (*encoder, error) {
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), // each frame is made by one
		zstd.WithWindowSize(maxDecoded),
		zstd.WithSingleSegment(true),
		zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, err
	}
	return &encoder{z}, nil
}

func (e *encoder) encode(data []byte) []byte { return e.zstd.EncodeAll(data, nil) }
