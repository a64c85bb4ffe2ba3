package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tandem/agent/device"
	"tandem/agent/page"
	"tandem/internal/cli"
	"tandem/internal/config"
)

func newPageCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "page",
		Short: "Set up the technician's page",
		Long: `page sets up the page that the agent serves where [page] listen says so: its
password, and the certificate that the device makes for itself.`,
		Example: "  tandem page password\n  tandem page fingerprint",
	}
	cli.Group(cmd)
	cmd.AddCommand(newPasswordCommand(p), newFingerprintCommand(p))
	return cmd
}

// pageDocument is the JSON document of page's commands.
type pageDocument struct {
	File        string    `json:"file,omitempty"` // that the password was written to
	Role        page.Role `json:"role,omitempty"` // what it lets one do
	Fingerprint string    `json:"fingerprint,omitempty"`
	device.Failure
}

// pageConfig returns [page] of the configuration.
func (p *program) pageConfig() (*config.Config, error) {
	cfg, err := config.Load(p.config)
	if err == nil && cfg.Page == nil {
		err = fmt.Errorf("%w: %s: page: missing: expected a section [page] with listen and password_file", config.ErrInvalid, cfg.File)
	}
	return cfg, err
}

func newPasswordCommand(p *program) *cobra.Command {
	var look bool
	cmd := &cobra.Command{
		Use:   "password",
		Short: "Set the password of the page",
		Long: `password asks for a password, twice, or reads one line of standard input where that
is no terminal, and writes its hash into [page] password_file, mode 0600. It counts
at once, and ends the sessions of the one before. With --look it is the password of
those who may only look.`,
		Example: "  tandem page password\n  tandem page password --look <secret",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.pageConfig()
			if err != nil {
				return err
			}
			password, err := p.askPassword()
			if err != nil {
				return err
			}
			role := page.Full
			if look {
				role = page.Look
			}
			if err := page.SetPassword(cfg.Page.PasswordFile, role, password); err != nil {
				return err
			}
			return p.print(pageDocument{File: cfg.Page.PasswordFile, Role: role}, "the password is set")
		},
	}
	cmd.Flags().BoolVar(&look, "look", false, "the password of those who may only look")
	return cmd
}

// askPassword reads a password, without showing it.
func (p *program) askPassword() ([]byte, error) {
	in, ok := p.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(p.stdin, 1<<10)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return []byte(strings.TrimRight(line, "\r\n")), nil
	}
	var given [2][]byte
	for i, ask := range []string{"Password: ", "Once more: "} {
		fmt.Fprint(os.Stderr, ask)
		var err error
		given[i], err = term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return nil, err
		}
	}
	if string(given[0]) != string(given[1]) {
		return nil, errors.New("the passwords differ: nothing was changed")
	}
	return given[0], nil
}

func newFingerprintCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "fingerprint",
		Short: "Print the fingerprint of the page's certificate",
		Long: `fingerprint prints the SHA-256 of the certificate that the page shows, as browsers
have it. One that the device makes for itself is made now where there is none.`,
		Example: "  tandem page fingerprint",
		Args:    cli.Exactly(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := p.pageConfig()
			if err != nil {
				return err
			}
			if !cfg.Page.Secure() {
				return errors.New("the page is served without TLS, on this device alone: there is no certificate")
			}
			print, err := page.CertificateOf(*cfg.Page, cfg.Agent.State, rand.Reader)
			if err != nil {
				return err
			}
			return p.print(pageDocument{Fingerprint: print}, print)
		},
	}
}
