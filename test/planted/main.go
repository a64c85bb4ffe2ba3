// Command planted shows that the labs find what they are for: it builds
// Tandem with a bug in it and wants a lab to find that. The bugs are edits
// that exist only while they are built; see bugs.go.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	list := flag.Bool("list", false, "list the bugs")
	build := flag.String("build", "", "build tandem with the one bug that is named, as `FILE`, for the other labs")
	all := flag.Bool("all", false, "search everything, not only what is known to find the bug")
	lab := flag.String("lab", "model", "the `lab` that has to find it: model, ubifs or ext4")
	budget := flag.Duration("budget", 2*time.Minute, "time that the labs ubifs and ext4 have for each bug")
	seed := flag.Int64("seed", 1, "seed of these labs' random choices")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: planted [-list] [-lab LAB] [-all] [-build FILE] [BUG...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := errors.New("-lab is model, ubifs or ext4")
	switch *lab {
	case "model":
		err = run(ctx, os.Stdout, *list, *build, flag.Args(), inModel(*all))
	case "ubifs", "ext4":
		err = run(ctx, os.Stdout, *list, *build, flag.Args(), onReal(*lab, *all, *budget, *seed))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "planted:", err)
		stop()
		os.Exit(1)
	}
}

// finder is a lab that looks for a bug in the sources below root. It says what
// it found; "" is nothing.
type finder func(ctx context.Context, root string, b *bug) (found string, err error)

func run(ctx context.Context, out io.Writer, list bool, build string, names []string, find finder) error {
	if list {
		for _, b := range bugs {
			fmt.Fprintf(out, "%-27s %s\n", b.name, b.about)
		}
		return nil
	}
	chosen, err := choose(names)
	if err != nil {
		return err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	if build != "" {
		if len(names) != 1 {
			return errors.New("name the one bug to build tandem with")
		}
		return chosen[0].build(ctx, root, build)
	}
	missed := 0
	for _, b := range chosen {
		found, err := find(ctx, root, &b)
		switch {
		case err == errBlind && len(names) == 0:
			found = "not looked for: this lab cannot find it"
		case err != nil:
			return fmt.Errorf("%s: %w", b.name, err)
		case found == "":
			missed++
			found = "NOT FOUND"
		}
		fmt.Fprintf(out, "%-27s %s\n", b.name, found)
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d planted bugs were not found", missed, len(chosen))
	}
	fmt.Fprintln(out, "all planted bugs that were looked for were found")
	return nil
}

func choose(names []string) ([]bug, error) {
	if len(names) == 0 {
		return bugs, nil
	}
	var chosen []bug
	for _, n := range names {
		i := slices.IndexFunc(bugs, func(b bug) bool { return b.name == n })
		if i < 0 {
			return nil, fmt.Errorf("%s: no such bug: -list lists them", n)
		}
		chosen = append(chosen, bugs[i])
	}
	return chosen, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// inScratch runs f with the overlay of the bug in a directory that goes afterwards.
func (b *bug) inScratch(root string, f func(overlay string) error) (err error) {
	dir, err := os.MkdirTemp("", "tandem-planted-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	overlay, err := b.overlay(root, dir)
	if err != nil {
		return err
	}
	return f(overlay)
}

// build builds tandem with the bug as the file name.
func (b *bug) build(ctx context.Context, root, name string) error {
	name, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	return b.compile(ctx, root, "-trimpath", "-ldflags", "-s -w", "-o", name, "./cmd/tandem")
}

// compile runs go build, with those arguments, on the sources with the bug.
func (b *bug) compile(ctx context.Context, root string, args ...string) error {
	return b.inScratch(root, func(overlay string) error {
		cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-overlay", overlay}, args...)...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build with %s: %w: %s", b.name, err, msg)
		}
		return nil
	})
}

var (
	scenarioLine = regexp.MustCompile(`--- FAIL: TestPowerCut/(\S+)`)
	foundLine    = regexp.MustCompile(`seed \d+: (.*)`)
)

// inModel runs the model lab on Tandem with the bug, until it finds something.
func inModel(all bool) finder {
	return func(ctx context.Context, root string, b *bug) (string, error) { return b.search(ctx, root, all) }
}

func (b *bug) search(ctx context.Context, root string, all bool) (found string, err error) {
	err = b.inScratch(root, func(overlay string) error {
		args := []string{"test", "-count=1", "-overlay", overlay, "./test/model", "-run", "TestPowerCut", "-lab.first"}
		if !all {
			args = append(args, "-lab.run", b.where, "-lab.looks=3")
		}
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		var failed *exec.ExitError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			return nil
		case !errors.As(err, &failed):
			return err
		}
		if found = summarize(string(out)); found == "" {
			return fmt.Errorf("the lab did not run:\n%s", out)
		}
		return nil
	})
	return found, err
}

// errBlind is that a lab cannot find a bug.
var errBlind = errors.New("this lab cannot find it (-all lets it try)")

// onReal runs a lab on a real file system with a tandem that has the bug, until
// it finds something or its time is over.
func onReal(lab string, all bool, budget time.Duration, seed int64) finder {
	return func(ctx context.Context, root string, b *bug) (found string, err error) {
		if !all && (b.real == "" || lab == "ext4" && !b.ext4) {
			return "", errBlind
		}
		dir, err := os.MkdirTemp("", "tandem-planted-")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(dir)
		tandem := filepath.Join(dir, "tandem")
		if err := b.build(ctx, root, tandem); err != nil {
			return "", err
		}
		operations := b.real
		if all {
			operations = "."
		}
		cmd := exec.CommandContext(ctx, "go", "run", "./test/"+lab, "-tandem", tandem, "-run", operations, "-first",
			"-budget", budget.String(), "-seed", strconv.FormatInt(seed, 10))
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case err == nil:
			return "", nil
		}
		if found = realSummary(string(out)); found == "" {
			return "", fmt.Errorf("the lab did not run: %w:\n%s", err, out)
		}
		return found, nil
	}
}

var (
	failedLine = regexp.MustCompile(`(?m)^FAILED: (.*)$`)
	cutsLine   = regexp.MustCompile(`(?m)^\d+ power cuts .*seed \d+`)
)

// realSummary gives the first finding of a real lab, and after how many cuts it came.
func realSummary(out string) string {
	m := failedLine.FindStringSubmatch(out)
	if m == nil {
		return ""
	}
	return strings.TrimSuffix(m[1], ":") + " (" + cutsLine.FindString(out) + ")"
}

// summarize gives scenario and finding of the first failure.
func summarize(out string) string {
	scenario := ""
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, len(out)+1)
	for lines.Scan() {
		if m := scenarioLine.FindStringSubmatch(lines.Text()); m != nil {
			scenario = strings.ReplaceAll(m[1], "_", " ")
		} else if m := foundLine.FindStringSubmatch(lines.Text()); m != nil && scenario != "" {
			text := m[1]
			if len(text) > 160 {
				text = text[:160] + "…"
			}
			return scenario + ": " + text
		}
	}
	return ""
}
