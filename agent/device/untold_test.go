package device

import (
	"testing"

	"tandem/backup"
	"tandem/versioning"
)

func TestUntold(t *testing.T) {
	t.Parallel()
	v := func(text string) versioning.Version {
		if text == "" {
			return versioning.Version{}
		}
		v, err := versioning.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	event := func(action, version string) Event { return Event{Action: action, Version: v(version)} }
	failed := Event{Version: v("1.1.0"), Error: "no room"}
	stuck := Event{Action: "back up", Version: v("1.1.0"), Error: "no room"}
	firmware := Event{Command: "firmware", Action: "installed", Version: v("7.0.0")}
	for _, c := range []struct {
		name          string
		events        []Event
		runs, pending string
		revoked       string
		want          string // the action, the versions before and after; "" is nothing
	}{
		{"a new device", nil, "1.0.0", "", "", ""},
		{"nothing runs", []Event{event("installed", "1.0.0")}, "", "", "", ""},
		{"all is told", []Event{event("installed", "1.0.0")}, "1.0.0", "", "", ""},
		{"a failure changed nothing", []Event{event("confirmed", "1.0.0"), failed, stuck}, "1.0.0", "", "", ""},
		{"a firmware is no version of the application", []Event{event("confirmed", "1.0.0"), firmware}, "1.0.0", "", "", ""},
		{"restored at boot", []Event{event("confirmed", "1.0.0"), event("restore", "1.1.0")}, "1.1.0", "", "", ""},
		{"revoked by hand", []Event{event("confirmed", "1.0.0"), event("revoked", "0.9.0")}, "1.0.0", "", "0.9.0", ""},
		{"it waits, and that is told", []Event{event("pending", "1.1.0"), event("capture", "1.1.0")}, "1.1.0", "1.1.0", "", ""},

		{"installed", []Event{event("confirmed", "1.0.0")}, "1.1.0", "", "", "installed 1.0.0 1.1.0"},
		{"pending", []Event{event("confirmed", "1.0.0")}, "1.1.0", "1.1.0", "", "pending 1.0.0 1.1.0"},
		{"pending, and backed up at the start", []Event{event("confirmed", "1.0.0"), event("back up", "1.1.0")}, "1.1.0", "1.1.0", "", "pending 1.0.0 1.1.0"},
		{"confirmed", []Event{event("pending", "1.1.0")}, "1.1.0", "", "", "confirmed  1.1.0"},
		{"confirmed, and backed up at the start", []Event{event("pending", "1.1.0"), event("back up", "1.1.0")}, "1.1.0", "", "", "confirmed  1.1.0"},
		{"unhealthy, with nothing to return to", []Event{event("pending", "1.1.0"), {Command: "rollback", From: v("1.1.0"), Error: "nothing to return to"}}, "1.1.0", "", "1.1.0", ""},
		{"taken back", []Event{event("pending", "1.1.0")}, "1.0.0", "", "1.1.0", "rolled back 1.1.0 1.0.0"},
		{"taken back, and backed up at the start", []Event{event("pending", "1.1.0"), event("back up", "1.0.0")}, "1.0.0", "", "1.1.0", "rolled back 1.1.0 1.0.0"},
		{"taken back by hand", []Event{event("confirmed", "1.1.0")}, "1.0.0", "", "1.1.0", "rolled back 1.1.0 1.0.0"},
	} {
		var pending *backup.Pending
		if c.pending != "" {
			pending = &backup.Pending{Version: v(c.pending), Previous: v("1.0.0")}
		}
		got := ""
		if e := untold(c.events, v(c.runs), pending, []versioning.Version{v(c.revoked)}, "update"); e != nil {
			got = e.Action + " " + e.From.String() + " " + e.Version.String()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
