package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	dev "tandem/agent/device"
	"tandem/backup/record"
	"tandem/internal/fsys"
)

// device is a device of its own: two sides, hooks, and an agent that may run.
type device struct {
	t       testing.TB
	dir     string
	program string   // its own tandem; "": the one that all share
	agent   *process // nil while none runs
}

// options are the sections of a device's configuration that tests change.
type options struct {
	source  string // URL; "": none
	slow    string // [source] bandwidth
	more    string // lines of [source]
	report  string // URL; "": none
	otlp    bool   // for a collector, metrics once a second
	id      string // [device] id; "" is test
	agent   string // more lines of [agent]
	hooks   bool   // start, stop and health
	pre     bool   // pre_install
	usrData string // the directory that holds usr_data and state; "" is the device's own
}

// The hooks. What runs is a file that start makes and stop takes away.
const (
	startHook = `echo "$TANDEM_VERSION after $TANDEM_PREVIOUS" >> started
"$TANDEM_APPS/bin/hello" > running.new && mv running.new running
`
	stopHook = `rm -f running
while [ -e hang-stop ]; do sleep 0.05; done
`
	healthHook = `echo "$TANDEM_VERSION" >> asked
while [ -e hang-health ]; do sleep 0.05; done
sleep 0.1
read -r healthy < "$TANDEM_APPS/healthy"
[ "$healthy" = yes ] && [ -e running ]
`
	preHook = `echo "$TANDEM_VERSION" >> pre-asked
exit "$(cat pre-answer)"
`
)

func newDevice(t testing.TB, o options) *device {
	t.Helper()
	d := &device{t: t, dir: t.TempDir()}
	t.Cleanup(func() {
		if d.agent != nil { // a hook of one that is killed goes on, and writes to what is about to be removed
			d.agent.end()
		}
		if t.Failed() {
			log, _ := os.ReadFile(d.path("agent.log"))
			t.Logf("the agent's log:\n%s", log)
			t.Logf("the history:\n%s", d.run("history").stdout)
		}
	})
	root, err := os.ReadFile(filepath.Join(pubDir, "repo", "root.json"))
	d.check(err)
	d.write("root.json", string(root))
	d.configure(o)
	return d
}

// configure writes the configuration; an agent reads it when it starts.
func (d *device) configure(o options) {
	d.t.Helper()
	hook := func(name, script string) string {
		d.write(name+".sh", "cd '"+d.dir+"'\n"+script)
		return fmt.Sprintf("%s = [\"/bin/sh\", %q]\n", name, d.path(name+".sh"))
	}
	if o.usrData == "" {
		o.usrData = d.dir
	}
	text := fmt.Sprintf(`[device]
id = %q
compatible = ["demo"]
app = "hello"
[system]
path = "system"
[usr_data]
path = %q
[trust]
root = "root.json"
[agent]
state = %q
lock = "tandem.lock"
socket = "socket"
`, cmp.Or(o.id, "test"), filepath.Join(o.usrData, "usr_data"), filepath.Join(o.usrData, "state")) + o.agent + "\n"
	if o.source != "" {
		text += fmt.Sprintf("[source]\nurl = %q\nbandwidth = %q\n", o.source, o.slow) + o.more
	}
	if o.report != "" {
		text += fmt.Sprintf("[report]\nurl = %q\n", o.report)
		if o.otlp {
			text += "format = \"otlp\"\nmetrics = \"1s\"\n"
		}
	}
	text += "[hooks]\n"
	if o.hooks {
		text += hook("start", startHook) + hook("stop", stopHook) + hook("health", healthHook)
	}
	if o.pre {
		text += hook("pre_install", preHook)
	}
	d.write("tandem.toml", text)
}

func (d *device) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) write(name, text string) {
	d.t.Helper()
	d.check(os.WriteFile(d.path(name), []byte(text), 0o644))
}

func (d *device) remove(name string) {
	d.t.Helper()
	d.check(os.RemoveAll(d.path(name)))
}

// read gives what is in a file; "" if it is not there.
func (d *device) read(name string) string {
	data, err := os.ReadFile(d.path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
	return string(data)
}

// lines gives the lines of a file; none if it is not there.
func (d *device) lines(name string) []string { return strings.Fields(d.read(name)) }

// outcome is how a run of tandem ended.
type outcome struct {
	exit           int
	stdout, stderr string
}

func (d *device) run(args ...string) outcome {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), atLast)
	defer cancel()
	cmd := d.command(ctx, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (d *device) must(args ...string) outcome {
	d.t.Helper()
	o := d.run(args...)
	if o.exit != 0 {
		d.t.Fatalf("tandem %q: exit %d\n%s%s", args, o.exit, o.stdout, o.stderr)
	}
	return o
}

func (d *device) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, cmp.Or(d.program, filepath.Join(binDir, "tandem")), append([]string{"--config", "tandem.toml"}, args...)...)
	cmd.Dir = d.dir
	return cmd
}

// process is a program that runs until it is ended.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of its end
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// kill ends it as nothing can be ended more suddenly.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// end tells it to end, and ends it where it does not.
func (p *process) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-p.done:
	case <-time.After(promise):
		p.kill()
	}
}

// start starts the agent, and waits until it can be talked to.
func (d *device) start() {
	d.t.Helper()
	d.launch()
	eventually(d.t, soon, "the agent answers", func() error { _, err := d.status(); return err })
}

// launch starts the agent.
func (d *device) launch() {
	d.t.Helper()
	log, err := os.OpenFile(d.path("agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	d.check(err)
	defer log.Close()
	cmd := d.command(context.Background(), "agent", "--verbose")
	cmd.Stderr = log
	d.agent, err = startProcess(cmd)
	d.check(err)
}

// kill kills the agent.
func (d *device) kill() {
	d.agent.kill()
	d.agent = nil
}

// end tells the agent to end, which it does within the time that is promised.
func (d *device) end() {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	began := time.Now()
	select {
	case <-d.agent.done:
		d.t.Logf("the agent ended within %s", time.Since(began).Round(time.Millisecond))
	case <-time.After(promise):
		d.t.Fatalf("the agent did not end within %s", promise)
	}
	if d.agent.err != nil {
		d.t.Errorf("the agent's end: %v", d.agent.err)
	}
	d.agent = nil
}

func (d *device) signal(s os.Signal) {
	d.t.Helper()
	d.check(d.agent.cmd.Process.Signal(s))
}

// status asks the agent over its socket.
func (d *device) status() (*dev.Status, error) {
	body, err := d.get("/v1/status")
	if err != nil {
		return nil, err
	}
	var s dev.Status
	return &s, json.Unmarshal(body, &s)
}

// get asks the agent over its socket.
func (d *device) get(path string) ([]byte, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		dir, err := os.Open(d.dir)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		return (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/socket", dir.Fd()))
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: soon}
	resp, err := client.Get("http://agent" + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// until waits until the agent's status is as it should be.
func (d *device) until(limit time.Duration, what string, check func(s *dev.Status) error) {
	d.t.Helper()
	eventually(d.t, limit, what, func() error {
		s, err := d.status()
		if err != nil {
			return err
		}
		return check(s)
	})
}

// step is how far the agent has come, as it is written down.
func (d *device) step() dev.Step {
	var m struct {
		Works []dev.Work `json:"works"`
	}
	state, err := fsys.OpenOS(d.path("state"))
	if err != nil {
		return ""
	}
	defer state.Close()
	if _, err := record.ReadJSON(state, "agent", "agent.json", 1<<20, &m); err != nil {
		return ""
	}
	return (&dev.Machine{Works: m.Works}).Underway().Step
}

// runs says what keeps the device from running a version: installed and
// confirmed on both sides, and started.
func (d *device) runs(version string) error {
	s, err := d.status()
	if err != nil {
		return err
	}
	for name, side := range s.Sides {
		if side.Version.String() != version {
			return fmt.Errorf("%s has %s, want %s (%s)", name, side.Version, version, s.Agent.Doing)
		}
	}
	switch {
	case !s.InStep:
		return errors.New("the sides are not in step")
	case s.Pending != nil:
		return fmt.Errorf("%s is not confirmed", s.Pending.Version)
	case s.Agent.Step != dev.Idle:
		return fmt.Errorf("the agent's step is %s", s.Agent.Step)
	}
	if got, want := d.read("running"), "hello "+version+"\n"; got != want {
		return fmt.Errorf("%q runs, want %q", got, want)
	}
	return nil
}

// polled waits until the agent has had an answer from the source that it asked
// for after now.
func (d *device) polled() {
	d.t.Helper()
	now := time.Now()
	d.until(soon, "a poll", func(s *dev.Status) error {
		if !s.Agent.LastPoll.After(now) {
			return fmt.Errorf("the last poll was at %s: %s", s.Agent.LastPoll, s.Agent.PollError)
		}
		return nil
	})
}

// history gives the events that the device remembers.
func (d *device) history() []dev.Event {
	d.t.Helper()
	var doc struct{ Events []dev.Event }
	d.check(json.Unmarshal([]byte(d.must("history", "--json").stdout), &doc))
	return doc.Events
}

// actions gives what happened to versions: the action and the version of each
// event that installed, confirmed or took back one.
func actions(events []dev.Event) []string {
	var all []string
	for _, e := range events {
		switch e.Action {
		case "installed", "pending", "confirmed":
			all = append(all, e.Action+" "+e.Version.String())
		case "rolled back":
			all = append(all, "rolled back from "+e.From.String()+" to "+e.Version.String())
		}
	}
	return all
}
