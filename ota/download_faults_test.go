package ota

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
		l.s.serve(&publisher{t: t, files: l.s.files})
		l.s.misbehave(times(1, l.cutOff(n)))
		l.fetched(l.get(t.Context()))
		if sent := l.s.bytesSent(); sent > bodySize+bodySize/50 {
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
	kinds := []handler{
		l.cutOff(bodySize / 11),
		raw(http.StatusServiceUnavailable, nil),
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
		l.s.misbehave(times(1, kinds[i%len(kinds)]))
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
	l.s.misbehave(nil)
	l.fetched(l.get(t.Context()))
	if sent := l.s.bytesSent(); sent > bodySize+bodySize/50 {
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
	d := NewDownloader(DownloadOptions{FS: state, Client: NewClient(ClientOptions{}), Log: quiet(), Ticker: func(time.Duration) (<-chan time.Time, func()) {
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
		l.s.misbehave(func(w http.ResponseWriter, req *http.Request) bool {
			from := first(req)
			if from > 0 {
				w.Header().Set("Content-Range", contentRangeOf(req))
				w.WriteHeader(http.StatusPartialContent)
			} else {
				w.Header().Set("Content-Length", fmt.Sprint(bodySize))
			}
			w.Write(l.body[from:upTo])
			http.NewResponseController(w).Flush()
			l.s.hang(req)
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
	l.s.misbehave(nil)
	l.fetched(l.get(t.Context()))
	if sent := l.s.bytesSent(); sent != bodySize {
		t.Errorf("%d bytes sent, want %d", sent, bodySize)
	}
}

// A proxy that changes bytes of one answer costs that one, and is found out.
func TestProxyChangesBytes(t *testing.T) {
	l := newLab(t)
	bad := bytes.Clone(l.body)
	bad[1000] ^= 1
	first := true
	l.s.misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		if !first {
			return false
		}
		first = false
		raw(http.StatusOK, bad[:bodySize/2])(w, req)
		return true
	})
	l.fetched(l.get(t.Context()))
	if got := len(l.s.requests()); got != 3 { // the bad half, the rest, all anew
		t.Errorf("%d requests, want 3", got)
	}
}

// While a release is fetched its publisher replaces it: the device takes no mix
// of the two, finds the new one at its next poll, and keeps nothing of the old.
func TestReleaseReplacedMidway(t *testing.T) {
	p := newPublisher(t)
	old, replacement := bytes.Repeat([]byte("old "), 50_000), bytes.Repeat([]byte("new "), 50_000)
	p.add("1.1.0", old)
	p.publish()
	s := newServer(t, p)
	d := newDevice(t, s, p)
	state := must[*fsys.OS](t)(fsys.OpenOS(t.TempDir()))
	d.fs = state
	r := d.repo()
	o := must[*Offer](t)(r.Check(t.Context(), d.about))
	path := "/targets/" + o.SHA256.String() + "." + o.Name

	ctx, cancel := context.WithCancel(t.Context())
	s.misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != path {
			return false
		}
		raw(http.StatusOK, old[:len(old)/2])(w, req)
		cancel()
		return true
	})
	if _, err := r.Fetch(ctx, *o, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want context.Canceled", err)
	}
	// The same name has other content; then it is gone.
	s.misbehave(nil)
	s.files[path] = replacement
	if _, err := r.Fetch(t.Context(), *o, nil); !errors.Is(err, ErrRefused) {
		t.Errorf("mixed: error %v, want ErrRefused", err)
	}
	delete(p.files, path)
	p.add("1.1.0", replacement)
	p.publish()
	s.serve(p)
	if _, err := r.Fetch(t.Context(), *o, nil); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "404") {
		t.Errorf("gone: error %v, want ErrUnreachable", err)
	}
	o = must[*Offer](t)(r.Check(t.Context(), d.about))
	file, err := r.Fetch(t.Context(), *o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := must[[]byte](t)(os.ReadFile(file)); !bytes.Equal(got, replacement) {
		t.Error("other content than the new release's")
	}
	if left := must[[]fsys.Info](t)(state.ReadDir("downloads")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestRetryAfter(t *testing.T) {
	const date = "Mon, 01 Jun 2026 12:00:00 GMT"
	for _, tt := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", date, 0},
		{"0", date, 0},
		{" 120 ", "", 2 * time.Minute},
		{"99999999999999999", "", 9223372036 * time.Second},
		{"99999999999999999999999", "", 0},
		{"-5", "", 0},
		{"1.5", "", 0},
		{"soon", date, 0},
		{"Mon, 01 Jun 2026 12:05:00 GMT", date, 5 * time.Minute},
		{"Mon, 01 Jun 2026 11:00:00 GMT", date, 0},
		{"Mon, 01 Jun 2026 12:05:00 GMT", "", 0}, // without the server's clock it says nothing
	} {
		h := http.Header{}
		h.Set("Retry-After", tt.value)
		h.Set("Date", tt.date)
		if got := retryAfter(h); got != tt.want {
			t.Errorf("%q at %q: %s, want %s", tt.value, tt.date, got, tt.want)
		}
	}
}

// A server that asks to be left alone is, but not for as long as it likes.
func TestDownloadHonoursRetryAfter(t *testing.T) {
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		l := newLab(t)
		l.options.MaxRetryAfter = 50 * time.Millisecond
		l.s.misbehave(times(2, raw(code, nil, "Retry-After", "3600")))
		began := time.Now()
		l.fetched(l.get(t.Context()))
		if took := time.Since(began); took < 100*time.Millisecond {
			t.Errorf("%d: asked again after %s", code, took)
		}
		if err := os.Remove(l.name("bundle")); err != nil {
			t.Fatal(err)
		}
		// Given up, the caller learns the whole of it.
		l.s.misbehave(raw(code, nil, "Retry-After", "3600"))
		var problem *Problem
		if _, err := l.get(t.Context()); !errors.As(err, &problem) || problem.RetryAfter != time.Hour {
			t.Errorf("%d: problem %#v", code, problem)
		}
	}
	d := NewDownloader(DownloadOptions{})
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
	d := NewDownloader(DownloadOptions{})
	differ := false
	a, b := d.o.Backoff(), d.o.Backoff()
	for i := range 20 {
		x, y := a.NextBackOff(), b.NextBackOff()
		differ = differ || x != y
		if x < 500*time.Millisecond || x > 45*time.Second {
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
	l.s.misbehave(times(1, func(w http.ResponseWriter, req *http.Request) bool {
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
	tr := &transfer{Downloader: NewDownloader(l.options), f: l.file, part: "downloads/x.part", progress: func(int64, int64) {}}
	tr.o.FS = l.fs
	if err := l.fs.Mkdir("downloads", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tr.attempt(t.Context()); !errors.Is(err, errSlow) {
		t.Errorf("error %v, want errSlow", err)
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
