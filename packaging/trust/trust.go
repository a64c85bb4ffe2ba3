// Package trust decides on a device whether a bundle is trusted: by the TUF
// root that the device was provisioned with, or one that follows from it.
//
// It signs nothing, reads no clock and no file: what it needs is given to it.
package trust

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/packaging/bundle"
	"tandem/packaging/tuf"
)

// Sentinels of this package.
var (
	// ErrUntrusted says that the root of trust does not vouch for what was checked.
	ErrUntrusted = errors.New("not trusted")
	// ErrRoot says that a root.json cannot be used as a root of trust.
	ErrRoot = errors.New("not a usable root.json")
)

// MaxRoot is how long a root.json may be, in bytes.
const MaxRoot = 512 << 10

// untrusted says which check failed.
func untrusted(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUntrusted, fmt.Errorf(format, args...))
}

// ReferenceTime returns the latest of several times: the system clock, the time
// the program was built, the latest trusted metadata. A device without a clock
// then neither locks itself out nor accepts what it knows to be stale.
func ReferenceTime(times ...time.Time) time.Time {
	var latest time.Time
	for _, t := range times {
		if t.After(latest) {
			latest = t
		}
	}
	return latest
}

// Root is a root of trust whose own signatures were verified.
type Root struct {
	meta *metadata.Metadata[metadata.RootType]
	raw  []byte
}

// ParseRoot reads a root.json and verifies that it is signed as it demands
// itself. Whether it is the right one only its origin can tell. The error wraps ErrRoot.
func ParseRoot(data []byte) (*Root, error) {
	meta, err := DecodeRoot(data)
	if err != nil {
		return nil, err
	}
	if err := verify(meta, metadata.ROOT, meta, meta.Signatures); err != nil {
		return nil, fmt.Errorf("%w: not signed by its own keys: %w", ErrRoot, err)
	}
	return &Root{meta: meta, raw: bytes.Clone(data)}, nil
}

// DecodeRoot reads a root.json that nobody need have signed yet: everything
// else about it is well formed. The error wraps ErrRoot.
func DecodeRoot(data []byte) (*metadata.Metadata[metadata.RootType], error) {
	meta, err := decodeRoot(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRoot, err)
	}
	return meta, nil
}

// decodeRoot checks what go-tuf relies on without checking it.
func decodeRoot(data []byte) (*metadata.Metadata[metadata.RootType], error) {
	if len(data) > MaxRoot {
		return nil, fmt.Errorf("%d bytes long, at most %d are allowed", len(data), MaxRoot)
	}
	meta, err := tuf.Decode[metadata.RootType](data)
	if err != nil {
		return nil, err
	}
	s := &meta.Signed
	if !strings.HasPrefix(s.SpecVersion, "1.") {
		return nil, fmt.Errorf("spec_version %.20q: expected 1.x", s.SpecVersion)
	}
	if s.Version < 1 {
		return nil, fmt.Errorf("version %d: expected 1 or more", s.Version)
	}
	for id, key := range s.Keys {
		if err := tuf.CheckKey(key); err != nil {
			return nil, fmt.Errorf("key %s: %w", short(id), err)
		}
	}
	for _, name := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		role := s.Roles[name]
		// A threshold above the number of keys is a publisher's slip that the next
		// root can mend; devices must not be stuck before it.
		if role == nil || role.Threshold < 1 {
			return nil, fmt.Errorf("role %s: expected a threshold of at least 1", name)
		}
		for _, id := range role.KeyIDs {
			if s.Keys[id] == nil {
				return nil, fmt.Errorf("role %s: its key %s is missing", name, short(id))
			}
		}
	}
	for name, role := range s.Roles {
		if role == nil {
			return nil, fmt.Errorf("role %.40q is empty", name)
		}
	}
	return meta, nil
}

// short keeps a key's name readable in messages.
func short(id string) string {
	if len(id) > 12 {
		return id[:12] + "…"
	}
	return id
}

// Bytes returns the root.json as it was read.
func (r *Root) Bytes() []byte { return r.raw }

// Version is the root's version.
func (r *Root) Version() int64 { return r.meta.Signed.Version }

// Expires is when the root ends to be valid.
func (r *Root) Expires() time.Time { return r.meta.Signed.Expires }

// Metadata returns the root's content, not to be changed.
func (r *Root) Metadata() *metadata.Metadata[metadata.RootType] { return r.meta }

// HasKey reports whether the key of that id may sign for a role.
func (r *Root) HasKey(role, id string) bool {
	ro := r.meta.Signed.Roles[role]
	if ro == nil {
		return false
	}
	return slices.Contains(ro.KeyIDs, id)
}

// Verify reports whether the root's keys for role signed meta, which is a
// *metadata.Metadata of the role's type. The error wraps ErrUntrusted and says
// what is missing.
func Verify[T metadata.Roles](r *Root, role string, meta *metadata.Metadata[T]) error {
	if err := verify(r.meta, role, meta, meta.Signatures); err != nil {
		return untrusted("%w", err)
	}
	return nil
}

func verify(root *metadata.Metadata[metadata.RootType], role string, meta any, signatures []metadata.Signature) error {
	if len(signatures) == 0 {
		return fmt.Errorf("%s metadata carries no signature", role)
	}
	err := root.VerifyDelegate(role, meta)
	if err == nil {
		return nil
	}
	ro := root.Signed.Roles[role]
	if ro == nil {
		return err
	}
	known := 0
	for _, s := range signatures {
		for _, id := range ro.KeyIDs {
			if s.KeyID == id {
				known++
			}
		}
	}
	at := fmt.Sprintf("version %d of the root", root.Signed.Version)
	switch {
	case known == 0:
		return fmt.Errorf("%s metadata is signed by key %s, which is not one that %s names for %s", role, short(signatures[0].KeyID), at, role)
	case known < ro.Threshold:
		return fmt.Errorf("%s metadata has %d of the %d signatures that %s asks for", role, known, ro.Threshold, at)
	}
	return fmt.Errorf("%s metadata has a signature that does not match its content: %w", role, err)
}

// Follow returns the root that data is, if it is the successor of r: one version
// higher, signed by the keys of both. The error wraps ErrUntrusted.
func (r *Root) Follow(data []byte) (*Root, error) {
	meta, err := decodeRoot(data)
	if err != nil {
		return nil, untrusted("root after version %d: %w", r.Version(), err)
	}
	if meta.Signed.Version != r.Version()+1 {
		return nil, untrusted("root has version %d: expected %d, the one after the trusted root's", meta.Signed.Version, r.Version()+1)
	}
	if err := verify(r.meta, metadata.ROOT, meta, meta.Signatures); err != nil {
		return nil, untrusted("root version %d: %w", meta.Signed.Version, err)
	}
	if err := verify(meta, metadata.ROOT, meta, meta.Signatures); err != nil {
		return nil, untrusted("root version %d is not signed by its own keys: %w", meta.Signed.Version, err)
	}
	return &Root{meta: meta, raw: bytes.Clone(data)}, nil
}

// Options say what a device trusts.
type Options struct {
	// Root is the newest root that the device trusts. nil is possible only
	// with AllowUnsigned.
	Root *Root
	// Time is the reference time, as ReferenceTime gives it.
	Time time.Time
	// AllowUnsigned accepts bundles that carry no signature, and any bundle
	// where there is no root to check it with. For development only.
	AllowUnsigned bool
}

// Verifier decides whether a device trusts a bundle. It implements
// bundle.Verifier and serves for one bundle.
type Verifier struct {
	o        Options
	root     *Root
	followed []*Root
}

// New returns a verifier.
func New(o Options) (*Verifier, error) {
	if o.Root == nil && !o.AllowUnsigned {
		return nil, fmt.Errorf("%w: there is none", ErrRoot)
	}
	return &Verifier{o: o, root: o.Root}, nil
}

// VerifyBundle implements bundle.Verifier. The error wraps ErrUntrusted and
// says which check failed, or bundle.ErrMalformed.
func (v *Verifier) VerifyBundle(roots [][]byte, targets []byte) (bundle.Signed, error) {
	meta, signed, err := bundle.ParseTargets(targets)
	if err != nil {
		return bundle.Signed{}, err
	}
	if v.root == nil || v.o.AllowUnsigned && len(meta.Signatures) == 0 {
		signed.Unsigned = true
		return signed, nil
	}
	if err := v.follow(roots); err != nil {
		return bundle.Signed{}, err
	}
	if err := Verify(v.root, metadata.TARGETS, meta); err != nil {
		return bundle.Signed{}, err
	}
	if v.root.meta.Signed.IsExpired(v.o.Time) {
		return bundle.Signed{}, untrusted("version %d of the root expired at %s; the reference time is %s", v.root.Version(), stamp(v.root.Expires()), stamp(v.o.Time))
	}
	if meta.Signed.IsExpired(v.o.Time) {
		return bundle.Signed{}, untrusted("the bundle's signature expired at %s; the reference time is %s", stamp(meta.Signed.Expires), stamp(v.o.Time))
	}
	return signed, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// follow takes the roots that come after the trusted one. A bundle made
// before the device's root carries older ones, which say nothing any more.
func (v *Verifier) follow(roots [][]byte) error {
	for _, raw := range roots {
		meta, err := decodeRoot(raw)
		if err != nil {
			return untrusted("a root that the bundle carries: %w", err)
		}
		if meta.Signed.Version <= v.root.Version() {
			continue
		}
		next, err := v.root.Follow(raw)
		if err != nil {
			return err
		}
		v.root = next
		v.followed = append(v.followed, next)
	}
	return nil
}

// Root returns the newest root that is trusted now.
func (v *Verifier) Root() *Root { return v.root }

// Followed returns the roots that a bundle brought and that follow from the
// trusted one, oldest first. They may be kept: the last one is the new trusted root.
func (v *Verifier) Followed() []*Root { return v.followed }
