package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"tandem/agent/device"
	"tandem/agent/page"
	"tandem/backup"
	"tandem/internal/handover"
	"tandem/versioning"
	"time"

	"github.com/sirupsen/logrus"
)

// order is a command that somebody gives the agent.
type order struct {
	doing string // for people
	by    string // who gave it, for the history
	run   func(ctx context.Context, d *device.Device) (doc any, err error)
	log   logrus.Hook
	told  func(device.Progress)
	done  chan orderResult // with room for one
}

// updating is what an order does that asks for an update.
const updating = "updating"

type orderResult struct {
	doc any
	err error
}

// obey carries out the oldest order once nothing else is under way. A download
// gives way: it goes on later from where it was.
func (a *Agent) obey(ctx context.Context) time.Time {
	if a.network.job == "downloading" {
		a.network.cancel(nil)
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
	a.start(ctx, &a.sides, "obeying", func(ctx context.Context) func() {
		r, after := a.carryOut(ctx, o)
		return func() {
			a.network = lane{}
			after()
			if errors.Is(context.Cause(ctx), device.ErrCancelled) {
				r = orderResult{nil, device.ErrCancelled}
			}
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
	env.By = o.by
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
	anew := d.Renewed()
	pending, pendingErr := d.Pending()
	look, lookErr := d.Plan(ctx, backup.Options{})
	if lookErr != nil {
		look = nil
	}
	return orderResult{doc, err}, func() {
		a.anew = a.anew || anew
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

// HookHeader names the hook that a request comes from; it is device.HookVariable
// of the one who asks.
const HookHeader = "Tandem-Hook"

// inHook refuses what a hook asks of the agent that waits for it to end.
func (a *Agent) inHook(w http.ResponseWriter, r *http.Request) bool {
	running := device.HookRunning(a.cfg)
	if running == nil || r.Header.Get(HookHeader) != running.Hook {
		return false
	}
	a.refuse(w, http.StatusConflict, running.Busy())
	return true
}

// command runs an order and streams its answer. An order goes on when the one
// who gave it hangs up; serveCancel ends it.
func (a *Agent) command(w http.ResponseWriter, r *http.Request, doing string, run func(ctx context.Context, d *device.Device) (any, error)) {
	if a.inHook(w, r) {
		return
	}
	lines := make(chan Line, 256)
	o := &order{doing: doing, by: r.Header.Get(page.ByHeader), run: run, log: tell(lines), done: make(chan orderResult, 1)}
	o.told = func(p device.Progress) { tell(lines).send(Line{Progress: &p}) }
	if !a.ask(r.Context(), func() { a.orders = append(a.orders, o) }) {
		return
	}
	flow := newStream(w)
	_ = flow.rc.EnableFullDuplex() // the bundle may come while its progress goes
	flow.flush()                   // from here on it is known that the agent has the order
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
	a.command(w, r, updating, func(ctx context.Context, d *device.Device) (any, error) { return d.RunUpdate(ctx) })
}

// serveConfirm confirms the version that waits for it; at once, where its start or
// health hook runs just now.
func (a *Agent) serveConfirm(w http.ResponseWriter, r *http.Request) {
	if version, said, err := device.Say(a.cfg); said && err == nil {
		doc, err := json.Marshal(device.Said(version))
		if err == nil {
			newStream(w).send(Line{Result: doc, Failure: &device.Failure{}})
			return
		}
	}
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
	o := backup.InstallOptions{AllowDowngrade: q.Get("allow_downgrade") == "true", AllowRevoked: q.Get("allow_revoked") == "true", Reinstall: q.Get("reinstall") == "true", Tight: q.Get("tight") == "true"}
	file := q.Get("file")
	if file != "" && !filepath.IsAbs(file) {
		a.refuse(w, http.StatusBadRequest, fmt.Errorf("file: %q: expected an absolute path", file))
		return
	}
	f := handover.File(r.Context())
	a.command(w, r, "installing a bundle", func(ctx context.Context, d *device.Device) (any, error) {
		rc := http.NewResponseController(w)
		defer context.AfterFunc(ctx, func() { rc.SetReadDeadline(time.Unix(1, 0)) })() // nothing of the body is waited for
		open := Once(func() io.ReadCloser { return r.Body })
		if file != "" {
			open = func() (io.ReadCloser, error) { return os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) } // a FIFO would wait
		}
		if f != nil {
			defer f.Close()
			open = handedOver(f)
		}
		return d.RunInstall(ctx, open, o)
	})
}

// handedOver reads a plain file that somebody else opened, from its beginning each time.
func handedOver(f *os.File) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		return struct {
			*io.SectionReader
			io.Closer
		}{io.NewSectionReader(f, 0, math.MaxInt64), io.NopCloser(nil)}, nil
	}
}

// Once gives a stream that cannot be read a second time.
func Once(begin func() io.ReadCloser) func() (io.ReadCloser, error) {
	used := false
	return func() (io.ReadCloser, error) {
		if used {
			return nil, errors.New("standard input can be read only once: give the bundle as a file")
		}
		used = true
		return begin(), nil
	}
}

// Stream reads a file that may keep its reader waiting, such as a pipe. ctx ends that.
func Stream(ctx context.Context, f io.Reader) io.ReadCloser {
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { in.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.Copy(in, f)
		in.CloseWithError(err)
	}()
	return out
}

// Cancelled is the document of cancel.
type Cancelled struct {
	Cancelled []string `json:"cancelled"` // what was under way, or waited for its turn
	device.Failure
}

// serveCancel ends commands that were given to the agent, and what it does by
// itself about a release. What is in place already stays.
func (a *Agent) serveCancel(w http.ResponseWriter, r *http.Request) {
	doc := Cancelled{Cancelled: []string{}}
	if !a.ask(r.Context(), func() { doc.Cancelled = append(doc.Cancelled, a.cancel()...) }) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(doc) // an error is the client's end
}

// cancel is for the owner.
func (a *Agent) cancel() (what []string) {
	update := false
	for _, o := range a.orders {
		what = append(what, o.doing)
		update = update || o.doing == updating
		o.done <- orderResult{nil, device.ErrCancelled}
	}
	a.orders = nil
	for _, l := range []*lane{&a.sides, &a.network} {
		if l.cancel == nil {
			continue
		}
		switch l.job {
		case "obeying":
			what = append(what, a.now.Obeying)
			update = update || a.now.Obeying == updating
		case "installing", "downloading":
			what = append(what, l.job+" "+l.about.App+" "+l.about.Version.String())
		default:
			continue
		}
		l.cancel(device.ErrCancelled)
	}
	if update { // or the agent would go on with it by itself
		a.mem.LeaveAlone(a.clock())
		a.saveMemory()
	}
	return what
}
