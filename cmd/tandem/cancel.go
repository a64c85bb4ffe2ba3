package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/config"
)

func newCancelCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel",
		Short: "End what the agent is doing about a release",
		Long: `cancel ends the commands that were given to the agent, and a download or an
installation that it does by itself; releases are then left alone for an hour. What
was not committed yet leaves nothing behind; a version that is in place stays:
"tandem rollback" returns to the one before. A download goes on later where it
stopped. A command that runs without an agent ends with Ctrl-C; one that the agent
carries out goes on after Ctrl-C, and is cancelled by another one within three seconds.`,
		Example: "  tandem cancel",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(p.config)
			if err != nil {
				return err
			}
			r, err := p.agentHere(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if r == nil {
				return &hintedError{errors.New("no agent runs here"), "a command that runs by itself ends with Ctrl-C"}
			}
			doc, err := r.cancel(cmd.Context())
			if err != nil {
				return err
			}
			line := "nothing is under way"
			if len(doc.Cancelled) > 0 {
				line = "cancelled: " + strings.Join(doc.Cancelled, ", ")
			}
			return p.report(doc, line)
		},
	}
}
