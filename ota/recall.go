package ota

import (
	"cmp"
	"encoding/binary"

	"tandem/internal/digest"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Recall says that the publisher wants a device to leave the release that it runs.
type Recall struct {
	Version versioning.Version // that runs
	Release digest.SHA256
	To      versioning.Version // to return to; zero: the highest that is kept
	Urgent  bool               // it does not wait for a maintenance window
	// Never are versions that it is not to return to: they were taken back themselves.
	Never []versioning.Version
}

// recalled returns the recall of the application that d runs; nil if there is none,
// or its percentage has not reached d. Only what the top-level targets metadata says
// counts, and only of the very release that runs, by its hash.
func recalled(offers []Offer, d Device) *Recall {
	var found *Recall
	var never []versioning.Version
	for i := range offers {
		r := &offers[i].Release
		if offers[i].Delegated || r.App != d.App || cmp.Or(r.Kind, release.App) != release.App {
			continue
		}
		if r.TakenBack() && suits(r, d) {
			never = append(never, r.Version)
		}
		c := r.Recall
		if c == nil || !r.Yanked || d.Release.IsZero() || r.Release != d.Release || r.Version.Compare(d.Installed) != 0 {
			continue
		}
		if c.Rollout == 100 || d.ID != "" && recallPlace(d.ID, r.Version) < c.Rollout {
			found = &Recall{Version: r.Version, Release: r.Release, To: c.To, Urgent: c.Urgent}
		}
	}
	if found != nil {
		found.Never = never
	}
	return found
}

// recallPlace returns the place of a device in the recall of a version, 0 to 99, as
// rolloutPlace does in its rollout, of the id, a zero byte, the version, a zero byte
// and "recall": so N per cent of the devices that run the version are N per cent,
// however far it was rolled out.
func recallPlace(id string, v versioning.Version) int {
	sum := digest.Of([]byte(id + "\x00" + v.String() + "\x00recall"))
	return int(binary.BigEndian.Uint64(sum[:8]) % 100)
}
