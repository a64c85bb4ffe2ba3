package agent

import (
	"bytes"
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
	Time       time.Time          `json:"time"`  // by the device's clock, when it was sent
	Version    versioning.Version `json:"version"`
	InStep     bool               `json:"in_step"`
	Pending    versioning.Version `json:"pending,omitzero"` // installed, and not confirmed yet
	Events     []device.Event     `json:"events"`
}

// queueReport looks soon whether there is something to report.
func (a *Agent) queueReport() {
	if a.cfg.Report != nil && a.now.NextReport.IsZero() {
		a.now.NextReport = a.clock().Add(reportDelay)
	}
}

// unreported gives the events after the one that was reported last, and how many
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
		case errors.As(err, &refused) && len(batch) > 1: // one of them is to blame
			batch = batch[:len(batch)/2]
		case errors.As(err, &refused):
			a.log.WithError(err).WithField("event", batch[0].ID).Error("the server refuses an event: it is left out")
			return batch[0].ID, len(events) > 1, nil
		default:
			return last, true, err
		}
	}
}

// refusedError says that the server understood a report and does not want it.
type refusedError struct{ status int }

func (e *refusedError) Error() string {
	return fmt.Sprintf("report.url: the server answered %d %s", e.status, http.StatusText(e.status))
}

// send posts events.
func (a *Agent) send(ctx context.Context, d *device.Device, events []device.Event) error {
	c := a.cfg.Report
	access, err := c.Access()
	if err != nil {
		return err
	}
	r := Report{
		Device: a.cfg.Device.ID, App: a.cfg.Device.App, Compatible: a.cfg.Device.Compatible,
		Agent: a.o.Environment.Version, Time: a.o.Environment.Now().UTC().Truncate(time.Second), Events: events,
	}
	if r.Compatible == nil {
		r.Compatible = []string{}
	}
	if look, err := d.Plan(ctx, backup.Options{}); err == nil {
		r.Version, r.InStep = look.Version, look.Decision.Action == backup.Nothing
	}
	if p, err := d.Pending(); err == nil && p != nil {
		r.Pending = p.Version
	}
	body, err := json.Marshal(&r)
	if err != nil {
		return err
	}
	client := ota.NewClient(ota.ClientOptions{
		UserAgent: "tandem/" + a.o.Environment.Version, Proxy: http.ProxyFromEnvironment, CAs: access.CAs,
		Origin: c.URL, Credentials: ota.Credentials{Token: string(access.Token)},
	})
	defer client.CloseIdleConnections()
	return post(ctx, client, c.URL, body)
}

// post delivers a report. After success a server has accepted it, with its body:
// a redirection that makes a GET of the POST is none.
func post(ctx context.Context, client *http.Client, address string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	keeping := *client
	keeping.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if next.Method != http.MethodPost {
			return http.ErrUseLastResponse
		}
		return client.CheckRedirect(next, via)
	}
	resp, err := keeping.Do(req)
	if err != nil {
		var u *url.Error // it would name the URL, and a password in it
		if errors.As(err, &u) {
			err = u.Err
		}
		return fmt.Errorf("report.url: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection ends in peace
	switch s := resp.StatusCode; {
	case s/100 == 2:
		return nil
	case s == http.StatusBadRequest, s == http.StatusRequestEntityTooLarge, s == http.StatusUnprocessableEntity:
		return &refusedError{s}
	case s/100 == 3:
		return fmt.Errorf("report.url: the server answered %d and names another place, %q: expected the report to be taken; name that place", s, resp.Header.Get("Location"))
	}
	return fmt.Errorf("report.url: %w", ota.StatusError(req.URL.Redacted(), resp))
}
