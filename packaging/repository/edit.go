package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
	// ErrYanked says that a release was taken back.
	ErrYanked = errors.New("was taken back")
	// ErrRecall says that a release cannot be recalled like that.
	ErrRecall = errors.New("recall")
	// ErrRecalled says that a release is recalled.
	ErrRecalled = errors.New("is recalled")
	// ErrLast says that a release would stand in no channel.
	ErrLast = errors.New("only channel")
	// ErrHalted says that the rollout of a release is halted.
	ErrHalted = errors.New("halted")
)

// Find returns the releases of list that name stands for: all bundles of a
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

// edit returns the change that does f to each release that name stands for, and
// those releases as they were before, but for the ones that f has nothing to do
// with. Where f changes nothing the change is nil.
func (r *Repository) edit(name string, f func(s *state, rel *release.Target, targets *metadata.Metadata[metadata.TargetsType]) (does, error)) ([]release.Target, *Change, error) {
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
		return nil, nil, r.noRelease(s, name, err)
	}
	targets, changed := r.next(s), false
	var about []release.Target
	for i := range found {
		did, err := f(s, &found[i], targets)
		if err != nil {
			return nil, nil, err
		}
		if did != notAbout {
			about = append(about, found[i])
		}
		changed = changed || did == changes
	}
	if !changed {
		return about, nil, nil
	}
	if err := tidyDeltas(targets); err != nil {
		return nil, nil, err
	}
	c, err := r.change(s, nil, targets)
	return about, c, err
}

// does is what an edit does to a release.
type does int

const (
	notAbout does = iota
	leaves
	changes
)

func changesIf(differs bool) does {
	if differs {
		return changes
	}
	return leaves
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

// customChannel changes how a target is offered in a channel; nil for o takes it
// out of the channel.
func customChannel(targets map[string]*metadata.TargetFiles, name, channel string, o *release.Offering) error {
	var failed error
	err := custom(targets, name, func(f map[string]json.RawMessage) { failed = setChannel(f, channel, o) })
	return errors.Join(err, failed)
}

// channelOf returns the one of a release's channels that is meant: the one that
// is named, or the only one there is; "" if that is not one of its channels. The
// error wraps ErrAmbiguous.
func channelOf(rel *release.Target, named string) (string, error) {
	if named == "" && len(rel.Channels) > 1 {
		return "", fmt.Errorf("%w: %s %s stands in the channels %s: expected one of them", ErrAmbiguous, rel.App, rel.Version, strings.Join(rel.ChannelNames(), ", "))
	}
	if named == "" {
		named = rel.ChannelNames()[0]
	}
	if _, ok := rel.Channels[named]; !ok {
		return "", nil
	}
	return named, nil
}

// inChannel is edit for those releases that stand in a channel: the one that is
// named, or the only one of each. The error wraps ErrNoRelease if there is none.
func (r *Repository) inChannel(name, channel string, f func(s *state, rel *release.Target, channel string, targets *metadata.Metadata[metadata.TargetsType]) (does, error)) ([]release.Target, *Change, error) {
	var elsewhere []string
	list, c, err := r.edit(name, func(s *state, rel *release.Target, targets *metadata.Metadata[metadata.TargetsType]) (does, error) {
		in, err := channelOf(rel, channel)
		if err != nil {
			return notAbout, err
		}
		if in == "" {
			elsewhere = append(elsewhere, rel.ChannelNames()...)
			return notAbout, nil
		}
		return f(s, rel, in, targets)
	})
	if err == nil && len(list) == 0 {
		slices.Sort(elsewhere)
		return nil, nil, fmt.Errorf("%w: %s in the channel %s: it stands in %s", ErrNoRelease, name, channel, strings.Join(slices.Compact(elsewhere), ", "))
	}
	return list, c, err
}

// StageRollout returns the change that offers a release, named as Find says, to
// percent of the devices that follow a channel; "" is the only one that the release
// stands in. A lower percentage than before is refused with ErrLower unless lower is
// true: devices that have the release keep it, and those that come after them stop
// being offered it. A higher one of a release that is halted is refused with
// ErrHalted. Where nothing would change the change is nil. Nothing is written before
// Apply.
func (r *Repository) StageRollout(name, channel string, percent int, lower bool) ([]release.Target, *Change, error) {
	if err := checkPercent(percent); err != nil {
		return nil, nil, err
	}
	return r.inChannel(name, channel, func(s *state, rel *release.Target, channel string, targets *metadata.Metadata[metadata.TargetsType]) (does, error) {
		o := rel.Channels[channel]
		switch {
		case percent < o.Rollout && !lower:
			return notAbout, fmt.Errorf("the rollout of %s %s in the channel %s %w: it is at %d per cent", rel.App, rel.Version, channel, ErrLower, o.Rollout)
		case percent > o.Rollout && s.halts[rel.Release]:
			return notAbout, haltedError(rel)
		}
		did := changesIf(percent != o.Rollout)
		o.Rollout = percent
		return did, customChannel(targets.Signed.Targets, rel.Name, channel, &o)
	})
}

// StagePromote returns the change that offers a release, named as Find says, in one
// more channel as well, to percent of the devices that follow it: the same bundles,
// in all their forms, but for delta bundles of a release that is not the channel's
// newest. Where it is offered so already the change is nil; at another percentage the
// error wraps ErrExists. It wraps ErrYanked for one that was taken back, there or
// everywhere, and ErrHalted for one that is halted. No device is led to anything before
// Apply.
//
// deltas returns delta bundles to be offered with each whole bundle that is promoted; it
// may be nil.
func (r *Repository) StagePromote(ctx context.Context, name, channel string, percent int, deltas func(rel release.Target) ([]Delta, error)) ([]release.Target, *Change, error) {
	if err := errors.Join(checkPercent(percent), checkChannel(channel)); err != nil {
		return nil, nil, err
	}
	return r.edit(name, func(s *state, rel *release.Target, targets *metadata.Metadata[metadata.TargetsType]) (does, error) {
		there, ok := rel.Channels[channel]
		switch {
		case rel.TakenBack(), there.Yanked:
			return notAbout, fmt.Errorf("%s %s %w: expected one that is offered", rel.App, rel.Version, ErrYanked)
		case ok && there.Rollout == percent:
			return leaves, nil
		case ok:
			return notAbout, fmt.Errorf("%s %s %w in the channel %s, offered to %d per cent: raise that with a rollout", rel.App, rel.Version, ErrExists, channel, there.Rollout)
		case s.halts[rel.Release]:
			return notAbout, haltedError(rel)
		}
		if err := customChannel(targets.Signed.Targets, rel.Name, channel, &release.Offering{Rollout: percent}); err != nil {
			return notAbout, err
		}
		if deltas == nil || !rel.Base.IsZero() {
			return changes, nil
		}
		made, err := deltas(*rel)
		if err != nil {
			return notAbout, err
		}
		to := *rel
		to.Channels = maps.Clone(rel.Channels)
		to.Channels[channel] = release.Offering{Rollout: percent}
		return changes, errors.Join(r.listDeltas(ctx, s, targets, &to, made), r.fs.SyncDir(targetsDir))
	})
}

// Yanking says how a release is taken back.
type Yanking struct {
	From string // the channel; "" is every one
	Undo bool   // it is offered again
	// Recall tells devices that run it to return; nil leaves them as they are.
	Recall *release.Recall
}

// StageYank returns the change that takes a release back, named as Find says, so
// that no device chooses it any more, from one channel or from all; with Undo the
// one that offers it again, without a recall. Where nothing would change the change
// is nil. A recall is of every bundle of the release; the error wraps ErrRecall where
// the version to return to is not lower, not on the list, or taken back itself.
// Nothing is written before Apply.
func (r *Repository) StageYank(name string, y Yanking) ([]release.Target, *Change, error) {
	if y.From != "" {
		return r.inChannel(name, y.From, func(_ *state, rel *release.Target, channel string, targets *metadata.Metadata[metadata.TargetsType]) (does, error) {
			o := rel.Channels[channel]
			did := changesIf(o.Yanked == y.Undo)
			o.Yanked = !y.Undo
			return did, customChannel(targets.Signed.Targets, rel.Name, channel, &o)
		})
	}
	return r.edit(name, func(s *state, rel *release.Target, targets *metadata.Metadata[metadata.TargetsType]) (does, error) {
		recall := y.Recall
		if recall != nil {
			if err := s.checkRecall(rel, recall); err != nil {
				return notAbout, err
			}
		}
		if recall == nil && !y.Undo {
			recall = rel.Recall
		}
		did := changesIf(rel.Yanked == y.Undo || !sameRecall(rel.Recall, recall))
		var failed error
		err := custom(targets.Signed.Targets, rel.Name, func(f map[string]json.RawMessage) {
			setYanked(f, !y.Undo)
			failed = setRecall(f, recall)
		})
		return did, errors.Join(err, failed)
	})
}

func sameRecall(a, b *release.Recall) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// checkRecall reports what is wrong with a recall.
func (s *state) checkRecall(rel *release.Target, recall *release.Recall) error {
	if err := checkPercent(recall.Rollout); err != nil {
		return err
	}
	if rel.Kind != release.App {
		return fmt.Errorf("%w: %s %s is of the kind %s: expected an application, which devices keep the version before of", ErrRecall, rel.App, rel.Version, rel.Kind)
	}
	if recall.To.IsZero() {
		return nil
	}
	if recall.To.Compare(rel.Version) >= 0 {
		return fmt.Errorf("%w: %s is not lower than %s: to move devices on, publish it", ErrRecall, recall.To, rel.Version)
	}
	all, err := s.releases()
	if err != nil {
		return err
	}
	for i := range all {
		to := &all[i]
		if to.App != rel.App || to.Version.String() != recall.To.String() || !shareHardware(to, rel) {
			continue
		}
		if to.TakenBack() {
			return fmt.Errorf("%w: %s is taken back itself", ErrRecall, recall.To)
		}
		return nil
	}
	return fmt.Errorf("%w: %s %s for %s is not in the repository", ErrRecall, rel.App, recall.To, strings.Join(rel.Compatible, ", "))
}

// StageRemove returns the change that drops a release from the list, named as
// Find says, with the delta bundles that make it or build on it and can be checked no
// more, or only takes it out of a channel if one is given. Bundles stay
// where they are, for devices that are fetching them. The error wraps ErrRecalled for one
// that is recalled, as devices would not be told any more, and ErrLast if the channel
// is the only one. Nothing is written before Apply.
func (r *Repository) StageRemove(name, channel string) ([]release.Target, *Change, error) {
	if channel != "" {
		return r.inChannel(name, channel, func(_ *state, rel *release.Target, channel string, targets *metadata.Metadata[metadata.TargetsType]) (does, error) {
			if len(rel.Channels) == 1 {
				return notAbout, fmt.Errorf("%s is the %w that %s %s stands in", channel, ErrLast, rel.App, rel.Version)
			}
			return changes, customChannel(targets.Signed.Targets, rel.Name, channel, nil)
		})
	}
	var with []release.Target
	list, c, err := r.edit(name, func(_ *state, rel *release.Target, targets *metadata.Metadata[metadata.TargetsType]) (does, error) {
		if rel.Recall != nil {
			return notAbout, fmt.Errorf("%s %s %w: devices that run it would not be told any more", rel.App, rel.Version, ErrRecalled)
		}
		delete(targets.Signed.Targets, rel.Name)
		left, err := releases(targets)
		for i := range left {
			d := &left[i]
			gone := func(is func(delta, whole *release.Target) bool) bool {
				return is(d, rel) && !slices.ContainsFunc(left, func(whole release.Target) bool { return is(d, &whole) })
			}
			if gone(makes) || gone(buildsOn) {
				delete(targets.Signed.Targets, d.Name)
				with = append(with, *d)
			}
		}
		return changes, err
	})
	for _, d := range with {
		if !slices.ContainsFunc(list, func(rel release.Target) bool { return rel.Name == d.Name }) {
			list = append(list, d)
		}
	}
	return list, c, err
}

// makes reports whether rel is what a delta bundle makes.
func makes(delta, rel *release.Target) bool {
	return !delta.Base.IsZero() && rel.Base.IsZero() && rel.Release == delta.Release
}

// buildsOn reports whether rel is what a delta bundle builds on.
func buildsOn(delta, rel *release.Target) bool {
	return !delta.Base.IsZero() && rel.Base.IsZero() && rel.App == delta.App && rel.Version.String() == delta.Base.String() && shareHardware(rel, delta)
}

// StageTargets returns the change that signs the list of releases anew, as it is.
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
	return r.refresh(s, keys)
}

// refresh signs snapshot and timestamp anew.
func (r *Repository) refresh(s *state, keys Keys) error {
	files, err := r.documents(s, keys, nil, s.root)
	if err != nil {
		return err
	}
	return r.publish(s, files)
}

// publish writes files, the root for devices and no more than is to be kept.
func (r *Repository) publish(s *state, files []file) error {
	files, err := r.withRoot(files, s.root)
	if err != nil {
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
	Releases      []release.Target // by application and version, those of delegated roles included
	// Roles says which delegated role lists a release, by the name of its bundle.
	Roles map[string]string
	// Unread says why releases of delegated roles may be missing.
	Unread []error
	Halts  release.Halts
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
	list, roles, unread, err := r.all(s, s.targets)
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
		Roles:         roles,
		Unread:        unread,
		Halts:         s.halts,
	}, nil
}
