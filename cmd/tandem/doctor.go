package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"tandem/agent/device"
	"tandem/agent/device/doctor"
	"tandem/internal/cli"
	"tandem/internal/config"
	"tandem/internal/disclose"
)

func newDoctorCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what would go wrong",
		Long: `doctor looks at the configuration, hooks and handlers, both sides and the room on
them, clock and zone, root of trust and until when metadata is valid, source,
permissions, and at what starts Tandem on this machine. Each finding says what
would go wrong and what to do. It changes nothing, and ends with 0 only if nothing
would go wrong.`,
		Example: "  tandem doctor\n  tandem doctor --json",
		Args:    cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			p.stderr.Through(disclose.Text) // people pass on what it says, messages included
			cfg, err := config.Load(p.config)
			if err != nil {
				return err
			}
			fit := disclose.New(cfg.Secrets())
			p.stderr.Through(fit.Words)
			here, mute := p.agentHere(ctx, cfg)
			if mute != nil && !errors.Is(mute, errMute) {
				return mute
			}
			patient := doctor.Patient{
				Config: cfg, Built: builtAt(), Now: p.now(), EUID: p.euid, Root: "/",
				Agent: here != nil, Explain: p.failure,
			}
			patient.Zone, patient.ZoneErr = zone()
			if cfg.Source != nil {
				patient.Answer, patient.AnswerErr = carryOut(ctx, p, "/v1/check", nil, nil,
					func(d *device.Device) (*device.Answer, error) { return d.RunCheck(ctx) })
			}
			return p.open(device.Look, func(d *device.Device) error {
				patient.Device = d
				doc, err := patient.Examine(ctx)
				doc.Failure = p.failure(err)
				*doc = disclose.Copy(fit, "doctor", *doc)
				return errors.Join(p.print(doc, p.findings(doc)...), err)
			})
		},
	}
}

// findings writes a diagnosis for people.
func (p *program) findings(doc *doctor.Diagnosis) []string {
	var lines []string
	for _, f := range doc.Findings {
		if p.quiet && f.Kind != doctor.Wrong {
			continue
		}
		lines = append(lines, fmt.Sprintf("%-5s %s: %s", f.Kind, f.About, f.Found))
		if f.Consequence != "" {
			lines = append(lines, "      so: "+f.Consequence)
		}
		if f.Advice != "" {
			lines = append(lines, "      do: "+f.Advice)
		}
	}
	return lines
}
