// Package linux has the tests of what starts Tandem on a device.
package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shells are those that devices have: the script has to do the same in each.
var shells = [][]string{{"dash"}, {"busybox", "sh"}, {"/bin/sh"}}

// inEach runs a test with each shell.
func inEach(t *testing.T, test func(*rig)) {
	t.Parallel()
	for _, shell := range shells {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			t.Parallel()
			name, err := exec.LookPath(shell[0])
			if err != nil {
				t.Skipf("%s is not here", shell[0]) // what checks a change installs it
			}
			r := &rig{t: t, dir: t.TempDir(), pipes: map[string]*os.File{}, shell: append([]string{name}, shell[1:]...)}
			script, err := os.ReadFile("start")
			if err != nil {
				t.Fatal(err)
			}
			r.write("start", string(script), 0o755)
			for _, pipe := range []string{"asleep", "clock", "told", "more"} {
				r.pipes[pipe] = r.pipe(pipe, os.O_RDWR)
			}
			r.held = r.pipe("held", os.O_RDONLY|syscall.O_NONBLOCK)
			// Time is what the test says; an agent that ended is started again at once.
			r.conf("sync() { :; }\nsleep() { [ \"$1\" = 1 ] || return 0; echo >" + r.path("asleep") + "; read -r _ <" + r.path("clock") + "; }\n")
			test(r)
		})
	}
}

// rig is a directory with the script and programs that play Tandem.
type rig struct {
	t     *testing.T
	dir   string
	shell []string
	env   []string
	cmd   *exec.Cmd
	pipes map[string]*os.File // both ends are open for as long as the test runs
	held  *os.File
}

// pipe makes a pipe with a name, and opens it.
func (r *rig) pipe(name string, how int) *os.File {
	r.t.Helper()
	if err := syscall.Mkfifo(r.path(name), 0o600); err != nil {
		r.t.Fatal(err)
	}
	f, err := os.OpenFile(r.path(name), how, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { f.Close() })
	// What never comes is a failure, not a reason to wait for ever.
	if err := f.SetReadDeadline(time.Now().Add(3 * time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	return f
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string, mode os.FileMode) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) conf(text string) { r.write("start.conf", text, 0o644) }

// program puts one in place. $N is the name of the script's program.
func (r *rig) program(name, body string) {
	r.t.Helper()
	r.write(name, "#!/bin/sh\nN=$TANDEM_PROGRAM\n"+body+"\n", 0o755)
}

func (r *rig) trial() { r.write("tandem.trial", "on trial\n", 0o644) }

func (r *rig) exists(name string) bool {
	_, err := os.Lstat(r.path(name))
	return err == nil
}

// begin starts the script, finish waits for its end and returns its exit code with
// what it and its programs said.
func (r *rig) begin(args ...string) {
	r.t.Helper()
	r.cmd = exec.Command(r.shell[0], append(append(r.shell[1:len(r.shell):len(r.shell)], r.path("start")), args...)...)
	r.cmd.Env = append(append(os.Environ(), "TANDEM_RUN="+r.dir, "TANDEM_PROGRAM=", "NOTIFY_SOCKET="), r.env...)
	// A file, not a pipe: what outlives the script keeps nobody waiting.
	out, err := os.Create(r.path("said"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer out.Close()
	r.cmd.Stdout, r.cmd.Stderr = out, out
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What is caught here is not ignored there, as a shell keeps what nohup or & ignores.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP, syscall.SIGINT)
	defer signal.Stop(caught)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	group := r.cmd.Process.Pid
	r.t.Cleanup(func() { _ = syscall.Kill(-group, syscall.SIGKILL) }) // what is left, if the test failed
}

func (r *rig) finish() (int, string) {
	r.t.Helper()
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	said, err := os.ReadFile(r.path("said"))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode(), string(said)
}

// run expects an exit code and words, in their order; it returns all that was said.
func (r *rig) run(code int, words []string, args ...string) string {
	r.t.Helper()
	r.begin(args...)
	return r.ended(code, words)
}

func (r *rig) ended(code int, words []string) string {
	r.t.Helper()
	got, said := r.finish()
	rest := said
	for _, w := range words {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			r.t.Fatalf("%q is missing, in its place:\n%s", w, said)
		}
		rest = after
	}
	if got != code {
		r.t.Fatalf("exit code %d: expected %d:\n%s", got, code, said)
	}
	return said
}

// tick lets a second pass for whoever watches, n times. When it returns, that one may
// still be at work; once it is asleep again all that it does has been done.
func (r *rig) tick(n int) {
	r.t.Helper()
	for range n {
		r.asleep()
		r.wake("clock")
	}
}

// asleep waits until whoever watches sleeps, wake lets one go on that reads a pipe.
func (r *rig) asleep() { r.t.Helper(); r.line("asleep") }

func (r *rig) wake(pipe string) {
	r.t.Helper()
	if _, err := r.pipes[pipe].WriteString("\n"); err != nil {
		r.t.Fatal(err)
	}
}

// line waits for a line that a program writes to a pipe.
func (r *rig) line(pipe string) string {
	r.t.Helper()
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := r.pipes[pipe].Read(b); err != nil {
			r.t.Fatal(err)
		}
		if b[0] == '\n' {
			return string(line)
		}
		line = append(line, b[0])
	}
}

// hold has a program hold the pipe held for as long as it, or a child of its, lives.
const hold = `exec 9>"${N%/*}/held"` + "\n"

// ready waits until the program says so, which then holds that pipe.
func (r *rig) ready() {
	r.t.Helper()
	if got := r.line("told"); got != "ready" {
		r.t.Fatalf("%q: expected that it is ready", got)
	}
}

// gone waits until nobody holds the pipe held any more.
func (r *rig) gone() {
	r.t.Helper()
	if _, err := io.Copy(io.Discard, r.held); err != nil {
		r.t.Fatal(err)
	}
}

const decides = `rm -f "$N.starts-$1"` + "\n"

// Without a trial the script is gone once the program runs, which gets all that it was
// called with.
func TestStartExecutes(t *testing.T) {
	inEach(t, func(r *rig) {
		r.program("tandem", `echo "$$ ${TANDEM_ALIVE-none}:" "$@"; exit 11`)
		for _, args := range [][]string{{"version"}, {"boot", "--config", "a b"}, {"agent"}, {}} {
			said := r.run(11, []string{" none:", strings.Join(args, " ")}, args...)
			if !strings.HasPrefix(said, fmt.Sprint(r.cmd.Process.Pid, " ")) {
				t.Errorf("%q: it is not the script's process: %s", args, said)
			}
		}
		r.trial()
		r.run(11, []string{" none:", "status"}, "status") // it is not counted
		if r.exists("tandem.starts-status") {
			t.Error("a start of status was counted")
		}
	})
}

// Whatever a program ends with, it is started once if it has decided. One that has not
// gets LIMIT starts; then the program before runs, and the verdict is there.
func TestStartCounts(t *testing.T) {
	inEach(t, func(r *rig) {
		r.program("tandem.previous", "echo before \"$@\"\n"+decides)
		for _, code := range []int{0, 1, 2, 11, 12, 13, 60, 139} {
			r.program("tandem", fmt.Sprintf("echo new\n%sexit %d", decides, code))
			r.trial()
			for range 4 {
				if said := r.run(code, []string{"new"}, "boot"); strings.Count(said, "new") != 1 {
					t.Errorf("exit code %d: %s", code, said)
				}
			}
		}
		for _, code := range []int{0, 1, 11, 139} {
			r.program("tandem", fmt.Sprintf("echo new\nexit %d", code))
			r.program("tandem.previous", "echo before \"$@\"\n"+decides+"exit 11")
			r.trial()
			r.run(11, []string{"new", "new", "new", "going back", "before boot -v"}, "boot", "-v")
			if !r.exists("tandem.failed") || r.exists("tandem.trial") || r.exists("tandem.previous") {
				t.Errorf("exit code %d: it went back, and left something else", code)
			}
			r.run(11, []string{"before boot"}, "boot")
			for _, name := range []string{"tandem.failed", "tandem.starts-boot"} { // as the program does
				_ = os.Remove(r.path(name))
			}
		}
	})
}

// Starts that the power cut short count as well.
func TestStartCountsResets(t *testing.T) {
	inEach(t, func(r *rig) {
		r.program("tandem", hold+`echo ready >"${N%/*}/told"; exec sleep 1000`)
		r.program("tandem.previous", "echo before\n"+decides)
		r.trial()
		for range 3 {
			r.begin("boot")
			r.ready()
			_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
			r.finish()
			r.gone()
		}
		r.run(0, []string{"going back", "before"}, "boot")
	})
}

// A cut between the verdict and the rename is made up for, before anything runs.
func TestStartFinishesGoingBack(t *testing.T) {
	inEach(t, func(r *rig) {
		r.program("tandem", "echo bad")
		r.program("tandem.previous", "echo before \"$@\"")
		r.write("tandem.failed", "", 0o644)
		r.run(0, []string{"before version"}, "version")
		r.run(0, []string{"before version"}, "version") // and once only
	})
}

// Where there is no way back, or nothing can be counted, the program runs all the same.
func TestStartWithoutAWayBack(t *testing.T) {
	inEach(t, func(r *rig) {
		r.program("tandem", "echo new; exit 1")
		r.trial()
		said := r.run(1, []string{"new", "new", "new", "new"}, "boot")
		if strings.Count(said, "new") != 4 || r.exists("tandem.failed") {
			t.Errorf("no program before: %s", said)
		}
		if err := errors.Join(os.Remove(r.path("tandem.starts-boot")), os.Mkdir(r.path("tandem.starts-boot"), 0o755)); err != nil {
			t.Fatal(err)
		}
		r.program("tandem.previous", "echo before")
		if said := r.run(1, []string{"new"}, "boot"); said != "new\n" {
			t.Errorf("nothing can be counted: %s", said)
		}
	})
}

// Ten minutes without progress end a program, however long it takes with progress.
func TestStartWaitsForProgress(t *testing.T) {
	inEach(t, func(r *rig) {
		const quiet = 600 // the script's own
		r.program("tandem", `[ "$(grep -c start "$N.starts-$1")" = 1 ] || { echo second; `+decides+`exit 0; }
`+hold+`echo $$ >"${N%/*}/told"; exec sleep 100000`)
		r.trial()
		r.begin("boot")
		pid := 0
		if _, err := fmt.Sscan(r.line("told"), &pid); err != nil {
			t.Fatal(err)
		}
		for n := range 3 { // half an hour, with a little progress
			r.tick(quiet - 1)
			r.asleep()
			if err := syscall.Kill(pid, 0); err != nil {
				t.Fatalf("it was killed before its time: %v", err)
			}
			r.write("tandem-boot.alive", fmt.Sprintln(n, "copy"), 0o600)
			r.wake("clock")
		}
		r.tick(quiet)
		r.gone()
		r.ended(0, []string{"ended with exit code 137", "second"})
	})
}

// Where it cannot be seen whether there is progress, nothing is killed.
func TestStartCannotSeeProgress(t *testing.T) {
	inEach(t, func(r *rig) {
		r.env = []string{"TANDEM_RUN=" + r.path("nowhere")}
		r.program("tandem", `echo ready >"${N%/*}/told"; read -r _ <"${N%/*}/more"; `+decides)
		r.trial()
		r.begin("boot")
		r.ready()
		r.tick(2000)
		r.wake("more")
		r.ended(0, nil)
	})
}

// Signals reach the program; one that was told to end is not started again.
func TestStartPassesSignalsOn(t *testing.T) {
	inEach(t, func(r *rig) {
		r.program("tandem", hold+`trap 'echo hup >"${N%/*}/told"' HUP; trap 'echo ends; exit 7' TERM
echo ready >"${N%/*}/told"
while :; do sleep 0.01; done`)
		r.trial()
		r.begin("agent")
		r.ready()
		for range 2 {
			_ = r.cmd.Process.Signal(syscall.SIGHUP)
			if got := r.line("told"); got != "hup" {
				t.Fatal(got)
			}
		}
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		if said := r.ended(7, []string{"ends"}); strings.Contains(said, "started again") {
			t.Error(said)
		}
		r.gone()
	})
}

// A script that is killed leaves no program behind: it is told to end, and killed where
// it does not.
func TestStartIsKilled(t *testing.T) {
	inEach(t, func(r *rig) {
		r.orphan(`trap 'echo told >"${N%/*}/told"; exit 0' TERM`)
		if got := r.line("told"); got != "told" {
			t.Error(got)
		}
		r.gone()
	})
}

func TestStartIsKilledBesideADeafProgram(t *testing.T) {
	inEach(t, func(r *rig) {
		r.orphan("trap '' TERM")
		r.tick(10)
		r.gone()
	})
}

// orphan kills the script beside a program, and lets a second pass.
func (r *rig) orphan(how string) {
	r.program("tandem", hold+how+`
echo ready >"${N%/*}/told"
while :; do sleep 0.01; done`)
	r.trial()
	r.begin("agent")
	r.ready()
	r.asleep()
	_ = r.cmd.Process.Kill()
	r.finish()
	r.wake("clock")
}

// An agent that ends in peace, or because another one runs, is not started again; one
// with a wrong configuration has decided; all else is tried again, and then gone back from.
func TestStartAgent(t *testing.T) {
	inEach(t, func(r *rig) {
		r.program("tandem.previous", "echo before\n"+decides)
		for _, code := range []int{0, 60} {
			r.program("tandem", fmt.Sprintf("echo new; exit %d", code))
			r.trial()
			r.run(code, []string{"new"}, "agent")
			_ = os.Remove(r.path("tandem.starts-agent"))
		}
		r.program("tandem", "echo new\n"+decides+"exit 2")
		r.run(2, []string{"new"}, "agent")
		// What ends after it had decided is started again, and counts anew.
		r.program("tandem", `echo new; n=$(cat "${N%/*}/n" 2>/dev/null); echo "${n}x" >"${N%/*}/n"; `+decides+`[ "$n" = xxxxx ] && exit 0; kill -9 $$`)
		if said := r.run(0, []string{"started again"}, "agent"); strings.Count(said, "new\n") != 6 {
			t.Errorf("it was started again: %s", said)
		}
		r.program("tandem", "echo new; kill -9 $$")
		r.run(0, []string{"new", "new", "new", "going back", "before"}, "agent")
	})
}

// Under a service manager the agent is the manager's own process, and its starts count.
func TestStartUnderAServiceManager(t *testing.T) {
	inEach(t, func(r *rig) {
		r.env = []string{"NOTIFY_SOCKET=/run/systemd/notify"}
		r.program("tandem", "echo new $$; exit 1")
		r.program("tandem.previous", "echo before")
		r.trial()
		for range 3 {
			if said := r.run(1, nil, "agent"); said != fmt.Sprintln("new", r.cmd.Process.Pid) {
				t.Errorf("it is not the manager's process: %s", said)
			}
		}
		r.run(0, []string{"going back", "before"}, "agent")
	})
}
