// Command broken is a tandem that passes its test, and then is of no use: how is
// set by the linker.
package main

import (
	"fmt"
	"os"
	"slices"
)

// how is what it does wrong, mark is what tandem-release looks for.
var how, mark string

var version = "3.0.0"

func main() {
	is := func(command string) bool { return slices.Contains(os.Args, command) }
	switch {
	case how == "test-hangs" && is("selftest"):
		select {}
	case how == "test-fails" && is("selftest"):
		os.Exit(1)
	case is("selftest"):
		fmt.Printf(`{"version": %q, "architecture": "", "exit": 0}`+"\n", version)
	case how == "hangs" || how == "agent-hangs" && is("agent"):
		// As a program hangs that does not see it: a deadlock of all would end it.
		for {
			fmt.Fprint(os.Stderr)
		}
	case how == "exits":
		os.Exit(1)
	case how == "boot" && is("boot") || how == "agent" && is("agent"):
		panic(mark)
	}
}
