package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/versioning"
)

// How long a handler may take. Writing a firmware over a slow bus does take
// its time; telling a version does not.
const (
	handlerTimeout = 30 * time.Minute
	versionTimeout = time.Minute
)

// exitRestart is what a handler exits with when what it wrote is in use only
// after a restart of the device.
const exitRestart = 100

var (
	// errRestart stands for that exit code.
	errRestart = errors.New("in use after a restart")
	// errNotRun says that a handler could not even be started: that is no
	// verdict on the version. It wraps ErrHook.
	errNotRun = fmt.Errorf("%w: it cannot be run", ErrHook)
)

// command is a firmware's handler: a program of the configuration.
//
//	HANDLER install DIR    write what lies in DIR
//	HANDLER version        print the version that is installed, nothing if none is
//
// Both may be called at any time, also after a run of install that a power cut
// or a kill ended anywhere: a handler must be able to begin again.
type command struct {
	name string // of the firmware
	argv []string
	log  logrus.FieldLogger
}

// Version gives the version that is installed; zero if the handler prints none.
// The error wraps ErrHook.
func (c *command) Version(ctx context.Context) (versioning.Version, error) {
	text := ""
	err := c.run(ctx, versionTimeout, []string{"version"}, nil, func(line string) {
		if text == "" {
			text = strings.TrimSpace(line)
		}
	})
	if err != nil {
		return versioning.Version{}, err
	}
	if text == "" {
		return versioning.Version{}, nil
	}
	v, err := versioning.Parse(text)
	if err != nil {
		return v, fmt.Errorf("%w: %s: %s version: %w", ErrHook, c.name, c.argv[0], err)
	}
	return v, nil
}

// Install has the handler write what lies in dir. The error wraps errRestart for
// exit code 100, ErrPostponed for 75, errNotRun where the handler could not be
// started, and ErrHook for all else; it is that of ctx once ctx is done.
func (c *command) Install(ctx context.Context, dir string, from, to versioning.Version, progress func(percent int64)) error {
	env := []string{"TANDEM_VERSION=" + to.String(), "TANDEM_PREVIOUS=" + from.String()}
	return c.run(ctx, handlerTimeout, []string{"install", dir}, env, func(line string) {
		if percent, ok := parseProgress(line); ok {
			progress(percent)
			return
		}
		c.log.WithField("firmware", c.name).Info(line)
	})
}

// parseProgress reads "progress N", N per cent.
func parseProgress(line string) (int64, bool) {
	number, ok := strings.CutPrefix(line, "progress ")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	return n, err == nil && n >= 0 && n <= 100
}

// run runs the handler, gives what it prints line by line, and logs what it
// prints on standard error. At the timeout, or when ctx ends, it is killed with
// its children; if this program is killed, so is the handler, so that no two of
// them ever write at once.
func (c *command) run(ctx context.Context, timeout time.Duration, args, env []string, line func(string)) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, c.argv[0], append(c.argv[1:len(c.argv):len(c.argv)], args...)...)
	cmd.Env = append(append(os.Environ(), "TANDEM_FIRMWARE="+c.name), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // for output that a child out of the group holds open
	stdout, endOut := feed(line)
	stderr, endErr := feed(func(l string) { c.log.WithField("firmware", c.name).Info(l) })
	cmd.Stdout, cmd.Stderr = stdout, stderr
	runtime.LockOSThread() // Pdeathsig is about the thread, not the process
	err := cmd.Run()
	runtime.UnlockOSThread()
	endOut()
	endErr()

	what := c.name + ": " + c.argv[0] + " " + args[0]
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return fmt.Errorf("%w: %s: killed after %s", ErrHook, what, timeout)
	case errors.Is(err, exec.ErrWaitDelay): // it ended well; what it left running is its own business
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("%w: %s: %w", errNotRun, what, err)
	case exit.ExitCode() == exitPostpone:
		return fmt.Errorf("%w: %s: exit %d", ErrPostponed, what, exitPostpone)
	case exit.ExitCode() == exitRestart:
		return fmt.Errorf("%s: %w", what, errRestart)
	}
	return fmt.Errorf("%w: %s: %w", ErrHook, what, err)
}

// feed gives a writer whose lines are given to each, cut at maxLine, and a
// function that ends it and waits until all lines were given.
func feed(each func(string)) (io.Writer, func()) {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewReaderSize(r, maxLine)
		for {
			line, _, err := lines.ReadLine()
			if err != nil {
				return // a pipe's reader ends only with its writer
			}
			each(string(line))
		}
	}()
	return w, func() {
		w.Close() // a pipe's Close has no error to give
		<-done
	}
}
