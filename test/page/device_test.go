package page

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"tandem/internal/testprograms"
	"testing"
)

// Names of files that mean something to a browser, a shell or a form.
const (
	markup = `<img src=x onerror="document.title='pwned'">`
	odd    = "share/" + markup + "&amp;%41 \u202egnp.\n\xff'"
)

// publish makes the keys, the releases of hello, and a bundle of 64 MiB. 1.0.0 and 1.1.0
// are in the repository.
func publish(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	release := func(args ...string) error {
		cmd := exec.Command(filepath.Join(binDir, "tandem-release"), args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("tandem-release %q: %w\n%s", args, err, out)
		}
		return nil
	}
	errs := []error{release("keygen", "--out", "keys"), release("repo", "init", "repo", "--keys", "keys")}
	for _, v := range []string{"1.0.0", "1.1.0", "2.0.0", "3.0.0"} {
		files := map[string][]byte{
			"bin/hello": []byte("#!/bin/sh\necho hello " + v + "\n"), "etc/hello.conf": []byte("greeting = hello\n"), odd: []byte("odd\n"),
		}
		if v == "3.0.0" {
			files["share/large"] = make([]byte, 64<<20)
			rand.NewChaCha8([32]byte{}).Read(files["share/large"]) // it has no error to give
		}
		for name, content := range files {
			name = filepath.Join(dir, v, name)
			errs = append(errs, os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, 0o644))
		}
		errs = append(errs,
			os.Chmod(filepath.Join(dir, v, "bin/hello"), 0o755),
			release("bundle", "create", v, "--app", "hello", "--version", v, "--compatible", "demo",
				"--config-pattern", "etc/*.conf", "--keys", "keys", "--root", "repo/root.json", "--out", "hello-"+v+".tandem"),
			os.RemoveAll(filepath.Join(dir, v)))
	}
	return errors.Join(append(errs,
		release("repo", "add", "repo", "hello-1.0.0.tandem", "--keys", "keys"),
		release("repo", "add", "repo", "hello-1.1.0.tandem", "--keys", "keys"),
		os.WriteFile(filepath.Join(dir, "garbage"), bytes.Repeat([]byte("no bundle\n"), 10000), 0o644))...)
}

func bundle(version string) string { return filepath.Join(bundles, "hello-"+version+".tandem") }

// device is a device with an agent that serves the page.
type device struct {
	t     testing.TB
	dir   string
	url   string
	agent *exec.Cmd
}

const (
	fullPassword = "correct horse battery"
	lookPassword = "only for looking"
)

// newDevice makes one that runs hello 1.0.0, and whose health hook postpones for as long
// as there is a file "undecided". more is of [page].
func newDevice(t testing.TB, more string, change ...func(*device)) *device {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate-17-")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &device{t: t, dir: dir}
	listen := testprograms.FreeAddress(t, "127.0.0.1")
	d.url = "http://" + listen
	root, err := os.ReadFile(filepath.Join(bundles, "repo/root.json"))
	check(t, err)
	d.write("root.json", string(root))
	d.write("health.sh", "cd '"+d.dir+"'\n[ ! -e undecided ] || exit 75\n")
	d.write("tandem.toml", fmt.Sprintf(`[device]
id = "gate-17"
compatible = ["demo"]
app = "hello"
[system]
path = "system"
[usr_data]
path = "usr_data"
[trust]
root = "root.json"
[agent]
state = "state"
lock = "tandem.lock"
socket = "socket"
poll = "24h"
metered = true
[source]
url = "file:%s"
[hooks]
health = ["/bin/sh", "%s"]
[page]
listen = %q
password_file = "page.password"
`, filepath.Join(bundles, "repo"), d.path("health.sh"), listen)+more)
	for _, c := range change {
		c(d)
	}
	d.tandem(lookPassword, "page", "password", "--look")
	d.tandem(fullPassword, "page", "password")
	d.tandem("", "install", bundle("1.0.0"))
	d.launch()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			log, _ := os.ReadFile(d.path("agent.log"))
			t.Logf("the agent's log:\n%s", log)
		}
	})
	return d
}

// replace changes the device's configuration, before its agent is started.
func (d *device) replace(old, by string) {
	d.t.Helper()
	text := d.read("tandem.toml")
	check(d.t, contains(text, old))
	d.write("tandem.toml", strings.Replace(text, old, by, 1))
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) write(name, text string) {
	d.t.Helper()
	check(d.t, os.WriteFile(d.path(name), []byte(text), 0o644))
}

func (d *device) read(name string) string {
	d.t.Helper()
	data, err := os.ReadFile(d.path(name))
	check(d.t, err)
	return string(data)
}

// tandem runs a command on the device.
func (d *device) tandem(stdin string, args ...string) string {
	d.t.Helper()
	var stdout, stderr bytes.Buffer
	eventually(d.t, "a tandem that is not in another one's way", func() error {
		cmd := exec.Command(filepath.Join(binDir, "tandem"), append([]string{"--config", "tandem.toml"}, args...)...)
		cmd.Dir, cmd.Stdin = d.dir, strings.NewReader(stdin)
		stdout.Reset()
		stderr.Reset()
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if err != nil && !strings.Contains(stderr.String(), "another tandem is at work") {
			d.t.Fatalf("tandem %q: %v\n%s%s", args, err, stdout.String(), stderr.String())
		}
		return err
	})
	return stdout.String()
}

// launch starts the agent, and waits until it serves the page.
func (d *device) launch() {
	d.t.Helper()
	log, err := os.OpenFile(d.path("agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	check(d.t, err)
	defer log.Close()
	d.agent = exec.Command(filepath.Join(binDir, "tandem"), "--config", "tandem.toml", "agent")
	d.agent.Dir, d.agent.Stderr = d.dir, log
	check(d.t, d.agent.Start())
	eventually(d.t, "the page is served", func() error {
		c, err := net.Dial("tcp", strings.SplitN(d.url, "//", 2)[1])
		if err == nil {
			c.Close()
		}
		return err
	})
}

// kill ends the agent as nothing can be ended more suddenly.
func (d *device) kill() {
	if d.agent != nil {
		_ = d.agent.Process.Kill() // it may have ended by itself
		_ = d.agent.Wait()         // which says that it was killed
		d.agent = nil
	}
}

// event is what the history says of one.
type event struct{ Command, Action, Version, Error, By string }

func (d *device) history() []event {
	d.t.Helper()
	var doc struct{ Events []event }
	check(d.t, json.Unmarshal([]byte(d.tandem("", "history", "--json")), &doc))
	return doc.Events
}

// runs says what keeps both sides from having a version whole.
func (d *device) runs(version string) error {
	var s struct {
		InStep bool `json:"in_step"`
		Sides  map[string]struct{ Version, State string }
	}
	check(d.t, json.Unmarshal([]byte(d.tandem("", "status", "--json")), &s))
	if !s.InStep || s.Sides["system"].Version != version || s.Sides["usr_data"].Version != version {
		return fmt.Errorf("in step: %t, %v, want %s", s.InStep, s.Sides, version)
	}
	return nil
}

// leavings are the files that an installation leaves behind which was cut off.
func (d *device) leavings() []string {
	var all []string
	for _, dir := range []string{"system/.tandem/next", "usr_data/.tandem/next", "state/downloads"} {
		_ = filepath.WalkDir(d.path(dir), func(name string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				all = append(all, name)
			}
			return nil
		})
	}
	return all
}
