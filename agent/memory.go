package agent

import (
	"encoding/json"
	"errors"
	"tandem/agent/device"
	"tandem/internal/fsys"
	"time"

	"github.com/sirupsen/logrus"
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
	maxMemory  = 64 << 10
)

// loadMemory reads agent.json. A missing or damaged one is that of a new agent:
// what is lost with it is found again by looking and asking.
func loadMemory(disk fsys.FS, log logrus.FieldLogger) memory {
	data, err := fsys.ReadFile(disk, memoryFile, maxMemory)
	if fsys.IsNotExist(err) {
		return memory{}
	}
	var m memory
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err == nil && !m.Sane() {
		err = errors.New("a step that there is not, or without a version")
	}
	if err != nil {
		log.WithError(err).Warnf("%s is damaged: ignored", disk.Path(memoryFile))
		return memory{}
	}
	return m
}

// saveIn durably replaces agent.json by data. After an error or a power cut the old or
// the new one is there, whole.
func saveIn(d *device.Device, data []byte) error {
	disk, err := d.State()
	if err != nil {
		return err
	}
	return fsys.WriteFile(disk, memoryFile, data, 0o600)
}
