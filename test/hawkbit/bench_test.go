package hawkbit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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
	"tandem/packaging/bundle"
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
	b.standIn = b.newServer()
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
			downloads, err := download.New(download.Options{FS: disk, Client: c, Log: log, Attempts: 1, Backoff: func() backoff.BackOff { return &backoff.ZeroBackOff{} }})
			if err != nil {
				t.Fatal(err)
			}
			return &ota.Fetcher{Log: log, Downloads: downloads}
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

func (b *bench) newServer() *hawkbit.Server {
	return hawkbit.New(hawkbit.Options{Now: b.clock, Random: func() float64 { return 0.5 }, MinSleep: time.Second})
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
var errNoBundle = fmt.Errorf("%w: it has no head", bundle.ErrMalformed)

func inspect(_ context.Context, r io.Reader) (*source.Head, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 64<<10)).ReadBytes('\n')
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
	out.Cost = out.Size
	if h.Base != "" {
		out.Size = int64(len(line)) + 10
		out.Cost = out.Size
		if h.Base == "0.1.0" { // which is on no device here
			out.Compatible, out.Lacks = nil, "it builds on version 0.1.0: no such version is here"
		}
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
