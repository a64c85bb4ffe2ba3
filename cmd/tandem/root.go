package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"tandem/agent"
	"tandem/backup"
	"tandem/internal/cli"
	"tandem/internal/config"
	"tandem/internal/lock"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/trust"
	"tandem/versioning"
)

// program is what the commands know of the world, and the common flags.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool // stderr is one
	now            func() time.Time
	euid, egid     int

	config                 string
	asJSON, quiet, verbose bool
	printed                bool // the JSON document is out
}

// say writes a message for people.
func (p *program) say(format string, args ...any) {
	if !p.quiet {
		fmt.Fprintf(p.stderr, format+"\n", args...)
	}
}

// run is the whole program; it returns the exit code.
func run(ctx context.Context, p *program, args []string) int {
	cmd := newRootCommand(p)
	cmd.SetArgs(args)
	cmd.SetOut(p.stdout)
	cmd.SetErr(p.stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; nothing is lost, the next run goes on from here")
	}
	var u *cli.UsageError
	if errors.As(err, &u) && slices.Contains(args, "--json") {
		p.asJSON = true // what comes after a mistake was not parsed
	}
	f := p.failure(err)
	if p.asJSON && !p.printed {
		_ = p.document(f) // the exit code tells, too
	}
	fmt.Fprintf(p.stderr, "tandem: %s\n", f.Error)
	if f.Hint != "" {
		fmt.Fprintf(p.stderr, "hint: %s\n", f.Hint)
	}
	return f.Exit
}

// failure says what went wrong.
func (p *program) failure(err error) agent.Failure {
	if err == nil {
		return agent.Failure{}
	}
	return agent.Failure{Error: strings.ReplaceAll(err.Error(), "\n", ": "), Hint: hint(err), Exit: exitCode(err)}
}

// document prints the one JSON document of a command.
func (p *program) document(v any) error {
	p.printed = true
	enc := json.NewEncoder(p.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// jsonLine prints one document of several, in a line.
func (p *program) jsonLine(v any) error {
	p.printed = true
	enc := json.NewEncoder(p.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// print gives the result of a command: as a document or as lines.
func (p *program) print(doc any, lines ...string) error {
	if p.asJSON {
		return p.document(doc)
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(p.stdout, l); err != nil {
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

// hintedError is an error whose hint depends on the command.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// Hint says what to do next.
func (e *hintedError) Hint() string { return e.hint }

// exitCode is the design's table of exit codes.
func exitCode(err error) int {
	var u *cli.UsageError
	var r *remoteError
	switch {
	case errors.As(err, &r):
		return r.Exit
	case errors.As(err, &u), errors.Is(err, config.ErrInvalid), errors.Is(err, trust.ErrRoot), errors.Is(err, agent.ErrNoRoot):
		return 2
	case errors.Is(err, lock.ErrBusy):
		return 60
	case errors.Is(err, agent.ErrUnhealthy):
		return 51
	case errors.Is(err, agent.ErrHook):
		return 50
	case errors.Is(err, backup.ErrNoSpace), errors.Is(err, ota.ErrNoSpace):
		return 40
	case errors.Is(err, backup.ErrUnavailable), errors.Is(err, ota.ErrNotWritable):
		return 12
	case errors.Is(err, ota.ErrUnreachable):
		return 30
	case errors.Is(err, ota.ErrRefused):
		return 31
	case errors.Is(err, trust.ErrUntrusted):
		return 20
	case errors.Is(err, bundle.ErrMalformed):
		return 24
	case errors.Is(err, ota.ErrIncompatible):
		return 21
	case errors.Is(err, backup.ErrDowngrade):
		return 22
	case errors.Is(err, backup.ErrRevoked):
		return 23
	case errors.Is(err, backup.ErrNoApplication):
		return 10
	case errors.Is(err, backup.ErrDamage):
		return 11
	}
	return 1
}

// hint says what to do next, where that is plain.
func hint(err error) string {
	var u *cli.UsageError
	var h interface{ Hint() string }
	switch {
	case errors.As(err, &u):
		return fmt.Sprintf("%q tells how it is used", u.Command+" --help")
	case errors.As(err, &h):
		return h.Hint()
	case errors.Is(err, trust.ErrRoot), errors.Is(err, agent.ErrNoRoot):
		return "put the root.json that \"tandem-release repo init\" named there"
	case errors.Is(err, agent.ErrPostponed):
		return "try again later"
	case errors.Is(err, agent.ErrHook):
		return "the hook's output above says why; nothing was changed"
	case errors.Is(err, backup.ErrNothingToReturnTo):
		return "install a bundle of the version that you want, with --allow-downgrade"
	case errors.Is(err, lock.ErrBusy):
		return "wait until it is done, then try again"
	case errors.Is(err, backup.ErrNoSpace), errors.Is(err, ota.ErrNoSpace):
		return "make room on that file system, then try again"
	case errors.Is(err, backup.ErrUnavailable):
		return "mount the partition read-write, or correct path and mount in the configuration"
	case errors.Is(err, trust.ErrUntrusted):
		return "use a bundle that was signed with the keys of this device's root.json"
	case errors.Is(err, bundle.ErrMalformed):
		return "fetch or copy the bundle again"
	case errors.Is(err, ota.ErrIncompatible):
		return "[device] in the configuration says what this device is"
	case errors.Is(err, backup.ErrDowngrade):
		return "--allow-downgrade installs it all the same"
	case errors.Is(err, backup.ErrRevoked):
		return "--allow-revoked installs it all the same"
	case errors.Is(err, backup.ErrNoApplication):
		return "install a bundle with: tandem install FILE"
	case errors.Is(err, backup.ErrDamage):
		return "\"tandem verify\" lists what is damaged; installing a bundle replaces it"
	}
	return ""
}

func newRootCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tandem",
		Short: "Keep an application up to date, and a second copy of it in step",
		Long: `tandem installs releases of an application on the system side of a device, and
keeps a second, complete copy of it on the usr_data side. At boot it brings both
in step: the side with the higher version wins, damaged files are mended from
the other one.

Results go to standard output, messages to standard error.

Exit codes: 0 done or nothing to do, 1 failed, 2 wrong usage or configuration,
10 no application, 11 damage remains, 12 a side is not mounted or not writable,
20 not signed by this device's root, 21 for other hardware or application, 22 not
newer than what is installed, 23 revoked, 24 malformed bundle, 30 source unreachable,
31 source's answer refused, 40 not enough space, 50 hook refused or postponed,
51 unhealthy and rolled back, 60 another tandem is at work.`,
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
			return cli.Usage(cmd, "unknown command %q", args[0])
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return cli.Usage(cmd, "%w", err) })
	f := cmd.PersistentFlags()
	f.StringVar(&p.config, "config", "/etc/tandem.toml", "configuration `FILE`")
	f.BoolVar(&p.asJSON, "json", false, "print one JSON document on standard output")
	f.BoolVarP(&p.quiet, "quiet", "q", false, "no messages but errors")
	f.BoolVarP(&p.verbose, "verbose", "v", false, "more messages")
	cmd.AddCommand(
		newBootCommand(p), newBackupCommand(p), newStatusCommand(p), newVerifyCommand(p),
		newInstallCommand(p), newCheckCommand(p), newUpdateCommand(p), newBumpCommand(p),
		newRollbackCommand(p), newConfirmCommand(p), newRevokeCommand(p), newUnrevokeCommand(p),
		newHistoryCommand(p), newAgentCommand(p), newVersionCommand(p),
	)
	addCompletion(cmd)
	return cmd
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

// open loads the configuration and opens the device.
func (p *program) open(access agent.Access) (*agent.Device, func(), error) {
	cfg, err := config.Load(p.config)
	if err != nil {
		return nil, nil, err
	}
	progress := newProgress(p)
	env := p.environment()
	env.Progress = progress.report
	d, err := agent.Open(cfg, env, access)
	if err != nil {
		return nil, nil, err
	}
	return d, func() {
		progress.end()
		if err := d.Close(); err != nil {
			p.say("tandem: %v", err)
		}
	}, nil
}

// environment is what a device needs of the world.
func (p *program) environment() agent.Environment {
	return agent.Environment{
		Log: p.logger(), Now: p.now, Built: builtAt(), Version: releaseVersion(), Random: rand.Reader,
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

// entryText is the message of a log entry, with the fields behind.
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
	return b.String()
}

func newVersionCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Example: "  tandem version --json",
		Args:    cli.Exactly(),
		RunE: func(*cobra.Command, []string) error {
			doc := struct {
				Version string     `json:"version"`
				Commit  string     `json:"commit,omitempty"`
				Built   *time.Time `json:"built,omitempty"`
				Go      string     `json:"go"`
				System  string     `json:"system"`
			}{releaseVersion(), commit, nil, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if b := builtAt(); !b.IsZero() {
				doc.Built = &b
			}
			return p.print(doc, fmt.Sprintf("tandem %s (%s, %s)", doc.Version, doc.System, doc.Go))
		},
	}
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
	var s int64
	if _, err := fmt.Sscan(built, &s); err != nil {
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
