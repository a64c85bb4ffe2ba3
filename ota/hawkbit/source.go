package hawkbit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/internal/digest"
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
	Log logrus.FieldLogger
	// Fetcher makes what fetches bundles with a client.
	Fetcher func(*http.Client) *ota.Fetcher
	// Inspect reads and verifies the head of a bundle, and no more than that. An
	// error that is not one of reading r says why the device must not take it.
	Inspect func(r io.Reader) (*Head, error)
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
	st := Load(s.o.FS, s.o.Log)
	var b *base
	var w wanted
	for round := 0; ; round++ {
		if err := s.settle(ctx, st, &f); err != nil {
			return nil, err
		}
		var err error
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
	if err := s.tell(ctx, st, &f, b.Links["configData"].Href != "", w == wanted{}); err != nil {
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

// save makes the state durable.
func (s *Source) save(st *State) error {
	if err := st.save(s.o.FS); err != nil {
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
			if taken { // else the server may have dropped the action before
				st.Told = p.Version
			}
		}
	}
	return s.save(st)
}

// carryOut does what was decided. again says that the server is to be asked anew.
func (s *Source) carryOut(ctx context.Context, st *State, m move, f *Facts) (again bool, err error) {
	if m.Gone {
		if log := s.o.Log.WithField("action", st.Action.Number); st.Action.Told {
			log.Info("the server has what it wanted: the download")
		} else {
			log.Warn("the server has dropped the action")
		}
		st.Action = &Action{Number: st.Action.Number, Step: Ended, Told: st.Action.Told}
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
	case m.Again:
		fresh := st.Action.Step != Ended // else the server has it and asks all the same: the next poll tells
		return fresh, s.end(ctx, st)
	case m.Cancel != 0:
		return true, s.answerCancel(ctx, st, m)
	case m.Confirm.number != 0:
		return s.askConfirmation(ctx, st, m.Confirm)
	case m.Read.number != 0:
		return s.take(ctx, st, m.Read, f)
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

// askConfirmation says yes where the configuration does, and else remembers that
// a person is to be asked.
func (s *Source) askConfirmation(ctx context.Context, st *State, o offered) (again bool, err error) {
	if s.o.AutoConfirm {
		return true, s.sendConfirmation(ctx, o.number, true, "confirmed by the configuration (source.auto_confirm)")
	}
	if st.Waiting != nil && st.Waiting.Number == o.number {
		return false, nil
	}
	d, err := s.c.deployment(ctx, "confirmationBase", o)
	if errors.Is(err, errVanished) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	w := &Waiting{Number: o.number}
	for _, c := range d.Chunks {
		w.Brings = append(w.Brings, cutRunes(clean(c.Name+" "+c.Version), maxAttribute))
	}
	w.Brings = w.Brings[:min(len(w.Brings), maxParts)]
	s.o.Log.WithField("action", o.number).Info("the server wants a person to confirm an update: tandem confirm-update")
	st.Waiting = w
	return false, s.save(st)
}

func (s *Source) sendConfirmation(ctx context.Context, number int64, yes bool, reason string) error {
	c := confirmation{Confirmation: "denied", Code: codeOther, Details: cleanDetails([]string{reason})}
	if yes {
		c.Confirmation, c.Code = "confirmed", 0
	}
	err := s.c.send(ctx, http.MethodPost, s.c.at.feedback("confirmationBase", number), fmt.Sprintf("action %d", number), c)
	if errors.Is(err, errVanished) {
		return nil
	}
	return err
}

// ErrNothingToConfirm says that the server waits for no confirmation.
var ErrNothingToConfirm = errors.New("the server waits for no confirmation")

// Confirm says yes or no to the action that waits for it, and returns its number.
// After success the server knows; the next Sync finds what it makes of it. The
// error wraps ErrNothingToConfirm where nothing waits.
func (s *Source) Confirm(ctx context.Context, yes bool, reason string) (int64, error) {
	b, err := s.c.poll(ctx)
	if err != nil {
		return 0, err
	}
	w, err := want(b)
	if err != nil {
		return 0, fmt.Errorf("%w: poll: %w", ota.ErrRefused, err)
	}
	if w.confirm.number == 0 {
		return 0, ErrNothingToConfirm
	}
	if err := s.sendConfirmation(ctx, w.confirm.number, yes, reason); err != nil {
		return 0, err
	}
	st := Load(s.o.FS, s.o.Log)
	if st.Waiting == nil || st.Waiting.Number != w.confirm.number {
		st.Waiting = &Waiting{Number: w.confirm.number}
	}
	if st.Waiting.Denied = !yes; yes {
		st.Waiting = nil
	}
	return w.confirm.number, s.save(st)
}

// take reads an action. One that is known has new modes only; of one that is new
// each artifact is looked at before anything is begun.
func (s *Source) take(ctx context.Context, st *State, o offered, f *Facts) (again bool, err error) {
	d, err := s.c.deployment(ctx, "deploymentBase", o)
	if errors.Is(err, errVanished) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	log := s.o.Log.WithFields(logrus.Fields{"action": o.number, "download": d.Download, "update": d.Update})
	a := st.Action
	if a == nil || a.Number != o.number || a.Step == Ended {
		a = &Action{Number: o.number, Step: Open}
	}
	fresh := !a.Looked
	if fresh {
		found, err := s.look(ctx, d)
		if errors.Is(err, errMissing) {
			return false, s.missed(st, a, err)
		}
		if err != nil {
			return false, err
		}
		a.Looked, a.Parts, a.Misses = true, chooseParts(found, f, s.o.Compatible), 0
		a.Set = s.setOf(d, a.Parts)
	}
	a.Query, a.Download, a.Update, a.Window = o.query, d.Download, d.Update, d.Window
	st.Action = a
	if err := s.save(st); err != nil {
		return false, err
	}
	if judge(a, f).outcome != nil {
		return true, nil
	}
	if !fresh {
		log.Info("the server has changed its wish")
		return false, nil
	}
	log.Info("the server wants an update")
	return false, s.progress(ctx, a.Number, status{Execution: proceeding, Details: started(a)})
}

func started(a *Action) []string {
	var all []string
	for _, p := range a.Parts {
		all = append(all, fmt.Sprintf("%s %s: %s, %d bytes", p.App, p.Version, p.Artifact, p.Size))
	}
	return all
}

// missed counts that an artifact was not there. The server may have called its
// action off meanwhile: the next poll tells.
func (s *Source) missed(st *State, a *Action, why error) error {
	if a.Misses++; a.Misses >= maxMisses {
		a.Looked, a.Parts = true, []Part{{Artifact: "an artifact", Failed: why.Error(), Code: codeOther}}
	}
	st.Action = a
	if err := s.save(st); err != nil {
		return err
	}
	return fmt.Errorf("%w: %w", ota.ErrUnreachable, why)
}

// progress reports what the server can do without: what it refuses is dropped.
func (s *Source) progress(ctx context.Context, number int64, r status) error {
	r.Result = result{none}
	err := s.c.report(ctx, "deploymentBase", number, r)
	if errors.Is(err, errTooMuch) || errors.Is(err, errVanished) {
		s.o.Log.WithError(err).Debug("the server does not take the progress")
		return nil
	}
	return err
}

// setKey is the key of a module's metadata that names its distribution set.
const setKey = "distribution-set"

// setOf finds out which set an action brings, which the protocol does not tell.
func (s *Source) setOf(d *deployment, parts []Part) *Set {
	var v versioning.Version
	for _, p := range parts {
		if p.Kind == release.App {
			v = p.Version
		}
	}
	name := s.o.SetName
	for _, c := range d.Chunks {
		for _, m := range c.Metadata {
			if m.Key == setKey {
				name = m.Value
			}
		}
	}
	name, version, ok := strings.Cut(name, ":")
	if !ok {
		version = v.String()
	}
	if name == "" || version == "" {
		return nil
	}
	return &Set{name, version}
}

// Failed durably notes that a file of the open action cannot be taken, and why.
// The next Sync makes it the outcome.
func (s *Source) Failed(sum digest.SHA256, cause error) error {
	st := Load(s.o.FS, s.o.Log)
	if st.Action == nil || st.Action.Step != Open {
		return nil
	}
	for i := range st.Action.Parts {
		if p := &st.Action.Parts[i]; p.SHA256 == sum && p.Failed == "" {
			p.Failed, p.Code = cutRunes(cause.Error(), 4*maxDetail), s.o.Code(cause)
			return s.save(st)
		}
	}
	return nil
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
			Release: p.Release, Head: p.Head, Rollout: 100, Unpacked: p.Unpacked, Urgent: urgent,
		},
	}
}

// tell sends what has changed of the device. What could not be told is no error:
// whether the server has it is not known then, and it is told the next time.
func (s *Source) tell(ctx context.Context, st *State, f *Facts, asked, idle bool) error {
	all := asked || !s.c.cache.told
	unsure := false
	if err := s.tellAttributes(ctx, st, f, all); err != nil {
		s.o.Log.WithError(err).Warn("the server was not told of the device's attributes; it is tried again")
		unsure, st.Attributes = st.Attributes != nil, nil
	}
	if idle {
		if err := s.tellInstalled(ctx, st, f, !s.c.cache.told); err != nil {
			s.o.Log.WithError(err).Warn("the server was not told what is installed; it is tried again")
			unsure, st.Told = unsure || !st.Told.IsZero(), versioning.Version{}
		} else {
			s.c.cache.told = s.c.cache.told || st.Attributes != nil
		}
	}
	if !unsure {
		return nil
	}
	return s.save(st)
}

// tellAttributes sends what has changed of the attributes, or all if asked.
func (s *Source) tellAttributes(ctx context.Context, st *State, f *Facts, asked bool) error {
	want := cleanAttributes(f.Attributes, s.o.Attributes)
	err := s.sendAttributes(ctx, st.Attributes, want, asked)
	if errors.Is(err, errTooMuch) {
		s.o.Log.WithError(err).Warn("the server does not take all attributes: those of the configuration are left out")
		own := cleanAttributes(f.Attributes, nil)
		if err = s.sendAttributes(ctx, nil, own, true); errors.Is(err, errTooMuch) {
			s.o.Log.WithError(err).Warn("the server does not take the device's attributes; they are not sent again before they change")
			err = nil
		}
	}
	if err != nil || maps.Equal(want, st.Attributes) {
		return err
	}
	st.Attributes = want
	return s.save(st)
}

func (s *Source) sendAttributes(ctx context.Context, known, want map[string]string, all bool) error {
	data := map[string]*string{}
	for k, v := range want {
		if old, ok := known[k]; all || !ok || old != v {
			data[k] = &v
		}
	}
	for k := range known {
		if _, ok := want[k]; !ok {
			data[k] = nil // the server forgets it
		}
	}
	if len(data) == 0 {
		return nil
	}
	body := struct {
		Mode string             `json:"mode"`
		Data map[string]*string `json:"data"`
	}{"merge", data}
	return s.c.send(ctx, http.MethodPut, s.c.at.configData(), "attributes", body)
}

// tellInstalled tells the server what is installed, where that is another version
// than it takes for installed: after a rollback, an installation by hand, or a
// partition that was restored.
func (s *Source) tellInstalled(ctx context.Context, st *State, f *Facts, again bool) error {
	app := f.app()
	if app == nil || app.Installed.IsZero() || !app.Pending.IsZero() || !again && st.Told.String() == app.Installed.String() {
		return nil
	}
	set := st.setOf(app.Installed, s.o.SetName)
	if set == nil {
		return nil
	}
	err := s.c.send(ctx, http.MethodPut, s.c.at.installedBase(), "installed", set)
	switch {
	case errors.Is(err, errVanished), errors.Is(err, errTooMuch):
		s.o.Log.Warnf("the server has no distribution set %s:%s: it is not told that this is installed", set.Name, set.Version)
	case err != nil:
		return err
	default:
		s.o.Log.Infof("the server knows that %s:%s is installed", set.Name, set.Version)
	}
	if st.Told.String() == app.Installed.String() {
		return nil
	}
	st.Told = app.Installed
	return s.save(st)
}
