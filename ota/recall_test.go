package ota

import (
	"slices"
	"testing"

	"tandem/internal/digest"
	"tandem/packaging/release"
)

// A recall counts for the very release that runs, on the devices that it is for,
// and from the top level alone.
func TestRecalled(t *testing.T) {
	t.Parallel()
	runs, other := digest.Of([]byte("1.1.0")), digest.Of([]byte("another build"))
	place := recallPlace("gate-17", version(t, "1.1.0"))
	if place < 1 || place > 98 || place == rolloutPlace("gate-17", version(t, "1.1.0")) {
		t.Fatalf("gate-17 comes at %d: take another name for this test", place)
	}
	type change = func(*Offer, *Device)
	for _, tt := range []struct {
		name   string
		change change
		want   bool
	}{
		{"this one", func(*Offer, *Device) {}, true},
		{"its delta bundle", func(o *Offer, _ *Device) { o.Release.Base = version(t, "1.0.0") }, true},
		{"whichever channel the device follows", func(_ *Offer, d *Device) { d.Channels = []string{"another"} }, true},
		{"by a delegated role", func(o *Offer, _ *Device) { o.Delegated = true }, false},
		{"not yanked", func(o *Offer, _ *Device) { o.Release.Yanked = false }, false},
		{"yanked from one channel", func(o *Offer, _ *Device) {
			o.Release.Yanked, o.Release.Channels = false, map[string]release.Offering{"stable": {Rollout: 100, Yanked: true}}
		}, false},
		{"not recalled", func(o *Offer, _ *Device) { o.Release.Recall = nil }, false},
		{"another release of the version", func(_ *Offer, d *Device) { d.Release = other }, false},
		{"not installed as a release", func(o *Offer, d *Device) { d.Release, o.Release.Release = digest.SHA256{}, digest.SHA256{} }, false},
		{"another application", func(o *Offer, _ *Device) { o.Release.App = "goodbye" }, false},
		{"another version", func(_ *Offer, d *Device) { d.Installed = version(t, "1.2.0") }, false},
		{"a firmware", func(o *Offer, _ *Device) { o.Release.Kind = release.Firmware }, false},
		{"for the devices before it", func(o *Offer, _ *Device) { o.Release.Recall.Rollout = place }, false},
		{"for this one, too", func(o *Offer, _ *Device) { o.Release.Recall.Rollout = place + 1 }, true},
		{"for all but one in a hundred, without a name", func(o *Offer, d *Device) { d.ID, o.Release.Recall.Rollout = "", 99 }, false},
		{"for all, without a name", func(_ *Offer, d *Device) { d.ID = "" }, true},
	} {
		o := Offer{Release: release.Target{
			App: "hello", Version: version(t, "1.1.0"), Compatible: []string{"demo"}, Release: runs, Yanked: true,
			Channels: map[string]release.Offering{"stable": {Rollout: 5}}, Recall: &release.Recall{To: version(t, "1.0.0"), Rollout: 100, Urgent: true},
		}}
		d := Device{ID: "gate-17", App: "hello", Compatible: []string{"demo"}, Channels: []string{"stable"}, Installed: version(t, "1.1.0"), Release: runs}
		tt.change(&o, &d)
		bad := Offer{Release: release.Target{App: "hello", Version: version(t, "0.9.0"), Compatible: []string{"demo"}, Yanked: true}}
		foreign := bad
		foreign.Release.Version, foreign.Delegated = version(t, "0.8.0"), true
		got := recalled([]Offer{bad, foreign, o}, d)
		if (got != nil) != tt.want {
			t.Errorf("%s: %+v", tt.name, got)
			continue
		}
		if got == nil {
			continue
		}
		var never []string
		for _, v := range got.Never {
			never = append(never, v.String())
		}
		if got.Version.String() != "1.1.0" || got.Release != runs || got.To.String() != "1.0.0" || !got.Urgent || !slices.Equal(never, []string{"0.9.0", "1.1.0"}) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
	// Publishers and devices must agree for ever.
	if got := recallPlace("gate-17", version(t, "2.0.0")); got != 97 {
		t.Errorf("place of gate-17 in the recall of 2.0.0 is %d", got)
	}
}
