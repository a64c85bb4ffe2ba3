package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
)

// programTree makes the tree of a bundle of the kind agent out of a program, and
// fills in what follows from it. done removes the tree.
func programTree(cmd *cobra.Command, file, arch string, o *bundle.Options, version *string) (dir string, done func(), err error) {
	for _, f := range []string{"compatible", "config-pattern", "ignore", "replace", "remove"} {
		if cmd.Flags().Changed(f) {
			return "", nil, cli.Usage(cmd, "--%s does not go with --kind agent, which carries one program", f)
		}
	}
	switch {
	case arch == "":
		return "", nil, cli.Usage(cmd, "--arch is missing: what the program runs on, such as armv7")
	case o.App != "" && o.App != release.ProgramName:
		return "", nil, cli.Usage(cmd, "--app %s: expected %s, as the kind is agent", o.App, release.ProgramName)
	}
	program, err := os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	if err := release.CheckProgram(program, arch); err != nil {
		return "", nil, fmt.Errorf("%s: %w", file, err)
	}
	found := release.FindVersion(program)
	switch {
	case *version == "" && found == "":
		return "", nil, cli.Usage(cmd, "--version is missing, and %s does not tell which it is", file)
	case *version == "":
		*version = found
	case found != "" && found != *version:
		return "", nil, cli.Usage(cmd, "--version %s: %s is version %s, and devices compare the two", *version, file, found)
	}
	o.App, o.Compatible = release.ProgramName, []string{arch}
	tmp, err := os.MkdirTemp("", "tandem-release")
	if err != nil {
		return "", nil, err
	}
	done = func() { _ = os.RemoveAll(tmp) } // a copy in a directory for such
	if err := os.WriteFile(filepath.Join(tmp, release.ProgramName), program, 0o755); err != nil {
		done()
		return "", nil, err
	}
	if err := os.Chmod(filepath.Join(tmp, release.ProgramName), 0o755); err != nil {
		done()
		return "", nil, err
	}
	return tmp, done, nil
}
