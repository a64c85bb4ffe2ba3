package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tandem/agent/device"
	"tandem/internal/cli"
	"tandem/internal/text"
	"tandem/versioning"
)

// What the script that starts Tandem puts into its environment.
const (
	programVariable = "TANDEM_PROGRAM" // the program that it starts
	aliveVariable   = "TANDEM_ALIVE"   // where it looks whether there is progress
)

// programPath is where this program lies, if it is one of a release: only such a
// one knows what is newer than itself.
func programPath() string {
	if _, err := versioning.Parse(releaseVersion()); err != nil {
		return ""
	}
	name, err := os.Executable()
	if err != nil {
		return ""
	}
	return name
}

// mark is set by the linker as version is, with text around it by which a build
// machine finds it in the program: release.ProgramMark.
var mark string

func newSelfTestCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "selftest",
		Short: "Test whether this program can do its work on this device",
		Long: `selftest reads the configuration, both sides, whom the device trusts and the agent's
state, as a start does, and writes nothing. What is wrong with the device is told, and
no failure; the exit code says whether this program is of use here. A new Tandem has
to pass it before it takes the place of another one.`,
		Example: "  tandem selftest\n  tandem selftest --json",
		Args:    cli.Exactly(),
		RunE: p.on(device.Look, func(ctx context.Context, d *device.Device) error {
			doc, err := d.SelfTest(ctx)
			doc.Program, doc.Failure = mark, p.failure(err)
			for _, r := range doc.Remarks {
				p.say("tandem: %s", r)
			}
			return errors.Join(p.print(doc, fmt.Sprintf("tandem %s can do its work here", doc.Version)), err)
		}),
	}
}

func newKeepCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "keep",
		Short: "Keep this program, whichever was kept before",
		Long: `keep says by hand that the program that runs is the one that the device keeps, also
where a newer one was kept: it needs no confirmation any more, and usr_data keeps a
copy of it if its signed release is there. Packages call it after they have put a
program in place.`,
		Example: "  tandem keep",
		Args:    cli.Exactly(),
		RunE: p.on(device.Change, func(_ context.Context, d *device.Device) error {
			s, err := d.KeepItself()
			if err != nil {
				return err
			}
			lines := tandemLines(s)
			if s.Kept.IsZero() {
				lines[0] += ", usr_data keeps none"
			}
			return p.report(keptDocument{s, device.Failure{}}, lines...)
		}),
	}
}

// keptDocument is the JSON document of keep.
type keptDocument struct {
	*device.TandemStatus
	device.Failure
}

// tandemLines says what is known of Tandem itself.
func tandemLines(s *device.TandemStatus) []string {
	if s == nil {
		return nil
	}
	lines := []string{"tandem " + s.Version}
	if more := besides(s); more != "" {
		lines[0] += ", " + more
	}
	for _, v := range s.Revoked {
		lines = append(lines, "revoked: tandem "+v.String())
	}
	return lines
}

// goOn starts the program that has taken the place of this one, in its stead: the
// process stays the same. It returns only where that fails.
func goOn(env ...string) error {
	name := programPath()
	env = append(os.Environ(), env...)
	if script := device.StartScript(name); script != "" {
		return syscall.Exec(script, append([]string{script}, os.Args[1:]...), append(env, programVariable+"="+name))
	}
	return syscall.Exec(name, append([]string{name}, os.Args[1:]...), env)
}

// decided tells the script that counts the starts of a command that this one came to
// a decision, whatever that was. A failure that the table does not know is none.
func (p *program) decided(command string) {
	if name := os.Getenv(programVariable); name != "" && p.known && (command == "boot" || command == "agent") {
		_ = os.Remove(name + ".starts-" + command) // there is none where none are counted
	}
}

// alive returns what tells the script that there is progress; nil where it does not ask.
func alive() func(what string) {
	file := os.Getenv(aliveVariable)
	if file == "" {
		return nil
	}
	var last time.Time
	n := 0
	return func(what string) {
		if now := time.Now(); now.Sub(last) >= time.Second {
			last = now
			n++
			_ = os.WriteFile(file, []byte(strconv.Itoa(n)+" "+text.Line(what)+"\n"), 0o600) // the script goes by what it finds
		}
	}
}

// tandemVersions reads what the program knows of its kind; nil where that
// cannot be read.
func (p *program) tandemVersions() (s *device.TandemStatus) {
	name := programPath()
	if name == "" {
		return nil
	}
	if _, err := os.Lstat(name + ".known"); err != nil {
		return nil
	}
	s, err := device.ReadVersions(filepath.Dir(name), filepath.Base(name), releaseVersion())
	if err != nil {
		return nil
	}
	return s
}

// besides says which other versions are there, in a line; "" if none are known of.
func besides(s *device.TandemStatus) string {
	if s == nil {
		return ""
	}
	var parts []string
	switch {
	case s.Pending.IsZero():
	case s.Pending.String() == s.Version:
		parts = append(parts, "not confirmed yet")
	default:
		parts = append(parts, s.Pending.String()+" is in place, and runs from the next start on")
	}
	if !s.Previous.IsZero() {
		parts = append(parts, "previous "+s.Previous.String())
	}
	if !s.Kept.IsZero() {
		parts = append(parts, "usr_data keeps "+s.Kept.String())
	}
	return strings.Join(parts, ", ")
}
