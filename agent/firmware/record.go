package firmware

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// State is how far a firmware has come.
type State string

// The states of a firmware. Each is in its record, which is replaced as a whole
// and durably; nothing else decides what a power cut leaves behind. The folder
// of a firmware lies below the agent's state: firmware/NAME/.
//
//	state        on the disk                          the next start, update or install
//	none         no record, or a damaged one          –
//	unpacked     a verified payload, durable          runs the handler
//	installing   the same; the handler was running    asks the handler for the version: the new
//	             when the power went                  one is done, else runs the handler again;
//	                                                  after [agent] boots such cuts it has failed
//	postponed    the same; the handler said "later",  runs the handler
//	             or tandem was told to end
//	restart      the same; the handler has written    at the start, asks for the version: the new
//	             it, for after a restart              one is done, another one has failed
//	done         the record alone                     –
//	failed       the record alone, which revokes      –
//	             the version here
//
// A payload that the record does not name, because the power went while it was
// unpacked or removed, is removed when the next one is unpacked. One that was
// damaged since is not given to the handler.
const (
	None       State = "none"
	Unpacked   State = "unpacked"
	Installing State = "installing"
	Postponed  State = "postponed"
	Restart    State = "restart"
	Done       State = "done"
	Failed     State = "failed"
)

const (
	firmwareDir       = "firmware" // below the agent's state
	firmwareRecord    = "record.json"
	firmwareKind      = "firmware"
	maxFirmwareRecord = 64 << 10
	keepRevoked       = 100 // versions, the newest ones
)

// payloads are the names that a payload may have. A new one takes the name that
// the record does not use, so that the old one stays whole beside it.
var payloads = [2]string{"payload.a", "payload.b"}

// Record is the record of a firmware.
type Record struct {
	State    State              `json:"state"`
	Version  versioning.Version `json:"version,omitzero"`  // that the state is about
	Previous versioning.Version `json:"previous,omitzero"` // that was installed before
	Reason   string             `json:"reason,omitempty"`  // of a postponed or failed one
	// Downgrade says that an operator asked for an older version.
	Downgrade bool          `json:"downgrade,omitempty"`
	Cuts      int           `json:"cuts,omitempty"`    // of the power, while the handler ran
	Payload   string        `json:"payload,omitempty"` // one of payloads; "" if none is kept
	Size      int64         `json:"size,omitempty"`    // of the payload's files, bytes
	Sum       digest.SHA256 `json:"sum,omitzero"`      // of the payload
	// Revoked versions failed here, or were gone back from.
	Revoked []versioning.Version `json:"revoked,omitempty"`
}

// Open reports whether there is a payload that the handler has yet to write.
func (s State) Open() bool {
	switch s {
	case Unpacked, Installing, Postponed:
		return true
	}
	return false
}

func (s *Record) revoke(v versioning.Version) {
	s.unrevoke(v)
	s.Revoked = append(s.Revoked, v)
	s.Revoked = s.Revoked[max(0, len(s.Revoked)-keepRevoked):]
}

func (s *Record) unrevoke(v versioning.Version) {
	s.Revoked = versioning.Without(s.Revoked, v)
}

// Load reads the record. A damaged one counts as missing, but for the versions that are
// revoked: all that is lost with it is what can be fetched again. One that cannot be read
// just now is neither: the error says why.
func (f *Firmware) Load() (Record, error) {
	none := Record{State: None}
	var s Record
	there, err := record.ReadJSON(f.fs, firmwareKind, f.path(firmwareRecord), maxFirmwareRecord, &s)
	if err == nil && there && !s.sane() {
		err = fmt.Errorf("%s: %w: a state without what belongs to it", f.fs.Path(f.path(firmwareRecord)), manifest.ErrInvalid)
	}
	switch {
	case err == nil && there:
		return s, nil
	case errors.Is(err, manifest.ErrInvalid):
		f.log.WithError(err).Warn("damaged: ignored, but for the versions that are revoked")
		none.Revoked, err = f.salvage()
	}
	return none, err
}

// salvage reads the versions that are revoked off a damaged record: one that failed here
// is not tried again for a bit that flipped.
func (f *Firmware) salvage() (revoked []versioning.Version, err error) {
	var s struct {
		Revoked []string `json:"revoked"`
	}
	body, err := record.Salvage(f.fs, f.path(firmwareRecord), maxFirmwareRecord)
	if err != nil || json.Unmarshal(body, &s) != nil {
		return nil, err
	}
	for _, text := range s.Revoked {
		if v, err := versioning.Parse(text); err == nil {
			revoked = append(revoked, v)
		}
	}
	return revoked, nil
}

func (s *Record) sane() bool {
	return !s.State.Open() && s.State != Restart || slices.Contains(payloads[:], s.Payload) && !s.Version.IsZero()
}

// save durably replaces the record. After an error or a power cut the old or
// the new one is there, whole.
func (f *Firmware) save(s Record) error {
	name := f.path(firmwareRecord)
	if info, err := f.fs.Lstat(name); err == nil && info.Type != fsys.TypeFile { // damage
		if err := fsys.RemoveAll(f.fs, name); err != nil {
			return err
		}
	}
	return f.by.Write(f.fs, firmwareKind, name, s, 0o644)
}
