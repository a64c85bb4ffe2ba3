package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// pageAddress is what docs/hawkbit.md calls the server.
const pageAddress = "127.0.0.1:8080"

// The commands of docs/hawkbit.md are run in order by one shell, against the
// stand-in, and what they print is compared with the page. An ellipsis stands for
// any text in its line, a line that is nothing else for any number of lines.
func TestHawkBitPage(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"curl", "grep", "tr"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the page's commands need %s", tool)
		}
	}
	page, err := os.ReadFile("../../docs/hawkbit.md")
	if err != nil {
		t.Fatal(err)
	}
	steps := pageSteps(string(page))
	if len(steps) < 20 {
		t.Fatalf("the page has %d commands", len(steps))
	}
	h := newHawk(t, nil)
	_ = h.op.Configure(t.Context(), map[string]any{"user.confirmation.flow.enabled": false})
	h.check(h.op.DeleteTarget(t.Context(), controller))
	d := newDevice(t, options{source: "http://" + h.address, more: `type = "hawkbit"
target_token_file = "token"
distribution_set = "hello"
attributes = { site = "north" }
`})
	d.write("token", deviceToken+"\n")
	d.check(os.Chmod(d.path("token"), 0o600))
	for _, v := range []string{"1.0.0", "1.1.0", "1.2.0", "2.0.0"} {
		content, err := os.ReadFile(bundle(v))
		d.check(err)
		d.write("hello-"+v+".tandem", string(content))
	}
	d.must("install", "hello-1.0.0.tandem")
	config := d.read("tandem.toml")
	d.write("health.sh", "echo it says no >&2\n[ \"$TANDEM_VERSION\" != 2.0.0 ]\n")
	d.write("tandem.toml", config+fmt.Sprintf("health = [\"/bin/sh\", %q]\n", d.path("health.sh")))

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a command that waits may wait for ever
	defer cancel()
	sh := exec.CommandContext(ctx, "sh")
	sh.Dir = d.dir
	sh.Env = append(os.Environ(), "PATH="+binDir+string(filepath.ListSeparator)+os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC")
	in, err := sh.StdinPipe()
	d.check(err)
	out, err := sh.StdoutPipe()
	d.check(err)
	sh.Stderr = sh.Stdout
	d.check(sh.Start())
	lines := bufio.NewScanner(out)
	for _, s := range steps {
		const end = "--the command has ended--"
		fmt.Fprintf(in, "%s\necho '%s'\n", strings.ReplaceAll(s.command, pageAddress, h.address), end)
		var got []string
		for lines.Scan() {
			l := strings.ReplaceAll(lines.Text(), h.address, pageAddress)
			if cut, done := strings.CutSuffix(l, end); done {
				if cut != "" {
					got = append(got, cut)
				}
				break
			}
			if !strings.Contains(l, "are on one file system") {
				got = append(got, l)
			}
		}
		if !samePage(s.want, got) {
			t.Errorf("%s\nprints:\n\t%s\nthe page says:\n\t%s", s.command, strings.Join(got, "\n\t"), strings.Join(s.want, "\n\t"))
		}
	}
	d.check(in.Close())
	_ = sh.Wait() // what its last command exited with is no matter
}

// pageStep is a command and what the page says that it prints.
type pageStep struct {
	command string
	want    []string
}

func pageSteps(page string) (steps []pageStep) {
	inside := false
	for l := range strings.SplitSeq(page, "\n") {
		switch {
		case strings.HasPrefix(l, "```"):
			inside = l == "```console hawkbit"
		case inside && strings.HasPrefix(l, "$ "):
			steps = append(steps, pageStep{command: l[2:]})
		case inside:
			last := &steps[len(steps)-1]
			last.want = append(last.want, l)
		}
	}
	return steps
}

func samePage(want, got []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case want[0] == "…":
		return samePage(want[1:], got) || len(got) > 0 && samePage(want, got[1:])
	case len(got) == 0:
		return false
	}
	parts := strings.Split(want[0], "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^"+strings.Join(parts, ".*")+"$").MatchString(got[0]) && samePage(want[1:], got[1:])
}
