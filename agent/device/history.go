package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/backup"
	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/internal/text"
	"tandem/versioning"
)

// The history lies in segments, so that an event costs the flash one small
// write: the newest is history.jsonl, the one before it history.1.jsonl.
const (
	segmentSize = 16 << 10 // bytes; a longer event has a segment of its own
	maxSegment  = 64 << 10 // bytes that are read back of one
	historyKind = "history"
	oldSegments = 12
)

func segment(n int) string {
	if n == 0 {
		return "history.jsonl"
	}
	return fmt.Sprintf("history.%d.jsonl", n)
}

// Event is something that Tandem did, or failed to do. A boot that found
// nothing to do is none: flash wears out.
type Event struct {
	// ID is a random name of the history and the event's number in it, which
	// rises by one, such as "5f0c93a1-17".
	ID       string             `json:"id"`
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
	By       string             `json:"by,omitempty"` // who asked for it, where that was on the page
}

// What one event tells is bounded, so that each can be read back and reported.
const (
	maxRepaired = 20      // damaged files
	maxEvent    = 8 << 10 // bytes, as JSON
	maxText     = 1 << 10 // bytes of an error or a reason
)

// cut makes an event fit to be kept: what came from elsewhere is in lines and
// visible, long texts lose their middle, and damaged files that there is no room
// for are left out.
func (e *Event) cut() {
	e.Repaired = slices.Clone(e.Repaired[:min(len(e.Repaired), maxRepaired)])
	for i := range e.Repaired {
		e.Repaired[i].Detail = oneLine(e.Repaired[i].Detail)
	}
	e.Error, e.Reason = shorten(oneLine(e.Error)), shorten(oneLine(e.Reason))
	for len(e.Repaired) > 0 {
		data, err := json.Marshal(e)
		if err != nil || len(data) <= maxEvent {
			return
		}
		e.Repaired = e.Repaired[:len(e.Repaired)-1]
	}
}

// oneLine is a text of several errors in one line, fit to be shown.
func oneLine(s string) string { return text.Line(strings.ReplaceAll(s, "\n", ": ")) }

// shorten cuts the middle out of a text that is too long: an error says at its
// beginning what was done, and at its end what is wrong.
func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	const half = (maxText - len(" … ")) / 2
	return strings.ToValidUTF8(s[:half], "") + " … " + strings.ToValidUTF8(s[len(s)-half:], "")
}

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

// History returns what is remembered, oldest first. Lines that cannot be read
// are left out.
func (d *Device) History() ([]Event, error) {
	if err := d.stateMounted(); err != nil {
		return nil, err
	}
	disk, err := fsys.OpenOS(d.cfg.Agent.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	return readHistory(fsys.ReadAgain(disk))
}

// readHistory reads all segments. What is missing, damaged or too long costs
// what it held.
func readHistory(disk fsys.FS) ([]Event, error) {
	events, _, err := readWhole(disk)
	return events, err
}

// readWhole is readHistory, and reports whether the last event that was ever
// remembered is known: nothing that was added behind it is damaged.
func readWhole(disk fsys.FS) (events []Event, known bool, err error) {
	known = true
	for n := oldSegments; n >= 0; n-- {
		data, whole, err := readSegment(disk, n)
		if err != nil {
			return nil, false, err
		}
		known = known && whole
		for line := range bytes.Lines(data) {
			var e Event
			if known = json.Unmarshal(line, &e) == nil && e.Command != ""; known {
				events = append(events, e)
			}
		}
	}
	return events, known, nil
}

// readSegment reads the lines of a segment, and reports whether it is whole: of a damaged
// one those that are there count, and of one that may not be read none. The error is that of
// a newer Tandem's file, or of a look that has found nothing out.
func readSegment(disk fsys.FS, n int) (data []byte, whole bool, err error) {
	data, err = record.Read(disk, historyKind, segment(n), maxSegment)
	if err != nil && !fsys.IsTransient(err) && !errors.Is(err, record.ErrNewer) {
		data, err = record.Salvage(disk, segment(n), maxSegment)
		return data, false, err
	}
	return data, true, err
}

// Remember adds an event. What cannot be remembered is logged, but no reason
// to fail: losing the state loses no application.
func (d *Device) Remember(e Event) {
	e.Time, e.By = d.env.Now().UTC().Truncate(time.Second), d.env.By
	e.cut()
	disk, err := d.State()
	if err == nil {
		err = appendEvent(disk, d.Author(), &e, d.env.Random)
	}
	if err != nil {
		d.env.Log.WithError(err).Warn("the history could not be written")
	}
	if d.env.Happened != nil {
		d.env.Happened(e)
	}
}

// appendEvent numbers e and durably adds it to the history. After an error or
// a power cut the history is as before, or has e, or lacks its oldest part. A
// failure that comes again, with nothing in between, is not added: what waits for
// years must not wear out the flash, nor take the place of what happened before.
func appendEvent(disk fsys.FS, by record.Author, e *Event, random io.Reader) error {
	events, known, err := readWhole(disk)
	if err != nil {
		return err
	}
	if n := len(events); n > 0 && e.Error != "" && e.repeats(events[n-1]) {
		e.ID, e.Time = events[n-1].ID, events[n-1].Time
		return nil
	}
	if e.ID, err = nextID(events, known, random); err != nil {
		return err
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	data, whole, err := readSegment(disk, 0)
	if err != nil {
		return err
	}
	if !whole || len(data) > 0 && len(data)+len(line) > segmentSize {
		if err := rotate(disk); err != nil {
			return err
		}
		data = nil
	}
	return fsys.WriteFile(disk, segment(0), by.SealBytes(historyKind, append(append(data, line...), '\n')), 0o644)
}

// repeats reports whether the same happened as before.
func (e *Event) repeats(before Event) bool {
	now := *e
	now.ID, now.Time, before.ID, before.Time = "", time.Time{}, "", time.Time{}
	return reflect.DeepEqual(now, before)
}

// rotate makes each segment the one before, and drops the oldest. Where a power
// cut came into an earlier rotation a place is free: what lies beyond that has
// moved already.
func rotate(disk fsys.FS) error {
	free := 1
	for free < oldSegments {
		if _, err := disk.Lstat(segment(free)); fsys.IsNotExist(err) {
			break
		} else if err != nil {
			return err
		}
		free++
	}
	for n := free - 1; n >= 0; n-- {
		if err := disk.Rename(segment(n), segment(n+1)); err != nil && !fsys.IsNotExist(err) {
			return err
		}
	}
	return nil // whoever writes the newest makes the directory durable
}

// nextID gives the event after the last one its name. Where nothing is left to
// go on from, or what came last is not known, the history has a new name, so that no
// id ever comes again.
func nextID(events []Event, known bool, random io.Reader) (string, error) {
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		if !known {
			break
		}
		if name, n, ok := splitID(e.ID); ok {
			return fmt.Sprintf("%s-%d", name, n+1), nil
		}
	}
	var name [4]byte
	if _, err := io.ReadFull(random, name[:]); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x-1", name), nil
}

func splitID(id string) (name string, n uint64, ok bool) {
	name, number, ok := strings.Cut(id, "-")
	if !ok || name == "" {
		return "", 0, false
	}
	n, err := strconv.ParseUint(number, 10, 63)
	return name, n, err == nil
}
