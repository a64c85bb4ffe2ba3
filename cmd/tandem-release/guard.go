package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/cli"
	"tandem/internal/digest"
	"tandem/internal/text"
	"tandem/packaging/fleet"
	"tandem/packaging/release"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
)

var (
	// errHalt says that a rollout is to be halted, and that this could not be done here.
	errHalt = errors.New("a rollout is to be halted")
	// errNobody says that there are reports, and none of a device that is known.
	errNobody = errors.New("no report is of a device that the collector knows")
)

// reportFlags say where the reports of a fleet are.
type reportFlags struct{ token string }

func (f *reportFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.token, "reports-token-file", "", "`FILE` with the bearer token for the server of the reports")
}

// reportsHelp says what is read.
const reportsHelp = `REPORTS is a directory with the reports that a collector took from agents, as
DEVICE/NAME.json, or the http or https URL of a server that gives a line
{"from":"DEVICE","report":{...}} for each. DEVICE is the name by which the collector
knows the device, such as the subject of its client certificate: what a report says of
itself is not believed, and reports of nobody are left out. Each device counts once.`

// reports reads the reports of a fleet, and tells what is left out.
func (p *program) reports(ctx context.Context, cmd *cobra.Command, where string, flags *reportFlags) (*fleet.Fleet, fleet.LeftOut, error) {
	f := &fleet.Fleet{}
	var left fleet.LeftOut
	var err error
	if scheme, _, ok := strings.Cut(where, "://"); ok {
		if scheme != "http" && scheme != "https" {
			return nil, left, cli.Usage(cmd, "%q: expected a directory, or an http or https URL", where)
		}
		token := ""
		if flags.token != "" {
			if token, err = readToken(flags.token); err != nil {
				return nil, left, err
			}
		}
		client := &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: time.Minute, TLSHandshakeTimeout: 30 * time.Second,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		}}
		defer client.CloseIdleConnections()
		left, err = f.Get(ctx, client, where, token)
	} else {
		left, err = f.ReadDir(ctx, where)
	}
	if err != nil {
		return nil, left, err
	}
	for _, why := range left.Why {
		p.say("left out: %v", why)
	}
	if more := left.Count - len(left.Why); more > 0 {
		p.say("left out: %d more", more)
	}
	if f.Devices() == 0 && left.Count > 0 {
		return nil, left, fmt.Errorf("%s: %w", where, errNobody)
	}
	return f, left, nil
}

// readToken reads a token, in one line.
func readToken(name string) (string, error) {
	const most = 8 << 10
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(raw))
	if token == "" || len(raw) > most || strings.ContainsAny(token, "\r\n\x00") {
		return "", fmt.Errorf("%s: expected a token in one line", name)
	}
	return token, nil
}

// guarding says when a rollout is to be halted.
type guarding struct {
	reports     string
	maxFailures string
	minDevices  int
	reportFlags
}

func (g *guarding) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.reports, "guard", "", "halt rollouts that go wrong by the `REPORTS` of a fleet")
	cmd.Flags().StringVar(&g.maxFailures, "max-failures", "5%", "with --guard: `PERCENT` of the devices that took a release which may fall back from it")
	cmd.Flags().IntVar(&g.minDevices, "min-devices", 10, "with --guard: how many devices must have taken a release until that is judged")
	g.reportFlags.register(cmd)
}

// percentage reads a percentage, such as 5% or 0.5.
func percentage(cmd *cobra.Command, flag, value string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "%")), 64)
	if err != nil || math.IsNaN(n) || n < 0 || n > 100 {
		return 0, cli.Usage(cmd, "--%s %q: expected 0 to 100 per cent, such as 5%%", flag, value)
	}
	return n, nil
}

// guard halts the rollouts of releases that too many devices fell back from.
func (p *program) guard(cmd *cobra.Command, f *publishFlags, g *guarding, repo, name string) error {
	most, err := percentage(cmd, "max-failures", g.maxFailures)
	if err != nil {
		return err
	}
	if g.minDevices < 1 {
		return cli.Usage(cmd, "--min-devices %d: expected 1 or more", g.minDevices)
	}
	reports, _, err := p.reports(cmd.Context(), cmd, g.reports, &g.reportFlags)
	if err != nil {
		return err
	}
	judge := func(r *repository.Repository) ([]release.Target, error) {
		s, err := r.Status()
		if err != nil {
			return nil, err
		}
		for _, err := range s.Unread {
			p.say("left out: %v", err)
		}
		list := s.Releases
		if name != "" {
			if list, err = repository.Find(list, name); err != nil {
				return nil, err
			}
		}
		return p.failing(list, s.Halts, reports, most, g.minDevices), nil
	}
	told := func(what string, bad []release.Target) error {
		for i := range bad {
			if err := p.result(fmt.Sprintf("%s %s %s for %s", what, bad[i].App, bad[i].Version, strings.Join(bad[i].Compatible, ", "))); err != nil {
				return err
			}
		}
		return nil
	}
	// undone says what is to be done where it cannot be done here, because of err.
	undone := func(bad []release.Target, err error) error {
		if err := told("halt", bad); err != nil {
			return err
		}
		return fmt.Errorf("%w: %w", errHalt, err)
	}
	if !f.given() {
		return p.look(repo, func(r *repository.Repository) error {
			bad, err := judge(r)
			if err != nil || len(bad) == 0 {
				return err
			}
			return undone(bad, errors.New("without --keys nothing was changed"))
		})
	}
	return p.change(cmd, f, repo, nil, func(r *repository.Repository, keys *signing.Ring) error {
		bad, err := judge(r)
		if err != nil || len(bad) == 0 {
			return err
		}
		var sums []digest.SHA256
		for i := range bad {
			sums = append(sums, bad[i].Release)
		}
		if _, err := r.Halt(keys, false, sums...); err != nil {
			return undone(bad, err)
		}
		return told("halted", bad)
	})
}

// failing returns the releases, each in one form, that too many devices fell back
// from, and are on offer; what it finds of each it tells.
func (p *program) failing(list []release.Target, halts release.Halts, reports *fleet.Fleet, most float64, atLeast int) (bad []release.Target) {
	p.say("%d reports of %d devices", reports.Reports(), reports.Devices())
	seen := release.Halts{}
	for i := range list {
		rel := &list[i]
		if seen[rel.Release] || rel.TakenBack() {
			continue
		}
		seen[rel.Release] = true
		c := reports.Of(rel)
		text := fmt.Sprintf("%s %s for %s: %d of %d devices that took it fell back", rel.App, rel.Version, strings.Join(rel.Compatible, ", "), c.FellBack, c.Took)
		switch {
		case c.FellBack == 0:
		case c.Took < atLeast:
			p.say("%s: too few to judge, --min-devices is %d", text, atLeast)
		case float64(c.FellBack)*100 <= most*float64(c.Took):
			p.say("%s: no more than %g %%", text, most)
		case halts[rel.Release]:
			p.say("%s: it is halted already", text)
		default:
			p.say("%s: more than %g %%", text, most)
			bad = append(bad, *rel)
		}
	}
	return bad
}

// fares is how a release fares, as "status --json" has it.
type fares struct {
	listed
	Devices *fleet.Count `json:"devices,omitempty"`
}

func newRepoStatusCommand(p *program) *cobra.Command {
	var (
		where  string
		flags  reportFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "status REPO [--reports REPORTS] [--json]",
		Short: "Say what is offered to whom, and how it fares",
		Long: `Say of each release and channel to whom it is offered, as "repo list" does but with
its delta bundles in one line with it, and, from the reports of a fleet, how it fares:

TOOK        devices that had it at some time
HAVE        devices that run it
CONFIRMED   of those that took it: found healthy, and nothing else since
FELL BACK   of those that took it: rolled back
RETURNED    of those that took it: left it because it was recalled

` + reportsHelp,
		Example: `  tandem-release repo status repo
  tandem-release repo status repo --reports /var/lib/reports
  tandem-release repo status repo --reports https://collector.example.com/reports --json`,
		Args: cli.Exactly("REPO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("reports") && where == "" {
				return cli.Usage(cmd, "--reports is empty")
			}
			var reports *fleet.Fleet
			var left fleet.LeftOut
			return p.look(args[0], func(r *repository.Repository) error {
				s, err := r.Status()
				if err != nil {
					return err
				}
				if where != "" {
					if reports, left, err = p.reports(cmd.Context(), cmd, where, &flags); err != nil {
						return err
					}
				}
				p.sayRoles(s)
				list := oneForm(s.Releases)
				if asJSON {
					return p.statusJSON(s, list, reports, left.Count)
				}
				return p.status(s, list, reports)
			})
		},
	}
	cmd.Flags().StringVar(&where, "reports", "", "`REPORTS` of a fleet: a directory or a URL")
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

// oneForm keeps one form of each release, the whole bundle if it is listed, and one
// of each hardware.
func oneForm(list []release.Target) (out []release.Target) {
	at := map[digest.SHA256]int{}
	for _, r := range list {
		i, ok := at[r.Release]
		switch {
		case !ok:
			at[r.Release] = len(out)
			out = append(out, r)
		case r.Base.IsZero():
			out[i] = r
		}
	}
	return out
}

func (p *program) status(s *repository.Status, list []release.Target, reports *fleet.Fleet) error {
	b := bufio.NewWriter(p.stdout)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	head := "RELEASE\tCHANNEL\tOFFERED TO\tHARDWARE"
	if reports != nil {
		head += "\tTOOK\tHAVE\tCONFIRMED\tFELL BACK\tRETURNED"
	}
	if len(list) > 0 {
		fmt.Fprintln(w, head)
	}
	for i := range list {
		r := &list[i]
		for _, channel := range r.ChannelNames() {
			cells := []string{r.App + "/" + r.Version.String(), channel, offeredTo(r, channel, s.Halts), strings.Join(r.Compatible, ",")}
			if reports != nil {
				c := reports.Of(r)
				for _, n := range []int{c.Took, c.Have, c.Confirmed, c.FellBack, c.Returned} {
					cells = append(cells, strconv.Itoa(n))
				}
			}
			for k := range cells {
				cells[k] = text.Line(cells[k])
			}
			fmt.Fprintln(w, strings.Join(cells, "\t"))
		}
	}
	if err := errors.Join(w.Flush(), b.Flush()); err != nil {
		return err
	}
	if reports != nil {
		p.say("%d reports of %d devices", reports.Reports(), reports.Devices())
	}
	return nil
}

func (p *program) statusJSON(s *repository.Status, list []release.Target, reports *fleet.Fleet, left int) error {
	type read struct {
		Devices int `json:"devices"`
		Reports int `json:"reports"`
		LeftOut int `json:"left_out"`
	}
	doc := struct {
		Releases []fares `json:"releases"`
		Reports  *read   `json:"reports,omitempty"`
	}{Releases: []fares{}}
	if reports != nil {
		doc.Reports = &read{reports.Devices(), reports.Reports(), left}
	}
	for i := range list {
		one := fares{listed: listedOf(&list[i], s)}
		if reports != nil {
			c := reports.Of(&list[i])
			one.Devices = &c
		}
		doc.Releases = append(doc.Releases, one)
	}
	return p.document(doc)
}
