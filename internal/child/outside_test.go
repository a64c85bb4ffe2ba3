package child

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestServiceOf(t *testing.T) {
	t.Parallel()
	for groups, want := range map[string]string{
		"0::/system.slice/tandem-agent.service\n":                                                  "tandem-agent.service",
		"12:pids:/system.slice/other.service\n1:name=systemd:/system.slice/tandem-agent.service\n": "tandem-agent.service",
		"0::/user.slice/user-1000.slice/session-3.scope\n":                                         "",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/terminal.service\n":            "",
		"0::/\n": "",
		"":       "",
	} {
		if got := serviceOf(groups); got != want {
			t.Errorf("serviceOf(%q) = %q, want %q", groups, got, want)
		}
	}
}

// standIn is a systemd that knows just what is needed of it. Other than the real
// one it runs the program as its child.
func standIn(t *testing.T, refuses bool) *Outside {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		// A child that another test starts meanwhile would hold it open, and it could not be run.
		syscall.ForkLock.RLock()
		err := os.WriteFile(name, []byte("#!/bin/sh\ncd "+dir+"\n"+text), 0o755)
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	run := `for a; do
	shift
	case $a in
	--unit=*) unit=${a#--unit=} ;;
	--setenv=*) export "${a#--setenv=}" ;;
	--) break ;;
	esac
	echo "$a" >>options
done
n=$#
while [ $n -gt 0 ]; do # $$ is how systemd wants a $
	a=$(printf '%s.' "$1" | sed 's/\$\$/$/g')
	shift
	set -- "$@" "${a%.}"
	n=$((n - 1))
done
setsid "$@" &
echo $! >"$unit.pid"
wait $! 2>/dev/null
code=$?
if [ $code -gt 128 ] && [ $code -lt 200 ]; then
	printf 'ExecMainCode=2\nExecMainStatus=%d\n' $((code - 128)) >"$unit"
	exit 255
fi
printf 'ExecMainCode=1\nExecMainStatus=%d\n' $code >"$unit"
exit $code
`
	if refuses {
		run = "echo no bus >&2\nexit 1\n"
	}
	return &Outside{
		run: write("systemd-run", run), service: "tandem-agent.service",
		control: write("systemctl", `case $1 in
show) cat "$4" 2>/dev/null || printf 'ExecMainCode=0\nExecMainStatus=0\n' ;;
reset-failed) echo "$2" >>forgotten ;;
kill) kill -KILL -"$(cat "$3.pid")" ;;
esac
`),
	}
}

// What a unit ended with means what it means without one.
func TestOutsideOutcomes(t *testing.T) {
	t.Parallel()
	o := standIn(t, false)
	dir := filepath.Dir(o.run)
	for text, want := range map[string]error{
		"exit 0":         nil,
		"exit 75":        ErrPostponed,
		"exit 1":         ErrRefused,
		"exit 255":       ErrRefused,
		"exit 203":       ErrNotRun, // systemd's own, most likely
		"kill -SEGV $$":  ErrRefused,
		"kill -KILL $$":  ErrNotRun,
		"exec sleep 100": ErrRefused, // killed at the timeout
		`[ "$A ${B} $$x" = "an a \$b 5x" ] && exit 75; true`: nil,
		`[ "$TANDEM_X" = '$y' ] || exit 1`:                   nil,
	} {
		timeout := time.Minute
		if strings.Contains(text, "sleep") {
			timeout = time.Second
		}
		err := Run(t.Context(), Program{Name: "a health", Argv: []string{"sh", "-c", text}, Env: []string{"TANDEM_X=$y"}, Timeout: timeout, Outside: o})
		if !errors.Is(err, want) || errors.Is(err, ErrNotRun) != (want == ErrNotRun) || errors.Is(err, ErrPostponed) != (want == ErrPostponed) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
	options, err := os.ReadFile(filepath.Join(dir, "options"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--wait", "--pipe", "--property=KillMode=process", "--property=BindsTo=tandem-agent.service"} {
		if !strings.Contains(string(options), want+"\n") {
			t.Errorf("systemd-run was not given %s", want)
		}
	}
	forgotten, err := os.ReadFile(filepath.Join(dir, "forgotten"))
	if n := strings.Count(string(forgotten), "tandem-run-a-health-"); err != nil || n != 7 {
		t.Errorf("%d of 7 failed units were forgotten: %v", n, err)
	}
}

// The output of a unit is passed on as that of any other program.
func TestOutsideOutput(t *testing.T) {
	t.Parallel()
	var out, errs []string
	err := Run(t.Context(), Program{
		Name: "version", Argv: []string{"sh", "-c", "echo 1.2.3; echo well >&2"}, Timeout: time.Minute, Outside: standIn(t, false),
		Out: func(l string) { out = append(out, l) }, Err: func(l string) { errs = append(errs, l) },
	})
	if got := fmt.Sprint(out, errs, err); got != "[1.2.3] [well] <nil>" {
		t.Error(got)
	}
}

// Where systemd does not run it, it runs all the same.
func TestOutsideRefuses(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]error{0: nil, 1: ErrRefused, 75: ErrPostponed} {
		err := Run(t.Context(), Program{
			Name: "health", Argv: []string{"sh", "-c", fmt.Sprintf("exit %d", code)}, Timeout: time.Minute, Outside: standIn(t, true),
		})
		if !errors.Is(err, want) {
			t.Errorf("exit %d: %v, want %v", code, err, want)
		}
	}
}

// What is held in the sandbox, because systemd cannot be asked, says nothing where
// that forbids it something; and what else it says counts.
func TestHeld(t *testing.T) {
	t.Parallel()
	held := &Outside{service: "tandem-agent.service"}
	for name, o := range map[string]*Outside{"no bus": held, "systemd does not run it": standIn(t, true)} {
		for text, want := range map[string]error{
			"exit 0": nil,
			"exit 1": ErrRefused,
			"echo 'sh: 1: cannot create /opt/x: Read-only file system' >&2; exit 2":                ErrNotRun,
			"echo 'runuser: cannot set groups: Operation not permitted'; exit 1":                   ErrNotRun,
			"echo 'sh: 1: cannot create /opt/x: Read-only file system' >&2; exit 75":               ErrPostponed,
			"echo 'sh: 1: cannot create /opt/x: Read-only file system' >&2; echo all the same":     nil,
			"echo 'sh: 1: cannot create /usrapp/full: No space left on device' >&2; kill -SEGV $$": ErrRefused,
		} {
			for _, separate := range []bool{false, true} {
				var mu sync.Mutex
				var said string
				p := Program{Name: "health", Argv: []string{"sh", "-c", text}, Timeout: time.Minute, Outside: o, Out: func(l string) {
					mu.Lock()
					defer mu.Unlock()
					said = l
				}}
				if separate {
					p.Err = p.Out
				}
				err := Run(t.Context(), p)
				if !errors.Is(err, want) || errors.Is(err, ErrNotRun) != (want == ErrNotRun) || errors.Is(err, ErrPostponed) != (want == ErrPostponed) {
					t.Errorf("%s: %s: %v, want %v", name, text, err, want)
				}
				if want == ErrNotRun && !strings.Contains(fmt.Sprint(err), "sandbox of tandem-agent.service") {
					t.Errorf("%s: %s: %v: the sandbox is not named", name, text, err)
				}
				if strings.Contains(text, "echo") && said == "" {
					t.Errorf("%s: %s: its output is lost", name, text)
				}
			}
		}
	}
}
