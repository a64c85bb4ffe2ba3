package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/fsys"
	"tandem/packaging/signing"
)

func newKeygenCommand(p *program) *cobra.Command {
	var (
		out     string
		roles   []string
		encrypt bool
		keys    keyFlags
	)
	cmd := &cobra.Command{
		Use:   "keygen --out KEYS [--role ROLE]... [--encrypt]",
		Short: "Make the keys of a repository",
		Long: `Make a key for each role of a repository in the directory KEYS: root.pem,
targets.pem, snapshot.pem and timestamp.pem, each ed25519 in PKCS#8, PEM, readable
by its owner only. The directory is made if it is missing. A key that is there
already is never overwritten. --role makes the key of that role only.

With --encrypt the keys are encrypted, with the passphrase in the file that
--passphrase-file names, in the environment variable TANDEM_PASSPHRASE, or asked for
at the terminal. OpenSSL reads them, too.

The root key decides who may sign: keep it offline, and keep a copy. The targets
key signs releases. Snapshot and timestamp are needed to publish.`,
		Example: `  tandem-release keygen --out keys
  tandem-release keygen --out safe --role root --encrypt`,
		Args: cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return cli.Usage(cmd, "--out is missing")
			}
			if len(roles) == 0 {
				roles = signing.Roles()
			}
			for _, role := range roles {
				if err := checkRole(cmd, role); err != nil {
					return err
				}
			}
			var secret []byte
			if encrypt || keys.passphrase != "" {
				var err error
				if secret, err = p.newPassphrase(cmd.Context(), keys.passphrase); err != nil {
					return err
				}
			}
			if err := os.MkdirAll(out, 0o700); err != nil {
				return err
			}
			dir, err := fsys.OpenOS(out)
			if err != nil {
				return err
			}
			defer dir.Close()
			if err := signing.Generate(dir, p.random, signing.GenerateOptions{Roles: roles, Passphrase: secret}); err != nil {
				return err
			}
			for _, role := range roles {
				if err := p.result(filepath.Join(out, role+".pem")); err != nil {
					return err
				}
			}
			if len(secret) > 0 {
				p.say("the keys are encrypted: without the passphrase they are lost")
			}
			p.say("keep %s secret, and keep a copy of it: whoever has these keys can publish to your devices", out)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`DIR` that the keys go to")
	cmd.Flags().StringArrayVar(&roles, "role", nil, "`ROLE`: root, targets, snapshot or timestamp (repeatable; default: all)")
	cmd.Flags().BoolVar(&encrypt, "encrypt", false, "encrypt the keys (implied by --passphrase-file)")
	keys.registerPassphrase(cmd)
	return cmd
}

// checkRole reports whether a repository has that role.
func checkRole(cmd *cobra.Command, role string) error {
	if slices.Contains(signing.Roles(), role) {
		return nil
	}
	return cli.Usage(cmd, "role %.40q: expected root, targets, snapshot or timestamp", role)
}

func newPubkeyCommand(p *program) *cobra.Command {
	var (
		out  string
		keys keyFlags
	)
	cmd := &cobra.Command{
		Use:   "pubkey KEYS --out DIR",
		Short: "Write the public halves of keys",
		Long: `Write the public half of each key in the directory KEYS to the directory DIR, as
root.pub, targets.pub and so on. It is all that "repo rotate --out" needs of new
keys, so that the keys themselves need not leave the machine they were made on.`,
		Example: `  tandem-release pubkey new-keys --out public`,
		Args:    cli.Exactly("KEYS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return cli.Usage(cmd, "--out is missing")
			}
			from, err := fsys.OpenOS(args[0])
			if err != nil {
				return err
			}
			defer from.Close()
			if err := os.MkdirAll(out, 0o755); err != nil {
				return err
			}
			to, err := fsys.OpenOS(out)
			if err != nil {
				return err
			}
			defer to.Close()
			dir := signing.Dir{FS: from, Passphrase: p.passphrase(cmd.Context(), keys.passphrase)}
			found := false
			for _, role := range signing.Roles() {
				name, err := dir.WritePublic(role, to)
				if fsys.IsNotExist(err) {
					continue
				}
				if err != nil {
					return err
				}
				found = true
				if err := p.result(name); err != nil {
					return err
				}
			}
			if !found {
				return fmt.Errorf("%s: expected at least one of root.pem, targets.pem, snapshot.pem and timestamp.pem", args[0])
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`DIR` that the public keys go to")
	keys.registerPassphrase(cmd)
	return cmd
}
