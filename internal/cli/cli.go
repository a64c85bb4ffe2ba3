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
}

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives what is wrong with it.
func (e *UsageError) Unwrap() error { return e.Err }

// Hint says where to read how it is right.
func (e *UsageError) Hint() string {
	return fmt.Sprintf("%q tells how it is used", e.Command+" --help")
}

// Usage makes a UsageError for cmd.
func Usage(cmd *cobra.Command, format string, args ...any) error {
	return &UsageError{fmt.Errorf(format, args...), cmd.CommandPath()}
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
