package repository

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/packaging/bundle"
	"tandem/packaging/tuf"
	"tandem/versioning"
)

// ErrRelease says that a target of a repository does not describe a release.
var ErrRelease = errors.New("not a release")

// Release is what a repository says about one bundle, in the "custom" field
// of its target, so that a device can choose without fetching any.
type Release struct {
	// Name, Length and SHA256 are the target's own; the name is without the
	// hash that its file's name begins with.
	Name   string        `json:"-"`
	Length int64         `json:"-"` // bytes
	SHA256 digest.SHA256 `json:"-"`

	Kind       bundle.Kind        `json:"kind"` // absent means app
	App        string             `json:"app"`
	Version    versioning.Version `json:"version"`
	Compatible []string           `json:"compatible"`
	Channel    string             `json:"channel"`
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

// ParseRelease reads the release that a target describes. What it does not
// know is ignored, so that later publishers can say more. The error wraps ErrRelease.
func ParseRelease(targetName string, t *metadata.TargetFiles) (Release, error) {
	fail := func(format string, args ...any) (Release, error) {
		return Release{}, fmt.Errorf("%w: target %.80q: %w", ErrRelease, targetName, fmt.Errorf(format, args...))
	}
	if t == nil || t.Custom == nil {
		return fail("no custom field")
	}
	if !validTargetName(targetName) {
		return fail("its name is no plain file name")
	}
	r := Release{Kind: bundle.App, Rollout: 100}
	if err := json.Unmarshal(*t.Custom, &r); err != nil {
		return fail("custom: %w", err)
	}
	r.Name, r.Length = targetName, t.Length
	if n := copy(r.SHA256[:], t.Hashes["sha256"]); n != len(r.SHA256) || len(t.Hashes["sha256"]) != n || r.Length <= 0 {
		return fail("expected a length and a sha256 of %d bytes", len(r.SHA256))
	}
	switch {
	case r.App == "" || r.Version.IsZero() || r.Channel == "":
		return fail("custom: expected app, version and channel")
	case r.Rollout < 0 || r.Rollout > 100:
		return fail("custom: rollout %d: expected 0 to 100 per cent", r.Rollout)
	}
	return r, nil
}

// ParseListed is ParseRelease for what a repository lists. The name of a release
// that a delegated role lists begins with its application's and a dash, so that
// the paths of a delegation say for which applications it is. The error wraps
// ErrRelease.
func ParseListed(l tuf.Listed) (Release, error) {
	r, err := ParseRelease(l.Name, l.Target)
	if err == nil && l.Role != metadata.TARGETS && !strings.HasPrefix(l.Name, r.App+"-") {
		return Release{}, fmt.Errorf("%w: target %.80q of the delegated role %.80q: a release of %s has a name that begins with %s-", ErrRelease, l.Name, l.Role, r.App, r.App)
	}
	return r, err
}

// validTargetName keeps a target in one directory.
func validTargetName(name string) bool {
	return name != "" && len(name) <= 180 && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\\\x00")
}

// File gives the file that holds the bundle, relative to the repository: as
// TUF's consistent snapshots have it, with the hash before the name.
func (r *Release) File() string { return path.Join(targetsDir, r.SHA256.String()+"."+r.Name) }

// target gives the release's entry in targets metadata. What has its default
// value is left out: a device reads this for each release.
func (r *Release) target() (*metadata.TargetFiles, error) {
	custom, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	t := &metadata.TargetFiles{
		Length: r.Length,
		Hashes: metadata.Hashes{"sha256": metadata.HexBytes(r.SHA256[:])},
		Custom: (*json.RawMessage)(&custom),
	}
	return t, editCustom(t, func(fields map[string]json.RawMessage) {
		if r.Kind == bundle.App {
			delete(fields, "kind")
		}
		setRollout(fields, r.Rollout)
	})
}

func setRollout(fields map[string]json.RawMessage, percent int) {
	delete(fields, "rollout")
	if percent != 100 {
		fields["rollout"] = json.RawMessage(strconv.Itoa(percent))
	}
}

func setYanked(fields map[string]json.RawMessage, yanked bool) {
	delete(fields, "yanked")
	if yanked {
		fields["yanked"] = json.RawMessage("true")
	}
}

// editCustom changes fields of a target's custom field, and leaves those alone
// that this program does not know.
func editCustom(t *metadata.TargetFiles, edit func(map[string]json.RawMessage)) error {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(*t.Custom, &fields); err != nil {
		return err
	}
	edit(fields)
	custom, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	t.Custom = (*json.RawMessage)(&custom)
	return nil
}
