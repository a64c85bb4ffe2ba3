package device

import (
	"context"
	"errors"
	"time"

	"tandem/internal/child"
	"tandem/versioning"
)

// ErrUnhealthy says that a version was taken back because it did not work.
var ErrUnhealthy = errors.New("unhealthy: rolled back")

// hookGrace is how long the hooks that start and stop the application may go on
// once tandem is told to end: an application is not left half started.
const hookGrace = 3 * time.Second

// hookTimeout bounds every hook but the health check, which has its own.
const hookTimeout = 5 * time.Minute

// hook runs a command of the configuration: the update is from one version to
// another. An empty command succeeds. Its output goes to the log, line by line;
// that of the start hook goes where this program's own goes, so that the
// application that it leaves running keeps it. child.Run says what the error wraps.
func (d *Device) hook(ctx context.Context, name string, argv []string, timeout time.Duration, from, to versioning.Version) error {
	if len(argv) == 0 {
		return nil
	}
	p := child.Program{
		Name: name, Argv: argv, Timeout: timeout,
		Env: []string{
			"TANDEM_HOOK=" + name,
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
	case "stop":
		p.Grace = hookGrace
	}
	return child.Run(ctx, p)
}

// StartApplication runs the start hook of the version to, which took the place of
// from. Where it fails that is told: there is nothing to go back to any more.
func (d *Device) StartApplication(ctx context.Context, from, to versioning.Version) {
	if err := d.hook(ctx, "start", d.cfg.Hooks.Start, hookTimeout, from, to); err != nil {
		d.env.Log.WithError(err).Warn("the application did not start")
	}
}
