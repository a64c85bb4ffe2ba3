package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

const page = "../../docs/publishing.md"

// pageBlocks gives the blocks of a page that are marked sh.
func pageBlocks(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	var block *strings.Builder
	for line := range strings.Lines(string(raw)) {
		switch {
		case block != nil && strings.HasPrefix(line, "```"):
			blocks, block = append(blocks, block.String()), nil
		case block != nil:
			block.WriteString(line)
		case line == "```sh\n":
			block = &strings.Builder{}
		}
	}
	if block != nil || len(blocks) == 0 {
		t.Fatalf("%s: %d blocks, or one without end", page, len(blocks))
	}
	return blocks
}

// Every command of the publisher's page works, one after the other.
func TestPublishingPage(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("opening encrypted keys takes time, on purpose")
	}
	var script bytes.Buffer
	script.WriteString("env TANDEM_PASSPHRASE='a passphrase for the page'\nenv SOURCE_DATE_EPOCH=\n")
	for i := range pageBlocks(t) {
		fmt.Fprintf(&script, "exec sh -eux %d.sh\n", i)
	}
	// The last word: what was uploaded on the way is a repository, too.
	script.WriteString("cp kept-root.json www/root.json\nexec tandem-release repo check www\n")
	for i, b := range pageBlocks(t) {
		fmt.Fprintf(&script, "-- %d.sh --\n%s", i, b)
	}
	script.WriteString("-- hello/bin/hello --\necho hello\n-- hello/etc/hello.conf --\ngreeting=hello\n")
	file := filepath.Join(t.TempDir(), "publishing.txtar")
	if err := os.WriteFile(file, script.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{Files: []string{file}, RequireExplicitExec: true})
}

// The page shows each command of "repo", and runs nothing that does not exist.
func TestPublishingPageIsComplete(t *testing.T) {
	t.Parallel()
	commands := strings.Join(pageBlocks(t), "")
	for _, cmd := range newRepoCommand(&program{}).Commands() {
		if name := cmd.Name(); name != "serve" && !strings.Contains(commands, "tandem-release repo "+name+" ") {
			t.Errorf("%s does not show \"tandem-release repo %s\"", page, name)
		}
	}
}
