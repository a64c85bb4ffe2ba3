package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent/device"
	"tandem/agent/device/doctor"
	"tandem/agent/page"
	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/disclose"
)

// What the interface tells and does for a person who looks at the device from afar.

// keptLines is how many lines of its log the agent remembers.
const keptLines = 200

// journal remembers the last lines of the agent's log.
type journal struct {
	mu    sync.Mutex
	lines []page.LogLine
}

// Levels implements logrus.Hook.
func (*journal) Levels() []logrus.Level { return logrus.AllLevels[:logrus.InfoLevel+1] }

// Fire implements logrus.Hook.
func (j *journal) Fire(e *logrus.Entry) error {
	text := e.Message
	for _, k := range slices.Sorted(maps.Keys(e.Data)) {
		text += fmt.Sprintf(" %s=%v", k, e.Data[k])
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 1
	if len(j.lines) > 0 {
		n = j.lines[len(j.lines)-1].N + 1
	}
	j.lines = append(j.lines, page.LogLine{N: n, Time: e.Time, Level: e.Level.String(), Text: text})
	if len(j.lines) > keptLines {
		j.lines = append([]page.LogLine(nil), j.lines[len(j.lines)-keptLines:]...)
	}
	return nil
}

func (j *journal) all() []page.LogLine {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]page.LogLine{}, j.lines...)
}

// The documents of the interface alone.
type (
	// Log is what GET /v1/log answers.
	Log struct {
		Lines []page.LogLine `json:"lines"` // the last ones, oldest first
	}
	// History is what GET /v1/history answers.
	History struct {
		Events []device.Event `json:"events"` // oldest first
	}
	// Asides is what GET /v1/aside answers.
	Asides struct {
		Aside []backup.Aside `json:"aside"`
	}
)

func answerWith(w http.ResponseWriter, doc any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(doc) // an error is the client's end
}

// serveAgent tells what the agent does, without a look at the sides.
func (a *Agent) serveAgent(w http.ResponseWriter, r *http.Request) {
	var s *device.AgentStatus
	if a.ask(r.Context(), func() { s = a.agentStatus() }) {
		answerWith(w, s)
	}
}

func (a *Agent) serveLog(w http.ResponseWriter, r *http.Request) {
	answerWith(w, Log{a.journal.all()})
}

// looked answers with what a device that is opened to look tells.
func (a *Agent) looked(w http.ResponseWriter, r *http.Request, look func(d *device.Device) (any, error)) {
	d, err := a.openIn(device.Look, r.Header.Get(HookHeader))
	if err != nil {
		a.refuse(w, http.StatusInternalServerError, err)
		return
	}
	defer a.close(d)
	doc, err := look(d)
	if err != nil {
		a.refuse(w, http.StatusInternalServerError, err)
		return
	}
	answerWith(w, doc)
}

func (a *Agent) serveHistory(w http.ResponseWriter, r *http.Request) {
	a.looked(w, r, func(d *device.Device) (any, error) {
		events, err := d.History()
		return History{append([]device.Event{}, events...)}, err
	})
}

func (a *Agent) serveAside(w http.ResponseWriter, r *http.Request) {
	a.looked(w, r, func(d *device.Device) (any, error) {
		list, err := d.Aside()
		if errors.Is(err, backup.ErrUnavailable) {
			err = nil // the page says so of the side
		}
		return Asides{append([]backup.Aside{}, list...)}, err
	})
}

// serveRecall brings back what was put aside.
func (a *Agent) serveRecall(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var path backup.Path
	err := path.UnmarshalText([]byte(q.Get("path")))
	if err == nil {
		err = manifest.CheckPath(path)
	}
	if err != nil {
		a.refuse(w, http.StatusBadRequest, err)
		return
	}
	a.command(w, r, "bringing back "+path.String(), func(ctx context.Context, d *device.Device) (any, error) {
		return d.RunRecall(ctx, path, q.Get("bump") == "true")
	})
}

// serveVerify hashes both sides, and with repair mends what is damaged.
func (a *Agent) serveVerify(w http.ResponseWriter, r *http.Request) {
	repair := r.URL.Query().Get("repair") == "true"
	doing := map[bool]string{false: "verifying", true: "verifying and repairing"}[repair]
	a.command(w, r, doing, func(ctx context.Context, d *device.Device) (any, error) { return d.RunVerify(ctx, repair) })
}

// serveDoctor looks for what would go wrong.
func (a *Agent) serveDoctor(w http.ResponseWriter, r *http.Request) {
	a.command(w, r, "looking for what would go wrong", func(ctx context.Context, d *device.Device) (any, error) {
		p := doctor.Patient{
			Config: a.cfg, Device: d, Built: a.o.Environment.Built, Now: a.clock().In(a.o.Zone), EUID: a.o.Environment.EUID,
			Root: "/", Agent: true, Explain: a.explain,
		}
		if a.cfg.Source != nil {
			p.Answer, p.AnswerErr = d.RunCheck(ctx)
		}
		doc, err := p.Examine(ctx)
		doc.Failure = a.explain(err)
		fit := disclose.Copy(disclose.New(a.cfg.Secrets()), "doctor", *doc)
		return &fit, err
	})
}

// startPage serves the technician's page beside the agent, until ctx ends.
func (a *Agent) startPage(ctx context.Context) error {
	if a.cfg.Page == nil {
		return nil
	}
	p, err := page.New(page.Options{
		Config: *a.cfg.Page, State: a.cfg.Agent.State, API: a.handler(), Device: a.cfg.Device.ID, Log: a.log,
		Now: time.Now, Random: a.o.Environment.Random, After: a.o.After,
	})
	if err != nil {
		return err
	}
	a.jobs.Go(func() { p.Run(ctx) })
	return nil
}
