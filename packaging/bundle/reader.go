package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/digest"
)

// Reader reads a bundle as a stream: the head first, then file by file.
// Once a method returned an error other than io.EOF, all return it.
type Reader struct {
	*Head
	base Base
	in   *outer
	dec  *decoder
	want func(backup.Path) bool

	frame   int    // of places, the next one that the source has
	raw     []byte // room for a frame as it stands
	plain   []byte // the frame before, decoded
	pos     int    // in plain, where the file begins that is next
	next    int    // the file that is next, by its number in layout
	current *fileReader
	patch   *patchReader // the file that is made of a patch, if that is the current one
	err     error
	done    bool
}

// NewReader reads a bundle up to its payload. When it returns, v has accepted
// the bundle's metadata, and the rest of the head has the signed SHA-256 and
// obeys its rules. Files are verified as they are read. Errors wrap
// ErrMalformed, or are those of v or src. If src can seek, what nobody wants is
// passed over. A delta bundle is refused: its error wraps ErrBase.
func NewReader(src io.Reader, v Verifier) (*Reader, error) { return NewReaderOn(src, v, noBase{}) }

// NewReaderOn is NewReader for delta bundles, too: base is what is here. The
// error wraps ErrBase if that is not what the bundle builds on.
func NewReaderOn(src io.Reader, v Verifier, base Base) (*Reader, error) {
	if v == nil {
		return nil, errors.New("bundle: no verifier")
	}
	in := &outer{src: src}
	in.seek, _ = src.(io.Seeker)
	h, err := headFrom(in, v, base, false)
	if err != nil {
		return nil, err
	}
	// A decoder holds on to what it decoded last: the head's goes with it.
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	return &Reader{Head: h, base: base, in: in, dec: dec}, nil
}

// Want says which files Next gives; without it that is all. Frames that hold
// none of them are passed over. It is called before the first Next.
func (r *Reader) Want(want func(backup.Path) bool) { r.want = want }

// Frames calls f for each frame that holds a file that want names, with the
// place in the bundle where it begins. It reads nothing.
func (h *Head) Frames(want func(backup.Path) bool, f func(at int64, frame Frame)) {
	for i := range h.places {
		if p := &h.places[i]; h.needs(p, want) {
			f(h.length+p.at, p.Frame)
		}
	}
}

// JoinGap is how much a device fetches that it does not need, to spare a request.
const JoinGap = 4 << 10

// Cost returns how many bytes a device fetches that wants those files, the head
// included, and in how many requests.
func (h *Head) Cost(want func(backup.Path) bool) (bytes int64, requests int) {
	bytes, requests = h.length, 1
	end := int64(-1) // of the request before
	h.Frames(want, func(at int64, f Frame) {
		if end >= 0 && at-end <= JoinGap {
			bytes += at - end
		} else {
			requests++
		}
		bytes += f.Length
		end = at + f.Length
	})
	return bytes, requests
}

// FrameInfo says what a frame holds.
type FrameInfo struct {
	At     int64  `json:"at"`     // where it begins in the bundle
	Length int64  `json:"length"` // as it stands there, bytes
	Size   int64  `json:"size"`   // decoded, bytes
	First  string `json:"first"`  // the first file in it
	Files  int    `json:"files"`  // how many files it holds, or 1 for a piece of one
	Piece  bool   `json:"piece"`  // it holds a piece of a file
}

// List says what each frame holds.
func (h *Head) List() []FrameInfo {
	list := make([]FrameInfo, len(h.places))
	for i := range h.places {
		p := &h.places[i]
		list[i] = FrameInfo{
			At: h.length + p.at, Length: p.Length, Size: p.Size, First: h.layout.name(p.first), Files: p.count,
			Piece: p.skip > 0 || p.Size < h.layout.size(p.first),
		}
	}
	return list
}

func (h *Head) needs(p *place, want func(backup.Path) bool) bool {
	if want == nil {
		return true
	}
	for _, e := range h.layout.files[min(p.first, len(h.layout.files)):min(p.first+p.count, len(h.layout.files))] {
		if want(e.Path) {
			return true
		}
	}
	return false
}

// fail keeps err for all later calls.
func (r *Reader) fail(err error) error {
	if r.err == nil {
		r.err = err
		r.dec.close()
	}
	return r.err
}

// load decodes the next frame.
func (r *Reader) load() error {
	p := &r.places[r.frame]
	if int64(cap(r.raw)) < p.Length {
		r.raw = make([]byte, p.Length)
	}
	r.raw = r.raw[:p.Length]
	if _, err := io.ReadFull(r.in, r.raw); err != nil {
		return r.in.explain(payloadName, err)
	}
	plain, err := r.dec.decode(r.raw, p.Size, r.plain)
	if err != nil {
		return malformed(payloadName, "frame %d, with %q: %w", r.frame+1, r.layout.name(p.first), err)
	}
	r.plain, r.pos = plain, 0
	r.frame++
	return nil
}

// Next returns the next file that is wanted, in the release's order, and a reader
// of its content, which is valid until the next call. That reader gives exactly
// Size bytes and then io.EOF, but io.EOF only if their SHA-256 is that of the
// release: bytes read before are not to be relied on. What the caller leaves
// unread is read and verified by the next call. After the last file Next
// returns io.EOF; the bundle is accepted once Finish returned nil.
//
// A delta bundle gives the files that its base lacks. Where one cannot be made
// of its patch, Next or the reader of its content returns a *PatchError, and the next
// call of Next goes on after it.
func (r *Reader) Next() (*manifest.Entry, io.Reader, error) {
	if r.err != nil {
		return nil, nil, r.err
	}
	if err := r.drain(); err != nil {
		return nil, nil, err
	}
	for ; r.next < len(r.layout.files); r.next++ {
		e := r.layout.files[r.next]
		if r.want == nil || r.want(e.Path) {
			return r.give(e)
		}
		r.pos += int(min(r.layout.size(r.next), int64(len(r.plain)-r.pos)))
	}
	return nil, nil, io.EOF
}

// give opens file next, which is e or comes as a patch in its place.
func (r *Reader) give(e *manifest.Entry) (*manifest.Entry, io.Reader, error) {
	e, content, err := r.open(e)
	if err != nil {
		return nil, nil, err
	}
	p := r.layout.patches[e.Path]
	if p == nil {
		return e, content, nil
	}
	raw := make([]byte, p.Length) // the reader ends it only if it has its hash
	if _, err := io.ReadFull(content, raw); err != nil {
		return nil, nil, err
	}
	if err := r.drain(); err != nil {
		return nil, nil, err
	}
	r.patch, err = applyPatch(r.base, p, raw)
	if err != nil {
		return nil, nil, err
	}
	return p.file, r.patch, nil
}

// open comes to file next, which is e, and checks its header.
func (r *Reader) open(e *manifest.Entry) (*manifest.Entry, io.Reader, error) {
	for r.frame < len(r.places) && !r.holds(r.frame-1) {
		p := &r.places[r.frame]
		if p.first+p.count <= r.next {
			if err := r.in.skip(payloadName, p.Length); err != nil {
				return nil, nil, r.fail(err)
			}
			r.frame++
			r.plain, r.pos = r.plain[:0], 0
			continue
		}
		if err := r.load(); err != nil {
			return nil, nil, r.fail(err)
		}
		for i := p.first; i < r.next; i++ {
			r.pos += int(r.layout.size(i))
		}
	}
	c := &fileReader{r: r, e: e, left: e.Size, hash: digest.New()}
	r.current = c
	r.next++
	if err := c.expect(header(e, r.layout.mtime), "its header in the tar"); err != nil {
		return nil, nil, r.fail(err)
	}
	return e, c, nil
}

// holds reports whether frame i, which is the one decoded, has the beginning
// of the file that is next.
func (r *Reader) holds(i int) bool {
	if i < 0 || len(r.plain) == 0 {
		return false
	}
	p := &r.places[i]
	return p.skip == 0 && p.first <= r.next && r.next < p.first+p.count
}

// drain reads the rest of the current file.
func (r *Reader) drain() error {
	if p := r.patch; p != nil {
		r.patch = nil
		_, err := io.Copy(io.Discard, p)
		p.close()
		if err != nil && !p.told {
			return err
		}
	}
	if r.current == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, r.current)
	r.current = nil
	return err
}

// fileReader reads and verifies one file.
type fileReader struct {
	r    *Reader
	e    *manifest.Entry
	left int64
	hash hash.Hash
	ok   bool
}

// more returns at most n bytes of the tar that are decoded, at least one.
func (r *Reader) more(n int64) ([]byte, error) {
	if r.pos == len(r.plain) {
		if err := r.load(); err != nil { // the file goes on there, as place has checked
			return nil, err
		}
	}
	p := r.plain[r.pos:]
	if int64(len(p)) > n {
		p = p[:n]
	}
	r.pos += len(p)
	return p, nil
}

// expect compares what comes next of the tar with what must.
func (c *fileReader) expect(want []byte, what string) error {
	for len(want) > 0 {
		got, err := c.r.more(int64(len(want)))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want[:len(got)]) {
			return malformed(payloadName, "%q: %s is not what follows from the release", c.e.Path, what)
		}
		want = want[len(got):]
	}
	return nil
}

func (c *fileReader) Read(p []byte) (int, error) {
	switch {
	case c.r.err != nil:
		return 0, c.r.err
	case c.r.current != c:
		return 0, errors.New("bundle: a file is read after the next one was asked for")
	case c.left > 0 && len(p) > 0:
		got, err := c.r.more(min(c.left, int64(len(p))))
		if err != nil {
			return 0, c.r.fail(err)
		}
		n := copy(p, got)
		c.hash.Write(got)
		c.left -= int64(n)
		return n, nil
	case c.left > 0:
		return 0, nil
	case !c.ok:
		if err := c.finish(); err != nil {
			return 0, c.r.fail(err)
		}
		c.ok = true
	}
	return 0, io.EOF
}

func (c *fileReader) finish() error {
	if sum := digest.Sum(c.hash); sum != *c.e.SHA256 {
		return malformed(payloadName, "%q: its SHA-256 is %s: expected %s as the release says", c.e.Path, sum, c.e.SHA256)
	}
	var zeros [3 * block]byte
	after := pad(c.e.Size)
	if c.r.next == len(c.r.layout.files) {
		after += 2 * block
	}
	return c.expect(zeros[:after], "the padding after it")
}

// Finish reads and verifies what is left: wanted files that were not asked for,
// and that the bundle ends where and as it should. The bundle is accepted only
// if it returns nil.
func (r *Reader) Finish() error {
	if r.err != nil || r.done {
		return r.err
	}
	for {
		_, _, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := r.finish(); err != nil {
		return r.fail(err)
	}
	r.done = true
	r.dec.close()
	return nil
}

func (r *Reader) finish() error {
	if len(r.layout.files) == 0 && r.want == nil { // the tar's end alone
		if err := r.load(); err != nil {
			return err
		}
		if len(bytes.Trim(r.plain, "\x00")) != 0 {
			return malformed(payloadName, "its end is something else than zeros")
		}
	}
	var rest int64
	for _, p := range r.places[r.frame:] {
		rest += p.Length
	}
	if err := r.in.skip(payloadName, rest); err != nil {
		return err
	}
	if err := r.in.closeMember(payloadName); err != nil {
		return fmt.Errorf("after %s: %w", payloadName, err)
	}
	return r.in.end()
}
