package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"tandem/internal/testprograms"
	"testing"
	"time"
)

// badServers are the ways in which a server can fail, by what it does to the
// answers of one that is well. Those that begin with bundle- do so to bundles
// only.
var badServers = map[string]func(http.Handler) http.Handler{
	"404":     always(status(http.StatusNotFound)),
	"500":     always(status(http.StatusInternalServerError)),
	"garbage": always(body("<html>please log in</html>")),
	"empty":   always(body("")),
	"endless": always(endless),
	"half":    always(half),
	"reset":   always(reset),
	"silent":  always(silent),
	"chatty":  always(chatty),
	"plain":   always(asItIs),

	"timestamp-garbage": only("/metadata/timestamp.json", body("<html>please log in</html>")),

	"bundle-404":     forBundles(status(http.StatusNotFound)),
	"bundle-500":     forBundles(status(http.StatusInternalServerError)),
	"bundle-garbage": forBundles(garbage),
	"bundle-short":   forBundles(body("half a bundle")),
	"bundle-endless": forBundles(endless),
	"bundle-reset":   forBundles(reset),
	// Cut off once; then the rest is asked for.
	"bundle-cut":         cutOnce(pass),
	"bundle-no-range":    cutOnce(whole),
	"bundle-other-range": cutOnce(otherRange),
	"bundle-rest-bad":    cutOnce(garbage),
}

// badAnswer answers a request badly; good is how it should have been.
type badAnswer func(w http.ResponseWriter, req *http.Request, good http.Handler)

func always(a badAnswer) func(http.Handler) http.Handler {
	return func(good http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { a(w, req, good) })
	}
}

func forBundles(a badAnswer) func(http.Handler) http.Handler { return only("/targets/", a) }

// only answers requests for what begins with prefix badly.
func only(prefix string, a badAnswer) func(http.Handler) http.Handler {
	return always(func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		if strings.HasPrefix(req.URL.Path, prefix) {
			a(w, req, good)
		} else {
			good.ServeHTTP(w, req)
		}
	})
}

// cutOnce ends the first answer in its middle and gives the others to then.
func cutOnce(then badAnswer) func(http.Handler) http.Handler {
	var asked atomic.Int64
	return forBundles(func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		if asked.Add(1) == 1 {
			half(w, req, good)
		} else {
			then(w, req, good)
		}
	})
}

func pass(w http.ResponseWriter, req *http.Request, good http.Handler) { good.ServeHTTP(w, req) }

func status(code int) badAnswer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { http.Error(w, "no", code) }
}

func body(text string) badAnswer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { fmt.Fprint(w, text) }
}

// recorded is what the good server answers.
func recorded(req *http.Request, good http.Handler) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	good.ServeHTTP(rec, req)
	return rec
}

// half announces the whole answer and hangs up in its middle.
func half(w http.ResponseWriter, req *http.Request, good http.Handler) {
	data := recorded(req, good).Body.Bytes()
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	_, _ = w.Write(data[:len(data)/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// garbage sends as many bytes as it should, but others.
func garbage(w http.ResponseWriter, req *http.Request, good http.Handler) {
	rec := recorded(req, good)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(make([]byte, rec.Body.Len()))
}

// asItIs says of each answer that it is encoded as it is.
func asItIs(w http.ResponseWriter, req *http.Request, good http.Handler) {
	w.Header().Set("Content-Encoding", "identity")
	good.ServeHTTP(w, req)
}

// chatty announces less than it sends.
func chatty(w http.ResponseWriter, req *http.Request, good http.Handler) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	data := recorded(req, good).Body.Bytes()
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s\nforged: a line of a server's\n", len(data)/2, data)
}

// endless sends what it should, announces no length, and goes on and on.
func endless(w http.ResponseWriter, req *http.Request, good http.Handler) {
	req.Header.Del("Range")
	if _, err := w.Write(recorded(req, good).Body.Bytes()); err != nil {
		return
	}
	for more := make([]byte, 64<<10); ; {
		if _, err := w.Write(more); err != nil {
			return
		}
	}
}

// whole answers a request for a range with all there is.
func whole(w http.ResponseWriter, req *http.Request, good http.Handler) {
	req.Header.Del("Range")
	good.ServeHTTP(w, req)
}

// otherRange sends the beginning, whatever range it is asked for.
func otherRange(w http.ResponseWriter, req *http.Request, good http.Handler) {
	if req.Header.Get("Range") != "" {
		req.Header.Set("Range", "bytes=0-9")
	}
	good.ServeHTTP(w, req)
}

// reset hangs up without a word.
func reset(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// silent says nothing until the client gives up.
func silent(_ http.ResponseWriter, req *http.Request, _ http.Handler) { <-req.Context().Done() }

func startServer(h http.Handler) (url string, end func()) {
	s := httptest.NewServer(h)
	return s.URL, func() {
		s.CloseClientConnections()
		s.Close()
	}
}

// What takes its time to fail: tandem waits and tries again before it gives
// up. All cases wait at the same time.
func TestServersThatFailSlowly(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for a server that never answers")
	}
	type wait struct {
		name, says string
		d          *unit
		before     tree
		run        *running
	}
	var waits []*wait
	for name, says := range map[string]string{
		"silent":       "/metadata/[^ ]+.json: no answer: ",
		"bundle-500":   "/targets/[0-9a-f]{64}.hello-1.1.0.*: the server answered 500 .*: expected 200",
		"bundle-reset": "/targets/.*: cut off: .*; 0 of [0-9]+ bytes are here",
	} {
		url, end := startServer(badServers[name](goodServer(bundleFile("repo"))))
		t.Cleanup(end)
		d := newDevice(t, sourceSection(url))
		d.must("install", bundleFile("hello-1.0.0.tandem"))
		w := &wait{name: name, says: url + says, d: d, before: d.sides()}
		w.run = d.start(context.Background(), "update")
		waits = append(waits, w)
	}
	for _, w := range waits {
		o := w.d.wait(w.run)
		if o.exit != 30 || !matches(o.stderr, w.says) || !matches(o.stderr, "(?m)^hint: ") {
			t.Errorf("%s: %s\nwant exit 30 and a message like %q", w.name, o, w.says)
		}
		if diff := w.before.differences(w.d.sides(), untouched); len(diff) > 0 {
			t.Errorf("%s: the sides changed: %q", w.name, diff)
		}
	}
}

// Whoever waits can be told to stop, and stops at once.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"silent", "bundle-silent"} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			asked := make(chan struct{}, 1)
			hang := func(w http.ResponseWriter, req *http.Request, good http.Handler) {
				asked <- struct{}{}
				silent(w, req, good)
			}
			wrap := always(hang)
			if how == "bundle-silent" {
				wrap = forBundles(hang)
			}
			url, end := startServer(wrap(goodServer(bundleFile("repo"))))
			t.Cleanup(end)
			d := newDevice(t, sourceSection(url))
			d.must("install", bundleFile("hello-1.0.0.tandem"))
			before := d.sides()
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			r := d.start(ctx, "update")
			<-asked
			if err := r.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if o := d.wait(r); o.exit != 1 || !matches(o.stderr, "tandem: interrupted; nothing is lost") {
				t.Errorf("%s, %s: %s", how, sig, o)
			}
			cancel()
			if diff := before.differences(d.sides(), untouched); len(diff) > 0 {
				t.Errorf("%s, %s: the sides changed: %q", how, sig, diff)
			}
			if o := d.run("status"); o.exit != 0 {
				t.Errorf("the next command: %s", o)
			}
		}
	}
}

// A server that is gone, on an address where nobody listens.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	url := "http://" + testprograms.FreeAddress(t, "127.0.0.1")
	d := newDevice(t, sourceSection(url))
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	before := d.sides()
	for _, command := range []string{"check", "update"} {
		if o := d.run(command); o.exit != 30 || !matches(o.stderr, url+"/metadata/[^ ]+.json: no answer: .*refused") {
			t.Errorf("%s: %s", command, o)
		}
	}
	if diff := before.differences(d.sides(), untouched); len(diff) > 0 {
		t.Errorf("the sides changed: %q", diff)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "state", "downloads")); err == nil {
		t.Error("there is a download, although there was no server")
	}
}
