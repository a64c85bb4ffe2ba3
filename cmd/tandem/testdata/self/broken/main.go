// Command broken is a tandem that passes its test, and then is of no use: how is set by
// the linker, or it is the last line of the program's file.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// how is what it does wrong, mark is what tandem-release looks for.
var how, mark string

var version = "3.0.0"

func main() {
	if how == "" {
		program, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			panic(err)
		}
		program = bytes.TrimSuffix(program, []byte("\n"))
		how = string(program[bytes.LastIndexByte(program, '\n')+1:])
	}
	is := func(command string) bool { return slices.Contains(os.Args, command) }
	switch {
	case how == "test-fails" && is("selftest"):
		os.Exit(1)
	case is("selftest"):
		fmt.Printf(`{"version": %q, "architecture": "", "exit": 0}`+"\n", version)
	case how == "hangs" || how == "agent-hangs" && is("agent"):
		// As a program hangs that does not see it: a deadlock of all would end it.
		never := make(chan os.Signal, 1)
		signal.Notify(never, syscall.SIGUSR1)
		<-never
	case how == "exits":
		os.Exit(1)
	case how == "boot" && is("boot") || how == "agent" && is("agent"):
		panic(mark)
	}
}
