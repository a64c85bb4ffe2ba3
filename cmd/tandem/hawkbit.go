package main

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"tandem/agent/device"
	"tandem/internal/cli"
	"tandem/internal/config"
	"tandem/ota/hawkbit"
)

// sourceLines tell where releases come from, and what the server wants, where it
// is one that has wishes.
func sourceLines(s *device.SourceStatus) []string {
	if s == nil || s.Type != config.HawkBit {
		return nil
	}
	lines := []string{fmt.Sprintf("source: hawkBit %s, as %s", s.URL, s.Controller)}
	if a := s.Action; a != nil {
		lines = append(lines, actionLine(a))
	}
	if w := s.Waiting; w != nil {
		line := fmt.Sprintf("action %d waits for a person: %s; tandem confirm-update", w.Number, strings.Join(w.Brings, ", "))
		if w.Denied {
			line = fmt.Sprintf("action %d was denied, and is still offered: %s; tandem confirm-update", w.Number, strings.Join(w.Brings, ", "))
		}
		lines = append(lines, line)
	}
	return lines
}

func actionLine(a *device.ActionStatus) string {
	var line string
	switch {
	case a.Success != nil && *a.Success:
		line = fmt.Sprintf("action %d succeeded", a.Number)
	case a.Success != nil:
		line = fmt.Sprintf("action %d failed", a.Number)
	case a.Step == hawkbit.Ended && a.Fetched:
		return fmt.Sprintf("action %d: downloaded, not to be installed", a.Number)
	case a.Step == hawkbit.Ended:
		return fmt.Sprintf("action %d was called off", a.Number)
	default:
		wish := map[hawkbit.Mode]string{hawkbit.Forced: "forced", hawkbit.Attempt: "soft", hawkbit.Skip: "download only"}[a.Update]
		line = fmt.Sprintf("action %d is open: %s", a.Number, wish)
		if a.Hold != "" {
			line += "; " + a.Hold
		}
		return line
	}
	if len(a.Details) > 0 {
		line += ": " + strings.Join(a.Details, "; ")
	}
	if a.Step == hawkbit.Ending {
		line += " (the server has yet to be told)"
	}
	return line
}

func newConfirmUpdateCommand(p *program) *cobra.Command {
	var reason string
	var deny bool
	cmd := &cobra.Command{
		Use:   "confirm-update",
		Short: "Say yes or no to an update that a hawkBit server wants confirmed",
		Long: `confirm-update tells the hawkBit server that the update which waits for a person
on this device may begin. With --deny it may not; the server goes on offering it.`,
		Example: `  tandem confirm-update
  tandem confirm-update --deny --reason "not during the harvest"`,
		Args: cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			q := url.Values{"deny": {fmt.Sprint(deny)}, "reason": {reason}}
			return p.showConfirmed(carryOut(ctx, p, "/v1/confirm-update", q, nil, func(d *device.Device) (*device.ConfirmedUpdate, error) {
				return d.ConfirmUpdate(ctx, !deny, reason)
			}))
		},
	}
	cmd.Flags().BoolVar(&deny, "deny", false, "say no")
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that the server is told of it")
	return cmd
}

func (p *program) showConfirmed(doc *device.ConfirmedUpdate, err error) error {
	if doc == nil {
		return err
	}
	if doc.Confirmed {
		return p.print(doc, fmt.Sprintf("action %d is confirmed", doc.Action))
	}
	return p.print(doc, fmt.Sprintf("action %d is denied", doc.Action))
}
