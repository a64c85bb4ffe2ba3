package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The pages in docs/ show what the programs really do. Each page's blocks
//
//	```console
//	$ command
//	what it prints
//	```
//
// are run in order by one shell, in a directory of the page's own, and what the
// programs print, messages and results together, is compared with the page. A
// command goes on in the lines that begin with "> ". An ellipsis stands for any
// text in its line, a line that is nothing else for any number of lines. Blocks
// marked "console mount" are run where file systems may be mounted.
//
// On the pages that are followed word for word the blocks can be pasted: there
//
//	```sh run
//	commands
//	```
//	```text
//	what they print
//	```
//
// is the same; without a second block they print nothing.
//
// The directory is what "make trial" makes. Both sides are on one file system; what
// tandem says about that is left out.
const oneDisk = "tandem: warning: system and usr_data are on one file system: the copy does not survive its loss"

func TestDocs(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := map[string]bool{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		steps, err := docSteps(string(text))
		if err != nil {
			t.Fatalf("%s:%v", page, err)
		}
		if len(steps) == 0 {
			continue
		}
		name := filepath.Base(page)
		ran[name] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runPage(t, page, steps)
		})
	}
	if !ran["operating.md"] {
		t.Error("docs/operating.md shows nothing that could be run")
	}
}

// docStep is a command of a page and what the page says that it prints.
type docStep struct {
	line    int
	mount   bool
	command string
	want    []string
}

var fence = regexp.MustCompile("^```(.*)$")

func docSteps(text string) ([]docStep, error) {
	var steps []docStep
	info, inside := "", false
	said := false // the block tells what the commands right above it print
	for i, l := range strings.Split(text, "\n") {
		if m := fence.FindStringSubmatch(l); m != nil {
			ran := strings.HasPrefix(info, "sh run")
			inside = !inside
			info = strings.TrimSpace(m[1])
			switch {
			case !inside:
				info, said = "", ran
			case strings.HasPrefix(info, "sh run"):
				steps = append(steps, docStep{line: i + 2, mount: info == "sh run mount"})
			case info == "text" && said:
				info = "said"
			}
			continue
		}
		last := len(steps) - 1
		switch {
		case strings.HasPrefix(info, "sh run"):
			steps[last].command = strings.TrimPrefix(steps[last].command+"\n"+l, "\n")
			continue
		case info == "said":
			steps[last].want = append(steps[last].want, l)
			continue
		case info != "console" && info != "console mount":
			said = said && l == ""
			continue
		}
		switch {
		case strings.HasPrefix(l, "$ "):
			steps = append(steps, docStep{line: i + 1, mount: info == "console mount", command: l[2:]})
		case last < 0:
			return nil, fmt.Errorf("%d: output before the first command: %q", i+1, l)
		case strings.HasPrefix(l, "> ") && len(steps[last].want) == 0:
			steps[last].command += "\n" + l[2:]
		default:
			steps[last].want = append(steps[last].want, l)
		}
	}
	if inside {
		return nil, fmt.Errorf("a block without an end")
	}
	return steps, nil
}

func runPage(t *testing.T, page string, steps []docStep) {
	dir := t.TempDir()
	if err := docDevice(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // what the page mounted and did not take away
		for _, d := range []string{"system", "usr_data"} {
			_ = unix.Unmount(filepath.Join(dir, d), unix.MNT_DETACH)
		}
	})
	sh, err := startShell(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	mount := canMount(t)
	for _, s := range steps {
		if s.mount && !mount {
			continue
		}
		got, err := sh.run(s.command)
		if err != nil {
			t.Fatalf("%s:%d: %s: %v\n%s", page, s.line, s.command, err, strings.Join(got, "\n"))
		}
		if !sameOutput(s.want, got) {
			t.Errorf("%s:%d: %s\nprints:\n\t%s\nthe page says:\n\t%s", page, s.line, s.command,
				strings.Join(got, "\n\t"), strings.Join(s.want, "\n\t"))
		}
	}
}

// trial makes the folder that a page's examples are run in, once for all pages.
var trial = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(pubDir, "trial")
	if out, err := exec.Command("sh", "../../test/book/trial.sh", binDir, dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("trial.sh: %w\n%s", err, out)
	}
	return dir, nil
})

// docDevice makes what a page finds in its directory.
func docDevice(dir string) error {
	made, err := trial()
	if err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", made+"/.", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the folder: %w\n%s", err, out)
	}
	return nil
}

// sameOutput compares lines with what a page says, which may have ellipses.
func sameOutput(want, got []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case want[0] == "…":
		return sameOutput(want[1:], got) || len(got) > 0 && sameOutput(want, got[1:])
	case len(got) == 0:
		return false
	}
	parts := strings.Split(want[0], "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^"+strings.Join(parts, ".*")+"$").MatchString(got[0]) && sameOutput(want[1:], got[1:])
}

// shell is one shell that runs a page's commands.
type shell struct {
	in  io.Writer
	out *bufio.Reader
}

func startShell(t *testing.T, dir string) (*shell, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, "sh")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+binDir+string(filepath.ListSeparator)+os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC")
	in, err := cmd.StdinPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	out, w, err := os.Pipe()
	if err != nil {
		cancel()
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	t.Cleanup(func() {
		in.Close()
		cancel()
		_ = cmd.Wait() // what its last command exited with is no matter
		out.Close()
	})
	return &shell{in, bufio.NewReader(out)}, err
}

// run runs a command and gives the lines that it prints. $? is the next
// command's to ask for.
func (s *shell) run(command string) ([]string, error) {
	const end = "\036" // a record separator, which no program here prints
	if _, err := fmt.Fprintf(s.in, "%s\n__exit=$?; printf '\\036%%d\\n' $__exit; (exit $__exit)\n", command); err != nil {
		return nil, err
	}
	var lines []string
	for {
		l, err := s.out.ReadString('\n')
		text, code, done := strings.Cut(strings.TrimSuffix(l, "\n"), end)
		if text != oneDisk && (text != "" || !done) {
			lines = append(lines, text)
		}
		if err != nil {
			return lines, fmt.Errorf("the shell ended: %w", err)
		}
		if done {
			_, err := strconv.Atoi(code)
			return lines, err
		}
	}
}
