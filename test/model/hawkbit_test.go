package model

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"tandem/backup"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/internal/fsys/memfs/search"
	"tandem/ota"
	source "tandem/ota/hawkbit"
	"tandem/packaging/bundle"
	kinds "tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/test/hawkbit"
	"tandem/versioning"
)

// desk is a hawkBit server that wants the device to have 1.1.0. All it remembers is what
// it was asked, on a disk of the machine that loses nothing: a copy of the machine has a
// server of its own.
type desk struct {
	m  *memfs.Machine
	s  *hawkbit.Server
	op *hawkbit.Operator
}

const (
	deskDisk = "server"
	deskLog  = "log"
	action   = 1
)

// asked is a request of the device.
type asked struct{ Method, URL, Body string }

// handled gives h as a transport.
type handled struct{ h http.Handler }

func (t handled) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	t.h.ServeHTTP(rec, req)
	return rec.Result(), nil
}

// newDesk is the server as it is by all that it was asked.
func newDesk(machine *memfs.Machine) (*desk, error) {
	log, err := fsys.ReadFile(machine.Disk(deskDisk).FS(), deskLog, 1<<20)
	if err != nil {
		return nil, err
	}
	s := hawkbit.New(hawkbit.Options{Now: func() time.Time { return time.Unix(1e9, 0) }, Random: func() float64 { return 0.5 }})
	op := &hawkbit.Operator{URL: "http://server", Client: &http.Client{Transport: handled{s}}}
	ctx := context.Background()
	must(op.AddTarget(ctx, "model", "token"))
	m := get(op.AddModule(ctx, hawkbit.Module{Name: "hello", Version: "1.1.0", Type: "application", Files: map[string][]byte{"hello.tandem": bundleOf("1.1.0")}}))
	ds := get(op.AddSet(ctx, "hello", "1.1.0", "app", m))
	get(op.Assign(ctx, "model", hawkbit.Assignment{Set: ds, Type: "forced"}))
	lines := json.NewDecoder(bytes.NewReader(log))
	for lines.More() {
		var a asked
		must(lines.Decode(&a))
		get(handled{s}.RoundTrip(a.request()))
	}
	return &desk{machine, s, op}, nil
}

func (a asked) request() *http.Request {
	req := get(http.NewRequest(a.Method, a.URL, strings.NewReader(a.Body)))
	req.Header.Set("Authorization", "TargetToken token")
	req.Header.Set("Content-Type", "application/json")
	return req
}

// RoundTrip implements http.RoundTripper.
func (k *desk) RoundTrip(req *http.Request) (*http.Response, error) {
	if k.m.Off() {
		return nil, errors.New("the power is off")
	}
	a := asked{Method: req.Method, URL: req.URL.String()}
	if req.Body != nil {
		a.Body = string(get(io.ReadAll(req.Body)))
	}
	again := a.request()
	again.Header.Set("Range", req.Header.Get("Range"))
	resp := get(handled{k.s}.RoundTrip(again))
	if !strings.Contains(a.URL, "/artifacts/") {
		must(k.m.Disk(deskDisk).Damage(deskLog, func(b []byte) []byte { return append(append(b, get(json.Marshal(a))...), '\n') }))
	}
	return resp, nil
}

const (
	unwell      = "it says that it is not well"
	historyFile = "history" // of the model: why 1.1.0 was gone back from
)

// obey is one round of a device with its server: it asks, and does what is wanted. A version
// that was installed is confirmed, or gone back from.
func (d *device) obey(at *desk, well bool) (over bool, err error) {
	ctx := context.Background()
	r, state := d.reconciler(), d.given(d.state())
	look, err := r.Look(ctx, backup.Options{})
	if err != nil {
		return false, err
	}
	pending, err := r.Pending()
	if err != nil {
		return false, err
	}
	if pending != nil {
		return false, d.prove(well)
	}
	bad, err := r.Revoked()
	if err != nil {
		return false, err
	}
	unit := source.Unit{Kind: kinds.App, Name: "hello", Installed: look.Version, Failed: map[string]string{}}
	for _, v := range bad {
		unit.Failed[v.String()] = "revoked here"
		if p := r.GivenUp(); p != nil {
			unit.Failed[v.String()] = p.Failed
		} else if why, err := fsys.ReadFile(fsys.ReadAgain(state), historyFile, 1<<10); err == nil {
			unit.Failed[v.String()] = string(why)
		} else if fsys.IsTransient(err) {
			return false, err
		}
	}
	server, err := source.New(source.Options{
		Origin: "http://server", Tenant: "DEFAULT", Controller: "model", Client: &http.Client{Transport: at}, FS: state, Log: quiet(),
		Fetcher: func(*http.Client) *ota.Fetcher { return nil }, Inspect: d.head, Compatible: []string{"model"},
		Code: func(error) int { return 1 }, After: func(time.Duration) (<-chan time.Time, func()) { return nil, func() {} },
	})
	if err != nil {
		return false, err
	}
	v, err := server.Sync(ctx, source.Facts{Units: []source.Unit{unit}, Attributes: map[string]string{"version": look.Version.String()}})
	if err != nil || len(v.Offers) == 0 {
		return err == nil && v.Action == 0, err
	}
	if offered := v.Offers[0].Release.Version; offered.Compare(look.Version) == 0 || offered.In(bad) {
		panic(fmt.Sprintf("%s is to be installed again; revoked: %v", offered, bad))
	}
	if err := d.install("1.1.0", backup.InstallOptions{Pending: true}); err != nil {
		return false, err
	}
	return false, d.boot()
}

// prove is what the agent does with a version that waits.
func (d *device) prove(well bool) error {
	if well {
		return d.confirm()
	}
	r := d.reconciler()
	if err := r.GiveUp(unwell); err != nil {
		return err
	}
	if _, _, err := r.Rollback(context.Background(), parse("1.0.0"), func(_, _ versioning.Version) {}); err != nil {
		return err
	}
	if err := d.boot(); err != nil {
		return err
	}
	return d.forget()
}

// forget has the history know why a version was left, and only then forgets it.
func (d *device) forget() error {
	r, state := d.reconciler(), d.given(d.state())
	if p := r.GivenUp(); p != nil {
		if err := fsys.WriteFile(state, historyFile+".tmp", []byte(p.Failed), 0o600); err != nil {
			return err
		}
		if err := state.Rename(historyFile+".tmp", historyFile); err != nil {
			return err
		}
		if err := state.SyncDir("."); err != nil {
			return err
		}
	}
	return r.ClearPending()
}

// head reads the head of a bundle, as a device does.
func (d *device) head(_ context.Context, r io.Reader) (*source.Head, error) {
	v, err := trust.New(trust.Options{Time: d.m.Now(), AllowUnsigned: true})
	if err != nil {
		return nil, err
	}
	h, err := bundle.Look(r, v, nil)
	if err != nil {
		return nil, err
	}
	m := h.Manifest()
	return &source.Head{Kind: kinds.App, App: m.App, Version: m.Version, Compatible: m.Compatible, Size: h.Size(), Cost: h.Size(), Release: h.Release(), Length: h.Length()}, nil
}

// serve takes rounds until the server wants nothing more.
func (d *device) serve(well bool) error {
	at, err := newDesk(d.m)
	if err != nil {
		return err
	}
	for range 8 {
		if over, err := d.obey(at, well); err != nil || over {
			return err
		}
	}
	return errors.New("the action does not come to its end")
}

// actionSearch is the search of an action of a hawkBit server: it ends as it must, with its
// cause, and nothing is installed twice.
func actionSearch(well bool) func(flavour string) *search.Case {
	name, goal, status, tells := "an action of a server", "1.1.0", "finished", "hello 1.1.0: installed"
	if !well {
		name, goal, status, tells = "an action that brings what does not work", "1.0.0", "error", "hello 1.1.0: "+unwell
	}
	return func(flavour string) *search.Case {
		sc := &scenario{
			name: name, goal: goal,
			prepare: then(installed("1.0.0"), func(d *device) {
				fs := d.m.NewDisk(deskDisk, memfs.Options{}).FS()
				must(fsys.WriteFile(fs, deskLog, nil, 0o600))
				must(fs.Sync())
			}),
			world:   func(w *world) { w.versions = []string{"1.0.0", "1.1.0"} },
			work:    func(d *device) error { return d.serve(well) },
			recover: func(d *device) error { return errors.Join(d.boot(), d.serve(well)) },
			after: func(d *device, _ string) error {
				op, ctx := get(newDesk(d.m)).op, context.Background()
				a, err := op.Action(ctx, "model", action)
				if err != nil || a.Active || a.Status != status {
					return fmt.Errorf("the action is %s, active %v, %w: expected %s", a.Status, a.Active, err, status)
				}
				told := ""
				for _, e := range get(op.History(ctx, "model", action)) {
					for _, m := range e.Messages {
						if m != nil {
							told += *m + "\n"
						}
					}
				}
				if strings.Count(told, tells) != 1 {
					return fmt.Errorf("the server was not told %q once:\n%s", tells, told)
				}
				return nil
			},
		}
		c := sc.search(flavour)
		c.Expect = func(*memfs.Machine) string { return sc.goal } // whatever happened, the next round gets there
		c.Done, c.Failed = nil, nil
		return c
	}
}
