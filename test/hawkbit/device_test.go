package hawkbit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/ota/download"
	source "tandem/ota/hawkbit"
	"tandem/packaging/release"
	"tandem/test/hawkbit"
	"tandem/versioning"
)

// bench is a stand-in server, its operator, and one device that installs by
// noting a version.
type bench struct {
	t       *testing.T
	ctx     context.Context
	op      *hawkbit.Operator
	standIn *hawkbit.Server
	server  *httptest.Server
	origin  string // that the device is told

	mu     sync.Mutex
	now    time.Time
	before func(w http.ResponseWriter, r *http.Request) bool // answers in place of the server
	asked  []string                                          // what the device asked, such as "GET /DEFAULT/..."

	disk      fsys.FS
	o         source.Options
	installed map[string]string // by app
	pending   string            // version of hello
	failed    map[string]string
	installs  []string // what was installed, in order
	busy      string
	hold      bool // nothing is installed
}

const device, token = "dev-1", "s3cret"

func newBench(t *testing.T) *bench {
	t.Helper()
	disk, err := fsys.OpenOS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disk.Close() })
	return newBenchOn(t, disk)
}

func newBenchOn(t *testing.T, disk fsys.FS) *bench {
	t.Helper()
	b := &bench{
		t: t, ctx: t.Context(), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC),
		installed: map[string]string{"hello": "1.0.0", "modem": "1.0.0"}, failed: map[string]string{},
	}
	b.standIn = hawkbit.New(hawkbit.Options{Now: b.clock, Random: func() float64 { return 0.5 }, MinSleep: time.Second})
	b.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/rest/") {
			b.mu.Lock()
			b.asked = append(b.asked, r.Method+" "+r.URL.Path)
			before := b.before
			b.mu.Unlock()
			if before != nil && before(w, r) {
				return
			}
		}
		b.standIn.ServeHTTP(w, r)
	}))
	t.Cleanup(b.server.Close)
	b.op = &hawkbit.Operator{URL: b.server.URL, Client: b.server.Client()}
	b.check(b.op.AddTarget(b.ctx, device, token))
	b.disk = disk
	log := logrus.New()
	log.SetOutput(io.Discard)
	b.o = source.Options{
		Origin: b.server.URL, Tenant: "DEFAULT", Controller: device, FS: disk, Log: log, Compatible: []string{"board"},
		Client: ota.NewClient(ota.ClientOptions{Origin: b.server.URL, Credentials: ota.Credentials{Token: token, Scheme: "TargetToken"}}),
		Fetcher: func(c *http.Client) *ota.Fetcher {
			return &ota.Fetcher{Log: log, Downloads: download.New(download.Options{FS: disk, Client: c, Log: log, Attempts: 1, Backoff: func() backoff.BackOff { return &backoff.ZeroBackOff{} }})}
		},
		Inspect: inspect,
		Code:    func(error) int { return 24 },
		After: func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTimer(d)
			return t.C, func() { t.Stop() }
		},
	}
	return b
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// intercept answers the device's requests, or lets them through.
func (b *bench) intercept(before func(w http.ResponseWriter, r *http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.before = before
}

func (b *bench) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// head is the first line of a bundle as it is in these tests.
type head struct {
	Kind, App, Version, Base, Board string
}

// pack makes such a bundle.
func pack(app, version, base string, size int) []byte {
	h := head{string(release.App), app, version, base, "board"}
	if app == "modem" {
		h.Kind = string(release.Firmware)
	}
	line, err := json.Marshal(h)
	if err != nil {
		panic(err)
	}
	return append(append(line, '\n'), bytes.Repeat([]byte("x"), size)...)
}

// errNoBundle is why a file is refused.
var errNoBundle = errors.New("malformed bundle")

func inspect(r io.Reader) (*source.Head, error) {
	line, err := bufio.NewReader(r).ReadBytes('\n')
	var h head
	if err != nil || json.Unmarshal(line, &h) != nil {
		return nil, errNoBundle
	}
	out := &source.Head{Kind: release.Kind(h.Kind), App: h.App, Compatible: []string{h.Board}}
	if out.Version, err = versioning.Parse(h.Version); err != nil {
		return nil, errNoBundle
	}
	if h.Base != "" {
		if out.Base, err = versioning.Parse(h.Base); err != nil {
			return nil, errNoBundle
		}
	}
	// The size is the signed one: these bundles end with as many x as their
	// version's first number says, in thousands.
	var major int64
	fmt.Sscanf(h.Version, "%d.", &major)
	out.Size = int64(len(line)) + 1000*major
	if h.Base != "" {
		out.Size = int64(len(line)) + 10
	}
	return out, nil
}

func (b *bench) version(s string) versioning.Version {
	if s == "" {
		return versioning.Version{}
	}
	v, err := versioning.Parse(s)
	b.check(err)
	return v
}

func (b *bench) facts() source.Facts {
	return source.Facts{
		Units: []source.Unit{
			{Kind: release.Firmware, Name: "modem", Installed: b.version(b.installed["modem"])},
			{
				Kind: release.App, Name: "hello", Installed: b.version(b.installed["hello"]), Pending: b.version(b.pending),
				Failed: b.failed,
			},
		},
		Installing: b.busy,
		Attributes: map[string]string{"version.system": b.installed["hello"]},
	}
}

// source is the device after a restart: all that it knows is on its disk.
func (b *bench) source() *source.Source {
	s, err := source.New(b.o)
	b.check(err)
	return s
}

func (b *bench) sync() *source.View {
	b.t.Helper()
	v, err := b.source().Sync(b.ctx, b.facts())
	b.check(err)
	return v
}

// round is one round of an agent: ask, download and install what may be.
func (b *bench) round() *source.View {
	b.t.Helper()
	v := b.sync()
	for _, o := range v.Offers {
		_, err := b.source().Fetch(b.ctx, o, nil)
		if err != nil {
			b.check(b.source().Failed(o.SHA256, err))
			continue
		}
		if v.Hold == "" {
			b.installed[o.Release.App] = o.Release.Version.String()
			b.installs = append(b.installs, o.Release.App+" "+o.Release.Version.String())
		}
	}
	return v
}

// set makes a distribution set of one module and returns its number.
func (b *bench) set(version string, files map[string][]byte) int64 {
	b.t.Helper()
	m, err := b.op.AddModule(b.ctx, hawkbit.Module{Name: "hello", Version: version, Type: "application", Files: files})
	b.check(err)
	ds, err := b.op.AddSet(b.ctx, "hello", version, "app", m)
	b.check(err)
	return ds
}

// release is a set that brings hello in a version.
func (b *bench) release(version string) int64 {
	var major int
	fmt.Sscanf(version, "%d.", &major)
	return b.set(version, map[string][]byte{"hello.tandem": pack("hello", version, "", 1000*major)})
}

// sumOf is the hash of a release's file.
func (b *bench) sumOf(version string) digest.SHA256 {
	var major int
	fmt.Sscanf(version, "%d.", &major)
	return digest.Of(pack("hello", version, "", 1000*major))
}

func (b *bench) assign(a hawkbit.Assignment) int64 {
	b.t.Helper()
	n, err := b.op.Assign(b.ctx, device, a)
	b.check(err)
	if n == 0 {
		b.t.Fatal("the server has assigned that already")
	}
	return n
}

// sees holds what an operator sees of an action to what is expected.
func (b *bench) sees(action int64, status string, active bool) {
	b.t.Helper()
	a, err := b.op.Action(b.ctx, device, action)
	b.check(err)
	if a.Status != status || a.Active != active {
		b.t.Errorf("action %d is %s, active %v: expected %s, %v\n%s", action, a.Status, a.Active, status, active, b.history(action))
	}
}

func (b *bench) history(action int64) string {
	b.t.Helper()
	entries, err := b.op.History(b.ctx, device, action)
	b.check(err)
	var s strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&s, "%s:", e.Type)
		for _, m := range e.Messages {
			if m != nil {
				fmt.Fprintf(&s, " %s;", *m)
			}
		}
		s.WriteByte('\n')
	}
	return s.String()
}

func (b *bench) installedIs(want string) {
	b.t.Helper()
	got, err := b.op.Installed(b.ctx, device)
	b.check(err)
	if got != want {
		b.t.Errorf("the server takes %q for installed: expected %q", got, want)
	}
}

func (b *bench) expectInstalls(want ...string) {
	b.t.Helper()
	if !slices.Equal(b.installs, want) {
		b.t.Errorf("installed %q: expected %q", b.installs, want)
	}
}

func TestForced(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	v := b.round()
	if !v.Urgent || v.Hold != "" || v.Action != n {
		t.Errorf("%+v", v)
	}
	b.sees(n, "retrieved", true)
	b.sync()
	b.sees(n, "finished", false)
	b.installedIs("hello:2.0.0")
	b.round()
	b.expectInstalls("hello 2.0.0")
	if h := b.history(n); strings.Contains(h, "Target downloads") || !strings.Contains(h, "hello 2.0.0: installed") {
		t.Errorf("the history:\n%s", h)
	}
	a, err := b.op.Attributes(b.ctx, device)
	b.check(err)
	if a["version.system"] != "2.0.0" {
		t.Errorf("attributes %v", a)
	}
}

// A version that waits to be confirmed is no success yet, and one that was taken
// back is a failure with its cause. The action is not tried again.
func TestTruth(t *testing.T) {
	b := newBench(t)
	b.o.SetName = "hello"
	b.release("1.0.0")
	b.sync()
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.round()
	b.pending = "2.0.0"
	b.sync()
	b.sees(n, "retrieved", true)
	b.pending, b.installed["hello"], b.failed["2.0.0"] = "", "1.0.0", "unhealthy: <script> said no"
	b.round()
	b.sees(n, "error", false)
	b.installedIs("hello:1.0.0")
	if n := len(slices.DeleteFunc(slices.Clone(b.asked), func(s string) bool { return !strings.HasSuffix(s, "/installedBase") })); n != 1 {
		t.Errorf("the server was told %d times what is installed, which did not change", n)
	}
	if h := b.history(n); !strings.Contains(h, "unhealthy: 'script' said no") || !strings.Contains(h, "Device reported status code: 1") {
		t.Errorf("the history:\n%s", h)
	}
	b.round()
	b.expectInstalls("hello 2.0.0")
}

// The report is lost on the way back, and the power is cut: it is told again, and
// nothing is installed again.
func TestReportIsLost(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.round()
	for _, lost := range []func(w http.ResponseWriter, r *http.Request) bool{
		func(w http.ResponseWriter, r *http.Request) bool { // it does not arrive
			if strings.HasSuffix(r.URL.Path, "/feedback") {
				w.WriteHeader(http.StatusBadGateway)
				return true
			}
			return false
		},
		func(w http.ResponseWriter, r *http.Request) bool { // too many at once
			if strings.HasSuffix(r.URL.Path, "/feedback") {
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			return false
		},
	} {
		b.intercept(lost)
		if _, err := b.source().Sync(b.ctx, b.facts()); !errors.Is(err, ota.ErrUnreachable) {
			t.Errorf("%v: expected %v", err, ota.ErrUnreachable)
		}
		b.sees(n, "retrieved", true)
	}
	b.intercept(nil)
	b.round()
	b.sees(n, "finished", false)
	b.round()
	b.expectInstalls("hello 2.0.0")
}

// A device that has lost its state reads off itself what it has done.
func TestStateIsLost(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.round()
	b.check(os.Remove(b.disk.Path("hawkbit.json")))
	b.round()
	b.sees(n, "finished", false)
	b.expectInstalls("hello 2.0.0")
}

func TestSoftIsForced(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "soft"})
	if v := b.sync(); v.Urgent || len(v.Offers) != 1 {
		t.Errorf("%+v", v)
	}
	b.check(b.op.Force(b.ctx, device, n))
	if v := b.sync(); !v.Urgent {
		t.Errorf("%+v", v)
	}
}

func TestTimeForced(t *testing.T) {
	b := newBench(t)
	b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "timeforced", ForceTime: b.clock().Add(time.Hour).UnixMilli()})
	if v := b.sync(); v.Urgent {
		t.Errorf("%+v", v)
	}
	b.pass(2 * time.Hour)
	if v := b.sync(); !v.Urgent {
		t.Errorf("%+v", v)
	}
}

func TestDownloadOnly(t *testing.T) {
	b := newBench(t)
	ds := b.release("2.0.0")
	n := b.assign(hawkbit.Assignment{Set: ds, Type: "downloadonly"})
	if v := b.round(); v.Hold == "" {
		t.Errorf("%+v", v)
	}
	b.sees(n, "downloaded", false)
	if v := b.round(); len(v.Offers) != 0 {
		t.Errorf("%+v", v)
	}
	b.expectInstalls()
}

// The report of a download is lost: it is told again.
func TestDownloadedIsLost(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "downloadonly"})
	v := b.sync()
	b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/feedback") {
			return false
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	if _, err := b.source().Fetch(b.ctx, v.Offers[0], nil); err != nil {
		t.Fatal(err)
	}
	b.intercept(nil)
	b.round()
	b.sees(n, "downloaded", false)
	b.expectInstalls()
}

func TestServersWindow(t *testing.T) {
	b := newBench(t)
	as := hawkbit.Window(b.clock().Add(time.Hour), 10*time.Minute)
	as.Set, as.Type = b.release("2.0.0"), "forced"
	n := b.assign(as)
	if v := b.round(); v.Hold == "" || len(v.Offers) != 1 {
		t.Errorf("%+v", v)
	}
	if h := b.history(n); !strings.Contains(h, "downloaded:") {
		t.Errorf("the history:\n%s", h)
	}
	b.sees(n, "retrieved", true)
	b.pass(time.Hour + time.Minute)
	if v := b.round(); v.Hold != "" {
		t.Errorf("%+v", v)
	}
	b.sync()
	b.sees(n, "finished", false)
	b.expectInstalls("hello 2.0.0")
}

// A window that ends before the device came to it calls the action off.
func TestServersWindowIsMissed(t *testing.T) {
	b := newBench(t)
	as := hawkbit.Window(b.clock().Add(time.Hour), 10*time.Minute)
	as.Set = b.release("2.0.0")
	n := b.assign(as)
	b.round()
	b.pass(2 * time.Hour)
	b.round()
	b.sees(n, "canceled", false)
	b.expectInstalls()
}

func TestConfirmation(t *testing.T) {
	b := newBench(t)
	b.check(b.op.Configure(b.ctx, map[string]any{"user.confirmation.flow.enabled": true}))
	if _, err := b.source().Confirm(b.ctx, true, ""); !errors.Is(err, source.ErrNothingToConfirm) {
		t.Errorf("%v", err)
	}
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	v := b.round()
	if v.Waiting == nil || v.Waiting.Number != n || !slices.Equal(v.Waiting.Brings, []string{"hello 2.0.0"}) || len(v.Offers) != 0 {
		t.Errorf("%+v", v)
	}
	if _, err := b.source().Confirm(b.ctx, false, "not during the harvest"); err != nil {
		t.Fatal(err)
	}
	if v := b.round(); v.Waiting == nil || !v.Waiting.Denied {
		t.Errorf("%+v", v.Waiting)
	}
	b.sees(n, "wait_for_confirmation", true)
	if _, err := b.source().Confirm(b.ctx, true, "now"); err != nil {
		t.Fatal(err)
	}
	b.round()
	if v := b.round(); v.Waiting != nil {
		t.Errorf("%+v", v.Waiting)
	}
	b.sees(n, "finished", false)
	if h := b.history(n); !strings.Contains(h, "not during the harvest") {
		t.Errorf("the history:\n%s", h)
	}
	b.o.AutoConfirm = true
	n = b.assign(hawkbit.Assignment{Set: b.release("3.0.0"), Type: "forced"})
	b.round()
	b.sync()
	b.sees(n, "finished", false)
}

func TestCancel(t *testing.T) {
	b := newBench(t)
	ds := b.release("2.0.0")
	n := b.assign(hawkbit.Assignment{Set: ds, Type: "forced"})
	b.check(b.op.Cancel(b.ctx, device, n, false))
	b.round() // never heard of
	b.sees(n, "canceled", false)

	n = b.assign(hawkbit.Assignment{Set: ds, Type: "forced"})
	b.sync()
	b.check(b.op.Cancel(b.ctx, device, n, false))
	b.round() // before it was begun
	b.sees(n, "canceled", false)
	b.expectInstalls()

	n = b.assign(hawkbit.Assignment{Set: ds, Type: "forced"})
	b.round()
	b.pending = "2.0.0"
	b.check(b.op.Cancel(b.ctx, device, n, false))
	b.sync() // too late
	b.sees(n, "retrieved", true)
	b.check(b.op.Cancel(b.ctx, device, n, false))
	b.pending = ""
	b.sync() // success wins
	b.sees(n, "finished", false)
	b.expectInstalls("hello 2.0.0")
}

// While a file is on its way the server is polled: what is called off ends it.
func TestCancelWhileDownloading(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	v := b.sync()
	b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/artifacts/") {
			return false
		}
		if r.Header.Get("Range") == "" {
			t.Error("a download that the server counts")
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", v.Offers[0].Size-1, v.Offers[0].Size))
		w.Header().Set("Content-Length", fmt.Sprint(v.Offers[0].Size))
		w.WriteHeader(http.StatusPartialContent)
		_ = http.NewResponseController(w).Flush()
		b.check(b.op.Cancel(b.ctx, device, n, false))
		<-r.Context().Done()
		return true
	})
	b.o.After = func(time.Duration) (<-chan time.Time, func()) {
		c := make(chan time.Time, 1)
		c <- time.Time{}
		return c, func() {}
	}
	if _, err := b.source().Fetch(b.ctx, v.Offers[0], nil); !errors.Is(err, source.ErrWithdrawn) {
		t.Errorf("%v: expected %v", err, source.ErrWithdrawn)
	}
	b.sync()
	b.sees(n, "canceled", false)
}

func TestSuperseded(t *testing.T) {
	b := newBench(t)
	first := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.sync()
	second := b.assign(hawkbit.Assignment{Set: b.release("3.0.0"), Type: "forced"})
	b.round()
	b.sync()
	b.sees(first, "canceled", false)
	b.sees(second, "finished", false)
	b.expectInstalls("hello 3.0.0")
}

func TestForceQuit(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.sync()
	b.check(b.op.Cancel(b.ctx, device, n, false))
	b.check(b.op.Cancel(b.ctx, device, n, true))
	if v := b.round(); v.Action != 0 || len(v.Offers) != 0 {
		t.Errorf("%+v", v)
	}
	b.expectInstalls()
}

// The device was faster than the force quit: the server learns of it otherwise.
func TestForceQuitTooLate(t *testing.T) {
	b := newBench(t)
	b.o.SetName = "hello"
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.round()
	b.check(b.op.Cancel(b.ctx, device, n, false))
	b.check(b.op.Cancel(b.ctx, device, n, true))
	b.sync()
	b.sees(n, "canceled", false)
	b.installedIs("hello:2.0.0")
}

func TestSeveralModules(t *testing.T) {
	b := newBench(t)
	app, err := b.op.AddModule(b.ctx, hawkbit.Module{Name: "hello", Version: "2.0.0", Type: "application", Files: map[string][]byte{
		"hello whole+1.tandem": pack("hello", "2.0.0", "", 2000), "hello delta.tandem": pack("hello", "2.0.0", "1.0.0", 10),
	}})
	b.check(err)
	fw, err := b.op.AddModule(b.ctx, hawkbit.Module{
		Name: "modem", Version: "2.0.0", Type: "os", Files: map[string][]byte{"modem.tandem": pack("modem", "2.0.0", "", 2000)},
		Metadata: map[string]string{"distribution-set": "hello-set:both"},
	})
	b.check(err)
	ds, err := b.op.AddSet(b.ctx, "hello-set", "both", "os_app", app, fw)
	b.check(err)
	n := b.assign(hawkbit.Assignment{Set: ds, Type: "forced"})
	v := b.round()
	if len(v.Offers) != 2 || v.Offers[1].Name != "hello delta.tandem" {
		t.Errorf("%+v", v.Offers)
	}
	b.sync()
	b.sees(n, "finished", false)
	b.expectInstalls("modem 2.0.0", "hello 2.0.0")
}

func TestRefused(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		files map[string][]byte
		says  string
	}{
		"no bundle":      {map[string][]byte{"README.txt": []byte("read me")}, "README.txt: malformed bundle"},
		"one of two":     {map[string][]byte{"README.txt": []byte("read me"), "a.tandem": pack("hello", "2.0.0", "", 2000)}, "not begun, because README.txt cannot be taken"},
		"older":          {map[string][]byte{"a.tandem": pack("hello", "0.5.0", "", 0)}, "older than 1.0.0"},
		"two versions":   {map[string][]byte{"a.tandem": pack("hello", "2.0.0", "", 2000), "b.tandem": pack("hello", "3.0.0", "", 3000)}, "expected one version"},
		"longer than it": {map[string][]byte{"a.tandem": pack("hello", "2.0.0", "", 2001)}, "a.tandem"},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			n := b.assign(hawkbit.Assignment{Set: b.set(name, c.files), Type: "forced"})
			b.round()
			b.sync()
			b.sees(n, "error", false)
			if h := b.history(n); !strings.Contains(h, c.says) && !strings.Contains(h, "hello 2.0.0") {
				t.Errorf("the history has no %q:\n%s", c.says, h)
			}
		})
	}
	b.t = t
	b.expectInstalls()
}

// A file that is not there is asked for a few times, then that is the outcome.
func TestFileIsMissing(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/artifacts/") {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	for range 4 {
		if _, err := b.source().Sync(b.ctx, b.facts()); err == nil {
			break
		}
	}
	b.sees(n, "error", false)
}

// The server's quota of statuses is used up: the outcome arrives all the same.
func TestQuota(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	v := b.sync()
	for range 1000 {
		req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, b.server.URL+"/DEFAULT/controller/v1/dev-1/softwaremodules/1/artifacts/hello.tandem", nil)
		b.check(err)
		resp, err := b.o.Client.Do(req)
		b.check(err)
		resp.Body.Close()
	}
	if _, err := b.source().Fetch(b.ctx, v.Offers[0], nil); err != nil {
		t.Fatal(err)
	}
	b.installed["hello"] = "2.0.0"
	b.sync()
	b.sees(n, "finished", false)
}

// What the server refuses of a report is left out.
func TestReportIsRefused(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.round()
	bare := false
	b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/feedback") {
			return false
		}
		data, err := io.ReadAll(r.Body)
		b.check(err)
		r.Body = io.NopCloser(bytes.NewReader(data))
		if bytes.Contains(data, []byte("timestamp")) {
			t.Errorf("a clock reaches the server: %s", data)
		}
		if bytes.Contains(data, []byte("details")) {
			w.WriteHeader(http.StatusBadRequest)
			return true
		}
		bare = true
		return false
	})
	b.sync()
	if !bare {
		t.Error("nothing was sent without details")
	}
	b.sees(n, "finished", false)
}

// A token that is not taken any more costs nothing but time.
func TestTokenIsRotated(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.round()
	b.check(b.op.ChangeTarget(b.ctx, device, map[string]any{"securityToken": "another"}))
	_, err := b.source().Sync(b.ctx, b.facts())
	var hint interface{ Hint() string }
	if !errors.Is(err, ota.ErrUnreachable) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "token") {
		t.Errorf("%v", err)
	}
	b.check(b.op.ChangeTarget(b.ctx, device, map[string]any{"securityToken": token}))
	b.sync()
	b.sees(n, "finished", false)
}

// What happened without the server reaches it: a rollback, a stick.
func TestInstalledByHand(t *testing.T) {
	b := newBench(t)
	b.o.SetName = "hello"
	b.release("1.0.0")
	b.sync()
	b.installedIs("hello:1.0.0")
	b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.round()
	b.sync()
	b.installedIs("hello:2.0.0")
	b.installed["hello"], b.failed["2.0.0"] = "1.0.0", "revoked"
	b.sync()
	b.installedIs("hello:1.0.0")
	b.installed["hello"] = "2.5.0" // which the server does not know
	b.sync()
	b.installedIs("hello:1.0.0")
	asked := len(b.asked)
	b.sync()
	if got := b.asked[asked:]; len(got) != 1 {
		t.Errorf("with nothing new the device asked %q", got)
	}
}

// An answer to what the device told of itself is lost, and the device goes back to
// what it was: the server does not keep what it heard in between.
func TestAttributesAreLost(t *testing.T) {
	b := newBench(t)
	b.o.SetName, b.o.Cache = "hello", &source.Cache{}
	b.release("1.0.0")
	b.release("2.0.0")
	b.sync()
	b.installed["hello"] = "2.0.0"
	b.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		b.standIn.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
	b.sync()
	b.intercept(nil)
	b.installed["hello"] = "1.0.0"
	b.sync()
	a, err := b.op.Attributes(b.ctx, device)
	b.check(err)
	if a["version.system"] != "1.0.0" {
		t.Errorf("the server has %v", a)
	}
	b.installedIs("hello:1.0.0")
}

// An idle poll is one small conditional request, and the disk is left alone.
func TestIdlePoll(t *testing.T) {
	b := newBench(t)
	b.o.Cache = &source.Cache{}
	b.sync()
	before, err := os.Stat(b.disk.Path("hawkbit.json"))
	b.check(err)
	asked := len(b.asked)
	for range 3 {
		b.sync()
	}
	after, err := os.Stat(b.disk.Path("hawkbit.json"))
	b.check(err)
	if len(b.asked) != asked+3 || !os.SameFile(before, after) {
		t.Errorf("asked %q", b.asked[asked:])
	}
}

// No other host than the origin sees the token, whatever the server's links say.
func TestTokenStaysAtHome(t *testing.T) {
	b := newBench(t)
	seen := make(chan string, 10)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Authorization")
		http.ServeContent(w, r, "a", time.Time{}, bytes.NewReader(pack("hello", "2.0.0", "", 2000)))
	}))
	defer other.Close()
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/deploymentBase/") || r.Method != http.MethodGet {
			return false
		}
		body := fmt.Sprintf(`{"id":"%d","deployment":{"download":"forced","update":"forced","chunks":[{"part":"os","name":"x","version":"1","artifacts":[
			{"filename":"a","size":9999999999,"hashes":{"sha256":"%s"},"_links":{"download-http":{"href":"%s/a"}}}]}]}}`,
			n, digest.Of(pack("hello", "2.0.0", "", 2000)), strings.Replace(other.URL, "127.0.0.1", "localhost", 1))
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
		return true
	})
	b.round()
	b.expectInstalls("hello 2.0.0")
	close(seen)
	count := 0
	for got := range seen {
		count++
		if got != "" {
			t.Errorf("another host was shown %q", got)
		}
	}
	if count == 0 {
		t.Error("the link was not followed")
	}
}
