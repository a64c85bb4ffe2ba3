package child

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"
)

// Outside is systemd, where this process is one of its services: programs can be
// run as units of their own. They are not held in the service's sandbox, which is
// made for what this process does; and what they leave running is not in its
// control group, and so does not end with it. Where systemd cannot be asked they are
// held in the sandbox; what they say of what that forbids is then no answer of theirs.
type Outside struct {
	run, control string // systemd-run, systemctl; "" where systemd cannot be asked
	service      string // the unit that this process is
}

// What tells that systemd can be asked: --wait goes over the bus.
const (
	systemdRuns = "/run/systemd/system"
	busSocket   = "/run/dbus/system_bus_socket"
)

// FindOutside returns nil where this process is no service of systemd's.
func FindOutside(getenv func(string) string) *Outside {
	if getenv("INVOCATION_ID") == "" {
		return nil
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	o := &Outside{service: serviceOf(string(groups))}
	if o.service == "" {
		return nil
	}
	for _, name := range []string{systemdRuns, busSocket} {
		if _, err := os.Stat(name); err != nil {
			return o
		}
	}
	if o.control, err = exec.LookPath("systemctl"); err == nil {
		o.run, _ = exec.LookPath("systemd-run") // "" is that there is none
	}
	return o
}

// serviceOf finds the system's service in the control groups of a process: in
// systemd's own hierarchy, in either version of control groups. A service of a
// user's, such as a terminal, is none.
func serviceOf(groups string) string {
	for line := range strings.Lines(groups) {
		_, controllers, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(controllers, ":")
		if unit := path.Base(group); (controllers == "" || controllers == "name=systemd") &&
			strings.HasSuffix(unit, ".service") && !strings.Contains(group, "/user.slice/") {
			return unit
		}
	}
	return ""
}

// unit is a program that runs as a unit of its own.
type unit struct {
	*Outside
	name string
}

// unit names one for p.
func (o *Outside) unit(p *Program) *unit {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(p.Name))
	return &unit{o, fmt.Sprintf("tandem-run-%s-%s.service", plain, strings.ToLower(rand.Text()[:8]))}
}

// command is how p is started as the unit. Its output is that of the command, and
// the command ends when it does.
func (u *unit) command(p *Program) *exec.Cmd {
	args := []string{
		"--quiet", "--wait", "--pipe", "--service-type=exec", "--unit=" + u.name,
		"--description=" + strings.TrimSpace("Tandem: "+p.Name+" "+p.Verb),
		"--property=KillMode=process", // what it leaves running is left alone
		fmt.Sprintf("--property=RuntimeMaxSec=%d", int((p.Timeout+time.Minute)/time.Second)),
		"--property=BindsTo=" + u.service, // else it could go on beside the next start of this service
	}
	if p.Bound {
		args = append(args, "--property=KillSignal=SIGKILL")
	}
	for _, e := range append(os.Environ(), p.Env...) {
		if name, _, ok := strings.Cut(e, "="); ok && !ofService(name) {
			args = append(args, "--setenv="+e)
		}
	}
	args = append(args, "--")
	for _, a := range p.Argv {
		args = append(args, strings.ReplaceAll(a, "$", "$$")) // systemd would look for variables there
	}
	return exec.Command(u.run, args...)
}

// ofService reports whether a variable is about this service alone.
func ofService(name string) bool {
	switch name {
	case "INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "MAINPID", "SYSTEMD_EXEC_PID":
		return true
	}
	return false
}

// end kills all that runs in the unit, which may be about to start, and reports
// whether the process that waits for it has ended.
func (u *unit) end(ended <-chan struct{}) bool {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		_ = exec.Command(u.control, "kill", "--signal=KILL", u.name).Run() // it may be over already
		select {
		case <-ended:
			return true
		case <-limit.C:
			return false
		case <-again.C:
		}
	}
}

// patience is how long systemd may take to answer, and what was killed to end.
const patience = 30 * time.Second

// ended is how a unit's main process ended.
type ended struct {
	started  bool
	byItself bool
	status   int // its exit code, or the signal
}

// systemd's exit codes for what went wrong before the program ran (systemd.exec(5)).
const firstOwnStatus, lastOwnStatus = 200, 245

// failure asks systemd how a unit failed, and has it forget that.
func (u *unit) failure() ended {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, u.control, "show", "--property=ExecMainCode", "--property=ExecMainStatus", u.name).Output()
	if err != nil {
		return ended{}
	}
	_ = exec.CommandContext(ctx, u.control, "reset-failed", u.name).Run() // it may be forgotten already
	values := map[string]int{}
	for line := range strings.Lines(string(out)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key], _ = strconv.Atoi(value) // what it does not know is 0
		}
	}
	const exited = 1 // CLD_EXITED
	code, status := values["ExecMainCode"], values["ExecMainStatus"]
	return ended{started: code != 0, byItself: code == exited, status: status}
}
