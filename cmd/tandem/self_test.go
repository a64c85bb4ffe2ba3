package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"tandem/internal/testprograms"
	"tandem/packaging/release"
)

// The scripts of Tandem itself have, beside what all have, two tandems of different
// versions in $SELF, and 3.0.0, which writes our files in a format that they do not know.
// Programs are copied by cp(1): while the tests start others, what they write themselves
// may be open there, and cannot be executed. $WORK/lib is where the device's lies, with the
// script that starts it.
func TestSelf(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("two more programs are built")
	}
	dir := selfPrograms(t)
	start, err := filepath.Abs("../../packaging/linux/start")
	if err != nil {
		t.Fatal(err)
	}
	if err := testprograms.Build(dir, testprograms.Small(), "tandem/cmd/tandem/testdata/self/broken"); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, params(t, filepath.Join("testdata", "self"), "SELF", dir, "START", start, "BROKEN", filepath.Join(dir, "broken"), "ARCH", release.Architecture()))
}

// selfPrograms builds those tandems and their bundles, once for all tests.
func selfPrograms(t *testing.T) string {
	t.Helper()
	dir, err := buildSelfPrograms()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var buildSelfPrograms = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(binDir, "self")
	for _, v := range []string{"1.0.0", "2.0.0", "3.0.0"} {
		tags := map[string]string{"3.0.0": "nextformat"}[v]
		flags := testprograms.Versioned(v, release.ProgramMark, tags)
		name := filepath.Join(dir, "tandem-"+v)
		if err := errors.Join(testprograms.Build(dir, flags, "tandem/cmd/tandem"), os.Rename(filepath.Join(dir, "tandem"), name)); err != nil {
			return "", err
		}
		if err := releaseTool("bundle", "create", "--kind", "agent", "--arch", release.Architecture(), name,
			"--keys", "keys", "--root", "repo/root.json", "--out", filepath.Join(dir, v+".tandem")); err != nil {
			return "", err
		}
	}
	return dir, nil
})

// An update of Tandem, and the return of the kept one after a factory state, are killed
// at moments that are drawn: a Tandem that works is in place each time, and the next
// try gets there.
func TestSelfKilled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("more programs are built")
	}
	const rounds, seed = 3, 1
	programs := selfPrograms(t)
	d := newDevice(t, "")
	bundle := filepath.Join(programs, "2.0.0.tandem")
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	start, err := os.ReadFile("../../packaging/linux/start")
	if err != nil {
		t.Fatal(err)
	}
	// What comes from the factory.
	factory := func() {
		t.Helper()
		// A child that another test starts meanwhile would hold the program open for writing.
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		data, err := os.ReadFile(filepath.Join(programs, "tandem-1.0.0"))
		if err == nil {
			err = errors.Join(os.RemoveAll(filepath.Join(d.dir, "lib")), os.Mkdir(filepath.Join(d.dir, "lib"), 0o755))
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(d.dir, "lib/tandem"), data, 0o755), os.WriteFile(filepath.Join(d.dir, "lib/start"), start, 0o755),
			os.WriteFile(filepath.Join(d.dir, "lib/start.conf"), []byte("sync() { :; }\n"), 0o644)) // no power is cut
		if err != nil {
			t.Fatal(err)
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(d.dir, "lib", name), append(args, "--config", "tandem.toml")...)
		cmd.Dir = d.dir
		cmd.Env = append(os.Environ(), "TANDEM_RUN="+d.dir)
		return cmd
	}
	run := func(name string, args ...string) outcome {
		t.Helper()
		return d.wait(d.begin(command(name, args...)))
	}
	version := func() string {
		t.Helper()
		o := run("tandem", "version")
		v, _, ok := strings.Cut(strings.TrimPrefix(o.stdout, "tandem "), " ")
		if o.exit != 0 || !ok {
			t.Fatalf("no Tandem that works is in place: %s", o)
		}
		return v
	}
	random := rand.New(rand.NewPCG(seed, 0))
	// killed begins a command and kills it a little after a file of that name has come.
	killed := func(name string, args ...string) {
		t.Helper()
		at := []string{"state/firmware/tandem", "lib/tandem.next", "lib/tandem.previous", "lib/tandem.trial"}[random.IntN(4)]
		after := time.Duration(random.IntN(40)) * time.Millisecond
		cmd := command(name, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		r := d.begin(cmd)
		ended := make(chan outcome, 1)
		go func() { ended <- d.wait(r) }()
		for look := time.NewTicker(time.Millisecond); ; {
			_, err := os.Lstat(filepath.Join(d.dir, at))
			if err != nil {
				select {
				case o := <-ended:
					t.Logf("%s %s ended before %s: exit %d", name, args[0], at, o.exit)
					return
				case <-look.C:
					continue
				}
			}
			select {
			case <-ended:
			case <-time.After(after):
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				<-ended
			}
			t.Logf("%s %s killed %v after %s: %s is in place", name, args[0], after, at, version())
			return
		}
	}
	t.Logf("seed %d", seed)
	for range rounds {
		factory()
		if err := os.RemoveAll(filepath.Join(d.dir, "usr_data/.tandem/self")); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(d.dir, "state/firmware")); err != nil {
			t.Fatal(err)
		}
		killed("tandem", "install", bundle)
		if o := run("start", "boot"); o.exit != 0 {
			t.Fatalf("the next start: %s", o)
		}
		if version() != "2.0.0" {
			if o := run("tandem", "install", bundle); o.exit != 0 {
				t.Fatalf("the next try: %s", o)
			}
		}
		if o := run("tandem", "keep"); o.exit != 0 || version() != "2.0.0" {
			t.Fatalf("%s", o)
		}
		factory()
		killed("start", "boot")
		if o := run("start", "boot"); o.exit != 0 || version() != "2.0.0" {
			t.Fatalf("the start after the factory's: %s", o)
		}
		if o := run("tandem", "keep"); o.exit != 0 {
			t.Fatalf("%s", o)
		}
		for _, left := range []string{"tandem.next", "tandem.trial", "tandem.failed", "tandem.starts-boot"} {
			if _, err := os.Lstat(filepath.Join(d.dir, "lib", left)); err == nil {
				t.Errorf("%s is left", left)
			}
		}
	}
}

// What a newer Tandem left beside the program is left alone: the sides are brought in
// step all the same, and nothing is installed.
func TestNewerFilesBesideTheProgram(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("more programs are built")
	}
	program := filepath.Join(selfPrograms(t), "tandem-1.0.0")
	for name, kind := range map[string]string{"known": "known", "trial": "trial", "failed": "trial", "proof": "proof"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, "")
			err := errors.Join(os.Mkdir(filepath.Join(d.dir, "lib"), 0o755), system("cp", program, filepath.Join(d.dir, "lib/tandem")))
			if err != nil {
				t.Fatal(err)
			}
			d.must("install", bundleFile("hello-1.0.0.tandem"))
			d.write("system/apps/etc/hello.conf", "an edit\n")
			d.later("lib/tandem."+name, kind)
			before := d.read("lib/tandem." + name)
			for _, args := range [][]string{{"boot"}, {"status"}, {"install", bundleFile("hello-1.1.0.tandem")}, {"revoke", "0.9.0"}, {"boot"}} {
				cmd := d.command(t.Context(), args...)
				cmd.Path = filepath.Join(d.dir, "lib/tandem")
				if o := d.wait(d.begin(cmd)); o.exit != 13 || !strings.Contains(o.stderr, "made by Tandem 2.3.0") {
					t.Errorf("tandem %q: %s", args, o)
				}
			}
			if d.read("lib/tandem."+name) != before {
				t.Error("it was written")
			}
			if got := d.read("usr_data/apps/etc/hello.conf"); got != "an edit\n" {
				t.Errorf("usr_data has %q", got)
			}
		})
	}
}
