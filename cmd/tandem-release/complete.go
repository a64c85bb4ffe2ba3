package main

import (
	"strings"

	"github.com/spf13/cobra"

	"tandem/internal/fsys"
	"tandem/packaging/repository"
)

// completeReleases has the shell offer a repository's releases to each command
// that takes one.
func (p *program) completeReleases(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if strings.Contains(cmd.Use, " REPO RELEASE") {
			cmd.ValidArgsFunction = p.releases
		}
		p.completeReleases(cmd)
	}
}

func (p *program) releases(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return nil, cobra.ShellCompDirectiveFilterDirs
	case 1:
		dir, err := fsys.OpenOS(args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer dir.Close()
		status, err := repository.New(dir, p.now, repository.Expiry{}).Status()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for i := range status.Releases {
			names = append(names, status.Releases[i].App+"/"+status.Releases[i].Version.String())
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
