package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	actorsTime = flag.Duration("actors.time", 5*time.Second, "how long TestActors lets others write beside tandem")
	actorsSeed = flag.Uint64("actors.seed", 1, "what those others do is drawn from")
)

// actors are who writes beside tandem, each in a process and as a user of its own,
// until its standard input ends.
var actors = map[string]func(dir string, rng *rand.Rand, more func() bool) error{
	"attacker":    attack,
	"application": work,
}

// actAs is what the test's program does where the environment says that it is an actor.
func actAs(name string) int {
	seed, _ := strconv.ParseUint(os.Getenv("ACTOR_SEED"), 10, 64)
	done := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		close(done)
	}()
	syscall.Umask(0)
	err := actors[name](os.Getenv("ACTOR_DIR"), rand.New(rand.NewPCG(seed, 2)), func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// attack replaces whatever it owns by whatever could lead somebody else astray.
func attack(dir string, rng *rand.Rand, more func() bool) error {
	names := []string{"a", "b", "c", "a/x", "a/y", "b/x", "c/x", strings.Repeat("n", 253), "a/x/z"}
	targets := []string{
		os.Getenv("ACTOR_CANARY"), os.Getenv("ACTOR_CANARY") + "/program", "../../bin", "../../bin/hello", "../../../app_ver.txt",
		"../../../.tandem", "..", ".", "/", "a", "../data", "/proc/self/mem", "../../../../usr_data/appbackup/apps",
	}
	for more() {
		name := filepath.Join(dir, names[rng.IntN(len(names))])
		other := filepath.Join(dir, names[rng.IntN(len(names))])
		target := targets[rng.IntN(len(targets))]
		// None of this has to succeed: it is what a hostile program would try.
		switch rng.IntN(13) {
		case 0:
			_, _ = unix.Unlink(name), unix.Rmdir(name) // what looks first could wait for a FIFO
		case 1:
			_ = os.Mkdir(name, 0o777)
		case 2:
			if f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|unix.O_NONBLOCK, 0o6777); err == nil {
				_, _ = f.WriteString(strings.Repeat("w", rng.IntN(5000)))
				_ = f.Close()
			}
		case 3:
			_ = os.Symlink(target, name)
		case 4:
			_ = unix.Unlink(name)
			_ = os.Symlink(target, name)
		case 5:
			_ = unix.Mkfifo(name, 0o666)
		case 6:
			_ = os.Link(other, name)
		case 7:
			_ = os.Link(filepath.Join(dir, target), name)
		case 8:
			_ = os.Rename(name, other)
		case 9:
			_ = unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
		case 10:
			_ = os.Chmod(name, os.FileMode(rng.IntN(0o1000))|os.ModeSetuid)
		case 11:
			_ = os.Truncate(name, rng.Int64N(1<<40))
		case 12:
			_ = unix.Setxattr(name, "user.attack", []byte(target), 0)
		}
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond) // tandem is to get on, too
	}
	return nil
}

// work is an application that keeps what it has to keep in files, as programs do,
// and finds each time that all is as it left it.
func work(dir string, rng *rand.Rand, more func() bool) error {
	has := map[string]string{}
	for n := 0; more(); n++ {
		found, err := contents(dir)
		if err != nil {
			return err
		}
		if !maps.Equal(found, has) {
			return fmt.Errorf("step %d: found %q, expected %q", n, found, has)
		}
		name, other := fmt.Sprintf("%s/%c", []string{"p", "q"}[rng.IntN(2)], 'a'+rune(rng.IntN(5))), fmt.Sprintf("p/%c", 'a'+rune(rng.IntN(5)))
		at, content := filepath.Join(dir, name), fmt.Sprint(n, strings.Repeat("+", rng.IntN(3000)))
		_, there := has[name]
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		switch rng.IntN(7) {
		case 0, 1:
			err = os.WriteFile(at, []byte(content), 0o644)
			has[name] = content
		case 2:
			tmp := at + ".tmp"
			if err = os.WriteFile(tmp, []byte(content), 0o644); err == nil {
				err = os.Rename(tmp, at)
			}
			has[name] = content
		case 3:
			f, e := os.OpenFile(at, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
			if err = e; err == nil {
				_, err = f.WriteString(content)
				err = errors.Join(err, unix.Fdatasync(int(f.Fd())), f.Close())
			}
			has[name] += content
		case 4:
			if there {
				err = os.Remove(at)
				delete(has, name)
			}
		case 5:
			if _, ok := has[other]; there && ok && name != other {
				err = os.Rename(at, filepath.Join(dir, other))
				has[other] = has[name]
				delete(has, name)
			}
		case 6:
			err = os.RemoveAll(filepath.Join(dir, "q"))
			maps.DeleteFunc(has, func(name, _ string) bool { return strings.HasPrefix(name, "q/") })
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", n, err)
		}
		time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond) // it has other things to do
	}
	return nil
}

// contents reads the files below a directory.
func contents(dir string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name) // name lies in dir
		all[rel] = string(data)
		return err
	})
	return all, err
}

// act starts an actor; the function that it returns ends it and tells its error.
func act(t *testing.T, program, name, dir, canary string, uid uint32, seed uint64) (end func() error) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = []string{"ACTOR=" + name, "ACTOR_DIR=" + dir, "ACTOR_CANARY=" + canary, "ACTOR_SEED=" + fmt.Sprint(seed)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	cmd.Dir = "/"
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() error {
		_ = in.Close() // it may have ended
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out.String())
		}
		return nil
	}
}

// An application that works, a hostile one that owns a directory of configuration,
// and a person, beside whatever tandem does: nothing that is not theirs changes,
// each run ends, and what was done on purpose stands.
func TestActors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has other users")
	}
	seed := *actorsSeed
	t.Logf("-actors.seed=%d -actors.time=%v", seed, *actorsTime)
	rng := rand.New(rand.NewPCG(seed, 1))
	d := newDevice(t, "")
	if err := os.Chmod(filepath.Dir(d.dir), 0o755); err != nil { // others may go through
		t.Fatal(err)
	}
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	apps := filepath.Join(d.dir, "system/apps")
	const attacker, application = 61001, 61002
	own, data := filepath.Join(apps, "etc/own"), filepath.Join(apps, "data")
	for dir, uid := range map[string]int{own: attacker, data: application} {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, uid, uid)); err != nil {
			t.Fatal(err)
		}
	}
	canary := filepath.Join(d.dir, "canary")
	if err := errors.Join(os.Mkdir(canary, 0o755), os.WriteFile(filepath.Join(canary, "program"), []byte("#!/bin/sh\n"), 0o755),
		os.WriteFile(filepath.Join(canary, "secret"), []byte("secret"), 0o600), os.Mkdir(filepath.Join(canary, "dir"), 0o700)); err != nil {
		t.Fatal(err)
	}
	before := inventory(t, canary)
	d.must("backup")

	program := filepath.Join(d.dir, "actor") // where others can run it
	if self, err := os.ReadFile(os.Args[0]); err != nil || os.WriteFile(program, self, 0o755) != nil {
		t.Fatal("the actors' program cannot be copied", err)
	}
	ends := []func() error{
		act(t, program, "attacker", own, canary, attacker, seed), act(t, program, "attacker", own, canary, attacker, seed+1),
		act(t, program, "application", data, canary, application, seed),
	}
	conf := filepath.Join(apps, "etc/hello.conf")
	runs, ended := 0, map[int]int{}
	ctx, cancel := context.WithTimeout(context.Background(), *actorsTime)
	defer cancel()
	versions := []string{"1.0.0", "1.1.0"}
	for said := ""; ctx.Err() == nil || runs < 10; runs++ {
		var args []string
		switch rng.IntN(7) {
		case 0:
			args = []string{"boot"}
		case 1, 2:
			args = []string{"backup"}
		case 3:
			args = []string{"verify", "--repair"}
		case 4:
			args = []string{"install", "--allow-downgrade", "--allow-revoked", "--reinstall", bundleFile("hello-" + versions[rng.IntN(2)] + ".tandem")}
		case 5:
			args = []string{"status"}
		case 6:
			said = fmt.Sprintf("a person was here before run %d\n", runs)
			if err := os.WriteFile(conf, []byte(said), 0o644); err != nil {
				t.Fatal(err)
			}
			args = []string{"backup"}
		}
		limit, stop := context.WithTimeout(context.Background(), 2*time.Minute)
		o := d.wait(d.start(limit, args...))
		if limit.Err() != nil {
			t.Fatalf("run %d, %q, does not end: %s", runs, args, o)
		}
		stop()
		ended[o.exit]++
		busy := o.exit == 1 && strings.Contains(o.stderr, "is being written")
		if !busy && !slices.Contains([]int{0, 11}, o.exit) {
			t.Errorf("run %d: %q: %s", runs, args, o)
		}
		if got, err := os.ReadFile(conf); said != "" && (err != nil || string(got) != said) {
			t.Fatalf("run %d, %q: the person's edit became %q, %v\n%s", runs, args, got, err, o)
		}
		if got, err := os.ReadFile(filepath.Join(apps, "bin/hello")); err != nil || !strings.HasPrefix(string(got), "#!/bin/sh\necho hello 1.") {
			t.Fatalf("run %d, %q: the application became %q, %v", runs, args, got, err)
		}
	}
	for _, end := range ends {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d runs, by exit code: %v", runs, ended)
	if after := inventory(t, canary); !maps.Equal(before, after) {
		t.Errorf("what is somebody else's was %q and is %q", before, after)
	}
	if err := os.RemoveAll(own); err != nil {
		t.Fatal(err)
	}
	last, err := contents(data)
	if err != nil {
		t.Fatal(err)
	}
	d.must("backup")
	d.must("verify")
	kept, err := contents(filepath.Join(d.dir, "usr_data/apps/data"))
	if err != nil || !maps.Equal(kept, last) {
		t.Errorf("the backup has %q, the application %q (%v)", kept, last, err)
	}
	if a, b := inventory(t, apps), inventory(t, filepath.Join(d.dir, "usr_data/apps")); !maps.Equal(a, b) {
		t.Errorf("the sides differ: %q and %q", a, b)
	}
}

// inventory describes all that lies in a directory, by path.
func inventory(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		what := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			what += " " + string(data)
		case unix.S_IFLNK:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			what += " " + to
		}
		rel, _ := filepath.Rel(dir, name) // name lies in dir
		all[rel] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
