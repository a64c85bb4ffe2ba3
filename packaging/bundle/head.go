package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"tandem/internal/digest"
	"tandem/packaging/delta"
	"tandem/packaging/release"
)

// The limits of a bundle's metadata, in bytes.
const (
	maxTargets  = 256 << 10
	maxRoot     = 512 << 10
	maxAllRoots = 4 << 20
	// maxPacked is how long release.json.zst may be.
	maxPacked = 16 << 20
	// MaxHead is how long all that comes before the payload can be, headers and
	// padding included.
	MaxHead = 64 + maxAllRoots + maxTargets + maxPacked + maxParts + 64<<10
)

// Head is what a bundle says before its payload.
type Head struct {
	signed   Signed
	roots    [][]byte
	targets  []byte
	packed   []byte
	parts    *Parts
	rawParts []byte
	manifest *release.Manifest
	layout   *layout
	places   []place
	length   int64
}

// Manifest returns what the release is. It is signed by whom the verifier trusts.
func (h *Head) Manifest() *release.Manifest { return h.manifest }

// Release returns which release it is: the SHA-256 of release.json.
func (h *Head) Release() digest.SHA256 { return h.parts.Release.SHA256 }

// Parts returns how the bundle carries the release.
func (h *Head) Parts() *Parts { return h.parts }

// Carries returns how many files the payload has, patches included; 0 where
// that cannot be told.
func (h *Head) Carries() int {
	if h.layout == nil {
		return 0
	}
	return len(h.layout.files)
}

// Length is how many bytes come before the payload's first frame.
func (h *Head) Length() int64 { return h.length }

// Size is how long the whole bundle is, in bytes.
func (h *Head) Size() int64 {
	n := h.parts.Payload()
	return h.length + n + pad(n) + 2*block
}

// TargetsMetadata returns the content of metadata/targets.json.
func (h *Head) TargetsMetadata() []byte { return h.targets }

// readHead reads a bundle up to its payload. What it gives was accepted by v,
// has the signed SHA-256 and obeys its rules.
//
// Of a delta bundle whose base is not here, and if that may be, it gives what
// can be told: no manifest, and no place of any file.
func readHead(in *outer, v Verifier, dec *decoder, base Base, look bool) (*Head, error) {
	h := &Head{}
	if err := readFormat(in); err != nil {
		return nil, err
	}
	if err := h.readMetadata(in); err != nil {
		return nil, err
	}
	var err error
	if h.signed, err = v.VerifyBundle(h.roots, h.targets); err != nil {
		return nil, err
	}
	if h.packed, err = readSigned(in, h.signed.releaseName(), h.signed.Release, maxPacked); err != nil {
		return nil, err
	}
	if h.rawParts, err = readSigned(in, partsName, h.signed.Parts, maxParts); err != nil {
		return nil, err
	}
	if h.parts, err = decodeParts(h.rawParts); err != nil {
		return nil, err
	}
	if h.parts.Delta == nil && h.signed.Patch {
		return nil, malformed(patchName, "only a delta bundle has it")
	}
	if err := h.readRelease(dec, base); look && errors.Is(err, ErrBase) {
		return h, h.openPayload(in)
	} else if err != nil {
		return nil, err
	}
	if h.places, err = h.layout.place(h.parts); err != nil {
		return nil, malformed(partsName, "%w", err)
	}
	return h, h.openPayload(in)
}

func readFormat(in *outer) error {
	name, _, err := in.next(formatName)
	if err != nil {
		return err
	}
	if name != formatName {
		return malformed(formatName, "found %.80q in its place: expected a bundle", name)
	}
	content, err := in.content(formatName, 64)
	if err != nil {
		return err
	}
	if string(content) != formatVersion {
		return malformed(formatName, "format %.20q: expected %q; another version of tandem may know it", content, formatVersion)
	}
	return nil
}

// readMetadata reads the roots and targets.json.
func (h *Head) readMetadata(in *outer) error {
	last, total := 0, int64(0)
	for {
		name, size, err := in.next(targetsName)
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
		root, err := in.content(name, maxRoot)
		if err != nil {
			return err
		}
		last = n
		h.roots = append(h.roots, root)
	}
	var err error
	h.targets, err = in.content(targetsName, maxTargets)
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

// readSigned reads a member that targets.json vouches for.
func readSigned(in *outer, want string, signed SignedFile, limit int64) ([]byte, error) {
	name, size, err := in.next(want)
	if err != nil {
		return nil, err
	}
	if name != want {
		return nil, malformed(want, "found %.80q in its place", name)
	}
	if size != signed.Length {
		return nil, malformed(want, "%d bytes long: expected %d as %s says", size, signed.Length, targetsName)
	}
	raw, err := in.content(want, limit)
	if err != nil {
		return nil, err
	}
	if sum := digest.Of(raw); sum != signed.SHA256 {
		return nil, malformed(want, "its SHA-256 is %s: expected %s as %s says", sum, signed.SHA256, targetsName)
	}
	return raw, nil
}

// readRelease decodes release.json, and finds out what the payload holds.
func (h *Head) readRelease(dec *decoder, base Base) error {
	d := h.parts.Delta
	if d == nil {
		raw, err := dec.decode(h.packed, h.parts.Release.Length, nil)
		if err != nil {
			return malformed(releaseName, "%w", err)
		}
		if h.manifest, err = h.decodeManifest(raw); err != nil {
			return err
		}
		h.layout = newLayout(h.manifest)
		return nil
	}
	old, err := d.baseRelease(base)
	if err != nil {
		return err
	}
	raw, err := h.unpack(dec, old)
	if err != nil {
		return malformed(h.signed.releaseName(), "%w", err)
	}
	if h.manifest, err = h.decodeManifest(raw); err != nil {
		return err
	}
	from, err := release.DecodeManifest(old)
	if err != nil {
		return err
	}
	if h.layout, err = deltaLayout(h.manifest, from, d.Patches); err != nil {
		return malformed(partsName, "%w", err)
	}
	return nil
}

// unpack decodes release.json of a delta bundle; old is that of the base.
func (h *Head) unpack(dec *decoder, old []byte) ([]byte, error) {
	want := h.parts.Release.Length
	if !h.signed.Patch {
		return dec.decode(h.packed, want, nil)
	}
	var w bytes.Buffer
	w.Grow(int(want))
	err := delta.Apply(context.Background(), &w, bytes.NewReader(h.packed), bytes.NewReader(old), delta.Lengths{Old: int64(len(old)), New: want})
	return w.Bytes(), err
}

func (h *Head) decodeManifest(raw []byte) (*release.Manifest, error) {
	name := h.signed.releaseName()
	if sum := digest.Of(raw); sum != h.parts.Release.SHA256 {
		return nil, malformed(name, "the SHA-256 of what it holds is %s: expected %s as %s says", sum, h.parts.Release.SHA256, partsName)
	}
	m, err := release.DecodeManifest(raw)
	if err != nil {
		return nil, malformed(name, "%w", err)
	}
	if d := h.parts.Delta; d != nil && (m.App != d.App || m.Version.String() != d.Version.String()) {
		return nil, malformed(partsName, "the bundle is of %s %s: expected %s %s as %s says", m.App, m.Version, d.App, d.Version, name)
	}
	return m, nil
}

func (h *Head) openPayload(in *outer) error {
	name, size, err := in.next(payloadName)
	if err != nil {
		return err
	}
	if name != payloadName {
		return malformed(payloadName, "found %.80q in its place", name)
	}
	if want := h.parts.Payload(); size != want {
		return malformed(payloadName, "%d bytes long: expected %d, the sum of the frames in %s", size, want, partsName)
	}
	h.length = in.off
	return nil
}

// ReadHead reads a bundle's head alone; src may end after it. What NewReader
// says of the head holds here, too.
func ReadHead(src io.Reader, v Verifier) (*Head, error) { return headOf(src, v, noBase{}, false) }

// Look is ReadHead for looking at a bundle: of a delta bundle whose base is
// not in base, which may be nil, it gives a head without a manifest.
func Look(src io.Reader, v Verifier, base Base) (*Head, error) {
	if base == nil {
		base = noBase{}
	}
	return headOf(src, v, base, true)
}

func headOf(src io.Reader, v Verifier, base Base, look bool) (*Head, error) {
	if v == nil {
		return nil, errors.New("bundle: no verifier")
	}
	return headFrom(&outer{src: src}, v, base, look)
}

// headFrom is readHead with a decoder of its own.
func headFrom(in *outer, v Verifier, base Base, look bool) (*Head, error) {
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	defer dec.close()
	return readHead(in, v, dec, base, look)
}
