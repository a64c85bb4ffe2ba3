package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"tandem/test/internal/machine"
	"tandem/test/systemd/wire"
)

// device is the machine: Debian on its root disk, two partitions, and a disk with
// what the lab brings.
type device struct {
	machine machine.Machine
	disks   map[string]string // images, by what they are for
	console string
	say     func(format string, args ...any) // a line of what happens to it

	patience time.Duration // how long to wait for what has to happen

	running *machine.Running
	answers *json.Decoder
	boots   []time.Duration
}

// boot starts the machine, with the partitions named there, up to the end of
// its start. It returns what systemd says of its state.
func (d *device) boot(ctx context.Context, partitions ...string) (state string, err error) {
	begin := time.Now()
	m := d.machine
	m.Disks = []string{d.disks["root"], d.disks["lab"]}
	for _, p := range partitions {
		m.Disks = append(m.Disks, d.disks[p])
	}
	if d.running, err = m.Start(ctx, d.console); err != nil {
		return "", err
	}
	if err := d.running.Port.SetDeadline(begin.Add(d.patience)); err != nil {
		return "", err
	}
	port := bufio.NewReader(d.running.Port)
	for line := ""; !strings.HasSuffix(strings.TrimRight(line, "\r\n"), wire.Ready); {
		if line, err = port.ReadString('\n'); err != nil {
			return "", fmt.Errorf("the machine does not start: %w\n%s", err, d.tail())
		}
	}
	d.answers = json.NewDecoder(port)
	out, _, err := d.try("systemctl is-system-running --wait")
	if err != nil {
		return "", err
	}
	took := time.Since(begin)
	d.boots = append(d.boots, took)
	d.say("   started in %.0f s: %s", took.Seconds(), out)
	return out, nil
}

// off takes the power away in the midst of whatever goes on.
func (d *device) off() error {
	if d.running == nil {
		return nil
	}
	r := d.running
	d.running = nil
	return r.Off()
}

// shutdown ends the machine in order.
func (d *device) shutdown() error {
	if _, err := d.sh("sync; systemctl --no-block poweroff"); err != nil {
		return err
	}
	_ = d.running.Port.SetDeadline(time.Now().Add(d.patience))
	var a wire.Answer // not a byte: the line end of the last answer may still come
	if err := d.answers.Decode(&a); err == nil {
		return errors.New("the machine talks while it ends")
	}
	return d.off()
}

// try runs a script in the machine and returns what it said and its exit code.
func (d *device) try(script string) (out string, code int, err error) {
	limit := d.patience
	if err := d.running.Port.SetDeadline(time.Now().Add(limit + time.Minute)); err != nil {
		return "", 0, err
	}
	if err := json.NewEncoder(d.running.Port).Encode(wire.Request{Script: script, Limit: limit}); err != nil {
		return "", 0, err
	}
	var a wire.Answer
	if err := d.answers.Decode(&a); err != nil {
		return "", 0, fmt.Errorf("%s: the machine does not answer: %w\n%s", script, err, d.tail())
	}
	return strings.TrimSpace(a.Out), a.Code, nil
}

// sh runs a script that has to succeed.
func (d *device) sh(script string) (string, error) {
	out, code, err := d.try(script)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit code %d: %s", script, code, out)
	}
	return out, err
}

// until waits for a script to succeed.
func (d *device) until(what, script string) error {
	limit := time.Now().Add(d.patience)
	for {
		out, code, err := d.try(script)
		if err != nil || code == 0 {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("%s: it does not happen: %s: exit code %d: %s", what, script, code, out)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// tail is the end of the console.
func (d *device) tail() string {
	data, _ := os.ReadFile(d.console)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// tell prints what whoever looks for a defect wants to know.
func (d *device) tell() {
	if d.running == nil {
		return
	}
	for _, script := range []string{
		"systemctl --no-pager --failed", "systemctl status --no-pager -l tandem-boot tandem-agent tandem-agent-retry.timer hello",
		"journalctl --no-pager -b -n 80 -o short-monotonic", "tandem status", "findmnt --real",
	} {
		out, _, err := d.try(script)
		d.say("-- %s\n%s", script, out)
		if err != nil {
			d.say("%v", err)
			return
		}
	}
}
