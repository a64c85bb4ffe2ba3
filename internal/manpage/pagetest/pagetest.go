// Package pagetest holds a program to what the book says of its commands.
package pagetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/manpage"
)

// Program is a program whose package lies two directories below the project's root.
type Program struct {
	Name     string
	Root     func() *cobra.Command // a new one for each call
	Outcomes cli.Outcomes
}

// Chapters compares the chapters of docs/commands.md about the program with what its
// commands say of themselves, and with its table of outcomes; first it writes them, if
// write is set.
func (p Program) Chapters(t *testing.T, write bool) {
	t.Helper()
	for name, want := range map[string]string{
		p.Name:                    manpage.Markdown(p.Root()),
		"exit codes of " + p.Name: p.Outcomes.Markdown(),
	} {
		chapter := manpage.Chapter{File: "../../docs/commands.md", Name: name}
		if write {
			if err := chapter.Write(want); err != nil {
				t.Fatal(err)
			}
		}
		got, err := chapter.Read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("docs/commands.md is stale: go test ./cmd/%s -run TestCommandsPage -write\n(-commands +page):\n%s", p.Name, diff)
		}
	}
}

// Calls sees whether each call of the program that a page shows is one that it
// understands, and that there are so many at least.
func (p Program) Calls(t *testing.T, atLeast int) {
	t.Helper()
	calls := 0
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*/*.md"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, args := range manpage.Lines(string(text), p.Name) {
				calls++
				if err := manpage.Understands(p.Root(), args); err != nil {
					t.Errorf("%s: %s %s: %v", strings.TrimPrefix(file, "../../"), p.Name, strings.Join(args, " "), err)
				}
			}
		}
	}
	if calls < atLeast {
		t.Errorf("only %d calls", calls)
	}
}
