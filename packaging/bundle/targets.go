package bundle

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/packaging/tuf"
)

// Targets is a bundle's targets metadata.
type Targets = metadata.Metadata[metadata.TargetsType]

// Signature is one signature of a bundle's targets metadata.
type Signature = metadata.Signature

// SignedFile is the length and SHA-256 of a member, as targets.json has them.
type SignedFile struct {
	Length int64
	SHA256 digest.SHA256
}

// Signed is what a bundle's targets metadata says: about exactly these two.
type Signed struct {
	Release SignedFile // release.json.zst, or release.json.patch
	Parts   SignedFile // parts.json
	// Patch says that it is release.json.patch.
	Patch bool
	// Unsigned says that nothing vouches for the two: the verifier was told to
	// do without a signature.
	Unsigned bool
}

// releaseName is the member that says what the release is.
func (s *Signed) releaseName() string {
	if s.Patch {
		return patchName
	}
	return releaseName
}

// Verifier decides whether a bundle is trusted.
type Verifier interface {
	// VerifyBundle takes the roots that a bundle carries, oldest first, and its
	// targets metadata, and gives what that signs.
	VerifyBundle(roots [][]byte, targets []byte) (Signed, error)
}

// Inspect is a Verifier that asks for no signature: for looking at a bundle,
// never for installing one.
type Inspect struct{}

// VerifyBundle implements Verifier.
func (Inspect) VerifyBundle(_ [][]byte, targets []byte) (Signed, error) {
	_, s, err := ParseTargets(targets)
	s.Unsigned = true
	return s, err
}

// specVersion is what the metadata claims to follow. It is ours, not the
// library's, so that the bytes of a bundle do not change with the library.
const specVersion = "1.0.31"

// Never is when a bundle's signature expires unless told otherwise. A bundle's
// age is judged by its version; freshness is the repository's business, and a
// date taken from the clock would give other bytes each time.
func Never() time.Time { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }

// newTargets returns targets metadata without a signature.
func newTargets(s Signed, expires time.Time) *Targets {
	t := metadata.Targets(expires)
	t.Signed.SpecVersion = specVersion
	for name, f := range map[string]SignedFile{s.releaseName(): s.Release, partsName: s.Parts} {
		t.Signed.Targets[name] = &metadata.TargetFiles{
			Length: f.Length,
			Hashes: metadata.Hashes{"sha256": metadata.HexBytes(f.SHA256[:])},
		}
	}
	return t
}

// ParseTargets reads a bundle's targets metadata: well formed, in its one
// valid form, about exactly release.json.zst, or release.json.patch, and parts.json. It verifies no
// signature. The error wraps ErrMalformed.
func ParseTargets(data []byte) (*Targets, Signed, error) {
	t, s, err := parseTargets(data)
	if err != nil {
		return nil, Signed{}, malformed(targetsName, "%w", err)
	}
	return t, s, nil
}

func parseTargets(data []byte) (*Targets, Signed, error) {
	var s Signed
	if len(data) > maxTargets {
		return nil, s, fmt.Errorf("%d bytes long, at most %d are allowed", len(data), maxTargets)
	}
	t, err := tuf.Decode[metadata.TargetsType](data)
	if err != nil {
		return nil, s, err
	}
	if !strings.HasPrefix(t.Signed.SpecVersion, "1.") {
		return nil, s, fmt.Errorf("spec_version %.20q: expected 1.x", t.Signed.SpecVersion)
	}
	if t.Signed.Delegations != nil {
		return nil, s, fmt.Errorf("delegates to other roles: expected none in a bundle")
	}
	_, s.Patch = t.Signed.Targets[patchName]
	for name, dst := range map[string]*SignedFile{s.releaseName(): &s.Release, partsName: &s.Parts} {
		f := t.Signed.Targets[name]
		if f == nil {
			return nil, s, fmt.Errorf("does not sign %s", name)
		}
		if h := f.Hashes["sha256"]; len(h) != len(dst.SHA256) || f.Length < 0 {
			return nil, s, fmt.Errorf("%s: expected a length and a sha256 of %d bytes", name, len(dst.SHA256))
		}
		dst.Length = f.Length
		copy(dst.SHA256[:], f.Hashes["sha256"])
	}
	if n := len(t.Signed.Targets); n != 2 {
		return nil, s, fmt.Errorf("signs %d files: expected exactly %s and %s", n, s.releaseName(), partsName)
	}
	// A signature covers what the JSON means; this covers how it is written.
	if want, err := t.ToBytes(false); err != nil {
		return nil, s, err
	} else if !bytes.Equal(data, want) {
		return nil, s, fmt.Errorf("is not in the form that tandem-release writes: compact JSON with sorted keys")
	}
	if len(t.Signatures) == 0 {
		// Nothing else vouches for these bytes, so they have one value only.
		s.Unsigned = true
		want, err := newTargets(s, Never()).ToBytes(false)
		if err != nil {
			return nil, s, err
		}
		if !bytes.Equal(data, want) {
			return nil, s, fmt.Errorf("carries no signature, and is not what tandem-release writes for an unsigned bundle")
		}
	}
	return t, s, nil
}
