package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/packaging/bundle"
	"tandem/packaging/delta/encode"
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
			p.say("%s %s to %s: %s, the whole bundle has %s", to.App, from.Version, to.Version, cli.Size(info.Size), cli.Size(two[1].Size()))
			return p.result(out)
		},
	}
	keys.register(cmd)
	cmd.Flags().StringVar(&root, "root", "", "root.json that names the key")
	cmd.Flags().StringVar(&out, "out", "", "file to write")
	effort.register(cmd)
	return cmd
}

// effortFlags say what making patches may cost.
type effortFlags struct {
	workers int
	memory  int64
}

func (e *effortFlags) register(cmd *cobra.Command) {
	cmd.Flags().IntVar(&e.workers, "workers", runtime.GOMAXPROCS(0), "files to make patches of at once")
	cmd.Flags().Int64Var(&e.memory, "memory", 2048, "MiB that patches may need; files that need more come whole")
}

func (e *effortFlags) check(cmd *cobra.Command) error {
	if e.workers < 1 {
		return cli.Usage(cmd, "--workers %d: expected 1 or more", e.workers)
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
			p.say("%s: %d %% of %s", what, tenth*10, cli.Size(total))
		}
	}
}

// openBase opens the bundle that another builds on. Without a name there is
// none.
func openBase(ctx context.Context, file string) (base bundle.Base, closer io.Closer, err error) {
	if file == "" {
		return nil, io.NopCloser(nil), nil
	}
	a, f, err := openArchive(ctx, file)
	if err != nil {
		return nil, nil, err
	}
	return a, f, nil
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
