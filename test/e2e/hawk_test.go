package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/internal/testprograms"
	"tandem/test/hawkbit"
)

const (
	controller  = "test"
	deviceToken = "s3cret"
)

// realServer names the variable that holds the address of a real hawkBit server, to
// run the same against it. It is a fresh one, with hawkbit.controller.minPollingTime
// = 00:00:01, and knows no device.
const realServer = "TANDEM_HAWKBIT"

// hawk is a hawkBit server, its operator, and a bad network between it and the
// device.
type hawk struct {
	t       testing.TB
	op      *hawkbit.Operator // on a network of its own, which is well
	address string            // that the device is told

	mu     sync.Mutex
	server http.Handler // the stand-in, or the way to a real one
	random *rand.Rand   // nil: the network is well
	faults int
	sent   atomic.Int64 // bytes of artifacts
	http   *http.Server // nil while it is down
}

func newHawk(t testing.TB, random *rand.Rand) *hawk {
	t.Helper()
	h := &hawk{t: t, random: random, address: testprograms.FreeAddress(t, "127.0.0.1"), server: hawkbit.New(hawkbit.Options{
		Now: time.Now, Random: func() float64 { return 0.5 }, MinSleep: time.Second,
	})}
	if at := os.Getenv(realServer); at != "" {
		u, err := url.Parse(at)
		h.check(err)
		h.server = httputil.NewSingleHostReverseProxy(u)
	}
	own := httptest.NewServer(h.server)
	t.Cleanup(own.Close)
	h.op = &hawkbit.Operator{URL: own.URL, Client: own.Client()}
	t.Cleanup(h.down)
	h.up()
	h.check(h.op.Configure(t.Context(), map[string]any{
		"pollingTime": "00:00:01", "user.confirmation.flow.enabled": true, "authentication.targettoken.enabled": true,
	}))
	h.check(h.op.AddTarget(t.Context(), controller, deviceToken))
	return h
}

func (h *hawk) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// up starts the server where it was.
func (h *hawk) up() {
	h.t.Helper()
	var l net.Listener
	eventually(h.t, soon, "the server's address is free", func() (err error) {
		l, err = net.Listen("tcp", h.address)
		return err
	})
	s := &http.Server{Handler: h}
	h.mu.Lock()
	h.http = s
	h.mu.Unlock()
	go func() { _ = s.Serve(l) }() // until it is closed; its error says no more
}

// down ends it in the middle of whatever it does.
func (h *hawk) down() {
	h.mu.Lock()
	s := h.http
	h.http = nil
	h.mu.Unlock()
	if s != nil {
		_ = s.Close() // its error is one of connections that are cut
	}
}

// well ends the faults of the network.
func (h *hawk) well() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.random = nil
}

// ServeHTTP lets a request through, or does what bad networks do: they lose the
// request, or the answer, or half of it, or something on the way answers.
func (h *hawk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.timeless(r)
	const well = 99
	fault := well
	h.mu.Lock()
	if h.random != nil {
		if fault = h.random.IntN(25); fault < 4 {
			h.faults++
		}
	}
	h.mu.Unlock()
	switch fault {
	case 0:
		panic(http.ErrAbortHandler)
	case 1:
		w.WriteHeader(http.StatusBadGateway)
		return
	case 2, 3:
		rec := httptest.NewRecorder()
		h.server.ServeHTTP(rec, r)
		if fault == 3 {
			maps.Copy(w.Header(), rec.Header())
			w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		}
		panic(http.ErrAbortHandler)
	}
	if strings.Contains(r.URL.Path, "/artifacts/") {
		w = &counting{w, &h.sent}
	}
	h.server.ServeHTTP(w, r)
}

// timeless makes sure that a device tells the server no time: its clock may be wrong.
func (h *hawk) timeless(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil { // the device was killed
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if bytes.Contains(body, []byte(`"time`)) || r.Header.Get("Date") != "" {
		h.t.Errorf("the device tells a time: %s %s %s", r.Method, r.URL, body)
	}
}

// counting counts what goes over the network.
type counting struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// set makes a distribution set of hello that brings files, and returns its number.
func (h *hawk) set(version string, files map[string][]byte) int64 {
	h.t.Helper()
	m, err := h.op.AddModule(h.t.Context(), hawkbit.Module{Name: "hello", Version: version, Type: "application", Files: files})
	h.check(err)
	ds, err := h.op.AddSet(h.t.Context(), "hello", version, "app", m)
	h.check(err)
	return ds
}

// assign gives the device a set. Nobody is asked for a confirmation unless a says so.
func (h *hawk) assign(a hawkbit.Assignment) int64 {
	h.t.Helper()
	if a.Confirm == nil {
		a.Confirm = new(bool)
	}
	n, err := h.op.Assign(h.t.Context(), controller, a)
	h.check(err)
	if n == 0 {
		h.t.Fatalf("the server takes the set %d for assigned already", a.Set)
	}
	return n
}

// over waits until the server has done with an action, and returns how it ended.
// meanwhile runs in between.
func (h *hawk) over(action int64, meanwhile func()) string {
	h.t.Helper()
	var state hawkbit.ActionState
	eventually(h.t, atLast, fmt.Sprintf("action %d is over", action), func() (err error) {
		meanwhile()
		if state, err = h.op.Action(h.t.Context(), controller, action); err == nil && state.Active {
			err = fmt.Errorf("it is %s", state.Status)
		}
		return err
	})
	return state.Status
}

// told is what the server noted of an action.
func (h *hawk) told(action int64) string {
	h.t.Helper()
	entries, err := h.op.History(h.t.Context(), controller, action)
	h.check(err)
	s := ""
	for _, e := range entries {
		s += e.Type + ":"
		for _, m := range e.Messages {
			if m != nil {
				s += " " + *m + ";"
			}
		}
		s += "\n"
	}
	return s
}
