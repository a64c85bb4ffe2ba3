package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tandem/backup/change"
	"tandem/internal/child"
	"tandem/internal/config"
	"tandem/versioning"
)

var (
	// ErrUnhealthy says that a version was taken back because it did not work.
	ErrUnhealthy = errors.New("unhealthy: rolled back")
	// ErrNotStarted says that the start hook could not run: the version is there,
	// and nothing is known against it.
	ErrNotStarted = errors.New("is installed, but the application was not started")
	// ErrHook says that a hook lacks something, whatever the version: that was taken back,
	// and nothing is known against it. It wraps child.ErrNotRun.
	ErrHook = fmt.Errorf("%w: a program that it calls is missing, whatever the version", child.ErrNotRun)
)

// hookGrace is how long the hooks that start and stop the application may go on
// once tandem is told to end: an application is not left half started.
const hookGrace = 3 * time.Second

// hookTimeout bounds every hook but the health check, which has its own.
const hookTimeout = 5 * time.Minute

// captureTimeout bounds each call of the capture hook.
const captureTimeout = 30 * time.Second

// still has the capture hook ask the application to hold still, and returns what
// lets it go on: that follows each call that asked, however it ended. A hook that
// fails or cannot run is told, and the capture goes on without.
func (d *Device) still(ctx context.Context) (release func(), err error) {
	argv := d.cfg.Hooks.Capture
	call := func(ctx context.Context, what string) {
		tag, _ := versioning.ReadTag(d.reconciler.System.FS, change.TagFile) // it is only told to the hook
		if err := d.hook(ctx, "capture", append(slices.Clone(argv), what), captureTimeout, tag, tag); err != nil {
			d.env.Log.WithError(err).Warnf("the capture hook failed at %q: configuration is captured all the same", what)
		}
	}
	if err := child.Check(argv); err != nil {
		d.env.Log.WithError(err).Warn("the capture hook cannot run: configuration is captured all the same")
		return func() {}, nil
	}
	call(ctx, "begin")
	return func() { call(context.WithoutCancel(ctx), "end") }, nil
}

// hook runs a command of the configuration: the update is from one version to
// another. An empty command succeeds. Its output goes to the log, line by line;
// that of the start hook goes where this program's own goes, so that the
// application that it leaves running keeps it. child.Run says what the error wraps.
func (d *Device) hook(ctx context.Context, name string, argv []string, timeout time.Duration, from, to versioning.Version) error {
	_, err := d.listenToHook(ctx, name, argv, timeout, from, to)
	return err
}

// listenToHook is hook, and reports whether the version to was confirmed while
// the hook ran, with "tandem confirm".
func (d *Device) listenToHook(ctx context.Context, name string, argv []string, timeout time.Duration, from, to versioning.Version) (said bool, err error) {
	if len(argv) == 0 {
		if name == "start" {
			d.removeNote(stoppedNote)
		}
		return false, nil
	}
	p := child.Program{
		Name: name, Argv: argv, Timeout: timeout, Outside: d.env.Outside,
		Env: []string{
			HookVariable + "=" + name,
			"TANDEM_APP=" + d.cfg.Device.App,
			"TANDEM_VERSION=" + to.String(),
			"TANDEM_PREVIOUS=" + from.String(),
			"TANDEM_SYSTEM=" + d.cfg.System.Path,
			"TANDEM_USR_DATA=" + d.cfg.UsrData.Path,
			"TANDEM_APPS=" + d.cfg.System.Path + "/apps",
		},
		Out: func(line string) { d.env.Log.WithField("hook", name).Info(line) },
	}
	switch name {
	case "start":
		p.Grace, p.Inherit = hookGrace, d.env.Output
	case "capture":
		p.Grace = hookGrace
	case "stop":
		p.Grace = hookGrace
		d.writeNote(stoppedNote, to.String())
	}
	end := d.announce(name, to.String())
	err = child.Run(ctx, p)
	said = end()
	if errors.Is(err, child.ErrNotRun) && d.Shipped(name, argv) {
		if broken := child.Check(argv); broken != nil { // by the version itself
			err = fmt.Errorf("%w: %s: the version has no such program: %v", child.ErrRefused, name, broken)
		}
	}
	if name == "start" && err == nil {
		d.removeNote(stoppedNote)
		d.stopped = false
	}
	return said, err
}

// StartApplication runs the start hook of the version to, which took the place of
// from, and reports whether it did. Where it fails that is told: there is nothing to
// go back to any more.
func (d *Device) StartApplication(ctx context.Context, from, to versioning.Version) bool {
	err := d.hook(ctx, "start", d.cfg.Hooks.Start, hookTimeout, from, to)
	d.unstarted = err
	if err != nil {
		d.env.Log.WithError(err).Warn("the application did not start")
	}
	return err == nil
}

// HookError says that a program of the configuration cannot be run. It wraps
// config.ErrInvalid and child.ErrNotRun.
type HookError struct {
	File string // the configuration
	Key  string // such as "hooks.health"
	err  error
}

func (e *HookError) Error() string { return fmt.Sprintf("%s: %s: %v", e.File, e.Key, e.err) }

// Unwrap returns config.ErrInvalid and what is wrong.
func (e *HookError) Unwrap() []error { return []error{config.ErrInvalid, e.err} }

// Hint says what can be done.
func (e *HookError) Hint() string {
	return "nothing was changed; correct the program, or the configuration"
}

// Shipped reports whether a hook that is run once a version is in place is a file of the
// application: then whether it can run is that version's matter.
func (d *Device) Shipped(name string, argv []string) bool {
	return (name == "start" || name == "health") &&
		slices.ContainsFunc(argv, func(a string) bool { return strings.HasPrefix(a, d.cfg.System.Path+"/apps/") })
}

// checkHooks looks whether each hook could be run, before anything depends on it.
// The error is a HookError.
func (d *Device) checkHooks() error {
	h := &d.cfg.Hooks
	for _, hook := range []struct {
		key  string
		argv []string
	}{{"pre_install", h.PreInstall}, {"stop", h.Stop}, {"start", h.Start}, {"health", h.Health}} {
		if len(hook.argv) == 0 || d.Shipped(hook.key, hook.argv) {
			continue
		}
		if err := child.Check(hook.argv); err != nil {
			return &HookError{d.cfg.File, "hooks." + hook.key, err}
		}
	}
	return nil
}
