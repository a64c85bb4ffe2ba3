package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/fsys"
	"tandem/internal/lock"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
)

const (
	lockFile = ".lock" // in the repository; it is not served
	// warnAt is the part of the room for the list of releases, in per cent,
	// from which on the publisher is warned.
	warnAt = 80
	// maxDays keeps dates within what metadata can say.
	maxDays = 36500
)

// publishFlags are those of all commands that change a repository.
type publishFlags struct {
	keyFlags
	valid int
	out   string
}

// register adds the flags; staged says that the change may go to a file instead.
func (f *publishFlags) register(cmd *cobra.Command, staged bool) {
	f.keyFlags.register(cmd)
	cmd.Flags().IntVar(&f.valid, "valid", 365, "days for which the snapshot and the timestamp are valid")
	if staged {
		cmd.Flags().StringVar(&f.out, "out", "", "publish nothing: write the change to `FILE`, to be signed elsewhere")
	}
}

func (f *publishFlags) check(cmd *cobra.Command) error {
	if f.valid < 1 || f.valid > maxDays {
		return cli.Usage(cmd, "--valid %d: expected 1 to %d days", f.valid, maxDays)
	}
	if cmd.Flags().Changed("out") {
		if f.out == "" {
			return cli.Usage(cmd, "--out is empty")
		}
		return nil
	}
	return f.need(cmd)
}

// change opens the repository in dir and the keys, keeps others from changing
// the repository meanwhile, and calls do.
func (p *program) change(cmd *cobra.Command, f *publishFlags, dir string, more []string, do func(*repository.Repository, *signing.Ring) error) error {
	if err := f.check(cmd); err != nil {
		return err
	}
	return p.ring(cmd.Context(), &f.keyFlags, more, func(keys *signing.Ring) error {
		d, err := openDir(dir, repository.ErrNone)
		if err != nil {
			return err
		}
		defer d.Close()
		days := time.Duration(f.valid) * 24 * time.Hour
		r := repository.New(d, p.now, repository.Expiry{Snapshot: days, Timestamp: days})
		if _, err := d.Lstat(repository.RootFile); err == nil {
			release, err := lock.Acquire(d.Path(lockFile))
			if err != nil {
				return err
			}
			defer func() { _ = release() }() // the kernel does it at the end in any case
		}
		return do(r, keys)
	})
}

// publish applies a change, or writes it to the file that --out names.
func (p *program) publish(cmd *cobra.Command, f *publishFlags, r *repository.Repository, c *repository.Change, keys *signing.Ring) error {
	if f.out == "" {
		if err := r.Apply(c, keys); err != nil {
			return err
		}
		return p.warnSize(r)
	}
	if f.given() {
		if _, err := c.Sign(keys); err != nil {
			return err
		}
	}
	return p.writeChange(cmd, f.out, c)
}

func (p *program) writeChange(cmd *cobra.Command, file string, c *repository.Change) error {
	raw, err := c.Encode()
	if err != nil {
		return err
	}
	dir, name, err := openParent(cmd, file)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := fsys.WriteFile(dir, name, raw, 0o644); err != nil {
		return err
	}
	p.sayMissing(file, c)
	err = p.result(file)
	return err
}

func (p *program) sayMissing(file string, c *repository.Change) {
	missing := c.Missing()
	for _, m := range missing {
		p.say("%s", m)
	}
	if len(missing) > 0 {
		p.say("sign it where the keys are, with: tandem-release repo sign %s --keys KEYS", file)
	} else {
		p.say("all root and targets signatures are there; publish it with: tandem-release repo apply REPO %s --keys KEYS", file)
	}
}

// warnSize says in good time that the list of releases grows too long.
func (p *program) warnSize(r *repository.Repository) error {
	s, err := r.Status()
	if err != nil {
		return err
	}
	if s.TargetsLength*100 >= repository.MaxTargets*warnAt {
		p.say("warning: the list of releases has %d bytes, and devices read at most %d: take old releases off it with \"tandem-release repo remove\"", s.TargetsLength, repository.MaxTargets)
	}
	return nil
}

func newRepoRefreshCommand(p *program) *cobra.Command {
	var (
		f       publishFlags
		targets bool
	)
	cmd := &cobra.Command{
		Use:   "refresh REPO --keys KEYS",
		Short: "Sign snapshot and timestamp anew",
		Long: `Sign the snapshot and the timestamp anew, so that devices go on trusting the
repository. It needs the keys of these two only, and is meant for a timer: the
shorter --valid is, the sooner devices notice that somebody keeps news from them.

With --targets the list of releases is signed anew, too, which its key is needed for.`,
		Example: `  tandem-release repo refresh repo --keys online --valid 7`,
		Args:    cli.Exactly("REPO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.out != "" && !targets {
				return cli.Usage(cmd, "--out is for --targets: snapshot and timestamp are signed where the repository is")
			}
			return p.change(cmd, &f, args[0], nil, func(r *repository.Repository, keys *signing.Ring) error {
				if !targets {
					if err := r.Refresh(keys); err != nil {
						return err
					}
					return p.sayValid(r)
				}
				c, err := r.StageTargets()
				if err != nil {
					return err
				}
				if err := p.publish(cmd, &f, r, c, keys); err != nil || f.out != "" {
					return err
				}
				return p.sayValid(r)
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().BoolVar(&targets, "targets", false, "sign the list of releases, too")
	return cmd
}

func (p *program) sayValid(r *repository.Repository) error {
	s, err := r.Status()
	if err != nil {
		return err
	}
	p.say("devices trust the timestamp until %s", s.Timestamp.Expires.Format(time.RFC3339))
	return nil
}

func newRepoRotateCommand(p *program) *cobra.Command {
	var (
		f         publishFlags
		newKeys   []string
		threshold int
	)
	cmd := &cobra.Command{
		Use:   "rotate REPO ROLE --keys KEYS --new-keys NEWKEYS... [--threshold N]",
		Short: "Change who signs for a role",
		Long: `Let the keys in NEWKEYS, and no others, sign for ROLE: root, targets, snapshot or
timestamp. Each --new-keys names a directory with one key of that role, or its
public half, as "pubkey" writes it. To keep a key, name its directory again. N of
the keys must sign together; without --threshold as many as before.

The change is signed by the root keys in KEYS. For root the new keys sign as well,
and the chain of roots lets every device follow, however old its own is. For another
role two roots are made, so that devices accept the repository at each instant: with
the first the old and the new keys are valid, with the second the new ones alone. No
old key of that role is needed.

A bundle carries a signature of the targets key. After a change of that key sign
those in the repository anew with "repo resign --all".`,
		Example: `  tandem-release repo rotate repo timestamp --keys keys --new-keys new
  tandem-release repo rotate repo root --keys a --keys b --new-keys b --new-keys c --threshold 2`,
		Args: cli.Exactly("REPO", "ROLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(newKeys) == 0 {
				return cli.Usage(cmd, "--new-keys is missing")
			}
			if err := checkRole(cmd, args[1]); err != nil {
				return err
			}
			if cmd.Flags().Changed("threshold") && (threshold < 1 || threshold > len(newKeys)) {
				return cli.Usage(cmd, "--threshold %d: expected 1 to %d, the number of new keys", threshold, len(newKeys))
			}
			return p.change(cmd, &f, args[0], newKeys, func(r *repository.Repository, keys *signing.Ring) error {
				public, err := keys.Public(args[1], newKeys...)
				if err != nil {
					return err
				}
				c, err := r.StageRotate(args[1], public, threshold)
				if err != nil {
					return err
				}
				if f.out != "" {
					return p.writeChange(cmd, f.out, c) // new keys may be public halves only
				}
				if err := p.publish(cmd, &f, r, c, keys); err != nil {
					return err
				}
				for _, line := range c.Describe() {
					p.say("%s", line)
				}
				if args[1] == "targets" {
					p.say("devices refuse bundles without a signature of the new keys: \"tandem-release repo resign %s --all\" signs them anew", args[0])
				}
				err = p.result(filepath.Join(args[0], repository.RootFile))
				return err
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().StringArrayVar(&newKeys, "new-keys", nil, "`DIR` of a key that is to sign for the role (repeatable)")
	cmd.Flags().IntVar(&threshold, "threshold", 0, "how many keys must sign together (default: as many as before)")
	return cmd
}

// readChange reads the file of a change.
func readChange(cmd *cobra.Command, file string) (*repository.Change, error) {
	dir, name, err := openParent(cmd, file)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	raw, err := fsys.ReadFile(dir, name, repository.MaxChange)
	if err != nil {
		return nil, err
	}
	c, err := repository.ParseChange(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

func newRepoSignCommand(p *program) *cobra.Command {
	var (
		keys   keyFlags
		root   string
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "sign FILE --keys KEYS [--root ROOT.json] [--dry-run]",
		Short: "Sign a change of a repository",
		Long: `Sign a change that another command wrote with --out: the file needs no repository
and no network. What it changes is told first; --dry-run tells it and does no more.
Signatures that are there stay, so that several holders of keys can sign in turn.

ROOT.json is a root of the repository that you kept yourself, of whatever version:
with it a change of another repository is refused with exit code 20.`,
		Example: `  tandem-release repo sign change.json --dry-run
  tandem-release repo sign change.json --keys safe --root root.json`,
		Args: cli.Exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !dryRun {
				if err := keys.need(cmd); err != nil {
					return err
				}
			}
			c, err := readChange(cmd, args[0])
			if err != nil {
				return err
			}
			if root != "" {
				trusted, err := loadRoot(root)
				if err != nil {
					return err
				}
				if err := c.Check(trusted); err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
			}
			if dryRun {
				err := p.result(c.Describe()...)
				p.sayMissing(args[0], c)
				return err
			}
			for _, line := range c.Describe() {
				p.say("%s", line)
			}
			return p.ring(cmd.Context(), &keys, nil, func(ring *signing.Ring) error {
				n, err := c.Sign(ring)
				if err != nil {
					return err
				}
				if n == 0 {
					return fmt.Errorf("%s: %w: it asks for no signature of those in %s", args[0], repository.ErrKeys, strings.Join(keys.dirs, ", "))
				}
				return p.writeChange(cmd, args[0], c)
			})
		},
	}
	keys.register(cmd)
	cmd.Flags().StringVar(&root, "root", "", "`ROOT.json` that the change must follow from")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "tell what would be signed, and sign nothing")
	return cmd
}

func newRepoApplyCommand(p *program) *cobra.Command {
	var f publishFlags
	cmd := &cobra.Command{
		Use:   "apply REPO FILE --keys KEYS",
		Short: "Publish a change that was signed elsewhere",
		Long: `Publish the change in FILE once it carries all signatures of root and targets keys.
KEYS need hold the snapshot and the timestamp key only. If the repository has
changed since the change was made it is refused: make it again.

After a power cut give the same command again: it goes on where it was.`,
		Example: `  tandem-release repo apply repo change.json --keys online`,
		Args:    cli.Exactly("REPO", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := readChange(cmd, args[1])
			if err != nil {
				return err
			}
			return p.change(cmd, &f, args[0], nil, func(r *repository.Repository, keys *signing.Ring) error {
				if err := r.Apply(c, keys); err != nil {
					return fmt.Errorf("%s: %w", args[1], err)
				}
				for _, line := range c.Describe() {
					p.say("%s", line)
				}
				return p.warnSize(r)
			})
		},
	}
	f.register(cmd, false)
	return cmd
}

// thresholds reads ROLE=N.
func thresholds(cmd *cobra.Command, flags []string) ([]repository.Threshold, error) {
	var list []repository.Threshold
	for _, text := range flags {
		role, count, _ := strings.Cut(text, "=")
		n, err := strconv.Atoi(count)
		if err != nil {
			return nil, cli.Usage(cmd, "--threshold %q: expected ROLE=N, such as root=2", text)
		}
		if err := checkRole(cmd, role); err != nil {
			return nil, err
		}
		list = append(list, repository.Threshold{Role: role, Count: n})
	}
	return list, nil
}
