package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/fsys"
	"tandem/internal/text"
	"tandem/packaging/release"
	"tandem/packaging/repository"
)

// errProblems says that a check found something.
var errProblems = errors.New("devices would refuse the repository, or part of it")

// openDir opens a directory that a person named. The error wraps missing where there is
// none.
func openDir(name string, missing error) (*fsys.OS, error) {
	d, err := fsys.OpenOS(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: there is no such directory", name, missing)
	}
	return d, err
}

// look opens a repository for reading.
func (p *program) look(dir string, f func(*repository.Repository) error) error {
	d, err := openDir(dir, repository.ErrNone)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(repository.New(d, p.now, repository.Expiry{}))
}

// document is one document in force, as "list --json" has it.
type document struct {
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
}

// listed is one release, as "list --json" has it.
type listed struct {
	App        string   `json:"app"`
	Version    string   `json:"version"`
	Kind       string   `json:"kind"`
	Release    string   `json:"release"` // SHA-256
	Compatible []string `json:"compatible"`
	Base       string   `json:"base,omitempty"`
	Channels   []offer  `json:"channels"`
	Yanked     bool     `json:"yanked"` // from every channel
	Halted     bool     `json:"halted"`
	Urgent     bool     `json:"urgent"`
	Recall     *recall  `json:"recall,omitempty"`
	Role       string   `json:"role,omitempty"` // delegated, that lists it
	Name       string   `json:"name"`
	File       string   `json:"file"`
	Size       int64    `json:"size"` // bytes
	SHA256     string   `json:"sha256"`
}

// offer is how a release is offered in a channel.
type offer struct {
	Name    string `json:"name"`
	Rollout int    `json:"rollout"` // per cent
	Yanked  bool   `json:"yanked"`
}

// recall is what devices that run a release are told.
type recall struct {
	To      string `json:"to,omitempty"`
	Rollout int    `json:"rollout"` // per cent
	Urgent  bool   `json:"urgent"`
}

func newRepoListCommand(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list REPO [--json]",
		Short: "List the releases of a repository",
		Long: `List the releases of a repository, by application and version, and each channel that
they stand in: to how many per cent of the devices they are offered, and for which
hardware. No key is needed. The columns:

RELEASE     application and version, as other commands take them
CHANNEL     devices that follow it, by [source] channels, are offered the release
OFFERED TO  per cent of those devices, by a hash of id and version; "yanked" is to
            none any more, "recalled" tells those that run it to return, "halted" is
            for now to none that does not have it, "urgent" is outside of their
            maintenance window, too
HARDWARE    a device must be one of these, by [device] compatible
BASE        the version that a device must run for this bundle; "-": any or none
SIZE        of the bundle; most devices fetch a part of it ("bundle diff")
BUNDLE      its name, by which one bundle of several of a release is meant

What delegated roles list is there, too, and named on standard error. The metadata
is verified, bundles are not read; "repo check" does that.`,
		Example: `  tandem-release repo list repo
  tandem-release repo list repo --json`,
		Args: cli.Exactly("REPO"),
		RunE: func(_ *cobra.Command, args []string) error {
			return p.look(args[0], func(r *repository.Repository) error {
				s, err := r.Status()
				if err != nil {
					return err
				}
				p.sayRoles(s)
				if asJSON {
					return p.listJSON(s)
				}
				return p.list(s)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

// sayRoles says which releases delegated roles list, and which of those may be missing.
func (p *program) sayRoles(s *repository.Status) {
	for i := range s.Releases {
		if name := s.Releases[i].Name; s.Roles[name] != "" {
			p.say("%s is listed by the delegated role %s", name, s.Roles[name])
		}
	}
	for _, err := range s.Unread {
		p.say("left out: %v", err)
	}
}

func (p *program) list(s *repository.Status) error {
	b := bufio.NewWriter(p.stdout)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	if len(s.Releases) > 0 {
		fmt.Fprintln(w, "RELEASE\tCHANNEL\tOFFERED TO\tHARDWARE\tBASE\tSIZE\tBUNDLE")
	}
	for _, r := range s.Releases {
		base := r.Base.String()
		if base == "" {
			base = "-"
		}
		for _, channel := range r.ChannelNames() {
			cells := []string{
				r.App + "/" + r.Version.String(), channel, offeredTo(&r, channel, s.Halts), strings.Join(r.Compatible, ","), base, text.Size(r.Length), r.Name,
			}
			for i := range cells {
				cells[i] = text.Line(cells[i])
			}
			fmt.Fprintln(w, strings.Join(cells, "\t"))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	p.say("%s; root version %d; devices trust the timestamp until %s", text.Count(len(s.Releases), "release"), s.Root.Version, s.Timestamp.Expires.Format(time.RFC3339))
	return nil
}

// offeredTo says to whom a release is offered in a channel.
func offeredTo(r *release.Target, channel string, halts release.Halts) string {
	o := r.Channels[channel]
	text := fmt.Sprintf("%d %%", o.Rollout)
	if r.Yanked || o.Yanked {
		text = "yanked"
	}
	if c := r.Recall; c != nil {
		text += fmt.Sprintf(", recalled %d %%", c.Rollout)
	}
	if halts[r.Release] {
		text += ", halted"
	}
	if r.Urgent {
		text += ", urgent"
	}
	return text
}

func (p *program) listJSON(s *repository.Status) error {
	doc := struct {
		Root         document `json:"root"`
		Targets      document `json:"targets"`
		Snapshot     document `json:"snapshot"`
		Timestamp    document `json:"timestamp"`
		TargetsBytes int64    `json:"targets_bytes"`
		Releases     []listed `json:"releases"`
	}{
		Root: document(s.Root), Targets: document(s.Targets), Snapshot: document(s.Snapshot), Timestamp: document(s.Timestamp),
		TargetsBytes: s.TargetsLength, Releases: []listed{},
	}
	for i := range s.Releases {
		doc.Releases = append(doc.Releases, listedOf(&s.Releases[i], s))
	}
	return p.document(doc)
}

func listedOf(r *release.Target, s *repository.Status) listed {
	l := listed{
		App: r.App, Version: r.Version.String(), Kind: string(r.Kind), Release: r.Release.String(), Compatible: list(r.Compatible),
		Base: r.Base.String(), Yanked: r.Yanked, Halted: s.Halts[r.Release], Urgent: r.Urgent,
		Role: s.Roles[r.Name], Name: r.Name, File: repository.File(*r), Size: r.Length, SHA256: r.SHA256.String(),
	}
	for _, name := range r.ChannelNames() {
		l.Channels = append(l.Channels, offer{name, r.Channels[name].Rollout, r.Channels[name].Yanked})
	}
	if c := r.Recall; c != nil {
		l.Recall = &recall{c.To.String(), c.Rollout, c.Urgent}
	}
	return l
}

func newRepoCheckCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check REPO",
		Short: "Verify a whole repository as devices do",
		Long: `Verify a whole repository as devices do: from its first root along the chain to the
newest, then timestamp, snapshot and the list of releases, with their signatures,
lengths, hashes and dates, and then each bundle with every byte in it. No key is
needed and nothing is changed.

What devices would refuse goes to standard output, one finding in a line, and the
exit code is 1. What only deserves attention goes to standard error.`,
		Example: `  tandem-release repo check repo`,
		Args:    cli.Exactly("REPO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.look(args[0], func(r *repository.Repository) error {
				rep, err := r.Check(cmd.Context())
				if err != nil {
					return err
				}
				for _, n := range rep.Notes {
					p.say("note: %s", n)
				}
				for _, f := range rep.Problems {
					if err := p.result(f.String()); err != nil {
						return err
					}
				}
				p.say("%s, %s, %s of bundles read, %s", text.Count(rep.Roots, "root"), text.Count(rep.Releases, "release"), text.Size(rep.Bytes), text.Count(len(rep.Problems), "problem"))
				if len(rep.Problems) > 0 {
					return fmt.Errorf("%s: %w", args[0], errProblems)
				}
				return nil
			})
		},
	}
	return cmd
}
