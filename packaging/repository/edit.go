package repository

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/fsys"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Sentinels of what is done to releases.
var (
	// ErrNoRelease says that a repository has no release of that name.
	ErrNoRelease = errors.New("no such release")
	// ErrAmbiguous says that a name stands for releases of several applications.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrLower says that a rollout would be taken from devices that have it.
	ErrLower = errors.New("would be lowered")
)

// Find gives the releases of list that name stands for: all bundles of a
// version, as APP/VERSION or, where only one application has it, VERSION; or
// one bundle, by the name of its target. The error wraps ErrNoRelease or ErrAmbiguous.
func Find(list []release.Target, name string) ([]release.Target, error) {
	for _, r := range list {
		if r.Name == name {
			return []release.Target{r}, nil
		}
	}
	app, text, qualified := strings.Cut(name, "/")
	if !qualified {
		app, text = "", name
	}
	v, err := versioning.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %.80q: expected APP/VERSION, VERSION or the name of a bundle in the repository: %w", ErrNoRelease, name, err)
	}
	var exact, same []release.Target
	var apps, versions []string
	for _, r := range list {
		if qualified && r.App != app {
			continue
		}
		if text := r.App + "/" + r.Version.String(); !slices.Contains(versions, text) {
			versions = append(versions, text)
		}
		if r.Version.Compare(v) != 0 {
			continue
		}
		same = append(same, r)
		if r.Version.String() == v.String() {
			exact = append(exact, r)
		}
		if !slices.Contains(apps, r.App) {
			apps = append(apps, r.App)
		}
	}
	switch {
	case len(same) == 0 && len(versions) == 0:
		return nil, fmt.Errorf("%w: %s: the repository has none of this application", ErrNoRelease, name)
	case len(same) == 0:
		return nil, fmt.Errorf("%w: %s: the highest are %s", ErrNoRelease, name, strings.Join(versions[max(0, len(versions)-3):], ", "))
	case len(apps) > 1:
		return nil, fmt.Errorf("%w: %s: expected one of %s", ErrAmbiguous, name, strings.Join(apps, "/"+text+", ")+"/"+text)
	case len(exact) > 0: // versions that differ in build metadata only rank the same
		return exact, nil
	}
	return same, nil
}

// edit gives the change that does f to each release that name stands for, and
// those releases as they were before. Where f changes nothing the change is nil.
func (r *Repository) edit(name string, f func(rel release.Target, targets map[string]*metadata.TargetFiles) (bool, error)) ([]release.Target, *Change, error) {
	s, err := r.load()
	if err != nil {
		return nil, nil, err
	}
	all, err := s.releases()
	if err != nil {
		return nil, nil, err
	}
	found, err := Find(all, name)
	if err != nil {
		return nil, nil, err
	}
	targets, changed := r.next(s), false
	for _, rel := range found {
		did, err := f(rel, targets.Signed.Targets)
		if err != nil {
			return nil, nil, err
		}
		changed = changed || did
	}
	if !changed {
		return found, nil, nil
	}
	c, err := r.change(s, nil, targets)
	return found, c, err
}

// custom changes fields of a target, in a copy that takes its place.
func custom(targets map[string]*metadata.TargetFiles, name string, f func(map[string]json.RawMessage)) error {
	t := *targets[name]
	if err := editCustom(&t, f); err != nil {
		return fmt.Errorf("target %.80q: %w", name, err)
	}
	targets[name] = &t
	return nil
}

// StageRollout gives the change that offers a release, named as Find says, to
// percent of the devices. A lower percentage than before is refused with
// ErrLower unless lower is true: devices that have the release keep it, and
// those that come after them stop being offered it. Where nothing would change
// the change is nil. Nothing is written before Apply.
func (r *Repository) StageRollout(name string, percent int, lower bool) ([]release.Target, *Change, error) {
	if err := checkPercent(percent); err != nil {
		return nil, nil, err
	}
	return r.edit(name, func(rel release.Target, targets map[string]*metadata.TargetFiles) (bool, error) {
		if percent < rel.Rollout && !lower {
			return false, fmt.Errorf("the rollout of %s %s %w: it is at %d per cent", rel.App, rel.Version, ErrLower, rel.Rollout)
		}
		return percent != rel.Rollout, custom(targets, rel.Name, func(f map[string]json.RawMessage) { setRollout(f, percent) })
	})
}

// StageYank gives the change that takes a release back, named as Find says, so
// that no device chooses it any more; with undo the one that offers it again.
// Where nothing would change the change is nil. Nothing is written before Apply.
func (r *Repository) StageYank(name string, undo bool) ([]release.Target, *Change, error) {
	return r.edit(name, func(rel release.Target, targets map[string]*metadata.TargetFiles) (bool, error) {
		return rel.Yanked == undo, custom(targets, rel.Name, func(f map[string]json.RawMessage) { setYanked(f, !undo) })
	})
}

// StageRemove gives the change that drops a release from the list, named as
// Find says. Its bundle stays where it is, for devices that are fetching it.
// Nothing is written before Apply.
func (r *Repository) StageRemove(name string) ([]release.Target, *Change, error) {
	return r.edit(name, func(rel release.Target, targets map[string]*metadata.TargetFiles) (bool, error) {
		delete(targets, rel.Name)
		return true, nil
	})
}

// StageTargets gives the change that signs the list of releases anew, as it is.
func (r *Repository) StageTargets() (*Change, error) {
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	return r.change(s, nil, r.next(s))
}

// Refresh signs snapshot and timestamp anew, so that devices go on trusting
// the repository. It needs the keys of these two only.
//
// After success both are durable. After an error or a power cut devices find
// the old timestamp or the new one, and accept either.
func (r *Repository) Refresh(keys Keys) error {
	s, err := r.load()
	if err != nil {
		return err
	}
	files, err := r.documents(s, keys, nil, s.root)
	if err != nil {
		return err
	}
	if files, err = r.withRoot(files, s.root); err != nil {
		return err
	}
	if err := r.write(files); err != nil {
		return err
	}
	r.prune(s)
	return nil
}

// withRoot adds the root that goes on devices, if it is not the newest yet.
func (r *Repository) withRoot(files []file, newest interface{ Bytes() []byte }) ([]file, error) {
	raw, err := fsys.ReadFile(r.fs, RootFile, maxMetadata)
	if err == nil && string(raw) != string(newest.Bytes()) {
		files = append(files, file{RootFile, newest.Bytes()})
	}
	return files, err
}

// Status is what a repository says of itself.
type Status struct {
	Root, Targets, Snapshot, Timestamp Signed
	// TargetsLength is how long the list of releases is, in bytes, of at most MaxTargets.
	TargetsLength int64
	Releases      []release.Target // by application and version
}

// Signed is one document in force.
type Signed struct {
	Version int64
	Expires time.Time
}

// Status reads the metadata in force and verifies it, but for expiry.
func (r *Repository) Status() (*Status, error) {
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	list, err := s.releases()
	if err != nil {
		return nil, err
	}
	return &Status{
		Root:          Signed{s.root.Version(), s.root.Expires()},
		Targets:       Signed{s.targets.Signed.Version, s.targets.Signed.Expires},
		Snapshot:      Signed{s.snapshot.Signed.Version, s.snapshot.Signed.Expires},
		Timestamp:     Signed{s.timestamp.Signed.Version, s.timestamp.Signed.Expires},
		TargetsLength: s.snapshot.Signed.Meta["targets.json"].Length,
		Releases:      list,
	}, nil
}
