package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/digest"
	"tandem/packaging/release"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
	"tandem/versioning"
)

// Commands that change to whom releases are offered.

func checkPercent(cmd *cobra.Command, percent int) error {
	if percent < 0 || percent > 100 {
		return cli.Usage(cmd, "--percent %d: expected 0 to 100", percent)
	}
	return nil
}

// checkChannel checks the channel of a flag, where it is given.
func checkChannel(cmd *cobra.Command, flag, name string) error {
	if cmd.Flags().Changed(flag) && !release.ValidChannel(name) {
		return cli.Usage(cmd, "--%s %q: expected up to 128 characters without spaces", flag, name)
	}
	return nil
}

func newRepoRolloutCommand(p *program) *cobra.Command {
	var (
		f             publishFlags
		percent       int
		lower, resume bool
		channel       string
		g             guarding
	)
	cmd := &cobra.Command{
		Use:   "rollout REPO [RELEASE] --percent N --keys KEYS",
		Short: "Offer a release to more devices",
		Long: `Offer a release to N per cent of the devices that follow a channel; --channel names it
where the release stands in several. RELEASE is APP/VERSION, VERSION where only one
application has it, or the name of one bundle as "repo list" shows it.

A device's place in a rollout follows from its id and the version, and does not
change: a device that was offered the release at a lower percentage is offered it
at a higher one. A lower percentage needs --allow-lower: it stops further devices,
and takes the release from none that has it ("repo yank" does not either).

--guard REPORTS reads the reports of a fleet, and halts the rollout of each release that
more than --max-failures of the devices which took it fell back from, once at least
--min-devices took it: devices that do not have it are not offered it any more. It is
meant for a timer. It needs the snapshot and the timestamp key only, and never raises,
promotes or recalls; without --keys it prints what is to be halted, and ends with exit
code 3. With RELEASE it looks at that one alone. Releases of delegated roles are halted
as any other.

` + reportsHelp + `

With --resume a rollout that is halted goes on, at the percentages that it had. That
needs the snapshot and the timestamp key only, too.`,
		Example: `  tandem-release repo rollout repo hello/1.1.0 --percent 25 --keys keys
  tandem-release repo rollout repo hello/1.1.0 --percent 5 --channel stable --keys keys
  tandem-release repo rollout repo --guard /var/lib/reports --max-failures 5% --min-devices 20 --keys online
  tandem-release repo rollout repo hello/1.1.0 --resume --keys online`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("guard") && len(args) == 1 {
				return nil
			}
			return cli.Exactly("REPO", "RELEASE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, flag := range []string{"max-failures", "min-devices", "reports-token-file"} {
				if cmd.Flags().Changed(flag) && !cmd.Flags().Changed("guard") {
					return cli.Usage(cmd, "--%s goes with --guard", flag)
				}
			}
			if cmd.Flags().Changed("guard") {
				if f.out != "" || resume || cmd.Flags().Changed("percent") || cmd.Flags().Changed("channel") {
					return cli.Usage(cmd, "--guard only halts: it goes with none of --percent, --channel, --resume and --out")
				}
				if g.reports == "" {
					return cli.Usage(cmd, "--guard is empty: expected a directory or a URL of reports")
				}
				name := ""
				if len(args) > 1 {
					name = args[1]
				}
				return p.guard(cmd, &f, &g, args[0], name)
			}
			if resume {
				if f.out != "" || cmd.Flags().Changed("percent") {
					return cli.Usage(cmd, "--resume lets the rollout go on as it was: it goes with neither --out nor --percent")
				}
				return p.resume(cmd, &f, args[0], args[1])
			}
			if !cmd.Flags().Changed("percent") {
				return cli.Usage(cmd, "--percent is missing")
			}
			if err := checkPercent(cmd, percent); err != nil {
				return err
			}
			if err := checkChannel(cmd, "channel", channel); err != nil {
				return err
			}
			what := fmt.Sprintf("is offered to %d %% of devices", percent)
			if channel != "" {
				what += " in the channel " + channel
			}
			return p.edit(cmd, &f, args[0], what, func(r *repository.Repository) ([]release.Target, *repository.Change, error) {
				return r.StageRollout(args[1], channel, percent, lower)
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().IntVar(&percent, "percent", 0, "per cent of the devices, 0 to 100")
	cmd.Flags().BoolVar(&lower, "allow-lower", false, "allow a lower percentage than before")
	cmd.Flags().StringVar(&channel, "channel", "", "`CHANNEL` that it is about (default: the only one of the release)")
	g.register(cmd)
	cmd.Flags().BoolVar(&resume, "resume", false, "let a rollout that is halted go on")
	p.completeChannels(cmd, "channel")
	return cmd
}

// resume lets rollouts that are halted go on.
func (p *program) resume(cmd *cobra.Command, f *publishFlags, repo, name string) error {
	return p.change(cmd, f, repo, nil, func(r *repository.Repository, keys *signing.Ring) error {
		s, err := r.Status()
		if err != nil {
			return err
		}
		found, err := repository.Find(s.Releases, name)
		if err != nil {
			return err
		}
		var sums []digest.SHA256
		for i := range found {
			sums = append(sums, found[i].Release)
		}
		n, err := r.Halt(keys, true, sums...)
		switch {
		case err != nil:
			return err
		case n == 0:
			p.say("the rollout of %s is not halted", name)
		default:
			p.say("the rollout of %s %s goes on", found[0].App, found[0].Version)
		}
		return nil
	})
}

func newRepoPromoteCommand(p *program) *cobra.Command {
	var (
		f       publishFlags
		percent int
		to      string
		deltas  int
		effort  effortFlags
	)
	cmd := &cobra.Command{
		Use:   "promote REPO RELEASE --to CHANNEL --keys KEYS",
		Short: "Offer a release in one more channel",
		Long: `Offer a release in one more channel as well: the bytes that were tested there are the
bytes that ship here. All bundles of the release go along, for every hardware, and
delta bundles where the release is the channel's newest. The percentage is that of the
new channel; in the others nothing changes. RELEASE is named as for "repo rollout".

--deltas N makes delta bundles from the last N releases of the new channel, as "repo
add" does, where there are none yet: devices there come from other releases.

"repo yank --from CHANNEL" and "repo remove --from CHANNEL" take it out of a channel.`,
		Example: `  tandem-release repo promote repo hello/1.2.0 --to stable --keys keys
  tandem-release repo promote repo hello/1.2.0 --to stable --percent 5 --deltas 3 --keys keys`,
		Args: cli.Exactly("REPO", "RELEASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return cli.Usage(cmd, "--to is missing: expected a channel")
			}
			if err := checkChannel(cmd, "to", to); err != nil {
				return err
			}
			if err := checkPercent(cmd, percent); err != nil {
				return err
			}
			if err := checkDeltas(cmd, &f, deltas, &effort); err != nil {
				return err
			}
			var ends []func() // of what the delta bundles are read from
			defer func() {
				for _, end := range ends {
					end()
				}
			}()
			what := fmt.Sprintf("is offered to %s in the channel %s", devices(percent), to)
			return p.change(cmd, &f, args[0], nil, func(r *repository.Repository, keys *signing.Ring) error {
				var making func(release.Target) ([]repository.Delta, error)
				if deltas > 0 {
					making = func(rel release.Target) ([]repository.Delta, error) {
						m := deltaMaking{program: p, repo: r, dir: args[0], bundle: filepath.Join(args[0], repository.File(rel)), channel: to, keys: keys, effort: effort}
						made, done, err := m.make(cmd.Context(), deltas)
						if err == nil {
							ends = append(ends, done)
						}
						return made, err
					}
				}
				return p.edited(cmd, &f, r, keys, what, func() ([]release.Target, *repository.Change, error) {
					return r.StagePromote(cmd.Context(), args[1], to, percent, making)
				})
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().StringVar(&to, "to", "", "`CHANNEL` that it is to be offered in, too")
	cmd.Flags().IntVar(&percent, "percent", 100, "per cent of the devices there that it is offered to")
	cmd.Flags().IntVar(&deltas, "deltas", 0, "how many releases before, in that channel, to make delta bundles from")
	effort.register(cmd)
	p.completeChannels(cmd, "to")
	return cmd
}

func newRepoYankCommand(p *program) *cobra.Command {
	var (
		f              publishFlags
		undo, recall   bool
		urgent         bool
		from, returnTo string
		percent        int
	)
	cmd := &cobra.Command{
		Use:   "yank REPO RELEASE --keys KEYS",
		Short: "Take a release back",
		Long: `Take a release back: no device chooses it any more, in any channel, or in the one that
--from names. Devices that have it keep it until a higher version is published.
RELEASE is named as for "repo rollout".

With --recall devices that run it are told to return to a version that they kept, or
to the one that --to names and no other: N per cent of them, by --percent, in their
maintenance window unless --urgent is given. A device returns once, with its hooks and
health check; where the version that it returned to is unhealthy, the recalled one
comes back and stays. A device that kept nothing stays, and reports it. Where a higher
version is offered, the device takes that one instead.

With --undo the release is offered again, and not recalled any more. Devices that
returned do not take it again: raise its version.`,
		Example: `  tandem-release repo yank repo hello/1.1.0 --keys keys
  tandem-release repo yank repo hello/1.1.0 --from stable --keys keys
  tandem-release repo yank repo hello/1.1.0 --recall --percent 10 --keys keys`,
		Args: cli.Exactly("REPO", "RELEASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			y := repository.Yanking{From: from, Undo: undo}
			switch {
			case recall && undo, recall && from != "":
				return cli.Usage(cmd, "--recall is of the release in every channel: it goes with neither --from nor --undo")
			case !recall && (returnTo != "" || urgent || cmd.Flags().Changed("percent")):
				return cli.Usage(cmd, "--to, --percent and --urgent say how a release is recalled: --recall is missing")
			}
			if err := checkChannel(cmd, "from", from); err != nil {
				return err
			}
			what := "is taken back"
			if undo {
				what = "is offered again"
			}
			if from != "" {
				what += map[bool]string{false: " from", true: " in"}[undo] + " the channel " + from
			}
			if recall {
				if err := checkPercent(cmd, percent); err != nil {
					return err
				}
				y.Recall = &release.Recall{Rollout: percent, Urgent: urgent}
				what += fmt.Sprintf(", and recalled from %s that run it", devices(percent))
				if returnTo != "" {
					v, err := versioning.Parse(returnTo)
					if err != nil {
						return cli.Usage(cmd, "--to: %w", err)
					}
					y.Recall.To = v
					what += fmt.Sprintf(" to %s", v)
				}
			}
			return p.edit(cmd, &f, args[0], what, func(r *repository.Repository) ([]release.Target, *repository.Change, error) {
				list, c, err := r.StageYank(args[1], y)
				if err == nil && undo && from == "" {
					p.sayStillYanked(list)
				}
				return list, c, err
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().BoolVar(&undo, "undo", false, "offer it again")
	cmd.Flags().StringVar(&from, "from", "", "take it back from this `CHANNEL` only")
	cmd.Flags().BoolVar(&recall, "recall", false, "tell devices that run it to return")
	cmd.Flags().StringVar(&returnTo, "to", "", "with --recall: `VERSION` to return to (default: the highest that a device kept)")
	cmd.Flags().IntVar(&percent, "percent", 100, "with --recall: per cent of the devices that run it")
	cmd.Flags().BoolVar(&urgent, "urgent", false, "with --recall: devices do not wait for their maintenance window")
	p.completeChannels(cmd, "from")
	return cmd
}

// sayStillYanked tells of channels that releases were taken back from by name,
// which offering them again everywhere leaves as it is.
func (p *program) sayStillYanked(list []release.Target) {
	for i := range list {
		for _, name := range list[i].ChannelNames() {
			if list[i].Channels[name].Yanked {
				p.say("%s %s for %s stays taken back from the channel %s: --from %s --undo offers it there", list[i].App, list[i].Version,
					strings.Join(list[i].Compatible, ", "), name, name)
			}
		}
	}
}

func newRepoRemoveCommand(p *program) *cobra.Command {
	var (
		f    publishFlags
		from string
	)
	cmd := &cobra.Command{
		Use:   "remove REPO RELEASE --keys KEYS",
		Short: "Take an old release off the list",
		Long: `Take a release off the list that devices read, which should stay short, or with --from
out of one of its channels. RELEASE is named as for "repo rollout". Delta bundles that
make it or build on it go with it: devices that have it fetch what changed from the whole
bundle. Bundles stay, for devices that are fetching them, and their paths are printed: they
can be deleted later. To take back a bad release, yank it: a version that is off the list
could be published again by mistake. One that is recalled stays on the list.`,
		Example: `  tandem-release repo remove repo hello/1.0.0 --keys keys
  tandem-release repo remove repo hello/1.0.0 --from beta --keys keys`,
		Args: cli.Exactly("REPO", "RELEASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkChannel(cmd, "from", from); err != nil {
				return err
			}
			what := "is off the list"
			if from != "" {
				what = "is out of the channel " + from
			}
			return p.edit(cmd, &f, args[0], what, func(r *repository.Repository) ([]release.Target, *repository.Change, error) {
				return r.StageRemove(args[1], from)
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().StringVar(&from, "from", "", "take it out of this `CHANNEL` only")
	p.completeChannels(cmd, "from")
	return cmd
}

// edit changes releases, and prints the bundles that it was about, or the file
// that holds the change.
func (p *program) edit(cmd *cobra.Command, f *publishFlags, repo, what string, stage func(*repository.Repository) ([]release.Target, *repository.Change, error)) error {
	return p.change(cmd, f, repo, nil, func(r *repository.Repository, keys *signing.Ring) error {
		return p.edited(cmd, f, r, keys, what, func() ([]release.Target, *repository.Change, error) { return stage(r) })
	})
}

// edited is edit in a repository that is open.
func (p *program) edited(cmd *cobra.Command, f *publishFlags, r *repository.Repository, keys *signing.Ring, what string, stage func() ([]release.Target, *repository.Change, error)) error {
	list, c, err := stage()
	if err != nil {
		return err
	}
	switch {
	case c == nil:
		what += " already"
	case f.out != "":
		return p.publish(cmd, f, r, c, keys)
	default:
		if err := p.publish(cmd, f, r, c, keys); err != nil {
			return err
		}
	}
	for _, rel := range list {
		p.say("%s %s for %s %s", rel.App, rel.Version, strings.Join(rel.Compatible, ", "), what)
		if err := p.result(repository.File(rel)); err != nil {
			return err
		}
	}
	return nil
}

// checkDeltas checks what says how many delta bundles are made, and what that may take.
func checkDeltas(cmd *cobra.Command, f *publishFlags, deltas int, effort *effortFlags) error {
	if deltas < 0 || deltas > maxDeltas {
		return cli.Usage(cmd, "--deltas %d: expected 0 to %d", deltas, maxDeltas)
	}
	if deltas > 0 && f.out != "" {
		return cli.Usage(cmd, "--deltas needs the keys: it does not go with --out")
	}
	return effort.check(cmd)
}
