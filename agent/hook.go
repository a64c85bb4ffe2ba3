package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"tandem/versioning"
)

// The outcomes of hooks that end an update.
var (
	ErrHook      = errors.New("hook refused")
	ErrPostponed = fmt.Errorf("%w for now", ErrHook)
	ErrUnhealthy = errors.New("unhealthy: rolled back")
)

// exitPostpone is what a hook exits with to be asked again later: EX_TEMPFAIL
// of sysexits.h.
const exitPostpone = 75

// hookGrace is how long the hooks that start and stop the application may go on
// once tandem is told to end: an application is not left half started.
const hookGrace = 3 * time.Second

// patient gives the context that a hook runs in.
func patient(ctx context.Context, hook string) context.Context {
	if hook != "start" && hook != "stop" {
		return ctx
	}
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(hookGrace, cancel) })
	return longer
}

// hookTimeout bounds every hook but the health check, which has its own.
const hookTimeout = 5 * time.Minute

// hook runs a command of the configuration: the update is from one version to
// another. Its output goes to the log, line by line. At the timeout, or when
// ctx ends, it is killed with its children; start and stop have hookGrace to end
// by themselves. An empty command succeeds.
//
// The error wraps ErrPostponed for exit code 75, ErrHook for any other failure.
func (d *Device) hook(ctx context.Context, name string, argv []string, timeout time.Duration, from, to versioning.Version) error {
	if len(argv) == 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(patient(ctx, name), timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(),
		"TANDEM_HOOK="+name,
		"TANDEM_APP="+d.cfg.Device.App,
		"TANDEM_VERSION="+to.String(),
		"TANDEM_PREVIOUS="+from.String(),
		"TANDEM_SYSTEM="+d.cfg.System.Path,
		"TANDEM_USR_DATA="+d.cfg.UsrData.Path,
		"TANDEM_APPS="+d.cfg.System.Path+"/apps",
	)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // for output that a child out of the group holds open
	lines, out := io.Pipe()
	cmd.Stdout, cmd.Stderr = out, out
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		d.logLines(name, lines)
	}()
	err := cmd.Run()
	out.Close() // a pipe's Close has no error to give
	<-logged

	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return fmt.Errorf("%w: %s: %s: killed after %s", ErrHook, name, argv[0], timeout)
	case errors.As(err, &exit) && exit.ExitCode() == exitPostpone:
		return fmt.Errorf("%w: %s: %s: exit %d", ErrPostponed, name, argv[0], exitPostpone)
	}
	return fmt.Errorf("%w: %s: %s: %w", ErrHook, name, argv[0], err)
}

// maxLine bounds a line of a hook's output in the log; a longer one is cut into
// several.
const maxLine = 4096

func (d *Device) logLines(name string, r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, _, err := lines.ReadLine()
		if err != nil {
			return // a pipe's reader ends only with its writer
		}
		d.env.Log.WithField("hook", name).Info(string(line))
	}
}
