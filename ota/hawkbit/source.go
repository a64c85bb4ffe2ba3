package hawkbit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Options is what a Source works with. All but AutoConfirm, Attributes, SetName,
// Vouch and Cache are needed.
type Options struct {
	Origin     string // the server's address, with a path if it lies below one
	Tenant     string
	Controller string // the device's name there
	// Client shows the token to the origin and to nobody else.
	Client *http.Client
	// FS is the agent's state directory.
	FS  fsys.FS
	By  record.Author
	Log logrus.FieldLogger
	// Fetcher makes what fetches bundles with a client.
	Fetcher func(*http.Client) *ota.Fetcher
	// Inspect reads and verifies the head of a bundle, and no more than that. An
	// error that is not one of reading r says why the device must not take it.
	Inspect func(ctx context.Context, r io.Reader) (*Head, error)
	// Vouch asks elsewhere whether a release may be taken. An error that wraps
	// ota.ErrUnreachable says that it is not known; any other one is a no.
	Vouch func(ctx context.Context, h *Head) error
	// Code is the exit code that a command would have with an error.
	Code func(error) int
	// After gives a channel that receives once d has passed, and what stops it.
	After func(d time.Duration) (c <-chan time.Time, stop func())

	Compatible  []string // the hardware names that the device answers to
	AutoConfirm bool
	Attributes  map[string]string // that an operator adds
	SetName     string            // of the distribution sets of the application; "": as a module's metadata says
	Cache       *Cache
}

func (o *Options) validate() error {
	missing := ""
	for name, is := range map[string]bool{
		"Origin": o.Origin != "", "Tenant": o.Tenant != "", "Controller": o.Controller != "", "Client": o.Client != nil, "FS": o.FS != nil,
		"Log": o.Log != nil, "Fetcher": o.Fetcher != nil, "Inspect": o.Inspect != nil, "Code": o.Code != nil, "After": o.After != nil,
	} {
		if !is && (missing == "" || name < missing) {
			missing = name
		}
	}
	if missing != "" {
		return fmt.Errorf("hawkbit: %s is missing", missing)
	}
	return nil
}

// Source is a hawkBit server as a device sees it. One may be at work at a time.
type Source struct {
	o Options
	c client
}

// New makes a Source. It reaches for nothing yet.
func New(o Options) (*Source, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Cache == nil { // one command: what the agent told may be relied on
		o.Cache = &Cache{told: true}
	}
	return &Source{o, client{o.Client, newAddress(o.Origin, o.Tenant, o.Controller), o.Cache}}, nil
}

// View is what a server wants of the device now.
type View struct {
	Sleep time.Duration // until the next poll; 0: it did not say
	// Action is the number of the action that is open; 0: none.
	Action int64
	// Offers is what is to be downloaded and installed, in this order.
	Offers []ota.Offer
	Urgent bool   // it is to be installed whatever the hour
	Hold   string // why nothing is to be installed yet; "" if it may
	// Keep says that what was downloaded is to stay, though nothing is offered:
	// the server wanted it here.
	Keep bool
	// Waiting is the action that a person is to confirm; nil: none.
	Waiting *Waiting
}

// maxRounds bounds how many actions are dealt with in one Sync.
const maxRounds = 8

// maxMisses is how often an artifact may not be there until that is the outcome.
const maxMisses = 3

// ErrWithdrawn says that the server does not offer any more what is downloaded.
var ErrWithdrawn = errors.New("the server has withdrawn it")

// Sync talks everything over with the server: it reports what became of the last
// action, answers what was called off or is to be confirmed, reads what is new,
// and tells what has changed of the device.
//
// What became of an action, and that it was told, is durable before the next
// thing is done. After an error or a power cut the next Sync goes on from there:
// an outcome is told again until the server has it, and nothing is begun that was
// told to be over.
func (s *Source) Sync(ctx context.Context, f Facts) (*View, error) {
	st, err := s.load()
	if err != nil {
		return nil, err
	}
	var b *base
	var w wanted
	for round := 0; ; round++ {
		if err := s.settle(ctx, st, &f); err != nil {
			return nil, err
		}
		if b, err = s.c.poll(ctx); err != nil {
			return nil, err
		}
		if w, err = want(b); err != nil {
			return nil, fmt.Errorf("%w: poll: %w", ota.ErrRefused, err)
		}
		again, err := s.carryOut(ctx, st, decide(st.Action, w, &f), &f)
		if err != nil {
			return nil, err
		}
		if !again || round == maxRounds {
			break
		}
	}
	if err := s.tellFetched(ctx, st); err != nil {
		return nil, err
	}
	if err := s.tell(ctx, st, &f, b, w == wanted{}); err != nil {
		return nil, err
	}
	return s.view(st, b.sleep(), &f), nil
}

func want(b *base) (w wanted, err error) {
	for rel, into := range map[string]*offered{"cancelAction": &w.cancel, "deploymentBase": &w.deploy, "confirmationBase": &w.confirm} {
		if *into, err = b.action(rel); err != nil {
			return w, err
		}
	}
	return w, nil
}

// load reads the state. What another server is owed, or another name of the device,
// is nothing to this one: its actions have numbers of their own.
func (s *Source) load() (*State, error) {
	st, err := Load(s.o.FS, s.o.Log)
	if err != nil {
		return nil, fmt.Errorf("the state of the server's action could not be read: %w", err)
	}
	if st.Server != s.c.at.base() {
		return &State{Server: s.c.at.base()}, nil
	}
	return st, nil
}

// save makes the state durable.
func (s *Source) save(st *State) error {
	if err := st.save(s.o.FS, s.o.By); err != nil {
		return fmt.Errorf("the state of the server's action could not be written: %w", err)
	}
	return nil
}

// settle reads off the device what became of the action, and tells the server
// until it knows.
func (s *Source) settle(ctx context.Context, st *State, f *Facts) error {
	a := st.Action
	if a == nil || a.Step == Ended || !a.Looked {
		return nil
	}
	if a.Step == Open {
		j := judge(a, f)
		if j.outcome == nil {
			return nil
		}
		a.Step, a.Outcome = Ending, j.outcome
		if err := s.save(st); err != nil {
			return err
		}
	}
	return s.end(ctx, st)
}

// end tells the outcome of the action.
func (s *Source) end(ctx context.Context, st *State) error {
	a := st.Action
	r := status{Execution: closed, Result: result{success}, Details: a.Outcome.Details}
	if !a.Outcome.Success {
		r.Result.Finished = failure
		r.Code = &a.Outcome.Code
	}
	taken, err := s.c.final(ctx, "deploymentBase", a.Number, r)
	if err != nil {
		return err
	}
	log := s.o.Log.WithFields(logrus.Fields{"action": a.Number, "success": a.Outcome.Success})
	log.Info("the server knows the outcome")
	a.Step, a.Query = Ended, ""
	for i := range a.Parts {
		if p := &a.Parts[i]; a.Outcome.Success && p.Kind == release.App {
			st.brought(p.Version, a.Set)
			// Else the server may have heard it before, or have dropped the action.
			if st.Told = (versioning.Version{}); taken {
				st.Told = p.Version
			}
		}
	}
	return s.save(st)
}

// carryOut does what was decided. again says that the server is to be asked anew.
func (s *Source) carryOut(ctx context.Context, st *State, m move, f *Facts) (again bool, err error) {
	if m.Gone {
		has := st.Action.Told && st.Action.Window == "" // that is how an action to download only ends
		if log := s.o.Log.WithField("action", st.Action.Number); has {
			log.Info("the server has what it wanted: the download")
		} else {
			log.Warn("the server has dropped the action")
		}
		st.Action = &Action{Number: st.Action.Number, Step: Ended, Told: has}
		if err := s.save(st); err != nil {
			return false, err
		}
	}
	if m.Confirm.number == 0 && st.Waiting != nil {
		st.Waiting = nil
		if err := s.save(st); err != nil {
			return false, err
		}
	}
	switch {
	case m.Cancel != 0:
		return true, s.answerCancel(ctx, st, m)
	case m.Confirm.number != 0:
		return s.askConfirmation(ctx, st, m.Confirm)
	case m.Read.number != 0:
		return s.receive(ctx, st, m.Read, f)
	}
	return false, nil
}

func (s *Source) answerCancel(ctx context.Context, st *State, m move) error {
	if !m.Accept {
		s.o.Log.WithField("action", m.Cancel).Warn("the server calls the action off: " + m.Why)
		err := s.c.report(ctx, "cancelAction", m.Cancel, status{Execution: rejected, Result: result{none}, Details: []string{m.Why}})
		if errors.Is(err, errVanished) || errors.Is(err, errTooMuch) {
			return nil
		}
		return err
	}
	if _, err := s.c.final(ctx, "cancelAction", m.Cancel, status{Execution: closed, Result: result{success}}); err != nil {
		return err
	}
	s.o.Log.WithField("action", m.Cancel).Info("the server has called the action off")
	st.Action = &Action{Number: m.Cancel, Step: Ended}
	return s.save(st)
}

func (s *Source) view(st *State, sleep time.Duration, f *Facts) *View {
	v := &View{Sleep: sleep, Waiting: st.Waiting}
	a := st.Action
	v.Keep = a != nil && a.Told
	if a == nil || a.Step != Open {
		return v
	}
	v.Action, v.Urgent, v.Hold = a.Number, a.Update == Forced, a.Hold()
	for _, i := range judge(a, f).todo {
		v.Offers = append(v.Offers, a.Parts[i].offer(v.Urgent))
	}
	return v
}

func (p *Part) offer(urgent bool) ota.Offer {
	return ota.Offer{
		Name: p.Artifact, Size: p.Size, SHA256: p.SHA256,
		Release: release.Target{
			Name: p.Artifact, Length: p.Size, SHA256: p.SHA256, Kind: p.Kind, App: p.App, Version: p.Version,
			Base: p.Base, Release: p.Release, Head: p.Head, Unpacked: p.Unpacked, Urgent: urgent,
		},
	}
}
