package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hooked is a device whose hooks run scripts, which have tandem at hand.
func hooked(t *testing.T, hooks map[string]string) *unit {
	t.Helper()
	var more strings.Builder
	more.WriteString("socket = \"socket\"\n\n[hooks]\n")
	for name := range hooks {
		more.WriteString(name + " = [\"sh\", \"" + name + ".sh\"]\n")
	}
	d := newDevice(t, more.String())
	for name, text := range hooks {
		text = "tandem() { " + filepath.Join(binDir, "tandem") + " --config tandem.toml \"$@\"; }\n" + text
		if err := os.WriteFile(filepath.Join(d.dir, name+".sh"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d *unit) read(name string) string {
	data, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil && !os.IsNotExist(err) {
		d.t.Error(err)
	}
	return string(data)
}

func (d *unit) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// What a hook asks of tandem is answered at once, with the agent and without: the
// tandem that waits for the hook is not waited for. A confirm in it is the verdict.
func TestHookCallsTandem(t *testing.T) {
	t.Parallel()
	for _, withAgent := range []bool{false, true} {
		name := map[bool]string{true: "with the agent", false: "alone"}[withAgent]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := hooked(t, map[string]string{
				"pre_install": "tandem confirm 2>/dev/null; echo confirm $? >>pre",
				"start":       "for c in boot status check backup rollback; do tandem $c >>out 2>>start.err; echo $c $? >>start; done",
				"health":      "tandem status >>out 2>&1; echo status $? >>health\ntandem install nowhere 2>/dev/null; echo install $? >>health\nsh verdict.sh",
			})
			d.write("verdict.sh", "exit 0")
			d.must("install", bundleFile("hello-1.0.0.tandem"))
			if withAgent {
				d.startAgent()
			}
			d.write("verdict.sh", filepath.Join(binDir, "tandem")+" --config tandem.toml confirm >said; exit 1")
			for _, f := range []string{"pre", "start", "health"} {
				d.write(f, "")
			}
			began := time.Now()
			d.must("install", bundleFile("hello-1.1.0.tandem"))
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			for file, want := range map[string]string{
				"pre":    "confirm 60\n",
				"start":  "boot 60\nstatus 0\ncheck 60\nbackup 60\nrollback 60\n",
				"health": "status 0\ninstall 2\n",
				"said":   "1.1.0 is confirmed: whoever runs its hook goes by that\n",
			} {
				if got := d.read(file); got != want {
					t.Errorf("%s: %q, want %q", file, got, want)
				}
			}
			if said := d.read("start.err"); !strings.Contains(said, "its start hook: in a hook, only status, history and confirm can be asked for") {
				t.Errorf("the start hook heard: %s", said)
			}
			s := d.must("status", "--json").stdout
			if !strings.Contains(s, `"pending": null`) || !strings.Contains(s, `"in_step": true`) || strings.Contains(d.must("history").stdout, "rolled back") {
				t.Errorf("afterwards: %s", s)
			}
			if left, err := filepath.Glob(filepath.Join(d.dir, "tandem.lock.*")); err != nil || len(left) > 0 {
				t.Errorf("left over: %v, %v", left, err)
			}
			// Said by nobody's hook it is what it always was.
			d.write("verdict.sh", "exit 75")
			d.must("install", bundleFile("hello-2.0.0.tandem"))
			if s := d.must("status", "--json").stdout; !strings.Contains(s, `"version": "2.0.0",`+"\n    \"previous\"") {
				t.Errorf("2.0.0 does not wait: %s", s)
			}
			d.must("confirm")
			// In the start hook it is the verdict as in the health hook.
			d.write("verdict.sh", "exit 1")
			d.write("start.sh", filepath.Join(binDir, "tandem")+" --config tandem.toml confirm; exit 1")
			d.must("install", "--reinstall", bundleFile("hello-2.0.0.tandem"))
			if s := d.must("status", "--json").stdout; !strings.Contains(s, `"pending": null`) || !strings.Contains(s, `"revoked": []`) {
				t.Errorf("confirmed in the start hook: %s", s)
			}
		})
	}
}

// What a stop hook has stopped is started again when tandem was killed since.
func TestKilledWhileStopped(t *testing.T) {
	t.Parallel()
	d := hooked(t, map[string]string{
		"stop":  "echo stopped >>what; if [ -e wait ]; then touch waits; sleep 1000; fi",
		"start": "echo started $TANDEM_VERSION >>what",
	})
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	d.write("wait", "")
	r := d.start(context.Background(), "install", bundleFile("hello-1.1.0.tandem"))
	eventually(t, "the stop hook", func() bool { return d.read("what") != "" && fileExists(d, "waits") })
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.cmd.Wait() // killed
	d.write("what", "")
	d.must("backup")
	d.must("backup")
	if got := d.read("what"); got != "started 1.0.0\n" {
		t.Errorf("after the kill: %q", got)
	}
}

// It is started again at once when tandem was interrupted, and the history says so.
func TestInterruptedWhileStopped(t *testing.T) {
	t.Parallel()
	d := hooked(t, map[string]string{
		"stop":  "echo stopped >>what; if [ -e wait ]; then touch waits; exec sleep 1000; fi",
		"start": "echo started $TANDEM_VERSION >>what",
	})
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	d.write("wait", "")
	d.write("what", "")
	r := d.start(context.Background(), "install", bundleFile("hello-1.1.0.tandem"))
	eventually(t, "the stop hook", func() bool { return fileExists(d, "waits") })
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	d.wait(r)
	if got := d.read("what"); got != "stopped\nstarted 1.0.0\n" {
		t.Errorf("after the interruption: %q", got)
	}
	if said := d.must("history").stdout; !strings.HasSuffix(said, "install 1.1.0 (before: 1.0.0), failed: interrupted\n") {
		t.Errorf("history: %s", said)
	}
}

func fileExists(d *unit, name string) bool {
	_, err := os.Stat(filepath.Join(d.dir, name))
	return err == nil
}

// Who interrupts a command that the agent carries out hears that it goes on, and
// can end it.
func TestCancel(t *testing.T) {
	t.Parallel()
	d := hooked(t, map[string]string{"pre_install": "touch asked; exec sleep 1000"})
	d.startAgent()
	if o := d.must("cancel"); o.stdout != "nothing is under way\n" {
		t.Errorf("with nothing to do: %s", o)
	}
	r := d.start(t.Context(), "install", bundleFile("hello-1.0.0.tandem"))
	eventually(t, "the hook", func() bool { return fileExists(d, "asked") })
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if o := d.wait(r); o.exit != 1 || !strings.Contains(o.stderr, "tandem: interrupted; the agent goes on with it\nhint: \"tandem cancel\" ends it\n") {
		t.Errorf("interrupted: %s", o)
	}
	if s := d.must("status").stdout; !strings.Contains(s, "agent: installing a bundle") {
		t.Errorf("it does not go on: %s", s)
	}
	waiting := d.start(t.Context(), "install", bundleFile("hello-1.1.0.tandem"))
	eventually(t, "cancelled", func() bool { return strings.Contains(d.must("cancel").stdout, "installing a bundle") })
	eventually(t, "the end of it", func() bool {
		d.must("cancel")
		return strings.Contains(d.must("status").stdout, "agent: idle")
	})
	if o := d.wait(waiting); o.exit != 1 || !strings.Contains(o.stderr, "cancelled: what was not in place yet was not installed") {
		t.Errorf("who waited for it heard: %s", o)
	}
	if s := d.must("status").stdout; !strings.Contains(s, "absent") {
		t.Errorf("something was installed: %s", s)
	}
}

// Who presses Ctrl-C once more cancels what the agent carries out.
func TestSecondInterrupt(t *testing.T) {
	t.Parallel()
	d := hooked(t, map[string]string{"pre_install": "touch asked; exec sleep 1000"})
	d.startAgent()
	said, err := os.Create(filepath.Join(d.dir, "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd := d.command(t.Context(), "install", bundleFile("hello-1.0.0.tandem"))
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	interrupt := func() {
		t.Helper()
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the hook", func() bool { return fileExists(d, "asked") })
	interrupt()
	eventually(t, "the word about another one", func() bool { return strings.Contains(d.read("said"), "Ctrl-C once more within 3 seconds cancels it") })
	interrupt()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(d.read("said"), "tandem: cancelled: installing a bundle") {
		t.Errorf("another one: %v\n%s", err, d.read("said"))
	}
	eventually(t, "the end of it", func() bool { return strings.Contains(d.must("status").stdout, "agent: idle") })
	if s := d.must("status").stdout; !strings.Contains(s, "absent") {
		t.Errorf("something was installed: %s", s)
	}
}
