package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tandem/internal/fsys"
	"tandem/packaging/repository"
)

// completeReleases has the shell offer a repository's releases to each command
// that takes one.
func (p *program) completeReleases(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if strings.Contains(cmd.Use, " REPO RELEASE") || strings.Contains(cmd.Use, " REPO [RELEASE]") {
			cmd.ValidArgsFunction = p.releases
		}
		p.completeReleases(cmd)
	}
}

// completeChannels has the shell offer the channels of a repository to a flag of
// a command whose first argument names it.
func (p *program) completeChannels(cmd *cobra.Command, flag string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) { // it fails only without such a flag
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		err := p.look(args[0], func(r *repository.Repository) error {
			all, err := r.Releases()
			for i := range all {
				names = append(names, all[i].ChannelNames()...)
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	})
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
		names = slices.Compact(names) // they are sorted
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
