package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/cli"
	"tandem/internal/text"
)

// pathArgument reads the name of something below apps, as messages have it.
func pathArgument(cmd *cobra.Command, arg string) (backup.Path, error) {
	var p backup.Path
	err := p.UnmarshalText([]byte(strings.TrimSuffix(arg, "/")))
	if err == nil {
		err = manifest.CheckPath(p)
	}
	if err != nil {
		return "", cli.Usage(cmd, "%w", err)
	}
	return p, nil
}

func newForgetCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "forget PATH",
		Short: "Remove configuration on both sides",
		Long: `forget removes a file of configuration, a database with its journals, or a
directory with what is below it, on system and on usr_data. PATH is below apps, as
messages have it. It does not come back, also not after a power cut, and is not put
aside. What belongs to the application is refused: a release removes it.`,
		Example: "  tandem forget etc/pairing.key",
		Args:    cli.Exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := pathArgument(cmd, args[0])
			if err != nil {
				return err
			}
			return p.named(func(d *device.Device) (*backup.Result, error) { return d.Forget(cmd.Context(), path) })
		},
	}
}

// named is change for what a person asks by name: where there is no such thing
// nothing was done that could be told.
func (p *program) named(f func(*device.Device) (*backup.Result, error)) error {
	return p.change(func(d *device.Device) (*backup.Result, error) {
		res, err := f(d)
		if errors.Is(err, backup.ErrApplicationFile) || errors.Is(err, backup.ErrNoSuchPath) {
			res = nil
		}
		return res, err
	})
}

// asideDocument is the JSON document of recall without a path.
type asideDocument struct {
	Aside []backup.Aside `json:"aside"`
	device.Failure
}

func newRecallCommand(p *program) *cobra.Command {
	var bump bool
	cmd := &cobra.Command{
		Use:   "recall [PATH]",
		Short: "Bring back what was put aside",
		Long: `recall lists what was put aside: edits that lost, what an update or a repair
displaced and nothing else had. With a PATH, as the list has it, or that of a
directory above, a copy of the newest one of that name takes its place on system
again and is captured as an edit, a database with its journals. What lies there
goes aside in turn, so that a second recall takes the first back. An application
file is refused without --bump: the next look would put the release's own back.
With it what lies on system becomes a new version, as by
"tandem bump patch".`,
		Example: "  tandem recall\n  tandem recall etc/hello.conf\n  tandem recall --bump bin/hello",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil // lists
			}
			return cli.Exactly("PATH")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				if bump {
					return cli.Usage(cmd, "--bump: PATH is missing")
				}
				return p.listAside()
			}
			path, err := pathArgument(cmd, args[0])
			if err != nil {
				return err
			}
			err = p.named(func(d *device.Device) (*backup.Result, error) { return d.Recall(cmd.Context(), path, bump) })
			switch {
			case errors.Is(err, backup.ErrApplicationFile):
				return &hintedError{err, fmt.Sprintf("it stays only as part of a new version: tandem recall --bump %s", path)}
			case errors.Is(err, backup.ErrNoSuchPath):
				return &hintedError{err, `"tandem recall" lists what was put aside`}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&bump, "bump", false, "make what lies on system a new version with it")
	return cmd
}

// listAside prints what was put aside.
func (p *program) listAside() error {
	return p.open(device.Look, func(d *device.Device) error {
		list, err := d.Aside()
		if err != nil && !errors.Is(err, backup.ErrUnavailable) {
			return err
		}
		lines := make([]string, 0, len(list)+1)
		for _, a := range list {
			lines = append(lines, fmt.Sprintf("%-9s %-9s %s  %s", a.Side, text.Size(a.Size), a.Path, a.File))
		}
		if len(list) == 0 && err == nil {
			lines = append(lines, "nothing was put aside")
		}
		return errors.Join(p.print(asideDocument{list, p.failure(err)}, lines...), err)
	})
}
