package ota

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/ota/internal/webtest"
	"tandem/packaging/release"
	"tandem/packaging/tuf"
)

// stored lists the metadata of delegated roles on a device.
func stored(d *device) (names []string) {
	for _, e := range must[[]fsys.Info](d.t)(d.fs.ReadDir("trust")) {
		if delegatedName().MatchString(e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}

// A release that a delegated role lists is found and fetched; the next poll
// costs one request, and one after a change asks only for what has changed.
func TestDelegatedRelease(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.delegate("team/a", "hello-1.2*", "hello-1.3*")
	p.delegate("?", "*")
	p.addTo("team/a", "1.2.0", []byte("twelve"))
	p.addTo("team/a", "1.9.0", []byte("outside its paths"))
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	r := d.repo()
	o := must[*Offer](t)(best(t.Context(), r, d.about))
	if o == nil || o.Release.Version.String() != "1.2.0" {
		t.Fatalf("on offer: %+v, want 1.2.0", o)
	}
	if got := stored(d); len(got) != 2 {
		t.Errorf("stored: %v", got)
	}
	s.Serve(p.files)
	d.wants("1.2.0")
	if diff := cmp.Diff([]string{"GET /metadata/timestamp.json"}, s.Requests()); diff != "" {
		t.Errorf("idle poll (-want +got):\n%s", diff)
	}
	p.addTo("team/a", "1.3.0", []byte("thirteen"))
	p.publish()
	s.Serve(p.files)
	d.wants("1.3.0")
	want := []string{
		"GET /metadata/timestamp.json", "GET /metadata/2.root.json", "GET /metadata/3.snapshot.json",
		"GET /metadata/3.targets.json", "GET /metadata/4.team/a.json",
	}
	if diff := cmp.Diff(want, s.Requests()); diff != "" {
		t.Errorf("poll after a release (-want +got):\n%s", diff)
	}
	// A role that is delegated to no more leaves nothing behind.
	p.targets.Signed.Delegations = nil
	p.publish()
	s.Serve(p.files)
	d.wants("1.1.0")
	if got := stored(d); len(got) != 0 {
		t.Errorf("stored after the delegations went: %v", got)
	}
}

// A halt in the snapshot withholds what a delegated role lists as well, for as long as
// it is there: from whoever polls, and from a server that says when.
func TestDelegatedReleaseIsHalted(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.delegate("A", "hello-*")
	p.addTo("A", "1.2.0", []byte("twelve"))
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	d.wants("1.2.0")
	sum := digest.Of([]byte("release 1.2.0"))
	for _, halted := range []bool{true, false} {
		p.halted = release.Halts{}
		if halted {
			p.halted[sum] = true
		}
		p.publish()
		s.Serve(p.files)
		d.wants(map[bool]string{true: "1.1.0", false: "1.2.0"}[halted])
		l := must[*Listing](t)(d.repo().List(t.Context()))
		err := l.Vouch("hello", version(t, "1.2.0"), sum)
		if halted != errors.Is(err, ErrRefused) || halted && !strings.Contains(err.Error(), "halted by its publisher") {
			t.Errorf("halted: %t; a server's wish for it: %v", halted, err)
		}
	}
}

// What a delegated role may not do.
func TestDelegatedRoleIsConfined(t *testing.T) {
	for _, tt := range []struct {
		name    string
		publish func(*publisher)
		wants   string // beside what an error says
		says    string
	}{
		{"the name of another application", func(p *publisher) {
			p.addTo("A", "2.0.0", []byte("2"))
			listed := p.below["A"].Signed.Targets
			listed["modem-2.0.0.bundle"] = listed["hello-2.0.0.bundle"]
			delete(listed, "hello-2.0.0.bundle")
		}, "1.1.0", ""},
		{"the name of what the top level lists", func(p *publisher) {
			p.addTo("A", "1.1.0", []byte("another eleven"), func(r *release.Target) { r.Version = version(p.t, "3.0.0") })
		}, "1.1.0", ""},
		{"signed by another key", func(p *publisher) {
			p.addTo("A", "2.0.0", []byte("2"))
			p.keys["A"] = p.keys["targets"]
		}, "1.1.0", "not signed as the role that delegates to it asks for"},
		{"expired", func(p *publisher) {
			p.addTo("A", "2.0.0", []byte("2"))
			p.below["A"].Signed.Expires = start.Add(-time.Hour)
		}, "1.1.0", "expired on 2026-06-01T11:00:00Z"},
		{"not pinned by hash", func(p *publisher) {
			p.addTo("A", "2.0.0", []byte("2"))
			p.unpinned = "A"
		}, "", "names A.json without its SHA-256"},
		{"a bundle's own metadata", func(p *publisher) {
			p.below["A"].Signed.Targets["release.json.zst"] = p.targets.Signed.Targets["hello-1.1.0.bundle"]
		}, "", "as the metadata inside a bundle does"},
		{"a threshold of two and one signature", func(p *publisher) {
			p.addTo("A", "2.0.0", []byte("2"))
			p.targets.Signed.Delegations.Roles[0].Threshold = 2
		}, "1.1.0", "not signed as the role that delegates to it asks for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPublisher(t)
			p.add("1.1.0", []byte("eleven"))
			p.delegate("A", "*")
			tt.publish(p)
			p.publish()
			d := newDevice(t, webtest.New(t, p.files), p)
			if tt.wants != "" {
				d.wants(tt.wants)
			}
			if tt.says == "" {
				return
			}
			// With nothing else to take the device says what is wrong.
			d.about.Installed = version(t, "1.1.0")
			if _, err := d.check(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want ErrRefused: %s", err, tt.says)
			}
		})
	}
}

// A snapshot that does not pin a delegated role by hash, drops it or goes back
// with it is refused.
func TestDelegatedRoleIsPinned(t *testing.T) {
	p := newPublisher(t)
	p.delegate("A", "*")
	p.addTo("A", "1.1.0", []byte("eleven"))
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	d.wants("1.1.0")
	for name, change := range map[string]func(){
		"dropped": func() { delete(p.below, "A") },
		"back":    func() { p.below["A"].Signed.Version-- },
	} {
		old := *p.below["A"]
		change()
		p.publish()
		s.Serve(p.files)
		if _, err := d.check(); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: error %v, want ErrRefused", name, err)
		}
		p.below["A"] = &old
	}
	p.publish()
	s.Serve(p.files)
	d.wants("1.1.0")
}

// More than is read is said, and not taken for "nothing newer".
func TestTooMuchDelegated(t *testing.T) {
	p := newPublisher(t)
	for i := range tuf.MaxRoles + 1 {
		p.delegate(strings.Repeat("r", i+1), "*")
	}
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	if _, err := d.check(); !errors.Is(err, ErrRefused) || !errors.Is(err, tuf.ErrTooMuch) {
		t.Errorf("error %v, want tuf.ErrTooMuch", err)
	}
	if n := len(s.Requests()); n != 4+tuf.MaxRoles {
		t.Errorf("%d requests", n)
	}
}

// A delegated role that cannot be reached keeps no device from other releases,
// and is fetched as soon as it can be.
func TestDelegatedRoleOutOfReach(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.delegate("A", "*")
	p.addTo("A", "1.2.0", []byte("twelve"))
	p.publish()
	s := webtest.New(t, p.files)
	s.Misbehave(status("/metadata/2.A.json", 503))
	d := newDevice(t, s, p)
	d.wants("1.1.0")
	d.about.Installed = version(t, "1.1.0")
	if _, err := d.check(); !errors.Is(err, ErrUnreachable) {
		t.Errorf("error %v, want ErrUnreachable", err)
	}
	s.Serve(p.files)
	d.wants("1.2.0")
}

// Whatever happens to the stored metadata of a role, it is fetched again.
func TestDelegatedPowerCutsAndDamage(t *testing.T) {
	p := newPublisher(t)
	p.delegate("A", "*")
	p.addTo("A", "1.1.0", []byte("eleven"))
	p.publish()
	s := webtest.New(t, p.files)
	first := newDevice(t, s, p)
	m := memfs.NewMachine()
	m.NewDisk("state", memfs.Options{})
	on := func(m *memfs.Machine) *device {
		d := *first
		d.fs = m.Disk("state").FS()
		return &d
	}
	on(m).wants("1.1.0")
	p.addTo("A", "1.2.0", []byte("twelve"))
	p.delegate("B", "*")
	p.publish()
	s.Serve(p.files)
	for n, cut := range m.Cuts(func(m *memfs.Machine) { on(m).check() }) {
		for _, choice := range memfs.Choices(uint64(n), 1) {
			c := cut.Clone()
			c.Restart(choice)
			on(c).wants("1.2.0")
			s.Serve(p.files)
			on(c).wants("1.2.0")
			if got := s.Requests(); len(got) != 1 {
				t.Fatalf("cut at %d, %s: the poll after that asked %v", n, choice, got)
			}
		}
	}
	d := on(m)
	d.wants("1.2.0")
	for _, name := range stored(d) {
		rewrite(t, d.fs, "trust/"+name, func(b []byte) []byte { return b[:len(b)/2] })
	}
	d.wants("1.2.0")
	s.Serve(p.files)
	d.wants("1.2.0")
	if got := s.Requests(); len(got) != 1 {
		t.Errorf("the poll after the damage asked %v", got)
	}
}

// One poll serves the application and each firmware.
func TestOneListingForAll(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.add("7", []byte("seven"), func(r *release.Target) { r.App, r.Kind = "modem", "firmware" })
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	l := must[*Listing](t)(d.repo().List(t.Context()))
	before := len(s.Requests())
	modem := d.about
	modem.App, modem.Installed = "modem", version(t, "6")
	app, fw := must[Decision](t)(l.Choose(d.about)), must[Decision](t)(l.ChooseKind(release.Firmware, modem))
	if app.Best == nil || app.Best.Release.Version.String() != "1.1.0" || fw.Best == nil || fw.Best.Release.Version.String() != "7" {
		t.Errorf("chosen: %+v and %+v", app.Best, fw.Best)
	}
	if got := s.Requests(); len(got) != before {
		t.Errorf("choosing asked %v", got[before:])
	}
}

// A recall counts at the top level, and is left out and told of a delegated role.
func TestDelegatedRecall(t *testing.T) {
	for role, wants := range map[string]bool{"targets": true, "A": false} {
		p := newPublisher(t)
		p.delegate("A", "*")
		recall := func(r *release.Target) { r.Yanked, r.Recall = true, &release.Recall{Rollout: 100} }
		if role == "A" {
			p.addTo("A", "1.0.0", []byte("1"), recall)
		} else {
			p.add("1.0.0", []byte("1"), recall)
		}
		p.publish()
		d := newDevice(t, webtest.New(t, p.files), p)
		r := d.repo()
		var log bytes.Buffer
		r.o.Log = logrus.New()
		r.o.Log.SetOutput(&log)
		l := must[*Listing](t)(r.List(t.Context()))
		d.about.Release = l.offers[0].Release.Release
		if dec := must[Decision](t)(l.Choose(d.about)); (dec.Recall != nil) != wants {
			t.Errorf("%s: recalled: %+v", role, dec.Recall)
		}
		if told := strings.Contains(log.String(), "the recall of hello 1.0.0 by the delegated role"); told == wants {
			t.Errorf("%s: told: %t: %s", role, told, log.String())
		}
	}
}
