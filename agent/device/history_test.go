package device

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/backup"
	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/internal/fsys/memfs/search"
)

// numbers gives the numbers of the events that are remembered, which must be
// readable.
func numbers(m *memfs.Machine) ([]uint64, error) {
	events, err := readHistory(m.Disk("state").FS())
	if err != nil {
		return nil, err
	}
	var all []uint64
	for _, e := range events {
		_, n, ok := splitID(e.ID)
		if !ok {
			return nil, fmt.Errorf("the event has the id %q", e.ID)
		}
		all = append(all, n)
	}
	return all, nil
}

// add appends an event so long that one more starts a new segment.
func add(m *memfs.Machine) error {
	e := Event{Time: time.Unix(0, 0).UTC(), Command: "boot", Reason: strings.Repeat("because ", segmentSize/10)}
	return appendEvent(m.Disk("state").FS(), record.Author{}, &e, bytes.NewReader([]byte("name")))
}

// Whatever an append is cut by, the history has no gap and no event twice, and
// lacks at most its oldest segment. What was appended with success is there.
func TestHistoryPowerCut(t *testing.T) {
	if testing.Short() {
		t.Skip("a search in memory, with one thing after the other")
	}
	start := memfs.NewMachine()
	disk := start.NewDisk("state", memfs.Options{}).FS()
	for range oldSegments + 3 { // all segments are there, and the oldest has to go
		if err := add(start); err != nil {
			t.Fatal(err)
		}
	}
	if err := disk.Sync(); err != nil {
		t.Fatal(err)
	}
	had, err := numbers(start)
	if err != nil {
		t.Fatal(err)
	}
	last := had[len(had)-1]
	holds := func(m *memfs.Machine, newest uint64) error {
		got, err := numbers(m)
		switch {
		case err != nil:
			return err
		case len(got) < len(had)-1:
			return fmt.Errorf("%d events were remembered, %v are left", len(had), got)
		case got[len(got)-1] < newest || got[len(got)-1] > last+3: // one is added, then up to two more by recoveries
			return fmt.Errorf("the newest event is %d, expected %d to %d", got[len(got)-1], newest, last+3)
		}
		for i, n := range got[1:] {
			if n != got[i]+1 {
				return fmt.Errorf("%d follows %d: %v", n, got[i], got)
			}
		}
		return nil
	}
	c := search.Case{
		Name: "append to the history", Start: start, Work: add, Recover: add,
		During: func(m *memfs.Machine, _ string) error { return holds(m, last) },
		After: func(m *memfs.Machine, _ string, err error) error {
			return errors.Join(err, holds(m, last+1))
		},
		Done: func(m *memfs.Machine) error { return holds(m, last+1) },
	}
	const seed = 1
	r := c.Run(search.Options{Seed: seed, States: 1, Every: 20, FaultStep: 5})
	if r.Failure != nil {
		t.Fatalf("seed %d: %v", seed, r.Failure)
	}
	if r.Total() == 0 || r.Second == 0 || r.Faults == 0 {
		t.Fatalf("nothing was searched: %+v", r)
	}
}

// What lies on the disk in place of a segment costs what that held, no more.
func TestHistoryDamaged(t *testing.T) {
	m := memfs.NewMachine()
	disk := m.NewDisk("state", memfs.Options{}).FS()
	for range 3 {
		if err := add(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := fsys.WriteFile(disk, segment(1), []byte("{\"id\":\x00\x00garbage\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := numbers(m); err != nil || !slices.Equal(got, []uint64{1, 3}) {
		t.Errorf("%v, %v", got, err)
	}
}

// A segment that may not be read keeps no event from being remembered, and is not written over.
func TestHistoryUnreadable(t *testing.T) {
	for n := range 2 {
		m := memfs.NewMachine()
		m.NewDisk("state", memfs.Options{})
		for range 3 {
			if err := add(m); err != nil {
				t.Fatal(err)
			}
		}
		m.FailReads(func(path string) error {
			if strings.HasSuffix(path, segment(n)) {
				return syscall.EACCES
			}
			return nil
		})
		if err := add(m); err != nil {
			t.Fatal(err)
		}
		m.FailReads(nil)
		if got, err := numbers(m); err != nil || len(got) != 4 {
			t.Errorf("segment %d: %v, %v", n, got, err)
		}
	}
}

// However much there is to tell of, an event can be read back, and no id comes
// twice: neither after such an event nor after one that is damaged.
func TestHistoryLongEvents(t *testing.T) {
	t.Parallel()
	m := memfs.NewMachine()
	disk := m.NewDisk("state", memfs.Options{}).FS()
	names := byte(0)
	seen := map[string]bool{}
	add := func(e Event) {
		t.Helper()
		names++
		e.cut()
		if err := appendEvent(disk, record.Author{}, &e, bytes.NewReader(bytes.Repeat([]byte{names}, 4))); err != nil {
			t.Fatal(err)
		}
		if seen[e.ID] {
			t.Errorf("the id %s is given twice", e.ID)
		}
		seen[e.ID] = true
		events, err := readHistory(disk)
		if err != nil || len(events) == 0 || events[len(events)-1].ID != e.ID {
			t.Errorf("the event cannot be read back: %v", err)
		}
	}
	long := Event{Command: "boot", Error: "boot: " + strings.Repeat("ä", 100_000) + ": no space", Reason: strings.Repeat("\x00", 50_000)}
	for range 40 {
		long.Repaired = append(long.Repaired, backup.Problem{Path: backup.Path(strings.Repeat("p", 4000)), Detail: strings.Repeat("<", 2000)})
	}
	add(long)
	add(Event{Command: "backup"})
	if events, err := readHistory(disk); err != nil || !strings.HasPrefix(events[0].Error, "boot: ") || !strings.HasSuffix(events[0].Error, ": no space") {
		t.Errorf("what is left of the error: %v", err)
	}
	for _, damage := range []string{"garbage\n", strings.Repeat("x", maxSegment+1)} {
		if err := fsys.WriteFile(disk, segment(0), []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		add(Event{Command: "boot", Reason: damage[:2]})
		add(Event{Command: "backup"})
	}
}

// What came from elsewhere is visible in the history, and each event is one line.
func TestEventIsVisible(t *testing.T) {
	problems := []backup.Problem{{Detail: "\x1b[2J"}}
	e := Event{Error: "first\nsecond \u202e\u009b \xff", Reason: "\x1b]0;title\x07", Repaired: problems}
	e.cut()
	want := Event{Error: `first: second \u202e\u009b \xff`, Reason: `\x1b]0;title\x07`, Repaired: []backup.Problem{{Detail: `\x1b[2J`}}}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("%+v\nwant %+v", e, want)
	}
	if problems[0].Detail != "\x1b[2J" {
		t.Error("what the caller holds has changed")
	}
}
