package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/fsys"
	"tandem/internal/text"
	"tandem/packaging/bundle"
	"tandem/packaging/delta/encode"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
)

func newBundleDeltaCommand(p *program) *cobra.Command {
	var (
		root, out string
		keys      keyFlags
		effort    effortFlags
	)
	cmd := &cobra.Command{
		Use:   "delta OLD.tandem NEW.tandem --keys KEYS --root ROOT.json --out FILE",
		Short: "Make a bundle that carries what changed since another release",
		Long: `Make a delta bundle: it carries the release of NEW.tandem for devices that have
that of OLD.tandem, on either side or as the version before. Files that did not
change are left out; those that changed come as patches where that pays, else as
they are. Devices without the old release refuse it, and need NEW.tandem.

A patch is taken where it is a tenth smaller than the file, and takes a slow core
(6 million contexts a second) no longer to apply than what it saves takes a slow
link (2 Mbit/s) to bring. What --config-pattern named is never patched.

The same two bundles give the same bytes, on any machine. All patches are applied
once before the command ends.`,
		Example: `  tandem-release bundle delta hello-1.0.0.tandem hello-1.1.0.tandem \
      --keys keys --root repo/root.json --out hello-1.0.0-1.1.0.tandem`,
		Args: cli.Exactly("OLD.tandem", "NEW.tandem"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if !cmd.Flags().Changed("out") {
				return cli.Usage(cmd, "--out is missing")
			}
			if !keys.given() || root == "" {
				return cli.Usage(cmd, "--keys and --root are both needed: the root must name the key that signs")
			}
			if err := effort.check(cmd); err != nil {
				return err
			}
			o := bundle.DeltaOptions{Maker: effort.pool(), Workers: effort.workers}
			if o.Signing, err = p.signWith(cmd.Context(), &keys, root); err != nil {
				return err
			}
			dir, name, err := openParent(cmd, out)
			if err != nil {
				return err
			}
			defer dir.Close()
			var two [2]*bundle.Archive
			for i, file := range args {
				a, f, err := openArchive(cmd.Context(), file)
				if err != nil {
					return err
				}
				defer f.Close()
				two[i] = a
			}
			o.Progress = p.tenths("patching")
			if err := bundle.MakeDelta(cmd.Context(), two[0], two[1], dir, name, o); err != nil {
				return err
			}
			info, err := dir.Lstat(name)
			if err != nil {
				return err
			}
			from, to := two[0].Manifest(), two[1].Manifest()
			p.say("%s %s to %s: %s, the whole bundle has %s", to.App, from.Version, to.Version, text.Size(info.Size), text.Size(two[1].Size()))
			return p.result(out)
		},
	}
	keys.register(cmd)
	cmd.Flags().StringVar(&root, "root", "", "`ROOT.json` that names the key")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write")
	effort.register(cmd)
	return cmd
}

// effortFlags say what making patches may cost.
type effortFlags struct {
	workers int
	memory  int64
}

func (e *effortFlags) register(cmd *cobra.Command) {
	cmd.Flags().IntVar(&e.workers, "workers", 0, "files to make patches of at once; 0 is one for each processor")
	cmd.Flags().Int64Var(&e.memory, "memory", 2048, "MiB that patches may need; files that need more come whole")
}

func (e *effortFlags) check(cmd *cobra.Command) error {
	if e.workers < 0 {
		return cli.Usage(cmd, "--workers %d: expected 0 or more", e.workers)
	}
	if e.workers == 0 {
		e.workers = runtime.GOMAXPROCS(0)
	}
	if e.memory < 1 {
		return cli.Usage(cmd, "--memory %d: expected 1 MiB or more", e.memory)
	}
	return nil
}

func (e *effortFlags) pool() *encode.Pool { return encode.NewPool(e.workers, e.memory<<20) }

// tenths tells each tenth of what takes long.
func (p *program) tenths(what string) func(done, total int64) {
	told := int64(0)
	return func(done, total int64) {
		if tenth := done * 10 / max(total, 1); total >= 8<<20 && tenth > told {
			told = tenth
			p.say("%s: %d %% of %s", what, tenth*10, text.Size(total))
		}
	}
}

// openArchive opens a whole bundle for reading single files of it.
func openArchive(ctx context.Context, file string) (*bundle.Archive, *os.File, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	var a *bundle.Archive
	if err == nil {
		a, err = bundle.OpenArchive(ctx, f, info.Size(), bundle.Inspect{})
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return a, f, nil
}

// deltaMaking makes the delta bundles that go with a release into a repository.
type deltaMaking struct {
	*program
	repo    *repository.Repository
	dir     string // of the repository
	bundle  string // the release's
	channel string
	keys    *signing.Ring
	effort  effortFlags
}

// make makes delta bundles from the last n releases before, side by side. done removes them.
func (m *deltaMaking) make(ctx context.Context, n int) (deltas []repository.Delta, done func(), err error) {
	var closers []io.Closer
	remove := func() {
		for _, c := range slices.Backward(closers) {
			c.Close()
		}
	}
	defer func() {
		if err != nil {
			remove()
		}
	}()
	to, f, err := openArchive(ctx, m.bundle)
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, f)
	sign, err := m.signing()
	if err != nil {
		return nil, nil, err
	}
	bases, err := m.repo.DeltaBases(to.Manifest(), m.channel, n)
	if err != nil {
		return nil, nil, err
	}
	tmp, err := os.MkdirTemp("", "tandem-release-*")
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, closeFunc(func() error { return os.RemoveAll(tmp) }))
	out, err := fsys.OpenOS(tmp)
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, out)
	o := bundle.DeltaOptions{Maker: m.effort.pool(), Workers: m.effort.workers, Signing: sign}
	froms, errs := make([]*bundle.Archive, len(bases)), make([]error, len(bases))
	var all sync.WaitGroup
	for i, base := range bases {
		from, c, err := m.repo.Archive(ctx, base)
		if err != nil {
			errs[i] = err
			break
		}
		closers = append(closers, c)
		froms[i] = from
		own := o
		own.Progress = m.tenths(fmt.Sprintf("patching %s to %s", base.Version, to.Manifest().Version))
		all.Go(func() { errs[i] = bundle.MakeDelta(ctx, from, to, out, strconv.Itoa(i), own) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	for i, from := range froms {
		info, err := out.Lstat(strconv.Itoa(i))
		if err != nil {
			return nil, nil, err
		}
		versions := fmt.Sprintf("%s to %s", from.Manifest().Version, to.Manifest().Version)
		if info.Size*10 > to.Size()*9 {
			m.say("%s: %s, no gain over the whole bundle: left out", versions, text.Size(info.Size))
			continue
		}
		m.say("%s: %s, the whole bundle has %s", versions, text.Size(info.Size), text.Size(to.Size()))
		f, err := out.Open(strconv.Itoa(i))
		if err != nil {
			return nil, nil, err
		}
		closers = append(closers, f)
		deltas = append(deltas, repository.Delta{Src: f, Base: from})
	}
	return deltas, remove, nil
}

// signing says how the repository's keys sign bundles.
func (m *deltaMaking) signing() (s bundle.Signing, err error) {
	root, err := m.repo.Root()
	if err != nil {
		return s, err
	}
	if s.Sign, err = signing.ForBundle(m.keys, root); err != nil {
		return s, err
	}
	dir, err := fsys.OpenOS(m.dir)
	if err != nil {
		return s, err
	}
	defer dir.Close()
	s.Roots, s.FirstRoot, err = repository.Carried(dir, root)
	return s, err
}

// closeFunc is an io.Closer.
type closeFunc func() error

func (f closeFunc) Close() error { return f() }
