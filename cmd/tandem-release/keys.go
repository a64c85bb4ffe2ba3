package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tandem/internal/cli"
	"tandem/internal/fsys"
	"tandem/packaging/signing"
)

const (
	passphraseVariable = "TANDEM_PASSPHRASE"
	maxPassphrase      = 4 << 10
	tries              = 3 // at a terminal
)

// keyFlags say where keys are and what opens them.
type keyFlags struct {
	dirs       []string
	passphrase string
	insecure   bool
}

func (k *keyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&k.dirs, "keys", nil, "`DIR` of the keys to sign with (repeatable)")
	cmd.Flags().BoolVar(&k.insecure, "insecure-keys", false, "take keys that others can read")
	k.registerPassphrase(cmd)
}

func (k *keyFlags) registerPassphrase(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.passphrase, "passphrase-file", "", "`FILE` with the passphrase of encrypted keys (default: $"+passphraseVariable+", or asked for)")
}

func (k *keyFlags) given() bool { return len(k.dirs) > 0 }

// need says that --keys is missing, if it is.
func (k *keyFlags) need(cmd *cobra.Command) error {
	if !k.given() {
		return cli.Usage(cmd, "--keys is missing")
	}
	if slices.Contains(k.dirs, "") {
		return cli.Usage(cmd, "--keys is empty")
	}
	return nil
}

// ring opens the directories of keys, and those of more, and calls f with the keys in them.
func (p *program) ring(ctx context.Context, k *keyFlags, more []string, f func(*signing.Ring) error) error {
	var dirs []fsys.FS
	for _, name := range append(append([]string{}, k.dirs...), more...) {
		d, err := openDir(name, errNoKeys)
		if err != nil {
			return err
		}
		defer d.Close()
		if err := k.secret(d); err != nil {
			return err
		}
		dirs = append(dirs, d)
	}
	return f(signing.NewRing(p.passphrase(ctx, k.passphrase), dirs...))
}

// secret says which private key in a directory others can read, unless that does
// not matter. The error wraps errInsecure.
func (k *keyFlags) secret(dir fsys.FS) error {
	if k.insecure {
		return nil
	}
	entries, err := dir.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name, ".pem") {
			continue
		}
		if info, err := dir.Lstat(e.Name); err == nil && info.Mode&0o077 != 0 {
			return fmt.Errorf("%s: %w: mode %04o", dir.Path(e.Name), errInsecure, info.Mode&0o777)
		}
	}
	return nil
}

// errNoKeys says that a directory of keys is missing.
var errNoKeys = errors.New("no keys")

// errInsecure says that a private key can be read by others.
var errInsecure = errors.New("others can read this key")

// passphrase tells the passphrase of encrypted keys: that in file, or that of
// the environment, or what is typed at the terminal. An answer that was typed
// for one key is tried for the next one; a file, which may be a pipe, is read once.
func (p *program) passphrase(ctx context.Context, file string) signing.Passphrase {
	var last, secret []byte
	var source string
	return func(key string, attempt int) (_ []byte, err error) {
		if source == "" {
			secret, source, err = p.givenPassphrase(ctx, file)
		}
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, fmt.Errorf("%w: %w", signing.ErrPassphrase, err)
		case source != "" && attempt > 0:
			return nil, fmt.Errorf("%w: that in %s does not", signing.ErrPassphrase, source)
		case source != "":
			return secret, nil
		case attempt == 0 && last != nil:
			return last, nil
		case p.prompt == nil:
			return nil, signing.ErrPassphrase
		case attempt >= tries:
			return nil, fmt.Errorf("%w after %d tries", signing.ErrPassphrase, tries)
		}
		last, err = p.prompt(ctx, "passphrase of "+key+": ")
		return last, err
	}
}

// givenPassphrase reads the passphrase from where it was put before the start,
// and says where that is; source is empty if it was put nowhere.
func (p *program) givenPassphrase(ctx context.Context, file string) (secret []byte, source string, err error) {
	if file != "" {
		secret, err := await(ctx, func() ([]byte, error) {
			f, err := os.Open(file)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			return io.ReadAll(io.LimitReader(f, maxPassphrase+1))
		})
		if err != nil {
			return nil, "", err
		}
		secret = bytes.TrimSuffix(bytes.TrimSuffix(secret, []byte("\n")), []byte("\r"))
		if len(secret) == 0 || len(secret) > maxPassphrase {
			return nil, "", fmt.Errorf("%s: expected a passphrase of 1 to %d bytes", file, maxPassphrase)
		}
		return secret, file, nil
	}
	if text, ok := p.lookup(passphraseVariable); ok && text != "" {
		return []byte(text), passphraseVariable, nil
	}
	return nil, "", nil
}

// newPassphrase returns what new keys are to be encrypted with: what was put
// somewhere before the start, or what is asked for.
func (p *program) newPassphrase(ctx context.Context, file string) ([]byte, error) {
	secret, source, err := p.givenPassphrase(ctx, file)
	if err != nil || source != "" {
		return secret, err
	}
	if p.prompt == nil {
		return nil, fmt.Errorf("%w: there is no terminal to ask for one", signing.ErrPassphrase)
	}
	secret, err = p.prompt(ctx, "new passphrase: ")
	if err != nil {
		return nil, err
	}
	if len(secret) == 0 {
		return nil, fmt.Errorf("%w: it is empty", signing.ErrPassphrase)
	}
	again, err := p.prompt(ctx, "the same again: ")
	if err == nil && !bytes.Equal(secret, again) {
		err = fmt.Errorf("the two passphrases differ")
	}
	return secret, err
}

// terminal returns what asks at the terminal in, without showing the answer, or
// nil if in is none. When ctx is done the terminal is what it was before.
func terminal(in *os.File, out io.Writer) func(context.Context, string) ([]byte, error) {
	fd := int(in.Fd())
	if !term.IsTerminal(fd) {
		return nil
	}
	return func(ctx context.Context, question string) ([]byte, error) {
		before, err := term.GetState(fd)
		if err != nil {
			return nil, err
		}
		if _, err := io.WriteString(out, question); err != nil {
			return nil, err
		}
		defer fmt.Fprintln(out)
		secret, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
		if ctx.Err() != nil {
			_ = term.Restore(fd, before)
		}
		return secret, err
	}
}

// await reads a secret where that cannot be cancelled, such as from a terminal or a
// pipe to which nobody writes: once ctx is done the program ends before read does.
func await(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type answer struct {
		secret []byte
		err    error
	}
	given := make(chan answer, 1)
	go func() {
		secret, err := read()
		given <- answer{secret, err}
	}()
	select {
	case a := <-given:
		return a.secret, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
