package agent

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/config"
	"tandem/internal/disclose"
	"tandem/versioning"
)

var write = flag.Bool("write", false, "write the golden files anew")

// reporter is an agent that reports to a server of a test.
func reporter(t *testing.T, o config.Report, serve http.HandlerFunc) (*Agent, *bytes.Buffer) {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	o.URL, o.Format = server.URL+"/otlp", config.OTLP
	log := &bytes.Buffer{}
	a := &Agent{log: logrus.New(), began: time.Unix(1000, 0), cfg: &config.Config{
		Report: &o, Device: config.Device{ID: "device-1", App: "hello", Compatible: []string{"demo-b", "demo"}},
	}}
	a.log.SetOutput(log)
	a.o.Environment = device.Environment{Version: "0.1.0", Now: func() time.Time { return time.Unix(2000, 5) }}
	return a, log
}

func version(t *testing.T, s string) versioning.Version {
	t.Helper()
	v, err := versioning.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What is sent is what OTLP's JSON encoding wants: see the golden files.
func TestOTLP(t *testing.T) {
	t.Parallel()
	for _, compression := range []config.Compression{config.Uncompressed, config.Gzip} {
		got := map[string][]byte{}
		a, log := reporter(t, config.Report{Compression: compression}, func(w http.ResponseWriter, r *http.Request) {
			body := io.Reader(r.Body)
			if compression == config.Gzip {
				unpacked, err := gzip.NewReader(r.Body)
				if err != nil {
					t.Error(err)
					return
				}
				body = unpacked
			}
			data, err := io.ReadAll(body)
			if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" ||
				(r.Header.Get("Content-Encoding") == "gzip") != (compression == config.Gzip) {
				t.Errorf("%s %s %v: %v", r.Method, r.URL, r.Header, err)
			}
			got[r.URL.Path] = data
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"partialSuccess":{}}`)
		})
		o, err := a.outlet()
		if err != nil {
			t.Fatal(err)
		}
		defer o.client.CloseIdleConnections()
		at := time.Unix(1500, 0).UTC()
		report := Report{Agent: "0.1.0", Time: time.Unix(1600, 0), Events: []device.Event{
			{ID: "0000abcd-1", Time: at, Command: "update", Action: "installed", From: version(t, "1.0.0"), Version: version(t, "1.1.0"), Revision: 3, Files: 7, Bytes: 1 << 40},
			{ID: "0000abcd-2", Time: at, Command: "rollback", Action: "rolled back", Reason: "health: exit 1", From: version(t, "1.1.0"), Version: version(t, "1.0.0")},
			{ID: "0000abcd-3", Time: at, Command: "verify", Action: "repair", Repaired: []backup.Problem{{Side: backup.System, Path: manifest.Path("bin/hello"), Kind: "damaged", Detail: "its hash is another"}}},
			{ID: "0000abcd-4", Time: at, Command: "update", Error: "no answer"},
		}}
		families := []family{
			{name: "tandem.info", help: "The agent and what it runs.", points: []point{{[]label{{"agent", "0.1.0"}, {"secret", "x"}, {"app", "hello"}}, 1}}},
			{name: "tandem.received", unit: "By", help: "Bytes.", counter: true, points: one(int64(1 << 40))},
			{name: "tandem.last_poll.timestamp", unit: "s", help: "When.", points: when(time.Time{})},
		}
		if err := errors.Join(a.sendLogs(t.Context(), o, &report), a.sendMetrics(t.Context(), families)); err != nil || log.Len() > 0 {
			t.Fatal(err, log.String())
		}
		for _, signal := range []string{"logs", "metrics"} {
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, bytes.ReplaceAll(got["/otlp/v1/"+signal], []byte(`"`+hostArch(runtime.GOARCH)+`"`), []byte(`"amd64"`)), "", " "); err != nil {
				t.Fatalf("%s: %v", signal, err)
			}
			name := filepath.Join("testdata", "otlp-"+signal+".json")
			if *write {
				if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(name, append(pretty.Bytes(), '\n'), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimSpace(string(want)), pretty.String()); diff != "" {
				t.Errorf("%s (-want +got; go test ./agent -run TestOTLP -write):\n%s", signal, diff)
			}
		}
	}
}

// What a server has no use for is told and not sent again; what else it says of a
// report that it took changes nothing.
func TestOTLPAnswers(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		``:                      "",
		`{}`:                    "",
		`no JSON`:               "",
		`{"partialSuccess":{}}`: "",
		`{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too\nold"}}`: `the server took /v1/logs but for 2: too\\nold`,
		`{"partialSuccess":{"rejectedLogRecords":2,"errorMessage":""}}`:           "the server took /v1/logs but for 2",
		`{"partialSuccess":{"rejectedDataPoints":"3"}}`:                           "the server took /v1/logs but for 3",
		`{"partialSuccess":{"errorMessage":"old format"}}`:                        "the server took /v1/logs: old format",
		`{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"fine"}}`:     "the server took /v1/logs: fine",
		`{"partialSuccess":{"rejectedLogRecords":"many"}}`:                        "",
		strings.Repeat(" ", maxReply) + `{"partialSuccess":{"errorMessage":"x"}}`: "",
	} {
		a, log := reporter(t, config.Report{}, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) })
		o, err := a.outlet()
		if err != nil {
			t.Fatal(err)
		}
		if err := a.sendLogs(t.Context(), o, &Report{}); err != nil {
			t.Errorf("%.80s: %v", answer, err)
		}
		if got := log.String(); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%.80s: told %q, want %q", answer, got, want)
		}
		o.client.CloseIdleConnections()
	}
}

// Whatever is measured may leave: each label stands on the list.
func TestLabelsLeave(t *testing.T) {
	t.Parallel()
	families := []family{{name: "x", points: []point{{labels: []label{{"agent", ""}, {"app", ""}, {"side", ""}, {"version", ""}, {"state", ""}}}}}}
	if got := metrics(families, disclose.Filter{}, time.Unix(1, 0), time.Unix(0, 0)); len(got[0].Gauge.DataPoints[0].Attributes) != 5 {
		t.Errorf("%+v", got)
	}
}

// A name is the same in Prometheus' format and in what a collector makes of it.
func TestNames(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]family{
		"tandem_in_step":                     {name: "tandem.in_step"},
		"tandem_received_bytes_total":        {name: "tandem.received", unit: "By", counter: true},
		"tandem_last_poll_timestamp_seconds": {name: "tandem.last_poll.timestamp", unit: "s"},
		"tandem_polls_failed_total":          {name: "tandem.polls.failed", counter: true},
	} {
		if got := f.prometheus(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
