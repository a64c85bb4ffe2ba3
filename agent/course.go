package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Step is how far the agent has come with a release.
type Step string

// The steps of the agent's loop. The step is in agent.json, in the agent's
// state, which is replaced as a whole and durably before the step begins.
//
//	step         on the disk                             the next start of the agent
//	idle         nothing of a release                    polls in its time
//	downloading  a part of the bundle, or none           goes on with the part; a poll comes first
//	             of it                                   only in its time
//	ready        the verified bundle                     installs it, in a window, once the
//	                                                     pre_install hook agrees
//	installing   the bundle; before the commit also a    the reconciler discards or finishes what
//	             staged version, after it a side that    was staged; not committed: the start hook
//	             waits to be backed up and, with a       runs and the step is ready again;
//	             health hook, to be confirmed            committed: the start hook runs, then the
//	                                                     health hook decides; taken back since:
//	                                                     the start hook runs, then idle
//
// A version that waits to be confirmed is not a step: the sides remember it
// (backup.Pending), and it may have been installed by hand. The agent asks the
// health hook about it until that says yes or no.
const (
	Idle        Step = "idle"
	Downloading Step = "downloading"
	Ready       Step = "ready"
	Installing  Step = "installing"
)

// Course is the release that the agent is busy with, and how far it has come.
type Course struct {
	Step    Step               `json:"step"`
	Kind    release.Kind       `json:"kind,omitempty"`
	App     string             `json:"app,omitempty"`
	From    versioning.Version `json:"from,omitzero"`
	Version versioning.Version `json:"version,omitzero"`
	Urgent  bool               `json:"urgent,omitempty"`
	Name    string             `json:"name,omitempty"` // as the repository lists it
	Size    int64              `json:"size,omitempty"` // bytes
	SHA256  digest.SHA256      `json:"sha256,omitzero"`
	File    string             `json:"file,omitempty"` // the path of the verified bundle
	// Unpacked is how much the release takes on a side, in bytes.
	Unpacked int64 `json:"unpacked,omitempty"`
}

// Bar keeps the agent from a release that it could not take, so that a full disk
// or a hook that refuses costs no data for nothing.
type Bar struct {
	SHA256 digest.SHA256 `json:"sha256"`
	Reason string        `json:"reason"`
	Until  time.Time     `json:"until,omitzero"` // zero: until there is more room
	Path   string        `json:"path,omitempty"` // where there was none
	Free   int64         `json:"free,omitempty"` // bytes that must be free there
}

// memory is agent.json: all that the agent must know after a power cut and
// cannot see by looking.
type memory struct {
	Course Course `json:"course"`
	// Ordered says that somebody's command is carried out, which may stop the
	// application for a while.
	Ordered  bool      `json:"ordered,omitempty"`
	Bars     []Bar     `json:"bars,omitempty"`
	Scrubbed time.Time `json:"scrubbed,omitzero"`  // when the last full verification ended
	Reported string    `json:"reported,omitempty"` // the last event that was reported
}

const (
	memoryFile = "agent.json"
	maxMemory  = 64 << 10
	maxBars    = 20
)

// loadMemory reads agent.json. A missing or damaged one is that of a new agent:
// what is lost with it is found again by looking and asking.
func loadMemory(disk fsys.FS, log logrus.FieldLogger) memory {
	fresh := memory{Course: Course{Step: Idle}}
	data, err := fsys.ReadFile(disk, memoryFile, maxMemory)
	if fsys.IsNotExist(err) {
		return fresh
	}
	var m memory
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err == nil && !slices.Contains([]Step{Idle, Downloading, Ready, Installing}, m.Course.Step) {
		err = fmt.Errorf("unknown step %q", m.Course.Step)
	}
	if err == nil && m.Course.Step != Idle && m.Course.Version.IsZero() {
		err = errors.New("a step without a version")
	}
	if err != nil {
		log.WithError(err).Warnf("%s is damaged: ignored", disk.Path(memoryFile))
		return fresh
	}
	return m
}

// save durably replaces agent.json. After an error or a power cut the old or
// the new one is there, whole.
func (m *memory) save(disk fsys.FS) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return fsys.WriteFile(disk, memoryFile, append(data, '\n'), 0o644)
}

// bar keeps the agent from a release; the oldest bars make room.
func (m *memory) bar(b Bar) {
	m.Bars = slices.DeleteFunc(m.Bars, func(old Bar) bool { return old.SHA256 == b.SHA256 })
	m.Bars = append(m.Bars, b)
	m.Bars = m.Bars[max(0, len(m.Bars)-maxBars):]
}

// barred gives what keeps the agent from a release; nil if nothing does. free is
// how many bytes are free now, by place.
func (m *memory) barred(sum digest.SHA256, now time.Time, free map[string]int64) *Bar {
	for i := range m.Bars {
		b := &m.Bars[i]
		if b.SHA256 != sum {
			continue
		}
		left := b.Until.Sub(now)
		if b.Until.IsZero() && free[b.Path] > b.Free || !b.Until.IsZero() && (left <= 0 || left > barTime) { // or the clock went back
			return nil
		}
		return b
	}
	return nil
}

// courseOf is what the agent does about an offer, from the start.
func courseOf(o *ota.Offer, from versioning.Version) Course {
	kind := o.Release.Kind
	if kind == "" {
		kind = release.App
	}
	return Course{
		Step: Downloading, Kind: kind, App: o.Release.App, From: from, Version: o.Release.Version,
		Urgent: o.Release.Urgent, Name: o.Name, Size: o.Size, SHA256: o.SHA256, Unpacked: o.Release.Unpacked,
	}
}

// offer is what is downloaded.
func (c *Course) offer() ota.Offer {
	o := ota.Offer{Name: c.Name, Size: c.Size, SHA256: c.SHA256}
	o.Release.App, o.Release.Kind, o.Release.Version, o.Release.Unpacked = c.App, c.Kind, c.Version, c.Unpacked
	return o
}
