// Package child runs the programs that a device's configuration names: hooks,
// and the handlers of firmwares.
//
// A program is done when its process ends. What it leaves running is its own
// business: it is neither waited for nor ended, and it keeps an output that it can
// go on writing to.
package child

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The outcomes of a program that did not succeed.
var (
	// ErrNotRun says that the program could not be run, or was ended by somebody
	// else before it had its say: that is no answer to what it was asked.
	ErrNotRun = errors.New("could not run")
	// ErrRefused says that it ran, and that its answer is no.
	ErrRefused = errors.New("hook refused")
	// ErrPostponed says that it is to be asked again later. It wraps ErrRefused.
	ErrPostponed = fmt.Errorf("%w for now", ErrRefused)
)

// exitPostpone is what a program exits with to be asked again later: EX_TEMPFAIL
// of sysexits.h.
const exitPostpone = 75

// Program is a program to run, and how.
type Program struct {
	Name    string // what it is, for messages
	Verb    string // that it is called with, for messages; "" if there is none
	Argv    []string
	Env     []string      // beside the environment of this process
	Timeout time.Duration // until it is killed
	Grace   time.Duration // that it has once the context has ended, also to begin
	Bound   bool          // it is killed when this process is
	Outside *Outside      // that runs it, if it is not nil

	// Inherit is where its output goes, as to its own terminal; what it leaves
	// running keeps that. If it is nil, Out is given each line of its standard
	// output, and Err each line of its standard error; Out gets both if there is no
	// Err.
	Inherit  *os.File
	Out, Err func(line string)

	forbidden *atomic.Bool  // the sandbox that it is held in forbade it something; nil if none does
	short     *atomic.Bool  // it could not begin a process
	dying     time.Duration // that it has to end once it is killed; 0 is patience
}

// LacksProgram reports whether a program ended with what shells, env and loaders end with
// where a program or a part of one is missing. Whose that is it does not tell.
func LacksProgram(err error) bool {
	const cannotRun, notFound = 126, 127
	var exit *exec.ExitError
	return errors.As(err, &exit) && (exit.ExitCode() == cannotRun || exit.ExitCode() == notFound)
}

// Run runs p and waits until its process has ended. At the timeout, and when ctx
// has ended and Grace is over, its process group is killed; what does not end then
// within half a minute is left behind.
//
// The error is that of ctx once ctx has ended, unless the program succeeded in
// spite of it. Else it wraps ErrNotRun, ErrPostponed for exit code 75, or
// ErrRefused, and *exec.ExitError where the program ended by itself. What says no in
// the sandbox of this service, and says that something was forbidden, could not run.
func Run(ctx context.Context, p Program) error {
	if len(p.Argv) == 0 {
		return fmt.Errorf("%w: %s: no program is named", ErrNotRun, p.Name)
	}
	if ctx.Err() != nil && p.Grace == 0 {
		return ctx.Err()
	}
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
	p.short = p.listen("annot fork", "an't fork", ": fork: ") // as dash, busybox and bash say it
	var u *unit
	switch {
	case p.Outside == nil:
	case p.Outside.run == "":
		p.held()
	default:
		u = p.Outside.unit(&p)
		cmd = u.command(&p)
	}
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.Bound {
		runtime.LockOSThread() // the signal is about the thread, not the process
		defer runtime.UnlockOSThread()
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	finish, err := p.connect(cmd)
	if err != nil {
		return fmt.Errorf("%w: %s: %s: %w", ErrNotRun, p.Name, p.Argv[0], err)
	}
	if err := cmd.Start(); err != nil {
		finish()
		return fmt.Errorf("%w: %s: %w", ErrNotRun, p.Name, cause(p.Argv, err))
	}
	late, stuck := await(ctx, cmd.Process.Pid, &p, u)
	if stuck {
		go func() { _ = cmd.Wait() }()
		finish()
		return cmp.Or(ctx.Err(), fmt.Errorf("%w: %s: %s: killed after %s, and it does not end: the kernel holds it", ErrNotRun, p.Name, p.Argv[0], p.Timeout))
	}
	err = cmd.Wait() // it has ended
	finish()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return p.outcome(ctx, err, late, 0)
	}
	if u == nil {
		return p.outcome(ctx, err, late, signalOf(exit))
	}
	how := u.failure()
	switch {
	case !how.started && ctx.Err() == nil && !late: // systemd did not: it is here or nowhere
		p.Outside = &Outside{service: u.service}
		return Run(ctx, p)
	case how.byItself && how.status >= firstOwnStatus && how.status <= lastOwnStatus:
		return fmt.Errorf("%w: %s: %s: systemd's exit status %d", ErrNotRun, p.Name, p.Argv[0], how.status)
	case !how.byItself:
		return p.outcome(ctx, err, late, syscall.Signal(how.status))
	}
	return p.outcome(ctx, err, late, 0)
}

// held has the program's output tell whether the sandbox forbids it something.
func (p *Program) held() { p.forbidden = p.listen("ead-only file system", "peration not permitted") } // EROFS, EPERM

// listen returns what becomes true once a line of its output holds one of the words.
func (p *Program) listen(words ...string) (heard *atomic.Bool) {
	heard = new(atomic.Bool)
	through := func(next func(string)) func(string) {
		return func(line string) {
			if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(line, w) }) {
				heard.Store(true)
			}
			if next != nil {
				next(line)
			}
		}
	}
	p.Out = through(p.Out)
	if p.Err != nil {
		p.Err = through(p.Err)
	}
	return heard
}

// signalOf returns the signal that ended a process; 0 if none did.
func signalOf(exit *exec.ExitError) syscall.Signal {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return status.Signal()
	}
	return 0
}

// connect gives cmd its output. finish takes what is left of it and lets go.
func (p *Program) connect(cmd *exec.Cmd) (finish func(), err error) {
	if p.Inherit != nil {
		cmd.Stdout, cmd.Stderr = p.Inherit, p.Inherit
		return func() {}, nil
	}
	out, err := newOutput(p.Out)
	if err != nil {
		return nil, err
	}
	if p.Err == nil {
		cmd.Stdout, cmd.Stderr = out.writer, out.writer
		return out.finish, nil
	}
	errs, err := newOutput(p.Err)
	if err != nil {
		out.finish()
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = out.writer, errs.writer
	return func() { out.finish(); errs.finish() }, nil
}

// await waits until the process pid, a child of this one that leads a process
// group, has ended, and reports whether it was killed at the timeout. The group is
// killed only while the process is there: afterwards what is left of it is
// nobody's business. Where the process waits for a unit, that is killed. One that the
// kernel holds, such as for a disk that does not answer, is stuck: it may end much later.
func await(ctx context.Context, pid int, p *Program, u *unit) (late, stuck bool) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// The process stays a zombie, so that its number is not given to another.
		for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
		}
	}()
	limit := time.NewTimer(p.Timeout)
	defer limit.Stop()
	select {
	case <-ended:
		return false, false
	case <-limit.C:
		late = true
	case <-ctx.Done():
		grace := time.NewTimer(p.Grace)
		defer grace.Stop()
		select {
		case <-ended:
			return false, false
		case <-grace.C:
		case <-limit.C:
		}
	}
	select {
	case <-ended:
		return false, false
	default:
	}
	if u != nil && u.end(ended) {
		return late, false
	}
	_ = unix.Kill(-pid, unix.SIGKILL) // it can only fail to be there
	_ = unix.Kill(pid, unix.SIGKILL)  // it may have left its group
	dying := time.NewTimer(cmp.Or(p.dying, patience))
	defer dying.Stop()
	select {
	case <-ended:
	case <-dying.C:
		stuck = true
	}
	return late, stuck
}

// outcome reads what a program ended with.
func (p *Program) outcome(ctx context.Context, err error, late bool, signal syscall.Signal) error {
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	what := strings.TrimSpace(p.Name + ": " + p.Argv[0] + " " + p.Verb)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case late:
		return fmt.Errorf("%w: %s: killed after %s", ErrRefused, what, p.Timeout)
	case !errors.As(err, &exit):
		return fmt.Errorf("%w: %s: %w", ErrNotRun, what, err)
	case exit.ExitCode() == exitPostpone:
		return fmt.Errorf("%w: %s: exit %d", ErrPostponed, what, exitPostpone)
	case endedByOthers(signal):
		return fmt.Errorf("%w to its end: %s: %s: %w", ErrNotRun, what, signal, err)
	}
	if found := check(p.Argv); found != nil { // env, or a shell, said no in its place
		return fmt.Errorf("%w: %s: %w: %w", ErrNotRun, p.Name, found, err)
	}
	if p.short.Load() {
		return fmt.Errorf("%w to its end: %s: there was no room for its processes: %w", ErrNotRun, what, err)
	}
	if p.forbidden != nil && p.forbidden.Load() {
		return fmt.Errorf("%w: %s: %w: held in the sandbox of %s: install dbus, or add a drop-in", ErrNotRun, what, err, p.Outside.service)
	}
	return fmt.Errorf("%w: %s: %w", ErrRefused, what, err)
}

// endedByOthers reports whether a signal ended a program that no fault of its own
// raises: the machine goes down, or has no memory left.
func endedByOthers(signal syscall.Signal) bool {
	switch signal {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT:
		return true
	}
	return false
}
