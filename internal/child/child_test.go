package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func script(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	// A child that another test starts meanwhile would hold it open, and it could not be run.
	syscall.ForkLock.RLock()
	err := os.WriteFile(name, []byte(text), mode)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// built returns this program, changed.
func built(t *testing.T, change func([]byte)) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(data)
	}
	return string(data[:1<<20])
}

// A program that is linked needs its loader.
func TestLoader(t *testing.T) {
	t.Parallel()
	head := func(wide bool, loader string) []byte {
		b := make([]byte, 256)
		copy(b, "\x7fELF\x01\x01")
		if wide {
			b[4], b[32], b[54], b[56], b[64], b[72], b[96] = 2, 64, 56, 1, 3, 200, 40
		} else {
			b[28], b[42], b[44], b[52], b[56], b[68] = 52, 32, 1, 3, 200, 40
		}
		copy(b[200:], loader)
		return b
	}
	for _, wide := range []bool{false, true} {
		data := head(wide, "/lib/ld-missing.so.1\x00")
		if got := loaderOf(data); got != "/lib/ld-missing.so.1" {
			t.Errorf("wide %t: %q", wide, got)
		}
		if got := loaderOf(head(wide, "")[:100]); got != "" {
			t.Errorf("wide %t: cut: %q", wide, got)
		}
		own := built(t, nil)
		copy(data[18:], own[18:20])
		if err := checkBinary("h", data); err == nil || !strings.Contains(err.Error(), "h: its loader: stat /lib/ld-missing.so.1") {
			t.Errorf("wide %t: %v", wide, err)
		}
	}
}

// What cannot run is found before, and is no answer when it is run all the same.
func TestNotRun(t *testing.T) {
	t.Parallel()
	const good = "#!/bin/sh\nexit 1\n"
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		argv []string
		want string // part of the message; "" for one that runs
	}{
		{"runs", []string{script(t, "h", good, 0o755)}, ""},
		{"a shell", []string{"sh", "-c", "exit 1"}, ""},
		{"a shell's script", []string{"sh", script(t, "h", good, 0o644)}, ""},
		{"env", []string{script(t, "h", "#!/usr/bin/env -S sh\nexit 1\n", 0o755)}, ""},
		{"a program", []string{"false"}, ""},
		{"misspelt", []string{filepath.Join(dir, "missing")}, "no such file"},
		{"misspelt, without a path", []string{"tandem-has-no-such-program"}, "not found"},
		{"a directory", []string{dir}, "directory"},
		{"a FIFO", []string{fifo}, "no regular file"},
		{"a byte order mark", []string{script(t, "h", "\ufeff#!/bin/sh\nexit 1\n", 0o755)}, "byte order mark"},
		{"a directory for an interpreter", []string{script(t, "h", "#!"+dir+"\n", 0o755)}, "its interpreter"},
		{"no execute bit", []string{script(t, "h", good, 0o644)}, "may not be executed"},
		{"the line ends of Windows", []string{script(t, "h", "#!/bin/sh\r\nexit 1\r\n", 0o755)}, `\r\n`},
		{"no interpreter", []string{script(t, "h", "#!/opt/missing/python3\n", 0o755)}, "its interpreter"},
		{"no interpreter for env", []string{script(t, "h", "#!/usr/bin/env tandem-has-no-such-program\n", 0o755)}, "its interpreter"},
		{"no first line", []string{script(t, "h", "exit 0\n", 0o755)}, "#!/bin/sh"},
		{"empty", []string{script(t, "h", "", 0o755)}, "#!/bin/sh"},
		{"a script for an interpreter, without its own", []string{script(t, "h", "#!"+script(t, "i", "#!/opt/missing/sh\n", 0o755)+"\n", 0o755)}, "its interpreter"},
		{"one word for env that are two", []string{script(t, "h", "#!/usr/bin/env sh -e\nexit 1\n", 0o755)}, `"sh -e"`},
		{"variables for env", []string{script(t, "h", "#!/usr/bin/env -S A=1 tandem-has-no-such-program\nexit 1\n", 0o755)}, "its interpreter"},
		{"options for env", []string{script(t, "h", "#!/usr/bin/env -S -u A sh\nexit 1\n", 0o755)}, ""},
		{"env by hand", []string{"env", "A=1", "sh", "-c", "exit 1"}, ""},
		{"zeros", []string{script(t, "h", strings.Repeat("\x00", 5000), 0o755)}, "for this processor"},
		{"another processor", []string{script(t, "h", built(t, func(b []byte) { b[18]++ }), 0o755)}, "for this processor"},
		{"the beginning of a program", []string{script(t, "h", built(t, nil)[:40], 0o755)}, "for this processor"},
	} {
		if c.want == "for this processor" && knowsMore() {
			continue
		}
		err := Check(c.argv)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrNotRun) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.argv[0])) {
			t.Errorf("%s: found %v, want %q", c.name, err, c.want)
		}
		err = Run(t.Context(), Program{Name: "health", Argv: c.argv, Timeout: time.Minute})
		if verdict := errors.Is(err, ErrRefused); verdict != (c.want == "") || errors.Is(err, ErrNotRun) == verdict {
			t.Errorf("%s: run: %v", c.name, err)
		}
		if c.want == "for this processor" && !errors.Is(err, syscall.ENOEXEC) {
			t.Errorf("%s: run: %v does not say that the kernel cannot run it", c.name, err)
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: run: %v, want %q", c.name, err, c.want)
		}
	}
	for name, argv := range map[string][]string{
		"a shell's script is missing":                   {"sh", filepath.Join(dir, "missing")},
		"with an option":                                {"sh", "-e", filepath.Join(dir, "missing")},
		"env is given a program that is missing":        {"env", "A=1", "B=2", filepath.Join(dir, "missing"), "C=3"},
		"nice is":                                       {"nice", filepath.Join(dir, "missing")},
		"a shell's script has the line ends of Windows": {"sh", script(t, "h", "exit 1\r\n", 0o644)},
	} {
		if err := Check(argv); !errors.Is(err, ErrNotRun) {
			t.Errorf("%s: %v", name, err)
		}
		if err := Run(t.Context(), Program{Name: "health", Argv: argv, Timeout: time.Minute}); !errors.Is(err, ErrNotRun) || errors.Is(err, ErrRefused) {
			t.Errorf("%s: run: %v", name, err)
		}
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"exit 0":         nil,
		"exit 75":        ErrPostponed,
		"exit 1":         ErrRefused,
		"exit 127":       ErrRefused,
		"kill -SEGV $$":  ErrRefused,
		"kill -KILL $$":  ErrNotRun,
		"kill -TERM $$":  ErrNotRun,
		"exec sleep 100": ErrRefused, // killed at the timeout

		"echo 'h: 2: Cannot fork' >&2; exit 2":                ErrNotRun, // as dash says it
		"echo 'h: line 2: fork: Out of memory' >&2; exit 254": ErrNotRun, // bash
		"echo \"h: can't fork: Try again\"; exit 2":           ErrNotRun, // busybox
		"echo 'h: Cannot fork'; exit 0":                       nil,
		"echo 'pitchfork: broken'; exit 1":                    ErrRefused,
	} {
		timeout := time.Minute
		if strings.Contains(text, "sleep") {
			timeout = 100 * time.Millisecond
		}
		err := Run(t.Context(), Program{Name: "health", Argv: []string{"sh", "-c", text}, Timeout: timeout})
		if !errors.Is(err, want) || errors.Is(err, ErrNotRun) != (want == ErrNotRun) || errors.Is(err, ErrPostponed) != (want == ErrPostponed) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
}

// A program that no process can be made for has said nothing.
func TestNoProcess(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("TANDEM_TEST_NPROC") == "" { // the limit is that of a whole process
		cmd := exec.Command(exe, "-test.run=^TestNoProcess$", "-test.v")
		cmd.Env = append(os.Environ(), "TANDEM_TEST_NPROC=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	limit := unix.Rlimit{Cur: 3, Max: 3} // descriptors
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Program{Name: "health", Argv: []string{"/bin/true"}, Timeout: time.Minute}); !errors.Is(err, ErrNotRun) || errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
}

// alive reports whether a process runs, and is no zombie.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(data), ") Z ")
}

// survivor makes a program that leaves one running, which writes lines of which
// it counts those that it has written, and gives what tells its process id.
func survivor(t *testing.T) (argv []string, count func() int, pid func() int) {
	t.Helper()
	dir := t.TempDir()
	argv = []string{"sh", "-c", `
cd "$0"
( trap 'kill -9 $$' ALRM; n=0; while [ $n -lt 100000 ]; do echo "a line of the application, number $n" 2>/dev/null; n=$((n+1)); case $n in *000) echo $n >count.new; mv count.new count;; esac; done; echo end >count; exec sleep 1000 ) &
echo $! >pid`, dir}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	pid = func() int {
		n, err := strconv.Atoi(read("pid"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	count = func() int {
		if read("count") == "end" {
			return 100000
		}
		n, _ := strconv.Atoi(read("count"))
		return n
	}
	t.Cleanup(func() { _ = unix.Kill(pid(), unix.SIGKILL) })
	return argv, count, pid
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("never: %s", what)
		}
	}
}

// A program is done when its process ends. What it leaves running lives on,
// whatever it writes, and whether anybody reads it or not.
func TestLeavesRunning(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"lines", "inherited"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			argv, count, pid := survivor(t)
			p := Program{Name: "start", Argv: argv, Timeout: time.Minute}
			if kind == "inherited" {
				out, err := os.Create(filepath.Join(t.TempDir(), "log"))
				if err != nil {
					t.Fatal(err)
				}
				p.Inherit = out
				defer out.Close()
			}
			began := time.Now()
			if err := Run(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("it took %s", d)
			}
			until(t, "the application writes all that it has to", func() bool {
				if !alive(t, pid()) {
					t.Fatal("the application is dead")
				}
				return count() == 100000
			})
			if p.Inherit != nil {
				if data, err := os.ReadFile(p.Inherit.Name()); err != nil || !strings.HasSuffix(string(data), "number 99999\n") {
					t.Errorf("it lost its output: %d bytes, %v", len(data), err)
				}
			}
		})
	}
}

// At the timeout the whole group goes; when the program has ended by itself,
// nothing is killed, even if ctx ends then.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pid := func() int {
		data, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
		return n
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Run(ctx, Program{Name: "health", Argv: []string{"sh", "-c", `sleep 1000 & echo $! >"$0"/pid; wait`, dir}, Timeout: time.Minute})
	}()
	until(t, "the child of the hook", func() bool { return pid() > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	until(t, "the end of the hook's child", func() bool { return !alive(t, pid()) })

	ctx, cancel = context.WithCancel(t.Context())
	argv, _, app := survivor(t)
	if err := Run(ctx, Program{Name: "start", Argv: argv, Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if !alive(t, app()) {
		t.Fatal("the application was killed after its hook had ended")
	}
}

// tracing names, to this program run again, the process that it is to hold.
const tracing = "TANDEM_TEST_TRACES"

// TestTracer is no test: it holds a process until its own input ends.
func TestTracer(t *testing.T) {
	pid, err := strconv.Atoi(os.Getenv(tracing))
	if err != nil {
		t.Skip("it is run by TestStuck")
	}
	runtime.LockOSThread()
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0); e != 0 {
		fmt.Println(e)
		return
	}
	fmt.Println("holds it")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A program that was killed, and does not end, is not waited for: here another process
// traces it and does not take its end.
func TestStuck(t *testing.T) {
	t.Parallel()
	began := make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	p := Program{
		Name: "stop", Argv: []string{"sh", "-c", "echo $$; exec sleep 1000"}, Timeout: time.Hour, dying: 100 * time.Millisecond,
		Out: func(line string) { n, _ := strconv.Atoi(line); began <- n },
	}
	go func() { done <- Run(ctx, p) }()
	pid := <-began
	tracer := exec.Command("/proc/self/exe", "-test.run=^TestTracer$")
	tracer.Env = append(os.Environ(), fmt.Sprintf("%s=%d", tracing, pid))
	in, err := tracer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := tracer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	held := said == "holds it\n"
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it is waited for")
	}
	if held && unix.Kill(pid, 0) != nil {
		t.Error("the test proves nothing: the program ended")
	}
	in.Close()
	_ = tracer.Wait()
	until(t, "the end of the program, which is taken later", func() bool { return unix.Kill(pid, 0) != nil })
	if !held {
		t.Skip("no process may be traced here: " + said)
	}
}

// A program that leaves its process group is killed all the same.
func TestKillOutsideItsGroup(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	err = Run(t.Context(), Program{Name: "health", Argv: []string{python, "-c", `
import os, time
os.setpgid(0, os.getpgid(os.getppid()))
time.sleep(1000)`}, Timeout: 500 * time.Millisecond, dying: time.Minute})
	if !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
}

// A program that is to end by itself is given its time.
func TestGrace(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan bool, 1)
	done := make(chan error)
	go func() {
		done <- Run(ctx, Program{
			Name: "stop", Argv: []string{"sh", "-c", "echo begun; sleep 0.3; exit 0"}, Timeout: time.Minute, Grace: time.Minute,
			Out: func(string) { began <- true },
		})
	}()
	<-began
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p := Program{Name: "start", Argv: []string{"true"}, Timeout: time.Minute}
	if err := Run(ctx, p); !errors.Is(err, context.Canceled) {
		t.Errorf("begun after the end: %v", err)
	}
	p.Grace = time.Minute
	if err := Run(ctx, p); err != nil {
		t.Errorf("not begun, though it had time: %v", err)
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`printf 'one\n\ntwo'`:                          {"one", "", "two"},
		`printf 'a\033[31mb\302\205c\342\200\256\377'`: {`a\x1b[31mb\u0085c\u202e\xff`},
		`printf '%04096d\nx\n' 0`:                      {strings.Repeat("0", 4096), "x"},
		`printf '%04097d\nx\n' 0`:                      {strings.Repeat("0", 4096), "0", "x"},
		`printf 'größe\ttab\n'`:                        {`größe\ttab`},
		`echo one >&2; echo two`:                       {"one", "two"},
		`printf '1.2.3\r\nprogress 5\r\n\r\na\rb\n'`:   {"1.2.3", "progress 5", "", `a\rb`}, // as a modem says it
	} {
		var got []string
		if err := Run(t.Context(), Program{Name: "health", Argv: []string{"sh", "-c", text}, Timeout: time.Minute, Out: func(l string) { got = append(got, l) }}); err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	lines := 0
	if err := Run(t.Context(), Program{Name: "health", Argv: []string{"sh", "-c", "yes | head -c 3000000"}, Timeout: time.Minute, Out: func(string) { lines++ }}); err != nil {
		t.Fatal(err)
	}
	if most := maxOutput/2 + 3; lines > most {
		t.Errorf("%d lines were given, %d at most", lines, most)
	}
}
