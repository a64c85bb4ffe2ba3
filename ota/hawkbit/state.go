package hawkbit

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sirupsen/logrus"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Step is how far the device has come with an action of the server.
type Step string

// The steps of an action. The step is in hawkbit.json, in the agent's state,
// which is replaced as a whole and durably.
//
//	step     what holds                              what a power cut leads to
//	(none)   no action is known                      the next poll reads it again, nothing was done
//	open     the server's wish and the bundles that  the next sync looks at the device: what is
//	         it takes are known; the agent is at     installed and confirmed is done, what was
//	         work on them, or waits                  revoked has failed, the rest goes on
//	ending   the outcome is known and durable; the   the report is sent again; the server takes the
//	         server may have heard of it or not      second one for what it is
//	ended    the server knows the outcome, or does   nothing more is done; offered all the same it
//	         not want to know                        is looked at as a new one
const (
	Open   Step = "open"
	Ending Step = "ending"
	Ended  Step = "ended"
)

// Part is what one artifact of an action brings. Of several that bring the same
// release there is one Part, for the smallest that applies.
type Part struct {
	Artifact string             `json:"artifact"` // its file name, as the server has it
	URL      string             `json:"url,omitempty"`
	SHA256   digest.SHA256      `json:"sha256,omitzero"` // of the file, as the server says
	Kind     release.Kind       `json:"kind,omitempty"`
	App      string             `json:"app,omitempty"`
	Version  versioning.Version `json:"version,omitzero"`
	Base     versioning.Version `json:"base,omitzero"`      // of a delta bundle: what it builds on
	Size     int64              `json:"size,omitempty"`     // bytes, as the bundle's signed head says
	Unpacked int64              `json:"unpacked,omitempty"` // bytes that its files take
	Release  digest.SHA256      `json:"release,omitzero"`   // of release.json, as the head says
	Head     int64              `json:"head,omitempty"`     // bytes before the first frame
	// Whole is where what a delta bundle cannot bring comes from; nil: there is none.
	Whole *Part `json:"whole,omitempty"`
	// Had says that it was installed before the action.
	Had bool `json:"had,omitempty"`
	// Fetched says that it was downloaded.
	Fetched bool `json:"fetched,omitempty"`
	// Doubts counts how often what came of it was refused.
	Doubts int `json:"doubts,omitempty"`
	// Failed says why it cannot be taken, and Code is the exit code of that.
	Failed string `json:"failed,omitempty"`
	Code   int    `json:"code,omitempty"`
}

// Outcome is what became of an action.
type Outcome struct {
	Success bool     `json:"success"`
	Code    int      `json:"code,omitempty"`
	Details []string `json:"details,omitempty"`
}

// Action is what is kept of the server's last action.
type Action struct {
	Number   int64  `json:"number"`
	Query    string `json:"query,omitempty"` // of the link that was read last
	Step     Step   `json:"step"`
	Download Mode   `json:"download,omitempty"`
	Update   Mode   `json:"update,omitempty"`
	// Window is what the server says of its maintenance window: "" where it has
	// none, available, unavailable.
	Window string `json:"window,omitempty"`
	Set    *Set   `json:"set,omitempty"` // that it brings, where that is known
	// Looked says that its artifacts were looked at: Parts is all it brings.
	Looked  bool     `json:"looked,omitempty"`
	Parts   []Part   `json:"parts,omitempty"`
	Outcome *Outcome `json:"outcome,omitempty"`
	// Told says that "downloaded" was reported.
	Told bool `json:"told,omitempty"`
	// Misses counts how often an artifact was not there.
	Misses int `json:"misses,omitempty"`
}

// Set names a distribution set.
type Set struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Brought is a version of the application, and the set that it came with.
type Brought struct {
	Version versioning.Version `json:"version"`
	Set     Set                `json:"set"`
}

// State is hawkbit.json: all that the device must know of the server after a
// power cut.
type State struct {
	// Server is the address of the server's interface for this device.
	Server string  `json:"server"`
	Action *Action `json:"action,omitempty"`
	// Attributes are those that the server has.
	Attributes map[string]string `json:"attributes,omitempty"`
	// Brought are the last versions that sets brought, the newest at the end.
	Brought []Brought `json:"brought,omitempty"`
	// Told is the version of the application that the server takes for installed.
	Told versioning.Version `json:"told,omitzero"`
	// Waiting is the action that a person is to confirm.
	Waiting *Waiting `json:"waiting,omitempty"`
}

// Waiting is an action that the server does not begin before a person on the
// device said yes.
type Waiting struct {
	Number int64    `json:"number"`
	Brings []string `json:"brings,omitempty"` // modules, with their versions
	// Denied says that a person said no. The server goes on asking.
	Denied bool `json:"denied,omitempty"`
}

const (
	stateFile  = "hawkbit.json"
	stateKind  = "hawkbit"
	maxState   = 256 << 10
	maxBrought = 8
	maxParts   = 64
)

// Load reads the state. A missing or damaged one is that of a new device: what is
// lost with it is read off the server and the device again. Any other error says
// nothing about what is there.
func Load(disk fsys.FS, log logrus.FieldLogger) (*State, error) {
	s := &State{}
	_, err := record.ReadJSON(disk, stateKind, stateFile, maxState, s)
	if err != nil && !errors.Is(err, manifest.ErrInvalid) {
		return nil, err
	}
	if a := s.Action; err == nil && a != nil {
		switch {
		case !slices.Contains([]Step{Open, Ending, Ended}, a.Step):
			err = fmt.Errorf("unknown step %q", a.Step)
		case a.Step == Ending && a.Outcome == nil:
			err = fmt.Errorf("action %d ends without an outcome", a.Number)
		}
	}
	if err != nil {
		log.WithError(err).Warn("what is known of the server's action cannot be used: ignored")
		return &State{}, nil
	}
	return s, nil
}

// save durably replaces the state. After an error or a power cut the old or the
// new one is there, whole.
func (s *State) save(disk fsys.FS, by record.Author) error {
	return by.Write(disk, stateKind, stateFile, s, 0o600)
}

// brought remembers which set brought a version.
func (s *State) brought(v versioning.Version, set *Set) {
	if set == nil || v.IsZero() {
		return
	}
	s.Brought = slices.DeleteFunc(s.Brought, func(b Brought) bool { return b.Version.Compare(v) == 0 })
	s.Brought = append(s.Brought, Brought{v, *set})
	s.Brought = s.Brought[max(0, len(s.Brought)-maxBrought):]
}

// setOf finds the set that brought a version, by what is remembered, or by the
// configured name.
func (s *State) setOf(v versioning.Version, configured string) *Set {
	for _, b := range s.Brought {
		if b.Version.Compare(v) == 0 {
			return &b.Set
		}
	}
	if configured != "" {
		return &Set{configured, v.String()}
	}
	return nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
