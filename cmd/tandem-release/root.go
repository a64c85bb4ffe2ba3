package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/text"
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
func (p *program) say(format string, args ...any) {
	fmt.Fprintln(p.stderr, text.Line(fmt.Sprintf(format, args...)))
}

// result writes lines of a result.
func (p *program) result(lines ...string) error {
	for _, l := range lines {
		if _, err := fmt.Fprintln(p.stdout, text.Line(l)); err != nil {
			return err
		}
	}
	return nil
}

// document writes the JSON document of a command.
func (p *program) document(v any) error {
	doc, err := cli.Document(v, "")
	if err == nil {
		_, err = p.stdout.Write(doc)
	}
	return err
}

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
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	exit, hint := outcomes().Of(err)
	p.say("tandem-release: %s", cli.Message(err))
	if hint != "" {
		p.say("hint: %s", hint)
	}
	return exit
}

// helpWidth is how wide help is, in characters.
const helpWidth = 80

func newRootCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tandem-release",
		Short: "Make, sign and publish releases for devices that run Tandem",
		Long: `tandem-release makes bundles out of application directories, signs them, and
publishes them in a repository: a directory of plain files that any web server
can serve. Results go to standard output, messages to standard error.

` + outcomes().Summary(helpWidth) + `
"tandem-release help exit-codes" says what to do about each.`,
		Example: `  tandem-release keygen --out keys
  tandem-release repo init repo --keys keys
  tandem-release bundle create hello/ --app hello --version 1.1.0 --compatible demo \
      --keys keys --root repo/root.json --out hello-1.1.0.tandem
  tandem-release repo add repo hello-1.1.0.tandem --keys keys
  tandem-release repo serve repo`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cli.Group(cmd)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return cli.Usage(cmd, "%w", err) })
	cmd.AddCommand(newKeygenCommand(p), newPubkeyCommand(p), newBundleCommand(p), newRepoCommand(p), newVersionCommand(p),
		&cobra.Command{Use: "exit-codes", Short: "What the exit codes mean, and what to do", Long: outcomes().Help()})
	p.completeReleases(cmd)
	return cmd
}

func newVersionCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of tandem-release",
		Long: `Print the version of tandem-release, the revision it was built from where known,
and the Go version.`,
		Example: `  tandem-release version`,
		Args:    cli.Exactly(),
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			return p.result(versionLine(version, commit, info))
		},
	}
}

// version and commit are set by the linker: -X main.version=1.2.3.
var version, commit string

// versionLine says which program this is: as the linker was told, else as the toolchain
// knows it, if it knows anything.
func versionLine(version, commit string, info *debug.BuildInfo) string {
	if info != nil {
		version = cmp.Or(version, info.Main.Version)
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = cmp.Or(commit, s.Value)
			}
		}
	}
	words := []string{"tandem-release", cmp.Or(version, "(devel)"), commit, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
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
