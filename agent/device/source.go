package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/fsys"
	"tandem/internal/mounts"
	"tandem/ota"
	"tandem/packaging/trust"
)

// root returns the newest root that the device trusts; nil if there is none and
// none is needed.
func (d *Device) root() (*trust.Root, error) {
	provisioned, err := d.provisioned()
	if err != nil || provisioned == nil {
		return nil, err
	}
	store, err := d.store()
	if fsys.IsTransient(err) { // a newer root may be there, which trusts fewer
		return nil, err
	}
	if err != nil {
		d.env.Log.WithError(err).Warn("the agent's state cannot be used; trusting the root that the device came with")
		return provisioned, nil
	}
	return store.Root(), nil
}

// Expiries returns until when the root and the metadata that the device trusts are
// valid, and the time that they are judged by. It makes no directory.
func (d *Device) Expiries() (all []ota.Expiry, now time.Time, err error) {
	now = trust.ReferenceTime(d.env.Now(), d.env.Built)
	root, err := d.provisioned()
	if err != nil || root == nil {
		return nil, now, err
	}
	if _, err := os.Stat(d.cfg.Agent.State); err != nil {
		return []ota.Expiry{{Role: "root", Expires: root.Expires()}}, now, nil
	}
	store, err := d.store()
	if err != nil {
		return nil, now, err
	}
	return store.Expiries(), d.now(), nil
}

func (d *Device) provisioned() (*trust.Root, error) {
	data, err := os.ReadFile(d.cfg.Trust.Root)
	if errors.Is(err, fs.ErrNotExist) && d.cfg.Trust.AllowUnsigned {
		return nil, nil
	}
	if fsys.IsTransient(err) {
		return nil, err
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
// belongs on a partition that is not mounted, it is not made on the one below. The
// error wraps record.ErrNewer where a newer Tandem wrote into it.
func (d *Device) State() (fsys.FS, error) {
	if d.stateFS != nil {
		return d.stateFS, nil
	}
	if err := d.stateMounted(); err != nil {
		return nil, err
	}
	if err := makeDir(d.cfg.Agent.State); err != nil {
		return nil, err
	}
	disk, err := fsys.OpenOS(d.cfg.Agent.State)
	if err != nil {
		return nil, err
	}
	if !d.stateKnown {
		if err := newerIn(disk); err != nil {
			return nil, errors.Join(err, disk.Close())
		}
	}
	d.stateKnown = true
	d.open = append(d.open, disk)
	d.stateFS = disk
	return disk, nil
}

// stateMounted says that the partition that the state directory belongs on is
// not mounted, if so. The error wraps backup.ErrUnavailable.
func (d *Device) stateMounted() error {
	for _, side := range []config.Side{d.cfg.System, d.cfg.UsrData} {
		if side.Mount == "" || !mounts.Below(side.Mount, d.cfg.Agent.State) {
			continue
		}
		if ok, err := mounts.Mounted(side.Mount); err != nil || !ok {
			return errors.Join(fmt.Errorf("%w: agent.state: %s: nothing is mounted at %s", backup.ErrUnavailable, d.cfg.Agent.State, side.Mount), err)
		}
	}
	return nil
}

// store opens what is trusted, once: each of its roots is verified then.
func (d *Device) store() (*ota.Store, error) {
	if d.trusted != nil {
		return d.trusted, nil
	}
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
	store := ota.OpenStore(state, provisioned, d.env.Log)
	store.By = d.Author()
	if err := store.Err(); err != nil {
		return nil, err
	}
	d.trusted = store
	return store, nil
}

// now is the reference time: no earlier than what is known for sure.
func (d *Device) now() time.Time {
	store, err := d.store()
	if err != nil {
		return trust.ReferenceTime(d.env.Now(), d.env.Built)
	}
	return store.RefTime(d.env.Now(), d.env.Built)
}

// ClockBehind reports whether the clock shows a time that has passed for sure: it
// was not set since the power came.
func (d *Device) ClockBehind() bool {
	now := d.env.Now()
	return d.now().Sub(now) > time.Minute
}

// Free returns the bytes that are free where a release needs them: on the sides
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
