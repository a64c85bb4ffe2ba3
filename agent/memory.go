package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"tandem/agent/device"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"time"

	"github.com/sirupsen/logrus"
)

// Bar keeps the agent from a release that it could not take, so that a full disk
// or a hook that refuses costs no data for nothing.
type Bar struct {
	SHA256 digest.SHA256 `json:"sha256"`
	Reason string        `json:"reason"`
	Until  time.Time     `json:"until,omitzero"` // zero: until there is more room
	Path   string        `json:"path,omitempty"` // where there was none
	Free   int64         `json:"free,omitempty"` // bytes that must be free there
}

// memory is agent.json: all that the agent must know after a power cut and
// cannot see by looking.
type memory struct {
	Course device.Course `json:"course"`
	// Ordered says that somebody's command is carried out, which may stop the
	// application for a while.
	Ordered  bool      `json:"ordered,omitempty"`
	Bars     []Bar     `json:"bars,omitempty"`
	Scrubbed time.Time `json:"scrubbed,omitzero"`  // when the last full verification ended
	Reported string    `json:"reported,omitempty"` // the last event that was reported
}

const (
	memoryFile = "agent.json"
	maxMemory  = 64 << 10
	maxBars    = 20
)

// loadMemory reads agent.json. A missing or damaged one is that of a new agent:
// what is lost with it is found again by looking and asking.
func loadMemory(disk fsys.FS, log logrus.FieldLogger) memory {
	fresh := memory{Course: device.Course{Step: device.Idle}}
	data, err := fsys.ReadFile(disk, memoryFile, maxMemory)
	if fsys.IsNotExist(err) {
		return fresh
	}
	var m memory
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err == nil && !slices.Contains([]device.Step{device.Idle, device.Downloading, device.Ready, device.Installing}, m.Course.Step) {
		err = fmt.Errorf("unknown step %q", m.Course.Step)
	}
	if err == nil && m.Course.Step != device.Idle && m.Course.Version.IsZero() {
		err = errors.New("a step without a version")
	}
	if err != nil {
		log.WithError(err).Warnf("%s is damaged: ignored", disk.Path(memoryFile))
		return fresh
	}
	return m
}

// save durably replaces agent.json. After an error or a power cut the old or
// the new one is there, whole.
func (m *memory) save(disk fsys.FS) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return fsys.WriteFile(disk, memoryFile, append(data, '\n'), 0o644)
}

// saveIn saves it in the agent's state of a device.
func (m *memory) saveIn(d *device.Device) error {
	disk, err := d.State()
	if err != nil {
		return err
	}
	return m.save(disk)
}

// bar keeps the agent from a release; the oldest bars make room.
func (m *memory) bar(b Bar) {
	m.Bars = slices.DeleteFunc(m.Bars, func(old Bar) bool { return old.SHA256 == b.SHA256 })
	m.Bars = append(m.Bars, b)
	m.Bars = m.Bars[max(0, len(m.Bars)-maxBars):]
}

// barred gives what keeps the agent from a release; nil if nothing does. free is
// how many bytes are free now, by place.
func (m *memory) barred(sum digest.SHA256, now time.Time, free map[string]int64) *Bar {
	for i := range m.Bars {
		b := &m.Bars[i]
		if b.SHA256 != sum {
			continue
		}
		left := b.Until.Sub(now)
		if b.Until.IsZero() && free[b.Path] > b.Free || !b.Until.IsZero() && (left <= 0 || left > barTime) { // or the clock went back
			return nil
		}
		return b
	}
	return nil
}
