package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/packaging/tuf"
	"tandem/versioning"
)

// ErrTarget says that a target of a repository does not describe a release.
var ErrTarget = errors.New("not a release")

// Target is what a repository says about one bundle, in the "custom" field
// of its target, so that a device can choose without fetching any.
type Target struct {
	// Name, Length and SHA256 are the target's own; the name is without the
	// hash that its file's name begins with.
	Name   string        `json:"-"`
	Length int64         `json:"-"` // bytes
	SHA256 digest.SHA256 `json:"-"`

	Kind       Kind               `json:"kind"` // absent means app
	App        string             `json:"app"`
	Version    versioning.Version `json:"version"`
	Compatible []string           `json:"compatible"`
	Channel    string             `json:"channel"`
	// Release is the SHA-256 of release.json: whatever is fetched must be that.
	Release digest.SHA256 `json:"release"`
	// Head is how many bytes of the bundle come before its first frame; 0 is
	// not said, and no frames are fetched then.
	Head int64 `json:"head,omitempty"`
	// Base is the version that a device must have to use the bundle; the zero
	// Version means any or none.
	Base versioning.Version `json:"base,omitzero"`
	// Rollout is how many per cent of the devices the release is for; absent means 100.
	Rollout int `json:"rollout"`
	// Unpacked is what the files of the release have together, in bytes, so that
	// a device can tell before it fetches whether it has the room; 0 is not said.
	Unpacked int64 `json:"unpacked,omitempty"`
	// Yanked releases are taken back: no device may choose them any more.
	Yanked bool `json:"yanked,omitempty"`
	// Urgent releases do not wait for a device's maintenance window.
	Urgent bool `json:"urgent,omitempty"`
}

// ParseTarget reads the release that a target describes. What it does not
// know is ignored, so that later publishers can say more. The error wraps ErrTarget.
func ParseTarget(name string, t *metadata.TargetFiles) (Target, error) {
	fail := func(format string, args ...any) (Target, error) {
		return Target{}, fmt.Errorf("%w: target %.80q: %w", ErrTarget, name, fmt.Errorf(format, args...))
	}
	if t == nil || t.Custom == nil {
		return fail("no custom field")
	}
	if !ValidName(name) {
		return fail("its name is no plain file name")
	}
	r := Target{Kind: App, Rollout: 100}
	if err := json.Unmarshal(*t.Custom, &r); err != nil {
		return fail("custom: %w", err)
	}
	r.Name, r.Length = name, t.Length
	if n := copy(r.SHA256[:], t.Hashes["sha256"]); n != len(r.SHA256) || len(t.Hashes["sha256"]) != n || r.Length <= 0 {
		return fail("expected a length and a sha256 of %d bytes", len(r.SHA256))
	}
	switch {
	case r.App == "" || r.Version.IsZero() || r.Channel == "" || r.Release.IsZero():
		return fail("custom: expected app, version, channel and release")
	case r.Rollout < 0 || r.Rollout > 100:
		return fail("custom: rollout %d: expected 0 to 100 per cent", r.Rollout)
	case r.Head < 0 || r.Head >= r.Length:
		return fail("custom: head %d: expected less than the %d bytes of the bundle", r.Head, r.Length)
	}
	return r, nil
}

// ParseListed is ParseTarget for what a repository lists. The name of a release
// that a delegated role lists begins with its application's and a dash, so that
// the paths of a delegation say for which applications it is. The error wraps
// ErrTarget.
func ParseListed(l tuf.Listed) (Target, error) {
	r, err := ParseTarget(l.Name, l.Target)
	if err == nil && l.Role != metadata.TARGETS && !strings.HasPrefix(l.Name, r.App+"-") {
		return Target{}, fmt.Errorf("%w: target %.80q of the delegated role %.80q: a release of %s has a name that begins with %s-", ErrTarget, l.Name, l.Role, r.App, r.App)
	}
	return r, err
}

// ValidName reports whether a target of that name stays in one directory.
func ValidName(name string) bool {
	return name != "" && len(name) <= 180 && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\\\x00")
}

// FileName is the last element of the file that holds the bundle: as TUF's
// consistent snapshots have it, with the hash before the name.
func (t *Target) FileName() string { return t.SHA256.String() + "." + t.Name }
