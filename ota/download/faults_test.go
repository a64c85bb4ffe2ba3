package download

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/ota/fault"
	"tandem/ota/internal/webtest"
)

// A connection that ends at any byte, the head of the answer included, costs no
// byte twice.
func TestResetAtAnyByte(t *testing.T) {
	l := newLab(t)
	cuts := []int{0, 1, 2, maxRead - 1, maxRead, maxRead + 1, 2*maxRead - 1, 2 * maxRead, bodySize / 2, bodySize - maxRead, bodySize - 2, bodySize - 1, bodySize}
	for n := 7919; n < bodySize; n += 31607 {
		cuts = append(cuts, n)
	}
	for _, n := range cuts {
		l.s.Serve(l.s.Files)
		l.s.Misbehave(webtest.Times(1, l.cutOff(n)))
		l.fetched(l.get(t.Context()))
		if sent := l.s.BytesSent(); sent > bodySize+bodySize/50 {
			t.Errorf("cut at byte %d: %d bytes sent of %d", n, sent, bodySize)
		}
		if err := os.Remove(l.name("bundle")); err != nil {
			t.Fatal(err)
		}
	}
}

// Ten interruptions of all kinds, each in another process, so to say: all that
// is left between them is the disk.
func TestTenInterruptions(t *testing.T) {
	l := newLab(t)
	l.options.Attempts = 1
	kinds := []webtest.Handler{
		l.cutOff(bodySize / 11),
		webtest.Raw(http.StatusServiceUnavailable, nil),
		func(w http.ResponseWriter, req *http.Request) bool { panic(http.ErrAbortHandler) },
		func(w http.ResponseWriter, req *http.Request) bool { // part of it, then silence
			w.Header().Set("Content-Range", contentRangeOf(req))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(l.body[first(req) : first(req)+bodySize/11])
			http.NewResponseController(w).Flush()
			l.arrive(req, int64(first(req)+bodySize/11))
			l.silence(req)
			return true
		},
	}
	for i := range 10 {
		l.s.Misbehave(webtest.Times(1, kinds[i%len(kinds)]))
		l.options.Attempts = 1
		// An attempt that has brought bytes is followed by another: that one
		// finds nobody.
		ctx, cancel := context.WithCancel(t.Context())
		l.options.Backoff = func() backoff.BackOff { return cancelling{cancel} }
		if _, err := l.get(ctx); err == nil {
			t.Fatalf("interruption %d: the download succeeded", i)
		}
		cancel()
	}
	l.s.Misbehave(nil)
	l.fetched(l.get(t.Context()))
	if sent := l.s.BytesSent(); sent > bodySize+bodySize/50 {
		t.Errorf("%d bytes sent of %d", sent, bodySize)
	}
}

// arrive waits until the part has n bytes: time that passes before would be the
// disk's, not the server's.
func (l *lab) arrive(req *http.Request, n int64) {
	for l.part() < n && req.Context().Err() == nil {
		runtime.Gosched()
	}
}

const helperVariable = "TANDEM_TEST_DOWNLOAD"

// TestHelperDownload is the process that TestKilledDownload kills.
func TestHelperDownload(t *testing.T) {
	job := os.Getenv(helperVariable)
	if job == "" {
		t.Skip("runs as a process of another test")
	}
	var dir, url, sum string
	if _, err := fmt.Sscan(job, &dir, &url, &sum); err != nil {
		t.Fatal(err)
	}
	state, err := fsys.OpenOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := made(Options{FS: state, Client: newClient(time.Minute), Log: quiet(), Stall: 24 * time.Hour, Ticker: func(time.Duration) (<-chan time.Time, func()) {
		tick := time.NewTicker(time.Millisecond)
		return tick.C, tick.Stop
	}})
	_, err = d.Get(t.Context(), File{URL: url, Size: bodySize, SHA256: must[digest.SHA256](t)(digest.Parse(sum))}, func(done, _ int64) {
		fmt.Printf("have %d\n", done)
	})
	t.Fatalf("the download ended: %v", err)
}

// A process that is killed in the middle leaves what the next one goes on from,
// three times over.
func TestKilledDownload(t *testing.T) {
	l := newLab(t)
	part := bodySize / 4
	for i := range 3 {
		upTo := (i + 1) * part
		l.s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
			from := first(req)
			if from > 0 {
				w.Header().Set("Content-Range", contentRangeOf(req))
				w.WriteHeader(http.StatusPartialContent)
			} else {
				w.Header().Set("Content-Length", fmt.Sprint(bodySize))
			}
			w.Write(l.body[from:upTo])
			http.NewResponseController(w).Flush()
			l.s.Hang(req)
			return true
		})
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelperDownload$", "-test.v")
		cmd.Env = append(os.Environ(), helperVariable+"="+strings.Join([]string{l.dir, l.file.URL, l.file.SHA256.String()}, " "))
		out := must[interface {
			Read([]byte) (int, error)
		}](t)(cmd.StdoutPipe())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("have %d", upTo)
		lines := bufio.NewScanner(out)
		for lines.Scan() && lines.Text() != want {
			if strings.Contains(lines.Text(), "the download ended") {
				t.Fatal(lines.Text())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed, as it should be
		if got := l.part(); got != int64(upTo) {
			t.Fatalf("a part of %d bytes is left, want %d", got, upTo)
		}
		l.noBundle()
	}
	l.s.Misbehave(nil)
	l.fetched(l.get(t.Context()))
	if sent := l.s.BytesSent(); sent != bodySize {
		t.Errorf("%d bytes sent, want %d", sent, bodySize)
	}
}

// A proxy that changes bytes of one answer costs that one, and is found out.
func TestProxyChangesBytes(t *testing.T) {
	l := newLab(t)
	bad := bytes.Clone(l.body)
	bad[1000] ^= 1
	first := true
	l.s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		if !first {
			return false
		}
		first = false
		webtest.Raw(http.StatusOK, bad[:bodySize/2])(w, req)
		return true
	})
	l.fetched(l.get(t.Context()))
	if got := len(l.s.Requests()); got != 3 { // the bad half, the rest, all anew
		t.Errorf("%d requests, want 3", got)
	}
}

// A server that asks to be left alone is, but not for as long as it likes.
func TestDownloadHonoursRetryAfter(t *testing.T) {
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		l := newLab(t)
		l.options.MaxRetryAfter = 50 * time.Millisecond
		l.s.Misbehave(webtest.Times(2, webtest.Raw(code, nil, "Retry-After", "3600")))
		began := time.Now()
		l.fetched(l.get(t.Context()))
		if took := time.Since(began); took < 100*time.Millisecond {
			t.Errorf("%d: asked again after %s", code, took)
		}
		if err := os.Remove(l.name("bundle")); err != nil {
			t.Fatal(err)
		}
		// Given up, the caller learns the whole of it.
		l.s.Misbehave(webtest.Raw(code, nil, "Retry-After", "3600"))
		var problem *fault.Problem
		if _, err := l.get(t.Context()); !errors.As(err, &problem) || problem.RetryAfter != time.Hour {
			t.Errorf("%d: problem %#v", code, problem)
		}
	}
	d := made(Options{FS: memfs.NewMachine().NewDisk("state", memfs.Options{}).FS(), Client: http.DefaultClient, Log: quiet()})
	r := retries{BackOff: d.o.Backoff(), left: 100, after: min(time.Hour, d.o.MaxRetryAfter)}
	if got := r.NextBackOff(); got != 10*time.Minute {
		t.Errorf("an hour is cut to %s, want 10m", got)
	}
	if got := r.NextBackOff(); got > time.Minute {
		t.Errorf("the wait after that is %s", got)
	}
}

// The waits grow, are capped, and differ from device to device.
func TestBackoff(t *testing.T) {
	d := made(Options{FS: memfs.NewMachine().NewDisk("state", memfs.Options{}).FS(), Client: http.DefaultClient, Log: quiet()})
	differ := false
	a, b := d.o.Backoff(), d.o.Backoff()
	for i := range 20 {
		x, y := a.NextBackOff(), b.NextBackOff()
		differ = differ || x != y
		if x < 250*time.Millisecond || x > 45*time.Second {
			t.Errorf("wait %d: %s", i, x)
		}
		if i > 8 && x < 15*time.Second {
			t.Errorf("wait %d is %s still", i, x)
		}
	}
	if !differ {
		t.Error("two devices wait the same")
	}
}

// A byte now and then is not enough.
func TestDownloadFromASlowServer(t *testing.T) {
	l := newLab(t)
	l.s.Misbehave(webtest.Times(1, func(w http.ResponseWriter, req *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(bodySize))
		arrive := time.NewTicker(5 * time.Millisecond)
		defer arrive.Stop()
		for _, b := range l.body {
			w.Write([]byte{b})
			http.NewResponseController(w).Flush()
			<-arrive.C
			if !l.pass(req, 5) { // of the twenty that silence is given
				break
			}
		}
		return true
	}))
	tr := &transfer{Downloader: made(l.options), f: l.file, meter: &meter{}, part: "downloads/x.part", progress: func(int64, int64) {}}
	tr.o.FS = l.fs
	if err := l.fs.Mkdir("downloads", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tr.attempt(t.Context()); !errors.Is(err, fault.ErrSlow) {
		t.Errorf("error %v, want fault.ErrSlow", err)
	}
	l.fetched(l.get(t.Context()))
}

func TestBandwidthLimit(t *testing.T) {
	l := newLab(t)
	l.options.Bandwidth = 1 << 20
	began := time.Now()
	l.fetched(l.get(t.Context()))
	// What may come at once comes at once.
	if took, least := time.Since(began), time.Duration(bodySize-maxRead)*time.Second/(1<<20); took < least {
		t.Errorf("%d bytes took %s, want at least %s", bodySize, took, least)
	}
	// A slow limit is no stall, and a cancelled download does not wait for it.
	if err := os.Remove(l.name("bundle")); err != nil {
		t.Fatal(err)
	}
	l.options.Bandwidth = 1 << 10
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.get(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want context.DeadlineExceeded", err)
	}
}
