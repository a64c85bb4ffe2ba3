//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/test/internal/guest"
	"tandem/test/internal/guest/nand"
)

// root is the module's own file system.
const root = "/module"

// patience is how long to wait for something that has to happen while nothing is
// written to the flash. An emulated processor is slow, and slower still beside
// other work.
const patience = 4 * time.Minute

const console = "/tmp/console"

// module is the device. Its first process is busybox as init, in a process
// space and a file system of its own: when it is killed, all of the module's
// processes are gone at once, as by a reset.
type module struct {
	flash  *nand.Flash
	host   string // the lab's server
	init   *exec.Cmd
	starts []start
}

// start is what a start of the module cost.
type start struct {
	why       string
	all, boot time.Duration
	memory    int // peak of tandem boot, in KiB
	agent     int // peak of the agent, in KiB
}

func newModule(host string) (*module, error) {
	m := &module{flash: nand.New(root), host: host}
	if err := unix.Mount("dev", root+"/dev", "devtmpfs", 0, ""); err != nil {
		return nil, fmt.Errorf("mount %s/dev: %w", root, err)
	}
	if err := os.Link("/init", root+"/sbin/measure"); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"busybox", "cp", "/bin/busybox", root + "/bin/busybox"},
		{"busybox", "chroot", root, "/bin/busybox", "--install", "-s", "/bin"},
		{"busybox", "ifconfig", "lo", "127.0.0.1", "up"},
	} {
		if code, out := guest.Run(args...); code != 0 {
			return nil, fmt.Errorf("%s: %s", strings.Join(args, " "), out)
		}
	}
	return m, count()
}

// count lets the kernel add up what UBI writes to the flash, headers and all.
// The length is the fifth argument, the first that is on the stack.
func count() error {
	const probe = "p:nand/write ubi_io_write len=$stack0:u32"
	const dir = "tracing/"
	if err := nand.Knob(probe, dir+"kprobe_events"); err != nil {
		return err
	}
	if err := nand.Knob("hist:keys=len", dir+"events/nand/write/trigger"); err != nil {
		return err
	}
	return nand.Knob(1, dir+"events/nand/write/enable")
}

// written is how many bytes that were until now.
func (m *module) written() (sum int) {
	data, err := os.ReadFile("/sys/kernel/debug/tracing/events/nand/write/hist")
	if err != nil {
		fmt.Println(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		var length, times int
		if n, _ := fmt.Sscanf(line, "{ len: %d } hitcount: %d", &length, &times); n == 2 {
			sum += length * times
		}
	}
	return sum
}

// reset takes the power away in the midst of whatever goes on, and starts the
// module again, up to the end of its start script.
func (m *module) reset(why string) error {
	if err := m.off(); err != nil {
		return err
	}
	begin := time.Now()
	if err := m.on(); err != nil {
		return err
	}
	s := start{why: why}
	err := m.until("the start script ends", func() error {
		_, err := os.Stat(root + "/run/started")
		return err
	})
	if err != nil {
		return err
	}
	s.all = time.Since(begin)
	if s.boot, s.memory, err = cost(root + "/run/tandem-boot.time"); err != nil {
		return err
	}
	m.starts = append(m.starts, s)
	log, _ := os.ReadFile(console)
	for _, line := range strings.Split(strings.TrimSpace(string(log)), "\n") {
		fmt.Println("   | " + line)
	}
	return nil
}

// on gives the module its power, which must be off, and lets it start.
func (m *module) on() error {
	if err := m.flash.Detach(); err != nil {
		return err
	}
	if err := m.flash.Attach(); err != nil {
		return err
	}
	for _, v := range m.flash.Volumes {
		if err := guest.WaitFor("/dev/" + v.Dev); err != nil {
			return err
		}
	}
	out, err := os.Create(console)
	if err != nil {
		return err
	}
	defer out.Close()
	m.init = exec.Command("/bin/busybox")
	m.init.Args = []string{"init"}
	m.init.Env = []string{"PATH=/sbin:/bin:/usr/bin"}
	m.init.Dir = "/"
	m.init.Stdout, m.init.Stderr = out, out
	m.init.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Cloneflags: syscall.CLONE_NEWPID, Setsid: true}
	return m.init.Start()
}

// off takes the power away. Nothing goes out of the network any more, nothing is
// written any more, and of what was not on flash nothing is left.
func (m *module) off() error {
	if m.init == nil {
		return nil
	}
	guest.Run("busybox", "ifconfig", "eth0", "down")
	m.flash.Pull()
	if len(m.starts) > 0 {
		m.starts[len(m.starts)-1].agent = m.agentMemory()
	}
	if err := m.init.Process.Kill(); err != nil {
		return err
	}
	_ = m.init.Wait() // it was killed
	m.init = nil
	for _, dir := range []string{"/proc/sys/kernel/random/boot_id", "/proc", "/run", "/var"} {
		if err := guest.Unmount(root + dir); err != nil {
			return err
		}
	}
	return m.flash.Remount()
}

// cost reads what measure has noted.
func cost(name string) (took time.Duration, memory int, err error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, 0, err
	}
	var ms, code int
	if _, err := fmt.Sscan(string(data), &ms, &memory, &code); err != nil {
		return 0, 0, fmt.Errorf("%s: %q: %w", name, data, err)
	}
	if code != 0 {
		return 0, 0, fmt.Errorf("%s: exit code %d", filepath.Base(name), code)
	}
	return time.Duration(ms) * time.Millisecond, memory, nil
}

// measure runs a command and notes in a file how many milliseconds it took, the
// most KiB of memory that one of its processes had, and its exit code. busybox
// has a program for that, but it takes KiB for pages.
func measure(file string, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	begin := time.Now()
	if err := cmd.Run(); cmd.ProcessState == nil {
		return err
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	text := fmt.Sprintln(time.Since(begin).Milliseconds(), usage.Maxrss, cmd.ProcessState.ExitCode())
	return os.WriteFile(file, []byte(text), 0o644)
}

// agentMemory is the most that the agent has had, in KiB.
func (m *module) agentMemory() (n int) {
	pid, _ := os.ReadFile(root + "/run/tandem-agent.pid")
	data, _ := os.ReadFile(filepath.Join(root, "proc", strings.TrimSpace(string(pid)), "status"))
	if _, after, ok := strings.Cut(string(data), "VmHWM:"); ok {
		_, _ = fmt.Sscan(after, &n)
	}
	return n
}

// until waits for something that has to happen.
func (m *module) until(what string, done func() error) error {
	limit, written := time.Now().Add(patience), m.written()
	for {
		err := done()
		if err == nil {
			return nil
		}
		if time.Now().After(limit) {
			now := m.written()
			if now == written {
				return fmt.Errorf("%s: nothing happens for %v: %w", what, patience, err)
			}
			limit, written = time.Now().Add(patience), now
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// ask asks the lab's server, over the module's network.
func (m *module) ask(method, path string) (string, error) {
	req, err := http.NewRequest(method, m.host+path, nil)
	if err != nil {
		return "", err
	}
	return get(req)
}

func get(req *http.Request) (string, error) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", req.URL, resp.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

func (m *module) number(method, path string) (int, error) {
	text, err := m.ask(method, path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// answer is what the application says.
func (m *module) answer() (string, error) {
	req, err := http.NewRequest("GET", "http://127.0.0.1/", nil)
	if err != nil {
		return "", err
	}
	return get(req)
}

// anyVersion waits for the application to answer with one of these versions.
func (m *module) anyVersion(versions ...string) (v string, err error) {
	err = m.until("the application answers", func() error {
		text, err := m.answer()
		if v, _, _ = strings.Cut(text, " "); err == nil && !slices.Contains(versions, v) {
			err = fmt.Errorf("it answers %q", text)
		}
		return err
	})
	return v, err
}

// versions are the tags of both sides.
func (m *module) versions() string {
	return strings.TrimSpace(m.read(guest.Live+"/app_ver.txt")) + " and " + strings.TrimSpace(m.read(guest.Backup+"/app_ver.txt"))
}

// read reads a file of the module; one that is not there is empty.
func (m *module) read(name string) string {
	data, _ := os.ReadFile(root + name)
	return string(data)
}

// partial reports whether a part of a download is on flash.
func (m *module) partial(least int64) error {
	files, _ := filepath.Glob(root + guest.UsrDataDir + "/tandem/downloads/*")
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Size() >= least {
			return nil
		}
	}
	return fmt.Errorf("downloads: %v", files)
}

// status is what of "tandem status --json" is checked.
type status struct {
	InStep  bool `json:"in_step"`
	Sides   map[string]struct{ State, Version string }
	Pending any
	Revoked []any
}

func (s *status) inStep(version string) bool {
	ok := s.InStep
	for _, side := range []string{"system", "usr_data"} {
		ok = ok && s.Sides[side].State == "intact" && s.Sides[side].Version == version
	}
	return ok
}

// status asks the module's own tandem.
func (m *module) status() (*status, error) {
	out, err := m.inside("/usr/bin/tandem", "status", "--json")
	if err != nil {
		return nil, err
	}
	s := new(status)
	return s, json.Unmarshal([]byte(out), s)
}

// inside runs a command as the module itself would. A process can only be put
// into the module's process space by a thread that makes all its children
// there; it is not used again.
func (m *module) inside(args ...string) (out string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		space, e := os.Open(fmt.Sprintf("/proc/%d/ns/pid", m.init.Process.Pid))
		if err = e; err != nil {
			return
		}
		defer space.Close()
		if err = unix.Setns(int(space.Fd()), unix.CLONE_NEWPID); err != nil {
			return
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		var data []byte
		data, err = cmd.Output()
		out = string(data)
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, failed.Stderr)
		}
	}()
	<-done
	return out, err
}

// log prints what tandem has said since the start.
func (m *module) log() {
	for _, line := range strings.Split(strings.TrimSpace(m.read("/var/log/tandem.log")), "\n") {
		fmt.Println("   > " + line)
	}
}

// tell prints what whoever looks for a defect wants to know.
func (m *module) tell() {
	for _, name := range []string{console, root + "/var/log/tandem.log", root + "/var/log/app.log"} {
		data, _ := os.ReadFile(name)
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Printf("-- the end of %s\n%s\n", name, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
	out := "the module is off"
	if m.init != nil {
		text, err := m.inside("/usr/bin/tandem", "status")
		out = fmt.Sprint(text, err)
	}
	fmt.Printf("-- tandem status\n%s\n", out)
}
