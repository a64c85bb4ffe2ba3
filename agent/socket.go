package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"tandem/agent/device"
	"tandem/internal/handover"
)

// The local interface: HTTP over a unix socket that belongs to the user the
// agent runs as. docs/openapi.json describes it.

// server is the local interface while it runs.
type server struct {
	http *http.Server
	name string
}

// close ends it. Where another program goes on, whoever was answered has the whole
// answer, and the socket stays.
func (s *server) close(anew bool) {
	if anew {
		ctx, end := context.WithTimeout(context.Background(), time.Second)
		defer end()
		s.http.Shutdown(ctx)
	}
	s.http.Close() // whoever is connected sees the end
	if !anew {
		os.Remove(s.name) // the next start does it too
	}
}

// serve opens the socket. It has its name once it belongs to nobody else.
func (a *Agent) serve() (*server, error) {
	name := a.cfg.Agent.Socket
	l := a.o.Listener
	if l == nil {
		var err error
		if l, err = listen(name); err != nil {
			return nil, fmt.Errorf("agent.socket: %w", err)
		}
	}
	if a.o.Listening != nil {
		a.o.Listening(l)
	}
	s := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second, ConnContext: handover.Context}
	go s.Serve(handover.Listen(l)) // until close; its error says no more than that
	return &server{s, name}, nil
}

// listen makes a socket of mode 0600, in place of what an agent before left there.
// It is made in a directory that only this user may enter, so that nobody connects
// to it before it has its mode, whatever the umask.
func listen(name string) (*net.UnixListener, error) {
	if info, err := os.Stat(name); err == nil && info.Mode()&os.ModeDevice != 0 {
		return nil, fmt.Errorf("%s is a device: expected a socket, or nothing", name)
	}
	private := name + ".new"
	if err := os.RemoveAll(private); err != nil {
		return nil, err
	}
	if err := os.Mkdir(private, 0o700); err != nil {
		return nil, err
	}
	defer os.Remove(private) // it is empty then; the next start removes what is left
	dir, err := os.Open(private)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	tmp := shortName(dir, "socket")
	l, err := net.Listen("unix", tmp)
	if err != nil {
		return nil, err
	}
	unix := l.(*net.UnixListener)
	unix.SetUnlinkOnClose(false) // by then the name may be another agent's
	err = os.Chmod(tmp, 0o600)
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		l.Close()
		return nil, errors.Join(err, os.Remove(tmp))
	}
	return unix, nil
}

// shortName names a file in an open directory: a socket's name has no room for
// a long path (sun_path of unix(7) has 108 bytes).
func shortName(dir *os.File, base string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), base)
}

// handler routes the requests.
func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	for route, h := range a.routes() {
		mux.HandleFunc(route, h)
	}
	return mux
}

// routes are the operations of docs/openapi.json.
func (a *Agent) routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /v1/status":          a.serveStatus,
		"GET /v1/events":          a.serveEvents,
		"GET /metrics":            a.serveMetrics,
		"POST /v1/check":          a.serveCheck,
		"POST /v1/update":         a.serveUpdate,
		"POST /v1/install":        a.serveInstall,
		"POST /v1/confirm":        a.serveConfirm,
		"POST /v1/rollback":       a.serveRollback,
		"POST /v1/confirm-update": a.serveConfirmUpdate,
		"POST /v1/cancel":         a.serveCancel,
		"GET /v1/agent":           a.serveAgent,
		"GET /v1/log":             a.serveLog,
		"GET /v1/history":         a.serveHistory,
		"GET /v1/aside":           a.serveAside,
		"POST /v1/recall":         a.serveRecall,
		"POST /v1/verify":         a.serveVerify,
		"POST /v1/doctor":         a.serveDoctor,
	}
}

// ask has the owner carry out f. It gives false if the request ended before.
func (a *Agent) ask(ctx context.Context, f func()) bool {
	done := make(chan struct{})
	select {
	case a.asked <- func() { f(); close(done) }:
		<-done
		return true
	case <-ctx.Done():
		return false
	}
}

// agentStatus is for the owner.
func (a *Agent) agentStatus() *device.AgentStatus {
	c := a.mem.Underway()
	s := &device.AgentStatus{
		Doing: a.summary(), Step: c.Step, App: c.App, Version: c.Version.String(), Waiting: a.waiting(c),
		LastPoll: a.now.LastPoll, NextPoll: a.now.NextPoll, PollError: a.now.PollError,
		LastScrub: a.mem.Scrubbed, NextScrub: a.now.NextScrub, ToReport: !a.now.NextReport.IsZero(), Boots: a.cfg.Agent.Boots,
	}
	if a.now.Pending != nil {
		s.PendingSince, s.NextHealth = a.now.PendingSince, a.now.Health
	}
	for i, w := range a.mem.Works {
		if w.Barred != "" {
			s.Barred = strings.TrimPrefix(s.Barred+"; "+w.Barred, "; ")
		}
		if w.Step != device.Idle {
			s.Releases = append(s.Releases, device.Underway{App: w.App, Version: w.Version.String(), Step: w.Step, Waiting: a.now.Waiting[i]})
		}
	}
	if a.network.job == "downloading" || a.sides.job == "installing" || a.sides.job == "obeying" {
		at, _ := a.ledger.snapshot()
		s.Progress = &at
	}
	if a.cfg.Source == nil {
		s.NextPoll = time.Time{}
	}
	return s
}

func (a *Agent) status(ctx context.Context, hook string) (*device.Status, error) {
	var own *device.AgentStatus
	if !a.ask(ctx, func() { own = a.agentStatus() }) {
		return nil, ctx.Err()
	}
	d, err := a.openIn(device.Look, hook)
	if err != nil {
		return nil, err
	}
	defer a.close(d)
	s, err := d.Status(ctx)
	if err != nil {
		return nil, err
	}
	s.Agent = own
	return s, nil
}

func (a *Agent) serveStatus(w http.ResponseWriter, r *http.Request) {
	s, err := a.status(r.Context(), r.Header.Get(HookHeader))
	if err != nil {
		a.refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(s) // an error is the client's end
}

// refuse answers a request that cannot be carried out.
func (a *Agent) refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(a.explain(err)) // an error is the client's end
}

func (a *Agent) explain(err error) device.Failure {
	switch {
	case err == nil:
		return device.Failure{}
	case a.o.Environment.Explain == nil:
		return device.Failure{Error: err.Error(), Exit: 1}
	}
	return a.o.Environment.Explain(err)
}

// serveEvents streams what happens, a JSON document to a line.
func (a *Agent) serveEvents(w http.ResponseWriter, r *http.Request) {
	events, stop := a.ledger.watchEvents()
	defer stop()
	flow := newStream(w)
	if !flow.flush() {
		return
	}
	for {
		select {
		case e := <-events:
			if !flow.send(e) {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// stream writes JSON documents, a line each.
type stream struct {
	enc *json.Encoder
	rc  *http.ResponseController
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &stream{json.NewEncoder(w), http.NewResponseController(w)}
}

func (s *stream) flush() bool       { return s.rc.Flush() == nil }
func (s *stream) send(doc any) bool { return s.enc.Encode(doc) == nil && s.flush() }
