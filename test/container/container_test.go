// Package container has the test of the container images and of examples/compose. No
// engine is needed: what the Dockerfile says is carried out, and containers are made
// of the kernel's namespaces, as an engine makes them. It has no code of its own.
package container

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	var err error
	what := []byte(os.Getenv(specVariable))
	switch os.Getenv(partVariable) {
	case "first":
		var s spec
		if err = json.Unmarshal(what, &s); err == nil {
			err = first(s)
		}
	case "supervise":
		var s supervised
		if err = json.Unmarshal(what, &s); err == nil {
			err = supervise(s)
		}
	case "docker":
		var p project
		if err = json.Unmarshal(what, &p); err == nil {
			err = p.docker(os.Args[1:])
		}
	default:
		os.Exit(m.Run())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
	os.Exit(0)
}

// project is what the engine knows of a compose file.
type project struct {
	Dir    string // of its own: volumes, and what runs
	Images map[string]*image
}

const example = root + "/examples/compose"

func (p *project) service(name string) (*node, error) {
	text, err := os.ReadFile(filepath.Join(example, "compose.yaml"))
	if err != nil {
		return nil, err
	}
	file, err := readCompose(string(text))
	if err != nil {
		return nil, err
	}
	s := file.at("services", name)
	if s.keys == nil {
		return nil, fmt.Errorf("there is no service %s", name)
	}
	return s, nil
}

// spec is the container of a service.
func (p *project) spec(name string, args []string) (s spec, err error) {
	service, err := p.service(name)
	if err != nil {
		return s, err
	}
	for _, want := range []struct{ key, value string }{{"read_only", "true"}, {"cap_drop", "ALL"}, {"security_opt", "no-new-privileges:true"}} {
		if got := service.at(want.key); got.text+strings.Join(got.texts(), " ") != want.value {
			return s, fmt.Errorf("%s: %s is not %s, as this engine has it", name, want.key, want.value)
		}
	}
	s.Image = p.Images[service.at("build", "target").text]
	if s.Image == nil {
		return s, fmt.Errorf("%s: the Dockerfile has no such target", name)
	}
	if s.Args = args; len(args) == 0 {
		s.Args = s.Image.Cmd
	}
	if s.NewRoot, err = os.MkdirTemp(p.Dir, "root-"); err != nil {
		return s, err
	}
	for _, v := range service.at("volumes").texts() {
		words := strings.Split(v, ":")
		m := mount{From: words[0], To: words[1], Options: strings.Join(words[2:], ",")}
		if strings.HasPrefix(m.From, ".") {
			m.From, err = filepath.Abs(filepath.Join(example, m.From))
		} else {
			m.From, err = p.volume(m.From, filepath.Join(s.Image.Root, m.To))
		}
		if err != nil {
			return s, err
		}
		s.Mounts = append(s.Mounts, m)
	}
	for _, v := range service.at("tmpfs").texts() {
		to, options, _ := strings.Cut(v, ":")
		s.Mounts = append(s.Mounts, mount{To: to, Options: options})
	}
	// An engine tells containers each other's names.
	hosts := filepath.Join(p.Dir, "hosts")
	s.Mounts = append(s.Mounts, mount{From: hosts, To: "/etc/hosts", Options: "ro"})
	return s, os.WriteFile(hosts, []byte("127.0.0.1 nginx localhost\n"), 0o644)
}

// volume is the folder of a volume. A new one has what the image has there, owner
// included.
func (p *project) volume(name, from string) (string, error) {
	dir := filepath.Join(p.Dir, "volumes", name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if _, err := os.Stat(from); err != nil {
		return dir, os.MkdirAll(dir, 0o755)
	}
	return dir, sh("/", "mkdir -p "+filepath.Dir(dir)+" && cp -a "+from+" "+dir)
}

// docker carries out a command line of docker's.
func (p *project) docker(args []string) error {
	line := strings.Join(args, " ")
	after := func(head string) ([]string, bool) {
		rest, ok := strings.CutPrefix(line+" ", head+" ")
		return strings.Fields(rest), ok
	}
	if rest, ok := after("compose run --rm"); ok {
		s, err := p.spec(rest[0], args[len(args)-len(rest)+1:])
		if err != nil {
			return err
		}
		cmd, err := contained(s)
		if err != nil {
			return err
		}
		return cmd.Run()
	}
	if rest, ok := after("compose up -d"); ok {
		if len(rest) == 0 {
			rest = []string{"nginx", "device"}
		}
		for _, name := range rest {
			if err := p.up(name); err != nil {
				return err
			}
		}
		return nil
	}
	if rest, ok := after("compose exec"); ok {
		cmd, err := p.exec(rest[0], rest[1:])
		if err != nil {
			return err
		}
		return cmd.Run()
	}
	if rest, ok := after("compose stop"); ok {
		service, err := p.service(rest[0])
		if err != nil {
			return err
		}
		grace, err := time.ParseDuration(cmp.Or(service.at("stop_grace_period").text, "10s"))
		if err != nil {
			return err
		}
		code, err := stop(filepath.Join(p.Dir, rest[0]), grace)
		if err == nil && code != 0 && rest[0] != "nginx" { // which may not have begun
			err = fmt.Errorf("%s ended with exit code %d", rest[0], code)
		}
		return err
	}
	if rest, ok := after("compose rm -f"); ok {
		return os.RemoveAll(filepath.Join(p.Dir, rest[0]))
	}
	if rest, ok := after("volume rm"); ok {
		return os.RemoveAll(filepath.Join(p.Dir, "volumes", strings.TrimPrefix(rest[0], "tandem_")))
	}
	return fmt.Errorf("docker %s: not known here", line)
}

func (p *project) up(name string) (err error) {
	s := supervised{Dir: filepath.Join(p.Dir, name)}
	if name == "nginx" {
		s.Argv, err = p.nginx()
	} else {
		s.Spec, err = p.spec(name, nil)
	}
	if err != nil {
		return err
	}
	return s.start()
}

// nginx is the command that runs this computer's own with the site of the example.
func (p *project) nginx() ([]string, error) {
	html, err := p.volume("repository", "/nonexistent")
	if err != nil {
		return nil, err
	}
	site, err := filepath.Abs(filepath.Join(example, "nginx.conf"))
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(p.Dir, "nginx.conf")
	text := "daemon off;\nuser root;\npid " + p.Dir + "/nginx.pid;\nerror_log " + p.Dir + "/nginx.err;\nevents {}\nhttp {\naccess_log off;\ninclude " + site + ";\n}\n"
	const script = `mount -t tmpfs share /usr/share && mkdir -p /usr/share/nginx/html && mount --bind "$1" /usr/share/nginx/html && exec nginx -e "$3" -c "$2"`
	return []string{"sh", "-c", script, "sh", html, conf, filepath.Join(p.Dir, "nginx.err")}, os.WriteFile(conf, []byte(text), 0o644)
}

// exec is a command in the container of a service that runs.
func (p *project) exec(name string, argv []string) (*exec.Cmd, error) {
	pid, err := os.ReadFile(filepath.Join(p.Dir, name, "pid"))
	if err != nil {
		return nil, err
	}
	service, err := p.service(name)
	if err != nil {
		return nil, err
	}
	uid, gid, err := p.Images[service.at("build", "target").text].user()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("nsenter", slices.Concat([]string{"--target", string(pid), "--mount", "--pid", "--root", "--wd",
		fmt.Sprintf("--setuid=%d", uid), fmt.Sprintf("--setgid=%d", gid), "--"}, argv)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd, nil
}

// alone makes a test run in a process with mounts and a network of its own, and
// reports whether this is that process.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make containers")
	}
	if os.Getenv("CONTAINER_ALONE") == t.Name() {
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), loopbackUp()); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), "CONTAINER_ALONE="+t.Name())
	// Whatever is left running in there ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// loopbackUp has 127.0.0.1 be there.
func loopbackUp() error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil { // that of the process's own namespace
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// The page of the example works as it stands, and the device is what the Dockerfile
// and the compose file say: healthy once it has an application, unharmed by the loss
// of a volume, and ended within its grace time.
func TestCompose(t *testing.T) {
	if testing.Short() {
		t.Skip("both programs are built")
	}
	if !alone(t) {
		return
	}
	p := &project{Dir: t.TempDir(), Images: readDockerfile(t)}
	t.Cleanup(func() {
		for _, name := range []string{"device", "nginx"} {
			_, _ = stop(filepath.Join(p.Dir, name), 0) // it may have ended
		}
	})
	agent := p.Images["agent"]
	bin := t.TempDir()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	docker := fmt.Sprintf("#!/bin/sh\ncd %s\nexport %s=docker %s='%s'\nexec %s \"$@\"\n", here, partVariable, specVariable, text, self)
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte(docker), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH")+":/usr/sbin")
	run := func(script string) string {
		t.Helper()
		cmd := exec.Command("sh", "-ec", script)
		out, err := cmd.CombinedOutput()
		if err != nil {
			for _, name := range []string{"device/log", "nginx/log", "nginx.err"} {
				log, _ := os.ReadFile(filepath.Join(p.Dir, name))
				t.Logf("%s:\n%s", name, log)
			}
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	health := strings.Join(agent.Health, " ")
	exits := func(want int, script string) {
		t.Helper()
		out, err := exec.Command("sh", "-c", script).CombinedOutput()
		var exit *exec.ExitError
		if code := 0; errors.As(err, &exit) || err == nil {
			if exit != nil {
				code = exit.ExitCode()
			}
			if code != want {
				t.Fatalf("%s: exit code %d, want %d\n%s", script, code, want, out)
			}
		} else {
			t.Fatal(err)
		}
	}

	page, err := os.ReadFile(filepath.Join(example, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for i, part := range strings.Split(string(page), "\n```") {
		if block, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			blocks = append(blocks, block)
		}
	}
	if len(blocks) != 3 {
		t.Fatalf("the page has %d blocks of commands", len(blocks))
	}

	// typed carries out commands as a person types them: an agent that is started is
	// there before the next one.
	typed := func(block string) {
		t.Helper()
		for line := range strings.Lines(strings.ReplaceAll(block, "\\\n", " ")) {
			run(line)
			if strings.Contains(line, "compose up") {
				waitFor(t, "the agent listens", func() error { return p.listens() })
			}
		}
	}
	const status, update = "docker compose exec device /usr/bin/tandem status", "docker compose exec device /usr/bin/tandem update"
	inStep := func(version string) {
		t.Helper()
		waitFor(t, "both sides are at "+version, func() error {
			out, err := exec.Command("sh", "-c", status).CombinedOutput()
			if err == nil && !(strings.Contains(string(out), "the sides are in step") && strings.Contains(string(out), version)) {
				err = errors.New(string(out))
			}
			return err
		})
	}

	typed(blocks[0])
	// A device that has no application yet is not healthy, and ends at once.
	typed("docker compose up -d")
	exits(10, "docker compose exec device "+health)
	typed("docker compose stop device && docker compose rm -f device && docker compose stop nginx && docker compose rm -f nginx")

	typed(blocks[1])
	inStep("1.0.0")
	exits(0, "docker compose exec device "+health)

	typed(blocks[2])
	inStep("1.0.0")
	exits(0, "docker compose exec device "+health)

	// It ends within its grace time also in the midst of an update.
	_, publish, _ := strings.Cut(blocks[0], "repo init")
	_, publish, _ = strings.Cut(publish, "\n")
	typed(strings.ReplaceAll(publish, "1.0.0", "1.1.0"))
	run(update + " >/dev/null 2>&1 & docker compose stop device; docker compose rm -f device")
	typed("docker compose up -d device")
	run(update)
	inStep("1.1.0")
	run("docker compose stop device")

	// Without its volumes it writes nothing, and says so.
	s, err := p.spec("device", []string{"boot"})
	if err != nil {
		t.Fatal(err)
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m mount) bool { return m.To == "/usrapp" || m.To == "/usrdata" })
	s.Plain = true // also where it could
	cmd, err := contained(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = nil, nil
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 12 || !strings.Contains(string(out), "nothing is mounted at /usrapp") {
		t.Fatalf("without volumes: %v\n%s", err, out)
	}
}

// listens returns an error as long as the agent of the device does not listen.
func (p *project) listens() error {
	pid, err := os.ReadFile(filepath.Join(p.Dir, "device/pid"))
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", "/proc/"+string(pid)+"/root/run/tandem.sock")
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(p.Dir, "device/log"))
		return fmt.Errorf("%w\n%s", err, log)
	}
	return conn.Close()
}

// waitFor waits until something is so.
func waitFor(t *testing.T, what string, is func() error) {
	t.Helper()
	for until := time.Now().Add(2 * time.Minute); ; {
		err := is()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s: that does not happen: %v", what, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}
