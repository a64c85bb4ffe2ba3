package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/handover"
	"tandem/versioning"
)

// The local interface: HTTP over a unix socket that belongs to the user the
// agent runs as. docs/openapi.json describes it.

// order is a command that somebody gives the agent.
type order struct {
	doing string // for people
	run   func(ctx context.Context, d *device.Device) (doc any, err error)
	log   logrus.Hook
	told  func(device.Progress)
	done  chan orderResult // with room for one
}

type orderResult struct {
	doc any
	err error
}

// obey carries out the oldest order once nothing else is under way. A download
// gives way: it goes on later from where it was.
func (a *Agent) obey(ctx context.Context) time.Time {
	if a.network.job == "downloading" {
		a.network.cancel()
	}
	if a.sides.job != "" || a.network.job != "" {
		return time.Time{}
	}
	if now := a.clock(); now.Before(a.now.Busy) {
		return a.now.Busy
	}
	o := a.orders[0]
	a.orders = a.orders[1:]
	a.network.job = "obeying" // it talks to the source, too
	a.now.Obeying = o.doing
	a.mem.Ordered = true
	a.saveMemory()
	a.start(ctx, &a.sides, "obeying", func(ctx context.Context) func() {
		r, after := a.carryOut(ctx, o)
		return func() {
			a.network = lane{}
			if ctx.Err() == nil { // else the next start looks after the application
				a.mem.Ordered = false
				a.saveMemory()
			}
			after()
			o.done <- r
		}
	})
	return time.Time{}
}

// carryOut runs an order with the device opened for it.
func (a *Agent) carryOut(ctx context.Context, o *order) (orderResult, func()) {
	env := a.o.Environment
	env.Happened, env.Received = a.ledger.happened, a.ledger.received
	env.Progress = func(what string, done, total int64) {
		a.ledger.progress(what, done, total)
		o.told(device.Progress{What: what, Done: done, Total: total})
	}
	env.Log = logrus.New()
	env.Log.SetOutput(io.Discard)
	env.Log.SetLevel(logrus.DebugLevel)
	env.Log.AddHook(o.log)
	env.Log.AddHook(passOn{a.log})
	d, err := device.Open(a.cfg, env, device.Change)
	if err != nil {
		return orderResult{nil, err}, nothing
	}
	defer a.close(d)
	doc, err := o.run(ctx, d)
	pending, pendingErr := d.Pending()
	look, lookErr := d.Plan(ctx, backup.Options{})
	if lookErr != nil {
		look = nil
	}
	return orderResult{doc, err}, func() {
		if pendingErr == nil {
			a.pending(pending)
		}
		a.queueReport()
		a.watchConfig(look)
		a.now.NextPoll = a.clock() // what the agent was busy with may be of no use any more
	}
}

// passOn writes what one logger is told with another one, too.
type passOn struct{ to *logrus.Logger }

// Levels implements logrus.Hook.
func (passOn) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (p passOn) Fire(e *logrus.Entry) error {
	p.to.WithFields(e.Data).Log(e.Level, e.Message)
	return nil
}

// server is the local interface while it runs.
type server struct {
	http *http.Server
	name string
}

func (s *server) close() {
	s.http.Close()    // whoever is connected sees the end
	os.Remove(s.name) // the next start does it too
}

// serve opens the socket. It has its name once it belongs to nobody else.
func (a *Agent) serve() (*server, error) {
	name := a.cfg.Agent.Socket
	l, err := listen(name)
	if err != nil {
		return nil, fmt.Errorf("agent.socket: %w", err)
	}
	s := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second, ConnContext: handover.Context}
	go s.Serve(handover.Listen(l)) // until close; its error says no more than that
	return &server{s, name}, nil
}

// listen makes a socket of mode 0600, in place of what an agent before left there.
func listen(name string) (*net.UnixListener, error) {
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	short, tmp := shortName(dir, filepath.Base(name)), shortName(dir, filepath.Base(name)+".new")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", tmp)
	if err != nil {
		return nil, err
	}
	unix := l.(*net.UnixListener)
	unix.SetUnlinkOnClose(false) // by then the name may be another agent's
	err = os.Chmod(tmp, 0o600)
	if err == nil {
		err = os.Rename(tmp, short)
	}
	if err != nil {
		l.Close()
		return nil, err
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
		LastScrub: a.mem.Scrubbed, NextScrub: a.now.NextScrub, ToReport: !a.now.NextReport.IsZero(),
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

func (a *Agent) status(ctx context.Context) (*device.Status, error) {
	var own *device.AgentStatus
	if !a.ask(ctx, func() { own = a.agentStatus() }) {
		return nil, ctx.Err()
	}
	d, err := a.open(device.Look)
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
	s, err := a.status(r.Context())
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

// Line is a line of the answer to a command: one of Progress and Message while
// it runs, Result with Failure at its end.
type Line struct {
	Progress *device.Progress `json:"progress,omitempty"`
	Message  *Message         `json:"message,omitempty"`
	Result   json.RawMessage  `json:"result,omitempty"`
	Failure  *device.Failure  `json:"failure,omitempty"`
}

// Message is a line of the log.
type Message struct {
	Level  string            `json:"level"`
	Text   string            `json:"text"`
	Fields map[string]string `json:"fields,omitempty"`
}

// tell sends what an order logs to whoever gave it.
type tell chan<- Line

// Levels implements logrus.Hook.
func (tell) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (t tell) Fire(e *logrus.Entry) error {
	m := &Message{Level: e.Level.String(), Text: e.Message}
	for k, v := range e.Data {
		if m.Fields == nil {
			m.Fields = map[string]string{}
		}
		m.Fields[k] = fmt.Sprint(v)
	}
	t.send(Line{Message: m})
	return nil
}

// send never waits: what a slow client misses is in the log.
func (t tell) send(l Line) {
	select {
	case t <- l:
	default:
	}
}

// command runs an order and streams its answer. An order goes on when the one
// who gave it hangs up.
func (a *Agent) command(w http.ResponseWriter, r *http.Request, doing string, run func(ctx context.Context, d *device.Device) (any, error)) {
	lines := make(chan Line, 256)
	o := &order{doing: doing, run: run, log: tell(lines), done: make(chan orderResult, 1)}
	o.told = func(p device.Progress) { tell(lines).send(Line{Progress: &p}) }
	if !a.ask(r.Context(), func() { a.orders = append(a.orders, o) }) {
		return
	}
	flow := newStream(w)
	_ = flow.rc.EnableFullDuplex() // the bundle may come while its progress goes
	for {
		select {
		case l := <-lines:
			flow.send(l)
		case res := <-o.done:
			for len(lines) > 0 {
				flow.send(<-lines)
			}
			last := Line{}
			doc, err := json.Marshal(res.doc)
			if err == nil && string(doc) != "null" {
				last.Result = doc
			}
			f := a.explain(errors.Join(res.err, err))
			last.Failure = &f
			flow.send(last)
			return
		}
	}
}

func (a *Agent) serveCheck(w http.ResponseWriter, r *http.Request) {
	a.command(w, r, "asking the source", func(ctx context.Context, d *device.Device) (any, error) { return d.RunCheck(ctx) })
}

func (a *Agent) serveUpdate(w http.ResponseWriter, r *http.Request) {
	a.command(w, r, "updating", func(ctx context.Context, d *device.Device) (any, error) { return d.RunUpdate(ctx) })
}

func (a *Agent) serveConfirm(w http.ResponseWriter, r *http.Request) {
	a.command(w, r, "confirming", func(ctx context.Context, d *device.Device) (any, error) { return d.RunConfirm(ctx) })
}

// serveConfirmUpdate says yes or no to what the server wants a person to confirm.
func (a *Agent) serveConfirmUpdate(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	yes, reason := q.Get("deny") != "true", q.Get("reason")
	a.command(w, r, "telling the server", func(ctx context.Context, d *device.Device) (any, error) { return d.ConfirmUpdate(ctx, yes, reason) })
}

func (a *Agent) serveRollback(w http.ResponseWriter, r *http.Request) {
	var to versioning.Version
	if text := r.URL.Query().Get("to"); text != "" {
		var err error
		if to, err = versioning.Parse(text); err != nil {
			a.refuse(w, http.StatusBadRequest, err)
			return
		}
	}
	a.command(w, r, "rolling back", func(ctx context.Context, d *device.Device) (any, error) { return d.RunRollback(ctx, to) })
}

// serveInstall installs a bundle: the file that is handed over, the one that is
// named, or what is sent.
func (a *Agent) serveInstall(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	o := backup.InstallOptions{AllowDowngrade: q.Get("allow_downgrade") == "true", AllowRevoked: q.Get("allow_revoked") == "true", Reinstall: q.Get("reinstall") == "true"}
	open := Once(r.Body)
	if file := q.Get("file"); file != "" {
		if !filepath.IsAbs(file) {
			a.refuse(w, http.StatusBadRequest, fmt.Errorf("file: %q: expected an absolute path", file))
			return
		}
		open = func() (io.ReadCloser, error) { return os.Open(file) }
	}
	f := handover.File(r.Context())
	if f != nil {
		open = handedOver(f)
	}
	a.command(w, r, "installing a bundle", func(ctx context.Context, d *device.Device) (any, error) {
		if f != nil {
			defer f.Close()
		}
		return d.RunInstall(ctx, open, o)
	})
}

// handedOver reads a file that somebody else opened: from its beginning each time,
// unless it is no plain file.
func handedOver(f *os.File) func() (io.ReadCloser, error) {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return Once(f)
	}
	return func() (io.ReadCloser, error) {
		return struct {
			*io.SectionReader
			io.Closer
		}{io.NewSectionReader(f, 0, math.MaxInt64), io.NopCloser(nil)}, nil
	}
}

// Once gives a stream that cannot be read a second time.
func Once(r io.Reader) func() (io.ReadCloser, error) {
	used := false
	return func() (io.ReadCloser, error) {
		if used {
			return nil, errors.New("standard input can be read only once: give the bundle as a file")
		}
		used = true
		return io.NopCloser(r), nil
	}
}
