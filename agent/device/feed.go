package device

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"tandem/agent/firmware"
	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/digest"
	"tandem/ota"
	"tandem/ota/download"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Unit is one thing that the device runs, a firmware or the application, as a
// source must know it.
type Unit struct {
	Kind      release.Kind
	Name      string
	Installed versioning.Version   // zero: nothing
	Release   digest.SHA256        // of an application that is installed; zero if it did not come as a release
	Pending   versioning.Version   // installed, and waits to be confirmed healthy
	Begun     versioning.Version   // unpacked for its handler, or written by it for after a restart
	Revoked   []versioning.Version // those that failed here, or were gone back from
	Failed    versioning.Version   // the last one that failed here, as far as that is known; and
	Why       string
	Err       error // why it is not known what is installed
}

// Source is where releases come from.
type Source interface {
	// Ask tells what the device runs, by which a source that wants to know sees
	// what became of what it offered before, and returns what it wants.
	Ask(ctx context.Context, units []Unit) (*Wanted, error)
	// Fetch returns the path of a local file that holds what o offers, its
	// length and SHA-256 verified and its data durable.
	Fetch(ctx context.Context, o ota.Offer, p ota.Progress) (path string, err error)
}

// Wanted is what a source wants of a device.
type Wanted struct {
	Offers []Offered     // one for each unit, in their order
	Fresh  time.Duration // how soon it wants to be asked again at the earliest; 0: it did not say
	Every  time.Duration // how often it wants to be asked; 0: as the configuration says
	Urgent bool          // it is to be installed whatever the hour
	Hold   string        // why nothing is to be installed yet; "": it may be
}

// Offered is what a source has for one unit.
type Offered struct {
	ota.Decision
	Err error // why it is not known; what was begun goes on
}

// source opens the configured source.
func (d *Device) source() (_ Source, err error) {
	if d.feed != nil {
		return d.feed, nil
	}
	c, err := d.cfg.NeedSource()
	if err != nil {
		return nil, err
	}
	if c.Type == config.HawkBit {
		feed, err := d.openHawkBit(c)
		if err != nil {
			return nil, err
		}
		d.feed = feed
		return feed, nil
	}
	store, err := d.store()
	if err != nil {
		return nil, err
	}
	client, downloads, err := d.connect(c, ota.ClientOptions{Files: true})
	if err != nil {
		return nil, err
	}
	repo, err := ota.NewRepo(ota.RepoOptions{
		URL:       c.URL,
		Client:    client,
		Store:     store,
		Downloads: downloads,
		Now:       d.env.Now,
		Built:     d.env.Built,
		Log:       d.env.Log,
		Lacks:     d.lacks,
		Most:      d.cfg.Agent.MaxDownload,
		Told:      d.cfg.Agent.Metered,
	})
	if err != nil {
		return nil, err
	}
	d.feed = &repoFeed{repo, ota.Device{ID: d.cfg.Device.ID, Compatible: d.cfg.Device.Compatible, Channels: c.Channels}}
	return d.feed, nil
}

// connect makes this tandem the only one that talks to the source, and returns the client
// that shows the source's server who asks, and what downloads by it. Of o it sets what all
// sources have.
func (d *Device) connect(c config.Source, o ota.ClientOptions) (*http.Client, *download.Downloader, error) {
	state, err := d.State()
	if err != nil {
		return nil, nil, err
	}
	if err := d.goOnline(); err != nil {
		return nil, nil, err
	}
	access, err := c.Access()
	if err != nil {
		return nil, nil, err
	}
	for _, w := range access.Warnings {
		if !d.env.Warned[w] {
			d.env.Log.Warn(w)
		}
		if d.env.Warned != nil {
			d.env.Warned[w] = true
		}
	}
	o.CAs, o.Origin = access.CAs, c.URL
	o.Credentials = ota.Credentials{
		Token: string(access.Token), Scheme: o.Credentials.Scheme, User: access.User, Password: string(access.Password), Certificate: access.Certificate,
	}
	client := d.client(o)
	names := []string{d.cfg.Device.App}
	for _, f := range d.followed() {
		names = append(names, f.Name)
	}
	downloads, err := download.New(download.Options{
		FS: state, By: d.Author(), Client: client, Log: d.env.Log, Bandwidth: c.Bandwidth, For: names, Hopeless: d.env.Hopeless,
	})
	return client, downloads, err
}

// client makes an HTTP client that says what it is, and whose connections end with the
// device.
func (d *Device) client(o ota.ClientOptions) *http.Client {
	o.UserAgent, o.Proxy, o.Received = "tandem/"+d.env.Version, http.ProxyFromEnvironment, d.env.Received
	client := ota.NewClient(o)
	d.idle = append(d.idle, client.CloseIdleConnections)
	return client
}

// lacks tells which files of a release have to come from the source.
func (d *Device) lacks(ctx context.Context, m *release.Manifest) (func(backup.Path) bool, error) {
	recorded := m.Backup()
	return d.reconciler.Lacks(ctx, &recorded)
}

// partial is a Source that can bring a part of a bundle.
type partial interface {
	// Cheapest returns the form of an offer that costs least.
	Cheapest(ctx context.Context, o ota.Offer) (ota.Form, error)
	// Complete gets what a file that Fetch gave lacks of the files that want names.
	Complete(ctx context.Context, o ota.Offer, want func(backup.Path) bool) error
}

// fallback is a Source that has delta bundles, and what they build on whole.
type fallback interface {
	// Rest gets what a delta bundle could not bring: what want names, nil standing
	// for all that the device lacks.
	Rest(ctx context.Context, o ota.Offer, want func(backup.Path) bool, p ota.Progress) (path string, err error)
}

// repoFeed is a repository of releases: it lists what there is, and the device
// chooses.
type repoFeed struct {
	repo  *ota.Repo
	about ota.Device
}

func (f *repoFeed) Ask(ctx context.Context, units []Unit) (*Wanted, error) {
	listing, err := f.repo.List(ctx)
	if err != nil {
		return nil, err
	}
	w := &Wanted{Offers: make([]Offered, len(units)), Fresh: f.repo.Fresh()}
	for i := range units {
		u, o := &units[i], &w.Offers[i]
		if u.Err != nil {
			o.Err = u.Err
			continue
		}
		about := f.about
		about.App, about.Installed, about.Release, about.Revoked = u.Name, u.Installed, u.Release, u.Revoked
		switch u.Kind {
		case release.App:
			o.Decision, o.Err = listing.Choose(about)
		case release.Agent:
			about.Compatible = []string{release.Architecture()}
			fallthrough
		default:
			o.Decision, o.Err = listing.ChooseKind(u.Kind, about)
		}
	}
	return w, nil
}

func (f *repoFeed) Fetch(ctx context.Context, o ota.Offer, p ota.Progress) (string, error) {
	return f.repo.Fetch(ctx, o, p)
}

func (f *repoFeed) Cheapest(ctx context.Context, o ota.Offer) (ota.Form, error) {
	return f.repo.Cheapest(ctx, o)
}

func (f *repoFeed) Complete(ctx context.Context, o ota.Offer, want func(backup.Path) bool) error {
	return f.repo.Complete(ctx, o, want)
}

func (f *repoFeed) Rest(ctx context.Context, o ota.Offer, want func(backup.Path) bool, p ota.Progress) (string, error) {
	return f.repo.Rest(ctx, o, want, p)
}

// UnitAnswer is what a poll found out of one unit.
type UnitAnswer struct {
	Unit
	Offered  Offered
	Recalled *recalling      // of an application whose release is recalled; else nil
	Unpacked firmware.Result // of a firmware that is here and has yet to be installed; else its state is none
}

// Answers is what a poll found out.
type Answers struct {
	Units  []UnitAnswer // in the order in which they are updated: the firmwares, then the application
	Urgent bool
	Hold   string
	// Metered says that nothing is downloaded on this link.
	Metered bool
	Free    map[string]int64 // bytes, by where a release needs them
	Behind  bool             // the clock shows a time that has passed for sure
	Wish    time.Duration    // how soon the server wants to be asked again at the earliest; 0: it did not say
	Every   time.Duration    // how often it wants to be asked; 0: as the configuration says
}

// app returns the answer for the application.
func (a *Answers) app() *UnitAnswer { return &a.Units[len(a.Units)-1] }

// firmwares returns the answers for the firmwares.
func (a *Answers) firmwares() []UnitAnswer { return a.Units[:len(a.Units)-1] }

// Err returns why something could not be found out; nil if all was.
func (a *Answers) Err() error {
	var errs []error
	for i := range a.Units {
		errs = append(errs, a.Units[i].Offered.Err)
	}
	return errors.Join(errs...)
}

// Unfit returns why nothing that the source has is meant for the device; nil if
// something is.
func (a *Answers) Unfit() error { return a.app().Offered.Unfit }

// Ask asks the source for all that the device runs. Where the error is that of the
// source, what the device knows by itself is there beside it.
func (d *Device) Ask(ctx context.Context) (*Answers, error) {
	if err := d.Known(); err != nil {
		return nil, err
	}
	if err := d.stateMounted(); err != nil {
		return nil, err
	}
	ans := &Answers{Units: d.units(ctx), Free: d.Free(), Behind: d.ClockBehind()}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	src, err := d.source()
	if err != nil {
		return ans, err
	}
	units := make([]Unit, len(ans.Units))
	for i := range units {
		units[i] = ans.Units[i].Unit
	}
	wanted, err := src.Ask(ctx, units)
	if err != nil {
		return ans, err
	}
	for i := range ans.Units {
		ans.Units[i].Offered = wanted.Offers[i]
	}
	if app := ans.app(); app.Offered.Recall != nil {
		if app.Recalled, err = d.recalled(ctx, app.Offered.Recall); err != nil {
			app.Offered.Err = errors.Join(app.Offered.Err, err)
		}
	}
	ans.Urgent, ans.Hold, ans.Wish = wanted.Urgent, wanted.Hold, wanted.Fresh
	ans.Every = wanted.Every
	ans.Behind = d.ClockBehind() // the source may know the time
	return ans, nil
}

// units finds out what the device runs.
func (d *Device) units(ctx context.Context) []UnitAnswer {
	var all []UnitAnswer
	for _, c := range d.followed() {
		u := UnitAnswer{Unit: Unit{Kind: kind(c), Name: c.Name}}
		u.Unpacked = firmware.Result{Name: c.Name, State: firmware.None}
		f, err := d.firmware(c)
		if err != nil {
			u.Err = err
			all = append(all, u)
			continue
		}
		s, err := f.Load()
		if u.Err = err; err == nil {
			u.Installed, u.Err = f.Installed(ctx)
		}
		u.Revoked = s.Revoked
		if own, err := d.itself(); u.Kind == release.Agent && err == nil {
			u.Revoked = append(u.Revoked[:len(u.Revoked):len(u.Revoked)], d.revokedItself(own)...)
		}
		if s.State == firmware.Failed {
			u.Failed, u.Why = s.Version, s.Reason
		}
		if s.State.Open() || s.State == firmware.Restart {
			u.Unpacked = firmware.Result{Name: c.Name, From: s.Previous, Version: s.Version, State: s.State}
			u.Begun = s.Version
		}
		all = append(all, u)
	}
	app := UnitAnswer{Unit: Unit{Kind: release.App, Name: d.cfg.Device.App}, Unpacked: firmware.Result{State: firmware.None}}
	res, err := d.reconciler.Look(ctx, backup.Options{})
	if err != nil && !errors.Is(err, backup.ErrNoApplication) && !errors.Is(err, backup.ErrDamage) {
		app.Err = err
		return append(all, app)
	}
	app.Installed = res.Version
	if res.System.Version.String() == res.Version.String() {
		app.Release = res.System.Release
	}
	app.Revoked, app.Err = d.reconciler.Revoked()
	if p, err := d.reconciler.Pending(); err == nil && p != nil {
		app.Pending = p.Version
	}
	if p := d.reconciler.GivenUp(); p != nil {
		app.Failed, app.Why = p.Version, rolledBackFor+p.Failed
	}
	return append(all, app)
}

// Fetch downloads an offer, if there is room for what it carries.
func (d *Device) Fetch(ctx context.Context, o ota.Offer) (string, error) {
	if o.Release.Kind != release.Firmware && o.Release.Kind != release.Agent {
		if err := d.roomFor(&o); err != nil {
			return "", fmt.Errorf("%s is not downloaded: %w", o.Release.Version, err)
		}
	}
	src, err := d.source()
	if err != nil {
		return "", err
	}
	return src.Fetch(ctx, o, d.downloading)
}

// downloading tells how far a download is.
func (d *Device) downloading(done, total int64) {
	if d.env.Progress != nil {
		d.env.Progress("downloading", done, total)
	}
}

// cost finds out in which form the offer of a unit would come, and how many
// bytes that is. It fetches the head of the bundle for that. Where it cannot be
// known the form is left out, and the log says why.
func (d *Device) cost(ctx context.Context, a *UnitAnswer) {
	src, ok := d.feed.(partial)
	if !ok || a.Offered.Best == nil {
		return
	}
	form, err := src.Cheapest(ctx, *a.Offered.Best)
	if err != nil {
		if ctx.Err() == nil {
			d.env.Log.WithError(err).Warn("it is not known how many bytes the update will cost")
		}
		return
	}
	a.Offered.Best.Form = form
}
