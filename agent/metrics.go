package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"tandem/agent/device"
	"tandem/backup"
)

// family is one metric with all its points, by the conventions of OpenTelemetry.
type family struct {
	name    string // such as tandem.received
	unit    string // "", or s or By
	help    string
	counter bool // it only rises, and begins with the agent
	points  []point
}

type point struct {
	labels []label
	value  int64
}

type label struct{ name, value string }

// prometheus is the name that the metric has in Prometheus' text format; an
// OpenTelemetry Collector gives it the same.
func (f *family) prometheus() string {
	name := strings.ReplaceAll(f.name, ".", "_")
	switch f.unit {
	case "s":
		name += "_seconds"
	case "By":
		name += "_bytes"
	}
	if f.counter {
		name += "_total"
	}
	return name
}

// one is the points of a metric without labels.
func one[T int | int64](v T) []point { return []point{{value: int64(v)}} }

// when is a time as seconds since 1970; no point where it is zero.
func when(t time.Time) []point {
	if t.IsZero() {
		return nil
	}
	return one(t.Unix())
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// measure returns the metrics. It asks the owner: it is for jobs and requests.
func (a *Agent) measure(ctx context.Context, hook string) ([]family, error) {
	s, err := a.status(ctx, hook)
	if err != nil {
		return nil, err
	}
	var since time.Time
	var failures int
	if !a.ask(ctx, func() { since, failures = a.now.PendingSince, a.now.PollFailures }) {
		return nil, ctx.Err()
	}
	var pending time.Duration
	if !since.IsZero() {
		pending = a.clock().Sub(since)
	}
	_, c := a.ledger.snapshot()
	var sides, revisions []point
	for _, n := range []backup.SideName{backup.System, backup.UsrData} {
		side := s.Sides[n]
		sides = append(sides, point{[]label{{"side", string(n)}, {"version", side.Version.String()}, {"state", string(side.State)}}, 1})
		revisions = append(revisions, point{[]label{{"side", string(n)}}, int64(side.Revision)})
	}
	var itself []point
	if t := s.Tandem; t != nil {
		itself = one(1)
		itself[0].labels = []label{{"version", t.Version}, {"previous", t.Previous.String()}, {"kept", t.Kept.String()}, {"pending", t.Pending.String()}}
	}
	return []family{
		{name: "tandem.info", help: "The agent and what it runs.",
			points: []point{{[]label{{"agent", a.o.Environment.Version}, {"app", a.cfg.Device.App}}, 1}}},
		{name: "tandem.program.info", help: "Versions of Tandem itself.", points: itself},
		{name: "tandem.side.info", help: "Version and state of each side.", points: sides},
		{name: "tandem.side.revision", help: "Revision of the configuration on each side.", points: revisions},
		{name: "tandem.in_step", help: "1 if both sides are identical and intact.", points: one(truth(s.InStep))},
		{name: "tandem.last_poll.timestamp", unit: "s", help: "When the source last answered.", points: when(s.Agent.LastPoll)},
		{name: "tandem.poll_failures", help: "Polls in a row that failed.", points: one(failures)},
		{name: "tandem.polls", counter: true, help: "Polls of the source.", points: one(c.polls)},
		{name: "tandem.polls.failed", counter: true, help: "Polls that failed.", points: one(c.failedPolls)},
		{name: "tandem.received", unit: "By", counter: true, help: "Bytes that came from the source.", points: one(c.received)},
		{name: "tandem.written", unit: "By", counter: true, help: "Bytes of content that were written to the sides.", points: one(c.written)},
		{name: "tandem.installs", counter: true, help: "Versions that were installed.", points: one(c.installed)},
		{name: "tandem.failures", counter: true, help: "What was tried and failed.", points: one(c.failed)},
		{name: "tandem.rollbacks", counter: true, help: "Versions that were taken back.", points: one(c.rollbacks)},
		{name: "tandem.captures", counter: true, help: "Captures of changed configuration.", points: one(c.captures)},
		{name: "tandem.restores", counter: true, help: "Restores of system from usr_data.", points: one(c.restores)},
		{name: "tandem.repairs", counter: true, help: "Damaged files that were found.", points: one(c.repairs)},
		{name: "tandem.last_scrub.timestamp", unit: "s", help: "When both sides were last verified in full.", points: when(s.Agent.LastScrub)},
		{name: "tandem.pending", unit: "s", help: "How long a version has waited to be confirmed; 0 if none does.", points: one(int64(pending / time.Second))},
		{name: "tandem.reports", counter: true, help: "Reports that were delivered.", points: one(c.reports)},
		{name: "tandem.reports.failed", counter: true, help: "Reports that were not.", points: one(c.failedReports)},
	}, nil
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace

// writePrometheus writes metrics in Prometheus' text format.
func writePrometheus(w io.Writer, families []family) {
	for _, f := range families {
		if len(f.points) == 0 {
			continue
		}
		name, kind := f.prometheus(), "gauge"
		if f.counter {
			kind = "counter"
		}
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, f.help, name, kind)
		for _, p := range f.points {
			labels := make([]string, len(p.labels))
			for i, l := range p.labels {
				labels[i] = l.name + `="` + escape(l.value) + `"`
			}
			all := strings.Join(labels, ",")
			if all != "" {
				all = "{" + all + "}"
			}
			fmt.Fprintf(w, "%s%s %d\n", name, all, p.value)
		}
	}
}

// serveMetrics answers with the metrics. Counters begin with the agent.
func (a *Agent) serveMetrics(w http.ResponseWriter, r *http.Request) {
	families, err := a.measure(r.Context(), r.Header.Get(HookHeader))
	if err != nil {
		a.refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	writePrometheus(w, families)
}

// metricsJob sends the metrics, as they are now. What could not be sent is not kept:
// the next ones say what is so then.
func (a *Agent) metricsJob(ctx context.Context) func() {
	families, err := a.measure(ctx, "")
	if err == nil {
		err = a.sendMetrics(ctx, families)
	}
	return func() {
		now := a.clock()
		switch {
		case ctx.Err() != nil:
		case err != nil:
			a.now.MetricsFailures++
			a.now.NextMetrics = now.Add(device.NextTry(a.now.MetricsFailures, retryAfter(err), a.o.Random()))
			if a.now.MetricsFailures == 1 {
				a.log.WithError(err).Warn("the metrics did not arrive; they are sent again")
			}
		default:
			a.now.MetricsFailures = 0
			a.now.NextMetrics = now.Add(NextPoll(a.cfg.Report.Metrics, 0, a.o.Random()))
		}
	}
}
