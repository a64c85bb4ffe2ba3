// Package machine runs a program as the init of a machine in QEMU with Debian's
// own kernel, for the labs that need file systems, flash or disks of their own.
package machine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Machine is what to start.
type Machine struct {
	Kernel  *Kernel
	Modules []string          // loaded by the guest in this order
	Files   string            // a folder whose content is the machine's root; init is its first program
	Env     map[string]string // the guest's environment
	Memory  int               // MiB; 0 is what its kind has
	Net     bool              // eth0 is there, and 10.0.2.2 is this computer
	Disks   []string          // raw images of its disks, in their order
	Timeout time.Duration     // a machine that has not ended by then is lost
}

// Run starts the machine, passes on what it prints and waits for its end. Its
// last line says whether all was well; if not, that is the error. The
// processor is emulated, which works everywhere.
func (m Machine) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	dir, err := os.MkdirTemp("", "tandem-machine-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cmd, err := m.command(ctx, dir)
	if err != nil {
		return err
	}
	cmd.Args = append(cmd.Args, "-nographic")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	result, err := relay(out)
	if e := cmd.Wait(); err == nil && e != nil {
		err = fmt.Errorf("qemu: %w", e)
	}
	switch {
	case ctx.Err() == context.DeadlineExceeded:
		return fmt.Errorf("the machine did not end within %v", m.Timeout)
	case err != nil:
		return err
	case result == "":
		return fmt.Errorf("the machine ended without a result")
	case result != "ok":
		return fmt.Errorf("the machine found: %s", result)
	}
	return nil
}

// command prepares QEMU, with the machine's first file system in dir.
func (m Machine) command(ctx context.Context, dir string) (*exec.Cmd, error) {
	image := filepath.Join(dir, "initrd")
	if err := writeInitrd(image, m); err != nil {
		return nil, err
	}
	// What protects a kernel from its users costs an emulated one much time. On a busy
	// computer the timer is late, which is no reason to give up.
	arch := m.Kernel.Arch
	line := "console=" + arch.console + " quiet loglevel=1 panic=-1 no_timer_check mitigations=off nokaslr init_on_alloc=0 rcupdate.rcu_expedited=1 rcupdate.rcu_normal_after_boot=0"
	for k, v := range m.Env {
		line += fmt.Sprintf(` %s="%s"`, k, v)
	}
	args := append(slices.Clone(arch.args), "-accel", "tcg", "-smp", "1", "-no-reboot",
		"-kernel", m.Kernel.Image, "-initrd", image, "-append", line)
	if m.Memory > 0 {
		args = append(args, "-m", fmt.Sprint(m.Memory))
	}
	for _, disk := range m.Disks {
		args = append(args, "-drive", "if=virtio,format=raw,file="+disk)
	}
	if m.Net {
		args = append(args, "-netdev", "user,id=n0", "-device", "virtio-net-device,netdev=n0")
	} else {
		args = append(args, "-nic", "none")
	}
	cmd := exec.CommandContext(ctx, arch.qemu, args...)
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// relay passes on the lab's lines, without what firmware and kernel put on the
// console, and gives the result.
func relay(r io.Reader) (result string, err error) {
	started := false
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if _, after, ok := strings.Cut(line, "LAB-START"); ok {
			line, started = after, true
		}
		if r, ok := strings.CutPrefix(line, "LAB-RESULT "); ok {
			result = r
		} else if started && line != "" && result == "" {
			fmt.Println(line)
		}
		if err == io.EOF {
			return result, nil
		} else if err != nil {
			return result, err
		}
	}
}

// Output runs a program; what it said on standard error is in the error.
func Output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return string(out), nil
}
