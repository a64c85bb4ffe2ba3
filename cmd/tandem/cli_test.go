package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command says what it does and how it is used, with an example that
// begins with its own name; and its help needs no configuration.
func TestEachCommandHasAnExample(t *testing.T) {
	t.Parallel()
	d := &unit{t: t, dir: t.TempDir()}
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if !c.Runnable() { // a page of help
			return
		}
		if c.Short == "" || !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		o := d.run(append(strings.Fields(c.CommandPath())[1:], "--help")...)
		if o.exit != 0 || o.stderr != "" || !strings.Contains(o.stdout, "\nExamples:\n") {
			t.Errorf("%s --help: %s", c.CommandPath(), o)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	root := newRootCommand(&program{})
	visit(root)
	want := strings.Fields("backup boot bump check doctor history install status update verify version")
	var have []string
	for _, c := range root.Commands() {
		have = append(have, c.Name())
	}
	slices.Sort(have)
	for _, name := range want {
		if !slices.Contains(have, name) {
			t.Errorf("there is no command %s, only %s", name, have)
		}
	}
}
