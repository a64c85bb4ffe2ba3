package repository

import (
	"fmt"
	"maps"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/packaging/release"
)

func haltedError(rel *release.Target) error {
	return fmt.Errorf("the rollout of %s %s is %w: look why, and let it go on first", rel.App, rel.Version, ErrHalted)
}

// dropHalts forgets the halts of releases that go off the list. One that a delegated
// role lists, or one that could not be read may list, stays halted.
func (r *Repository) dropHalts(s *state, next *metadata.Metadata[metadata.TargetsType]) error {
	if len(s.halts) == 0 {
		return nil
	}
	before, err := s.releases()
	if err != nil {
		return err
	}
	after, _, unread, err := r.all(s, next)
	if err != nil || len(unread) > 0 {
		return err
	}
	s.halts = maps.Clone(s.halts)
	for i := range before {
		gone := before[i].Release
		if !slices.ContainsFunc(after, func(r release.Target) bool { return r.Release == gone }) {
			delete(s.halts, gone)
		}
	}
	return nil
}

// Halt has the snapshot withhold releases, by their hashes, from devices that do
// not have them, or, with resume, lets them be offered again. It needs the keys of
// snapshot and timestamp only, and says how many of them that changed.
//
// After success the new snapshot is durable. After an error or a power cut devices
// find the old one or the new one, and accept either.
func (r *Repository) Halt(keys Keys, resume bool, releases ...digest.SHA256) (int, error) {
	s, err := r.load()
	if err != nil {
		return 0, err
	}
	next, changed := maps.Clone(s.halts), 0
	if next == nil {
		next = release.Halts{}
	}
	for _, sum := range releases {
		if next[sum] != resume {
			continue
		}
		changed++
		if resume {
			delete(next, sum)
		} else {
			next[sum] = true
		}
	}
	if changed == 0 {
		return 0, nil
	}
	s.halts = next
	return changed, r.refresh(s, keys)
}
