// Package testprograms builds the programs that tests of several packages drive, once
// for all of them.
package testprograms

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Build puts the programs of those packages into dir, as go build makes them with flags,
// without cgo. They are kept in .cache of the module, where they are linked anew only
// when something in them is different; dir has copies, which nobody else changes.
func Build(dir string, flags []string, pkgs ...string) error {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	key := sha256.Sum256([]byte(strings.Join(flags, "\x00")))
	kept := filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), ".cache", "programs", fmt.Sprintf("%x", key[:6]))
	for _, d := range []string{dir, kept} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	lock, err := os.Create(filepath.Join(kept, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	build := exec.Command("go", append(append([]string{"build", "-o", kept + "/"}, flags...), pkgs...)...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %q: %w\n%s", pkgs, err, out)
	}
	// By another process: a child that a test starts meanwhile would hold what is written
	// here open, and it could not be executed.
	copies := exec.Command("cp")
	for _, pkg := range pkgs {
		copies.Args = append(copies.Args, filepath.Join(kept, filepath.Base(pkg)))
	}
	copies.Args = append(copies.Args, dir)
	if out, err := copies.CombinedOutput(); err != nil {
		return fmt.Errorf("copy the programs: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Small are the flags of programs that tests only run.
func Small() []string { return []string{"-ldflags", "-s -w"} }

// Versioned are the flags of a tandem of that version, which has it behind mark, too.
func Versioned(version, mark, tags string) []string {
	return []string{"-tags", tags, "-ldflags", fmt.Sprintf("-s -w -X main.version=%s -X 'main.mark=%s%s:'", version, mark, version)}
}
