package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	// Channels are those that the release stands in, one or more, by name.
	Channels map[string]Offering `json:"channels"`
	// Release is the SHA-256 of release.json: whatever is fetched must be that.
	Release digest.SHA256 `json:"release"`
	// Head is how many bytes of the bundle come before its first frame; 0 is
	// not said, and no frames are fetched then.
	Head int64 `json:"head,omitempty"`
	// Base is the version that a device must have to use the bundle; the zero
	// Version means any or none.
	Base versioning.Version `json:"base,omitzero"`
	// Unpacked is what the files of the release have together, in bytes, so that
	// a device can tell before it fetches whether it has the room; 0 is not said.
	Unpacked int64 `json:"unpacked,omitempty"`
	// Yanked releases are taken back from every channel: no device may choose them
	// any more.
	Yanked bool `json:"yanked,omitempty"`
	// Recall tells devices that run a yanked release to return; nil does not. It
	// counts in the top-level targets metadata only.
	Recall *Recall `json:"recall,omitempty"`
	// Urgent releases do not wait for a device's maintenance window.
	Urgent bool `json:"urgent,omitempty"`
}

// Offering is how a release is offered in one channel.
type Offering struct {
	// Rollout is how many per cent of the devices it is for; absent means 100.
	Rollout int `json:"rollout"`
	// Yanked says that it is taken back from this channel.
	Yanked bool `json:"yanked,omitempty"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *Offering) UnmarshalJSON(data []byte) error {
	type plain Offering
	p := plain{Rollout: 100}
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*o = Offering(p)
	return nil
}

// MarshalJSON implements json.Marshaler: what has its default value is left out.
func (o Offering) MarshalJSON() ([]byte, error) {
	p := struct {
		Rollout *int `json:"rollout,omitempty"`
		Yanked  bool `json:"yanked,omitempty"`
	}{Yanked: o.Yanked}
	if o.Rollout != 100 {
		p.Rollout = &o.Rollout
	}
	return json.Marshal(p)
}

// Recall tells devices that run a release to return to a version that they kept.
type Recall struct {
	// To is the version to return to; the zero Version is the highest that is kept.
	To versioning.Version `json:"to,omitzero"`
	// Rollout is how many per cent of the devices that run it are told; absent
	// means 100.
	Rollout int `json:"rollout"`
	// Urgent recalls do not wait for a device's maintenance window.
	Urgent bool `json:"urgent,omitempty"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *Recall) UnmarshalJSON(data []byte) error {
	type plain Recall
	p := plain{Rollout: 100}
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*r = Recall(p)
	return nil
}

// TakenBack reports whether no channel offers the release any more.
func (t *Target) TakenBack() bool {
	if t.Yanked {
		return true
	}
	for _, o := range t.Channels {
		if !o.Yanked {
			return false
		}
	}
	return true
}

// ChannelNames returns the channels that the release stands in, sorted.
func (t *Target) ChannelNames() []string { return slices.Sorted(maps.Keys(t.Channels)) }

// ValidChannel reports whether a channel can have that name: up to 128 bytes of
// printable text without spaces.
func ValidChannel(name string) bool { return isWord(name) }

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
	r := Target{Kind: App}
	if err := json.Unmarshal(*t.Custom, &r); err != nil {
		return fail("custom: %w", err)
	}
	r.Name, r.Length = name, t.Length
	if n := copy(r.SHA256[:], t.Hashes["sha256"]); n != len(r.SHA256) || len(t.Hashes["sha256"]) != n || r.Length <= 0 {
		return fail("expected a length and a sha256 of %d bytes", len(r.SHA256))
	}
	switch {
	case r.App == "" || r.Version.IsZero() || len(r.Channels) == 0 || r.Release.IsZero():
		return fail("custom: expected app, version, channels and release")
	case r.Recall != nil && !isPercent(r.Recall.Rollout):
		return fail("custom: recall: rollout %d: expected 0 to 100 per cent", r.Recall.Rollout)
	case r.Head < 0 || r.Head >= r.Length:
		return fail("custom: head %d: expected less than the %d bytes of the bundle", r.Head, r.Length)
	}
	for name, o := range r.Channels {
		switch {
		case !ValidChannel(name):
			return fail("custom: channel %.80q: expected up to 128 characters without spaces", name)
		case !isPercent(o.Rollout):
			return fail("custom: channel %s: rollout %d: expected 0 to 100 per cent", name, o.Rollout)
		}
	}
	return r, nil
}

func isPercent(n int) bool { return n >= 0 && n <= 100 }

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
