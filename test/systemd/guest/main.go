//go:build linux

// Command guest carries out, inside the machine of the lab, what comes over its
// second serial line: a JSON document to a line, with one as the answer.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/test/systemd/wire"
)

func main() {
	if err := serve("/dev/ttyS1"); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func serve(name string) error {
	port, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	t, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, t); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(port, wire.Ready); err != nil {
		return err
	}
	lines, answers := bufio.NewReader(port), json.NewEncoder(port)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		var q wire.Request
		if err := json.Unmarshal(line, &q); err != nil {
			return err
		}
		if err := answers.Encode(run(q)); err != nil {
			return err
		}
	}
}

// run runs a command. What it leaves behind may keep its output open: that goes
// to a file, which nobody has to wait for.
func run(q wire.Request) wire.Answer {
	out, err := os.CreateTemp("/run", "guest-")
	if err != nil {
		return wire.Answer{Code: -1, Out: err.Error()}
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd := exec.Command("/bin/sh", "-c", q.Script)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", "SYSTEMD_PAGER=", "DEBIAN_FRONTEND=noninteractive"}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return wire.Answer{Code: -1, Out: err.Error()}
	}
	late := time.AfterFunc(q.Limit, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	_ = cmd.Wait() // the exit code says it
	late.Stop()
	text, err := os.ReadFile(out.Name())
	if err != nil {
		return wire.Answer{Code: -1, Out: err.Error()}
	}
	return wire.Answer{Code: cmd.ProcessState.ExitCode(), Out: string(text)}
}
