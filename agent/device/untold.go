package device

import (
	"context"

	"tandem/backup"
	"tandem/versioning"
)

// untold returns the event that the history lacks, because the power went or the
// agent was killed after it happened and before it was remembered; nil if it
// lacks none. runs is the version on system, pending the one that waits to be
// confirmed, command what an installation is told as.
func untold(events []Event, runs versioning.Version, pending *backup.Pending, revoked []versioning.Version, command string) *Event {
	var told, waiting versioning.Version // what was said last to run, and to be pending
	for _, e := range events {
		if e.Command == "firmware" || e.Version.IsZero() {
			continue
		}
		switch e.Action {
		case "":
		case "pending":
			told, waiting = e.Version, e.Version
		case "installed", "confirmed", "rolled back", "recalled":
			told, waiting = e.Version, versioning.Version{}
		case "revoked", "unrevoked":
		default: // a reconciliation
			if e.Error == "" {
				told = e.Version
			}
		}
	}
	same := func(a, b versioning.Version) bool { return a.String() == b.String() }
	switch {
	case told.IsZero() || runs.IsZero(): // a new device, or a new history
		return nil
	case pending != nil && !same(waiting, pending.Version):
		return &Event{Command: command, Action: "pending", From: pending.Previous, Version: pending.Version}
	case pending != nil:
		return nil
	case same(waiting, runs) && runs.In(revoked): // it did not work, and there was nothing to return to
		return nil
	case same(waiting, runs):
		return &Event{Command: "confirm", Action: "confirmed", Version: runs}
	case !waiting.IsZero() && waiting.In(revoked):
		return &Event{Command: "rollback", Action: "rolled back", From: waiting, Version: runs}
	case same(told, runs):
		return nil
	case told.In(revoked):
		return &Event{Command: "rollback", Action: "rolled back", From: told, Version: runs}
	}
	return &Event{Command: command, Action: "installed", From: told, Version: runs}
}

// CatchUp remembers what the history lacks of what happened before the agent's
// start. c is what was under way then.
func (d *Device) CatchUp(ctx context.Context, c Course, runs versioning.Version) {
	log := d.env.Log
	events, err := d.History()
	if err != nil {
		return // whoever adds to it says so
	}
	pending, err := d.reconciler.Pending()
	if err != nil {
		return // onSides says so
	}
	revoked, err := d.reconciler.Revoked()
	if err != nil {
		log.WithError(err).Warn("it is not known which versions are revoked")
		return
	}
	command := "install"
	if c.Step == Installing && c.Version.String() == runs.String() {
		command = "update"
	}
	e := untold(events, runs, pending, revoked, command)
	if e == nil {
		return
	}
	if c.Recall && c.Step == Installing && c.Version.String() == runs.String() {
		e.Command = "rollback"
		if e.Action != "pending" {
			e.Action, e.From = "recalled", c.From
		}
	}
	e.Reason = "found at the agent's start"
	if p := d.reconciler.GivenUp(); p != nil && e.Action == "rolled back" && p.Version.String() == e.From.String() {
		e.Reason = p.Failed
	}
	d.Remember(*e)
	if e.Action == "rolled back" && c.Step != Installing { // else the course is resumed
		d.StartApplication(ctx, e.From, e.Version)
	}
}
