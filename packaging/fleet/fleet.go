// Package fleet counts what the reports of devices say of releases: how many took
// one, have it, confirmed it, and fell back from it.
//
// A report is what an agent posts (docs/report.schema.json). What it says of itself
// proves nothing: which device it comes from is what the collector that took it knows,
// by a client certificate or a token, and passes on beside it. A device that lies about
// itself counts once all the same.
package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/internal/digest"
	"tandem/packaging/release"
	"tandem/versioning"
)

const (
	// maxReport is how long a report may be, in bytes: twice what an agent sends.
	maxReport = 1 << 20
	// maxVersions is of how many versions it is kept what one device says; the first
	// that it tells of.
	maxVersions = 256
	maxName     = 255 // bytes of a device's name
	maxDevices  = 10_000_000
)

// ErrReport says that something is no report, or of nobody that is known.
var ErrReport = errors.New("not a report")

// Fleet is what was read so far.
type Fleet struct {
	devices map[string]*device
	reports int
}

// Devices returns of how many devices there is a report, and Reports how many those are.
func (f *Fleet) Devices() int { return len(f.devices) }

// Reports returns how many reports were read.
func (f *Fleet) Reports() int { return f.reports }

// device is what one device says of itself.
type device struct {
	latest     moment // of the report that was made last
	compatible []string
	runs       product
	release    digest.SHA256 // that runs; zero if it does not say
	pending    string        // version
	said       map[product]word
}

// product is a version of an application.
type product struct{ app, version string }

// word is the last that a device said of a product.
type word struct {
	at  moment
	say verdict
}

type verdict int

const (
	took verdict = iota
	confirmed
	fellBack
	returned // at a recall
)

// moment is when something was said: events of one history are numbered, and others
// have a time by the device's clock.
type moment struct {
	history string
	number  uint64
	time    time.Time
}

func (m moment) before(o moment) bool {
	if m.history != "" && m.history == o.history {
		return m.number < o.number
	}
	return m.time.Before(o.time)
}

// document is what is read of a report. Versions are read one by one, so that one
// that is none costs no more than itself.
type document struct {
	App        string    `json:"app"`
	Compatible []string  `json:"compatible"`
	Time       time.Time `json:"time"`
	Version    string    `json:"version"`
	Release    string    `json:"release"`
	Pending    string    `json:"pending"`
	Events     []struct {
		ID      string    `json:"id"`
		Time    time.Time `json:"time"`
		Command string    `json:"command"`
		Action  string    `json:"action"`
		Reason  string    `json:"reason"`
		From    string    `json:"from"`
		Version string    `json:"version"`
	} `json:"events"`
}

// add takes in a report of the device that the collector knows by that name. One
// that was taken in before changes nothing. The error wraps ErrReport.
func (f *Fleet) add(from string, raw []byte) error {
	var doc document
	switch {
	case from == "" || len(from) > maxName:
		return fmt.Errorf("%w: the collector does not say which device it comes from", ErrReport)
	case len(raw) == 0:
		return fmt.Errorf("%w: expected one beside the name of the device", ErrReport)
	case len(raw) > maxReport:
		return fmt.Errorf("%w: %d bytes, at most %d are read", ErrReport, len(raw), maxReport)
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("%w: %w", ErrReport, err)
	}
	if doc.App == "" || doc.Time.IsZero() {
		return fmt.Errorf("%w: expected app and time", ErrReport)
	}
	d := f.devices[from]
	if d == nil {
		if len(f.devices) == maxDevices {
			return fmt.Errorf("%w: of more than %d devices", ErrReport, maxDevices)
		}
		d = &device{said: map[product]word{}}
		if f.devices == nil {
			f.devices = map[string]*device{}
		}
		f.devices[from] = d
	}
	f.reports++
	last := moment{time: doc.Time}
	for _, e := range doc.Events {
		at := moment{time: e.Time}
		if name, number, ok := strings.Cut(e.ID, "-"); ok {
			if n, err := strconv.ParseUint(number, 10, 63); err == nil {
				at.history, at.number = name, n
			}
		}
		last.history, last.number = at.history, at.number
		d.hear(doc.App, e.Command, e.Action, e.Reason, e.From, e.Version, at)
	}
	if d.latest.before(last) || d.latest == (moment{}) {
		d.latest = last
		d.runs = product{doc.App, canonical(doc.Version)}
		d.compatible, d.pending = slices.Clone(doc.Compatible[:min(len(doc.Compatible), 64)]), canonical(doc.Pending)
		d.release, _ = digest.Parse(doc.Release) // what is none says nothing
	}
	return nil
}

// hear takes in an event.
func (d *device) hear(app, command, action, reason, from, version string, at moment) {
	if command == "firmware" {
		app = reason // that is its name
	}
	note := func(version string, say verdict) {
		p := product{app, canonical(version)}
		old, known := d.said[p]
		if p.version == "" || known && at.before(old.at) || !known && len(d.said) == maxVersions {
			return
		}
		d.said[p] = word{at, say}
	}
	switch {
	case command == "rollback" && (action == "pending" || action == "recalled"):
		note(from, returned)
		note(version, took)
	case action == "rolled back", command == "rollback" && action == "" && reason != "" && from != "": // with nothing to return to
		note(from, fellBack)
	case action == "failed": // of a firmware
		note(version, fellBack)
	case action == "installed" || action == "pending":
		note(version, took)
	case action == "confirmed":
		note(version, confirmed)
	}
}

// canonical returns a version's text; "" for what is none.
func canonical(text string) string {
	v, err := versioning.Parse(text)
	if err != nil {
		return ""
	}
	return v.String()
}

// Count is how a release fares. Each device counts once in each.
type Count struct {
	Took      int `json:"took"`      // that had it at some time
	Have      int `json:"have"`      // that run it
	Confirmed int `json:"confirmed"` // where it was found healthy, and nothing else was said since
	FellBack  int `json:"fell_back"` // that took it back since
	Returned  int `json:"returned"`  // that left it at a recall
}

// Of counts the devices that a release is for.
func (f *Fleet) Of(t *release.Target) Count {
	var c Count
	p := product{t.App, t.Version.String()}
	for _, d := range f.devices {
		if !slices.ContainsFunc(d.compatible, func(hw string) bool { return slices.Contains(t.Compatible, hw) }) {
			continue
		}
		w, heard := d.said[p]
		runs := d.runs == p
		if runs && !d.release.IsZero() && d.release != t.Release {
			continue // another build of the version
		}
		if !heard && !runs {
			continue
		}
		c.Took++
		if runs {
			c.Have++
		}
		switch {
		case !heard:
		case w.say == confirmed:
			c.Confirmed++
		case w.say == fellBack:
			c.FellBack++
		case w.say == returned:
			c.Returned++
		}
	}
	return c
}
