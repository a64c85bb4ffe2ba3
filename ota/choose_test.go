package ota

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/packaging/release"
	"tandem/versioning"
)

func TestChoose(t *testing.T) {
	// Places in the rollout of 2.0.0, 0 to 99, are what the hash gives.
	place := rolloutPlace("gate-17", version(t, "2.0.0"))
	if place < 1 || place > 98 {
		t.Fatalf("gate-17 comes at %d: take another name for this test", place)
	}
	type change = func(*release.Target)
	// offer writes "NAME VERSION" or "NAME VERSION SIZE".
	offer := func(text string, changes ...change) Offer {
		o := Offer{Size: 100}
		var v string
		if _, err := fmt.Sscan(text, &o.Name, &v); err != nil {
			t.Fatal(err)
		}
		fmt.Sscan(text, &o.Name, &v, &o.Size)
		o.Release = release.Target{App: "hello", Version: version(t, v), Compatible: []string{"demo"}, Channels: map[string]release.Offering{"stable": {Rollout: 100}}}
		for _, f := range changes {
			f(&o.Release)
		}
		return o
	}
	in := func(channel string, percent int) map[string]release.Offering {
		return map[string]release.Offering{channel: {Rollout: percent}}
	}
	for _, tt := range []struct {
		name   string
		offers []Offer
		device func(*Device)
		want   string // name of the best
		passed []string
	}{
		{name: "nothing offered"},
		{
			name:   "the highest version wins",
			offers: []Offer{offer("a 1.2.0"), offer("c 2.0.0-rc.1"), offer("d 1.10.0"), offer("b 1.3.0")},
			want:   "c",
			passed: []string{
				"a: version 1.2.0 is lower than 2.0.0-rc.1, which is offered too",
				"d: version 1.10.0 is lower than 2.0.0-rc.1, which is offered too",
				"b: version 1.3.0 is lower than 2.0.0-rc.1, which is offered too",
			},
		},
		{
			name:   "not higher than installed",
			offers: []Offer{offer("a 0.9.0"), offer("b 1.0.0"), offer("c 1.0.0+build.2"), offer("d 1.0.0-rc.1")},
			passed: []string{
				"a: version 0.9.0 is not higher than 1.0.0, which is installed",
				"b: version 1.0.0 is not higher than 1.0.0, which is installed",
				"c: version 1.0.0+build.2 is not higher than 1.0.0, which is installed",
				"d: version 1.0.0-rc.1 is not higher than 1.0.0, which is installed",
			},
		},
		{
			name:   "nothing installed",
			offers: []Offer{offer("a 0.0.1-a")},
			device: func(d *Device) { d.Installed = versioning.Version{} },
			want:   "a",
		},
		{
			name:   "a whole number installed",
			offers: []Offer{offer("a 7.0.0"), offer("b 7.0.1")},
			device: func(d *Device) { d.Installed = version(t, "7") },
			want:   "b",
			passed: []string{"a: version 7.0.0 is not higher than 7, which is installed"},
		},
		{
			name:   "other application",
			offers: []Offer{offer("a 2.0.0", func(r *release.Target) { r.App = "bye" })},
			passed: []string{"a: for the application bye, this device runs hello"},
		},
		{
			name: "hardware",
			offers: []Offer{
				offer("a 2.0.0", func(r *release.Target) { r.Compatible = []string{"x", "y"} }),
				offer("b 2.0.0", func(r *release.Target) { r.Compatible = nil }),
				offer("c 1.1.0", func(r *release.Target) { r.Compatible = []string{"x", "demo"} }),
			},
			device: func(d *Device) { d.Compatible = []string{"other", "demo"} },
			want:   "c",
			passed: []string{
				"a: for the hardware x, y, this device is other, demo",
				"b: for the hardware none, this device is other, demo",
			},
		},
		{
			name:   "channel",
			offers: []Offer{offer("a 2.0.0", func(r *release.Target) { r.Channels = in("beta", 100) })},
			passed: []string{"a: in the channel beta, this device follows stable"},
		},
		{
			name: "the highest that any of several channels offers",
			offers: []Offer{
				offer("a 3.0.0", func(r *release.Target) { r.Channels = in("alpha", 100) }),
				offer("b 2.0.0", func(r *release.Target) {
					r.Channels = map[string]release.Offering{"beta": {Rollout: place + 1}, "stable": {Rollout: place - 1}}
				}),
				offer("c 1.9.0"),
			},
			device: func(d *Device) { d.Channels = []string{"stable", "beta"} },
			want:   "b",
			passed: []string{
				"a: in the channel alpha, this device follows stable, beta",
				"c: version 1.9.0 is lower than 2.0.0, which is offered too",
			},
		},
		{
			name: "each channel has its own percentage and mark",
			offers: []Offer{
				offer("a 2.0.0", func(r *release.Target) {
					r.Channels = map[string]release.Offering{"beta": {Rollout: 100, Yanked: true}, "stable": {Rollout: place}}
				}),
				offer("b 1.9.0", func(r *release.Target) {
					r.Channels = map[string]release.Offering{"alpha": {Rollout: 100}, "stable": {Rollout: 100, Yanked: true}}
				}),
				offer("c 1.8.0", func(r *release.Target) {
					r.Channels = map[string]release.Offering{"beta": {Rollout: 100, Yanked: true}, "stable": {Rollout: 100, Yanked: true}}
				}),
			},
			device: func(d *Device) { d.Channels = []string{"stable", "beta"} },
			passed: []string{
				fmt.Sprintf("a: rolled out to %d %% of devices, this one comes after %d %%", place, rolloutPlace("gate-17", version(t, "2.0.0"))),
				"b: version 1.9.0 was taken back by its publisher from the channel stable",
				"c: version 1.8.0 was taken back by its publisher",
			},
		},
		{
			name:   "halted",
			offers: []Offer{halted(offer("a 2.0.0")), offer("b 1.9.0")},
			want:   "b",
			passed: []string{"a: the rollout of version 2.0.0 was halted by its publisher"},
		},
		{
			name:   "revoked here, and taken back there",
			offers: []Offer{offer("a 2.0.0"), offer("b 1.9.0", func(r *release.Target) { r.Yanked = true }), offer("c 1.1.0")},
			device: func(d *Device) { d.Revoked = []versioning.Version{version(t, "1.5.0"), version(t, "2.0.0")} },
			want:   "c",
			passed: []string{"a: version 2.0.0 is revoked here", "b: version 1.9.0 was taken back by its publisher"},
		},
		{
			name:   "another build of what is revoked here",
			offers: []Offer{offer("a 2.0.0+fix"), offer("b 1.5.0"), offer("c 1.1.0")},
			device: func(d *Device) { d.Revoked = []versioning.Version{version(t, "1.5.0+b7"), version(t, "2.0.0")} },
			want:   "c",
			passed: []string{"a: version 2.0.0+fix is revoked here", "b: version 1.5.0 is revoked here"},
		},
		{
			name:   "rollout has not come so far",
			offers: []Offer{offer("a 2.0.0", func(r *release.Target) { r.Channels = in("stable", place) }), offer("b 1.1.0")},
			want:   "b",
			passed: []string{fmt.Sprintf("a: rolled out to %d %% of devices, this one comes after %d %%", place, place)},
		},
		{
			name:   "rollout has come",
			offers: []Offer{offer("a 2.0.0", func(r *release.Target) { r.Channels = in("stable", place+1) })},
			want:   "a",
		},
		{
			name:   "rollout to nobody, to a device without a name",
			offers: []Offer{offer("a 2.0.0", func(r *release.Target) { r.Channels = in("stable", 0) }), offer("b 2.0.0", func(r *release.Target) { r.Channels = in("stable", 99) }), offer("c 2.0.0")},
			device: func(d *Device) { d.ID = "" },
			want:   "c",
			passed: []string{
				"a: rolled out to 0 % of devices, and this one has no device.id",
				"b: rolled out to 99 % of devices, and this one has no device.id",
			},
		},
		{
			name: "the smallest form that applies",
			offers: []Offer{
				offer("full 2.0.0 100"),
				offer("from-0.9 2.0.0 5", func(r *release.Target) { r.Base = version(t, "0.9.0") }),
				offer("from-1.0 2.0.0 10", func(r *release.Target) { r.Base = version(t, "1.0.0") }),
			},
			want: "from-1.0",
			passed: []string{
				"full: from-1.0 carries the same version in 10 bytes instead of 100",
				"from-0.9: builds on version 0.9.0, which is not installed",
			},
		},
		{
			name: "a delta bundle for another release of the version that is installed",
			offers: []Offer{
				offer("full 2.0.0 100"),
				offer("base 1.0.0", func(r *release.Target) { r.Release[0] = 7 }),
				offer("from-1.0 2.0.0 10", func(r *release.Target) { r.Base = version(t, "1.0.0") }),
			},
			device: func(d *Device) { d.Release[0] = 8 },
			want:   "full",
			passed: []string{
				"base: version 1.0.0 is not higher than 1.0.0, which is installed",
				"from-1.0: builds on version 1.0.0, and what is installed under that version is another release",
			},
		},
		{
			name: "a delta bundle for the release that is installed",
			offers: []Offer{
				offer("full 2.0.0 100"),
				offer("base 1.0.0", func(r *release.Target) { r.Release[0] = 8 }),
				offer("from-1.0 2.0.0 10", func(r *release.Target) { r.Base = version(t, "1.0.0") }),
			},
			device: func(d *Device) { d.Release[0] = 8 },
			want:   "from-1.0",
			passed: []string{
				"full: from-1.0 carries the same version in 10 bytes instead of 100",
				"base: version 1.0.0 is not higher than 1.0.0, which is installed",
			},
		},
		{
			name: "a delta bundle for a release that the list does not have",
			offers: []Offer{
				offer("full 2.0.0 100"),
				offer("from-1.0 2.0.0 10", func(r *release.Target) { r.Base = version(t, "1.0.0") }),
			},
			device: func(d *Device) { d.Release[0] = 8 },
			want:   "from-1.0",
			passed: []string{"full: from-1.0 carries the same version in 10 bytes instead of 100"},
		},
		{
			name:   "the same in every way but the name",
			offers: []Offer{offer("b 2.0.0"), offer("a 2.0.0")},
			want:   "a",
			passed: []string{"b: a carries the same version in 100 bytes instead of 100"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Device{ID: "gate-17", App: "hello", Compatible: []string{"demo"}, Channels: []string{"stable"}, Installed: version(t, "1.0.0")}
			if tt.device != nil {
				tt.device(&d)
			}
			best, passed := chooseKind(release.App, tt.offers, d)
			got := ""
			if best != nil {
				got = best.Name
			}
			if got != tt.want {
				t.Errorf("best %q, want %q", got, tt.want)
			}
			var reasons []string
			for _, p := range passed {
				reasons = append(reasons, p.String())
			}
			if diff := cmp.Diff(strings.Join(tt.passed, "\n"), strings.Join(reasons, "\n")); diff != "" {
				t.Errorf("passed over (-want +got):\n%s", diff)
			}
		})
	}
}

func halted(o Offer) Offer {
	o.Halted = true
	return o
}

func TestRolloutPlace(t *testing.T) {
	// Publishers and devices must agree for ever.
	for _, tt := range []struct {
		id, version string
		want        int
	}{{"gate-17", "2.0.0", 67}, {"gate-17", "2.0.1", 26}, {"gate-18", "2.0.0", 95}} {
		if got := rolloutPlace(tt.id, version(t, tt.version)); got != tt.want {
			t.Errorf("place of %s for %s is %d, want %d", tt.id, tt.version, got, tt.want)
		}
	}
	// Evenly spread: of 10,000 devices each place gets about 100.
	var places [100]int
	for i := range 10_000 {
		places[rolloutPlace(fmt.Sprintf("device-%d", i), version(t, "1.0.0"))]++
	}
	for place, n := range places {
		if n < 50 || n > 150 {
			t.Errorf("%d of 10,000 devices at place %d", n, place)
		}
	}
}

// A device that nothing is meant for is told what does not fit.
func TestUnfit(t *testing.T) {
	offer := func(app, hardware, channel string) Offer {
		return Offer{Release: release.Target{App: app, Version: version(t, "1.0.0"), Compatible: []string{hardware}, Channels: map[string]release.Offering{channel: {Rollout: 100}}}}
	}
	here := Device{App: "hello", Compatible: []string{"demo"}, Channels: []string{"stable"}, Installed: version(t, "2.0.0")}
	for _, tt := range []struct {
		offers []Offer
		want   string
	}{
		{nil, ""},
		{[]Offer{offer("hello", "demo", "stable")}, ""},
		{[]Offer{offer("hello", "demo", "stable"), offer("x", "y", "z")}, ""},
		{[]Offer{offer("x", "demo", "stable"), offer("a", "demo", "stable")}, "it has releases of a, x, and this device runs hello"},
		{[]Offer{offer("hello", "b", "stable"), offer("hello", "b", "beta"), offer("x", "demo", "stable")}, "it has releases of hello for the hardware b, and this device is demo"},
		{[]Offer{offer("hello", "demo", "beta"), offer("hello", "b", "stable")}, "it has releases of hello for it in the channel beta, and this device follows stable"},
	} {
		err := unfit(tt.offers, here, release.App)
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrIncompatible) || !strings.HasSuffix(err.Error(), tt.want)) {
			t.Errorf("%+v: %v, want %q", tt.offers, err, tt.want)
		}
	}
}
