package container

import (
	"encoding/json"
	"errors"
	"fmt"
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
)

// spec is a container: what it is made of, and how it differs from this computer.
type spec struct {
	Image   *image
	Args    []string
	Mounts  []mount
	Plain   bool // nothing of compose: no read-only root, all that root may do in it
	NewRoot string
}

// mount is a volume or a file of this computer, or a tmpfs if it has options alone.
type mount struct{ From, To, Options string }

// The program of these tests plays several parts, told by the environment.
const (
	partVariable = "CONTAINER_PART"
	specVariable = "CONTAINER_SPEC"
)

// part makes the command of this program in one of its other parts.
func part(name string, s any, args ...string) (*exec.Cmd, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), partVariable+"="+name, specVariable+"="+string(text))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd, nil
}

// contained is the command that runs a container: its first process, in namespaces of
// its own.
func contained(s spec) (*exec.Cmd, error) {
	cmd, err := part("first", s)
	if err == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	}
	return cmd, err
}

// first makes the container around itself, and becomes its program.
func first(s spec) error {
	runtime.LockOSThread()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// A file system of its own, as an engine's are.
	if err := unix.Mount("root", s.NewRoot, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if err := sh("/", "cp -a "+s.Image.Root+"/. "+s.NewRoot); err != nil {
		return err
	}
	for _, m := range slices.Concat([]mount{{To: "/proc"}}, s.Mounts) {
		if err := m.mount(s.NewRoot); err != nil {
			return fmt.Errorf("mount %s: %w", m.To, err)
		}
	}
	if !s.Plain {
		if err := unix.Mount("", s.NewRoot, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	if err := unix.Chroot(s.NewRoot); err != nil {
		return err
	}
	if err := unix.Chdir(s.Image.Dir); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	uid, gid, err := s.Image.user()
	if err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(gid), syscall.Setuid(uid)); err != nil {
		return err
	}
	unix.CloseOnExec(3) // whoever supervises this sees it begin
	argv := slices.Concat(s.Image.Entrypoint, s.Args)
	return syscall.Exec(argv[0], argv, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=container"})
}

func (i *image) user() (uid, gid int, err error) {
	u, g, _ := strings.Cut(i.User, ":")
	uid, e1 := strconv.Atoi(u)
	gid, e2 := strconv.Atoi(g)
	return uid, gid, errors.Join(e1, e2)
}

func (m mount) mount(newRoot string) error {
	at := filepath.Join(newRoot, m.To)
	if info, err := os.Stat(m.From); err == nil && !info.IsDir() { // a file, which lies on a file
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, nil, 0o644)); err != nil {
			return err
		}
	} else if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	switch {
	case m.To == "/proc":
		return unix.Mount("proc", at, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	case m.From == "":
		return unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, m.Options)
	}
	if err := unix.Mount(m.From, at, "", unix.MS_BIND, ""); err != nil || m.Options != "ro" {
		return err
	}
	return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

// supervised is a program that goes on while the tests do other things.
type supervised struct {
	Dir  string // where its process ids and its exit code are written
	Spec spec
	Argv []string // instead of a container
}

// supervise runs it to its end.
func supervise(s supervised) error {
	var cmd *exec.Cmd
	var err error
	if len(s.Argv) > 0 {
		cmd = exec.Command(s.Argv[0], s.Argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	} else if cmd, err = contained(s.Spec); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.Dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, log, log
	begun, inside, err := os.Pipe()
	if err != nil {
		return err
	}
	if len(s.Argv) == 0 {
		cmd.ExtraFiles = []*os.File{inside}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	inside.Close()
	_, _ = begun.Read(make([]byte, 1)) // its end says that the program runs, or never will
	if err := os.WriteFile(filepath.Join(s.Dir, "pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	fmt.Println("up") // whoever started this waits for it
	_ = cmd.Wait()    // the exit code says it
	return os.WriteFile(filepath.Join(s.Dir, "exit"), []byte(strconv.Itoa(cmd.ProcessState.ExitCode())), 0o644)
}

// start starts s and returns once it has begun.
func (s supervised) start() error {
	if err := errors.Join(os.RemoveAll(s.Dir), os.MkdirAll(s.Dir, 0o755)); err != nil {
		return err
	}
	cmd, err := part("supervise", s)
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdin, cmd.Stdout = nil, nil
	// Whoever waits for the output of this program is not to wait for it.
	if cmd.Stderr, err = os.Create(filepath.Join(s.Dir, "err")); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if n, err := out.Read(make([]byte, 2)); n == 0 {
		return fmt.Errorf("%s: it does not start: %w", s.Dir, err)
	}
	return os.WriteFile(filepath.Join(s.Dir, "supervisor"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
}

func readNumber(name string) (int, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(text))
}

// stop tells what runs in dir to end, and kills it after the grace time, as an engine
// does. It returns its exit code: -1 where it was killed.
func stop(dir string, grace time.Duration) (int, error) {
	pid, e1 := readNumber(filepath.Join(dir, "pid"))
	supervisor, e2 := readNumber(filepath.Join(dir, "supervisor"))
	if err := errors.Join(e1, e2); err != nil {
		return 0, err
	}
	fd, err := unix.PidfdOpen(supervisor, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		return 0, err
	}
	ended, err := waitEnd(fd, grace)
	if err == nil && !ended {
		err = unix.Kill(pid, unix.SIGKILL)
		if _, e := waitEnd(fd, time.Hour); err == nil {
			err = e
		}
	}
	if err != nil {
		return 0, err
	}
	return readNumber(filepath.Join(dir, "exit"))
}

// waitEnd waits until a process has ended.
func waitEnd(pidfd int, limit time.Duration) (ended bool, err error) {
	until := time.Now().Add(limit)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(max(0, time.Until(until)).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
