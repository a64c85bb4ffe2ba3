//go:build linux

// Command guest is the init of the machine: it sets up the flash, runs tandem
// on it, cuts the power, and checks.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	result := "ok"
	if err := run(); err != nil {
		result = err.Error()
	}
	fmt.Println("LAB-RESULT " + result)
	if os.Getpid() == 1 {
		time.Sleep(200 * time.Millisecond) // for the console
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

func run() error {
	for dir, kind := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs"} {
		if err := unix.Mount(kind, dir, kind, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := unix.Mount("debugfs", "/sys/kernel/debug", "debugfs", 0, ""); err != nil && err != unix.EBUSY {
		return err
	}
	if err := os.Setenv("PATH", "/bin"); err != nil {
		return err
	}
	budget, err := time.ParseDuration(os.Getenv("LAB_BUDGET"))
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(os.Getenv("LAB_SEED"), 10, 64)
	if err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := os.WriteFile(config, []byte(configText), 0o644); err != nil {
		return err
	}
	if err := attach(); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if err := makeVolumes(); err != nil {
		return err
	}
	for _, v := range volumes {
		if err := v.mount(); err != nil {
			return err
		}
	}
	l, err := newLab(seed)
	if err != nil {
		return err
	}
	l.facts()
	l.functions()
	l.cuts(budget * 4 / 5)
	l.vendor(budget / 5)
	if len(l.failures) > 0 {
		return fmt.Errorf("%d failures, the first: %s", len(l.failures), l.failures[0])
	}
	return nil
}

const (
	live   = "/usrapp/apprun"
	backup = "/usrdata/appbackup"
	config = "/etc/tandem.toml"
)

const configText = `
[device]
id = "lab"
app = "lab"
compatible = ["qemu"]
[system]
path = "/usrapp/apprun"
mount = "/usrapp"
[usr_data]
path = "/usrdata/appbackup"
mount = "/usrdata"
[trust]
root = "/etc/root.json"
[agent]
state = "/usrdata/tandem"
lock = "/run/tandem.lock"
`

func command(args ...string) *exec.Cmd { return exec.Command(args[0], args[1:]...) }

// tandem runs it to its end and gives its exit code and all that it said.
func tandem(args ...string) (int, string) {
	return finish(command(append([]string{"tandem"}, args...)...))
}

func finish(cmd *exec.Cmd) (int, string) {
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return -1, err.Error()
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// dmesg is the end of the kernel's log, what UBI and UBIFS say.
func dmesg(lines int) string {
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(3, buf)
	if err != nil {
		return err.Error()
	}
	var said []string
	for _, line := range strings.Split(string(buf[:n]), "\n") {
		if strings.Contains(line, "UBI") {
			said = append(said, line)
		}
	}
	return strings.Join(said[max(0, len(said)-lines):], "\n")
}
