package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"tandem/internal/fsys"
	"tandem/packaging/signing"
)

func newKeygenCommand(p *program) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keygen --out KEYS",
		Short: "Make the keys of a repository",
		Long: `Make a key for each role of a repository in the directory KEYS: root.pem,
targets.pem, snapshot.pem and timestamp.pem, each ed25519 in PKCS#8, PEM, readable
by its owner only. The directory is made if it is missing. A key that is there
already is never overwritten.

The root key decides who may sign: keep it off line, and keep a copy. The targets
key signs releases. Snapshot and timestamp are needed to publish.`,
		Example: `  tandem-release keygen --out keys`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usage(cmd, "--out is missing")
			}
			if err := os.MkdirAll(out, 0o700); err != nil {
				return err
			}
			dir, err := fsys.OpenOS(out)
			if err != nil {
				return err
			}
			defer dir.Close()
			if err := signing.Generate(dir, p.random); err != nil {
				return err
			}
			for _, role := range signing.Roles() {
				if _, err := fmt.Fprintln(p.stdout, filepath.Join(out, role+".pem")); err != nil {
					return err
				}
			}
			p.say("keep %s secret, and keep a copy of it: whoever has these keys can publish to your devices", out)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "directory that the keys go to")
	return cmd
}
