package device

import (
	"context"
	"errors"
	"time"

	"tandem/backup"
	"tandem/backup/record"
	"tandem/versioning"
)

// Status is what is known of the device without reading every file.
type Status struct {
	InStep     bool                           `json:"in_step"`
	Sides      map[backup.SideName]SideStatus `json:"sides"`
	Pending    *backup.Pending                `json:"pending"`
	Revoked    []versioning.Version           `json:"revoked"`
	LastUpdate *Event                         `json:"last_update"`
	Firmware   []FirmwareStatus               `json:"firmware,omitempty"` // in the order of the configuration
	Source     *SourceStatus                  `json:"source,omitempty"`   // where releases come from
	Tandem     *TandemStatus                  `json:"tandem,omitempty"`   // of a release that keeps itself
	Agent      *AgentStatus                   `json:"agent,omitempty"`    // where one runs and was asked
	// Newer is a file that a newer Tandem made; absent if there is none.
	Newer *record.NewerError `json:"newer,omitempty"`
}

// AgentStatus is what the agent tells of itself.
type AgentStatus struct {
	Doing     string     `json:"doing"`         // in a line
	Step      Step       `json:"step"`          // of the release that has come farthest
	App       string     `json:"app,omitempty"` // that the step is about, with its version
	Version   string     `json:"version,omitempty"`
	Progress  *Progress  `json:"progress,omitempty"`
	Waiting   string     `json:"waiting,omitempty"`  // why the step does not go on
	Barred    string     `json:"barred,omitempty"`   // why a release that there is was not begun with
	Releases  []Underway `json:"releases,omitempty"` // all that are on their way
	LastPoll  time.Time  `json:"last_poll,omitzero"`
	NextPoll  time.Time  `json:"next_poll,omitzero"`
	PollError string     `json:"poll_error,omitempty"` // of the last poll
	LastScrub time.Time  `json:"last_scrub,omitzero"`
	NextScrub time.Time  `json:"next_scrub,omitzero"`
	ToReport  bool       `json:"to_report"` // there may be events that were not reported yet

	PendingSince time.Time `json:"pending_since,omitzero"` // the version that waits to be confirmed was installed
	NextHealth   time.Time `json:"next_health,omitzero"`   // when its health is asked for next
	Boots        int       `json:"boots"`                  // starts after which it goes back
}

// Underway is a release on its way onto the device.
type Underway struct {
	App     string `json:"app"`
	Version string `json:"version"`
	Step    Step   `json:"step"`
	Waiting string `json:"waiting,omitempty"` // why it does not go on
}

// Progress is how far something has come.
type Progress struct {
	What  string `json:"what"` // such as downloading
	Done  int64  `json:"done"` // bytes
	Total int64  `json:"total"`
}

// SideStatus is what is known of a side.
type SideStatus struct {
	Path     string             `json:"path"`
	State    backup.State       `json:"state"`
	Version  versioning.Version `json:"version"`
	Revision int                `json:"revision"`
	Files    int                `json:"files"`
	Previous versioning.Version `json:"previous"`
	Detail   string             `json:"detail,omitempty"` // why the state is not intact
}

// Status looks at both sides. Other than Boot it has no error for a device
// that is not well: its answer says so.
func (d *Device) Status(ctx context.Context) (*Status, error) {
	res, err := d.reconciler.Look(ctx, backup.Options{})
	if res == nil {
		return nil, err
	}
	s := &Status{
		InStep: err == nil && res.Decision.Action == backup.Nothing,
		Sides: map[backup.SideName]SideStatus{
			backup.System:  sideStatus(res.System, d.cfg.System.Path),
			backup.UsrData: sideStatus(res.UsrData, d.cfg.UsrData.Path),
		},
	}
	newer := d.Known()
	if errors.As(newer, &s.Newer) {
		s.InStep = false
	}
	if s.Revoked, err = d.reconciler.Revoked(); err != nil && s.Newer == nil {
		return nil, err
	}
	if s.Revoked == nil {
		s.Revoked = []versioning.Version{}
	}
	if s.Pending, err = d.reconciler.Pending(); err != nil && s.Newer == nil {
		return nil, err
	}
	events, err := d.History()
	if err != nil && s.Newer == nil {
		d.env.Log.WithError(err).Warn("the history cannot be read")
	}
	for i := range events {
		switch events[i].Command {
		case "install", "update", "rollback", "confirm":
			s.LastUpdate = &events[i]
		}
	}
	if s.Firmware, err = d.firmwareStatus(ctx); err != nil {
		return nil, err
	}
	s.Source = d.sourceStatus()
	if s.Tandem, err = d.Itself(); err != nil {
		d.env.Log.WithError(err).Warn("it is not known what Tandem keeps of itself")
	}
	return s, nil
}

func sideStatus(s *backup.Snapshot, path string) SideStatus {
	return SideStatus{Path: path, State: s.State, Version: s.Version, Revision: s.Revision, Files: s.Files, Previous: s.Previous, Detail: s.Detail}
}

// PendingSince is when the version that waits to be confirmed was installed, as
// far as that is remembered.
func (d *Device) PendingSince() (since time.Time) {
	events, err := d.History()
	if err != nil {
		return since
	}
	for i := range events {
		if events[i].Action == "pending" {
			since = events[i].Time
		}
	}
	return since
}
