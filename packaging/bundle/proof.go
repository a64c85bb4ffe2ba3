package bundle

import (
	"tandem/internal/digest"
	"tandem/packaging/release"
)

// Proof is what vouches for a release once its bundle is gone: the signed
// metadata, what it signs of how the release is carried, and the release itself. It
// is verified as a bundle's head is, and is the same in a delta bundle.
type Proof struct {
	Roots   [][]byte `json:"roots,omitempty"` // that the bundle carried, oldest first
	Targets []byte   `json:"targets"`         // metadata/targets.json
	Parts   []byte   `json:"parts"`           // parts.json, which names the release by hash
	Release []byte   `json:"release"`         // release.json
}

// MaxProof is how long a proof of a release of one file can be as JSON, in bytes.
const MaxProof = 2 * (maxAllRoots + maxTargets + maxParts)

// Proof returns what vouches for the release of the bundle.
func (h *Head) Proof() (*Proof, error) {
	raw, err := h.manifest.Encode()
	if err != nil {
		return nil, err
	}
	if digest.Of(raw) != h.parts.Release.SHA256 {
		return nil, malformed(releaseName, "is not in the form that tandem-release writes")
	}
	return &Proof{Roots: h.roots, Targets: h.targets, Parts: h.rawParts, Release: raw}, nil
}

// Verify returns what the release is, if v trusts it. The error wraps
// ErrMalformed, or is that of v.
func (p *Proof) Verify(v Verifier) (*release.Manifest, error) {
	signed, err := v.VerifyBundle(p.Roots, p.Targets)
	if err != nil {
		return nil, err
	}
	if int64(len(p.Parts)) != signed.Parts.Length || digest.Of(p.Parts) != signed.Parts.SHA256 {
		return nil, malformed(partsName, "is not what %s signs", targetsName)
	}
	h := &Head{signed: signed}
	if h.parts, err = decodeParts(p.Parts); err != nil {
		return nil, err
	}
	return h.decodeManifest(p.Release)
}
