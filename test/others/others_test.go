// Package others lets the built program work beside another user's program that
// swaps what it owns, on the real kernel. It has no code of its own.
package others

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	seed     = flag.Uint64("others.seed", 1, "seed of the random choices")
	duration = flag.Duration("others.for", 8*time.Second, "how long jobs are done beside the other user")
)

const nobody = 65534

// TestMain becomes the attacker where it is started as one.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TANDEM_ATTACKER"); dir != "" {
		attack(dir)
	}
	flag.Parse()
	os.Exit(m.Run())
}

// attack swaps what lies in a directory for links, FIFOs, directories and files,
// until it is killed.
func attack(dir string) {
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	for {
		name := filepath.Join(dir, []string{"a", "b", "sub", "sub/a", "sub/b"}[rng.IntN(5)])
		other := filepath.Join(dir, []string{"a", "b", "sub/b", "c"}[rng.IntN(4)])
		if rng.IntN(3) > 0 {
			_ = os.RemoveAll(name) // whatever of it works
		}
		switch rng.IntN(7) {
		case 0:
			_ = os.Symlink([]string{"..", "../../bin", "/etc", "../../../../canary", "../../../.tandem"}[rng.IntN(5)], name)
		case 1:
			_ = syscall.Mkfifo(name, 0o666)
		case 2:
			_ = os.WriteFile(name, fmt.Appendf(nil, "%d", rng.Uint64()), 0o666)
		case 3:
			_ = os.MkdirAll(filepath.Join(name, "deep"), 0o777)
		case 4: // refused where the kernel protects hard links
			_ = os.Link(filepath.Join(dir, []string{"../../../../canary/setuid", "../../bin/hello", "c"}[rng.IntN(3)]), name)
		case 5:
			_ = os.Rename(name, other)
		case 6:
			_ = os.Chmod(name, os.FileMode(rng.IntN(0o1000)))
		}
	}
}

// TestOtherUser has a program of another user, which owns one directory of
// configuration, swap what it can while Tandem works as root. Each job ends with a
// code of the table, nothing outside of that directory changes, and once it is
// quiet both sides are in step.
func TestOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to have another user")
	}
	rng := rand.New(rand.NewPCG(*seed, 2))
	t.Logf("seed %d", *seed)
	w := t.TempDir()
	for dir := w; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	build := exec.Command("go", "build", "-o", w+"/", "tandem/cmd/tandem", "tandem/cmd/tandem-release")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	run := func(name string, args ...string) (int, string) {
		c := exec.Command(filepath.Join(w, name), args...)
		c.Dir = w
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Run(); err != nil && c.ProcessState == nil {
			t.Fatal(err)
		}
		return c.ProcessState.ExitCode(), out.String()
	}
	release := func(args ...string) {
		t.Helper()
		if code, out := run("tandem-release", args...); code != 0 {
			t.Fatalf("tandem-release %q: %d\n%s", args, code, out)
		}
	}
	release("keygen", "--out", "keys")
	release("repo", "init", "repo", "--keys", "keys")
	for _, v := range []string{"1.0.0", "1.1.0"} {
		write(t, w, "src-"+v+"/bin/hello", "hello "+v, 0o755)
		write(t, w, "src-"+v+"/etc/hello.conf", "greeting = hello", 0o644)
		release("bundle", "create", "src-"+v, "--app", "hello", "--version", v, "--compatible", "demo",
			"--config-pattern", "etc/**", "--keys", "keys", "--root", "repo/root.json", "--out", v+".tandem")
	}
	write(t, w, "tandem.toml", `[device]
id = "one"
compatible = ["demo"]
app = "hello"
[system]
path = "system"
[usr_data]
path = "usr_data"
[trust]
root = "repo/root.json"
[agent]
state = "state"
lock = "lock"
`, 0o644)
	write(t, w, "canary/file", "nobody's", 0o600)
	write(t, w, "canary/setuid", "root's", 0o755)
	must(t, os.Chmod(filepath.Join(w, "canary/setuid"), 0o755|fs.ModeSetuid))
	tandem := func(args ...string) (int, string) {
		return run("tandem", append([]string{"--config", "tandem.toml"}, args...)...)
	}
	if code, out := tandem("install", "1.0.0.tandem"); code != 0 {
		t.Fatalf("install: %d\n%s", code, out)
	}
	own := filepath.Join(w, "system/apps/etc/own")
	must(t, os.Mkdir(own, 0o777))
	must(t, os.Chown(own, nobody, nobody))
	canary := describe(t, filepath.Join(w, "canary"))

	self, err := os.Executable()
	must(t, err)
	data, err := os.ReadFile(self)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(w, "attacker"), data, 0o755))
	attacker := exec.Command(filepath.Join(w, "attacker"))
	attacker.Env = append(os.Environ(), "TANDEM_ATTACKER="+own)
	attacker.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
	must(t, attacker.Start())
	stop := func() {
		_ = attacker.Process.Kill() // it may be gone
		_ = attacker.Wait()         // it was killed
	}
	defer stop()

	jobs := [][]string{{"backup"}, {"boot"}, {"verify", "--repair"}, {"install", "--allow-downgrade", "--allow-revoked", "1.0.0.tandem"},
		{"install", "--allow-downgrade", "--allow-revoked", "1.1.0.tandem"}, {"rollback"}}
	n := 0
	for until := time.Now().Add(*duration); time.Now().Before(until); n++ {
		if rng.IntN(4) == 0 { // a person
			write(t, w, "system/apps/etc/hello.conf", fmt.Sprintf("greeting = %d", rng.Uint64()), 0o644)
		}
		job := jobs[rng.IntN(len(jobs))]
		code, out := tandem(job...)
		if !slices.Contains([]int{0, 1, 11, 22, 23}, code) || strings.Contains(out, "panic") {
			t.Errorf("job %d, %q: exit %d\n%s", n, job, code, out)
		}
	}
	stop()
	t.Logf("%d jobs", n)
	const last = "greeting = the last edit"
	write(t, w, "system/apps/etc/hello.conf", last, 0o644)
	must(t, os.RemoveAll(own)) // what cannot be copied is told, and not in step
	for range 2 {
		if code, out := tandem("boot"); code != 0 {
			t.Errorf("boot, when all is quiet: exit %d\n%s", code, out)
		}
	}
	if got := describe(t, filepath.Join(w, "canary")); got != canary {
		t.Errorf("what is nobody's was\n%s\nand is\n%s", canary, got)
	}
	if a, b := describe(t, filepath.Join(w, "system/apps")), describe(t, filepath.Join(w, "usr_data/apps")); a != b {
		t.Errorf("the sides differ:\n%s\n%s", a, b)
	}
	if got, _ := os.ReadFile(filepath.Join(w, "usr_data/apps/etc/hello.conf")); string(got) != last {
		t.Errorf("usr_data has %q, expected %q", got, last)
	}
}

// describe tells what lies below a directory: names, modes, owners, content.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d", strings.TrimPrefix(p, dir), info.Mode(), st.Uid, st.Gid)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

func write(t *testing.T, dir, name, content string, mode os.FileMode) {
	t.Helper()
	name = filepath.Join(dir, name)
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, []byte(content), mode))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
