package device

import (
	"crypto/rand"
	"testing"
	"time"

	"tandem/backup/record"
	"tandem/internal/fsys"
)

// A failure that comes again and again leaves one event, so that what happened
// before it is not lost; one that comes after something else is news.
func TestRepeatedFailure(t *testing.T) {
	t.Parallel()
	disk, err := fsys.OpenOS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	add := func(e Event) Event {
		now = now.Add(time.Minute)
		e.Time = now
		if err := appendEvent(disk, record.Author{}, &e, rand.Reader); err != nil {
			t.Fatal(err)
		}
		return e
	}
	full := Event{Command: "agent", Error: "no room"}
	first := add(full)
	for range 3 {
		if again := add(full); again.ID != first.ID {
			t.Errorf("the same failure is a new event: %+v", again)
		}
	}
	add(Event{Command: "agent", Error: "no network"})
	add(full)
	add(Event{Command: "agent", Action: "capture"})
	add(Event{Command: "agent", Action: "capture"})
	events, err := readHistory(disk)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 5 {
		t.Errorf("%d events, want 5: %+v", len(events), events)
	}
}
