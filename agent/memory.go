package agent

import (
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent/device"
	"tandem/backup/record"
	"tandem/internal/fsys"
)

// memory is agent.json: all that the agent must know after a power cut and
// cannot see by looking.
type memory struct {
	device.Machine
	Scrubbed time.Time `json:"scrubbed,omitzero"`  // when the last full verification ended
	Reported string    `json:"reported,omitempty"` // the last event that was reported
}

const (
	memoryFile = "agent.json"
	memoryKind = "agent"
	maxMemory  = 64 << 10
)

// loadMemory reads agent.json. A missing or damaged one is that of a new agent:
// what is lost with it is found again by looking and asking. One that cannot be read
// just now is neither: the error says why.
func loadMemory(disk fsys.FS, log logrus.FieldLogger) (memory, error) {
	var m memory
	there, err := record.Remembered(disk, memoryKind, memoryFile, maxMemory, &m, log)
	if there && !m.Sane() {
		log.Warnf("%s: a step that there is not, or without a version: ignored", disk.Path(memoryFile))
		there = false
	}
	if !there {
		return memory{}, err
	}
	return m, nil
}

// save durably replaces agent.json. After an error or a power cut the old or the new one
// is there, whole.
func (m *memory) save(d *device.Device) error {
	disk, err := d.State()
	if err != nil {
		return err
	}
	return d.Author().Write(disk, memoryKind, memoryFile, m, 0o600)
}
