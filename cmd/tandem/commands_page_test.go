package main

import (
	"flag"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"tandem/internal/jsonschema"
	"tandem/internal/manpage/pagetest"
)

var writePage = flag.Bool("write", false, "write the commands into docs/commands.md")

func inTheBook() pagetest.Program {
	return pagetest.Program{Name: "tandem", Root: func() *cobra.Command { return explain(newRootCommand(&program{})) }, Outcomes: outcomes()}
}

// The chapters of docs/commands.md about this program are what its commands say
// of themselves, and its table of outcomes.
func TestCommandsPage(t *testing.T) { inTheBook().Chapters(t, *writePage) }

// The schema of the JSON documents knows each command.
func TestSchemaKnowsCommands(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.Load("../../docs/output.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range newRootCommand(&program{}).Commands() {
		if c.HasSubCommands() || !c.Runnable() || c.Name() == "agent" || c.Name() == "completion" {
			continue
		}
		if err := schema.Valid("#/$defs/"+c.Name(), []byte(`{"exit": 0}`)); err != nil && strings.Contains(err.Error(), "the schema has no") {
			t.Errorf("%s: %v", c.Name(), err)
		}
	}
}

// Each call of this program that a page shows is one that it understands.
func TestPagesShowRealCommands(t *testing.T) { inTheBook().Calls(t, 40) }
