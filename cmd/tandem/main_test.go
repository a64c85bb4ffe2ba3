package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tandem/internal/testprograms"
)

// The two programs as they are shipped, and what a publisher made with them:
// built once, then only read.
var (
	binDir string // tandem and tandem-release
	pubDir string // keys/, repo/, other-keys/, other-repo/ and the bundles
)

func TestMain(m *testing.M) {
	if actor := os.Getenv("ACTOR"); actor != "" {
		os.Exit(actAs(actor))
	}
	os.Exit(testprograms.Run(m, func(bin, pub string) error {
		binDir, pubDir = bin, pub
		return publish()
	}))
}

// programsOnly leaves out of the run under the race detector, which is the short one, what
// does nothing but drive programs, one after the other: it does not see into them.
func programsOnly(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("the programs that it runs are built without the race detector")
	}
}

// publish makes the bundles that the tests install, as a publisher would.
func publish() error {
	steps := [][]string{
		{"keygen", "--out", "keys"},
		{"repo", "init", "repo", "--keys", "keys"},
		{"keygen", "--out", "other-keys"},
		{"repo", "init", "other-repo", "--keys", "other-keys"},
	}
	create := func(file, version string, more ...string) error {
		if err := writeApp(filepath.Join(pubDir, "app-"+version), version); err != nil {
			return err
		}
		steps = append(steps, append([]string{"bundle", "create", "app-" + version, "--version", version, "--out", file,
			"--config-pattern", "etc/*.conf", "--ignore", "log/**"}, more...))
		return nil
	}
	hello := []string{"--app", "hello", "--compatible", "demo"}
	signed := []string{"--keys", "keys", "--root", "repo/root.json"}
	var errs []error
	for _, v := range []string{"1.0.0", "1.1.0", "2.0.0-rc.1", "2.0.0"} {
		errs = append(errs, create("hello-"+v+".tandem", v, append(hello, signed...)...))
	}
	errs = append(errs,
		create("unsigned.tandem", "1.1.0", hello...),
		create("other-key.tandem", "1.1.0", append(hello, "--keys", "other-keys", "--root", "other-repo/root.json")...),
		create("other-hardware.tandem", "1.1.0", append(signed, "--app", "hello", "--compatible", "toaster")...),
		create("other-app.tandem", "1.1.0", append(signed, "--app", "goodbye", "--compatible", "demo")...))
	for _, v := range []string{"1.0.0", "1.1.0"} {
		steps = append(steps, []string{"repo", "add", "repo", "hello-" + v + ".tandem", "--keys", "keys"})
	}
	for _, s := range steps {
		errs = append(errs, releaseTool(s...))
	}
	return errors.Join(errs...)
}

func releaseTool(args ...string) error {
	cmd := exec.Command(filepath.Join(binDir, "tandem-release"), args...)
	cmd.Dir = pubDir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tandem-release %q: %w\n%s", args, err, out)
	}
	return nil
}

// writeApp makes a small application with all kinds of files in it. The time
// of its files is that of the release, so that each test finds the same one.
func writeApp(dir, version string) error {
	for _, d := range []string{"bin", "etc", "share/empty", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"bin/hello":      "#!/bin/sh\necho hello " + version + "\n",
		"etc/hello.conf": "greeting = hello\n",
		"share/data":     "the same in each version\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	err := os.Chmod(filepath.Join(dir, "bin/hello"), 0o755)
	for link, make := range map[string]func(old, new string) error{"bin/hi": os.Symlink, "bin/hullo": os.Link} {
		name, target := filepath.Join(dir, link), "hello"
		if link == "bin/hullo" {
			target = filepath.Join(dir, "bin/hello")
		}
		if e := make(target, name); e != nil && !errors.Is(e, os.ErrExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// unit is a device of its own: two sides and a configuration.
type unit struct {
	t   testing.TB
	dir string
}

// deviceConfig is what each test's device is configured with.
const deviceConfig = `[device]
id = "test"
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
`

func newDevice(t testing.TB, more string) *unit {
	t.Helper()
	d := &unit{t: t, dir: t.TempDir()}
	if err := provision(d.dir, more); err != nil {
		t.Fatal(err)
	}
	return d
}

// provision writes a device's configuration and its root of trust.
func provision(dir, more string) error {
	root, err := os.ReadFile(filepath.Join(pubDir, "repo", "root.json"))
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "root.json"), root, 0o644),
		os.WriteFile(filepath.Join(dir, "tandem.toml"), []byte(deviceConfig+more), 0o644))
}

// outcome is how a run of tandem ended.
type outcome struct {
	exit           int
	stdout, stderr string
}

func (o outcome) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", o.exit, o.stdout, o.stderr)
}

// command prepares a run of tandem on the device.
func (d *unit) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "tandem"), append([]string{"--config", "tandem.toml"}, args...)...)
	cmd.Dir = d.dir
	return cmd
}

func (d *unit) run(args ...string) outcome {
	d.t.Helper()
	return d.wait(d.start(context.Background(), args...))
}

// running is a run of tandem that has not ended yet.
type running struct {
	cmd            *exec.Cmd
	stdout, stderr lines
}

func (d *unit) start(ctx context.Context, args ...string) *running {
	d.t.Helper()
	return d.begin(d.command(ctx, args...))
}

func (d *unit) begin(cmd *exec.Cmd) *running {
	d.t.Helper()
	r := &running{cmd: cmd}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	return r
}

func (d *unit) wait(r *running) outcome {
	d.t.Helper()
	var exit *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return outcome{r.cmd.ProcessState.ExitCode(), r.stdout.String(), r.stderr.String()}
}

// must runs tandem and expects success.
func (d *unit) must(args ...string) outcome {
	d.t.Helper()
	o := d.run(args...)
	if o.exit != 0 {
		d.t.Fatalf("tandem %q: %s", args, o)
	}
	return o
}

// sides describes both sides; what refusing an operation must not change.
func (d *unit) sides() tree {
	d.t.Helper()
	t, err := readTree(d.dir, "system", "usr_data")
	if err != nil {
		d.t.Fatal(err)
	}
	return t
}

func bundleFile(name string) string { return filepath.Join(pubDir, name) }
