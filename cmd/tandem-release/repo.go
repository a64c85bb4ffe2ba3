package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/fsys"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
)

func newRepoCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repo",
		Short: "Make a repository, publish in it, serve it",
		Long: `A repository is a directory of plain files, signed as The Update Framework (TUF)
says. Any web server, object store or CDN can serve it.`,
		Example: `  tandem-release repo init repo --keys keys
  tandem-release repo add repo hello-1.1.0.tandem --keys keys`,
	}
	group(cmd)
	cmd.AddCommand(newRepoInitCommand(p), newRepoAddCommand(p), newRepoServeCommand(p))
	return cmd
}

// repo opens the repository in dir and the keys, and calls f with both.
func (p *program) repo(dir, keys string, f func(*repository.Repository, signing.Dir) error) error {
	k, err := fsys.OpenOS(keys)
	if err != nil {
		return err
	}
	defer k.Close()
	d, err := fsys.OpenOS(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(repository.New(d, p.now, repository.Expiry{}), signing.Dir{FS: k})
}

func newRepoInitCommand(p *program) *cobra.Command {
	var keys string
	cmd := &cobra.Command{
		Use:   "init REPO --keys KEYS",
		Short: "Make an empty repository",
		Long: `Make an empty repository in the directory REPO and print the path of its root.json:
the file that goes on devices and tells them whom to trust. The directory is made
if it is missing.

The root and the list of releases are valid for ten years, the snapshot and the
timestamp for one year from each publishing.`,
		Example: `  tandem-release repo init repo --keys keys`,
		Args:    exactly("REPO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keys == "" {
				return usage(cmd, "--keys is missing")
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			return p.repo(args[0], keys, func(r *repository.Repository, k signing.Dir) error {
				root, err := r.Init(k)
				if err != nil {
					return err
				}
				p.say("copy this file to your devices, as the file that \"root\" in the section [trust] of tandem.toml names:")
				_, err = fmt.Fprintln(p.stdout, root)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&keys, "keys", "", "directory of the keys to sign with")
	return cmd
}

func newRepoAddCommand(p *program) *cobra.Command {
	var keys, channel string
	cmd := &cobra.Command{
		Use:   "add REPO FILE --keys KEYS",
		Short: "Publish a bundle",
		Long: `Check a bundle as a device would, copy it into the repository REPO and publish it.
The bundle must be signed by the repository's targets key, and its version must be
new. A power cut at any time leaves a repository that devices accept.`,
		Example: `  tandem-release repo add repo hello-1.1.0.tandem --keys keys
  tandem-release repo add repo hello-1.2.0-rc.1.tandem --keys keys --channel beta`,
		Args: exactly("REPO", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keys == "" {
				return usage(cmd, "--keys is missing")
			}
			if channel == "" {
				return usage(cmd, "--channel is empty")
			}
			f, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer f.Close()
			return p.repo(args[0], keys, func(r *repository.Repository, k signing.Dir) error {
				rel, err := r.Add(cmd.Context(), f, k, repository.AddOptions{Channel: channel})
				if err != nil {
					return fmt.Errorf("%s: %w", args[1], err)
				}
				p.say("published %s %s on channel %s", rel.App, rel.Version, rel.Channel)
				_, err = fmt.Fprintln(p.stdout, rel.File())
				return err
			})
		},
	}
	cmd.Flags().StringVar(&keys, "keys", "", "directory of the keys to sign with")
	cmd.Flags().StringVar(&channel, "channel", repository.DefaultChannel, "channel that the release is for")
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
		Args: exactly("REPO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.serve(cmd.Context(), args[0], listen)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address and port to listen on")
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
