package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"runtime"
	"strconv"
	"time"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/disclose"
	"tandem/internal/text"
)

// Reports for an OpenTelemetry collector: OTLP/HTTP with the JSON encoding, as
// https://opentelemetry.io/docs/specs/otlp has it. Names of fields are lowerCamelCase,
// numbers of 64 bits are texts, enums are numbers. Of OTLP that is little, and its
// modules are many times the size of this file.

// scope is the instrumentation scope of all we send.
const scope = "tandem"

// schemaURL is the version of the semantic conventions that the resource follows:
// https://opentelemetry.io/docs/specs/semconv/resource.
const schemaURL = "https://opentelemetry.io/schemas/1.37.0"

// Numbers of OTLP's enums.
const (
	severityInfo  = 9
	severityWarn  = 13
	severityError = 17
	cumulative    = 2
)

type (
	otlpValue     map[string]any // one of stringValue, boolValue, intValue, arrayValue, kvlistValue
	otlpAttribute struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	otlpResource struct {
		Attributes []otlpAttribute `json:"attributes"`
	}
	otlpScope struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
	}

	otlpLogs struct {
		ResourceLogs [1]otlpResourceLogs `json:"resourceLogs"`
	}
	otlpResourceLogs struct {
		Resource  otlpResource     `json:"resource"`
		ScopeLogs [1]otlpScopeLogs `json:"scopeLogs"`
		SchemaURL string           `json:"schemaUrl"`
	}
	otlpScopeLogs struct {
		Scope      otlpScope   `json:"scope"`
		LogRecords []otlpEvent `json:"logRecords"`
	}
	otlpEvent struct {
		Time           int64           `json:"timeUnixNano,string"`
		Observed       int64           `json:"observedTimeUnixNano,string"`
		SeverityNumber int             `json:"severityNumber"`
		SeverityText   string          `json:"severityText"`
		EventName      string          `json:"eventName"`
		Body           otlpValue       `json:"body"`
		Attributes     []otlpAttribute `json:"attributes"`
	}

	otlpMetrics struct {
		ResourceMetrics [1]otlpResourceMetrics `json:"resourceMetrics"`
	}
	otlpResourceMetrics struct {
		Resource     otlpResource        `json:"resource"`
		ScopeMetrics [1]otlpScopeMetrics `json:"scopeMetrics"`
		SchemaURL    string              `json:"schemaUrl"`
	}
	otlpScopeMetrics struct {
		Scope   otlpScope    `json:"scope"`
		Metrics []otlpMetric `json:"metrics"`
	}
	otlpMetric struct {
		Name        string    `json:"name"`
		Description string    `json:"description"`
		Unit        string    `json:"unit,omitempty"`
		Gauge       *otlpData `json:"gauge,omitempty"`
		Sum         *otlpData `json:"sum,omitempty"`
	}
	otlpData struct {
		DataPoints  []otlpPoint `json:"dataPoints"`
		Temporality int         `json:"aggregationTemporality,omitempty"`
		Monotonic   bool        `json:"isMonotonic,omitempty"`
	}
	otlpPoint struct {
		Attributes []otlpAttribute `json:"attributes,omitempty"`
		Start      int64           `json:"startTimeUnixNano,string,omitempty"`
		Time       int64           `json:"timeUnixNano,string"`
		Int        int64           `json:"asInt,string"`
	}

	// otlpAnswer is what a server says that took a part of what it was sent, or
	// all with a warning. The number may be a text.
	otlpAnswer struct {
		PartialSuccess struct {
			Logs    otlpCount `json:"rejectedLogRecords"`
			Points  otlpCount `json:"rejectedDataPoints"`
			Message string    `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
	otlpCount int64
)

// UnmarshalJSON takes a number, and one that is a text.
func (n *otlpCount) UnmarshalJSON(data []byte) error {
	if s, err := strconv.Unquote(string(data)); err == nil {
		data = []byte(s)
	}
	v, err := strconv.ParseInt(string(data), 10, 64)
	*n = otlpCount(v)
	return err
}

func otlpText(s string) otlpValue { return otlpValue{"stringValue": s} }
func otlpInt(n int64) otlpValue   { return otlpValue{"intValue": strconv.FormatInt(n, 10)} }

func otlpList[T any](list []T, value func(T) otlpValue) otlpValue {
	values := make([]otlpValue, len(list))
	for i, v := range list {
		values[i] = value(v)
	}
	return otlpValue{"arrayValue": map[string]any{"values": values}}
}

// attributes collects what is not empty.
type attributes []otlpAttribute

func (a *attributes) text(key, value string) {
	if value != "" {
		*a = append(*a, otlpAttribute{key, otlpText(value)})
	}
}

func (a *attributes) number(key string, value int64) {
	if value != 0 {
		*a = append(*a, otlpAttribute{key, otlpInt(value)})
	}
}

// resource says what the device is: by the semantic conventions where they have a
// name for it. The version of the application changes and is no part of it.
func (a *Agent) resource(f disclose.Filter) otlpResource {
	d := &a.cfg.Device
	var r attributes
	for _, v := range []struct{ key, value string }{
		{"service.name", "tandem"}, {"service.version", a.o.Environment.Version}, {"service.instance.id", d.ID},
		{"device.id", d.ID}, {"device.model.identifier", cmp.Or(append(d.Compatible, "")...)},
		{"host.arch", hostArch(runtime.GOARCH)}, {"os.type", runtime.GOOS}, {"tandem.app", d.App},
	} {
		if value, ok := f.Value("resource."+v.key, v.value); ok {
			r.text(v.key, value.(string))
		}
	}
	if list, ok := f.Value("resource.tandem.compatible", d.Compatible); ok && len(d.Compatible) > 0 {
		r = append(r, otlpAttribute{"tandem.compatible", otlpList(list.([]string), otlpText)})
	}
	return otlpResource{r}
}

// hostArch is an architecture as the conventions for host.arch name it.
func hostArch(goarch string) string {
	switch goarch {
	case "arm":
		return "arm32"
	case "386":
		return "x86"
	}
	return goarch
}

// logRecord is an event as a log record. Its attributes are the fields of the event,
// and tandem.event.id among them tells a repeat.
func logRecord(e *device.Event, now time.Time) otlpEvent {
	severity, name := severityInfo, "INFO"
	body := e.Command
	switch {
	case e.Error != "":
		severity, name = severityError, "ERROR"
		body += ": " + e.Error
	case e.Action == "rolled back", len(e.Repaired) > 0:
		severity, name = severityWarn, "WARN"
		fallthrough
	case e.Action != "":
		body += ": " + e.Action
		if !e.Version.IsZero() {
			body += " " + e.Version.String()
		}
		if e.Reason != "" {
			body += ": " + e.Reason
		}
	}
	var l attributes
	l.text("tandem.event.id", e.ID)
	l.text("tandem.event.command", e.Command)
	l.text("tandem.event.action", e.Action)
	l.text("tandem.event.reason", e.Reason)
	l.text("tandem.event.from", e.From.String())
	l.text("tandem.event.version", e.Version.String())
	l.number("tandem.event.revision", int64(e.Revision))
	l.number("tandem.event.files", int64(e.Files))
	l.number("tandem.event.bytes", e.Bytes)
	if len(e.Repaired) > 0 {
		l = append(l, otlpAttribute{"tandem.event.repaired", otlpList(e.Repaired, func(p backup.Problem) otlpValue {
			var v attributes
			v.text("side", string(p.Side))
			v.text("path", string(p.Path))
			v.text("kind", string(p.Kind))
			v.text("detail", p.Detail)
			return otlpValue{"kvlistValue": map[string]any{"values": v}}
		})})
	}
	l.text("tandem.event.error", e.Error)
	return otlpEvent{
		Time: e.Time.UnixNano(), Observed: now.UnixNano(), SeverityNumber: severity, SeverityText: name,
		EventName: "tandem.event", Body: otlpText(body), Attributes: l,
	}
}

// sendLogs sends the events of a report as log records.
func (a *Agent) sendLogs(ctx context.Context, o *outlet, r *Report) error {
	var doc otlpLogs
	doc.ResourceLogs[0].Resource, doc.ResourceLogs[0].SchemaURL = a.resource(o.filter), schemaURL
	out := &doc.ResourceLogs[0].ScopeLogs[0]
	out.Scope = otlpScope{scope, r.Agent}
	for i := range r.Events {
		out.LogRecords = append(out.LogRecords, logRecord(&r.Events[i], r.Time))
	}
	return a.sendOTLP(ctx, o, "/v1/logs", &doc)
}

// sendMetrics sends metrics.
func (a *Agent) sendMetrics(ctx context.Context, families []family) error {
	o, err := a.outlet()
	if err != nil {
		return err
	}
	defer o.client.CloseIdleConnections()
	var doc otlpMetrics
	doc.ResourceMetrics[0].Resource, doc.ResourceMetrics[0].SchemaURL = a.resource(o.filter), schemaURL
	doc.ResourceMetrics[0].ScopeMetrics[0] = otlpScopeMetrics{otlpScope{scope, a.o.Environment.Version}, metrics(families, o.filter, a.began, a.clock())}
	return a.sendOTLP(ctx, o, "/v1/metrics", &doc)
}

// sendOTLP posts a request. What the server took counts as delivered, also where it
// says that it has no use for a part of it: that is told, and not sent again.
func (a *Agent) sendOTLP(ctx context.Context, o *outlet, signal string, request any) error {
	answer, err := o.post(ctx, signal, request)
	if err != nil {
		return err
	}
	var said otlpAnswer
	if json.Unmarshal(answer, &said) != nil { // it was taken, whatever is said of it
		return nil
	}
	p := &said.PartialSuccess
	switch n := p.Logs + p.Points; {
	case n > 0:
		a.log.Errorf("report.url: the server took %s but for %d: %s", signal, n, text.Line(p.Message))
	case p.Message != "":
		a.log.Warnf("report.url: the server took %s: %s", signal, text.Line(p.Message))
	}
	return nil
}

// metrics are what is measured as OTLP has it. now is by the device's clock; what
// counts has counted since then, at the latest.
func metrics(families []family, f disclose.Filter, began, now time.Time) []otlpMetric {
	if began.After(now) { // the clock was set back
		began = now
	}
	var all []otlpMetric
	for _, m := range families {
		if len(m.points) == 0 {
			continue
		}
		data := &otlpData{}
		for _, p := range m.points {
			out := otlpPoint{Time: now.UnixNano(), Int: p.value}
			if m.counter {
				out.Start = began.UnixNano()
			}
			for _, l := range p.labels {
				if v, ok := f.Value("label."+l.name, l.value); ok {
					out.Attributes = append(out.Attributes, otlpAttribute{l.name, otlpText(v.(string))})
				}
			}
			data.DataPoints = append(data.DataPoints, out)
		}
		o := otlpMetric{Name: m.name, Description: m.help, Unit: m.unit}
		if m.counter {
			data.Temporality, data.Monotonic = cumulative, true
			o.Sum = data
		} else {
			o.Gauge = data
		}
		all = append(all, o)
	}
	return all
}
