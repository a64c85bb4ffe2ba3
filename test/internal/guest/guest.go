//go:build linux

// Package guest is what the labs have in common inside their machines: the
// start as init, the operations during which the power fails, and the checks
// of what is left.
package guest

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The sides, and the partitions that they lie on.
const (
	SystemDir  = "/usrapp"
	UsrDataDir = "/usrdata"
	Live       = SystemDir + "/apprun"
	Backup     = UsrDataDir + "/appbackup"
)

const configText = `
[device]
id = "lab"
app = "lab"
compatible = ["qemu"]
[system]
path = "` + Live + `"
mount = "` + SystemDir + `"
[usr_data]
path = "` + Backup + `"
mount = "` + UsrDataDir + `"
[trust]
root = "/etc/root.json"
[agent]
state = "` + UsrDataDir + `/tandem"
lock = "/run/tandem.lock"
`

// Options are what the machine was started with.
type Options struct {
	Budget time.Duration // for the cuts; what else a lab does comes on top
	Cuts   int           // if not 0, go on until so many are made, instead
	Seed   uint64
	Run    *regexp.Regexp // the names of the operations to cut; nil is all, and what else the lab does
	First  bool           // stop after the first failure
}

// Main runs a lab as the machine's first program, says how it went and
// switches the machine off.
func Main(lab func(Options) error) {
	fmt.Print("LAB-START")
	result := "ok"
	o, err := start()
	if err == nil {
		err = lab(o)
	}
	if err != nil {
		result = err.Error()
	}
	fmt.Println("LAB-RESULT " + strings.ReplaceAll(result, "\n", "; "))
	if os.Getpid() == 1 {
		time.Sleep(200 * time.Millisecond) // for the console
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

// NewRun has the kernel name another run of the machine, as after the start that follows a
// failure of power: the machine of a lab goes on.
func NewRun() error {
	const named, id = "/proc/sys/kernel/random/boot_id", "/run/boot_id"
	other, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	_, err = os.Stat(id)
	mounted := err == nil
	if err := os.WriteFile(id, other, 0o444); err != nil || mounted {
		return err
	}
	return unix.Mount(id, named, "", unix.MS_BIND, "")
}

func start() (o Options, err error) {
	for _, m := range []struct{ dir, kind string }{{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}, {"/sys/kernel/debug", "debugfs"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return o, fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := os.Setenv("PATH", "/bin"); err != nil {
		return o, err
	}
	if o.Budget, err = time.ParseDuration(os.Getenv("LAB_BUDGET")); err != nil {
		return o, err
	}
	if o.Cuts, err = strconv.Atoi(os.Getenv("LAB_CUTS")); err != nil {
		return o, err
	}
	if o.Seed, err = strconv.ParseUint(os.Getenv("LAB_SEED"), 10, 64); err != nil {
		return o, err
	}
	if o.First, err = strconv.ParseBool(os.Getenv("LAB_FIRST")); err != nil {
		return o, err
	}
	if run := os.Getenv("LAB_RUN"); run != "" {
		if o.Run, err = regexp.Compile(run); err != nil {
			return o, err
		}
	}
	return o, os.WriteFile("/etc/tandem.toml", []byte(configText), 0o644)
}

// The servers that a device updates from, by name: the folder of the repository,
// and whether it sends parts of files.
var servers = map[string]struct {
	folder string
	ranges bool
}{
	"ranges": {"plain", true},
	"whole":  {"plain", false},
	"delta":  {"deltas", true},
}

// serve serves the repositories of the application in use, to a device that has
// /etc/NAME.toml for its configuration. It outlasts the cuts.
func (l *Lab) serve() error {
	if code, out := Run("busybox", "ifconfig", "lo", "127.0.0.1", "up"); code != 0 {
		return fmt.Errorf("the loopback: %s", out)
	}
	mux := http.NewServeMux()
	for name, s := range servers {
		source := fmt.Sprintf("[source]\nurl = \"http://127.0.0.1/%s\"\n", name)
		// Two repositories of one key that number their metadata alike are not one source.
		config := strings.Replace(configText, UsrDataDir+`/tandem"`, UsrDataDir+"/"+s.folder+`"`, 1)
		if err := os.WriteFile("/etc/"+name+".toml", []byte(config+source), 0o644); err != nil {
			return err
		}
		mux.Handle("/"+name+"/", http.StripPrefix("/"+name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !s.ranges {
				r.Header.Del("Range")
			}
			http.FileServer(http.Dir(filepath.Join(l.folder, s.folder))).ServeHTTP(w, r)
		})))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:80")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(listener, mux) }() // until the machine ends
	return nil
}

// LoadModules loads the modules of the initrd in their order, but those that
// are named.
func LoadModules(but ...string) error {
	files, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
next:
	for _, name := range files {
		for _, b := range but {
			if strings.HasSuffix(name, "-"+b+".ko") {
				continue next
			}
		}
		if err := load(name, ""); err != nil {
			return err
		}
	}
	return nil
}

// LoadModule loads one of them with parameters.
func LoadModule(name, params string) error {
	files, err := filepath.Glob("/modules/*-" + name + ".ko")
	if err != nil || len(files) != 1 {
		return fmt.Errorf("module %s: found %d of it", name, len(files))
	}
	return load(files[0], params)
}

func load(name, params string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), params, 0); err != nil && err != unix.EEXIST {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// WaitFor waits for a device to appear.
func WaitFor(name string) error {
	for range 500 {
		if _, err := os.Stat(name); err == nil {
			return nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("%s does not appear", name)
}

// Unmount waits for a killed process to let go. What is not mounted is no error.
func Unmount(dir string) (err error) {
	for range 200 {
		if err = unix.Unmount(dir, 0); err == nil || err == unix.EINVAL {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("unmount %s: %w", dir, err)
}

// Tandem runs it to its end and gives its exit code and all that it said.
func Tandem(args ...string) (int, string) {
	return Run(append([]string{"tandem"}, args...)...)
}

// Run runs a command to its end.
func Run(args ...string) (int, string) {
	cmd := exec.Command(args[0], args[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return -1, err.Error()
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// KernelLog is what the kernel has said since it was last asked.
func KernelLog() string {
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_CLEAR, buf)
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}

// lastLines are those that matter to whoever looks for a defect.
func lastLines(log string, n int, words ...string) string {
	var said []string
	for _, line := range strings.Split(log, "\n") {
		for _, w := range words {
			if strings.Contains(line, w) {
				said = append(said, "    "+line)
				break
			}
		}
	}
	return strings.Join(said[max(0, len(said)-n):], "\n")
}
