package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"time"

	"tandem/backup"
	"tandem/internal/fsys"
	"tandem/versioning"
)

const (
	historyFile = "history.jsonl"
	maxHistory  = 256 << 10 // bytes that are read back
	keepEvents  = 200       // the newest ones are kept
)

// Event is something that Tandem did, or failed to do. A boot that found
// nothing to do is none: flash wears out.
type Event struct {
	Time     time.Time          `json:"time"`
	Command  string             `json:"command"` // of tandem, such as boot; firmware for a handler's outcome
	Action   string             `json:"action,omitempty"`
	Reason   string             `json:"reason,omitempty"`
	From     versioning.Version `json:"from,omitzero"`
	Version  versioning.Version `json:"version,omitzero"`
	Revision int                `json:"revision,omitempty"`
	Files    int                `json:"files,omitempty"`
	Bytes    int64              `json:"bytes,omitempty"`
	Repaired []backup.Problem   `json:"repaired,omitempty"`
	Error    string             `json:"error,omitempty"`
}

// maxRepaired bounds what one event tells of damage.
const maxRepaired = 20

// reconciled describes a reconciliation.
func reconciled(command string, res *backup.Result, err error) Event {
	e := Event{Command: command}
	if err != nil {
		e.Error = err.Error()
	}
	if res == nil {
		return e
	}
	e.Action, e.Reason = string(res.Decision.Action), res.Decision.Reason
	e.Version, e.Revision, e.Files, e.Bytes = res.Version, res.Revision, res.Files, res.Bytes
	for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
		if s != nil && res.Decision.Action != "" {
			e.Repaired = append(e.Repaired, s.Problems...)
		}
	}
	e.Repaired = e.Repaired[:min(len(e.Repaired), maxRepaired)]
	return e
}

// rolledBack describes a rollback, for whatever reason. err is what came in the
// way of the return itself.
func rolledBack(from, now versioning.Version, reason string, err error) Event {
	e := Event{Command: "rollback", Reason: reason, From: from, Version: now}
	if err != nil {
		e.Error = err.Error()
	} else {
		e.Action = "rolled back"
	}
	return e
}

// History gives what is remembered, oldest first. Lines that cannot be read
// are left out.
func (d *Device) History() ([]Event, error) {
	disk, err := fsys.OpenOS(d.cfg.Agent.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	return readHistory(disk)
}

func readHistory(disk fsys.FS) ([]Event, error) {
	data, err := fsys.ReadFile(disk, historyFile, maxHistory)
	var long *fsys.TooLongError
	switch {
	case fsys.IsNotExist(err), errors.As(err, &long):
		return nil, nil
	case err != nil:
		return nil, err
	}
	var events []Event
	for line := range bytes.Lines(data) {
		var e Event
		if json.Unmarshal(line, &e) == nil {
			events = append(events, e)
		}
	}
	return events, nil
}

// remember adds an event. What cannot be remembered is logged, but no reason
// to fail: losing the state loses no application.
func (d *Device) remember(e Event) {
	e.Time = d.env.Now().UTC().Truncate(time.Second)
	if err := d.append(e); err != nil {
		d.env.Log.WithError(err).Warn("the history could not be written")
	}
}

// append durably rewrites the history with e at its end. After an error or a
// power cut it is as before, or has e.
func (d *Device) append(e Event) error {
	disk, err := d.state()
	if err != nil {
		return err
	}
	events, err := readHistory(disk)
	if err != nil {
		return err
	}
	events = append(events, e)
	events = events[max(0, len(events)-keepEvents):]
	for {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		for i := range events {
			if err := enc.Encode(&events[i]); err != nil {
				return err
			}
		}
		if b.Len() <= maxHistory || len(events) == 1 {
			return fsys.WriteFile(disk, historyFile, b.Bytes(), 0o644)
		}
		events = events[len(events)/2:]
	}
}
