package agent

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"tandem/backup"
)

// metric writes one family of metrics in Prometheus' text format.
type metrics struct{ w io.Writer }

func (m metrics) head(name, kind, help string) {
	fmt.Fprintf(m.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// value writes a metric without labels.
func (m metrics) value(name, kind, help string, v float64) {
	m.head(name, kind, help)
	fmt.Fprintf(m.w, "%s %g\n", name, v)
}

// seconds writes a time as seconds since 1970; nothing where it is zero.
func (m metrics) seconds(name, help string, t time.Time) {
	if !t.IsZero() {
		m.head(name, "gauge", help)
		fmt.Fprintf(m.w, "%s %d\n", name, t.Unix())
	}
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// serveMetrics gives the metrics. Counters begin with the agent.
func (a *Agent) serveMetrics(w http.ResponseWriter, r *http.Request) {
	s, err := a.status(r.Context(), r.Header.Get(HookHeader))
	if err != nil {
		a.refuse(w, http.StatusInternalServerError, err)
		return
	}
	var since time.Time
	var failures int
	if !a.ask(r.Context(), func() { since, failures = a.now.PendingSince, a.now.PollFailures }) {
		return
	}
	_, c := a.ledger.snapshot()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	m := metrics{w}
	m.head("tandem_info", "gauge", "The agent and what it runs.")
	fmt.Fprintf(w, "tandem_info{agent=\"%s\",app=\"%s\"} 1\n", escape(a.o.Environment.Version), escape(a.cfg.Device.App))
	m.head("tandem_side_info", "gauge", "Version and state of each side.")
	for _, n := range []backup.SideName{backup.System, backup.UsrData} {
		side := s.Sides[n]
		fmt.Fprintf(w, "tandem_side_info{side=\"%s\",version=\"%s\",state=\"%s\"} 1\n", n, escape(side.Version.String()), side.State)
	}
	m.head("tandem_side_revision", "gauge", "Revision of the configuration on each side.")
	for _, n := range []backup.SideName{backup.System, backup.UsrData} {
		fmt.Fprintf(w, "tandem_side_revision{side=\"%s\"} %d\n", n, s.Sides[n].Revision)
	}
	m.value("tandem_in_step", "gauge", "1 if both sides are identical and intact.", truth(s.InStep))
	m.seconds("tandem_last_poll_timestamp_seconds", "When the source last answered.", s.Agent.LastPoll)
	m.value("tandem_poll_failures", "gauge", "Polls in a row that failed.", float64(failures))
	m.value("tandem_polls_total", "counter", "Polls of the source.", float64(c.polls))
	m.value("tandem_polls_failed_total", "counter", "Polls that failed.", float64(c.failedPolls))
	m.value("tandem_received_bytes_total", "counter", "Bytes that came from the source.", float64(c.received))
	m.value("tandem_written_bytes_total", "counter", "Bytes of content that were written to the sides.", float64(c.written))
	m.value("tandem_installs_total", "counter", "Versions that were installed.", float64(c.installed))
	m.value("tandem_failures_total", "counter", "What was tried and failed.", float64(c.failed))
	m.value("tandem_rollbacks_total", "counter", "Versions that were taken back.", float64(c.rollbacks))
	m.value("tandem_captures_total", "counter", "Captures of changed configuration.", float64(c.captures))
	m.value("tandem_restores_total", "counter", "Restores of system from usr_data.", float64(c.restores))
	m.value("tandem_repairs_total", "counter", "Damaged files that were found.", float64(c.repairs))
	m.seconds("tandem_last_scrub_timestamp_seconds", "When both sides were last verified in full.", s.Agent.LastScrub)
	pending := 0.0
	if !since.IsZero() {
		pending = a.clock().Sub(since).Seconds()
	}
	m.value("tandem_pending_seconds", "gauge", "How long a version has waited to be confirmed; 0 if none does.", pending)
	m.value("tandem_reports_total", "counter", "Reports that were delivered.", float64(c.reports))
	m.value("tandem_reports_failed_total", "counter", "Reports that were not.", float64(c.failedReports))
}
