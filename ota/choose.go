package ota

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"tandem/internal/digest"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Passed is an offer that a device does not take, and why.
type Passed struct {
	Offer  Offer
	Reason string
}

func (p Passed) String() string { return p.Offer.Name + ": " + p.Reason }

// size is what an offer costs a device that has nothing of it.
func size(o *Offer) int64 { return o.Size }

// chooseKind finds the offer of a kind that d should take: one for d.App, which is the name
// of the application or of what else the device runs, and for its hardware,
// in one of its channels, higher than what is installed, not revoked or halted, whose
// rollout in one of these channels has reached d and whose base, if it needs one, is
// installed. Of those the
// highest version wins, in its smallest form. best is nil where there is none.
// All other offers are passed over, in the order in which they were given.
func chooseKind(kind release.Kind, offers []Offer, d Device) (best *Offer, passed []Passed) {
	return choose(offers, d, kind, size)
}

// choose prefers, of the forms of one version, the one that has the least left to
// come; left is asked only where there are several.
func choose(offers []Offer, d Device, kind release.Kind, left func(*Offer) int64) (best *Offer, passed []Passed) {
	reasons := make([]string, len(offers))
	chosen := -1
	for i := range offers {
		if reasons[i] = against(&offers[i], d); reasons[i] == "" {
			reasons[i] = otherBase(&offers[i], offers, d)
		}
		if k := cmp.Or(offers[i].Release.Kind, release.App); k != kind && offers[i].Release.App == d.App {
			reasons[i] = fmt.Sprintf("of the kind %s, expected %s", k, kind)
		}
		if reasons[i] == "" && (chosen < 0 || prefer(&offers[i], &offers[chosen], left) < 0) {
			chosen = i
		}
	}
	for i := range offers {
		switch {
		case i == chosen:
			o := offers[i]
			best = &o
		case reasons[i] == "":
			passed = append(passed, Passed{offers[i], outdone(&offers[i], &offers[chosen], left)})
		default:
			passed = append(passed, Passed{offers[i], reasons[i]})
		}
	}
	return best, passed
}

// against says why d cannot take o, or "".
func against(o *Offer, d Device) string {
	r := &o.Release
	where := reach(r, d)
	switch {
	case r.App != d.App:
		return fmt.Sprintf("for the application %s, this device runs %s", r.App, d.App)
	case !suits(r, d):
		return fmt.Sprintf("for the hardware %s, this device is %s", list(r.Compatible), list(d.Compatible))
	case len(where.common) == 0:
		return fmt.Sprintf("in the %s, this device follows %s", channels(r.ChannelNames()), list(d.Channels))
	case r.TakenBack():
		return fmt.Sprintf("version %s was taken back by its publisher", r.Version)
	case !where.offered:
		return fmt.Sprintf("version %s was taken back by its publisher from the %s", r.Version, channels(where.common))
	case o.Halted:
		return fmt.Sprintf("the rollout of version %s was halted by its publisher", r.Version)
	case r.Version.In(d.Revoked):
		return fmt.Sprintf("version %s is revoked here", r.Version)
	case r.Version.Compare(d.Installed) <= 0: // never for the zero Version: nothing is installed
		return fmt.Sprintf("version %s is not higher than %s, which is installed", r.Version, d.Installed)
	case !r.Base.IsZero() && r.Base.Compare(d.Installed) != 0:
		return fmt.Sprintf("builds on version %s, which is not installed", r.Base)
	case where.rollout < 100 && d.ID == "":
		return fmt.Sprintf("rolled out to %d %% of devices, and this one has no device.id", where.rollout)
	case where.rollout < 100 && rolloutPlace(d.ID, r.Version) >= where.rollout:
		return fmt.Sprintf("rolled out to %d %% of devices, this one comes after %d %%", where.rollout, rolloutPlace(d.ID, r.Version))
	}
	return ""
}

// reached is how a release is offered to a device in the channels that it follows.
type reached struct {
	common  []string // channels of both, in the order of the device's
	offered bool     // one of them offers it
	rollout int      // the highest of those
}

// reach finds out how far a release has come in the channels that d follows. A
// device has one place for all of them, so that the highest percentage decides.
func reach(r *release.Target, d Device) (where reached) {
	for _, name := range d.Channels {
		o, ok := r.Channels[name]
		if !ok {
			continue
		}
		where.common = append(where.common, name)
		if !r.Yanked && !o.Yanked {
			where.offered = true
			where.rollout = max(where.rollout, o.Rollout)
		}
	}
	return where
}

// channels names channels in a message.
func channels(names []string) string {
	if len(names) == 1 {
		return "channel " + names[0]
	}
	return "channels " + list(names)
}

// suits reports whether a release is for the hardware of d.
func suits(r *release.Target, d Device) bool {
	return slices.ContainsFunc(r.Compatible, func(hw string) bool { return slices.Contains(d.Compatible, hw) })
}

// prefer is negative if a is to be taken before b. Names decide last, so that
// the order in which a repository lists its releases never matters.
func prefer(a, b *Offer, left func(*Offer) int64) int {
	if c := -a.Release.Version.Compare(b.Release.Version); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(left(a), left(b)), cmp.Compare(a.Size, b.Size), cmp.Compare(a.Name, b.Name))
}

// otherBase says why a delta bundle does not apply although the version that it
// builds on is installed: the list has that version, and it is another release.
// "" is that it may. What the list does not have is found out by trying.
func otherBase(o *Offer, offers []Offer, d Device) string {
	if o.Release.Base.IsZero() || d.Release.IsZero() {
		return ""
	}
	other := false
	for i := range offers {
		r := &offers[i].Release
		if !r.Base.IsZero() || r.App != o.Release.App || r.Version.Compare(o.Release.Base) != 0 || r.Release.IsZero() {
			continue
		}
		if r.Release == d.Release {
			return ""
		}
		other = true
	}
	if !other {
		return ""
	}
	return fmt.Sprintf("builds on version %s, and what is installed under that version is another release", o.Release.Base)
}

// unfit returns why none of the releases that a repository lists is meant for a
// device, whatever their versions are; nil if one is, or nothing is listed.
func unfit(offers []Offer, d Device, kind release.Kind) error {
	left := slices.DeleteFunc(slices.Clone(offers), func(o Offer) bool { return cmp.Or(o.Release.Kind, release.App) != kind })
	for _, c := range []struct {
		fits func(*release.Target) bool
		of   func(*release.Target) []string
		what string
		here string
	}{
		{
			func(r *release.Target) bool { return r.App == d.App },
			func(r *release.Target) []string { return []string{r.App} },
			"releases of %s, and this device runs %s", cmp.Or(d.App, "none"),
		},
		{
			func(r *release.Target) bool { return suits(r, d) },
			func(r *release.Target) []string { return r.Compatible },
			"releases of " + d.App + " for the hardware %s, and this device is %s", list(d.Compatible),
		},
		{
			func(r *release.Target) bool { return len(reach(r, d).common) > 0 },
			func(r *release.Target) []string { return r.ChannelNames() },
			"releases of " + d.App + " for it in the channel %s, and this device follows %s", list(d.Channels),
		},
	} {
		if len(left) == 0 {
			return nil
		}
		var names []string
		for i := range left {
			names = append(names, c.of(&left[i].Release)...)
		}
		slices.Sort(names)
		left = slices.DeleteFunc(left, func(o Offer) bool { return !c.fits(&o.Release) })
		if len(left) == 0 {
			return unfitError(fmt.Sprintf("nothing in the repository is meant for this device: it has "+c.what, list(slices.Compact(names)), c.here))
		}
	}
	return nil
}

// unfitError is an ErrIncompatible that says what does not fit.
type unfitError string

func (e unfitError) Error() string { return string(e) }

// Unwrap implements the interface of errors.Is.
func (unfitError) Unwrap() error { return ErrIncompatible }

// Hint says what can be done.
func (unfitError) Hint() string {
	return "see whether device.app, device.compatible and source.channels are spelt as the publisher spells them (tandem-release repo list)"
}

func outdone(o, by *Offer, left func(*Offer) int64) string {
	if o.Release.Version.Compare(by.Release.Version) < 0 {
		return fmt.Sprintf("version %s is lower than %s, which is offered too", o.Release.Version, by.Release.Version)
	}
	return fmt.Sprintf("%s carries the same version in %d bytes instead of %d", by.Name, left(by), left(o))
}

// rolloutPlace returns the place of a device in the rollout of a version, 0 to
// 99: the device takes the version once it is rolled out to more per cent than
// that. It is the first eight bytes, as a big-endian number, of the SHA-256 of
// the device's id, a zero byte and the version, modulo 100; so raising the
// percentage never takes a version from a device that had it, and no device is
// always among the first.
func rolloutPlace(id string, v versioning.Version) int {
	sum := digest.Of([]byte(id + "\x00" + v.String()))
	return int(binary.BigEndian.Uint64(sum[:8]) % 100)
}
