package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/digest"
	"tandem/internal/disclose"
	"tandem/ota"
	"tandem/versioning"
)

const (
	reportDelay   = 5 * time.Second // so that events that belong together travel together
	reportTimeout = time.Minute
	maxBatch      = 50 // events in one report
)

// Report is what is sent to [report] url: some events, oldest first, and what
// the device is. docs/report.schema.json describes it.
type Report struct {
	Device     string             `json:"device"` // its id
	App        string             `json:"app"`
	Compatible []string           `json:"compatible"`
	Agent      string             `json:"agent"` // version of this program
	Tandem     AgentVersions      `json:"tandem,omitzero"`
	Time       time.Time          `json:"time"` // by the device's clock, when it was sent
	Version    versioning.Version `json:"version"`
	Release    digest.SHA256      `json:"release,omitzero"` // SHA-256 of its release.json
	InStep     bool               `json:"in_step"`
	Pending    versioning.Version `json:"pending,omitzero"` // installed, and not confirmed yet
	Events     []device.Event     `json:"events"`
}

// AgentVersions are the other versions of Tandem itself on a device.
type AgentVersions struct {
	Previous versioning.Version `json:"previous,omitzero"` // beside the program
	Kept     versioning.Version `json:"kept,omitzero"`     // on usr_data
	Pending  versioning.Version `json:"pending,omitzero"`  // in place, and not confirmed yet
}

// queueReport looks soon whether there is something to report.
func (a *Agent) queueReport() {
	if a.cfg.Report == nil {
		return
	}
	soon := a.clock().Add(reportDelay)
	if a.now.NextReport.IsZero() {
		a.now.NextReport = soon
	}
	if a.now.MetricsFailures == 0 && soon.Before(a.now.NextMetrics) {
		a.now.NextMetrics = soon
	}
}

// unreported returns the events after the one that was reported last, and how many
// of them go into the next report. Where that one is no longer remembered, all
// are: some of them may have been reported before, and their ids tell.
func unreported(events []device.Event, last string) []device.Event {
	for i := len(events) - 1; i >= 0; i-- {
		if last != "" && events[i].ID == last {
			return events[i+1:]
		}
	}
	return events
}

// reportJob sends what is left to report. An event is sent at least once: what a
// power cut leaves unknown is sent again, under the same id.
func (a *Agent) reportJob(last string) func(context.Context) func() {
	return func(ctx context.Context) func() {
		sent, left, err := a.report(ctx, last)
		return func() {
			if sent != last {
				a.mem.Reported = sent
				a.saveMemory()
			}
			a.ledger.reported(err)
			now := a.clock()
			switch {
			case ctx.Err() != nil:
			case err != nil:
				a.now.ReportFailures++
				a.now.NextReport = now.Add(device.NextTry(a.now.ReportFailures, retryAfter(err), a.o.Random()))
				if a.now.ReportFailures == 1 {
					a.log.WithError(err).Warn("the report did not arrive; it is sent again")
				}
			case left:
				a.now.ReportFailures, a.now.NextReport = 0, now
			default:
				a.now.ReportFailures, a.now.NextReport = 0, time.Time{}
			}
		}
	}
}

// report sends one batch. It gives the last event that needs no more reporting,
// and whether there are more.
func (a *Agent) report(ctx context.Context, last string) (sent string, left bool, err error) {
	d, err := a.open(device.Look)
	if err != nil {
		return last, true, err
	}
	defer a.close(d)
	events, err := d.History()
	if err != nil {
		return last, true, err
	}
	events = unreported(events, last)
	if len(events) == 0 {
		return last, false, nil
	}
	batch := events[:min(len(events), maxBatch)]
	for {
		err := a.send(ctx, d, batch)
		var refused *refusedError
		switch {
		case err == nil:
			return batch[len(batch)-1].ID, len(batch) < len(events), nil
		case errors.As(err, &refused) && !refused.all && len(batch) > 1: // one of them is to blame
			batch = batch[:len(batch)/2]
		case errors.As(err, &refused) && refused.all:
			a.log.WithError(err).WithField("events", len(batch)).Error("the server refuses events: they are left out")
			return batch[len(batch)-1].ID, len(batch) < len(events), err
		case errors.As(err, &refused):
			a.log.WithError(err).WithField("event", batch[0].ID).Error("the server refuses an event: it is left out")
			return batch[0].ID, len(events) > 1, nil
		default:
			return last, true, err
		}
	}
}

// refusedError says that the server understood a report and does not want it.
type refusedError struct {
	status int
	all    bool // whatever is in it
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("report.url: the server answered %d %s", e.status, http.StatusText(e.status))
}

// send posts events, in the format that is set.
func (a *Agent) send(ctx context.Context, d *device.Device, events []device.Event) error {
	o, err := a.outlet()
	if err != nil {
		return err
	}
	defer o.client.CloseIdleConnections()
	r := Report{
		Device: a.cfg.Device.ID, App: a.cfg.Device.App, Compatible: a.cfg.Device.Compatible,
		Agent: a.o.Environment.Version, Time: a.o.Environment.Now().UTC().Truncate(time.Second), Events: events,
	}
	if r.Compatible == nil {
		r.Compatible = []string{}
	}
	if look, err := d.Plan(ctx, backup.Options{}); err == nil {
		r.Version, r.InStep = look.Version, look.Decision.Action == backup.Nothing
		for _, s := range []*backup.Snapshot{look.UsrData, look.System} {
			if s.Version.String() == look.Version.String() {
				r.Release = s.Release
			}
		}
	}
	if p, err := d.Pending(); err == nil && p != nil {
		r.Pending = p.Version
	}
	if t, err := d.Itself(); err == nil && t != nil && (!t.Previous.IsZero() || !t.Kept.IsZero() || !t.Pending.IsZero()) {
		r.Tandem = AgentVersions{t.Previous, t.Kept, t.Pending}
	}
	r = disclose.Copy(o.filter, "report", r)
	if a.cfg.Report.Format == config.OTLP {
		return a.sendLogs(ctx, o, &r)
	}
	_, err = o.post(ctx, "", &r)
	return err
}

// outlet is the way to the server that is reported to.
type outlet struct {
	to     *config.Report
	client *http.Client
	filter disclose.Filter // all that is sent goes through it
}

// outlet reads what shows the server who reports.
func (a *Agent) outlet() (*outlet, error) {
	c := a.cfg.Report
	access, err := c.Access()
	if err != nil {
		return nil, err
	}
	client := ota.NewClient(ota.ClientOptions{
		UserAgent: "tandem/" + a.o.Environment.Version, Proxy: http.ProxyFromEnvironment, CAs: access.CAs,
		Origin: c.URL, Credentials: ota.Credentials{Token: string(access.Token)},
	})
	return &outlet{c, client, disclose.New(a.cfg.Secrets())}, nil
}

// maxReply bounds what is read of an answer, in bytes.
const maxReply = 64 << 10

// post delivers a JSON document, to a path below the server's URL. After success a
// server has accepted it, with its body: a redirection that makes a GET of the POST
// is none. It returns what the server answered.
func (o *outlet) post(ctx context.Context, path string, doc any) (answer []byte, err error) {
	body, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	packed := o.to.Compression == config.Gzip
	if packed {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(body); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		body = b.Bytes()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.to.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if packed {
		req.Header.Set("Content-Encoding", "gzip")
	}
	keeping := *o.client
	keeping.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if next.Method != http.MethodPost {
			return http.ErrUseLastResponse
		}
		return o.client.CheckRedirect(next, via)
	}
	resp, err := keeping.Do(req)
	if err != nil {
		var u *url.Error // it would name the URL, and a password in it
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("report.url: %w", err)
	}
	defer resp.Body.Close()
	// All of it, so that the connection ends in peace. The status says what counts.
	answer, _ = io.ReadAll(io.LimitReader(resp.Body, maxReply))
	switch verdictOn(o.to.Format, resp.StatusCode) {
	case taken:
		return answer, nil
	case unfit:
		return nil, &refusedError{status: resp.StatusCode}
	case unwanted:
		return nil, &refusedError{status: resp.StatusCode, all: true}
	}
	if s := resp.StatusCode; s/100 == 3 {
		return nil, fmt.Errorf("report.url: the server answered %d and names another place, %q: expected the report to be taken; name that place", s, disclose.Text(resp.Header.Get("Location")))
	}
	return nil, fmt.Errorf("report.url: %w", ota.StatusError(req.URL.Redacted(), resp))
}

// verdict is what a server's status means for a report.
type verdict int

const (
	later    verdict = iota // send it again
	taken                   // delivered
	unfit                   // something in it is to blame
	unwanted                // to be left out as a whole
)

// verdictOn says what a status means. A server of OTLP says by 429, 502, 503 and 504, and
// by nothing else, that a request is to come again
// (https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes); but where the
// device or the place is not known (yet) its events wait all the same: that is for
// people to set right, and events are told once.
func verdictOn(format config.ReportFormat, status int) verdict {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return unfit
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
		http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return later
	}
	switch {
	case status/100 == 2:
		return taken
	case format == config.OTLP && status >= 400:
		return unwanted
	}
	return later
}
