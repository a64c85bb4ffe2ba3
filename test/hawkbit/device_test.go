package hawkbit_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/internal/digest"
	"tandem/ota"
	source "tandem/ota/hawkbit"
	"tandem/test/hawkbit"
)

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

// The server hears of a success, its answer is lost, and the device goes back to what
// it had: the server does not go on taking the newer one for installed.
func TestAnswerIsLostAndGoneBack(t *testing.T) {
	b := newBench(t)
	b.o.SetName = "hello"
	b.release("1.0.0")
	b.sync()
	b.installedIs("hello:1.0.0")
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.round()
	b.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/feedback") {
			return false
		}
		b.standIn.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
	if _, err := b.source().Sync(b.ctx, b.facts()); !errors.Is(err, ota.ErrUnreachable) {
		t.Errorf("%v: expected %v", err, ota.ErrUnreachable)
	}
	b.intercept(nil)
	b.sees(n, "finished", false)
	b.installed["hello"], b.failed["2.0.0"] = "1.0.0", "revoked"
	b.sync()
	b.installedIs("hello:1.0.0")
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

// The server is made anew and counts from one again: what an action of the same
// number became before says nothing of this one.
func TestServerIsMadeAnew(t *testing.T) {
	b := newBench(t)
	first := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	b.round()
	b.sync()
	b.sees(first, "finished", false)
	b.standIn = b.newServer()
	b.check(b.op.AddTarget(b.ctx, device, token))
	second := b.assign(hawkbit.Assignment{Set: b.release("3.0.0"), Type: "forced"})
	if second != first {
		t.Fatalf("action %d, then %d: expected the same number", first, second)
	}
	b.round()
	b.sync()
	b.sees(second, "finished", false)
	b.expectInstalls("hello 2.0.0", "hello 3.0.0")
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
	t.Run("held for a window", func(t *testing.T) {
		b := newBench(t)
		as := hawkbit.Window(b.clock().Add(time.Hour), 10*time.Minute)
		as.Set, as.Type = b.release("2.0.0"), "forced"
		n := b.assign(as)
		b.round()
		b.check(b.op.Cancel(b.ctx, device, n, false))
		b.check(b.op.Cancel(b.ctx, device, n, true))
		if v := b.round(); v.Action != 0 || v.Keep {
			t.Errorf("%+v", v)
		}
	})
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
		"two versions":   {map[string][]byte{"a.tandem": pack("hello", "2.0.0", "", 2000), "b.tandem": pack("hello", "3.0.0", "", 3000)}, "expected one release"},
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

// What is no bundle and too long to compare may be something on the way: it is looked
// at a few times, then that is the outcome.
func TestLongFileIsNoBundle(t *testing.T) {
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.set("2.0.0", map[string][]byte{"image": make([]byte, 2<<20)}), Type: "forced"})
	for range 2 {
		if _, err := b.source().Sync(b.ctx, b.facts()); !errors.Is(err, ota.ErrUnreachable) {
			t.Errorf("%v: expected %v", err, ota.ErrUnreachable)
		}
		b.sees(n, "retrieved", true)
	}
	_, _ = b.source().Sync(b.ctx, b.facts())
	b.sync()
	b.sees(n, "error", false)
	if h := b.history(n); !strings.Contains(h, "image: no bundle") {
		t.Errorf("the history:\n%s", h)
	}
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

// The server takes names of files that it does not serve afterwards: the action fails,
// and names the file.
func TestNameIsNotServed(t *testing.T) {
	for _, name := range []string{"100%.tandem", "a;b.tandem"} {
		b := newBench(t)
		n := b.assign(hawkbit.Assignment{Set: b.set("2.0.0", map[string][]byte{name: pack("hello", "2.0.0", "", 2000)}), Type: "forced"})
		for range 4 {
			if _, err := b.source().Sync(b.ctx, b.facts()); err == nil {
				break
			}
		}
		b.sees(n, "error", false)
		if h := b.history(n); !strings.Contains(h, "an artifact: "+name) || !strings.Contains(h, ": 400") {
			t.Errorf("%s: the history:\n%s", name, h)
		}
	}
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

// A device that was deleted on the server, and made anew under its name, is told of whole.
func TestTargetIsMadeAnew(t *testing.T) {
	b := newBench(t)
	b.o.SetName = "hello"
	b.o.Cache = &source.Cache{} // the agent goes on meanwhile
	b.release("1.0.0")
	b.sync()
	b.installedIs("hello:1.0.0")
	b.check(b.op.DeleteTarget(b.ctx, device))
	if _, err := b.source().Sync(b.ctx, b.facts()); !errors.Is(err, ota.ErrUnreachable) {
		t.Errorf("%v: expected %v", err, ota.ErrUnreachable)
	}
	b.check(b.op.AddTarget(b.ctx, device, token))
	b.sync()
	b.installedIs("hello:1.0.0")
	if a, err := b.op.Attributes(b.ctx, device); err != nil || a["version.system"] != "1.0.0" {
		t.Errorf("attributes %v, %v", a, err)
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
