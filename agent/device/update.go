package device

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"tandem/agent/firmware"
	"tandem/backup"
	"tandem/internal/config"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/versioning"
)

// Update is what an installation did: to system, and to usr_data after it.
type Update struct {
	Installed *ota.Installed
	BackUp    *backup.Result
	Firmware  *firmware.Result // of a firmware; nil for the application
	Already   bool             // it was installed before
	Recalled  bool             // it was kept here, and came back because the release before it was recalled
}

// Install installs the bundle that open gives and backs it up at once. What
// open has to do is said at ota.Installer.Install.
//
// After success both sides are the new version. After an error or a power cut
// each side is the old version or the new one, and the next Boot brings them in
// step. If the backup alone failed, the result is there beside the error.
func (d *Device) Install(ctx context.Context, open func() (io.ReadCloser, error), o backup.InstallOptions) (*Update, error) {
	if err := d.Known(); err != nil {
		return nil, err
	}
	return d.install(ctx, "install", open, nil, o)
}

// install installs the bundle that open gives; it is what was fetched of offer,
// if that is not nil.
func (d *Device) install(ctx context.Context, command string, open func() (io.ReadCloser, error), offer *ota.Offer, o backup.InstallOptions) (*Update, error) {
	owner := ota.Owner(d.env.EUID, d.env.EGID, d.env.Now())
	o.Now, o.Owner = owner.Now, owner.Owner
	d.tight = o.Tight
	in, err := d.installer(o)
	if err != nil {
		return nil, err
	}
	if offer != nil {
		d.complete(in, *offer)
	}
	var from, to versioning.Version
	stopped := false
	in.PreInstall = func(ctx context.Context, f, t versioning.Version) error {
		from, to = f, t
		if err := errors.Join(d.checkHooks(), d.writable(backup.System, backup.UsrData)); err != nil {
			return err
		}
		return d.hook(ctx, "pre_install", d.cfg.Hooks.PreInstall, hookTimeout, f, t)
	}
	in.Stop = func(ctx context.Context, f, t versioning.Version) error {
		stopped = true
		return d.hook(ctx, "stop", d.cfg.Hooks.Stop, hookTimeout, f, t)
	}
	o.Pending = len(d.cfg.Hooks.Health) > 0
	o.Both = d.cfg.Agent.Backup == config.Immediate || !o.Pending
	done, err := in.Install(ctx, open, o)
	if errors.Is(err, backup.ErrInstalled) {
		return d.installedAlready(ctx, command, done)
	}
	if err != nil {
		if stopped { // what was stopped for the commit goes on as it was
			err = errors.Join(err, d.hook(ctx, "start", d.cfg.Hooks.Start, hookTimeout, to, from))
		}
		if ctx.Err() == nil || stopped { // what was interrupted before that has changed nothing
			why := err.Error()
			if ctx.Err() != nil {
				why = "interrupted"
			}
			d.Remember(Event{Command: command, From: from, Version: to, Error: why})
		}
		return nil, err
	}
	u := &Update{Installed: done}
	if done.Kind != release.App {
		u.Firmware, err = d.flash(ctx, done.App)
		return u, err
	}
	if d.cfg.Agent.Backup == config.Immediate || !o.Pending {
		u.BackUp, err = d.reconciler.Reconcile(ctx, backup.Options{})
		d.warnOfOneDisk()
	}
	event := Event{Command: command, Action: "installed", From: done.From, Version: done.Version, Bytes: done.Bytes}
	if o.Pending { // success is told once the version is known to be healthy
		event.Action = "pending"
	}
	if err != nil {
		how := "is installed on system, but not backed up"
		if errors.Is(err, backup.ErrBusy) || errors.Is(err, backup.ErrTooLarge) {
			how = "is installed, and backed up but for some configuration"
		}
		err = fmt.Errorf("%s %s: %w", done.Version, how, err)
		event.Error = err.Error()
	}
	d.Remember(event)
	res, unproven := d.Prove(ctx, done.From, done.Version, false)
	if res != nil && (u.BackUp == nil || unproven != nil) {
		u.BackUp = res
	}
	return u, errors.Join(err, unproven)
}

// installer returns what installs a bundle, whoever it is for.
func (d *Device) installer(o backup.InstallOptions) (*ota.Installer, error) {
	root, err := d.root()
	if err != nil {
		return nil, err
	}
	in := &ota.Installer{
		Reconciler: d.reconciler,
		Trust:      trust.Options{Root: root, Time: d.now(), AllowUnsigned: d.cfg.Trust.AllowUnsigned},
		App:        d.cfg.Device.App,
		Compatible: d.cfg.Device.Compatible,
		Firmware:   d.unpackers(o),
		Arch:       release.Architecture(),
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
	if own, err := d.itself(); err == nil && own != nil {
		in.Program = func(ctx context.Context, r *bundle.Reader) (versioning.Version, error) {
			return d.unpackItself(ctx, r, o)
		}
		in.Own = own
	}
	return in, nil
}

// complete lets in have of an offer what the device lacks, or its whole bundle after all.
func (d *Device) complete(in *ota.Installer, offer ota.Offer) {
	in.Release, in.Lacks = offer.Release.Release, d.lacks
	in.Complete = func(ctx context.Context, want func(backup.Path) bool) error {
		src, err := d.partial()
		if err != nil {
			return err
		}
		return src.Complete(ctx, offer, want)
	}
	in.Rest = func(ctx context.Context, want func(backup.Path) bool) (func() (io.ReadCloser, error), error) {
		src, err := d.source()
		if err != nil {
			return nil, err
		}
		f, ok := src.(fallback)
		if !ok {
			return nil, fmt.Errorf("%w: the source has no other form of the release", ota.ErrRefused)
		}
		file, err := f.Rest(ctx, offer, want, d.downloading)
		return func() (io.ReadCloser, error) { return os.Open(file) }, err
	}
}

// partial returns the source, if it can bring a part of a bundle.
func (d *Device) partial() (partial, error) {
	src, err := d.source()
	if err != nil {
		return nil, err
	}
	if src, ok := src.(partial); ok {
		return src, nil
	}
	return nil, fmt.Errorf("%w: the source brings bundles whole", ota.ErrRefused)
}

// installedAlready brings the sides in step, as an installation would, where the
// version is there already.
func (d *Device) installedAlready(ctx context.Context, command string, there *ota.Installed) (u *Update, err error) {
	u = &Update{Installed: there, Already: true}
	if there.Kind == release.App {
		u.BackUp, err = d.Boot(ctx, command, backup.Options{})
	}
	return u, err
}

// roomFor reports whether both sides could hold an offer at all, with its bundle
// beside it where that is downloaded to the same file system.
func (d *Device) roomFor(o *ota.Offer) error {
	state, err := d.State()
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
