// Package agent does what Tandem is for on one device: it puts the sides, the
// source and the configuration together.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/fsys"
	"tandem/internal/lock"
	"tandem/internal/mounts"
	"tandem/ota"
	"tandem/ota/download"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/versioning"
)

// ErrNoRoot says that the device has no root of trust.
var ErrNoRoot = errors.New("no root of trust")

// Environment is what a device needs of the world.
type Environment struct {
	Log      *logrus.Logger
	Now      func() time.Time
	Built    time.Time // when this program was built; zero if unknown
	Version  string    // of this program
	Random   io.Reader
	Progress backup.Progress
	// Happened is told of each event that was remembered; it may be nil.
	Happened func(Event)
	// Received is told of bytes that came from the source; it may be nil.
	Received func(n int)
	// Explain says of an error what a command tells about it; it may be nil.
	Explain func(error) Failure
	EUID    int
	EGID    int
}

// Device is the device that this process runs on.
type Device struct {
	cfg        *config.Config
	env        Environment
	reconciler *backup.Reconciler
	releases   []func() error // of locks
	open       []io.Closer
	stateFS    fsys.FS      // nil until it is needed
	remounted  []string     // mount points to make read-only again
	online     bool         // it holds the lock of those who talk to the source
	idle       []func()     // closes connections that are kept open
	repo       *ota.Repo    // the source, once it is needed
	listed     *ota.Listing // what it offered, once it was polled
}

// Access says what a command will do with the device.
type Access int

// The kinds of access.
const (
	Look   Access = iota // read only, without a lock: others may be at work
	Change               // alone, and directories that are missing are made
)

// Open opens the device that cfg describes. Close lets go of it.
//
// With Change it takes the lock, makes the directories of the sides where the
// partitions they belong on are mounted, and locks these, too: the lock file tells
// who is at work, and may be removed by hand. The error wraps lock.ErrBusy or
// backup.ErrUnavailable where that is the reason.
func Open(cfg *config.Config, env Environment, access Access) (d *Device, err error) {
	d = &Device{cfg: cfg, env: env}
	defer func() {
		if err != nil {
			_ = d.Close() // the error that came first says what is wrong
			d = nil
		}
	}()
	if access == Change {
		if err := d.keepLock(lock.Acquire(cfg.Agent.Lock)); err != nil {
			return d, err
		}
	}
	d.reconciler = &backup.Reconciler{Log: env.Log, Progress: env.Progress, Now: env.Now}
	if d.reconciler.System, err = d.side(backup.System, cfg.System, access); err != nil {
		return d, err
	}
	if d.reconciler.UsrData, err = d.side(backup.UsrData, cfg.UsrData, access); err != nil {
		return d, err
	}
	return d, nil
}

// keepLock holds a lock, if it was taken, until Close.
func (d *Device) keepLock(release func() error, err error) error {
	if err == nil {
		d.releases = append(d.releases, release)
	}
	return err
}

// goOnline makes this tandem the only one that talks to the source, and so
// writes metadata and downloads, until Close.
func (d *Device) goOnline() error {
	if d.online {
		return nil
	}
	if _, err := d.state(); err != nil {
		return err
	}
	err := d.keepLock(lock.Acquire(filepath.Join(d.cfg.Agent.State, "source.lock")))
	d.online = err == nil
	return err
}

// side opens a side. One that cannot be used is part of the device all the
// same, so that its state can be told.
func (d *Device) side(name backup.SideName, c config.Side, access Access) (*backup.Side, error) {
	s := &backup.Side{Name: name}
	unusable := func(err error) *backup.Side {
		s.Ready = func() error { return err }
		return s
	}
	if c.Mount != "" {
		ok, err := mounts.Mounted(c.Mount)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !ok {
			return unusable(fmt.Errorf("%w: %s: nothing is mounted at %s", backup.ErrUnavailable, name, c.Mount)), nil
		}
	}
	if access == Change {
		err := makeDir(c.Path)
		if c.Remount && errors.Is(err, syscall.EROFS) {
			if err = d.remount(c.Path); err == nil {
				err = makeDir(c.Path)
			}
		}
		if err == nil {
			err = d.keepLock(lock.Directory(c.Path))
		}
		switch {
		case errors.Is(err, lock.ErrBusy):
			return nil, err
		case err != nil:
			return unusable(fmt.Errorf("%w: %s: %w", backup.ErrUnavailable, name, err)), nil
		}
	}
	disk, err := fsys.OpenOS(c.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return unusable(err), nil
	case err != nil:
		return unusable(fmt.Errorf("%w: %s: %w", backup.ErrUnavailable, name, err)), nil
	}
	d.open = append(d.open, disk)
	s = backup.NewSide(name, disk)
	if c.Remount && access == Change {
		s.FS = fsys.OnReadOnly(s.FS, func() error { return d.remount(c.Path) })
	}
	return s, nil
}

// remount makes the file system that path lies on writable until Close.
func (d *Device) remount(path string) error {
	point, err := mounts.Point(path)
	if err != nil {
		return err
	}
	if err := mounts.Remount(point, false); err != nil {
		return err
	}
	d.env.Log.WithField("mount", point).Info("remounted read-write for the change")
	d.remounted = append(d.remounted, point)
	return nil
}

// warnOfOneDisk tells when the two sides are lost together.
func (d *Device) warnOfOneDisk() {
	system, usrData := d.reconciler.System, d.reconciler.UsrData
	if system.FS == nil || usrData.FS == nil {
		return
	}
	a, errA := system.FS.Lstat(".")
	b, errB := usrData.FS.Lstat(".")
	if errA == nil && errB == nil && a.Dev == b.Dev {
		d.env.Log.Warn("system and usr_data are on one file system: the copy does not survive its loss")
	}
}

// makeDir durably makes a directory and those above it that are missing.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	p, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Sync()
}

// Close lets go of the device.
func (d *Device) Close() error {
	var errs []error
	for _, closeIdle := range d.idle {
		closeIdle()
	}
	for _, c := range d.open {
		errs = append(errs, c.Close())
	}
	for _, point := range d.remounted {
		if err := mounts.Remount(point, true); err != nil {
			errs = append(errs, fmt.Errorf("it stays writable: %w", err))
		}
	}
	for _, release := range d.releases {
		errs = append(errs, release())
	}
	return errors.Join(errs...)
}

// Boot brings the sides in step: backup.Reconciler.Reconcile says what holds
// afterwards. It remembers what it did under the name of the command.
func (d *Device) Boot(ctx context.Context, command string, o backup.Options) (*backup.Result, error) {
	var err error
	if o.Hold, err = d.hold(); err != nil {
		return nil, err
	}
	res, err := d.reconciler.Reconcile(ctx, o)
	if res != nil && len(res.Changed) > 0 {
		d.warnOfOneDisk()
	}
	changed := res != nil && len(res.Changed)+len(res.Finished) > 0
	if changed || err != nil && ctx.Err() == nil && !errors.Is(err, backup.ErrNoApplication) {
		d.remember(reconciled(command, res, err))
	}
	return res, err
}

// hold gives the version whose backup waits until it is confirmed; zero if
// there is none, or the configuration wants it backed up at once.
func (d *Device) hold() (versioning.Version, error) {
	if d.cfg.Agent.Backup != config.Confirmed {
		return versioning.Version{}, nil
	}
	p, err := d.reconciler.Pending()
	if err != nil || p == nil {
		return versioning.Version{}, err
	}
	return p.Version, nil
}

// Start is Boot at the start of the device: it counts the starts of a version
// that waits to be confirmed, and rolls it back when they are used up. The error
// wraps ErrUnhealthy then. The firmwares are gone on with after it.
func (d *Device) Start(ctx context.Context) (*backup.Result, error) {
	res, err := d.start(ctx)
	return res, errors.Join(err, d.startFirmware(ctx))
}

func (d *Device) start(ctx context.Context) (*backup.Result, error) {
	res, err := d.Boot(ctx, "boot", backup.Options{})
	if err != nil {
		return res, err
	}
	p, err := d.reconciler.Pending()
	if err != nil || p == nil {
		return res, err
	}
	if p.Starts < d.cfg.Agent.Boots {
		p.Starts++
		d.env.Log.WithField("version", p.Version).Warnf("not confirmed yet: start %d of %d", p.Starts, d.cfg.Agent.Boots)
		return res, d.reconciler.SetPending(*p)
	}
	reason := fmt.Sprintf("%s was not confirmed within %d starts", p.Version, d.cfg.Agent.Boots)
	returned, err := d.giveUp(ctx, *p, reason, false)
	if returned != nil {
		res = returned
	}
	return res, err
}

// Plan says what Boot would do, and changes nothing.
func (d *Device) Plan(ctx context.Context, o backup.Options) (*backup.Result, error) {
	return d.reconciler.Look(ctx, o)
}

// Status is what is known of the device without reading every file.
type Status struct {
	InStep     bool                           `json:"in_step"`
	Sides      map[backup.SideName]SideStatus `json:"sides"`
	Pending    *backup.Pending                `json:"pending"`
	Revoked    []versioning.Version           `json:"revoked"`
	LastUpdate *Event                         `json:"last_update"`
	Firmware   []FirmwareStatus               `json:"firmware,omitempty"` // in the order of the configuration
	Agent      *AgentStatus                   `json:"agent,omitempty"`    // where one runs and was asked
}

// SideStatus is what is known of a side.
type SideStatus struct {
	Path     string             `json:"path"`
	State    backup.State       `json:"state"`
	Version  versioning.Version `json:"version"`
	Revision int                `json:"revision"`
	Files    int                `json:"files"`
	Previous versioning.Version `json:"previous"`
	Detail   string             `json:"detail,omitempty"` // why the state is not intact
}

// Status looks at both sides. Other than Boot it has no error for a device
// that is not well: its answer says so.
func (d *Device) Status(ctx context.Context) (*Status, error) {
	res, err := d.reconciler.Look(ctx, backup.Options{})
	if res == nil {
		return nil, err
	}
	s := &Status{
		InStep: err == nil && res.Decision.Action == backup.Nothing,
		Sides: map[backup.SideName]SideStatus{
			backup.System:  sideStatus(res.System, d.cfg.System.Path),
			backup.UsrData: sideStatus(res.UsrData, d.cfg.UsrData.Path),
		},
	}
	if s.Revoked, err = d.reconciler.Revoked(); err != nil {
		return nil, err
	}
	if s.Revoked == nil {
		s.Revoked = []versioning.Version{}
	}
	if s.Pending, err = d.reconciler.Pending(); err != nil {
		return nil, err
	}
	events, err := d.History()
	if err != nil {
		d.env.Log.WithError(err).Warn("the history cannot be read")
	}
	for i := range events {
		switch events[i].Command {
		case "install", "update", "rollback", "confirm":
			s.LastUpdate = &events[i]
		}
	}
	if s.Firmware, err = d.firmwareStatus(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func sideStatus(s *backup.Snapshot, path string) SideStatus {
	return SideStatus{Path: path, State: s.State, Version: s.Version, Revision: s.Revision, Files: s.Files, Previous: s.Previous, Detail: s.Detail}
}

// Verify hashes every file of both sides. The error wraps backup.ErrDamage if
// a side is not as it should be.
func (d *Device) Verify(ctx context.Context) (*backup.Result, error) {
	res, err := d.reconciler.Look(ctx, backup.Options{Full: true})
	if err != nil {
		return res, err
	}
	var wrong []string
	for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
		if s.State != backup.Intact {
			wrong = append(wrong, fmt.Sprintf("%s is %s", s.Side, s.State))
		}
	}
	if len(wrong) > 0 {
		return res, fmt.Errorf("%w: %s", backup.ErrDamage, strings.Join(wrong, ", "))
	}
	return res, nil
}

// Bump makes what lies on system a new version and backs it up.
func (d *Device) Bump(ctx context.Context, next func(versioning.Version) (versioning.Version, error)) (*backup.Result, error) {
	if _, err := d.reconciler.Bump(ctx, next); err != nil {
		return nil, err
	}
	return d.Boot(ctx, "bump", backup.Options{Running: true})
}

// Update is what an installation did: to system, and to usr_data after it.
type Update struct {
	Installed *ota.Installed
	Offer     *ota.Offer // nil for a bundle installed by hand
	BackUp    *backup.Result
	Firmware  *FirmwareResult // of a firmware; nil for the application
}

// Install installs the bundle that open gives and backs it up at once. What
// open has to do is said at ota.Installer.Install.
//
// After success both sides are the new version. After an error or a power cut
// each side is the old version or the new one, and the next Boot brings them in
// step. If the backup alone failed, the result is there beside the error.
func (d *Device) Install(ctx context.Context, open func() (io.ReadCloser, error), o backup.InstallOptions) (*Update, error) {
	return d.install(ctx, "install", open, o)
}

func (d *Device) install(ctx context.Context, command string, open func() (io.ReadCloser, error), o backup.InstallOptions) (*Update, error) {
	root, err := d.root()
	if err != nil {
		return nil, err
	}
	owner := ota.Owner(d.env.EUID, d.env.EGID, d.env.Now())
	o.Now, o.UID, o.GID = owner.Now, owner.UID, owner.GID
	in := &ota.Installer{
		Reconciler: d.reconciler,
		Trust:      trust.Options{Root: root, Time: d.now(), AllowUnsigned: d.cfg.Trust.AllowUnsigned},
		App:        d.cfg.Device.App,
		Compatible: d.cfg.Device.Compatible,
		Firmware:   d.unpackers(o),
		Log:        d.env.Log,
		Progress:   d.env.Progress,
		KeepRoot: func(data []byte) error {
			store, err := d.store()
			if err != nil {
				return err
			}
			return store.AddRoot(data)
		},
	}
	var from, to versioning.Version
	stopped := false
	in.PreInstall = func(ctx context.Context, f, t versioning.Version) error {
		from, to = f, t
		return d.hook(ctx, "pre_install", d.cfg.Hooks.PreInstall, hookTimeout, f, t)
	}
	in.Stop = func(ctx context.Context, f, t versioning.Version) error {
		stopped = true
		return d.hook(ctx, "stop", d.cfg.Hooks.Stop, hookTimeout, f, t)
	}
	o.Pending = len(d.cfg.Hooks.Health) > 0
	done, err := in.Install(ctx, open, o)
	if err != nil {
		if stopped { // what was stopped for the commit goes on as it was
			err = errors.Join(err, d.hook(ctx, "start", d.cfg.Hooks.Start, hookTimeout, to, from))
		}
		d.remember(Event{Command: command, From: from, Version: to, Error: err.Error()})
		return nil, err
	}
	u := &Update{Installed: done}
	if done.Kind == release.Firmware {
		u.Firmware, err = d.flash(ctx, done.App)
		return u, err
	}
	if d.cfg.Agent.Backup == config.Immediate || !o.Pending {
		u.BackUp, err = d.reconciler.Reconcile(ctx, backup.Options{Running: true})
		d.warnOfOneDisk()
	}
	event := Event{Command: command, Action: "installed", From: done.From, Version: done.Version, Bytes: done.Bytes}
	if o.Pending { // success is told once the version is known to be healthy
		event.Action = "pending"
	}
	if err != nil {
		err = fmt.Errorf("%s is installed on system, but not backed up: %w", done.Version, err)
		event.Error = err.Error()
	}
	d.remember(event)
	res, unproven := d.prove(ctx, done.From, done.Version, false)
	if res != nil && (u.BackUp == nil || unproven != nil) {
		u.BackUp = res
	}
	return u, errors.Join(err, unproven)
}

// prove asks whether a version that was just installed is healthy: if so it is
// confirmed, if not it is revoked and the one before comes back. The error wraps
// ErrUnhealthy then. A health check that postpones leaves it waiting. started
// says that the application was started with it already.
func (d *Device) prove(ctx context.Context, from, to versioning.Version, started bool) (*backup.Result, error) {
	var err error
	if !started {
		err = d.hook(ctx, "start", d.cfg.Hooks.Start, hookTimeout, from, to)
	}
	if err == nil {
		err = d.hook(ctx, "health", d.cfg.Hooks.Health, d.cfg.Hooks.HealthTimeout, from, to)
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, ErrPostponed):
		d.env.Log.WithError(err).Warn("not confirmed yet")
		return nil, nil
	case err != nil:
		return d.giveUp(ctx, backup.Pending{Version: to, Previous: from}, err.Error(), true)
	case len(d.cfg.Hooks.Health) == 0:
		return nil, nil
	}
	return d.Confirm(ctx)
}

// giveUp revokes a version that failed and returns to the one before. The
// error wraps ErrUnhealthy, also where there is none to return to. running says
// that the application may run.
func (d *Device) giveUp(ctx context.Context, p backup.Pending, reason string, running bool) (*backup.Result, error) {
	err := fmt.Errorf("%w: %s", ErrUnhealthy, reason)
	res, _, now, e := d.rollback(ctx, versioning.Version{}, running)
	if errors.Is(e, backup.ErrNothingToReturnTo) {
		// It is the only one there is: it stays, but is never offered again.
		e = errors.Join(e, d.reconciler.Revoke(p.Version), d.reconciler.ClearPending())
		err = fmt.Errorf("%w; it stays, because there is nothing to return to", err)
	}
	d.remember(rolledBack(p.Version, now, reason, e))
	return res, errors.Join(err, e)
}

// rollback returns to another version that is kept here and brings the sides
// in step. An application that may run is stopped before and started after it;
// at boot that is the init script's business.
func (d *Device) rollback(ctx context.Context, to versioning.Version, running bool) (res *backup.Result, from, now versioning.Version, err error) {
	stopped := false
	from, now, err = d.reconciler.Rollback(ctx, to, func(from, now versioning.Version) {
		if !running {
			return
		}
		stopped = true
		if err := d.hook(ctx, "stop", d.cfg.Hooks.Stop, hookTimeout, from, now); err != nil {
			d.env.Log.WithError(err).Warn("rolling back all the same")
		}
	})
	if err == nil {
		if res, err = d.reconciler.Reconcile(ctx, backup.Options{Running: running}); res != nil {
			res.Returned = true
		}
	}
	if err == nil {
		err = d.reconciler.ClearPending()
	}
	if stopped {
		if e := d.hook(ctx, "start", d.cfg.Hooks.Start, hookTimeout, from, now); e != nil {
			d.env.Log.WithError(e).Warn("the application did not start")
		}
	}
	return res, from, now, err
}

// Rollback returns to the version before, or to the one named. What holds
// afterwards is said at backup.Reconciler.Rollback.
func (d *Device) Rollback(ctx context.Context, to versioning.Version) (*backup.Result, error) {
	res, from, now, err := d.rollback(ctx, to, true)
	d.remember(rolledBack(from, now, "", err))
	return res, err
}

// Confirm takes the version on system for healthy. With backup = "confirmed"
// it is backed up now.
func (d *Device) Confirm(ctx context.Context) (*backup.Result, error) {
	p, err := d.reconciler.Pending()
	if err != nil {
		return nil, err
	}
	if err := d.reconciler.ClearPending(); err != nil {
		return nil, err
	}
	if p != nil {
		d.remember(Event{Command: "confirm", Action: "confirmed", Version: p.Version})
	}
	return d.Boot(ctx, "confirm", backup.Options{Running: true})
}

// Revoke marks a version as one that is never to be chosen while anything else
// is intact. If it is the one that runs, the one before comes back.
func (d *Device) Revoke(ctx context.Context, v versioning.Version) (*backup.Result, error) {
	look, err := d.reconciler.Look(ctx, backup.Options{})
	if err != nil {
		return nil, err
	}
	runs := look.Version.Compare(v) == 0
	if runs {
		if err := d.hook(ctx, "stop", d.cfg.Hooks.Stop, hookTimeout, v, versioning.Version{}); err != nil {
			d.env.Log.WithError(err).Warn("revoking all the same")
		}
	}
	if err := d.reconciler.Revoke(v); err != nil {
		return nil, err
	}
	d.remember(Event{Command: "revoke", Action: "revoked", Version: v})
	res, err := d.Boot(ctx, "revoke", backup.Options{Running: true})
	if runs && res != nil {
		if e := d.hook(ctx, "start", d.cfg.Hooks.Start, hookTimeout, v, res.Version); e != nil {
			d.env.Log.WithError(e).Warn("the application did not start")
		}
	}
	return res, err
}

// Unrevoke takes that mark away.
func (d *Device) Unrevoke(v versioning.Version) error {
	if err := d.reconciler.Unrevoke(v); err != nil {
		return err
	}
	d.remember(Event{Command: "unrevoke", Action: "unrevoked", Version: v})
	return nil
}

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

// state opens the agent's state directory, and makes it if need be. Where it
// belongs on a partition that is not mounted, it is not made on the one below.
func (d *Device) state() (fsys.FS, error) {
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
	state, err := d.state()
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
	state, err := d.state()
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

// roomFor says whether both sides could hold an offer at all, with its bundle
// beside it where that is downloaded to the same file system.
func (d *Device) roomFor(o *ota.Offer) error {
	state, err := d.state()
	if err != nil {
		return err
	}
	home, err := state.Lstat(".")
	if err != nil {
		return err
	}
	for _, s := range []*backup.Side{d.reconciler.System, d.reconciler.UsrData} {
		need := o.Release.Unpacked
		if s.FS != nil {
			if at, err := s.FS.Lstat("."); err == nil && at.Dev == home.Dev {
				need += o.Size
			}
		}
		if err := d.reconciler.CouldHold(s.Name, need); err != nil {
			return err
		}
	}
	return nil
}

// fetch downloads an offer, if there is room for what it carries.
func (d *Device) fetch(ctx context.Context, o ota.Offer) (string, error) {
	if o.Release.Kind != release.Firmware {
		if err := d.roomFor(&o); err != nil {
			return "", fmt.Errorf("%s is not downloaded: %w", o.Release.Version, err)
		}
	}
	src, err := d.source()
	if err != nil {
		return "", err
	}
	return src.Fetch(ctx, o, func(done, total int64) {
		if d.env.Progress != nil {
			d.env.Progress("downloading", done, total)
		}
	})
}

// Update asks the source, downloads what it offers, installs it and backs it
// up, once. A nil Update says that there is nothing newer. What holds after an
// error is said at Install.
func (d *Device) Update(ctx context.Context) (*Update, versioning.Version, error) {
	dec, installed, err := d.Check(ctx)
	if err != nil || dec.Best == nil {
		return nil, installed, err
	}
	name, err := d.fetch(ctx, *dec.Best)
	if err != nil {
		return nil, installed, err
	}
	open := func() (io.ReadCloser, error) { return os.Open(name) }
	u, err := d.install(ctx, "update", open, backup.InstallOptions{})
	if u != nil {
		u.Offer = dec.Best
		if e := os.Remove(name); e != nil { // it has done its work; the space is scarce
			d.env.Log.WithError(e).Warn("the installed bundle could not be removed")
		}
	}
	return u, installed, err
}
