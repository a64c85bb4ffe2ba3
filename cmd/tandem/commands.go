package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tandem/agent"
	"tandem/agent/device"
	"tandem/agent/firmware"
	"tandem/backup"
	"tandem/internal/cli"
	"tandem/internal/config"
	"tandem/internal/text"
	"tandem/ota"
	"tandem/packaging/release"
	"tandem/versioning"
)

// reconciled prints what a reconciliation did.
func (p *program) reconciled(res *backup.Result, err error) error {
	doc := device.Describe(res)
	doc.Failure = p.failure(err)
	return p.showReconciliation(doc, err)
}

func (p *program) showReconciliation(doc *device.Reconciliation, err error) error {
	if doc == nil {
		return err
	}
	p.remark(doc.Remarks)
	var lines []string
	switch {
	case err != nil:
	case doc.Said:
		lines = []string{fmt.Sprintf("%s is confirmed: whoever runs its hook goes by that", doc.Version)}
	case doc.Held:
		lines = []string{fmt.Sprintf("%s is not confirmed yet: it is backed up once it is", doc.Version)}
	case doc.Returned:
		lines = []string{fmt.Sprintf("rolled back to %s: in step now", doc.Version)}
	case len(doc.Changed) == 0 && len(doc.Finished) == 0:
		lines = []string{fmt.Sprintf("in step at %s", doc.Version)}
	default:
		lines = []string{fmt.Sprintf("%s: in step at %s now (%s, %s written)", done(doc.Action), doc.Version, text.Count(doc.Files, "file"), text.Size(doc.Bytes))}
	}
	return errors.Join(p.report(doc, lines...), err)
}

// remark tells what a person should know.
func (p *program) remark(remarks []string) {
	for _, r := range remarks {
		p.say("tandem: %s", r)
	}
}

func done(a backup.Action) string {
	switch a {
	case backup.BackUp:
		return "backed up"
	case backup.Restore:
		return "restored"
	case backup.Repair:
		return "repaired"
	case backup.Capture:
		return "configuration captured"
	case backup.RestoreConfig:
		return "configuration restored"
	}
	return "recovered"
}

func newReconcileCommand(p *program, cmd *cobra.Command) *cobra.Command {
	var dryRun, shutdown bool
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the decision, change nothing")
	if cmd.Name() == "backup" {
		cmd.Flags().BoolVar(&shutdown, "shutdown", false, "the machine is about to stop: note its orderly end")
	}
	cmd.Args = cli.Exactly()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		switch {
		case dryRun && shutdown:
			return cli.Usage(cmd, "--dry-run and --shutdown do not go together")
		case dryRun:
			return p.open(device.Look, func(d *device.Device) error { return p.plan(ctx, d, cmd.Name()) })
		case cmd.Name() == "boot":
			return p.boot(ctx)
		}
		return p.open(device.Change, func(d *device.Device) error {
			return p.reconciled(d.Boot(ctx, cmd.Name(), backup.Options{Shutdown: shutdown}))
		})
	}
	return cmd
}

// plan prints what the command would do.
func (p *program) plan(ctx context.Context, d *device.Device, command string) error {
	res, err := d.Foretell(ctx, command)
	doc := device.Describe(res)
	doc.DryRun, doc.Failure = true, p.failure(err)
	p.remark(doc.Remarks)
	var lines []string
	if err == nil || errors.Is(err, device.ErrUnhealthy) {
		what := string(doc.Action)
		if doc.Action == backup.Nothing && len(doc.Finished) > 0 {
			what = "recover"
		}
		lines = []string{fmt.Sprintf("would do: %s (%s)", what, doc.Reason)}
	}
	return errors.Join(p.print(doc, lines...), err)
}

// boot starts the device, by the tandem that is in place after the look.
func (p *program) boot(ctx context.Context) error {
	replaced := false
	start := func(d *device.Device) error {
		if !replaced && d.StartItself(ctx) {
			replaced = true
			return nil
		}
		res, err := d.Start(ctx)
		if outcomes().Knows(err) {
			d.DecidedItself("boot")
		}
		return p.reconciled(res, err)
	}
	if err := p.open(device.Change, start); err != nil || !replaced {
		return err
	}
	if err := goOn(); err != nil {
		p.tell("tandem: the tandem that is in place now cannot be started: %v", err)
	}
	return p.open(device.Change, start)
}

func newBootCommand(p *program) *cobra.Command {
	return newReconcileCommand(p, &cobra.Command{
		Use:   "boot",
		Short: "Bring both sides in step; for the init script",
		Long: `boot finishes what a power cut interrupted, finds out which side holds the
higher version and the newer configuration, and brings the other one in step.
Damaged files are repaired. It is meant to run after the partitions are mounted and
before the application starts; with nothing to do it writes nothing.`,
		Example: `  tandem boot
  tandem boot --dry-run`,
	})
}

func newBackupCommand(p *program) *cobra.Command {
	return newReconcileCommand(p, &cobra.Command{
		Use:   "backup",
		Short: "Bring both sides in step, by hand",
		Long: `backup runs the same reconciler as boot. Run it after a change to the
configuration that must not be lost.

With --shutdown it is the last thing that is done before the partitions are
unmounted: all is made durable, and the orderly end noted. What differs at the
next start was done on purpose, then; without that note what is empty or gone may
be the work of a power cut, and comes back. The next boot uses the note up.`,
		Example: `  tandem backup
  tandem backup --json
  tandem backup --shutdown        # when the machine stops, after the application`,
	})
}

func newStatusCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show both sides",
		Long:    `status shows which version each side holds and whether they are in step.`,
		Example: "  tandem status\n  tandem status --json",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.status(cmd.Context())
			if err != nil {
				return err
			}
			var lines []string
			for _, n := range []backup.SideName{backup.System, backup.UsrData} {
				side := s.Sides[n]
				l := fmt.Sprintf("%-9s %-11s %s", n, side.State, orNone(side.Version))
				if !side.Version.IsZero() {
					l += fmt.Sprintf("  revision %d, %s", side.Revision, text.Count(side.Files, "file"))
				}
				if !side.Previous.IsZero() {
					l += ", previous " + side.Previous.String()
				}
				lines = append(lines, l+"  "+side.Path)
				if side.Detail != "" {
					lines = append(lines, "          "+side.Detail)
				}
			}
			if w := s.Pending; w != nil {
				lines = append(lines, fmt.Sprintf("%s is not confirmed yet (%s)", w.Version, text.Count(w.Starts, "start")))
			}
			lines = append(lines, inStepLine(s))
			for _, v := range s.Revoked {
				lines = append(lines, "revoked: "+v.String())
			}
			for _, f := range s.Firmware {
				l := fmt.Sprintf("firmware %s: %s", f.Name, orNone(f.Version))
				if f.State != firmware.None && f.State != firmware.Done {
					l += fmt.Sprintf("; %s is %s", f.Next.String()+f.Failed.String(), f.State)
				}
				if f.Detail != "" {
					l += ": " + f.Detail
				}
				lines = append(lines, l)
			}
			if l := tandemLines(s.Tandem); len(l) > 1 || besides(s.Tandem) != "" {
				lines = append(lines, l...)
			}
			if e := s.LastUpdate; e != nil {
				lines = append(lines, "last update: "+eventLine(e))
			}
			lines = append(lines, sourceLines(s.Source)...)
			if a := s.Agent; a != nil {
				lines = append(lines, agentLine(a))
				if a.PollError != "" {
					lines = append(lines, "last poll failed: "+a.PollError)
				}
			}
			if s.Newer != nil {
				err = s.Newer
			}
			return errors.Join(p.print(statusDocument{s, p.failure(err)}, lines...), err)
		},
	}
}

// inStepLine says how the sides stand to each other.
func inStepLine(s *device.Status) string {
	states := []backup.State{s.Sides[backup.System].State, s.Sides[backup.UsrData].State}
	switch {
	case s.InStep:
		return "the sides are in step"
	case slices.Contains(states, backup.Unavailable):
		return "whether the sides are in step cannot be told: one of them cannot be used"
	case states[0] == backup.Absent && states[1] == backup.Absent:
		return "there is no application yet: install a bundle with: tandem install FILE"
	}
	return "the sides are not in step: \"tandem boot --dry-run\" tells what would be done"
}

// statusDocument is the JSON document of status.
type statusDocument struct {
	*device.Status
	device.Failure
}

// status asks the agent, if one runs here and answers, or looks by itself.
func (p *program) status(ctx context.Context) (*device.Status, error) {
	cfg, err := config.Load(p.config)
	if err != nil {
		return nil, err
	}
	r, err := p.agentHere(ctx, cfg)
	switch {
	case errors.Is(err, errMute):
		p.say("tandem: warning: %v: this is what lies on the device", err)
		p.say("hint: %s", errMute.Hint())
	case err != nil:
		return nil, err
	case r != nil:
		return r.status(ctx)
	}
	var s *device.Status
	err = p.open(device.Look, func(d *device.Device) (err error) {
		s, err = d.Status(ctx)
		return err
	})
	return s, err
}

// agentLine says what the agent does.
func agentLine(a *device.AgentStatus) string {
	l := "agent: " + a.Doing
	if a.Progress != nil && a.Progress.Total > 0 {
		l += fmt.Sprintf(" (%s, %d %%)", a.Progress.What, a.Progress.Done*100/a.Progress.Total)
	}
	if !a.NextPoll.IsZero() {
		l += ", next poll " + text.Time(a.NextPoll)
	}
	return l
}

func newVerifyCommand(p *program) *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read and check every file of both sides",
		Long: `verify reads every file of both sides and compares it with what the side's
record says. With --repair it repairs what it finds from the other side.`,
		Example: "  tandem verify\n  tandem verify --repair",
		Args:    cli.Exactly(),
		RunE: p.on(device.Change, func(ctx context.Context, d *device.Device) error {
			if repair {
				return p.reconciled(d.Boot(ctx, "verify", backup.Options{Full: true}))
			}
			res, err := d.Verify(ctx)
			if res == nil {
				return err
			}
			doc := verification{Sides: map[backup.SideName]backup.State{}, Problems: []backup.Problem{}, Edited: []located{}, LeftAlone: []located{}, Failure: p.failure(err)}
			var lines []string
			for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
				doc.Sides[s.Side] = s.State
				lines = append(lines, fmt.Sprintf("%-9s %-11s %s", s.Side, s.State, orNone(s.Version)))
				doc.Problems = append(doc.Problems, s.Problems...)
				for _, pr := range s.Problems {
					lines = append(lines, fmt.Sprintf("  %s: %s: %s", pr.Path, pr.Kind, pr.Detail))
				}
				for _, e := range s.Edited {
					doc.Edited = append(doc.Edited, located{s.Side, e})
					lines = append(lines, fmt.Sprintf("  %s: configuration that is not backed up yet", e))
				}
				for _, f := range s.Foreign {
					doc.LeftAlone = append(doc.LeftAlone, located{s.Side, f})
					lines = append(lines, fmt.Sprintf("  %s: %s", f, device.LeftAlone))
				}
			}
			return errors.Join(p.print(doc, lines...), err)
		}),
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "repair what is damaged from the other side")
	return cmd
}

// verification is the JSON document of verify.
type verification struct {
	Sides     map[backup.SideName]backup.State `json:"sides"`
	Problems  []backup.Problem                 `json:"problems"`
	Edited    []located                        `json:"edited"`
	LeftAlone []located                        `json:"left_alone"` // sockets, FIFOs and device nodes
	device.Failure
}

type located struct {
	Side backup.SideName `json:"side"`
	Path backup.Path     `json:"path"`
}

// showUpdate prints what install and update did.
func (p *program) showUpdate(doc *device.Updated, err error) error {
	if doc == nil {
		return err
	}
	p.remark(doc.Remarks)
	var lines []string
	for _, f := range doc.Firmware {
		switch {
		case f.Error != "":
		case f.State == firmware.Done:
			lines = append(lines, fmt.Sprintf("installed %s %s (before: %s)", f.Name, f.Version, orNone(f.From)))
		case f.State == firmware.Restart:
			lines = append(lines, fmt.Sprintf("%s %s is written, and in use after a restart (now: %s)", f.Name, f.Version, orNone(f.From)))
		}
	}
	ofApp := !slices.ContainsFunc(doc.Firmware, func(f device.UpdatedFirmware) bool { return f.Name == doc.App })
	switch {
	case ofApp && !doc.Updated && doc.App == "" && doc.BackedUp:
		line := fmt.Sprintf("nothing newer than %s", orNone(doc.Version))
		if s := doc.Source; s != nil && s.Action != nil && s.Action.Hold != "" {
			line = "nothing was installed: " + s.Action.Hold
		}
		lines = append(lines, line)
	case ofApp && !doc.Updated && doc.App != "" && doc.Error == "":
		lines = append(lines, fmt.Sprintf("%s %s is installed already; --reinstall installs it again", doc.App, doc.Version))
	case ofApp && doc.Recalled && doc.Updated && doc.BackedUp:
		lines = append(lines, returnedLine(doc, "backed up to usr_data"))
	case ofApp && doc.Recalled && doc.Updated && doc.Error == "":
		lines = append(lines, returnedLine(doc, "backed up once it is confirmed"))
	case ofApp && doc.Updated && doc.BackedUp:
		lines = append(lines, installedLine(doc, "backed up to usr_data"))
	case ofApp && doc.Updated && doc.Error == "":
		lines = append(lines, installedLine(doc, "backed up once it is confirmed"))
	}
	return errors.Join(p.report(doc, append(lines, sourceLines(doc.Source)...)...), err)
}

func returnedLine(doc *device.Updated, end string) string {
	return fmt.Sprintf("returned from %s %s, which its publisher recalled, to %s; %s", doc.App, doc.From, doc.Version, end)
}

func installedLine(doc *device.Updated, end string) string {
	return fmt.Sprintf("installed %s %s (before: %s), %s written; %s", doc.App, doc.Version, orNone(doc.From), text.Size(doc.Bytes), end)
}

func newInstallCommand(p *program) *cobra.Command {
	var o backup.InstallOptions
	cmd := &cobra.Command{
		Use:   "install FILE",
		Short: "Install a bundle from a file and back it up",
		Long: `install checks the bundle's signature, hardware, application and version,
installs it on system, and backs it up to usr_data at once. A firmware is given
to the handler that [[firmware]] names. The version that is installed is not
installed again: the sides are brought in step. A FILE of "-" is standard input.`,
		Example: `  tandem install /mnt/usb/hello-1.1.0.tandem
  tandem install --allow-downgrade hello-1.0.0.tandem`,
		Args: cli.Exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"allow_downgrade": {strconv.FormatBool(o.AllowDowngrade)}, "allow_revoked": {strconv.FormatBool(o.AllowRevoked)},
				"reinstall": {strconv.FormatBool(o.Reinstall)}, "tight": {strconv.FormatBool(o.Tight)}}
			open := func() (io.ReadCloser, error) { return os.Open(args[0]) }
			ctx := cmd.Context()
			var body, stream io.Reader
			if args[0] == "-" {
				stream = p.stdin
			} else if info, err := os.Stat(args[0]); err != nil {
				return &hintedError{cli.Usage(cmd, "%s: %w", args[0], cause(err)), "see whether the file is there, and the stick that it is on mounted"}
			} else if info.IsDir() {
				return cli.Usage(cmd, "%s: a directory, expected a bundle", args[0])
			} else {
				f, err := os.OpenFile(args[0], os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait for a writer
				if err != nil {
					return err
				}
				defer f.Close()
				body = handed{f}
				if !info.Mode().IsRegular() {
					stream = &pipe{file: f, wait: writerTime}
				}
			}
			if stream != nil {
				body, open = stream, agent.Once(func() io.ReadCloser { return agent.Stream(ctx, stream) })
			}
			doc, err := carryOut(ctx, p, "/v1/install", query, body, func(d *device.Device) (*device.Updated, error) { return d.RunInstall(ctx, open, o) })
			if f, ok := stream.(*pipe); ok && f.empty {
				err = cli.Usage(cmd, "%s: it is empty, and nobody writes to it: expected a bundle", args[0])
			} else if err != nil && doc == nil {
				err = fmt.Errorf("%s: %w", args[0], err)
			}
			return p.showUpdate(doc, err)
		},
	}
	cmd.Flags().BoolVar(&o.Reinstall, "reinstall", false, "install the version that is installed again")
	cmd.Flags().BoolVar(&o.AllowDowngrade, "allow-downgrade", false, "install an older version; those above it are revoked")
	cmd.Flags().BoolVar(&o.Tight, "tight", false, "of Tandem itself: also where there is no room for two, without a way back")
	cmd.Flags().BoolVar(&o.AllowRevoked, "allow-revoked", false, "install a version that failed here or was taken back")
	return cmd
}

// writerTime is how long somebody may take to begin writing to a FIFO.
const writerTime = 5 * time.Second

// pipe is a file that may have no content yet, such as a FIFO, opened without waiting.
type pipe struct {
	file  *os.File
	wait  time.Duration // for the first byte, or until it is known that somebody writes
	empty bool
}

// Read implements io.Reader. A FIFO that nobody writes to is empty.
func (p *pipe) Read(b []byte) (int, error) {
	wait := p.wait
	if p.wait = 0; wait == 0 {
		return p.file.Read(b)
	}
	conn, err := p.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	_ = conn.Control(func(fd uintptr) {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait/time.Millisecond))
	})
	n, err := p.file.Read(b) // waits for a writer that is there
	p.empty = err == io.EOF
	return n, err
}

// cause returns what an operation on a file failed with, without its name.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// showAnswer prints what the source has.
func (p *program) showAnswer(doc *device.Answer, err error) error {
	if doc == nil {
		return err
	}
	var lines []string
	for _, f := range doc.Firmware {
		switch {
		case f.Error != "":
		case f.Available:
			lines = append(lines, fmt.Sprintf("%s %s is available (installed: %s), %s", f.Name, f.Version, orNone(f.Installed), text.Size(f.Size)))
		case err == nil && f.Name != release.ProgramName: // else that is not known, not all there is to say, or no news
			lines = append(lines, fmt.Sprintf("%s: nothing newer than %s", f.Name, orNone(f.Installed)))
		}
		if f.State != firmware.None {
			lines = append(lines, fmt.Sprintf("%s %s is here: %s", f.Name, f.Unpacked, f.State))
		}
		if p.verbose {
			p.remark(f.Passed)
		}
	}
	if p.verbose {
		p.remark(doc.Passed)
	}
	line := fmt.Sprintf("nothing newer than %s", orNone(doc.Installed))
	if doc.Available {
		line = fmt.Sprintf("%s %s is available (installed: %s), %s", doc.App, doc.Version, orNone(doc.Installed), text.Size(doc.Size))
		switch {
		case doc.Form == ota.Frames:
			line += fmt.Sprintf(", of which %s are to be downloaded", text.Size(doc.Download))
		case doc.Form != "" && doc.Download == 0:
			line += ", downloaded already"
		case doc.Form == ota.DeltaBundle:
			line += ", as a delta bundle"
		}
	}
	if doc.Available || err == nil {
		lines = append(lines, line)
	}
	if r := doc.Recall; r != nil {
		line := fmt.Sprintf("%s %s is recalled by its publisher", doc.App, r.Version)
		switch {
		case r.Stays != "":
			line += ", and stays: " + r.Stays
		case doc.Available:
			line += fmt.Sprintf(": where %s cannot be had the device returns to %s", doc.Version, r.To)
		default:
			line += fmt.Sprintf(": the device returns to %s", r.To)
		}
		lines = append(lines, line)
	}
	lines = append(lines, sourceLines(doc.Source)...)
	return errors.Join(p.print(doc, lines...), err)
}

func newCheckCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Ask the source which release this device should have",
		Long: `check asks the configured source and installs nothing. With --verbose it tells
why each other release is passed over.`,
		Example: "  tandem check\n  tandem check --verbose",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return p.showAnswer(carryOut(ctx, p, "/v1/check", nil, nil, func(d *device.Device) (*device.Answer, error) { return d.RunCheck(ctx) }))
		},
	}
}

func newUpdateCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "update",
		Short: "Ask the source, download, install and back up, once",
		Long: `update asks the configured source, downloads the release that this device should
have, installs it on system and backs it up to usr_data at once. A download that
was cut off goes on where it stopped. Where the publisher recalled the release that
runs, and offers no higher one, it returns to the version before. Firmwares that
the configuration names a handler for come first; one that fails does not keep the
application from its own.`,
		Example: "  tandem update\n  tandem update --json",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return p.showUpdate(carryOut(ctx, p, "/v1/update", nil, nil, func(d *device.Device) (*device.Updated, error) { return d.RunUpdate(ctx) }))
		},
	}
}

func newBumpCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "bump major|minor|patch|VERSION",
		Short: "Make what lies on system a new version and back it up",
		Long: `bump takes the files on system as they are, gives them a new version, and backs
them up. It is for changes made by hand, without a bundle.`,
		Example: "  tandem bump patch\n  tandem bump 2.0.0-rc.1",
		Args:    cli.Exactly("major|minor|patch|VERSION"),

		ValidArgsFunction: cobra.FixedCompletions([]string{"major", "minor", "patch"}, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			var next func(versioning.Version) (versioning.Version, error)
			switch part := versioning.Part(args[0]); part {
			case versioning.Major, versioning.Minor, versioning.Patch:
				next = func(v versioning.Version) (versioning.Version, error) { return v.Bump(part) }
			default:
				v, err := versioning.Parse(args[0])
				if err != nil {
					return cli.Usage(cmd, "%w", err)
				}
				next = func(versioning.Version) (versioning.Version, error) { return v, nil }
			}
			return p.open(device.Change, func(d *device.Device) error {
				res, err := d.Bump(cmd.Context(), next)
				if errors.Is(err, backup.ErrDowngrade) {
					return &hintedError{err, "raise a part of the highest version: tandem bump patch"}
				}
				if res == nil {
					return err
				}
				return p.reconciled(res, err)
			})
		},
	}
}

func newRollbackCommand(p *program) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Return to the version before",
		Long: `rollback revokes the version that is installed, returns to the one before it with
the configuration it had then, and backs that up. The revoked version does not
come back from a source or from the other side.`,
		Example: "  tandem rollback\n  tandem rollback --to 1.0.0",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var v versioning.Version
			if to != "" {
				var err error
				if v, err = versioning.Parse(to); err != nil {
					return cli.Usage(cmd, "--to: %w", err)
				}
			}
			ctx := cmd.Context()
			return p.showReconciliation(carryOut(ctx, p, "/v1/rollback", url.Values{"to": {to}}, nil,
				func(d *device.Device) (*device.Reconciliation, error) { return d.RunRollback(ctx, v) }))
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "return to this `VERSION`, which must be kept on the device")
	_ = cmd.RegisterFlagCompletionFunc("to", p.completeVersions(kept)) // it fails only without such a flag
	return cmd
}

// change opens the device, lets f change it and prints the result.
func (p *program) change(f func(*device.Device) (*backup.Result, error)) error {
	return p.open(device.Change, func(d *device.Device) error {
		res, err := f(d)
		if res == nil && err != nil {
			return err
		}
		return p.reconciled(res, err)
	})
}

func newConfirmCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Say that the installed version is healthy",
		Long: `confirm ends the time in which an installed version is rolled back when it is not
confirmed. With backup = "confirmed" it is backed up now. Said in the start or the
health hook of a version, it is the verdict on that version, and answered at once.`,
		Example: "  tandem confirm",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(p.config)
			if err != nil {
				return err
			}
			if v, said, err := device.Say(cfg); said || err != nil {
				return p.showReconciliation(device.Said(v), err)
			}
			ctx := cmd.Context()
			return p.showReconciliation(carryOut(ctx, p, "/v1/confirm", nil, nil, func(d *device.Device) (*device.Reconciliation, error) { return d.RunConfirm(ctx) }))
		},
	}
}

func newRevokeCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke VERSION",
		Short: "Never choose a version again while anything else is intact",
		Long: `revoke marks a version on both sides. If it is the one that is installed, the one
before it comes back.`,
		Example: "  tandem revoke 1.1.0",
		Args:    cli.Exactly("VERSION"),

		ValidArgsFunction: p.completeVersions(onDisk),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := versioning.Parse(args[0])
			if err != nil {
				return cli.Usage(cmd, "%w", err)
			}
			return p.change(func(d *device.Device) (*backup.Result, error) { return d.Revoke(cmd.Context(), v) })
		},
	}
}

func newUnrevokeCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "unrevoke VERSION",
		Short:   "Take back a revoke",
		Long:    `unrevoke lets a version be chosen and installed again.`,
		Example: "  tandem unrevoke 1.1.0",
		Args:    cli.Exactly("VERSION"),

		ValidArgsFunction: p.completeVersions(revoked),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := versioning.Parse(args[0])
			if err != nil {
				return cli.Usage(cmd, "%w", err)
			}
			return p.open(device.Change, func(d *device.Device) error {
				if err := d.Unrevoke(v); err != nil {
					return err
				}
				doc := struct {
					Unrevoked versioning.Version `json:"unrevoked"`
					device.Failure
				}{v, device.Failure{}}
				return p.report(doc, v.String()+" may be chosen again")
			})
		},
	}
}

func newHistoryCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "history",
		Short:   "Show what happened and when",
		Long:    `history lists what boots, backups, installations and repairs did, oldest first.`,
		Example: "  tandem history\n  tandem history --json",
		Args:    cli.Exactly(),
		RunE: p.on(device.Look, func(_ context.Context, d *device.Device) error {
			events, err := d.History()
			if err != nil {
				return err
			}
			doc := struct {
				Events []device.Event `json:"events"`
				device.Failure
			}{append([]device.Event{}, events...), device.Failure{}}
			var lines []string
			for i := range events {
				lines = append(lines, eventLine(&events[i]))
			}
			return p.print(doc, lines...)
		}),
	}
}

// eventLine writes an event for people.
func eventLine(e *device.Event) string {
	parts := []string{text.Time(e.Time), e.Command}
	if e.Command == "firmware" {
		parts = append(parts, e.Reason) // its name
	}
	if e.Action != "" {
		parts = append(parts, e.Action)
	}
	if !e.Version.IsZero() {
		parts = append(parts, e.Version.String())
	}
	l := strings.Join(parts, " ")
	if !e.From.IsZero() {
		l += " (before: " + e.From.String() + ")"
	}
	if n := len(e.Repaired); n > 0 {
		l += fmt.Sprintf(", %s", text.Count(n, "damaged file"))
	}
	if e.Command == "rollback" && e.Reason != "" {
		l += ", because " + e.Reason
	}
	if e.Error != "" {
		l += ", failed: " + e.Error
	}
	return l
}
