package ota

import (
	"fmt"
	"slices"

	"tandem/internal/digest"
	"tandem/versioning"
)

// Vouch returns nil if the listing has a release, by the hash of its release.json,
// in a form that was not yanked; in which channel and for which devices does not
// matter. The error wraps ErrRefused where it has not, or what kept the listing
// from being complete.
func (l *Listing) Vouch(app string, v versioning.Version, sum digest.SHA256) error {
	yanked := false
	if slices.ContainsFunc(l.offers, func(o Offer) bool {
		r := &o.Release
		found := r.App == app && r.Version.Compare(v) == 0 && r.Release == sum
		yanked = yanked || found && r.Yanked
		return found && !r.Yanked
	}) {
		return nil
	}
	switch {
	case yanked:
		return fmt.Errorf("%w: %s %s was taken back by its publisher", ErrRefused, app, v)
	case l.failed != nil:
		return l.failed
	}
	return fmt.Errorf("%w: %s %s with the release %s is not in the repository", ErrRefused, app, v, sum)
}
