package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/fsys"
	"tandem/internal/mounts"
	"tandem/ota"
	"tandem/ota/download"
	"tandem/packaging/trust"
	"tandem/versioning"
	"time"
)

// root gives the newest root that the device trusts; nil if there is none and
// none is needed.
func (d *Device) root() (*trust.Root, error) {
	provisioned, err := d.provisioned()
	if err != nil || provisioned == nil {
		return nil, err
	}
	store, err := d.store()
	if err != nil {
		d.env.Log.WithError(err).Warn("the agent's state cannot be used; trusting the root that the device came with")
		return provisioned, nil
	}
	return store.Root(), nil
}

func (d *Device) provisioned() (*trust.Root, error) {
	data, err := os.ReadFile(d.cfg.Trust.Root)
	if errors.Is(err, fs.ErrNotExist) && d.cfg.Trust.AllowUnsigned {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: trust.root: %w", ErrNoRoot, err)
	}
	root, err := trust.ParseRoot(data)
	if err != nil {
		return nil, fmt.Errorf("trust.root: %s: %w", d.cfg.Trust.Root, err)
	}
	return root, nil
}

// State opens the agent's state directory, and makes it if need be. Where it
// belongs on a partition that is not mounted, it is not made on the one below.
func (d *Device) State() (fsys.FS, error) {
	if d.stateFS != nil {
		return d.stateFS, nil
	}
	for _, side := range []config.Side{d.cfg.System, d.cfg.UsrData} {
		if side.Mount == "" || !mounts.Below(side.Mount, d.cfg.Agent.State) {
			continue
		}
		if ok, err := mounts.Mounted(side.Mount); err != nil || !ok {
			return nil, errors.Join(fmt.Errorf("%s: nothing is mounted at %s", d.cfg.Agent.State, side.Mount), err)
		}
	}
	if err := makeDir(d.cfg.Agent.State); err != nil {
		return nil, err
	}
	disk, err := fsys.OpenOS(d.cfg.Agent.State)
	if err != nil {
		return nil, err
	}
	d.open = append(d.open, disk)
	d.stateFS = disk
	return disk, nil
}

func (d *Device) store() (*ota.Store, error) {
	provisioned, err := d.provisioned()
	if err != nil {
		return nil, err
	}
	if provisioned == nil {
		return nil, fmt.Errorf("%w: trust.root: %s", ErrNoRoot, d.cfg.Trust.Root)
	}
	state, err := d.State()
	if err != nil {
		return nil, err
	}
	return ota.OpenStore(state, provisioned, d.env.Log), nil
}

// now is the reference time: no earlier than what is known for sure.
func (d *Device) now() time.Time {
	store, err := d.store()
	if err != nil {
		return trust.ReferenceTime(d.env.Now(), d.env.Built)
	}
	return store.RefTime(d.env.Now(), d.env.Built)
}

// source opens the configured source.
func (d *Device) source() (_ *ota.Repo, err error) {
	if d.repo != nil {
		return d.repo, nil
	}
	c, err := d.cfg.NeedSource()
	if err != nil {
		return nil, err
	}
	if c.Type != config.Repo {
		return nil, fmt.Errorf("%w: %s: source.type %q is not built in yet: expected %q", config.ErrInvalid, d.cfg.File, c.Type, config.Repo)
	}
	store, err := d.store()
	if err != nil {
		return nil, err
	}
	state, err := d.State()
	if err != nil {
		return nil, err
	}
	if err := d.goOnline(); err != nil {
		return nil, err
	}
	access, err := c.Access()
	if err != nil {
		return nil, err
	}
	for _, w := range access.Warnings {
		d.env.Log.Warn(w)
	}
	client := ota.NewClient(ota.ClientOptions{
		UserAgent: "tandem/" + d.env.Version, Proxy: http.ProxyFromEnvironment, Files: true,
		Received: d.env.Received, CAs: access.CAs, Origin: c.URL,
		Credentials: ota.Credentials{Token: string(access.Token), User: access.User, Password: string(access.Password), Certificate: access.Certificate},
	})
	d.idle = append(d.idle, client.CloseIdleConnections)
	names := []string{d.cfg.Device.App}
	for _, f := range d.cfg.Firmware {
		names = append(names, f.Name)
	}
	d.repo, err = ota.NewRepo(ota.RepoOptions{
		URL:       c.URL,
		Client:    client,
		Store:     store,
		Downloads: download.New(download.Options{FS: state, Client: client, Log: d.env.Log, Bandwidth: c.Bandwidth, For: names}),
		Now:       d.env.Now,
		Built:     d.env.Built,
		Log:       d.env.Log,
	})
	return d.repo, err
}

// listing polls the source, once for all that the device runs.
func (d *Device) listing(ctx context.Context) (*ota.Listing, error) {
	if d.listed != nil {
		return d.listed, nil
	}
	src, err := d.source()
	if err != nil {
		return nil, err
	}
	d.listed, err = src.List(ctx)
	return d.listed, err
}

// Check asks the source which release the device should have. It gives the
// version that is installed, too.
func (d *Device) Check(ctx context.Context) (ota.Decision, versioning.Version, error) {
	listing, err := d.listing(ctx)
	if err != nil {
		return ota.Decision{}, versioning.Version{}, err
	}
	res, err := d.reconciler.Look(ctx, backup.Options{})
	if err != nil && !errors.Is(err, backup.ErrNoApplication) && !errors.Is(err, backup.ErrDamage) {
		return ota.Decision{}, versioning.Version{}, err
	}
	installed := res.Version
	revoked, err := d.reconciler.Revoked()
	if err != nil {
		return ota.Decision{}, installed, err
	}
	dec, err := listing.Choose(d.about(d.cfg.Device.App, installed, revoked))
	return dec, installed, err
}

// about is what the source must know to choose for the application or a firmware.
func (d *Device) about(app string, installed versioning.Version, revoked []versioning.Version) ota.Device {
	return ota.Device{
		ID:         d.cfg.Device.ID,
		App:        app,
		Compatible: d.cfg.Device.Compatible,
		Channel:    d.cfg.Source.Channel,
		Installed:  installed,
		Revoked:    revoked,
	}
}

// Answers is what a poll found out.
type Answers struct {
	Firmware  []FirmwareAnswer
	App       ota.Decision
	Installed versioning.Version
	Free      map[string]int64 // bytes, by where a release needs them
	Behind    bool             // the clock shows a time that has passed for sure
	Wish      time.Duration    // how soon the server wants to be asked again; 0: it did not say
}

// Ask polls the source for all that the device runs.
func (d *Device) Ask(ctx context.Context) (*Answers, error) {
	var ans Answers
	var err error
	if ans.Firmware, err = d.CheckFirmware(ctx); err != nil {
		return nil, err
	}
	if ans.App, ans.Installed, err = d.Check(ctx); err != nil {
		return nil, err
	}
	ans.Wish = d.repo.Fresh()
	ans.Free, ans.Behind = d.Free(), d.ClockBehind()
	return &ans, nil
}

// ClockBehind says whether the clock shows a time that has passed for sure: it
// was not set since the power came.
func (d *Device) ClockBehind() bool {
	now := d.env.Now()
	return d.now().Sub(now) > time.Minute
}

// Free gives the bytes that are free where a release needs them: on the sides
// and in the agent's state, by path.
func (d *Device) Free() map[string]int64 {
	disks := []fsys.FS{d.reconciler.System.FS, d.reconciler.UsrData.FS}
	if state, err := d.State(); err == nil {
		disks = append(disks, state)
	}
	free := map[string]int64{}
	for _, disk := range disks {
		if disk == nil {
			continue
		}
		if s, err := disk.Space(); err == nil {
			free[disk.Path(".")] = s.Free
		}
	}
	return free
}
