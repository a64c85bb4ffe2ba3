package main

import (
	"flag"
	"testing"

	"github.com/spf13/cobra"

	"tandem/internal/manpage/pagetest"
)

var writePage = flag.Bool("write", false, "write the commands into docs/commands.md")

func inTheBook() pagetest.Program {
	return pagetest.Program{Name: "tandem-release", Root: func() *cobra.Command { return newRootCommand(&program{}) }, Outcomes: outcomes()}
}

// The chapters of docs/commands.md about this program are what its commands say
// of themselves, and its table of outcomes.
func TestCommandsPage(t *testing.T) { inTheBook().Chapters(t, *writePage) }

// Each call of this program that a page shows is one that it understands.
func TestPagesShowRealCommands(t *testing.T) { inTheBook().Calls(t, 40) }
