package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/internal/jsonschema"
	"tandem/internal/manpage"
)

var writePage = flag.Bool("write", false, "write the commands into docs/commands.md")

// The chapters of docs/commands.md about this program are what its commands say
// of themselves, and its table of outcomes.
func TestCommandsPage(t *testing.T) {
	for name, want := range map[string]string{
		"tandem":               manpage.Markdown(newRootCommand(&program{})),
		"exit codes of tandem": outcomes().Markdown(),
	} {
		chapter := manpage.Chapter{File: "../../docs/commands.md", Name: name}
		if *writePage {
			if err := chapter.Write(want); err != nil {
				t.Fatal(err)
			}
		}
		got, err := chapter.Read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("docs/commands.md is stale: go test ./cmd/tandem -run TestCommandsPage -write\n(-commands +page):\n%s", diff)
		}
	}
}

// The schema of the JSON documents knows each command.
func TestSchemaKnowsCommands(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.Load("../../docs/output.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range newRootCommand(&program{}).Commands() {
		if !c.Runnable() || c.Name() == "agent" || c.Name() == "completion" {
			continue
		}
		if err := schema.Valid("#/$defs/"+c.Name(), []byte(`{"exit": 0}`)); err != nil && strings.Contains(err.Error(), "the schema has no") {
			t.Errorf("%s: %v", c.Name(), err)
		}
	}
}

// Each call of this program that a page shows is one that it understands.
func TestPagesShowRealCommands(t *testing.T) {
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
			for _, args := range manpage.Lines(string(text), "tandem") {
				calls++
				if err := manpage.Understands(newRootCommand(&program{}), args); err != nil {
					t.Errorf("%s: tandem %s: %v", strings.TrimPrefix(file, "../../"), strings.Join(args, " "), err)
				}
			}
		}
	}
	if calls < 40 {
		t.Errorf("only %d calls", calls)
	}
}
