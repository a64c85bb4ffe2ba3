package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cavaliergopher/grab/v3"
	"github.com/cenkalti/backoff/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/ota/fault"
	"tandem/ota/internal/webtest"
)

const bodySize = 300_000

// lab is a server with one file, and a state directory to fetch it into.
type lab struct {
	t       *testing.T
	s       *webtest.Server
	dir     string
	fs      fsys.FS
	body    []byte
	file    File
	options Options
	waits   int // between attempts

	mu   sync.Mutex
	tick *ticks // of the attempt under way; nil between two
}

// ticks are what one attempt takes for time.
type ticks struct {
	c    chan time.Time
	done chan struct{}
}

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newClient waits that long for the head of an answer.
func newClient(timeout time.Duration) *http.Client {
	return &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: timeout, DisableCompression: true}}
}

func newLab(t *testing.T) *lab {
	body := make([]byte, bodySize)
	rand.NewChaCha8([32]byte{1}).Read(body)
	l := &lab{t: t, body: body, dir: t.TempDir()}
	l.s = webtest.New(t, map[string][]byte{"/targets/f": body})
	osfs, err := fsys.OpenOS(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { osfs.Close() })
	l.fs = osfs
	l.file = File{URL: l.s.URL + "/targets/f", Size: bodySize, SHA256: digest.Of(body)}
	client := newClient(time.Minute)
	t.Cleanup(client.CloseIdleConnections)
	l.options = Options{
		FS: osfs, Client: client, Log: quiet(), Stall: 10 * time.Second, Attempts: 3,
		Backoff: func() backoff.BackOff { return counted{l} },
		// Time passes for the download only where a server lets it.
		Ticker: func(time.Duration) (<-chan time.Time, func()) {
			k := &ticks{make(chan time.Time), make(chan struct{})}
			l.setTicks(k)
			return k.c, func() { l.setTicks(nil); close(k.done) }
		},
	}
	return l
}

func (l *lab) setTicks(k *ticks) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick = k
}

// pass lets n ticks pass for the attempt under way, and reports whether it still is.
func (l *lab) pass(req *http.Request, n int) bool {
	var k *ticks
	for k == nil { // the request may be here before its attempt watches it
		if req.Context().Err() != nil {
			return false
		}
		l.mu.Lock()
		k = l.tick
		l.mu.Unlock()
		runtime.Gosched()
	}
	for range n {
		select {
		case k.c <- time.Time{}:
		case <-k.done:
			return false
		case <-req.Context().Done():
			return false
		case <-l.s.Gone:
			return false
		}
	}
	return true
}

// silence lets time pass until the client goes away.
func (l *lab) silence(req *http.Request) { l.pass(req, math.MaxInt) }

// impatient waits for the head of an answer a second only.
func (l *lab) impatient() {
	client := newClient(time.Second)
	l.t.Cleanup(client.CloseIdleConnections)
	l.options.Client = client
}

// counted waits not at all, and counts how often.
type counted struct{ l *lab }

func (c counted) NextBackOff() time.Duration { c.l.waits++; return 0 }
func (c counted) Reset()                     {}

func (l *lab) name(kind string) string {
	return filepath.Join(l.dir, "downloads", l.file.SHA256.String()+"."+kind)
}

// have puts a file into the downloads, a part as if this run of the machine had
// written it.
func (l *lab) have(kind string, data []byte) {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Join(l.dir, "downloads"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(l.name(kind), data, 0o600); err != nil {
		l.t.Fatal(err)
	}
	if kind == "part" {
		note, err := record.Author{}.Seal(bootKind, made(l.options).o.Boot)
		if err != nil {
			l.t.Fatal(err)
		}
		l.have("boot", note)
	}
}

func (l *lab) get(ctx context.Context) (string, error) {
	l.options.FS = l.fs
	return made(l.options).Get(ctx, l.file, nil)
}

// fetched says that path is the whole file and that nothing else was left.
func (l *lab) fetched(path string, err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
	if path != l.name("bundle") {
		l.t.Errorf("path %s, want %s", path, l.name("bundle"))
	}
	got, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	if !bytes.Equal(got, l.body) {
		l.t.Errorf("%d bytes, which differ from what is signed", len(got))
	}
	if _, err := os.Lstat(l.name("part")); err == nil {
		l.t.Error("the part is left")
	}
}

// part gives the length of the part, -1 if there is none.
func (l *lab) part() int64 {
	info, err := os.Lstat(l.name("part"))
	if err != nil {
		return -1
	}
	return info.Size()
}

func (l *lab) noBundle() {
	l.t.Helper()
	if _, err := os.Lstat(l.name("bundle")); err == nil {
		l.t.Error("there is a bundle")
	}
}

// cutOff sends n bytes of the good answer, then drops the connection.
func (l *lab) cutOff(n int) webtest.Handler {
	return func(w http.ResponseWriter, req *http.Request) bool {
		http.ServeContent(&shortWriter{w, n}, req, "", time.Time{}, bytes.NewReader(l.body))
		return true
	}
}

type shortWriter struct {
	http.ResponseWriter
	left int
}

func (s *shortWriter) Write(p []byte) (int, error) {
	if len(p) < s.left {
		s.left -= len(p)
		return s.ResponseWriter.Write(p)
	}
	s.ResponseWriter.Write(p[:s.left])
	http.NewResponseController(s.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

func TestDownload(t *testing.T) {
	l := newLab(t)
	var last [2]int64
	l.options.FS = l.fs
	path, err := made(l.options).Get(t.Context(), l.file, func(done, total int64) { last = [2]int64{done, total} })
	l.fetched(path, err)
	if last != [2]int64{bodySize, bodySize} {
		t.Errorf("progress ended at %v", last)
	}
	if diff := cmp.Diff([]string{"GET /targets/f"}, l.s.Requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	l.fetched(l.get(t.Context()))
	if n := len(l.s.Requests()); n != 1 {
		t.Errorf("%d requests for what is here already", n-1)
	}
}

// What earlier calls, power cuts and other releases left.
func TestDownloadFindsThings(t *testing.T) {
	other := strings.Repeat("ab", 32)
	for _, tt := range []struct {
		name     string
		prepare  func(l *lab)
		requests int
		sent     int64
	}{
		{"a part", func(l *lab) { l.have("part", l.body[:100_000]) }, 1, bodySize - 100_000},
		{"an empty part", func(l *lab) { l.have("part", nil) }, 1, bodySize},
		{"a complete part", func(l *lab) { l.have("part", l.body) }, 0, 0},
		{"a complete part that is damaged", func(l *lab) { l.have("part", make([]byte, bodySize)) }, 1, bodySize},
		{"a part torn by a power cut", func(l *lab) { l.have("part", make([]byte, 100_000)) }, 2, 2*bodySize - 100_000},
		{"a part of another run of the machine, its end torn", func(l *lab) {
			l.have("part", append(bytes.Clone(l.body[:6*l.file.step()]), make([]byte, l.file.step())...))
			l.have("boot", []byte("another"))
		}, 1, bodySize - 6*2<<10},
		{"a part of another run, whose end need not have been synced", func(l *lab) {
			l.have("part", append(bytes.Clone(l.body[:5*l.file.step()]), make([]byte, l.file.step())...))
			l.have("boot", []byte("another"))
		}, 1, bodySize - 5*2<<10},
		{"a part that is shorter than a step, of another run", func(l *lab) { l.have("part", make([]byte, 1_000)); os.Remove(l.name("boot")) }, 1, bodySize},
		{"a complete part of another run", func(l *lab) { l.have("part", l.body); l.have("boot", nil) }, 1, bodySize - 146*2<<10},
		{"a part that is too long", func(l *lab) { l.have("part", append(bytes.Clone(l.body), 'x')) }, 1, bodySize},
		{"a damaged bundle", func(l *lab) { l.have("bundle", make([]byte, bodySize)) }, 1, bodySize},
		{"a bundle that is too long", func(l *lab) { l.have("bundle", append(bytes.Clone(l.body), 'x')) }, 1, bodySize},
		{"a bundle that is too short", func(l *lab) { l.have("bundle", l.body[:10]) }, 1, bodySize},
		{"a directory for a part", func(l *lab) { l.have("bundle", nil); os.MkdirAll(l.name("part")+"/x", 0o755) }, 1, bodySize},
		{"a symbolic link for a part", func(l *lab) {
			l.have("bundle", nil)
			os.WriteFile(filepath.Join(l.dir, "precious"), []byte("precious"), 0o600)
			os.Symlink("../precious", l.name("part"))
		}, 1, bodySize},
		{"a file for the directory", func(l *lab) { os.WriteFile(filepath.Join(l.dir, "downloads"), nil, 0o600) }, 1, bodySize},
		{"others", func(l *lab) {
			l.have("part", l.body[:100_000])
			for _, name := range []string{other + ".part", other + ".bundle", "notes.txt"} {
				os.WriteFile(filepath.Join(l.dir, "downloads", name), []byte("x"), 0o600)
			}
		}, 1, bodySize - 100_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			os.WriteFile(filepath.Join(l.dir, "precious"), []byte("precious"), 0o600)
			tt.prepare(l)
			l.fetched(l.get(t.Context()))
			if got := l.s.Requests(); len(got) != tt.requests {
				t.Errorf("requests %v, want %d", got, tt.requests)
			}
			if got := l.s.BytesSent(); got != tt.sent {
				t.Errorf("%d bytes sent, want %d", got, tt.sent)
			}
			if got, err := os.ReadFile(filepath.Join(l.dir, "precious")); string(got) != "precious" {
				t.Errorf("another file is now %.20q, %v", got, err)
			}
			entries, err := os.ReadDir(filepath.Join(l.dir, "downloads"))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e.Name() != filepath.Base(l.name("bundle")) && e.Name() != "notes.txt" {
					t.Errorf("%s is left", e.Name())
				}
			}
		})
	}
}

// Servers that are bad for a while: the download succeeds nevertheless.
func TestDownloadSurvives(t *testing.T) {
	const had = 100_000
	rest := fmt.Sprintf("bytes %d-%d/%d", had, bodySize-1, bodySize)
	for _, tt := range []struct {
		name     string
		odd      func(l *lab) webtest.Handler
		requests int
		sent     int64 // at most; 0 is not looked at
	}{
		{"reset midway, ten times", func(l *lab) webtest.Handler { return webtest.Times(10, l.cutOff(15_000)) }, 11, bodySize - had + bodySize/50},
		{"reset before the head", func(l *lab) webtest.Handler {
			return webtest.Times(2, func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
		}, 3, 0},
		{"503 twice", func(l *lab) webtest.Handler { return webtest.Times(2, webtest.Raw(503, []byte("busy"))) }, 3, 0},
		{"429 twice", func(l *lab) webtest.Handler { return webtest.Times(2, webtest.Raw(429, nil)) }, 3, 0},
		{"no answer twice", func(l *lab) webtest.Handler {
			l.impatient()
			return webtest.Times(2, func(_ http.ResponseWriter, req *http.Request) bool { l.s.Hang(req); return true })
		}, 3, 0},
		{"silence midway, twice", func(l *lab) webtest.Handler {
			return webtest.Times(2, func(w http.ResponseWriter, req *http.Request) bool {
				w.Header().Set("Content-Range", contentRangeOf(req))
				w.WriteHeader(206)
				w.Write(l.body[first(req) : first(req)+20_000])
				http.NewResponseController(w).Flush()
				l.silence(req)
				return true
			})
		}, 3, bodySize},
		{"short body without a length, twice", func(l *lab) webtest.Handler {
			return webtest.Times(2, func(w http.ResponseWriter, req *http.Request) bool {
				return webtest.Raw(206, l.body[first(req):first(req)+20_000], "Content-Range", contentRangeOf(req))(w, req)
			})
		}, 3, bodySize},
		{"200 to a range", func(l *lab) webtest.Handler {
			return func(w http.ResponseWriter, req *http.Request) bool {
				req.Header.Del("Range")
				return false
			}
		}, 1, 0},
		{"200 to a range, length not told", func(l *lab) webtest.Handler { return webtest.Raw(200, l.body) }, 1, 0},
		{"200 to a range, reset midway", func(l *lab) webtest.Handler {
			cut := webtest.Times(2, l.cutOff(had+50_000))
			return func(w http.ResponseWriter, req *http.Request) bool {
				req.Header.Del("Range")
				return cut(w, req)
			}
		}, 3, 0},
		{"200 to a range, reset in what is here already", func(l *lab) webtest.Handler {
			cut := webtest.Times(2, l.cutOff(had/2))
			return func(w http.ResponseWriter, req *http.Request) bool {
				req.Header.Del("Range")
				return cut(w, req)
			}
		}, 3, 0},
		{"206 from another byte", func(l *lab) webtest.Handler {
			return webtest.Times(1, webtest.Raw(206, l.body[had-1:], "Content-Range", fmt.Sprintf("bytes %d-%d/%d", had-1, bodySize-1, bodySize)))
		}, 2, 0},
		{"206 without Content-Range", func(l *lab) webtest.Handler { return webtest.Times(1, webtest.Raw(206, l.body)) }, 2, 0},
		{"206 of several parts", func(l *lab) webtest.Handler {
			return webtest.Times(1, webtest.Raw(206, l.body, "Content-Type", "multipart/byteranges; boundary=x"))
		}, 2, 0},
		{"206 with a Content-Range of garbage", func(l *lab) webtest.Handler {
			return webtest.Times(1, webtest.Raw(206, l.body, "Content-Range", "bytes 99999999999999999999-0/x"))
		}, 2, 0},
		{"206 with other bytes than it says", func(l *lab) webtest.Handler {
			return webtest.Times(1, webtest.Raw(206, l.body[:bodySize-had], "Content-Range", rest))
		}, 2, 0},
		{"206 of unknown total length", func(l *lab) webtest.Handler {
			return webtest.Times(1, webtest.Raw(206, l.body[had:], "Content-Range", fmt.Sprintf("bytes %d-%d/*", had, bodySize-1)))
		}, 1, 0},
		{"416", func(l *lab) webtest.Handler { return webtest.Times(1, webtest.Raw(416, nil)) }, 2, 0},
		{"206 of another total length", func(l *lab) webtest.Handler {
			return whenRanged(webtest.Raw(206, l.body[had:], "Content-Range", fmt.Sprintf("bytes %d-%d/%d", had, bodySize-1, bodySize+5)))
		}, 2, 0},
		{"200 with the rest alone", func(l *lab) webtest.Handler {
			return whenRanged(webtest.Raw(200, l.body[had:], "Content-Range", rest, "Content-Length", fmt.Sprint(bodySize-had)))
		}, 2, 0},
		{"200 with the rest alone, length not told", func(l *lab) webtest.Handler {
			return whenRanged(webtest.Raw(200, l.body[had:], "Content-Range", rest))
		}, 3, 0},
		{"more than announced", func(l *lab) webtest.Handler {
			return whenRanged(webtest.Raw(206, append(bytes.Clone(l.body[had:]), make([]byte, 1_000_000)...), "Content-Range", rest))
		}, 1, 0},
		{"206 that is compressed", func(l *lab) webtest.Handler {
			return whenRanged(webtest.Raw(206, l.body[had:], "Content-Range", rest, "Content-Encoding", "gzip"))
		}, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.have("part", l.body[:had])
			l.s.Misbehave(tt.odd(l))
			l.fetched(l.get(t.Context()))
			if got := l.s.Requests(); len(got) != tt.requests {
				t.Errorf("requests %v, want %d", got, tt.requests)
			}
			if got := l.s.BytesSent(); tt.sent > 0 && got > tt.sent {
				t.Errorf("%d bytes sent, want at most %d", got, tt.sent)
			}
		})
	}
}

// A server that has sent all of a file and does not say so is not waited for.
func TestDownloadNeedsNoEnd(t *testing.T) {
	l := newLab(t)
	l.s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		w.Write(l.body)
		http.NewResponseController(w).Flush()
		l.s.Hang(req)
		return true
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l.fetched(l.get(ctx))
}

// whenRanged answers requests for a part.
func whenRanged(h webtest.Handler) webtest.Handler {
	return func(w http.ResponseWriter, req *http.Request) bool {
		return req.Header.Get("Range") != "" && h(w, req)
	}
}

// first reads where a range begins.
func first(req *http.Request) int {
	n := 0
	fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &n)
	return n
}

func contentRangeOf(req *http.Request) string {
	return fmt.Sprintf("bytes %d-%d/%d", first(req), bodySize-1, bodySize)
}

// Servers that stay bad.
func TestDownloadFails(t *testing.T) {
	const had = 100_000
	for _, tt := range []struct {
		name     string
		odd      func(l *lab) webtest.Handler
		want     error
		says     string
		requests int
		part     int64 // what is left
	}{
		{"404", func(l *lab) webtest.Handler { return webtest.Raw(404, []byte("secret")) }, fault.ErrUnreachable, "the server answered 404 Not Found: expected 200", 1, had},
		{"403", func(l *lab) webtest.Handler { return webtest.Raw(403, []byte("secret")) }, fault.ErrUnreachable, "the server answered 403 Forbidden: expected 200", 1, had},
		{"500", func(l *lab) webtest.Handler { return webtest.Raw(500, []byte("secret")) }, fault.ErrUnreachable, "the server answered 500 Internal Server Error: expected 200", 3, had},
		{"204", func(l *lab) webtest.Handler { return webtest.Raw(204, nil) }, fault.ErrUnreachable, "the server answered 204 No Content", 1, had},
		{"416 for ever", func(l *lab) webtest.Handler { return webtest.Raw(416, nil) }, fault.ErrUnreachable, "the server answered 416", 2, had},
		{"no answer", func(l *lab) webtest.Handler {
			l.impatient()
			return func(_ http.ResponseWriter, req *http.Request) bool { l.s.Hang(req); return true }
		}, fault.ErrUnreachable, "cut off: ", 3, had},
		{"reset before a byte came", func(l *lab) webtest.Handler {
			return func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
		}, fault.ErrUnreachable, "cut off: EOF; 100000 of 300000 bytes are here", 3, had},
		{"silence", func(l *lab) webtest.Handler {
			return func(w http.ResponseWriter, req *http.Request) bool {
				w.Header().Set("Content-Range", contentRangeOf(req))
				w.WriteHeader(206)
				http.NewResponseController(w).Flush()
				l.silence(req)
				return true
			}
		}, fault.ErrUnreachable, "cut off: the server stopped sending; 100000 of 300000 bytes are here", 3, had},
		{"short body without a length", func(l *lab) webtest.Handler {
			return func(w http.ResponseWriter, req *http.Request) bool {
				end := min(first(req)+10, had+20)
				return webtest.Raw(206, l.body[first(req):end], "Content-Range", contentRangeOf(req))(w, req)
			}
		}, fault.ErrUnreachable, "cut off: the body ended early; 100020 of 300000 bytes are here", 5, had + 20},
		{"no ranges, and a reset each time", func(l *lab) webtest.Handler {
			cut := l.cutOff(had + 50_000)
			return func(w http.ResponseWriter, req *http.Request) bool {
				req.Header.Del("Range")
				return cut(w, req)
			}
		}, fault.ErrUnreachable, "cut off: the body ended early; 150000 of 300000 bytes are here", 4, had + 50_000},
		{"compressed", func(l *lab) webtest.Handler {
			return webtest.Raw(200, l.body, "Content-Encoding", "gzip", "Content-Length", fmt.Sprint(bodySize))
		}, fault.ErrRefused, `the server sent it in an encoding ("gzip")`, 1, had},
		{"a login page", func(l *lab) webtest.Handler {
			return func(w http.ResponseWriter, req *http.Request) bool { w.Write([]byte("secret")); return true }
		}, fault.ErrRefused, "the server has 6 bytes of it", 2, had},
		{"a login page, length not told", func(l *lab) webtest.Handler { return webtest.Raw(200, []byte("secret")) },
			fault.ErrUnreachable, "cut off: the body ended early; 100000 of 300000 bytes are here", 3, had},
		{"a range that is never the right one", func(l *lab) webtest.Handler {
			return webtest.Raw(206, l.body, "Content-Range", fmt.Sprintf("bytes 0-%d/%d", bodySize-1, bodySize))
		}, fault.ErrUnreachable, "the server answered 206 Partial Content: expected 200", 2, had},
		{"another total length", func(l *lab) webtest.Handler {
			return webtest.Raw(206, l.body[had:], "Content-Range", fmt.Sprintf("bytes %d-%d/%d", had, bodySize-1, bodySize+5))
		}, fault.ErrUnreachable, "the server answered 206 Partial Content: expected 200", 2, had},
		{"another file", func(l *lab) webtest.Handler {
			return func(w http.ResponseWriter, req *http.Request) bool {
				http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(make([]byte, bodySize)))
				return true
			}
		}, fault.ErrRefused, "what the server sent has another SHA-256: expected 300000 bytes with the SHA-256 ", 2, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.have("part", l.body[:had])
			l.s.Misbehave(tt.odd(l))
			path, err := l.get(t.Context())
			if !errors.Is(err, tt.want) || path != "" {
				t.Fatalf("path %q, error %v, want %v", path, err, tt.want)
			}
			if !strings.HasPrefix(err.Error(), l.file.URL+": ") || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "secret") {
				t.Errorf("message\n got %s\nwant %s", err, tt.says)
			}
			var problem *fault.Problem
			if !errors.As(err, &problem) || problem.Hint() == "" {
				t.Errorf("no advice in %#v", err)
			}
			if got := l.s.Requests(); len(got) != tt.requests {
				t.Errorf("requests %v, want %d", got, tt.requests)
			}
			if got := l.part(); tt.part >= -1 && got != tt.part {
				t.Errorf("a part of %d bytes is left, want %d", got, tt.part)
			}
			l.noBundle()
			l.s.Misbehave(nil)
			l.fetched(l.get(t.Context()))
		})
	}
}

// A body that is too long, and one of another file, from the first byte on.
func TestDownloadFromNothingFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		odd  func(l *lab) webtest.Handler
		says string
	}{
		{"too long, and says so", func(l *lab) webtest.Handler {
			return func(w http.ResponseWriter, req *http.Request) bool {
				w.Header().Set("Content-Length", fmt.Sprint(bodySize+1))
				w.Write(append(bytes.Clone(l.body), 'x'))
				return true
			}
		}, "the server has 300001 bytes of it"},
		{"without end", func(l *lab) webtest.Handler { return webtest.Endless("/targets/f", l.s) }, "what the server sent has another SHA-256"},
		{"too short, and says so", func(l *lab) webtest.Handler {
			return func(w http.ResponseWriter, req *http.Request) bool { w.Write([]byte("secret")); return true }
		}, "the server has 6 bytes of it"},
		{"wrong hash", func(l *lab) webtest.Handler { return webtest.Raw(200, make([]byte, bodySize)) }, "what the server sent has another SHA-256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.s.Misbehave(tt.odd(l))
			_, err := l.get(t.Context())
			if !errors.Is(err, fault.ErrRefused) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want fault.ErrRefused: %s", err, tt.says)
			}
			if got := l.s.Requests(); len(got) != 1 {
				t.Errorf("requests %v, want one", got)
			}
			if got := l.part(); got != -1 {
				t.Errorf("a part of %d bytes is left", got)
			}
			l.noBundle()
		})
	}
}

func TestDownloadNobodyThere(t *testing.T) {
	l := newLab(t)
	l.s.Server.Close()
	_, err := l.get(t.Context())
	if !errors.Is(err, fault.ErrUnreachable) || !errors.Is(err, syscall.ECONNREFUSED) || l.waits != 2 {
		t.Errorf("error %v after %d waits", err, l.waits)
	}
}

func TestDownloadIsCancelled(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithCancel(t.Context())
	l.s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		w.Write(l.body[:50_000])
		http.NewResponseController(w).Flush()
		l.silence(req)
		return true
	})
	l.options.FS, l.options.Stall = l.fs, 100*time.Hour
	_, err := made(l.options).Get(ctx, l.file, func(done, _ int64) {
		if done == 50_000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, fault.ErrUnreachable) {
		t.Errorf("error %v, want context.Canceled alone", err)
	}
	if got := l.part(); got != 50_000 {
		t.Errorf("a part of %d bytes is left, want 50000", got)
	}
	l.s.Misbehave(nil)
	l.fetched(l.get(t.Context()))
}

// The wait between two attempts ends with the context, too.
func TestDownloadIsCancelledBetweenAttempts(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithCancel(t.Context())
	l.s.Misbehave(webtest.Raw(500, nil))
	l.options.Backoff = func() backoff.BackOff { return cancelling{cancel} }
	if _, err := l.get(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

type cancelling struct{ cancel func() }

func (c cancelling) NextBackOff() time.Duration { c.cancel(); return time.Hour }
func (c cancelling) Reset()                     {}

// roomFS has as much room as it is told.
type roomFS struct {
	fsys.FS
	free int64
}

func (r roomFS) Space() (fsys.Space, error) { return fsys.Space{Free: r.free}, nil }

func TestDownloadNeedsRoom(t *testing.T) {
	l := newLab(t)
	osfs := l.fs
	l.have("part", l.body[:100_000])
	l.fs = roomFS{osfs, bodySize - 100_001}
	_, err := l.get(t.Context())
	if !errors.Is(err, fault.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v, want fault.ErrNoSpace", err)
	}
	if want := fmt.Sprintf("the download needs 200000 bytes more, 199999 are free in %s", l.dir); !strings.HasSuffix(err.Error(), want) {
		t.Errorf("message %v, want %s", err, want)
	}
	if got := l.s.Requests(); len(got) != 0 {
		t.Errorf("requests %v before there is room", got)
	}
	l.fs = roomFS{osfs, bodySize - 100_000}
	l.fetched(l.get(t.Context()))
}

// syncFS fails to sync files.
type syncFS struct{ fsys.FS }

type syncFile struct{ fsys.File }

func (s syncFS) Open(name string) (fsys.File, error) {
	f, err := s.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return syncFile{f}, nil
}

func (syncFile) Sync() error { return &fs.PathError{Op: "sync", Path: "x", Err: syscall.EIO} }

func TestDownloadIsNotDurable(t *testing.T) {
	l := newLab(t)
	osfs := l.fs
	l.fs = syncFS{osfs}
	if _, err := l.get(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Errorf("error %v, want EIO", err)
	}
	l.noBundle()
	if l.part() != -1 {
		t.Error("a part in doubt is left")
	}
	l.fs = osfs
	l.fetched(l.get(t.Context()))
}

// deniedFS lets nobody make a file, root neither.
type deniedFS struct{ fsys.FS }

func (deniedFS) Create(name string, _ uint32) (fsys.File, error) {
	return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.EACCES}
}

func TestDownloadDirectoryNotWritable(t *testing.T) {
	l := newLab(t)
	l.fs = deniedFS{l.fs}
	if _, err := l.get(t.Context()); !errors.Is(err, fault.ErrNotWritable) {
		t.Errorf("error %v, want fault.ErrNotWritable", err)
	}
}

// Errors of the disk while bytes are written are not those of the network.
func TestDiskErrorsArePermanent(t *testing.T) {
	l := newLab(t)
	l.options.FS = l.fs
	for _, tt := range []struct {
		errno syscall.Errno
		want  error
	}{{syscall.ENOSPC, fault.ErrNoSpace}, {syscall.EDQUOT, fault.ErrNoSpace}, {syscall.EROFS, fault.ErrNotWritable}, {syscall.EIO, syscall.EIO}} {
		tr := &transfer{Downloader: made(l.options), f: l.file, part: "downloads/x", meter: &meter{}}
		tr.here = tr.size
		err := tr.forCaller(&fs.PathError{Op: "write", Path: "x", Err: tt.errno})
		var permanent *backoff.PermanentError
		if !errors.As(err, &permanent) || !errors.Is(err, tt.want) || errors.Is(err, fault.ErrUnreachable) {
			t.Errorf("%v: %v, want %v for good", tt.errno, err, tt.want)
		}
	}
}

func TestDownloadOfNothing(t *testing.T) {
	l := newLab(t)
	l.file.Size = 0
	if _, err := l.get(t.Context()); err == nil || len(l.s.Requests()) != 0 {
		t.Errorf("error %v, requests %v", err, l.s.Requests())
	}
}

func TestContentRange(t *testing.T) {
	for _, tt := range []struct {
		header             string
		first, last, total int64
		ok                 bool
	}{
		{"bytes 1-2/3", 1, 2, 3, true},
		{"bytes 1-2/*", 1, 2, -1, true},
		{"", 0, 0, 0, false},
		{"bytes */3", 0, 0, 0, false},
		{"bytes 1-2", 0, 0, 0, false},
		{"bytes=1-2/3", 0, 0, 0, false},
		{"bytes -1-2/3", 0, 0, 0, false},
		{"bytes 1-2/3, 4-5/6", 0, 0, 0, false},
		{"bytes 1-9223372036854775808/3", 0, 0, 0, false},
	} {
		f, l, n, ok := contentRange(tt.header)
		if f != tt.first || l != tt.last || n != tt.total || ok != tt.ok {
			t.Errorf("%q: %d %d %d %t", tt.header, f, l, n, ok)
		}
	}
}

// grab's sentinel for a local file that is too long must stay what startOver
// takes it for.
func TestLongPartMidway(t *testing.T) {
	l := newLab(t)
	l.have("part", append(bytes.Clone(l.body), 'x'))
	l.options.FS = l.fs
	tr := &transfer{meter: &meter{}, Downloader: made(l.options), f: l.file, part: "downloads/" + filepath.Base(l.name("part")), progress: func(int64, int64) {}}
	err := tr.attempt(t.Context())
	if !errors.Is(err, grab.ErrBadLength) {
		t.Fatalf("error %v, want grab.ErrBadLength", err)
	}
	if again, err := tr.startOver(err); !again || l.part() != -1 {
		t.Errorf("again %t, %v, part %d", again, err, l.part())
	}
	if again, _ := tr.startOver(grab.ErrBadLength); again {
		t.Error("started over twice")
	}
}

// Resuming works from a directory, too.
func TestFileURLResumes(t *testing.T) {
	l := newLab(t)
	src := filepath.Join(t.TempDir(), "with space %41")
	if err := os.WriteFile(src, l.body, 0o600); err != nil {
		t.Fatal(err)
	}
	l.file.URL = (&url.URL{Scheme: "file", Path: src}).String()
	files := &http.Transport{}
	files.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	l.options.Client = &http.Client{Transport: files}
	l.have("part", l.body[:100_000])
	l.fetched(l.get(t.Context()))
}

// made is New for options that it takes.
func made(o Options) *Downloader {
	d, err := New(o)
	if err != nil {
		panic(err)
	}
	return d
}

// What nothing goes without is asked for when a Downloader is made, by its name.
func TestNewChecks(t *testing.T) {
	whole := Options{FS: memfs.NewMachine().NewDisk("state", memfs.Options{}).FS(), Client: http.DefaultClient, Log: quiet()}
	if _, err := New(whole); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"FS": func(o *Options) { o.FS = nil }, "Client": func(o *Options) { o.Client = nil }, "Log": func(o *Options) { o.Log = nil },
		"negative": func(o *Options) { o.Attempts = -1 },
	} {
		o := whole
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: error %v", name, err)
		}
	}
}
