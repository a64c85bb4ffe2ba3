package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/internal/lock"
)

// startAgent runs the daemon on the device until the test ends, when it must
// end by itself.
func (d *unit) startAgent() {
	d.t.Helper()
	d.startAgentAs(d.command(context.Background(), "agent"))
}

func (d *unit) startAgentAs(cmd *exec.Cmd) {
	d.t.Helper()
	r := d.begin(cmd)
	d.t.Cleanup(func() {
		if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			d.t.Error(err)
		}
		if o := d.wait(r); o.exit != 0 {
			d.t.Errorf("the agent: %s", o)
		}
	})
	eventually(d.t, "the agent answers", func() bool {
		return strings.Contains(d.run("status", "--json").stdout, `"agent"`)
	})
}

// What a command prints, as a document and as text, and what it ends with does
// not depend on whether an agent carries it out.
func TestThroughAgent(t *testing.T) {
	t.Parallel()
	url, end := startServer(goodServer(bundleFile("repo")))
	t.Cleanup(end)
	// The agent installs nothing by itself meanwhile.
	more := "metered = true\npoll = \"1000h\"\nsocket = \"socket\"\n" + sourceSection(url) + `
[hooks]
pre_install = ["/bin/sh", "-c", "echo may $TANDEM_VERSION come; exit $(cat pre 2>/dev/null || echo 0)"]
health = ["/bin/sh", "-c", "echo is it well; exit $(cat health 2>/dev/null || echo 0)"]
`
	for _, form := range [][]string{nil, {"--json"}, {"--quiet"}} {
		t.Run(strings.Join(form, ""), func(t *testing.T) {
			t.Parallel()
			alone, through := newDevice(t, more), newDevice(t, more)
			through.startAgent()
			for _, step := range []struct {
				args  []string
				stdin string            // a file
				files map[string]string // written before; what the hooks answer
				exit  int
			}{
				{args: []string{"status"}},
				{args: []string{"install", "nowhere"}, exit: 2},
				{args: []string{"install", bundleFile("other-key.tandem")}, exit: 20},
				{args: []string{"install", bundleFile("other-hardware.tandem")}, exit: 21},
				{args: []string{"install", "tandem.toml"}, exit: 24},
				{args: []string{"install", bundleFile("hello-1.0.0.tandem")}},
				{args: []string{"status"}},
				{args: []string{"install", bundleFile("hello-1.0.0.tandem")}},
				{args: []string{"install", bundleFile("hello-1.0.0.tandem"), "--reinstall"}},
				{args: []string{"check"}},
				{args: []string{"update"}, files: map[string]string{"pre": "75"}, exit: 50},
				{args: []string{"update"}, files: map[string]string{"pre": "1"}, exit: 50},
				{args: []string{"update"}, files: map[string]string{"pre": "0", "health": "75"}},
				{args: []string{"status"}},
				{args: []string{"confirm"}},
				{args: []string{"confirm"}},
				{args: []string{"update"}, files: map[string]string{"health": "0"}},
				{args: []string{"rollback"}},
				{args: []string{"install", bundleFile("hello-1.1.0.tandem")}, exit: 23},
				{args: []string{"install", "-", "--allow-revoked"}, stdin: bundleFile("hello-1.1.0.tandem")},
				{args: []string{"install", "-"}, stdin: "tandem.toml", exit: 24},
				{args: []string{"install", bundleFile("hello-2.0.0.tandem")}, files: map[string]string{"health": "1"}, exit: 51},
				{args: []string{"rollback", "--to", "1.0.0"}, files: map[string]string{"health": "0"}, exit: 1},
				{args: []string{"rollback", "--to", "9.9.9"}, exit: 1},
				{args: []string{"rollback", "--to", "newest"}, exit: 2},
				{args: []string{"status"}},
			} {
				var got [2]outcome
				for i, d := range []*unit{alone, through} {
					for name, text := range step.files {
						if err := os.WriteFile(d.dir+"/"+name, []byte(text), 0o644); err != nil {
							t.Fatal(err)
						}
					}
					got[i] = d.withInput(step.stdin, append(step.args, form...)...).plain(t, d.dir)
				}
				if got[0].exit != step.exit {
					t.Errorf("%q: %s\nwant exit %d", step.args, got[0], step.exit)
				}
				if got[0] != got[1] {
					t.Errorf("%q alone:\n%s\nthrough the agent:\n%s", step.args, got[0], got[1])
				}
			}
		})
	}
}

// An upload that does not come to its end keeps nobody, and ends no agent: one who hangs
// up without a look at the answer, one who sends nothing any more.
func TestUploadStops(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "socket = \"socket\"\n")
	waits := func(args ...string) *running {
		silent, end, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { silent.Close(); end.Close() })
		cmd := d.command(context.Background(), args...)
		cmd.Stdin = silent
		return d.begin(cmd)
	}
	for _, name := range []string{"-", "/dev/stdin"} {
		r := waits("install", name)
		eventually(t, "it waits", func() bool { return d.run("status").exit == 0 && d.run("boot").exit == 60 })
		if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if o := d.wait(r); o.exit != 1 || !strings.Contains(o.stderr, "interrupted") {
			t.Errorf("install %s, interrupted: %s", name, o)
		}
	}
	d.startAgent()
	installs := func() bool { return strings.Contains(d.must("status").stdout, "agent: installing a bundle") }
	c, err := net.Dial("unix", d.dir+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "POST /v1/install HTTP/1.1\r\nHost: agent\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the upload begins", installs)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the upload ends", func() bool { return !installs() })
	for _, name := range []string{"-", "/dev/stdin"} {
		r := waits("install", name)
		eventually(t, "the upload begins", installs)
		if o := d.must("cancel"); o.stdout != "cancelled: installing a bundle\n" {
			t.Errorf("cancel: %s", o)
		}
		if o := d.wait(r); o.exit != 1 || !strings.Contains(o.stderr, "cancelled") {
			t.Errorf("install %s, cancelled: %s", name, o)
		}
	}
}

// Who wants no file writes /dev/null: a device is neither replaced nor removed.
func TestAgentLeavesDevices(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may make devices")
	}
	for key, exit := range map[string]int{"pid_file": 0, "socket": 1} {
		d := newDevice(t, key+" = \"null\"\n")
		if err := syscall.Mknod(d.dir+"/null", syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
			t.Fatal(err)
		}
		r := d.start(context.Background(), "agent")
		if exit == 0 {
			eventually(t, "the agent answers", func() bool { return strings.Contains(d.run("status").stdout, "agent: ") })
			if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		if o := d.wait(r); o.exit != exit {
			t.Errorf("%s: %s", key, o)
		}
		if info, err := os.Lstat(d.dir + "/null"); err != nil || info.Mode()&os.ModeCharDevice == 0 {
			t.Errorf("%s: the device is gone: %v, error %v", key, info, err)
		}
	}
}

// What a command can open is installed, also where the agent cannot: in the
// sandbox of a service /tmp is another one.
func TestInstallWhatTheAgentCannotSee(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	d := newDevice(t, "socket = \"socket\"\n")
	data, err := os.ReadFile(bundleFile("hello-1.0.0.tandem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(d.dir+"/hidden", 0o755), os.WriteFile(d.dir+"/hidden/bundle", data, 0o600)); err != nil {
		t.Fatal(err)
	}
	inner := d.command(context.Background(), "agent")
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", `mount -t tmpfs none hidden && exec "$@"`, "agent"}, inner.Args...)...)
	cmd.Dir = d.dir
	d.startAgentAs(cmd)
	if o := d.run("install", "hidden/bundle"); o.exit != 0 || !strings.Contains(o.stdout, "installed hello 1.0.0") {
		t.Errorf("a file that the agent cannot see: %s", o)
	}
	if o := d.run("install", "hidden/missing"); o.exit != 2 || !strings.Contains(o.stderr, "no such file") {
		t.Errorf("a file that is not there: %s", o)
	}
}

// SIGHUP has the agent go on with the configuration as it is now; a wrong one
// changes nothing.
func TestConfigurationAgain(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "socket = \"socket\"\n")
	text, err := os.ReadFile(d.dir + "/tandem.toml")
	if err != nil {
		t.Fatal(err)
	}
	own := d.dir + "/agent.toml" // that of the commands stays
	if err := os.WriteFile(own, text, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := d.command(context.Background(), "agent", "--config", own)
	d.startAgentAs(cmd)
	for _, step := range []struct{ from, to, there, gone string }{
		{`"socket"`, `"elsewhere"`, "elsewhere", "socket"},
		{"[agent]", "[nonsense]", "elsewhere", "socket"},
		{"", "", "socket", "elsewhere"},
	} {
		if err := os.WriteFile(own, []byte(strings.Replace(string(text), step.from, step.to, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the agent answers at "+step.there, func() bool {
			_, err := os.Lstat(d.dir + "/" + step.there)
			_, old := os.Lstat(d.dir + "/" + step.gone)
			return err == nil && old != nil
		})
	}
	if o := d.run("status", "--json"); !strings.Contains(o.stdout, `"agent"`) {
		t.Errorf("the agent does not answer: %s", o)
	}
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: it does not happen", what)
		case <-tick.C:
		}
	}
}

// withInput runs tandem with a file as its standard input.
func (d *unit) withInput(file string, args ...string) outcome {
	d.t.Helper()
	if file == "" {
		return d.run(args...)
	}
	if !strings.HasPrefix(file, "/") {
		file = d.dir + "/" + file
	}
	in, err := os.Open(file)
	if err != nil {
		d.t.Fatal(err)
	}
	defer in.Close()
	r := &running{cmd: d.command(context.Background(), args...)}
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = in, &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	return d.wait(r)
}

var times = regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z`)

// plain takes out what differs from device to device: where it is, the time,
// the names of histories, and what status tells of the agent itself.
func (o outcome) plain(t *testing.T, dir string) outcome {
	t.Helper()
	for _, s := range []*string{&o.stdout, &o.stderr} {
		*s = times.ReplaceAllString(strings.ReplaceAll(*s, dir, "DIR"), "TIME")
	}
	var kept []string
	for line := range strings.Lines(o.stdout) {
		if !strings.HasPrefix(line, "agent: ") {
			kept = append(kept, line)
		}
	}
	o.stdout = strings.Join(kept, "")
	var doc map[string]any
	if json.Unmarshal([]byte(o.stdout), &doc) == nil {
		delete(doc, "agent")
		if last, ok := doc["last_update"].(map[string]any); ok {
			delete(last, "id")
		}
		data, err := json.MarshalIndent(doc, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		o.stdout = string(data)
	}
	return o
}

// What the agent makes is closed to others whatever the umask that it is started with:
// its socket above all.
func TestAgentUnderUmask(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "poll = \"1000h\"\nsocket = \"socket\"\n")
	cmd := d.command(context.Background(), "agent")
	cmd.Args = append([]string{"sh", "-c", `umask 000; exec "$0" "$@"`}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path = "/bin/sh"
	d.startAgentAs(cmd)
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	info, err := os.Stat(filepath.Join(d.dir, "socket"))
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket: %v, mode %v", err, info.Mode())
	}
	for _, name := range []string{"state", "system", "usr_data", "tandem.lock"} {
		err := filepath.WalkDir(filepath.Join(d.dir, name), func(p string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // something of the agent's that went meanwhile
			}
			if err != nil {
				return err
			}
			if info, err := e.Info(); err == nil && info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o022 != 0 {
				t.Errorf("%s can be written by others: %v", p, info.Mode())
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// An agent that was killed holds its pid file until the last of its threads is gone. The
// next one waits for that; for one that lives it does not.
func TestAgentAfterOneThatWasKilled(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "socket = \"socket\"\npid_file = \"agent.pid\"\n")
	pidFile := filepath.Join(d.dir, "agent.pid")
	release, err := lock.AcquirePID(pidFile, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if o := d.run("agent"); o.exit != 60 || !strings.Contains(o.stderr, fmt.Sprintf("an agent runs with process id %d", os.Getpid())) ||
		!strings.Contains(o.stderr, "hint: wait until it is done, or stop it, then try again") {
		t.Errorf("beside one that lives: %s", o)
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	d.write("agent.pid", fmt.Sprintln(dead.Process.Pid))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := d.command(ctx, "agent")
	said, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	lines := bufio.NewScanner(said)
	until := func(what string) bool {
		for lines.Scan() {
			if strings.Contains(lines.Text(), what) {
				return true
			}
		}
		return false
	}
	waits := until("not gone yet")
	if !waits {
		t.Error("it does not wait")
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if waits && !until("the agent runs") {
		t.Error("it does not run once the other one is gone")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && waits {
		t.Error(err)
	}
	_, _ = io.Copy(io.Discard, said)
	if err := cmd.Wait(); err != nil && waits {
		t.Error(err)
	}
}

// What was warned of once is not told at each poll.
func TestAgentWarnsOnce(t *testing.T) {
	t.Parallel()
	url, end := startServer(goodServer(bundleFile("repo")))
	t.Cleanup(end)
	d := newDevice(t, "metered = true\npoll = \"1000h\"\nsocket = \"socket\"\n"+sourceSection(url)+"token_file = \"token\"\n")
	d.write("token", "secret\n") // for everybody to read
	r := d.begin(d.command(context.Background(), "agent"))
	eventually(t, "the agent answers", func() bool { return strings.Contains(d.run("status", "--json").stdout, `"agent"`) })
	for range 3 {
		d.must("check")
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if o := d.wait(r); strings.Count(o.stderr, "may be read by every user") != 1 {
		t.Errorf("the agent said: %s", o.stderr)
	}
}

// An agent that hangs keeps nobody waiting: status tells what lies on the device, and
// whoever would have it do something hears why it does not.
func TestAgentHangs(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it waits as long as an agent may take to answer")
	}
	d := newDevice(t, "socket = \"socket\"\n")
	if o := d.run("install", bundleFile("hello-1.0.0.tandem")); o.exit != 0 {
		t.Fatal(o)
	}
	l, err := net.Listen("unix", filepath.Join(d.dir, "socket")) // the kernel takes what comes; nobody else does
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		args           []string
		exit           int
		stdout, stderr string
	}{
		{[]string{"status"}, 0, "the sides are in step", "the agent does not answer: this is what lies on the device"},
		{[]string{"cancel"}, 60, "", "another tandem is at work: the agent does not answer\nhint: see what its log says last"},
		{[]string{"confirm"}, 60, "", "another tandem is at work: the agent does not answer\nhint: see what its log says last"},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var out, said lines
			cmd := d.command(ctx, c.args...)
			cmd.Stdout, cmd.Stderr = &out, &said
			_ = cmd.Run()
			if cmd.ProcessState.ExitCode() != c.exit || !strings.Contains(out.String(), c.stdout) || !strings.Contains(said.String(), c.stderr) {
				t.Errorf("exit code %d: expected %d\n%s\n%s", cmd.ProcessState.ExitCode(), c.exit, &out, &said)
			}
		})
	}
}
