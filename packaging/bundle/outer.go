package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	block = 512
	// maxMember is what the size field of a ustar header can say.
	maxMember = 1<<33 - 1
)

// The names of a bundle's members.
const (
	formatName  = "tandem-bundle"
	targetsName = "metadata/targets.json"
	releaseName = "release.json.zst"
	patchName   = "release.json.patch" // in its place, in a delta bundle
	partsName   = "parts.json"
	payloadName = "payload.tar.zst"

	formatVersion = "2\n"
)

// pad says how many bytes follow size bytes up to a whole block.
func pad(size int64) int64 { return -size & (block - 1) }

// tarHeader returns the one valid header of a member: a ustar header of a file
// that is root's and readable by all.
func tarHeader(name string, size, mtime int64) [block]byte {
	return ustar(name, '0', 0o644, size, mtime)
}

// ustar returns a header of something that is root's.
func ustar(name string, kind byte, mode, size, mtime int64) [block]byte {
	var h [block]byte
	copy(h[0:100], name)
	copy(h[100:], fmt.Sprintf("%07o\x00", mode))
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], fmt.Sprintf("%011o\x00", mtime))
	copy(h[148:], "        ")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	copy(h[329:], "0000000\x00")
	copy(h[337:], "0000000\x00")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// parseHeader reads a header that tarHeader gave.
func parseHeader(h *[block]byte) (name string, size, mtime int64, err error) {
	n, _, _ := bytes.Cut(h[:100], []byte{0})
	size, errSize := strconv.ParseInt(string(h[124:135]), 8, 64)
	mtime, errTime := strconv.ParseInt(string(h[136:147]), 8, 64)
	if errSize != nil || errTime != nil || size < 0 || mtime < 0 || tarHeader(string(n), size, mtime) != *h {
		return "", 0, 0, errors.New("no tar header in the form that tandem-release writes")
	}
	return string(n), size, mtime, nil
}

// outer reads the outer tar. It knows how far it came, for messages, and
// tells a source that fails from one that ends too early.
type outer struct {
	src  io.Reader
	seek io.Seeker // src, where it can seek; nil where not
	off  int64
	fail error // of the source, other than its end
	// ended says that the source ended while more was expected.
	ended bool
	size  int64 // of the member being read
	mtime int64 // the same
	left  int64 // of its content
}

// Read reads the content of the current member.
func (o *outer) Read(p []byte) (int, error) {
	if o.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > o.left {
		p = p[:o.left]
	}
	n, err := o.src.Read(p)
	o.off += int64(n)
	o.left -= int64(n)
	return n, o.seen(err)
}

// seen turns the end of the source into io.ErrUnexpectedEOF while content is
// missing and keeps other errors.
func (o *outer) seen(err error) error {
	switch {
	case err == nil:
		return nil
	case err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF):
		o.fail = err
		return err
	case o.left > 0:
		o.ended = true
		return io.ErrUnexpectedEOF
	}
	return nil
}

// explain makes err, met while member was read, fit to report: what the
// source said if it failed, that the bundle ends too early if it ended.
func (o *outer) explain(member string, err error) error {
	switch {
	case o.fail != nil:
		return fmt.Errorf("read bundle: %s, byte %d: %w", member, o.off, o.fail)
	case o.ended:
		return malformed(member, "the bundle ends at byte %d, in the middle", o.off)
	case errors.Is(err, ErrMalformed):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return malformed(member, "byte %d: its data ends too early", o.off)
	}
	return malformed(member, "byte %d: %w", o.off, err)
}

// raw reads exactly len(p) bytes that belong to no content.
func (o *outer) raw(p []byte) error {
	n, err := io.ReadFull(o.src, p)
	o.off += int64(n)
	switch {
	case err == nil:
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		o.ended = true
	default:
		o.fail = err
	}
	return err
}

// next reads the header of a member; expected is for messages.
func (o *outer) next(expected string) (string, int64, error) {
	var h [block]byte
	at := o.off
	if err := o.raw(h[:]); err != nil {
		return "", 0, o.explain(expected, err)
	}
	if h == [block]byte{} {
		return "", 0, malformed(expected, "byte %d: the bundle ends before it", at)
	}
	name, size, mtime, err := parseHeader(&h)
	if err != nil {
		return "", 0, malformed(expected, "byte %d: %w", at, err)
	}
	o.size, o.left, o.mtime = size, size, mtime
	return name, size, nil
}

// closeMember reads the padding after a member whose content was read.
func (o *outer) closeMember(member string) error {
	var zeros [block]byte
	p := zeros[:pad(o.size)]
	if err := o.raw(p); err != nil {
		return o.explain(member, err)
	}
	if zeros != [block]byte{} {
		return malformed(member, "bytes after it, before byte %d, are not zero", o.off)
	}
	return nil
}

// content reads a whole small member. Memory grows with what is there, not
// with what a header claims.
func (o *outer) content(member string, limit int64) ([]byte, error) {
	if o.size > limit {
		return nil, malformed(member, "%d bytes long, at most %d are allowed", o.size, limit)
	}
	var buf bytes.Buffer
	buf.Grow(int(min(o.size, 64<<10)))
	if _, err := io.CopyN(&buf, o, o.size); err != nil {
		return nil, o.explain(member, err)
	}
	return buf.Bytes(), o.closeMember(member)
}

// skip passes over n bytes of the current member: where the source can seek
// they are not read.
func (o *outer) skip(member string, n int64) error {
	if o.seek == nil {
		if _, err := io.CopyN(io.Discard, o, n); err != nil {
			return o.explain(member, err)
		}
		return nil
	}
	if _, err := o.seek.Seek(n, io.SeekCurrent); err != nil {
		o.fail = err
		return o.explain(member, err)
	}
	o.off += n
	o.left -= n
	return nil
}

// end reads the two empty blocks that end a tar, and checks that nothing follows.
func (o *outer) end() error {
	var zeros [2 * block]byte
	at := o.off
	if err := o.raw(zeros[:]); err != nil {
		return o.explain("end of the bundle", err)
	}
	if zeros != [2 * block]byte{} {
		return malformed("end of the bundle", "byte %d: expected two empty blocks after %s", at, payloadName)
	}
	switch _, err := io.ReadFull(o.src, zeros[:1]); {
	case err == nil:
		return malformed("end of the bundle", "byte %d: expected nothing more", o.off)
	case err != io.EOF:
		o.fail = err
		return o.explain("end of the bundle", err)
	}
	return nil
}

// member writes one member of the outer tar.
func member(w io.Writer, name string, size, mtime int64, content io.Reader) error {
	if size > maxMember {
		return fmt.Errorf("%w: %s would have %d bytes, at most %d are possible", ErrOptions, name, size, int64(maxMember))
	}
	h := tarHeader(name, size, mtime)
	if _, err := w.Write(h[:]); err != nil {
		return err
	}
	if n, err := io.Copy(w, content); err != nil {
		return err
	} else if n != size {
		return fmt.Errorf("%s has %d bytes, %d were expected: changed while it was read", name, n, size)
	}
	_, err := w.Write(make([]byte, pad(size)))
	return err
}
