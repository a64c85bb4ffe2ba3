package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
)

func newRepoCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repo",
		Short: "Make a repository, publish in it, serve it",
		Long: `A repository is a directory of plain files, signed as The Update Framework (TUF)
says. Any web server, object store or CDN can serve it.

Keys may live apart. A command that changes a repository writes the change to a
file with --out instead of publishing it; "repo sign" signs the file where the
root or targets keys are, and "repo apply" publishes it where the others are.`,
		Example: `  tandem-release repo init repo --keys keys > root.json
  tandem-release repo add repo hello-1.1.0.tandem --keys keys`,
	}
	cli.Group(cmd)
	cmd.AddCommand(
		newRepoInitCommand(p), newRepoAddCommand(p), newRepoListCommand(p), newRepoStatusCommand(p), newRepoCheckCommand(p),
		newRepoRolloutCommand(p), newRepoPromoteCommand(p), newRepoYankCommand(p), newRepoRemoveCommand(p),
		newRepoRefreshCommand(p), newRepoRotateCommand(p), newRepoSignCommand(p), newRepoApplyCommand(p),
		newRepoResignCommand(p), newRepoServeCommand(p),
	)
	return cmd
}

func newRepoInitCommand(p *program) *cobra.Command {
	var (
		f     publishFlags
		needs []string
	)
	cmd := &cobra.Command{
		Use:   "init REPO --keys KEYS",
		Short: "Make an empty repository",
		Long: `Make an empty repository in the directory REPO and print its root.json: the file
that goes on devices and tells them whom to trust. It lies in REPO/root.json, too.
The directory is made if it is missing.

Keys may lie in several directories, one --keys for each: all keys of a role can
sign for it, and --threshold says how many must sign together (default: one).

The root and the list of releases are valid for ten years, the snapshot and the
timestamp for one year from each publishing, or the days that --valid says.`,
		Example: `  tandem-release repo init repo --keys keys > root.json
  tandem-release repo init repo --keys alice --keys bob --keys online --threshold root=2`,
		Args: cli.Exactly("REPO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			counts, err := thresholds(cmd, needs)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			return p.change(cmd, &f, args[0], nil, func(r *repository.Repository, k *signing.Ring) error {
				root, err := r.Init(k, counts...)
				if err != nil {
					return err
				}
				data, err := os.ReadFile(root)
				if err != nil {
					return err
				}
				p.say("this is %s: copy it to your devices, as the file that \"root\" in the section [trust] of tandem.toml names", root)
				_, err = p.stdout.Write(data) // to the byte: it may be compared
				return err
			})
		},
	}
	f.register(cmd, false)
	cmd.Flags().StringArrayVar(&needs, "threshold", nil, "`ROLE=N`: how many keys must sign for a role (repeatable)")
	return cmd
}

func newRepoAddCommand(p *program) *cobra.Command {
	var (
		f       publishFlags
		o       repository.AddOptions
		percent int
		deltas  int
		effort  effortFlags
	)
	cmd := &cobra.Command{
		Use:   "add REPO FILE --keys KEYS",
		Short: "Publish a bundle",
		Long: `Check a bundle as a device would, copy it into the repository REPO and publish it.
The bundle must be signed by the repository's targets key, and its version must be
new. A power cut at any time leaves a repository that devices accept.

--percent offers it to part of the devices at first; "repo rollout" to more. Where
--urgent is given devices do not wait for their maintenance window.

--deltas N makes delta bundles from the last N releases of the channel, and publishes
them with it, so that devices which have one of these fetch what changed. Only
those to a channel's newest release stay on the list. --workers and --memory bound what
making them takes.

A bundle that is there already but was signed anew, after a change of the targets
key, takes the place of the old one; channels, rollouts and marks stay, its delta
bundles go off the list.`,
		Example: `  tandem-release repo add repo hello-1.1.0.tandem --keys keys
  tandem-release repo add repo hello-1.1.0.tandem --keys keys --deltas 3
  tandem-release repo add repo hello-1.1.0.tandem --keys keys --percent 5
  tandem-release repo add repo hello-1.2.0-rc.1.tandem --keys keys --channel beta`,
		Args: cli.Exactly("REPO", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Channel == "" {
				return cli.Usage(cmd, "--channel is empty")
			}
			if err := checkChannel(cmd, "channel", o.Channel); err != nil {
				return err
			}
			if err := checkPercent(cmd, percent); err != nil {
				return err
			}
			o.Rollout = &percent
			if err := checkDeltas(cmd, &f, deltas, &effort); err != nil {
				return err
			}
			if err := f.check(cmd); err != nil {
				return err
			}
			src, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer src.Close()
			return p.change(cmd, &f, args[0], nil, func(r *repository.Repository, k *signing.Ring) error {
				if deltas > 0 {
					m := deltaMaking{program: p, repo: r, dir: args[0], bundle: args[1], channel: o.Channel, keys: k, effort: effort}
					made, done, err := m.make(cmd.Context(), deltas)
					if err != nil {
						return err
					}
					defer done()
					o.Deltas = made
				}
				if f.out == "" {
					rel, err := r.Add(cmd.Context(), src, k, o)
					if err != nil {
						return fmt.Errorf("%s: %w", args[1], err)
					}
					p.say("published %s %s %s", rel.App, rel.Version, offered(&rel, "offered"))
					if err := p.warnSize(r); err != nil {
						return err
					}
					err = p.result(repository.File(rel))
					return err
				}
				rel, c, err := r.StageAdd(cmd.Context(), src, o)
				if err != nil {
					return fmt.Errorf("%s: %w", args[1], err)
				}
				p.say("staged %s %s %s", rel.App, rel.Version, offered(&rel, "to be offered"))
				return p.publish(cmd, &f, r, c, k)
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().StringVar(&o.Channel, "channel", repository.DefaultChannel, "`CHANNEL` that the release is for")
	cmd.Flags().IntVar(&percent, "percent", 100, "per cent of the devices that it is offered to")
	cmd.Flags().BoolVar(&o.Urgent, "urgent", false, "devices do not wait for their maintenance window")
	p.completeChannels(cmd, "channel")
	cmd.Flags().IntVar(&deltas, "deltas", 0, "how many releases before to make delta bundles from")
	effort.register(cmd)
	return cmd
}

// maxDeltas is from how many releases delta bundles are made.
const maxDeltas = 32

// offered says in which channels a release stands, and for whom.
func offered(rel *release.Target, how string) string {
	var parts []string
	for _, name := range rel.ChannelNames() {
		parts = append(parts, fmt.Sprintf("on channel %s, %s to %s", name, how, devices(rel.Channels[name].Rollout)))
	}
	return strings.Join(parts, "; ")
}

// devices says how much of a fleet a percentage is.
func devices(percent int) string {
	if percent == 100 {
		return "all devices"
	}
	return fmt.Sprintf("%d %% of the devices", percent)
}

func newRepoResignCommand(p *program) *cobra.Command {
	var (
		f   publishFlags
		all bool
	)
	cmd := &cobra.Command{
		Use:   "resign REPO [RELEASE...] --keys KEYS",
		Short: "Sign bundles anew after a change of keys",
		Long: `Sign those bundles of a repository anew that devices do not trust any more, since
the targets key was changed, and publish them in the place of the old ones, at the
same channels, rollouts and marks. RELEASE is named as for "repo rollout"; with --all it
is every release that is not yanked. Bundles that devices trust stay as they are, and
old ones stay beside the new, for devices that are fetching them.

It needs the new targets key here: what it signs is the bundle itself. The files that
you kept elsewhere are not touched: sign them with "bundle sign".`,
		Example: `  tandem-release repo resign repo --all --keys keys`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all == (len(args) > 1):
				return cli.Usage(cmd, "expected the releases to sign, or --all")
			case f.out != "":
				return cli.Usage(cmd, "--out cannot be given: the bundles are signed where the repository is")
			}
			return p.change(cmd, &f, args[0], nil, func(r *repository.Repository, k *signing.Ring) error {
				root, err := r.Root()
				if err != nil {
					return err
				}
				dir, err := fsys.OpenOS(args[0])
				if err != nil {
					return err
				}
				defer dir.Close()
				var s bundle.Signing
				if s.Sign, err = signing.ForBundle(k, root); err != nil {
					return err
				}
				if s.Roots, s.FirstRoot, err = repository.Carried(dir, root); err != nil {
					return err
				}
				done, c, err := r.StageResign(cmd.Context(), s, args[1:]...)
				if err != nil {
					return err
				}
				if c == nil {
					p.say("devices trust all of them")
					return nil
				}
				if err := p.publish(cmd, &f, r, c, k); err != nil {
					return err
				}
				for _, rel := range done {
					p.say("%s %s for %s is signed anew", rel.App, rel.Version, strings.Join(rel.Compatible, ", "))
					if err := p.result(repository.File(rel)); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f.register(cmd, false)
	cmd.Flags().BoolVar(&all, "all", false, "every release that is not yanked")
	return cmd
}

func newRepoServeCommand(p *program) *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "serve REPO",
		Short: "Serve a repository over HTTP, for trials",
		Long: `Serve the repository REPO over HTTP until told to stop, and print its URL. Ranges
and entity tags are supported. It is meant for trials and for use behind a proxy
that speaks TLS; for a fleet any web server that serves files will do.

With port 0 the system picks a free port.`,
		Example: `  tandem-release repo serve repo
  tandem-release repo serve repo --listen 127.0.0.1:0`,
		Args: cli.Exactly("REPO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.serve(cmd.Context(), args[0], listen)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "`ADDRESS` and port to listen on")
	return cmd
}

// serve serves until ctx is done; requests under way get a little time to end.
func (p *program) serve(ctx context.Context, repo, listen string) error {
	root, err := os.OpenRoot(repo)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Stat(repository.RootFile); err != nil {
		return fmt.Errorf("%s: %w: it has no %s", repo, repository.ErrNone, repository.RootFile)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           repository.NewHandler(root),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	if _, err := fmt.Fprintf(p.stdout, "http://%s\n", l.Addr()); err != nil {
		l.Close()
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = server.Shutdown(last)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if e := <-ended; err == nil && !errors.Is(e, http.ErrServerClosed) {
		err = e
	}
	return err
}
