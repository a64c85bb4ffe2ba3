package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/agent"
	"tandem/backup"
	"tandem/internal/cli"
	"tandem/versioning"
)

const barThrottle = 100 * time.Millisecond

// reconciliation is the JSON document of boot, backup, bump and verify --repair.
type reconciliation struct {
	DryRun    bool               `json:"dry_run,omitempty"`
	Action    backup.Action      `json:"action,omitempty"`
	From      backup.SideName    `json:"from,omitempty"`
	Reason    string             `json:"reason,omitempty"`
	Version   versioning.Version `json:"version"`
	Revision  int                `json:"revision"`
	Held      bool               `json:"held,omitempty"`     // the backup waits for a confirm
	Returned  bool               `json:"returned,omitempty"` // it is the version before a revoked one
	Changed   []backup.SideName  `json:"changed"`
	InPlace   []backup.SideName  `json:"in_place,omitempty"`
	Files     int                `json:"files"`
	Bytes     int64              `json:"bytes"`
	Finished  []backup.Finished  `json:"finished,omitempty"`
	Problems  []backup.Problem   `json:"problems,omitempty"`
	Conflicts []backup.Path      `json:"conflicts,omitempty"`
	Lost      []backup.Path      `json:"lost,omitempty"`
	failure
}

func describe(res *backup.Result) reconciliation {
	doc := reconciliation{Changed: []backup.SideName{}}
	if res == nil {
		return doc
	}
	doc.Action, doc.From, doc.Reason = res.Decision.Action, res.Decision.From, res.Decision.Reason
	doc.Version, doc.Revision, doc.Held, doc.Returned = res.Version, res.Revision, res.Held, res.Returned
	doc.Changed = append(doc.Changed, res.Changed...)
	doc.Files, doc.Bytes = res.Files, res.Bytes
	doc.InPlace, doc.Finished, doc.Conflicts, doc.Lost = res.InPlace, res.Finished, res.Conflicts, res.Lost
	for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
		if s != nil {
			doc.Problems = append(doc.Problems, s.Problems...)
		}
	}
	return doc
}

// reconciled prints what a reconciliation did.
func (p *program) reconciled(res *backup.Result, err error) error {
	doc := describe(res)
	doc.failure = p.failure(err)
	if res != nil {
		p.remarks(res)
	}
	var lines []string
	switch {
	case err != nil:
	case doc.Held:
		lines = []string{fmt.Sprintf("%s is not confirmed yet: it is backed up once it is", doc.Version)}
	case doc.Returned:
		lines = []string{fmt.Sprintf("rolled back to %s: in step now", doc.Version)}
	case len(doc.Changed) == 0 && len(doc.Finished) == 0:
		lines = []string{fmt.Sprintf("in step at %s", doc.Version)}
	default:
		lines = []string{fmt.Sprintf("%s: in step at %s now (%s, %s written)", done(doc.Action), doc.Version, count(doc.Files, "file"), size(doc.Bytes))}
	}
	return errors.Join(p.report(doc, lines...), err)
}

// remarks tells what a person should know of a reconciliation.
func (p *program) remarks(res *backup.Result) {
	if res.Decision.Reason != "" && res.Decision.Action != backup.Nothing {
		p.say("tandem: %s", res.Decision.Reason)
	}
	for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
		if s == nil {
			continue
		}
		if s.Detail != "" && s.State != backup.Damaged {
			p.say("tandem: %s: %s", s.Side, s.Detail)
		}
		for _, pr := range s.Problems {
			p.say("tandem: %s: %s: %s: %s", pr.Side, pr.Path, pr.Kind, pr.Detail)
		}
		for _, f := range s.Foreign {
			p.say("tandem: %s: %s: %s", s.Side, f, leftAlone)
		}
	}
	for _, c := range res.Conflicts {
		p.say("tandem: %s: an edit made here was kept beside the newer configuration", c)
	}
	for _, l := range res.Lost {
		p.say("tandem: %s: captured configuration was lost on both sides", l)
	}
}

const leftAlone = "left alone: neither file, directory nor symbolic link"

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

// count writes a number of things for people.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// size writes bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

func newReconcileCommand(p *program, cmd *cobra.Command) *cobra.Command {
	var dryRun bool
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the decision, change nothing")
	cmd.Args = cli.Exactly()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		access := agent.Change
		if dryRun {
			access = agent.Look
		}
		d, end, err := p.open(access)
		if err != nil {
			return err
		}
		defer end()
		switch {
		case dryRun:
		case cmd.Name() == "boot":
			return p.reconciled(d.Start(cmd.Context()))
		default:
			return p.reconciled(d.Boot(cmd.Context(), cmd.Name(), backup.Options{}))
		}
		res, err := d.Plan(cmd.Context(), backup.Options{})
		doc := describe(res)
		doc.DryRun, doc.failure = true, p.failure(err)
		if res != nil {
			p.remarks(res)
		}
		var lines []string
		if err == nil {
			lines = []string{fmt.Sprintf("would do: %s (%s)", doc.Action, doc.Reason)}
		}
		return errors.Join(p.print(doc, lines...), err)
	}
	return cmd
}

func newBootCommand(p *program) *cobra.Command {
	return newReconcileCommand(p, &cobra.Command{
		Use:   "boot",
		Short: "Bring both sides in step; for the init script",
		Long: `boot finishes what a power cut interrupted, finds out which side holds the
higher version and the newer configuration, and brings the other one in step.
Damaged files are mended. It is meant to run after the partitions are mounted and
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
configuration that must not be lost.`,
		Example: `  tandem backup
  tandem backup --json`,
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
			d, end, err := p.open(agent.Look)
			if err != nil {
				return err
			}
			defer end()
			s, err := d.Status(cmd.Context())
			if err != nil {
				return err
			}
			var lines []string
			for _, n := range []backup.SideName{backup.System, backup.UsrData} {
				side := s.Sides[n]
				l := fmt.Sprintf("%-9s %-11s %s", n, side.State, orNone(side.Version))
				if !side.Version.IsZero() {
					l += fmt.Sprintf("  revision %d, %s", side.Revision, count(side.Files, "file"))
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
				lines = append(lines, fmt.Sprintf("%s is not confirmed yet (%s)", w.Version, count(w.Starts, "start")))
			}
			if s.InStep {
				lines = append(lines, "the sides are in step")
			} else {
				lines = append(lines, "the sides are not in step: \"tandem boot --dry-run\" tells what would be done")
			}
			for _, v := range s.Revoked {
				lines = append(lines, "revoked: "+v.String())
			}
			for _, f := range s.Firmware {
				l := fmt.Sprintf("firmware %s: %s", f.Name, orNone(f.Version))
				if f.State != agent.FirmwareNone && f.State != agent.FirmwareDone {
					l += fmt.Sprintf("; %s is %s", f.Next.String()+f.Failed.String(), f.State)
				}
				if f.Detail != "" {
					l += ": " + f.Detail
				}
				lines = append(lines, l)
			}
			if e := s.LastUpdate; e != nil {
				lines = append(lines, "last update: "+eventLine(e))
			}
			return p.print(s, lines...)
		},
	}
}

func newVerifyCommand(p *program) *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Hash every file of both sides",
		Long: `verify reads every file of both sides and compares it with what the side's
record says. With --repair it mends what it finds from the other side.`,
		Example: "  tandem verify\n  tandem verify --repair",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, end, err := p.open(agent.Change)
			if err != nil {
				return err
			}
			defer end()
			if repair {
				return p.reconciled(d.Boot(cmd.Context(), "verify", backup.Options{Full: true}))
			}
			res, err := d.Verify(cmd.Context())
			if res == nil {
				return err
			}
			doc := verification{Sides: map[backup.SideName]backup.State{}, Problems: []backup.Problem{}, Edited: []located{}, LeftAlone: []located{}, failure: p.failure(err)}
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
					lines = append(lines, fmt.Sprintf("  %s: %s", f, leftAlone))
				}
			}
			return errors.Join(p.print(doc, lines...), err)
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "mend what is damaged from the other side")
	return cmd
}

// verification is the JSON document of verify.
type verification struct {
	Sides     map[backup.SideName]backup.State `json:"sides"`
	Problems  []backup.Problem                 `json:"problems"`
	Edited    []located                        `json:"edited"`
	LeftAlone []located                        `json:"left_alone"` // sockets, FIFOs and device nodes
	failure
}

type located struct {
	Side backup.SideName `json:"side"`
	Path backup.Path     `json:"path"`
}

// updated is the JSON document of install and update.
type updated struct {
	Updated  bool               `json:"updated"`
	App      string             `json:"app,omitempty"`
	From     versioning.Version `json:"from"`
	Version  versioning.Version `json:"version"`
	Bytes    int64              `json:"bytes"`
	New      []backup.Path      `json:"new,omitempty"`
	BackedUp bool               `json:"backed_up"`
	InPlace  bool               `json:"in_place,omitempty"`
	Firmware []firmware         `json:"firmware,omitempty"` // those that something came of
	failure
}

// firmware is what install and update say about one.
type firmware struct {
	Name    string              `json:"name"`
	From    versioning.Version  `json:"from"`
	Version versioning.Version  `json:"version"`
	State   agent.FirmwareState `json:"state"`
	Error   string              `json:"error,omitempty"`
}

// flashed describes what came of firmwares, and gives the errors of those that
// are not installed.
func flashed(results []agent.FirmwareResult) (docs []firmware, lines []string, err error) {
	for _, r := range results {
		if r.State == agent.FirmwareNone && r.Err == nil {
			continue
		}
		doc := firmware{Name: r.Name, From: r.From, Version: r.Version, State: r.State}
		switch {
		case r.Err != nil:
			doc.Error, err = r.Err.Error(), errors.Join(err, r.Err)
		case r.State == agent.FirmwareDone:
			lines = append(lines, fmt.Sprintf("installed %s %s (before: %s)", r.Name, r.Version, orNone(r.From)))
		case r.State == agent.FirmwareRestart:
			lines = append(lines, fmt.Sprintf("%s %s is written, and in use after a restart (now: %s)", r.Name, r.Version, orNone(r.From)))
		}
		docs = append(docs, doc)
	}
	return docs, lines, err
}

// updated prints what came of the firmwares and of the application. A nil
// Update without an error says that there is nothing newer than installed.
func (p *program) updated(u *agent.Update, installed versioning.Version, err error, firmwares ...agent.FirmwareResult) error {
	if u != nil && u.Firmware != nil {
		firmwares = append(firmwares, *u.Firmware)
		err = nil // the result has it
	}
	docs, lines, failed := flashed(firmwares)
	all := errors.Join(err, failed)
	if all != nil && u == nil && docs == nil {
		return all
	}
	var doc updated
	switch {
	case u == nil:
		doc = updated{From: installed, Version: installed, BackedUp: err == nil}
		if err == nil {
			lines = append(lines, fmt.Sprintf("nothing newer than %s", orNone(installed)))
		}
	case u.Firmware != nil:
		doc = updated{Updated: u.Firmware.State == agent.FirmwareDone, App: u.Firmware.Name, From: u.Firmware.From, Version: u.Firmware.Version}
	default:
		var more []string
		doc, more = p.installed(u, err)
		lines = append(lines, more...)
	}
	doc.Firmware, doc.failure = docs, p.failure(all)
	return errors.Join(p.report(doc, lines...), all)
}

// installed describes an installation of the application.
func (p *program) installed(u *agent.Update, err error) (doc updated, lines []string) {
	i := u.Installed
	doc = updated{Updated: true, App: i.App, From: i.From, Version: i.Version, Bytes: i.Bytes, New: i.New, InPlace: i.InPlace}
	doc.BackedUp = err == nil && u.BackUp != nil
	if errors.Is(err, agent.ErrUnhealthy) && u.BackUp != nil {
		doc.Updated, doc.Version = false, u.BackUp.Version
	}
	for _, n := range i.New {
		p.say("tandem: %s: the release's new default, beside a file that was edited here", n)
	}
	if u.BackUp != nil {
		for _, s := range []*backup.Snapshot{u.BackUp.System, u.BackUp.UsrData} {
			if s != nil && s.State == backup.Tagless {
				p.say("tandem: %s: %s", s.Side, s.Detail)
			}
		}
	}
	if err == nil {
		end := "backed up to usr_data"
		if !doc.BackedUp {
			end = "backed up once it is confirmed"
		}
		lines = []string{fmt.Sprintf("installed %s %s (before: %s), %s written; %s", i.App, i.Version, orNone(i.From), size(i.Bytes), end)}
	}
	return doc, lines
}

func newInstallCommand(p *program) *cobra.Command {
	var o backup.InstallOptions
	cmd := &cobra.Command{
		Use:   "install FILE",
		Short: "Install a bundle from a file and back it up",
		Long: `install checks the bundle's signature, hardware, application and version,
installs it on system, and backs it up to usr_data at once. A firmware is given
to the handler that [[firmware]] names. A FILE of "-" is standard input.`,
		Example: `  tandem install /mnt/usb/hello-1.1.0.tandem
  tandem install --allow-downgrade hello-1.0.0.tandem`,
		Args: cli.Exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			open := func() (io.ReadCloser, error) { return os.Open(args[0]) }
			if args[0] == "-" {
				open = once(p.stdin)
			} else if info, err := os.Stat(args[0]); err != nil {
				return cli.Usage(cmd, "%w", err)
			} else if info.IsDir() {
				return cli.Usage(cmd, "%s: a directory, expected a bundle", args[0])
			}
			d, end, err := p.open(agent.Change)
			if err != nil {
				return err
			}
			defer end()
			u, err := d.Install(cmd.Context(), open, o)
			if err != nil && u == nil {
				err = fmt.Errorf("%s: %w", args[0], err)
			}
			return p.updated(u, versioning.Version{}, err)
		},
	}
	cmd.Flags().BoolVar(&o.AllowDowngrade, "allow-downgrade", false, "install a version that is not newer; those above it are revoked")
	cmd.Flags().BoolVar(&o.AllowRevoked, "allow-revoked", false, "install a version that failed here or was taken back")
	return cmd
}

// once gives a stream that cannot be read a second time.
func once(r io.Reader) func() (io.ReadCloser, error) {
	used := false
	return func() (io.ReadCloser, error) {
		if used {
			return nil, errors.New("standard input can be read only once: give the bundle as a file")
		}
		used = true
		return io.NopCloser(r), nil
	}
}

// answer is the JSON document of check.
type answer struct {
	Available bool               `json:"available"`
	Installed versioning.Version `json:"installed"`
	Version   versioning.Version `json:"version,omitzero"`
	Size      int64              `json:"size,omitempty"`
	Passed    []string           `json:"passed"` // the other releases, with the reason
	Firmware  []firmwareAnswer   `json:"firmware,omitempty"`
	failure
}

// firmwareAnswer is what the source has for a firmware.
type firmwareAnswer struct {
	Name      string              `json:"name"`
	Available bool                `json:"available"`
	Installed versioning.Version  `json:"installed"`
	Version   versioning.Version  `json:"version,omitzero"`
	Size      int64               `json:"size,omitempty"`
	State     agent.FirmwareState `json:"state"` // of what was unpacked before
	Passed    []string            `json:"passed"`
	Error     string              `json:"error,omitempty"`
}

// firmwareAnswers describes what the source has for the firmwares, and gives
// the errors of those whose handler does not tell what is installed.
func (p *program) firmwareAnswers(answers []agent.FirmwareAnswer) (docs []firmwareAnswer, lines []string, err error) {
	for _, a := range answers {
		doc := firmwareAnswer{Name: a.Name, Installed: a.Installed, State: a.Pending.State, Passed: []string{}}
		for _, o := range a.Decision.Passed {
			if o.Offer.Release.App != a.Name {
				continue // the application's answer names it
			}
			doc.Passed = append(doc.Passed, o.String())
			if p.verbose {
				p.say("tandem: %s", o)
			}
		}
		best := a.Decision.Best
		switch {
		case a.Err != nil:
			doc.Error, err = a.Err.Error(), errors.Join(err, a.Err)
		case best != nil:
			doc.Available, doc.Version, doc.Size = true, best.Release.Version, best.Size
			lines = append(lines, fmt.Sprintf("%s %s is available (installed: %s), %s", a.Name, doc.Version, orNone(a.Installed), size(best.Size)))
		default:
			lines = append(lines, fmt.Sprintf("%s: nothing newer than %s", a.Name, orNone(a.Installed)))
		}
		if a.Pending.State != agent.FirmwareNone {
			lines = append(lines, fmt.Sprintf("%s %s is here: %s", a.Name, a.Pending.Version, a.Pending.State))
		}
		docs = append(docs, doc)
	}
	return docs, lines, err
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
			d, end, err := p.open(agent.Change)
			if err != nil {
				return err
			}
			defer end()
			firmwares, err := d.CheckFirmware(cmd.Context())
			if err != nil {
				return err
			}
			dec, installed, err := d.Check(cmd.Context())
			if err != nil {
				return err
			}
			doc := answer{Installed: installed, Passed: []string{}}
			var lines []string
			doc.Firmware, lines, err = p.firmwareAnswers(firmwares)
			doc.failure = p.failure(err)
			for _, o := range dec.Passed {
				doc.Passed = append(doc.Passed, o.String())
				if p.verbose {
					p.say("tandem: %s", o)
				}
			}
			line := fmt.Sprintf("nothing newer than %s", orNone(installed))
			if b := dec.Best; b != nil {
				doc.Available, doc.Version, doc.Size = true, b.Release.Version, b.Size
				line = fmt.Sprintf("%s %s is available (installed: %s), %s", b.Release.App, b.Release.Version, orNone(installed), size(b.Size))
			}
			return errors.Join(p.print(doc, append(lines, line)...), err)
		},
	}
}

func newUpdateCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "update",
		Short: "Ask the source, download, install and back up, once",
		Long: `update asks the configured source, downloads the release that this device should
have, installs it on system and backs it up to usr_data at once. A download that
was cut off goes on where it stopped. Firmwares that the configuration names a
handler for come first; one that fails does not keep the application from its own.`,
		Example: "  tandem update\n  tandem update --json",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, end, err := p.open(agent.Change)
			if err != nil {
				return err
			}
			defer end()
			firmwares, err := d.UpdateFirmware(cmd.Context())
			if err != nil { // of the source: the application cannot do better
				return p.updated(nil, versioning.Version{}, err, firmwares...)
			}
			u, installed, err := d.Update(cmd.Context())
			return p.updated(u, installed, err, firmwares...)
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
			d, end, err := p.open(agent.Change)
			if err != nil {
				return err
			}
			defer end()
			res, err := d.Bump(cmd.Context(), next)
			if errors.Is(err, backup.ErrDowngrade) {
				return &hintedError{err, "raise a part of the highest version: tandem bump patch"}
			}
			if res == nil {
				return err
			}
			return p.reconciled(res, err)
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
			return p.change(func(d *agent.Device) (*backup.Result, error) { return d.Rollback(cmd.Context(), v) })
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "return to this `VERSION`, which must be kept on the device")
	return cmd
}

// change opens the device, lets f change it and prints the result.
func (p *program) change(f func(*agent.Device) (*backup.Result, error)) error {
	d, end, err := p.open(agent.Change)
	if err != nil {
		return err
	}
	defer end()
	res, err := f(d)
	if res == nil && err != nil {
		return err
	}
	return p.reconciled(res, err)
}

func newConfirmCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Take the installed version for healthy",
		Long: `confirm ends the time in which an installed version is rolled back when it is not
confirmed. With backup = "confirmed" it is backed up now.`,
		Example: "  tandem confirm",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.change(func(d *agent.Device) (*backup.Result, error) { return d.Confirm(cmd.Context()) })
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
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := versioning.Parse(args[0])
			if err != nil {
				return cli.Usage(cmd, "%w", err)
			}
			return p.change(func(d *agent.Device) (*backup.Result, error) { return d.Revoke(cmd.Context(), v) })
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
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := versioning.Parse(args[0])
			if err != nil {
				return cli.Usage(cmd, "%w", err)
			}
			d, end, err := p.open(agent.Change)
			if err != nil {
				return err
			}
			defer end()
			if err := d.Unrevoke(v); err != nil {
				return err
			}
			return p.report(map[string]any{"unrevoked": v}, v.String()+" may be chosen again")
		},
	}
}

func newHistoryCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "Show what happened and when",
		Long: `history lists what boots, backups, installations and repairs did, oldest first.
With --json each event is a document of its own, in a line of its own.`,
		Example: "  tandem history\n  tandem history --json",
		Args:    cli.Exactly(),
		RunE: func(*cobra.Command, []string) error {
			d, end, err := p.open(agent.Look)
			if err != nil {
				return err
			}
			defer end()
			events, err := d.History()
			if err != nil {
				return err
			}
			for i := range events {
				if p.asJSON {
					err = p.jsonLine(&events[i])
				} else {
					_, err = fmt.Fprintln(p.stdout, eventLine(&events[i]))
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// eventLine writes an event for people.
func eventLine(e *agent.Event) string {
	parts := []string{e.Time.Format("2006-01-02 15:04:05Z"), e.Command}
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
		l += fmt.Sprintf(", %s", count(n, "damaged file"))
	}
	if e.Command == "rollback" && e.Reason != "" {
		l += ", because " + e.Reason
	}
	if e.Error != "" {
		l += ", failed: " + e.Error
	}
	return l
}
