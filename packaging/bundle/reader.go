package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"tandem/internal/digest"
)

// The limits of a bundle's metadata, in bytes.
const (
	maxTargets  = 256 << 10
	maxRoot     = 512 << 10
	maxAllRoots = 4 << 20
	// maxWindow is how far back the payload's compression may reach: the most
	// memory that it can make a reader hold.
	maxWindow = 8 << 20
)

// Reader reads a bundle as a stream: the metadata first, then file by file.
// Once a method returned an error other than io.EOF, all return it.
type Reader struct {
	in       *frames
	signed   Signed
	manifest *Manifest
	keepRaw  bool
	raw      []byte // manifest.json as it stands, if keepRaw
	roots    [][]byte
	targets  []byte

	payload *hashing
	zstd    *zstd.Decoder
	plain   *bounded
	tar     *tar.Reader
	next    int // index into manifest.Files
	current *fileReader
	err     error
	done    bool
}

// NewReader reads a bundle up to its payload. When it returns, v has accepted
// the bundle's metadata, and the manifest has the signed SHA-256 and obeys its
// rules. The payload is verified as it is read. Errors wrap ErrMalformed, or
// are those of v or src.
func NewReader(src io.Reader, v Verifier) (*Reader, error) {
	r := &Reader{in: &frames{src: src}}
	if err := r.begin(v); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Reader) begin(v Verifier) error {
	if err := r.readFormat(); err != nil {
		return err
	}
	if err := r.readMetadata(); err != nil {
		return err
	}
	var err error
	if r.signed, err = v.VerifyBundle(r.roots, r.targets); err != nil {
		return err
	}
	if err := r.readManifest(); err != nil {
		return err
	}
	return r.openPayload()
}

func (r *Reader) readFormat() error {
	name, _, err := r.in.next(formatName)
	if err != nil {
		return err
	}
	if name != formatName {
		return malformed(formatName, "found %.80q in its place: expected a bundle", name)
	}
	content, err := r.in.content(formatName, 64)
	if err != nil {
		return err
	}
	if string(content) != formatVersion {
		return malformed(formatName, "format %.20q: expected %q; a newer tandem may know it", content, formatVersion)
	}
	return nil
}

// readMetadata reads the roots and targets.json.
func (r *Reader) readMetadata() error {
	last, total := 0, int64(0)
	for {
		name, size, err := r.in.next(targetsName)
		if err != nil {
			return err
		}
		if name == targetsName {
			break
		}
		n, ok := rootVersion(name)
		switch {
		case !ok:
			return malformed(targetsName, "found %.80q in its place", name)
		case last != 0 && n != last+1:
			return malformed(name, "comes after root %d: expected root %d", last, last+1)
		}
		if total += size; total > maxAllRoots {
			return malformed(name, "all roots have %d bytes or more, at most %d are allowed", total, maxAllRoots)
		}
		root, err := r.in.content(name, maxRoot)
		if err != nil {
			return err
		}
		last = n
		r.roots = append(r.roots, root)
	}
	var err error
	r.targets, err = r.in.content(targetsName, maxTargets)
	return err
}

// rootName is the member that holds version n of the root.
func rootName(n int64) string { return fmt.Sprintf("metadata/%d.root.json", n) }

func rootVersion(name string) (int, bool) {
	s, ok := strings.CutPrefix(name, "metadata/")
	if !ok {
		return 0, false
	}
	if s, ok = strings.CutSuffix(s, ".root.json"); !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return int(n), err == nil && n > 0 && rootName(n) == name
}

func (r *Reader) readManifest() error {
	name, size, err := r.in.next(manifestName)
	if err != nil {
		return err
	}
	if name != manifestName {
		return malformed(manifestName, "found %.80q in its place", name)
	}
	if want := r.signed.Manifest.Length; size != want {
		return malformed(manifestName, "%d bytes long: expected %d as %s says", size, want, targetsName)
	}
	raw, err := r.in.content(manifestName, MaxManifest)
	if err != nil {
		return err
	}
	if sum, want := digest.Of(raw), r.signed.Manifest.SHA256; sum != want {
		return malformed(manifestName, "its SHA-256 is %s: expected %s as %s says", sum, want, targetsName)
	}
	if r.keepRaw {
		r.raw = raw
	}
	r.manifest, err = DecodeManifest(raw)
	return err
}

func (r *Reader) openPayload() error {
	name, size, err := r.in.next(payloadName)
	if err != nil {
		return err
	}
	if name != payloadName {
		return malformed(payloadName, "found %.80q in its place", name)
	}
	if want := r.signed.Payload.Length; size != want {
		return malformed(payloadName, "%d bytes long: expected %d as %s says", size, want, targetsName)
	}
	r.payload = &hashing{src: r.in, hash: digest.New()}
	r.zstd, err = zstd.NewReader(r.payload,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderMaxMemory(maxWindow))
	if err != nil {
		return r.explain(err)
	}
	r.plain = &bounded{src: r.zstd, limit: r.manifest.Payload.Size}
	r.tar = tar.NewReader(r.plain)
	return nil
}

// hashing hashes what is read through it.
type hashing struct {
	src  io.Reader
	hash hash.Hash
}

func (h *hashing) Read(p []byte) (int, error) {
	n, err := h.src.Read(p)
	h.hash.Write(p[:n])
	return n, err
}

// bounded gives at most limit bytes; one more is an error. It stops a payload
// that decompresses to more than its manifest says.
type bounded struct {
	src   io.Reader
	limit int64
	n     int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if rest := b.limit - b.n + 1; int64(len(p)) > rest {
		p = p[:rest]
	}
	n, err := b.src.Read(p)
	if b.n += int64(n); b.n > b.limit {
		b.n = b.limit
		return max(n-1, 0), fmt.Errorf("decompresses to more than the %d bytes that %s names", b.limit, manifestName)
	}
	return n, err
}

// explain makes err, met in the payload, fit to report.
func (r *Reader) explain(err error) error { return r.in.explain(payloadName, err) }

// fail keeps err for all later calls.
func (r *Reader) fail(err error) error {
	if r.err == nil {
		r.err = err
		r.zstd.Close()
	}
	return r.err
}

// Manifest gives the bundle's manifest. It is signed by whom the verifier trusts.
func (r *Reader) Manifest() *Manifest { return r.manifest }

// Signed gives what the bundle's targets metadata says.
func (r *Reader) Signed() Signed { return r.signed }

// Roots gives the roots that the bundle carries, oldest first, unverified.
func (r *Reader) Roots() [][]byte { return r.roots }

// TargetsMetadata gives the content of metadata/targets.json.
func (r *Reader) TargetsMetadata() []byte { return r.targets }

// Next gives the next file that the payload carries, in the manifest's order,
// and a reader of its content, which is valid until the next call. That reader
// gives exactly Size bytes and then io.EOF, but io.EOF only if their SHA-256
// is that of the manifest: bytes read before are not to be relied on. What the
// caller leaves unread is read and verified by the next call. After the last
// file Next returns io.EOF; the bundle is accepted once Finish returned nil.
func (r *Reader) Next() (*File, io.Reader, error) {
	if r.err != nil {
		return nil, nil, r.err
	}
	if err := r.skip(); err != nil {
		return nil, nil, err
	}
	for r.next < len(r.manifest.Files) && r.manifest.Files[r.next].From != Full {
		r.next++
	}
	if r.next == len(r.manifest.Files) {
		return nil, nil, io.EOF
	}
	f := &r.manifest.Files[r.next]
	r.next++
	h, err := r.tar.Next()
	switch {
	case err == io.EOF:
		return nil, nil, r.fail(malformed(payloadName, "its tar ends before %q", f.Path))
	case err != nil:
		return nil, nil, r.fail(r.explain(fmt.Errorf("tar header of %q: %w", f.Path, err)))
	}
	if err := matches(h, f); err != nil {
		return nil, nil, r.fail(malformed(payloadName, "%w", err))
	}
	r.current = &fileReader{r: r, f: f, left: f.Size, hash: digest.New()}
	return f, r.current, nil
}

// matches says whether h is the header of f and of nothing more clever, such
// as a sparse file.
func matches(h *tar.Header, f *File) error {
	if h.Name != string(f.Path) {
		return fmt.Errorf("its tar has %.80q where %s has %q", h.Name, manifestName, f.Path)
	}
	if h.Typeflag != tar.TypeReg {
		return fmt.Errorf("%q has type %q in its tar: expected a regular file", f.Path, h.Typeflag)
	}
	if h.Size != f.Size {
		return fmt.Errorf("%q has %d bytes in its tar: expected %d as %s says", f.Path, h.Size, f.Size, manifestName)
	}
	for k := range h.PAXRecords {
		if k != "path" && k != "size" {
			return fmt.Errorf("%q has an extended header %.80q in its tar: expected none", f.Path, k)
		}
	}
	return nil
}

// skip reads the rest of the current file.
func (r *Reader) skip() error {
	if r.current == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, r.current)
	r.current = nil
	return err
}

// fileReader reads the content of one file.
type fileReader struct {
	r    *Reader
	f    *File
	left int64
	hash hash.Hash
	ok   bool
}

func (c *fileReader) Read(p []byte) (int, error) {
	switch {
	case c.r.err != nil:
		return 0, c.r.err
	case c.r.current != c:
		return 0, errors.New("bundle: a file is read after the next one was asked for")
	case c.left > 0:
		if int64(len(p)) > c.left {
			p = p[:c.left]
		}
		n, err := c.r.tar.Read(p)
		c.hash.Write(p[:n])
		c.left -= int64(n)
		if err != nil && !(err == io.EOF && c.left == 0) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, c.r.fail(c.r.explain(fmt.Errorf("content of %q: %w", c.f.Path, err)))
		}
		return n, nil
	case !c.ok:
		if sum := digest.Sum(c.hash); sum != *c.f.SHA256 {
			return 0, c.r.fail(malformed(payloadName, "%q: its SHA-256 is %s: expected %s as %s says", c.f.Path, sum, c.f.SHA256, manifestName))
		}
		c.ok = true
	}
	return 0, io.EOF
}

// Finish reads and verifies what is left: files that were not asked for, the
// payload's length and SHA-256, and that nothing follows. The bundle is
// accepted only if it returns nil.
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
	r.zstd.Close()
	return nil
}

func (r *Reader) finish() error {
	switch h, err := r.tar.Next(); {
	case err == nil:
		return malformed(payloadName, "its tar has %.80q after the last file of %s", h.Name, manifestName)
	case err != io.EOF:
		return r.explain(err)
	}
	if _, err := io.Copy(zeros{}, r.plain); err != nil {
		return r.explain(err)
	}
	if r.plain.n != r.manifest.Payload.Size {
		return malformed(payloadName, "decompresses to %d bytes: expected %d as %s says", r.plain.n, r.manifest.Payload.Size, manifestName)
	}
	if _, err := io.Copy(io.Discard, r.payload); err != nil {
		return r.explain(err)
	}
	if sum, want := digest.Sum(r.payload.hash), r.signed.Payload.SHA256; sum != want {
		return malformed(payloadName, "its SHA-256 is %s: expected %s as %s says", sum, want, targetsName)
	}
	if err := r.in.closeMember(payloadName); err != nil {
		return err
	}
	return r.in.end()
}

// zeros takes nothing but zero bytes.
type zeros struct{}

func (zeros) Write(p []byte) (int, error) {
	if len(bytes.Trim(p, "\x00")) != 0 {
		return 0, malformed(payloadName, "its tar is followed by something else than padding")
	}
	return len(p), nil
}
