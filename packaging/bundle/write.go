package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// Signing says how a bundle is to be signed.
type Signing struct {
	// Roots are carried along, so that a device which was offline can follow a
	// change of keys: versions FirstRoot, FirstRoot+1 …
	Roots     [][]byte
	FirstRoot int64
	// Sign adds a signature to t. Without it the bundle carries none.
	Sign func(t *Targets) error
	// Expires is when the signature ends to be valid; the zero time means Never.
	Expires time.Time
}

func describe(data []byte) SignedFile {
	return SignedFile{Length: int64(len(data)), SHA256: digest.Of(data)}
}

// targets returns signed targets metadata. old, if not nil, holds signatures of
// others that stay, as long as what they sign stays.
func (s *Signing) targets(signed Signed, old *Targets) ([]byte, error) {
	if s.Sign == nil {
		return newTargets(signed, Never()).ToBytes(false)
	}
	expires := s.Expires
	if expires.IsZero() {
		expires = Never()
	}
	t := newTargets(signed, expires.UTC().Truncate(time.Second))
	if old != nil && old.Signed.Expires.Equal(t.Signed.Expires) && old.Signed.Version == t.Signed.Version {
		t.Signatures = old.Signatures
	}
	others := slices.Clone(t.Signatures)
	t.Signatures = nil
	if err := s.Sign(t); err != nil {
		return nil, err
	}
	for _, o := range others {
		if !slices.ContainsFunc(t.Signatures, func(s Signature) bool { return s.KeyID == o.KeyID }) {
			t.Signatures = append(t.Signatures, o)
		}
	}
	slices.SortFunc(t.Signatures, func(a, b Signature) int { return strings.Compare(a.KeyID, b.KeyID) })
	return t.ToBytes(false)
}

// content is what a bundle is written from.
type content struct {
	targets []byte
	release []byte // release.json.zst, or release.json.patch
	patch   bool   // it is the latter
	parts   []byte // parts.json
	payload io.Reader
	length  int64 // of the payload, bytes
	mtime   int64 // of all members
}

// signed is what targets metadata says of the two.
func (c *content) signed() *Signed {
	return &Signed{Release: describe(c.release), Parts: describe(c.parts), Patch: c.patch}
}

// write writes a bundle durably.
func write(out fsys.FS, name string, s *Signing, c *content) error {
	tmp := name + ".tmp"
	if err := out.Remove(tmp); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	f, err := out.Create(tmp, 0o644)
	if err != nil {
		return err
	}
	err = writeTo(f, s, c)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = out.Rename(tmp, name)
	}
	if err != nil {
		_ = out.Remove(tmp) // the first error is the one to report
		return err
	}
	return out.SyncDir(path.Dir(name))
}

func writeTo(w io.Writer, s *Signing, c *content) error {
	small := func(name string, data []byte) error {
		return member(w, name, int64(len(data)), c.mtime, bytes.NewReader(data))
	}
	if err := small(formatName, []byte(formatVersion)); err != nil {
		return err
	}
	total := 0
	for i, root := range s.Roots {
		if total += len(root); len(root) > maxRoot || total > maxAllRoots {
			return fmt.Errorf("%w: the roots to carry along are too long", ErrOptions)
		}
		if err := small(rootName(s.FirstRoot+int64(i)), root); err != nil {
			return err
		}
	}
	if err := small(targetsName, c.targets); err != nil {
		return err
	}
	if err := small(c.signed().releaseName(), c.release); err != nil {
		return err
	}
	if err := small(partsName, c.parts); err != nil {
		return err
	}
	if err := member(w, payloadName, c.length, c.mtime, c.payload); err != nil {
		return err
	}
	_, err := w.Write(make([]byte, 2*block))
	return err
}

// Sign replaces the signature and the roots that the bundle name of fs
// carries. Signatures of other keys stay. Everything else in the bundle is
// verified on the way and keeps its bytes; of a delta bundle, the base of which is
// not here, the head is.
//
// After success the signed bundle is durable. After an error or a power cut
// name is what it was before, or the signed bundle, whole; name+".tmp" may be left.
func Sign(ctx context.Context, fs fsys.FS, name string, s Signing) error {
	if s.Sign == nil {
		return errors.New("bundle: nothing to sign with")
	}
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := NewReader(fsys.InContext(ctx, f), Inspect{})
	if err == nil {
		err = r.Finish()
	}
	if err != nil && !errors.Is(err, ErrBase) { // of a delta bundle the head is all that can be checked
		return err
	}
	again, err := fs.Open(name)
	if err != nil {
		return err
	}
	defer again.Close()
	dec, err := newDecoder()
	if err != nil {
		return err
	}
	defer dec.close()
	in := &outer{src: fsys.InContext(ctx, again)}
	h, err := readHead(in, Inspect{}, dec, noBase{}, true)
	if err != nil {
		return err
	}
	old, signed, err := ParseTargets(h.targets)
	if err != nil {
		return err
	}
	t, err := s.targets(signed, old)
	if err != nil {
		return err
	}
	if r != nil && h.signed != r.signed {
		return fmt.Errorf("%s changed while it was read", fs.Path(name))
	}
	return write(fs, name, &s, &content{
		targets: t, release: h.packed, patch: h.signed.Patch, parts: h.rawParts, payload: in, length: h.parts.Payload(), mtime: in.mtime,
	})
}
