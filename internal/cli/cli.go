// Package cli is what the two programs' command lines have in common.
package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// UsageError says that the command line is wrong.
type UsageError struct {
	Err     error
	Command string // such as "tandem install"
	Meant   string // the command that was meant, perhaps; "" if none is like it
}

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong with it.
func (e *UsageError) Unwrap() error { return e.Err }

// Hint says where to read how it is right.
func (e *UsageError) Hint() string {
	if e.Meant != "" {
		return fmt.Sprintf("did you mean %q? %q tells what there is", e.Meant, e.Command+" --help")
	}
	return fmt.Sprintf("%q tells how it is used", e.Command+" --help")
}

// Usage makes a UsageError for cmd.
func Usage(cmd *cobra.Command, format string, args ...any) error {
	return &UsageError{Err: fmt.Errorf(format, args...), Command: cmd.CommandPath()}
}

// Unknown makes a UsageError for a command that cmd does not have.
func Unknown(cmd *cobra.Command, name string) error {
	const similar = 2 // letters that may differ
	e := &UsageError{Err: fmt.Errorf("unknown command %q", name), Command: cmd.CommandPath()}
	if cmd.HasParent() {
		e.Err = fmt.Errorf("unknown command %q for %q", name, cmd.CommandPath())
	}
	cmd.SuggestionsMinimumDistance = similar
	if meant := cmd.SuggestionsFor(name); len(meant) > 0 {
		e.Meant = cmd.CommandPath() + " " + meant[0]
	}
	return e
}

// Group makes cmd a command that does nothing but hold others.
func Group(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return Usage(cmd, "%s needs a command after it", cmd.CommandPath())
		}
		return Unknown(cmd, args[0])
	}
}

// Exactly asks for arguments by name, none of them empty.
func Exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return Usage(cmd, "%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return Usage(cmd, "unexpected argument %q", args[len(names)])
		}
		for i, a := range args {
			if a == "" {
				return Usage(cmd, "%s is empty", names[i])
			}
		}
		return nil
	}
}
