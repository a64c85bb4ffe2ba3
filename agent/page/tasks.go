package page

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"tandem/agent/device"
)

// ByHeader names the one for whom a request is made: it stands in the history.
const ByHeader = "Tandem-By"

// Task is an order that somebody gave on the page.
type Task struct {
	N       int    // it tells them apart
	Action  string // such as update
	By      string
	Started time.Time
	Ended   time.Time // zero while it runs
	Said    []string  // the last lines
	Result  json.RawMessage
	Failure *device.Failure
}

const (
	maxTasks = 5  // that are remembered
	maxOpen  = 3  // that wait or run
	maxSaid  = 20 // lines of one
)

// tasks are the orders that were given here. They go on when the browser goes away.
type tasks struct {
	api  http.Handler
	now  func() time.Time
	text func(name string) string

	mu   sync.Mutex
	last int
	all  []*Task // newest first
}

// begin makes a task; nil if too many are open.
func (t *tasks) begin(action, by string) *Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	open := 0
	for _, o := range t.all {
		if o.Ended.IsZero() {
			open++
		}
	}
	if open >= maxOpen {
		return nil
	}
	t.last++
	n := &Task{N: t.last, Action: action, By: by, Started: t.now()}
	t.all = append([]*Task{n}, t.all...)
	for i := len(t.all) - 1; i > 0 && len(t.all) > maxTasks; i-- {
		if !t.all[i].Ended.IsZero() {
			t.all = append(t.all[:i], t.all[i+1:]...)
		}
	}
	return n
}

// list returns copies, newest first.
func (t *tasks) list() []Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Task, len(t.all))
	for i, o := range t.all {
		list[i] = *o
		list[i].Said = append([]string(nil), o.Said...)
	}
	return list
}

// line is a line of the agent's answer to an order.
type line struct {
	Message *struct{ Level, Text string } `json:"message"`
	Result  json.RawMessage               `json:"result"`
	Failure *device.Failure               `json:"failure"`
}

// run has the agent carry a task out, until it is done.
func (t *tasks) run(ctx context.Context, n *Task, path string, query url.Values, body io.Reader) {
	a := &answer{line: func(l line) {
		t.mu.Lock()
		defer t.mu.Unlock()
		switch {
		case l.Message != nil && l.Message.Level != "debug" && l.Message.Level != "trace":
			n.Said = append(n.Said, l.Message.Text)
			n.Said = n.Said[max(0, len(n.Said)-maxSaid):]
		case l.Failure != nil:
			n.Result, n.Failure = l.Result, l.Failure
		}
	}}
	call(ctx, t.api, a, http.MethodPost, path, query, n.By, body)
	t.mu.Lock()
	defer t.mu.Unlock()
	n.Ended = t.now()
	if n.Failure == nil {
		n.Failure = &device.Failure{Error: t.text("agent_ended"), Exit: 1}
		var f device.Failure
		if a.status != http.StatusOK && json.Unmarshal(a.rest.Bytes(), &f) == nil && f.Error != "" {
			n.Failure = &f
		}
	}
}

// call makes a request to the agent's interface.
func call(ctx context.Context, api http.Handler, w http.ResponseWriter, method, path string, query url.Values, by string, body io.Reader) {
	if body == nil {
		body = http.NoBody
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://agent"+path+"?"+query.Encode(), body)
	if err != nil {
		return // the answer is empty, which says that there was none
	}
	r.RequestURI = r.URL.RequestURI()
	r.Header.Set(ByHeader, by)
	api.ServeHTTP(w, r)
}

// answer takes the agent's answer, a line at a time where they are lines. It keeps what
// is not one of an order.
type answer struct {
	status int
	header http.Header
	rest   bytes.Buffer
	line   func(line)
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Flush implements http.Flusher.
func (a *answer) Flush() { a.WriteHeader(http.StatusOK) }

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.rest.Write(b)
	for a.line != nil && a.status == http.StatusOK {
		text, err := a.rest.ReadBytes('\n')
		if err != nil {
			a.rest.Write(text) // the rest of the line is to come
			break
		}
		var l line
		if json.Unmarshal(text, &l) == nil {
			a.line(l)
		}
	}
	return len(b), nil
}

// Summary says in a line what came of a task that was done.
func (t Task) Summary() string {
	var doc struct {
		Version string `json:"version"`
		Action  string `json:"action"`
	}
	if json.Unmarshal(t.Result, &doc) != nil {
		return ""
	}
	return strings.TrimSpace(doc.Action + " " + doc.Version)
}
