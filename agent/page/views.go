package page

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	g "maragu.dev/gomponents"

	"tandem/agent/device"
	"tandem/agent/device/doctor"
	"tandem/backup"
)

// What a browser gets beside the page: one style sheet and one script; and every text of the
// page in one file.
//
//go:embed page.css page.js texts.json
var files embed.FS

// readTexts returns the texts by their names.
func readTexts() (texts map[string]string, err error) {
	data, err := files.ReadFile("texts.json")
	if err == nil {
		err = json.Unmarshal(data, &texts)
	}
	return texts, err
}

func (p *Page) text(name string) string { return p.texts[name] }

func (p *Page) sheet(v *view) *sheet { return &sheet{v, p.texts} }

// routes is the page's handler.
func (p *Page) routes() http.Handler {
	mux := http.NewServeMux()
	for name, kind := range map[string]string{"page.css": "text/css", "page.js": "text/javascript"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) {
			data, _ := files.ReadFile(name) // it is built in
			w.Header().Set("Content-Type", kind+"; charset=utf-8")
			w.Write(data) // an error is the client's end
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		p.fail(w, http.StatusNotFound, "no_such_page")
	})
	mux.HandleFunc("GET /{$}", p.inside(false, p.showPage))
	mux.HandleFunc("GET /live", p.inside(true, p.showPage))
	mux.HandleFunc("GET /now", p.inside(true, p.showNow))
	mux.HandleFunc("POST /login", p.logIn)
	mux.HandleFunc("POST /logout", p.order(Look, p.logOut))
	mux.HandleFunc("POST /do/install", p.inside(false, p.upload))
	mux.HandleFunc("POST /do/cancel", p.order(Full, p.cancel))
	for action, o := range orders() {
		mux.HandleFunc("POST /do/"+action, p.order(o.role, func(w http.ResponseWriter, r *http.Request) {
			q := url.Values{}
			for _, name := range o.fields {
				q.Set(name, r.PostForm.Get(name))
			}
			for k, v := range o.query {
				q.Set(k, v)
			}
			t := p.tasks.begin(action, by(r))
			if t == nil {
				p.fail(w, http.StatusTooManyRequests, "busy")
				return
			}
			// It goes on when the browser goes away, as that of a command does.
			go p.tasks.run(context.WithoutCancel(r.Context()), t, o.path, q, nil)
			http.Redirect(w, r, "/#now", http.StatusSeeOther)
		}))
	}
	return p.guard(mux)
}

// order is what a button stands for.
type order struct {
	role   Role
	path   string
	fields []string
	query  map[string]string
}

func orders() map[string]order {
	return map[string]order{
		"check": {Full, "/v1/check", nil, nil}, "update": {Full, "/v1/update", nil, nil},
		"confirm": {Full, "/v1/confirm", nil, nil}, "rollback": {Full, "/v1/rollback", nil, nil},
		"verify": {Full, "/v1/verify", nil, nil}, "repair": {Full, "/v1/verify", nil, map[string]string{"repair": "true"}},
		"recall":         {Full, "/v1/recall", []string{"path", "bump"}, nil},
		"confirm-update": {Full, "/v1/confirm-update", nil, nil},
		"deny-update":    {Full, "/v1/confirm-update", []string{"reason"}, map[string]string{"deny": "true"}},
		"doctor":         {Look, "/v1/doctor", nil, nil},
	}
}

// by says who gives an order, for the history.
func by(r *http.Request) string {
	s := sessionOf(r)
	return fmt.Sprintf("page, %s", s.by.Unmap()) // in the history, which is not the page's alone
}

// ask reads a document from the agent.
func (p *Page) ask(ctx context.Context, path string, query url.Values, doc any) error {
	a := &answer{}
	call(ctx, p.o.API, a, http.MethodGet, path, query, "", nil)
	if a.status == http.StatusOK {
		return json.Unmarshal(a.rest.Bytes(), doc)
	}
	var f device.Failure
	if json.Unmarshal(a.rest.Bytes(), &f) == nil && f.Error != "" {
		return errors.New(f.Error)
	}
	return errors.New(p.text("no_agent"))
}

// view is what a sheet shows.
type view struct {
	Device  string
	Session struct {
		Role Role
		CSRF string
		Full bool
	}
	Status  *device.Status
	Problem string
	Sides   []side
	Now     now
	Aside   []backup.Aside
	Events  []device.Event
	Filter  filter
	Choices []string
	Doctor  *doctor.Diagnosis
}

type side struct {
	Name backup.SideName
	device.SideStatus
}

// now is what goes on.
type now struct {
	Agent *device.AgentStatus
	Tasks []Task
	Log   []LogLine
	Stamp string // another one: the rest of the page has changed
	Busy  bool
}

// LogLine is a line of the agent's log.
type LogLine struct {
	N     int       `json:"n"`
	Time  time.Time `json:"time"`
	Level string    `json:"level"`
	Text  string    `json:"text"`
}

// filter picks events.
type filter struct{ Command, Result, Words string }

func (f filter) fits(e *device.Event) bool {
	switch {
	case f.Command != "" && e.Command != f.Command:
		return false
	case f.Result == "failed" && e.Error == "", f.Result == "done" && e.Error != "":
		return false
	case f.Words == "":
		return true
	}
	all := strings.ToLower(strings.Join([]string{e.Command, e.Action, e.Reason, e.Version.String(), e.From.String(), e.Error, e.By}, "\n"))
	return strings.Contains(all, strings.ToLower(f.Words))
}

const maxEvents = 50 // that are shown

func (p *Page) now(ctx context.Context) now {
	n := now{Tasks: p.tasks.list()}
	var agent device.AgentStatus
	if p.ask(ctx, "/v1/agent", nil, &agent) == nil {
		n.Agent = &agent
	}
	var log struct {
		Lines []LogLine `json:"lines"`
	}
	_ = p.ask(ctx, "/v1/log", nil, &log) // without it the rest is shown
	n.Log = log.Lines
	last := 0
	if len(n.Log) > 0 {
		last = n.Log[len(n.Log)-1].N
	}
	done := 0
	for _, t := range n.Tasks {
		if t.Ended.IsZero() {
			n.Busy = true
		} else {
			done++
		}
	}
	doing := ""
	if n.Agent != nil {
		doing = n.Agent.Doing
		n.Busy = n.Busy || n.Agent.Progress != nil
	}
	n.Stamp = fmt.Sprintf("%d %d %d %s", last, len(n.Tasks), done, doing)
	return n
}

func (p *Page) view(r *http.Request) *view {
	v := &view{Device: p.o.Device}
	if s := sessionOf(r); s != nil {
		v.Session.Role, v.Session.CSRF, v.Session.Full = s.role, s.csrf, s.role == Full
	}
	return v
}

func (p *Page) showNow(w http.ResponseWriter, r *http.Request) {
	v := p.view(r)
	v.Now = p.now(r.Context())
	p.render(w, http.StatusOK, p.sheet(v).now())
}

func (p *Page) showPage(w http.ResponseWriter, r *http.Request) {
	ctx, v := r.Context(), p.view(r)
	v.Now = p.now(ctx)
	var s device.Status
	if err := p.ask(ctx, "/v1/status", nil, &s); err != nil {
		v.Problem = err.Error()
	} else {
		v.Status = &s
		for _, n := range []backup.SideName{backup.System, backup.UsrData} {
			v.Sides = append(v.Sides, side{n, s.Sides[n]})
		}
	}
	var aside struct {
		Aside []backup.Aside `json:"aside"`
	}
	if err := p.ask(ctx, "/v1/aside", nil, &aside); err != nil && v.Problem == "" {
		v.Problem = err.Error()
	}
	v.Aside = aside.Aside
	var history struct {
		Events []device.Event `json:"events"`
	}
	if err := p.ask(ctx, "/v1/history", nil, &history); err != nil && v.Problem == "" {
		v.Problem = err.Error()
	}
	q := r.URL.Query()
	v.Filter = filter{q.Get("command"), q.Get("result"), q.Get("words")}
	for i := len(history.Events) - 1; i >= 0; i-- {
		e := &history.Events[i]
		if !slices.Contains(v.Choices, e.Command) {
			v.Choices = append(v.Choices, e.Command)
		}
		if v.Filter.fits(e) && len(v.Events) < maxEvents {
			v.Events = append(v.Events, *e)
		}
	}
	slices.Sort(v.Choices)
	for _, t := range v.Now.Tasks {
		if t.Action == "doctor" && t.Result != nil {
			var d doctor.Diagnosis
			if json.Unmarshal(t.Result, &d) == nil {
				v.Doctor = &d
			}
			break
		}
	}
	p.render(w, http.StatusOK, p.sheet(v).page())
}

func (p *Page) showLogin(w http.ResponseWriter, status int, message string) {
	p.render(w, status, p.sheet(&view{Device: p.o.Device, Problem: message}).login())
}

// fail shows what went wrong, by the name of its text, with a way back.
func (p *Page) fail(w http.ResponseWriter, status int, name string) {
	p.render(w, status, p.sheet(&view{Device: p.o.Device, Problem: p.text(name)}).failed())
}

func (p *Page) render(w http.ResponseWriter, status int, sheet g.Node) {
	var b bytes.Buffer
	if err := sheet.Render(&b); err != nil {
		p.o.Log.WithError(err).Error("the page cannot be made")
		http.Error(w, p.text("no_page"), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	w.Write(b.Bytes()) // an error is the client's end
}

func (p *Page) logIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		p.showLogin(w, http.StatusBadRequest, p.text("wrong_password"))
		return
	}
	s, token, err := p.doors.enter(r.RemoteAddr, []byte(r.PostForm.Get("password")))
	log := p.o.Log.WithField("address", r.RemoteAddr)
	switch {
	case errors.Is(err, errTooMany):
		w.Header().Set("Retry-After", strconv.Itoa(int(tryEvery.Seconds())))
		p.showLogin(w, http.StatusTooManyRequests, p.text("too_many"))
	case errors.Is(err, errWrong):
		log.Warn("a wrong password was given on the page")
		p.showLogin(w, http.StatusUnauthorized, p.text("wrong_password"))
	case err != nil:
		log.WithError(err).Warn("nobody can log in on the page")
		p.showLogin(w, http.StatusInternalServerError, p.text("no_password"))
	default:
		log.WithField("role", s.role).Info("somebody logged in on the page")
		p.setCookie(w, r, token)
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

func (p *Page) logOut(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(p.cookieName(r)); err == nil {
		p.doors.leave(c.Value)
	}
	p.setCookie(w, r, "")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// cancel is answered at once: it ends what the agent is doing.
func (p *Page) cancel(w http.ResponseWriter, r *http.Request) {
	a := &answer{}
	call(r.Context(), p.o.API, a, http.MethodPost, "/v1/cancel", nil, by(r), nil)
	http.Redirect(w, r, "/#now", http.StatusSeeOther)
}
