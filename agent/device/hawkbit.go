package device

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/ota/download"
	"tandem/ota/hawkbit"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
)

// hawkFeed is a hawkBit server: which release the device should have the server has
// decided. What became of its wishes is read off the device, and told.
type hawkFeed struct {
	d         *Device
	server    *hawkbit.Source
	downloads *download.Downloader
}

// Ask implements Source.
func (f *hawkFeed) Ask(ctx context.Context, units []Unit) (*Wanted, error) {
	facts, err := f.d.facts(ctx, units)
	if err != nil {
		return nil, err
	}
	view, err := f.server.Sync(ctx, *facts)
	if err != nil {
		return nil, fmt.Errorf("ask the hawkBit server: %w", err)
	}
	w := &Wanted{Offers: make([]Offered, len(units)), Every: view.Sleep, Urgent: view.Urgent, Hold: view.Hold}
	for i := range units {
		u, offered := &units[i], &w.Offers[i]
		for k := range view.Offers {
			if o := &view.Offers[k]; o.Release.Kind == u.Kind && o.Release.App == u.Name {
				offered.Best = o
			}
		}
		if view.Action == 0 && !view.Keep { // what was fetched for an action that was called off
			f.downloads.Drop(u.Name)
		}
	}
	return w, nil
}

// Fetch implements Source.
func (f *hawkFeed) Fetch(ctx context.Context, o ota.Offer, p ota.Progress) (string, error) {
	return f.server.Fetch(ctx, o, p)
}

// openHawkBit opens the configured hawkBit server.
func (d *Device) openHawkBit(c config.Source) (*hawkFeed, error) {
	name := c.DDI.Name(d.cfg)
	if name == "" {
		return nil, fmt.Errorf("%w: %s: source.controller: missing, and there is no device.id: expected the name of this device on the server", config.ErrInvalid, d.cfg.File)
	}
	root, err := d.root()
	if err != nil {
		return nil, err
	}
	state, err := d.State()
	if err != nil {
		return nil, err
	}
	scheme := "TargetToken"
	if c.DDI.GatewayTokenFile != "" {
		scheme = "GatewayToken"
	}
	client, downloads, err := d.connect(c, ota.ClientOptions{Credentials: ota.Credentials{Scheme: scheme}})
	if err != nil {
		return nil, err
	}
	verifier := func() (bundle.Verifier, error) {
		return trust.New(trust.Options{Root: root, Time: d.now(), AllowUnsigned: d.cfg.Trust.AllowUnsigned})
	}
	fetcher := func(by *http.Client) *ota.Fetcher {
		return &ota.Fetcher{
			Downloads: downloads.By(by), Verifier: verifier, Lacks: d.lacks, Most: d.cfg.Agent.MaxDownload, Told: d.cfg.Agent.Metered, Log: d.env.Log,
		}
	}
	var vouch func(context.Context, *hawkbit.Head) error
	if c.DDI.Metadata != "" {
		vouch = d.voucher(c.DDI.Metadata, downloads)
	}
	server, err := hawkbit.New(hawkbit.Options{
		Origin: c.URL, Tenant: c.DDI.Tenant, Controller: name, Client: client, FS: state, By: d.Author(), Log: d.env.Log,
		Fetcher: fetcher, Inspect: d.inspect(verifier), Vouch: vouch,
		Code:       func(err error) int { return cmp.Or(d.explain(err).Exit, 1) },
		After:      after,
		Compatible: d.cfg.Device.Compatible, AutoConfirm: c.DDI.AutoConfirm, Attributes: c.DDI.Attributes, SetName: c.DDI.Set, Cache: d.env.Polled,
	})
	return &hawkFeed{d, server, downloads}, err
}

// Cheapest implements partial.
func (f *hawkFeed) Cheapest(ctx context.Context, o ota.Offer) (ota.Form, error) {
	return f.server.Cheapest(ctx, o)
}

// Complete implements partial.
func (f *hawkFeed) Complete(ctx context.Context, o ota.Offer, want func(backup.Path) bool) error {
	return f.server.Complete(ctx, o, want)
}

// Rest implements fallback.
func (f *hawkFeed) Rest(ctx context.Context, o ota.Offer, want func(backup.Path) bool, p ota.Progress) (string, error) {
	return f.server.Rest(ctx, o, want, p)
}

// hawkBit returns the configured hawkBit server.
func (d *Device) hawkBit() (*hawkbit.Source, error) {
	src, err := d.source()
	if err != nil {
		return nil, err
	}
	f, ok := src.(*hawkFeed)
	if !ok {
		return nil, fmt.Errorf("%w: %s: source.type: expected \"hawkbit\": no other source asks for a confirmation", config.ErrInvalid, d.cfg.File)
	}
	return f.server, nil
}

func after(wait time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(wait)
	return t.C, func() { t.Stop() }
}

// inspect returns what reads and verifies the head of a bundle, and says what it
// would cost this device.
func (d *Device) inspect(verifier func() (bundle.Verifier, error)) func(context.Context, io.Reader) (*hawkbit.Head, error) {
	return func(ctx context.Context, r io.Reader) (*hawkbit.Head, error) {
		v, err := verifier()
		if err != nil {
			return nil, err
		}
		base := ota.BaseOf(ctx, d.reconciler, nil)
		h, err := bundle.Look(r, v, base)
		if err != nil {
			return nil, err
		}
		out := &hawkbit.Head{Kind: release.App, Size: h.Size(), Cost: h.Size(), Release: h.Release(), Length: h.Length()}
		m, delta := h.Manifest(), h.Parts().Delta
		if delta != nil {
			out.App, out.Version, out.Base = delta.App, delta.Version, delta.Base.Version
		}
		if m == nil {
			_, err := base.Release(delta)
			out.Lacks = fmt.Sprintf("it builds on version %s, release %s: %v", delta.Base.Version, delta.Base.Release, err)
			return out, nil
		}
		out.Kind, out.App, out.Version, out.Compatible = cmp.Or(m.Kind, release.App), m.App, m.Version, m.Compatible
		_, out.Unpacked = m.Content()
		if delta == nil && out.Kind == release.App {
			if want, err := d.lacks(ctx, m); err == nil && want != nil { // else it costs all of it
				cost, _ := h.Cost(want)
				out.Cost = min(out.Cost, cost)
			}
		}
		return out, nil
	}
}

// voucher returns what asks the repository at a URL for a release. It is listed once.
func (d *Device) voucher(at string, downloads *download.Downloader) func(context.Context, *hawkbit.Head) error {
	var listing *ota.Listing
	return func(ctx context.Context, h *hawkbit.Head) error {
		if listing == nil {
			store, err := d.store()
			if err != nil {
				return err
			}
			client := d.client(ota.ClientOptions{Files: true})
			repo, err := ota.NewRepo(ota.RepoOptions{
				URL: at, Client: client, Store: store, Downloads: downloads.By(client), Now: d.env.Now, Built: d.env.Built, Log: d.env.Log,
			})
			if err != nil {
				return err
			}
			if listing, err = repo.List(ctx); err != nil {
				return err
			}
		}
		return listing.Vouch(h.App, h.Version, h.Release)
	}
}

// facts are what the server is told of the device, and what its actions are judged
// by.
func (d *Device) facts(ctx context.Context, units []Unit) (*hawkbit.Facts, error) {
	res, err := d.reconciler.Look(ctx, backup.Options{})
	if res == nil || ctx.Err() != nil {
		return nil, err
	}
	inStep := err == nil && res.Decision.Action == backup.Nothing
	events, err := d.History()
	if fsys.IsTransient(err) {
		return nil, err // why a version failed is told once: it is asked for again
	}
	if err != nil {
		d.env.Log.WithError(err).Warn("the history cannot be read")
	}
	f := &hawkbit.Facts{Attributes: d.attributes(res, inStep, events)}
	for _, u := range units {
		own := hawkbit.Unit{Kind: u.Kind, Name: u.Name, Installed: u.Installed, Pending: u.Pending, Begun: u.Begun, Failed: causes(u, events)}
		switch {
		case u.Err != nil && u.Kind == release.App:
			return nil, u.Err
		case u.Err != nil:
			own.Broken = u.Err.Error()
		case u.Kind == release.Agent:
			// the attribute "tandem" has it
		case u.Kind == release.Firmware:
			f.Attributes["firmware_"+u.Name] = u.Installed.String()
		default:
			f.Attributes["pending"] = cmp.Or(u.Pending.String(), "none")
		}
		f.Units = append(f.Units, own)
	}
	return f, nil
}

// rolledBackFor begins why a version failed that was gone back from.
const rolledBackFor = "rolled back: "

// causes says of versions that are revoked why they are, as far as that is
// remembered.
func causes(u Unit, events []Event) map[string]string {
	all := map[string]string{}
	for _, v := range u.Revoked {
		why := "revoked here"
		if v.Compare(u.Failed) == 0 { // the history may have yet to hear of it
			why = u.Why
		}
		for _, e := range events {
			switch {
			case u.Kind != release.App:
				if e.Command == "firmware" && e.Reason == u.Name && e.Version.Compare(v) == 0 && e.Error != "" {
					why = e.Error
				}
			case e.Command == "rollback" && e.From.Compare(v) == 0:
				if why = strings.TrimSuffix(rolledBackFor+e.Reason, ": "); e.Error != "" {
					why = strings.TrimPrefix(e.Reason+"; "+e.Error, "; ")
				}
			}
		}
		all[v.String()] = why
	}
	return all
}

// attributes tell the server of the device.
func (d *Device) attributes(res *backup.Result, inStep bool, events []Event) map[string]string {
	yes := map[bool]string{true: "yes", false: "no"}
	a := map[string]string{
		"app": d.cfg.Device.App, "hardware": strings.Join(d.cfg.Device.Compatible, " "), "tandem": d.env.Version, "in_step": yes[inStep],
		"last_boot": "nothing to do",
	}
	if d.cfg.Device.ID != "" {
		a["device_id"] = d.cfg.Device.ID
	}
	if t, err := d.Itself(); err == nil && t != nil {
		a["tandem_previous"], a["tandem_kept"], a["tandem_pending"] = t.Previous.String(), t.Kept.String(), cmp.Or(t.Pending.String(), "none")
	}
	for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
		if s != nil {
			name := string(s.Side)
			a[name+"_state"], a[name+"_version"], a[name+"_revision"] = string(s.State), s.Version.String(), fmt.Sprint(s.Revision)
		}
	}
	for _, e := range events {
		if e.Command == "boot" {
			a["last_boot"] = strings.Trim(strings.Join([]string{e.Action, e.Version.String(), e.Reason, e.Error}, " "), " ")
		}
	}
	return a
}

// Refused tells the server that a release which it wants cannot be taken, and why:
// durably here, and there at the next poll. Of any other source nobody is told.
func (d *Device) Refused(sum digest.SHA256, why error) error {
	if !d.fromHawkBit() {
		return nil
	}
	server, err := d.hawkBit()
	if err != nil {
		return err
	}
	return server.Failed(sum, why)
}

// doubted is Refused, once what the server sends as the release was refused a few times.
func (d *Device) doubted(sum digest.SHA256, why error) error {
	if !d.fromHawkBit() {
		return nil
	}
	server, err := d.hawkBit()
	if err != nil {
		return err
	}
	return server.Doubted(sum, why)
}

// fromHawkBit reports whether a hawkBit server is the source.
func (d *Device) fromHawkBit() bool {
	return d.cfg.Source != nil && d.cfg.Source.Type == config.HawkBit
}

// tell has the server know what became of its wishes. What does not reach it now
// is told at the next poll.
func (d *Device) tell(ctx context.Context) {
	if !d.fromHawkBit() {
		return
	}
	if _, err := d.Ask(ctx); err != nil && ctx.Err() == nil {
		d.env.Log.WithError(err).Warn("the server was not told what became of it: it is at the next poll")
	}
}

// ConfirmedUpdate is the document of confirm-update.
type ConfirmedUpdate struct {
	Action    int64 `json:"action"`
	Confirmed bool  `json:"confirmed"`
	Failure
}

// ConfirmUpdate says yes or no to what the server wants a person to confirm.
func (d *Device) ConfirmUpdate(ctx context.Context, yes bool, reason string) (*ConfirmedUpdate, error) {
	server, err := d.hawkBit()
	if err != nil {
		return nil, err
	}
	n, err := server.Confirm(ctx, yes, reason)
	if err != nil {
		return nil, err
	}
	d.Remember(Event{Command: "confirm-update", Action: map[bool]string{true: "confirmed", false: "denied"}[yes], Reason: strings.TrimSpace(fmt.Sprintf("action %d %s", n, reason))})
	return &ConfirmedUpdate{Action: n, Confirmed: yes}, nil
}

// SourceStatus says where releases come from, and what the server wants.
type SourceStatus struct {
	Type       config.SourceType `json:"type"`
	URL        string            `json:"url"`
	Controller string            `json:"controller,omitempty"` // of a hawkBit server: the device's name there
	Action     *ActionStatus     `json:"action,omitempty"`     // the server's last one
	Waiting    *hawkbit.Waiting  `json:"waiting,omitempty"`    // what a person is to confirm
}

// ActionStatus is how far the device is with an action of a hawkBit server.
type ActionStatus struct {
	Number  int64        `json:"number"`
	Step    hawkbit.Step `json:"step"`
	Update  hawkbit.Mode `json:"update,omitempty"` // how much the server wants it
	Hold    string       `json:"hold,omitempty"`   // why it is not to be installed yet
	Success *bool        `json:"success,omitempty"`
	Fetched bool         `json:"downloaded,omitempty"` // the server knows that it is here
	Details []string     `json:"details,omitempty"`    // of the outcome, as the server has them
}

// sourceStatus tells of the configured source what is known here; nil if there is
// none. The server is not asked.
func (d *Device) sourceStatus() *SourceStatus {
	c := d.cfg.Source
	if c == nil {
		return nil
	}
	s := &SourceStatus{Type: c.Type, URL: redacted(c.URL)}
	if !d.fromHawkBit() {
		return s
	}
	s.Controller = c.DDI.Name(d.cfg)
	disk, err := fsys.OpenOS(d.cfg.Agent.State)
	if err != nil { // there is no state yet
		return s
	}
	defer disk.Close()
	st, err := hawkbit.Load(disk, d.env.Log)
	if err != nil {
		d.env.Log.WithError(err).Warn("it is not known what the server wants")
		return s
	}
	s.Waiting = st.Waiting
	if a := st.Action; a != nil {
		s.Action = &ActionStatus{Number: a.Number, Step: a.Step, Update: a.Update, Hold: a.Hold(), Fetched: a.Told}
		if o := a.Outcome; o != nil {
			s.Action.Success, s.Action.Details = &o.Success, o.Details
		}
	}
	return s
}

// redacted is a URL without its password.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Redacted()
}
