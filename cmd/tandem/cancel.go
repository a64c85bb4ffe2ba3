package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"tandem/agent"
	"tandem/internal/cli"
	"tandem/internal/config"
)

func newCancelCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel",
		Short: "End what the agent is doing about a release",
		Long: `cancel ends the commands that were given to the agent, and a download or an
installation that it does by itself, which it then leaves alone for an hour. What
was not committed yet leaves nothing behind; a version that is in place stays:
"tandem rollback" returns to the one before. A download goes on later where it
stopped. A command that runs without an agent ends with Ctrl-C.`,
		Example: "  tandem cancel",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(p.config)
			if err != nil {
				return err
			}
			r := p.agentHere(cfg)
			if r == nil {
				return &hintedError{errors.New("no agent runs here"), "a command that runs by itself ends with Ctrl-C"}
			}
			resp, err := r.do(cmd.Context(), http.MethodPost, "/v1/cancel", nil, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			var doc agent.Cancelled
			if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
				return fmt.Errorf("the agent's answer: %w", err)
			}
			line := "nothing is under way"
			if len(doc.Cancelled) > 0 {
				line = "cancelled: " + strings.Join(doc.Cancelled, ", ")
			}
			return p.report(doc, line)
		},
	}
}
