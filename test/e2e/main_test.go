// Package e2e has tests of the daemon as it is shipped: the built programs, real
// HTTP servers on loopback, and processes that are killed. It has no code of
// its own.
package e2e

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tandem/internal/testprograms"
)

var seedFlag = flag.Uint64("seed", 1, "what the random moments come from; 0 chooses one")

// What all tests read, and none writes: the programs, the keys, the bundles
// of hello, and a repository with the release 1.1.0 in it.
var (
	binDir string
	pubDir string
)

func TestMain(m *testing.M) {
	if flag.Parse(); testing.Short() { // each test waits for real time to pass
		return
	}
	os.Exit(testprograms.Run(m, func(bin, pub string) error {
		binDir, pubDir = bin, pub
		return publish()
	}))
}

// The releases of hello. In each of them the health check finds what the
// application says of itself.
var versions = []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0", "1.7.0", "1.8.0", "1.9.0", "2.0.0"}

// What is particular about some releases.
const (
	unhealthy     = "1.3.0"
	otherHardware = "1.5.0"
	newDefault    = "1.8.0" // from here on etc/hello.conf is another one
)

// patched are releases that change little of an earlier one: as a delta bundle
// they are small.
var patched = map[string]string{"1.2.0": "1.1.0", "1.8.0": "1.4.0"}

// publish makes keys, bundles, and a repository with 1.1.0.
func publish() error {
	errs := []error{
		release("keygen", "--out", "keys"),
		release("repo", "init", "repo", "--keys", "keys"),
	}
	for _, v := range versions {
		hardware := "demo"
		if v == otherHardware {
			hardware = "toaster"
		}
		errs = append(errs,
			writeApp(filepath.Join(pubDir, "app-"+v), v),
			release("bundle", "create", "app-"+v, "--app", "hello", "--version", v, "--compatible", hardware,
				"--config-pattern", "etc/*.conf", "--ignore", "log/**", "--keys", "keys", "--root", "repo/root.json", "--out", bundle(v)))
	}
	errs = append(errs,
		os.CopyFS(filepath.Join(pubDir, "empty"), os.DirFS(filepath.Join(pubDir, "repo"))),
		release("repo", "add", "repo", bundle("1.1.0"), "--keys", "keys"))
	return errors.Join(errs...)
}

func bundle(version string) string { return filepath.Join(pubDir, "hello-"+version+".tandem") }

// release runs tandem-release where the keys are.
func release(args ...string) error {
	cmd := exec.Command(filepath.Join(binDir, "tandem-release"), args...)
	cmd.Dir = pubDir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tandem-release %q: %w\n%s", args, err, out)
	}
	return nil
}

// The sizes of what an application carries, in bytes.
const (
	freshSize = 300 << 10 // differs from version to version, and cannot be compressed
	sameSize  = 200 << 10
)

func writeApp(dir, version string) error {
	data := func(seed uint64, n int) []byte {
		r := rand.New(rand.NewPCG(seed, 0))
		return slices.Collect(func(yield func(byte) bool) {
			for range n {
				if !yield(byte(r.Uint32())) {
					return
				}
			}
		})
	}
	greeting := "greeting = hello\n"
	if slices.Index(versions, version) >= slices.Index(versions, newDefault) {
		greeting = "greeting = good day\n"
	}
	files := map[string][]byte{
		"bin/hello":      []byte("#!/bin/sh\necho hello " + version + "\n"),
		"healthy":        []byte("yes\n"),
		"etc/hello.conf": []byte(greeting),
		"etc/other.conf": []byte("other = 1\n"),
		"share/fresh":    data(uint64(slices.Index(versions, cmp.Or(patched[version], version))), freshSize),
		"share/same":     data(1000, sameSize),
	}
	if patched[version] != "" {
		copy(files["share/fresh"], version)
	}
	if version == unhealthy {
		files["healthy"] = []byte("no\n")
	}
	var errs []error
	for name, content := range files {
		name = filepath.Join(dir, name)
		errs = append(errs, os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, 0o644))
	}
	return errors.Join(append(errs, os.Chmod(filepath.Join(dir, "bin/hello"), 0o755))...)
}

// seed gives the seed of a test, and tells how to have them again.
func seed(t *testing.T) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("again with: go test ./test/e2e -run '^%s$' -seed %d", t.Name(), seed)
	return seed
}

// Times that the tests wait at most. They are long: the machine may have
// much else to do.
const (
	soon    = 30 * time.Second
	atLast  = 2 * time.Minute
	promise = 5 * time.Second // for an end, and for the backup of an edit
	often   = 20 * time.Millisecond
)

// eventually waits until what has no error any more.
func eventually(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-tick.C:
		}
	}
}
