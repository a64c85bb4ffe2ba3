package main

import (
	"flag"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/internal/manpage"
)

var writePage = flag.Bool("write", false, "write the commands into docs/commands.md")

// The chapter of docs/commands.md about this program is what its commands say
// of themselves.
func TestCommandsPage(t *testing.T) {
	chapter := manpage.Chapter{File: "../../docs/commands.md", Name: "tandem"}
	want := manpage.Markdown(newRootCommand(&program{}))
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
