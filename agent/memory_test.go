package agent

import (
	"errors"
	"io"
	"syscall"
	"testing"

	"github.com/sirupsen/logrus"

	"tandem/agent/device"
	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// What the agent remembers is lost where it is missing or damaged, and not where it cannot
// be read just now: what was under way would begin anew.
func TestLoadMemory(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := memfs.NewMachine()
	disk := m.NewDisk("state", memfs.Options{}).FS()
	reads := func(want string, target error) {
		t.Helper()
		if mem, err := loadMemory(disk, log); mem.Reported != want || !errors.Is(err, target) {
			t.Errorf("reported %q, %v; want %q, %v", mem.Reported, err, want, target)
		}
	}
	write := func(mem *memory) {
		t.Helper()
		if err := (record.Author{}).Write(disk, memoryKind, memoryFile, mem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reads("", nil)
	write(&memory{Reported: "x-1"})
	reads("x-1", nil)
	m.FailReads(func(string) error { return syscall.EMFILE })
	reads("", syscall.EMFILE)
	m.FailReads(nil)
	write(&memory{Reported: "x-2", Machine: device.Machine{Works: []device.Work{{Course: device.Course{Step: "begun"}}}}})
	reads("", nil)
	if err := fsys.WriteFile(disk, memoryFile, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	reads("", nil)
}
