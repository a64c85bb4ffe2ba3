package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"tandem/agent/device"
	"tandem/internal/child"
	"tandem/internal/cli"
	"tandem/internal/config"
	"tandem/internal/text"
	"tandem/versioning"
)

// program is what the commands know of the world, and the common flags.
type program struct {
	stdin      io.Reader
	stdout     io.Writer
	stderr     *cli.Screen
	children   *os.File // where the output of what is left running goes
	now        func() time.Time
	euid, egid int
	again      <-chan struct{} // receives when a person presses Ctrl-C once more; it may be nil

	config                 string
	asJSON, quiet, verbose bool
	printed                bool // the JSON document is out
	known                  bool // how the command ended is in the table
}

// say writes a message for people.
func (p *program) say(format string, args ...any) {
	if !p.quiet {
		p.tell(format, args...)
	}
}

// tell writes a message that is wanted even where none are.
func (p *program) tell(format string, args ...any) {
	fmt.Fprintln(p.stderr, text.Line(fmt.Sprintf(format, args...)))
}

// progress shows how far something has come, unless that is not wanted.
func (p *program) progress(what string, done, total int64) {
	if !p.quiet {
		p.stderr.Progress("tandem: "+text.Line(what), done, total)
	}
}

// run is the whole program; it returns the exit code.
func run(ctx context.Context, p *program, args []string) int {
	cmd := newRootCommand(p)
	cmd.SetArgs(args)
	cmd.SetOut(p.stdout)
	cmd.SetErr(p.stderr)
	err := cmd.ExecuteContext(ctx)
	p.known = outcomes().Knows(err)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; nothing is lost, the next run goes on from here")
	}
	if cli.IsUsage(err) && slices.Contains(args, "--json") {
		p.asJSON = true // what comes after a mistake was not parsed
	}
	f := p.failure(err)
	if p.asJSON && !p.printed {
		_ = p.document(f) // the exit code tells, too
	}
	p.tell("tandem: %s", f.Error)
	if f.Hint != "" {
		p.tell("hint: %s", f.Hint)
	}
	return f.Exit
}

// failure says what went wrong.
func (p *program) failure(err error) device.Failure {
	if err == nil {
		return device.Failure{}
	}
	exit, hint := outcomes().Of(err)
	return device.Failure{Error: cli.Message(err), Hint: hint, Exit: exit}
}

// document prints the one JSON document of a command.
func (p *program) document(v any) error {
	doc, err := cli.Document(v, "  ")
	if err == nil {
		p.printed = true
		_, err = p.stdout.Write(doc)
	}
	return err
}

// print prints the result of a command: as a document or as lines.
func (p *program) print(doc any, lines ...string) error {
	if p.asJSON {
		return p.document(doc)
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(p.stdout, text.Line(l)); err != nil {
			return err
		}
	}
	return nil
}

// report tells what a command did, unless that is not wanted: the exit code tells, too.
func (p *program) report(doc any, lines ...string) error {
	if p.quiet {
		lines = nil
	}
	return p.print(doc, lines...)
}

// helpWidth is how wide help is, in characters.
const helpWidth = 80

func newRootCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tandem",
		Short: "Keep an application up to date, and a second copy of it in step",
		Long: `tandem installs releases of an application on the system side of a device, and
keeps a second, complete copy of it on the usr_data side. At boot it brings both
in step: the side with the higher version wins, damaged files are repaired
from the other one.

Results go to standard output, messages to standard error.`,
		Example: `  tandem boot                     # in the init script, before the application
  tandem status
  tandem install hello-1.1.0.tandem
  tandem update                   # from the configured source`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return cli.Unknown(cmd, args[0])
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return cli.Usage(cmd, "%w", err) })
	f := cmd.PersistentFlags()
	f.StringVar(&p.config, "config", config.DefaultFile, "configuration `FILE`")
	f.BoolVar(&p.asJSON, "json", false, "print one JSON document on standard output")
	f.BoolVarP(&p.quiet, "quiet", "q", false, "no messages but errors")
	f.BoolVarP(&p.verbose, "verbose", "v", false, "more messages")
	cmd.AddCommand(
		newBootCommand(p), newBackupCommand(p), newStatusCommand(p), newVerifyCommand(p),
		newInstallCommand(p), newCheckCommand(p), newUpdateCommand(p), newBumpCommand(p),
		newRollbackCommand(p), newConfirmCommand(p), newConfirmUpdateCommand(p), newRevokeCommand(p), newUnrevokeCommand(p),
		newForgetCommand(p), newRecallCommand(p), newHistoryCommand(p), newDoctorCommand(p), newAgentCommand(p), newPageCommand(p), newCancelCommand(p), newKeepCommand(p), newSelfTestCommand(p), newVersionCommand(p),
		&cobra.Command{Use: exitCodes, Short: "What the exit codes mean, and what to do"},
	)
	addCompletion(cmd)
	help := cmd.HelpFunc()
	cmd.SetHelpFunc(func(c *cobra.Command, args []string) {
		explain(cmd)
		help(c, args)
	})
	return cmd
}

const exitCodes = "exit-codes"

// explain adds the exit codes to the help of root, and returns it. What needs no help
// does not pay for that.
func explain(root *cobra.Command) *cobra.Command {
	root.Long += "\n\n" + outcomes().Summary(helpWidth) + "\n" + `"tandem help ` + exitCodes + `" says what to do about each.`
	for _, c := range root.Commands() {
		if c.Name() == exitCodes {
			c.Long = outcomes().Help()
		}
	}
	return root
}

// addCompletion adds cobra's own command for shell completion, made to answer
// mistakes as the others do.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Args, cmd.Example = cobra.ArbitraryArgs, "  tandem completion bash > /etc/bash_completion.d/tandem"
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.Usage(cmd, "the name of a shell is missing")
			}
			return cli.Usage(cmd, "unknown shell %q", args[0])
		}
		for _, shell := range cmd.Commands() {
			shell.Args, shell.Example = cli.Exactly(), "  "+shell.CommandPath()
		}
	}
}

// open loads the configuration, and opens the device for as long as use takes.
func (p *program) open(access device.Access, use func(*device.Device) error) error {
	cfg, err := config.Load(p.config)
	if err != nil {
		return err
	}
	env := p.environment()
	env.Progress = p.progress
	if beat := alive(); beat != nil {
		env.Progress = func(what string, done, total int64) {
			beat(fmt.Sprint(what, done))
			p.progress(what, done, total)
		}
	}
	d, err := device.Open(cfg, env, access)
	if err != nil {
		return err
	}
	defer func() {
		p.stderr.Done()
		if err := d.Close(); err != nil {
			p.say("tandem: %v", err)
		}
	}()
	return use(d)
}

// on returns what a command does that has no arguments, on the opened device.
func (p *program) on(access device.Access, run func(context.Context, *device.Device) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		return p.open(access, func(d *device.Device) error { return run(cmd.Context(), d) })
	}
}

// environment is what a device needs of the world.
func (p *program) environment() device.Environment {
	return device.Environment{
		Log: p.logger(), Now: p.now, Built: builtAt(), Version: releaseVersion(), Program: programPath(), Random: rand.Reader,
		Output: p.children, Outside: child.FindOutside(os.Getenv), Hook: os.Getenv(device.HookVariable),
		Explain: p.failure, EUID: p.euid, EGID: p.egid,
	}
}

func (p *program) logger() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(p.stderr)
	l.SetFormatter(plain{})
	switch {
	case p.quiet:
		l.SetLevel(logrus.ErrorLevel)
	case p.verbose:
		l.SetLevel(logrus.DebugLevel)
	default:
		l.SetLevel(logrus.InfoLevel)
	}
	return l
}

// plain writes log entries as the other messages are written: in a line, with
// the fields behind.
type plain struct{}

// Format implements logrus.Formatter.
func (plain) Format(e *logrus.Entry) ([]byte, error) {
	level := ""
	if e.Level <= logrus.WarnLevel {
		level = e.Level.String() + ": "
	}
	return []byte("tandem: " + level + entryText(e) + "\n"), nil
}

// entryText is the message of a log entry, with the fields behind, as one line.
func entryText(e *logrus.Entry) string {
	var b strings.Builder
	b.WriteString(e.Message)
	keys := make([]string, 0, len(e.Data))
	for k := range e.Data {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if v := fmt.Sprint(e.Data[k]); v != "" {
			fmt.Fprintf(&b, " %s=%s", k, v)
		}
	}
	return text.Line(strings.ReplaceAll(b.String(), "\n", ": "))
}

func newVersionCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Example: "  tandem version --json",
		Args:    cli.Exactly(),
		RunE:    func(*cobra.Command, []string) error { return p.printVersion() },
	}
}

// programVersion is the JSON document of version.
type programVersion struct {
	Version string               `json:"version"`
	Commit  string               `json:"commit,omitempty"`
	Built   *time.Time           `json:"built,omitempty"`
	Go      string               `json:"go"`
	System  string               `json:"system"`
	Tandem  *device.TandemStatus `json:"tandem,omitempty"` // what else is there
	Exit    int                  `json:"exit"`
}

func (p *program) printVersion() error {
	doc := programVersion{releaseVersion(), commit, nil, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, p.tandemVersions(), 0}
	if b := builtAt(); !b.IsZero() {
		doc.Built = &b
	}
	lines := []string{fmt.Sprintf("tandem %s (%s, %s)", doc.Version, doc.System, doc.Go)}
	if more := besides(doc.Tandem); more != "" {
		lines = append(lines, more)
	}
	return p.print(doc, lines...)
}

// version, commit and built are set by the linker: -X main.version=1.2.3
// -X main.built=SECONDS.
var version, commit, built string

func releaseVersion() string {
	if version == "" {
		return "unreleased"
	}
	return version
}

// builtAt is when this program was built; zero if nobody said.
func builtAt() time.Time {
	s, err := strconv.ParseInt(built, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

// orNone names a version that may be missing.
func orNone(v versioning.Version) string {
	if v.IsZero() {
		return "none"
	}
	return v.String()
}
