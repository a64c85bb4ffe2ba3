package ota

import (
	"fmt"
	"slices"

	"tandem/internal/digest"
	"tandem/versioning"
)

// Vouch returns nil if the listing has a release, by the hash of its release.json,
// in a form that was neither yanked nor halted; in which channel and for which devices
// does not matter. The error wraps ErrRefused where it has not, or what kept the listing
// from being complete.
func (l *Listing) Vouch(app string, v versioning.Version, sum digest.SHA256) error {
	yanked, halted := false, false
	if slices.ContainsFunc(l.offers, func(o Offer) bool {
		r := &o.Release
		found := r.App == app && r.Version.Compare(v) == 0 && r.Release == sum
		yanked, halted = yanked || found && r.TakenBack(), halted || found && o.Halted
		return found && !r.TakenBack() && !o.Halted
	}) {
		return nil
	}
	switch {
	case yanked:
		return fmt.Errorf("%w: %s %s was taken back by its publisher", ErrRefused, app, v)
	case halted:
		return fmt.Errorf("%w: the rollout of %s %s was halted by its publisher", ErrRefused, app, v)
	case l.failed != nil:
		return l.failed
	}
	return fmt.Errorf("%w: %s %s with the release %s is not in the repository", ErrRefused, app, v, sum)
}
