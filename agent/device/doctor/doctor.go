// Package doctor finds out what would go wrong with a device, before it does. It
// only looks.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"tandem/agent/device"
	"tandem/internal/config"
)

// ErrFindings says that something would go wrong.
var ErrFindings = errors.New("not all is well")

// Kind says how much a finding matters.
type Kind string

// The kinds of findings.
const (
	Fine  Kind = "fine"
	Note  Kind = "note"  // good to know
	Wrong Kind = "wrong" // something would go wrong
)

// Finding is one thing that was looked at.
type Finding struct {
	Kind        Kind   `json:"kind"`
	About       string `json:"about"`                 // such as usr_data
	Found       string `json:"found"`                 // what is so
	Consequence string `json:"consequence,omitempty"` // what would go wrong
	Advice      string `json:"advice,omitempty"`      // what to do
}

// Diagnosis is all that was found. It is the JSON document of the command.
type Diagnosis struct {
	Findings []Finding `json:"findings"`
	device.Failure
}

// Patient is a device and what is known of it beforehand.
type Patient struct {
	Config *config.Config
	Device *device.Device
	Built  time.Time // when this program was built; zero if unknown
	Now    time.Time
	// Zone is where the device lives; UTC beside ZoneErr, which says why its zone
	// cannot be used.
	Zone    *time.Location
	ZoneErr error
	EUID    int
	// Root is where the directories of the machine begin, such as etc: "/", but
	// in tests.
	Root string
	// Agent says that the agent answered.
	Agent bool
	// Answer is what the source said, or AnswerErr why it did not; both are nil
	// where there is no source.
	Answer    *device.Answer
	AnswerErr error
	// Explain says of an error what a command tells about it.
	Explain func(error) device.Failure
}

// Examine looks at everything. The error wraps ErrFindings if something would go
// wrong; the diagnosis is there in any case.
func (p *Patient) Examine(ctx context.Context) (*Diagnosis, error) {
	x := &examination{Patient: p}
	for _, part := range []func(context.Context){x.configuration, x.programs, x.sides, x.state, x.clock, x.watch, x.trust, x.source, x.permissions, x.start, x.itself} {
		part(ctx)
		if err := ctx.Err(); err != nil {
			return &Diagnosis{Findings: x.findings}, err
		}
	}
	var err error
	if x.wrongs > 0 {
		err = fmt.Errorf("%w: %s would go wrong", ErrFindings, things(x.wrongs))
	}
	return &Diagnosis{Findings: x.findings}, err
}

// configuration looks whether there is one, and whether it says what the device is.
func (x *examination) configuration(context.Context) {
	if _, err := os.Stat(x.Config.File); errors.Is(err, fs.ErrNotExist) {
		x.note("configuration", x.Config.File+" is not there: each key has its default", "write one: /usr/share/doc/tandem/examples has a sample")
	} else {
		x.fine("configuration", "%s can be read", x.Config.File)
	}
	if d := x.Config.Device; d.App == "" || len(d.Compatible) == 0 {
		x.wrong("device", "it has no app or no compatible", "every bundle is refused",
			"name them in [device], as its bundles do with --app and --compatible")
	}
}

func things(n int) string {
	if n == 1 {
		return "one thing"
	}
	return fmt.Sprintf("%d things", n)
}

// examination is one look at everything.
type examination struct {
	*Patient
	findings []Finding
	wrongs   int
}

func (x *examination) fine(about, format string, args ...any) {
	x.findings = append(x.findings, Finding{Kind: Fine, About: about, Found: fmt.Sprintf(format, args...)})
}

func (x *examination) note(about, found, advice string) {
	x.findings = append(x.findings, Finding{Kind: Note, About: about, Found: found, Advice: advice})
}

func (x *examination) wrong(about, found, consequence, advice string) {
	x.wrongs++
	x.findings = append(x.findings, Finding{Wrong, about, found, consequence, advice})
}
