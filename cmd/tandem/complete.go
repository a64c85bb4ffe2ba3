package main

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"tandem/agent/device"
	"tandem/versioning"
)

// completeVersions has the shell offer versions of this device as the one
// argument of a command: those that of chooses from its status.
func (p *program) completeVersions(of func(*device.Status) []versioning.Version) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		p.quiet = true
		s, err := p.status(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names := map[string]bool{}
		for _, v := range of(s) {
			if !v.IsZero() {
				names[v.String()] = true
			}
		}
		return slices.Sorted(maps.Keys(names)), cobra.ShellCompDirectiveNoFileComp
	}
}

// onDisk are the versions that the sides have and keep.
func onDisk(s *device.Status) (all []versioning.Version) {
	for _, side := range s.Sides {
		all = append(all, side.Version, side.Previous)
	}
	return all
}

// kept are the versions that could be returned to.
func kept(s *device.Status) (all []versioning.Version) {
	for _, side := range s.Sides {
		all = append(all, side.Previous)
	}
	return all
}

func revoked(s *device.Status) []versioning.Version { return s.Revoked }
