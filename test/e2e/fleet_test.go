package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	dev "tandem/agent/device"
	"tandem/internal/lock"
	"tandem/internal/testprograms"
)

// What examples/fleet shows of ten devices, through a real OpenTelemetry collector and
// a real Prometheus, is what happened to them: each event arrives, whatever the
// collector answered at first, and each query of the dashboard says what is so.
func TestFleet(t *testing.T) {
	program := os.Getenv("TANDEM_COLLECTOR")
	if program == "" {
		t.Skip("set TANDEM_COLLECTOR to the collector of test/otel/collector, as make otel does")
	}
	f := newFleetView(t, program)
	const secret = "hunter2hunter2"
	stable := newRepo(t, "1.1.0")
	stable.add(unhealthy, "--channel", "beta")
	source := newWeb(t, stable.dir).url
	var devices []*device
	for i := range 10 {
		o := options{id: fmt.Sprint("device-", i), source: source, report: fmt.Sprint(f.proxy, "/device-", i), otlp: true, agent: pollOften, hooks: true}
		switch i {
		case 6, 7:
			o.more = "channels = [\"beta\"]\n" // what is there does not work
		case 8, 9:
			o.source = "http://me:" + secret + "@127.0.0.1:1/hello" // nobody answers
		}
		d := newDevice(t, o)
		d.must("install", bundle("1.0.0"))
		if i == 8 {
			if out := d.run("update"); out.exit != 30 {
				t.Fatalf("an update from nowhere: exit %d, %s", out.exit, out.stderr)
			}
			d.must("bump", "1.0.1")
		}
		d.launch()
		devices = append(devices, d)
	}
	for _, d := range devices[:6] {
		eventually(t, atLast, "the update", func() error { return d.runs("1.1.0") })
	}
	for _, d := range devices[6:8] {
		eventually(t, atLast, "the rollback", func() error {
			if !slices.Contains(actions(d.history()), "rolled back from "+unhealthy+" to 1.0.0") {
				return fmt.Errorf("the history has %q", actions(d.history()))
			}
			return d.runs("1.0.0")
		})
	}
	// Device 8 is out of step until the end: nobody can mend what is damaged while the
	// test holds the lock.
	eventually(t, atLast, "device 8 is in step, and at rest", func() error {
		release, err := lock.Acquire(devices[8].path("tandem.lock"))
		if err != nil {
			return err
		}
		s, err := devices[8].status()
		if err == nil && (!s.InStep || s.Agent.PollError == "") {
			err = fmt.Errorf("in step: %t; %s, %q", s.InStep, s.Agent.Doing, s.Agent.PollError)
		}
		if err != nil {
			release()
			return err
		}
		t.Cleanup(func() { release() })
		return nil
	})
	devices[8].write("usr_data/apps/bin/hello", "something else\n")

	// Each event arrives, as the device tells it.
	for i, d := range devices {
		name := fmt.Sprint("device-", i)
		eventually(t, atLast, name+"'s events", func() error { return f.heard(name, d.history(), i == aborted) })
	}
	for i, fault := range faults {
		if n := f.met(i); n != 1 {
			t.Errorf("device %d: %d reports met with %d", i, n, fault)
		}
	}
	f.mu.Lock()
	if bytes.Contains(f.bodies.Bytes(), []byte("hunter2")) || bytes.Contains(f.bodies.Bytes(), []byte("me:")) {
		t.Error("credentials left a device")
	}
	f.mu.Unlock()
	devices[9].kill()

	// Metrics have one name each, however they are fetched.
	own := f.metricNames(t, devices[0])
	eventually(t, soon, "the metrics of device 0", func() error {
		var got []string
		for _, s := range f.query(t, `count by (__name__) ({__name__=~"tandem_.*", instance="device-0"})`) {
			got = append(got, s.Metric["__name__"])
		}
		slices.Sort(got)
		if !slices.Equal(got, own) {
			return fmt.Errorf("%q, and /metrics has %q", got, own)
		}
		return nil
	})

	// What the dashboard shows, by the title of the panel.
	received := func(i int) string { return f.metric(t, devices[i], "tandem_received_bytes_total") }
	written := func(i int) string { return f.metric(t, devices[i], "tandem_written_bytes_total") }
	sum := func(of func(int) string) string {
		n := 0
		for i := range 9 {
			v, err := strconv.Atoi(of(i))
			if err != nil {
				t.Fatal(err)
			}
			n += v
		}
		return strconv.Itoa(n)
	}
	most := map[string]string{"instance=device-8": "0", "instance=device-9": "0"}
	for i := range 8 {
		most[fmt.Sprint("instance=device-", i)] = received(i)
	}
	if received(0) == "0" || written(6) == "0" {
		t.Errorf("device 0 received %s bytes, device 6 wrote %s", received(0), written(6))
	}
	versions := map[string]string{"version=1.0.0": "2", "version=1.0.1": "1", "version=1.1.0": "6"}
	taken := map[string]string{"instance=device-6": "1", "instance=device-7": "1"}
	want := map[string][]map[string]string{
		"Devices":                          {{"": "9"}},
		"Out of step":                      {{"": "1"}},
		"Silent":                           {{"": "1"}},
		"Rollbacks":                        {{"": "2"}},
		"Waiting to be confirmed":          {{"": "0"}},
		"Cannot reach the source":          {{"": "1"}},
		"Versions":                         {versions},
		"Versions over time":               {versions},
		"Devices out of step":              {{"instance=device-8": "0"}},
		"Silent devices":                   {{"instance=device-9": "1"}},
		"Devices that took a version back": {taken},
		"Bytes":                            {{"": sum(received)}, {"": sum(written)}},
		"Most bytes received":              {most},
	}
	panels := f.dashboard(t)
	if a, b := slices.Sorted(maps.Keys(panels)), slices.Sorted(maps.Keys(want)); !slices.Equal(a, b) {
		t.Fatalf("the dashboard has the panels %q, want %q", a, b)
	}
	for title, queries := range panels {
		if len(queries) != len(want[title]) {
			t.Fatalf("%s: %d queries, want %d", title, len(queries), len(want[title]))
		}
		for i, q := range queries {
			eventually(t, atLast, title+": "+q, func() error {
				got := map[string]string{}
				for _, s := range f.query(t, strings.ReplaceAll(q, "$__range", "1h")) {
					got[s.label()] = s.Value[1].(string)
				}
				if !maps.Equal(got, want[title][i]) {
					return fmt.Errorf("%v, want %v", got, want[title][i])
				}
				return nil
			})
		}
	}
}

// What a device's first report of events meets with, by the number of the device. The
// one that is aborted arrives all the same.
var faults = []int{
	http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests,
	http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, -1,
}

const aborted = 7

// fleetView is what examples/fleet runs, but for Grafana, and a proxy in front of it
// that has the faults.
type fleetView struct {
	proxy      string // URL
	prometheus string
	events     string // file

	mu     sync.Mutex
	bodies bytes.Buffer // all that devices sent
	faulty [10]int      // reports of each device that met with a fault
}

func newFleetView(t *testing.T, program string) *fleetView {
	t.Helper()
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	address := func() string { return testprograms.FreeAddress(t, "127.0.0.1") }
	otlp, metrics, web := address(), address(), address()
	f := &fleetView{prometheus: "http://" + web, events: filepath.Join(dir, "events.jsonl")}
	config, err := os.ReadFile("../../examples/fleet/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	replaced := strings.NewReplacer("collector:9464", metrics, "15s", "1s").Replace(string(config))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(replaced), 0o644); err != nil {
		t.Fatal(err)
	}
	collector := exec.Command(program, "--config=../../examples/fleet/collector.yaml")
	collector.Env = append(os.Environ(), "FLEET_OTLP="+otlp, "FLEET_METRICS="+metrics, "FLEET_EVENTS="+f.events, "FLEET_EXPIRATION=10s")
	for name, cmd := range map[string]*exec.Cmd{
		"collector": collector,
		"prometheus": exec.Command(prometheus, "--config.file="+filepath.Join(dir, "prometheus.yml"),
			"--storage.tsdb.path="+filepath.Join(dir, "metrics"), "--web.listen-address="+web),
	} {
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		p, err := startProcess(cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.kill()
			if t.Failed() {
				t.Logf("%s:\n%s", name, said.String())
			}
		})
	}
	for _, address := range []string{otlp, web} {
		eventually(t, soon, address+" answers", func() error {
			c, err := net.Dial("tcp", address)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	to := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		_, r.Out.URL.Path, _ = strings.Cut(r.In.URL.Path[1:], "/")
		r.Out.URL.Path = "/" + r.Out.URL.Path
		r.SetURL(&url.URL{Scheme: "http", Host: otlp})
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.serve(w, r, to) }))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	f.proxy = s.URL
	return f
}

func (f *fleetView) serve(w http.ResponseWriter, r *http.Request, to http.Handler) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the device was killed
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	device, signal, _ := strings.Cut(r.URL.Path[1:], "/")
	i, err := strconv.Atoi(strings.TrimPrefix(device, "device-"))
	fault := 0
	f.mu.Lock()
	f.bodies.Write(body)
	if err == nil && signal == "v1/logs" && i < len(faults) && f.faulty[i] == 0 {
		fault = faults[i]
		f.faulty[i]++
	}
	f.mu.Unlock()
	switch {
	case fault > 0:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(fault)
	case fault < 0:
		to.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	default:
		to.ServeHTTP(w, r)
	}
}

// met returns how many reports of a device met with a fault.
func (f *fleetView) met(device int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.faulty[device]
}

// attribute is one of OTLP's.
type attribute struct {
	Key   string
	Value struct {
		StringValue string
		IntValue    json.Number // a text, or a number
	}
}

func find(list []attribute, key string) string {
	for _, a := range list {
		if a.Key == key {
			return a.Value.StringValue + string(a.Value.IntValue)
		}
	}
	return ""
}

// heard says what is missing or wrong in what the collector has of a device's events.
// One whose report was taken without its learning of it may have told some again.
func (f *fleetView) heard(device string, history []dev.Event, again bool) error {
	file, err := os.Open(f.events)
	if err != nil {
		return err
	}
	defer file.Close()
	told := map[string]string{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var doc struct {
			ResourceLogs []struct {
				Resource  struct{ Attributes []attribute }
				ScopeLogs []struct {
					LogRecords []struct {
						TimeUnixNano string
						EventName    string
						Attributes   []attribute
					}
				}
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &doc); err != nil {
			return err // it is just being written
		}
		for _, r := range doc.ResourceLogs {
			if find(r.Resource.Attributes, "device.id") != device || find(r.Resource.Attributes, "service.name") != "tandem" {
				continue
			}
			for _, s := range r.ScopeLogs {
				for _, l := range s.LogRecords {
					id := find(l.Attributes, "tandem.event.id")
					what := []string{l.TimeUnixNano, l.EventName}
					for _, k := range []string{"command", "action", "from", "version", "revision", "files", "bytes"} {
						what = append(what, find(l.Attributes, "tandem.event."+k))
					}
					text := strings.Join(what, " ")
					if before, twice := told[id]; twice && (!again || before != text) {
						return fmt.Errorf("%s came twice: %s, %s", id, before, text)
					}
					told[id] = text
				}
			}
		}
	}
	number := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	for _, e := range history {
		want := strings.Join([]string{
			strconv.FormatInt(e.Time.UnixNano(), 10), "tandem.event", e.Command, e.Action, e.From.String(), e.Version.String(),
			number(int64(e.Revision)), number(int64(e.Files)), number(e.Bytes),
		}, " ")
		if got := told[e.ID]; got != want {
			return fmt.Errorf("%s is %q, want %q", e.ID, got, want)
		}
	}
	if len(told) > len(history) {
		return fmt.Errorf("%d events of %d", len(told), len(history))
	}
	return lines.Err()
}

// series is one of Prometheus' answers.
type series struct {
	Metric map[string]string
	Value  [2]any
}

// label is the one label that tells series of a query apart.
func (s *series) label() string {
	for _, k := range []string{"version", "instance"} {
		if v, ok := s.Metric[k]; ok {
			return k + "=" + v
		}
	}
	return ""
}

func (f *fleetView) query(t *testing.T, expr string) []series {
	t.Helper()
	resp, err := http.PostForm(f.prometheus+"/api/v1/query", url.Values{"query": {expr}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct {
		Status, Error string
		Data          struct{ Result []series }
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || doc.Status != "success" {
		t.Fatalf("%s: %v %s", expr, err, doc.Error)
	}
	return doc.Data.Result
}

// dashboard returns the queries of each panel.
func (f *fleetView) dashboard(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile("../../examples/fleet/grafana/fleet.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	panels := map[string][]string{}
	for _, p := range doc.Panels {
		for _, q := range p.Targets {
			panels[p.Title] = append(panels[p.Title], q.Expr)
		}
	}
	return panels
}

var sample = regexp.MustCompile(`(?m)^(tandem_\w+)(?:\{.*\})? (.*)$`)

// metrics returns what a device has at /metrics.
func (f *fleetView) metrics(t *testing.T, d *device) map[string]string {
	t.Helper()
	body, err := d.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, m := range sample.FindAllStringSubmatch(string(body), -1) {
		all[m[1]] = m[2]
	}
	return all
}

func (f *fleetView) metric(t *testing.T, d *device, name string) string { return f.metrics(t, d)[name] }

func (f *fleetView) metricNames(t *testing.T, d *device) []string {
	return slices.Sorted(maps.Keys(f.metrics(t, d)))
}
