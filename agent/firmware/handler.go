package firmware

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/internal/child"
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

// errRestart stands for that exit code.
var errRestart = errors.New("in use after a restart")

// Command is a firmware's handler: a program of the configuration.
//
//	HANDLER install DIR    write what lies in DIR
//	HANDLER version        print the version that is installed, nothing if none is
//
// Both may be called at any time, also after a run of install that a power cut
// or a kill ended anywhere: a handler must be able to begin again. If this program
// is killed, so is the handler, so that no two of them ever write at once.
type Command struct {
	name string // of the firmware
	argv []string
	env  []string
	log  logrus.FieldLogger

	outside *child.Outside
}

// NewCommand makes a Command of an argument list. It finds env in its environment,
// and TANDEM_FIRMWARE, the name. outside runs it, if it is not nil.
func NewCommand(name string, argv, env []string, log logrus.FieldLogger, outside *child.Outside) (*Command, error) {
	switch {
	case len(argv) == 0:
		return nil, fmt.Errorf("the firmware %q has no handler", name)
	case log == nil:
		return nil, errors.New("firmware.NewCommand: log is missing")
	}
	return &Command{name: name, argv: argv, env: append(slices.Clone(env), "TANDEM_FIRMWARE="+name), log: log, outside: outside}, nil
}

// Check looks whether the handler could be run. The error wraps child.ErrNotRun.
func (c *Command) Check() error { return child.Check(c.argv) }

// Version returns the version that is installed; zero if the handler prints none.
// The error wraps child.ErrRefused, or child.ErrNotRun.
func (c *Command) Version(ctx context.Context) (versioning.Version, error) {
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
		return v, fmt.Errorf("%w: %s: %s version: %w", child.ErrRefused, c.name, c.argv[0], err)
	}
	return v, nil
}

// Install has the handler write what lies in dir. The error wraps errRestart for
// exit code 100, and else what child.Run says.
func (c *Command) Install(ctx context.Context, dir string, from, to versioning.Version, progress func(percent int64)) error {
	env := []string{"TANDEM_VERSION=" + to.String(), "TANDEM_PREVIOUS=" + from.String()}
	err := c.run(ctx, handlerTimeout, []string{"install", dir}, env, func(line string) {
		if percent, ok := parseProgress(line); ok {
			progress(percent)
			return
		}
		c.log.WithField("firmware", c.name).Info(line)
	})
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitRestart {
		return fmt.Errorf("%s: %s install: %w", c.name, c.argv[0], errRestart)
	}
	return err
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
// prints on standard error. One that lacks a program says nothing about the firmware.
func (c *Command) run(ctx context.Context, timeout time.Duration, args, env []string, line func(string)) error {
	err := child.Run(ctx, child.Program{
		Name: c.name, Verb: args[0], Argv: append(slices.Clone(c.argv), args...), Env: append(slices.Clone(c.env), env...),
		Timeout: timeout, Bound: true, Outside: c.outside,
		Out: line, Err: func(l string) { c.log.WithField("firmware", c.name).Info(l) },
	})
	if child.LacksProgram(err) {
		return fmt.Errorf("%w: a program that the handler calls is missing: %v", child.ErrNotRun, err)
	}
	return err
}
