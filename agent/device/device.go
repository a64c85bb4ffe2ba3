// Package device is one device, for commands and the agent alike: it puts the
// sides, the source and the configuration together.
package device

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"tandem/agent/self"
	"tandem/backup"
	"tandem/internal/boot"
	"tandem/internal/child"
	"tandem/internal/config"
	"tandem/internal/fsys"
	"tandem/internal/lock"
	"tandem/internal/mounts"
	"tandem/ota"
	"tandem/ota/hawkbit"
)

// ErrNoRoot says that the device has no root of trust.
var ErrNoRoot = errors.New("no root of trust")

// Environment is what a device needs of the world.
type Environment struct {
	Log      *logrus.Logger
	Now      func() time.Time
	Built    time.Time // when this program was built; zero if unknown
	Version  string    // of this program
	Format   int       // that files of ours are written in; 0 is the newest that this program knows
	Program  string    // where it lies; "" where Tandem does not keep itself
	Random   io.Reader
	Progress backup.Progress
	// Happened is told of each event that was remembered; it may be nil.
	Happened func(Event)
	// Received is told of bytes that came from the source; it may be nil.
	Received func(n int)
	// Output is where the application's output goes that the start hook leaves
	// running; where it is nil, the hook's goes to the log as that of others does.
	Output *os.File
	// Outside runs hooks and handlers; where it is nil, this process does.
	Outside *child.Outside
	// Polled is what was polled last of a hawkBit server; it may be nil.
	Polled *hawkbit.Cache
	// Hopeless remembers, from one Device to the next, whose downloads are of no use
	// when room is short; it may be nil.
	Hopeless map[string]bool
	// Warned remembers so what was warned of already; it may be nil.
	Warned map[string]bool
	// Hook is the hook that the one who asks runs in, as HookVariable has it; "" for none.
	Hook string
	// By is the one for whom something is done, for the history; "" where that goes
	// without saying.
	By string
	// Explain says of an error what a command tells about it; it may be nil.
	Explain func(error) Failure
	EUID    int
	EGID    int
}

// Validate says what is missing that nothing goes without.
func (e *Environment) Validate() error {
	missing := ""
	switch {
	case e.Log == nil:
		missing = "Log"
	case e.Now == nil:
		missing = "Now"
	case e.Random == nil:
		missing = "Random"
	default:
		return nil
	}
	return fmt.Errorf("device.Environment: %s is missing", missing)
}

// Device is the device that this process runs on.
type Device struct {
	cfg        *config.Config
	env        Environment
	reconciler *backup.Reconciler
	releases   []func() error // of locks
	open       []io.Closer
	stateFS    fsys.FS    // nil until it is needed
	stateKnown bool       // nothing in the agent's state was made by a newer Tandem
	remounted  []string   // mount points to make read-only again
	stopped    bool       // a stop hook had run before this, and no start hook since
	unstarted  error      // why the application was not started after the last return to a version; nil: it was
	online     bool       // it holds the lock of those who talk to the source
	idle       []func()   // closes connections that are kept open
	trusted    *ota.Store // once it is needed
	feed       Source     // once it is needed
	own        *self.Self // Tandem's own program, once it is needed
	tight      bool       // it is put in place also where there is no room for two
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
	if err := env.Validate(); err != nil {
		return nil, err
	}
	d = &Device{cfg: cfg, env: env}
	defer func() {
		if err != nil {
			_ = d.Close() // the error that came first says what is wrong
			d = nil
		}
	}()
	if access == Change {
		if err := d.keepLock(lock.Acquire(cfg.Agent.Lock)); err != nil {
			if r := HookRunning(cfg); r != nil && r.Hook == env.Hook {
				err = r.Busy()
			}
			return d, err
		}
	}
	if err := d.modest(); err != nil {
		return d, err
	}
	if access == Change {
		_, err := os.Stat(d.note(stoppedNote))
		d.stopped = err == nil
	}
	// By links and mounts, too, the sides may be one.
	if live, err := os.Stat(cfg.System.Path); err == nil {
		if kept, err := os.Stat(cfg.UsrData.Path); err == nil && os.SameFile(live, kept) {
			return d, &config.Error{File: cfg.File, Key: "usr_data.path", Message: cfg.UsrData.Path + " is also system.path: expected two different directories"}
		}
	}
	d.reconciler = &backup.Reconciler{
		Log: env.Log, Progress: env.Progress, Now: env.Now, Wait: wait, By: d.Author(),
		Boot: boot.ID(), Started: boot.Started(env.Now()), Session: boot.Note(cfg.Agent.Lock + ".seen"),
		AtOnce: runtime.GOMAXPROCS(0) > 1, App: cfg.Device.App, Compatible: cfg.Device.Compatible,
	}
	if len(cfg.Hooks.Capture) > 0 {
		d.reconciler.Still = d.still
	}
	if d.reconciler.System, err = d.side(backup.System, cfg.System, access); err != nil {
		return d, err
	}
	if d.reconciler.UsrData, err = d.side(backup.UsrData, cfg.UsrData, access); err != nil {
		return d, err
	}
	return d, nil
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
	if _, err := d.State(); err != nil {
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
		if err := sandboxed(name, c); err != nil {
			d.env.Log.Warn(err)
			return unusable(err), nil
		}
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
		case fsys.IsTransient(err):
			return nil, fmt.Errorf("%s: %w", name, err)
		case err != nil:
			return unusable(fmt.Errorf("%w: %s: %w", backup.ErrUnavailable, name, err)), nil
		}
	}
	disk, err := fsys.OpenOS(c.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return unusable(err), nil
	case fsys.IsTransient(err):
		return nil, fmt.Errorf("%s: %w", name, err)
	case err != nil:
		return unusable(fmt.Errorf("%w: %s: %w", backup.ErrUnavailable, name, err)), nil
	}
	d.open = append(d.open, disk)
	s = backup.NewSide(name, disk)
	s.Mounted = func() (fsys.FS, error) {
		apps, err := fsys.OpenOS(filepath.Join(c.Path, "apps"))
		if err == nil {
			d.open = append(d.open, apps)
		}
		return apps, err
	}
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

// writable says which side cannot be written, before anything depends on it: an
// installation that could not be backed up is not begun. One that is remounted for
// a change is found out about then. The error wraps backup.ErrUnavailable.
func (d *Device) writable(names ...backup.SideName) error {
	var errs []error
	for _, side := range []struct {
		name backup.SideName
		config.Side
	}{{backup.System, d.cfg.System}, {backup.UsrData, d.cfg.UsrData}} {
		if side.Remount || !slices.Contains(names, side.name) {
			continue
		}
		if err := unix.Faccessat(unix.AT_FDCWD, side.Path, unix.W_OK, unix.AT_EACCESS); err != nil && err != unix.ENOENT { // that would be made
			errs = append(errs, fmt.Errorf("%s: %w: not writable: %s: %w", side.name, backup.ErrUnavailable, side.Path, err))
		}
	}
	return errors.Join(errs...)
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
