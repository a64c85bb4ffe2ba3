package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/lock"
	"tandem/packaging/bundle"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
	"tandem/packaging/trust"
)

// program is what the commands know of the world.
type program struct {
	stdout, stderr io.Writer
	lookup         func(string) (string, bool) // of environment variables
	now            func() time.Time
	random         io.Reader
	// prompt asks a person for a secret; nil where there is no terminal.
	prompt func(ctx context.Context, question string) ([]byte, error)
}

// say writes a message for people.
func (p *program) say(format string, args ...any) { fmt.Fprintf(p.stderr, format+"\n", args...) }

// run is the whole program; it returns the exit code.
func run(ctx context.Context, p *program, args []string) int {
	cmd := newRootCommand(p)
	cmd.SetArgs(args)
	cmd.SetOut(p.stdout)
	cmd.SetErr(p.stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	p.say("tandem-release: %v", err)
	if h := hint(err); h != "" {
		p.say("hint: %s", h)
	}
	return exitCode(err)
}

// The exit codes of the design that concern this program.
const (
	exitFailure   = 1
	exitUsage     = 2
	exitUntrusted = 20
	exitMalformed = 24
	exitBusy      = 60
)

func exitCode(err error) int {
	var u *cli.UsageError
	switch {
	case errors.As(err, &u), errors.Is(err, bundle.ErrOptions):
		return exitUsage
	case errors.Is(err, lock.ErrBusy):
		return exitBusy
	case errors.Is(err, repository.ErrDamaged), errors.Is(err, repository.ErrKeys):
		return exitFailure // ours, not the bundle's fault
	case errors.Is(err, trust.ErrUntrusted):
		return exitUntrusted
	case errors.Is(err, bundle.ErrMalformed):
		return exitMalformed
	}
	return exitFailure
}

// hint says what to do next, where that is plain.
func hint(err error) string {
	var u *cli.UsageError
	switch {
	case errors.As(err, &u):
		return fmt.Sprintf("%q tells how it is used", u.Command+" --help")
	case errors.Is(err, signing.ErrExists):
		return "keys are never overwritten: choose another directory, or move the old keys away"
	case errors.Is(err, signing.ErrPassphrase):
		return "give the passphrase at a terminal, with --passphrase-file, or in the environment as " + passphraseVariable
	case errors.Is(err, lock.ErrBusy):
		return "wait for it to end"
	case errors.Is(err, repository.ErrStale):
		return "make the change again, from the repository as it is now"
	case errors.Is(err, repository.ErrLower):
		return "add --allow-lower if that is what you want; to take a release back: tandem-release repo yank"
	case errors.Is(err, repository.ErrNoRelease), errors.Is(err, repository.ErrAmbiguous):
		return "see which there are with: tandem-release repo list REPO"
	case errors.Is(err, repository.ErrTooLarge):
		return "take old releases off the list with: tandem-release repo remove REPO RELEASE --keys KEYS"
	case errors.Is(err, repository.ErrChange):
		return "make the change again, with --out"
	case errors.Is(err, errProblems):
		return "restore what is damaged from a copy; sign bundles that are not trusted with \"bundle sign\" and add them again, or yank their releases"
	case errors.Is(err, signing.ErrKey), errors.Is(err, repository.ErrKeys):
		return "use the keys that the repository was made with"
	case errors.Is(err, repository.ErrNone):
		return "make one with: tandem-release repo init REPO --keys KEYS"
	case errors.Is(err, repository.ErrDamaged):
		return "restore the repository's metadata/ from a copy"
	case errors.Is(err, trust.ErrUntrusted):
		return "sign it with: tandem-release bundle sign FILE --keys KEYS --root ROOT.json"
	case errors.Is(err, bundle.ErrCodec):
		return "a newer version of tandem-release may read it"
	case errors.Is(err, bundle.ErrMalformed):
		return "fetch or make the bundle again"
	}
	return ""
}

func newRootCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tandem-release",
		Short: "Make, sign and publish releases for devices that run Tandem",
		Long: `tandem-release makes bundles out of application directories, signs them, and
publishes them in a repository: a directory of plain files that any web server
can serve. Results go to standard output, messages to standard error.

Exit codes: 0 done, 1 failed, 2 wrong usage, 20 not signed by the root of
trust, 24 malformed bundle, 60 another tandem-release is changing the repository.`,
		Example: `  tandem-release keygen --out keys
  tandem-release repo init repo --keys keys
  tandem-release bundle create hello/ --app hello --version 1.1.0 --compatible demo \
      --keys keys --root repo/root.json --out hello-1.1.0.tandem
  tandem-release repo add repo hello-1.1.0.tandem --keys keys
  tandem-release repo serve repo`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	group(cmd)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return cli.Usage(cmd, "%w", err) })
	cmd.AddCommand(newKeygenCommand(p), newPubkeyCommand(p), newBundleCommand(p), newRepoCommand(p), newVersionCommand(p))
	return cmd
}

// group makes cmd a command that does nothing but hold others.
func group(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cli.Usage(cmd, "%s needs a command after it", cmd.CommandPath())
		}
		return cli.Usage(cmd, "unknown command %q for %q", args[0], cmd.CommandPath())
	}
}

func newVersionCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of tandem-release",
		Long:    `Print the version of tandem-release, the revision it was built from where known, and the Go version.`,
		Example: `  tandem-release version`,
		Args:    cli.Exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.stdout, versionLine(debug.ReadBuildInfo()))
			return err
		},
	}
}

func versionLine(info *debug.BuildInfo, ok bool) string {
	version, revision := "(devel)", ""
	if ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	if ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && s.Value != "" {
				revision = " " + s.Value
			}
		}
	}
	return fmt.Sprintf("tandem-release %s%s %s %s/%s", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// sourceDate reads SOURCE_DATE_EPOCH, the time that reproducible builds give
// to what they make; 0 means that there is none.
func (p *program) sourceDate(cmd *cobra.Command) (int64, error) {
	const name = "SOURCE_DATE_EPOCH"
	text, ok := p.lookup(name)
	if !ok || text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n >= 1<<33 {
		return 0, cli.Usage(cmd, "%s is %q: expected seconds since 1970", name, text)
	}
	return n, nil
}
