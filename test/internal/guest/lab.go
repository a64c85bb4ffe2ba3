//go:build linux

package guest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Device is what differs between the labs: the partitions, and how their power
// fails.
type Device interface {
	// Cut runs a command of an operation and lets the power fail during it or
	// just after it. Then what is left is mounted.
	Cut(operation string, args []string) (Cut, error)
	// Remount unmounts both partitions in order and mounts them again.
	Remount() error
	// Erase leaves an empty file system on one partition, by its mount point.
	Erase(dir string) error
}

// Cut is one failure of power.
type Cut struct {
	Kind string // how the power failed, for the report
	At   string // when, for whoever looks for a defect
	Done bool   // the command had ended before, with success
	Code int    // its exit code
	Out  string // what it said
	Log  string // what the kernel said
}

// Outlasted is the kind of a cut that came after the command's end, though
// before the partitions were unmounted.
const Outlasted = "just after the end"

// Lab is one run on one machine.
type Lab struct {
	Device   Device
	Rand     *rand.Rand
	Report   *Report
	Failures []string
	InPlace  bool // there is no room for two versions, so a side may be written over
	first    bool // stop after the first failure

	Releases map[string]Tree // of the application in use, by version
	folder   string          // where they lie
	turn     int             // goes on through the operations from part to part
	counter  int             // makes each edit and each version by hand a new one
}

// NewLab starts with the application that is named.
func NewLab(device Device, o Options, application string) (*Lab, error) {
	l := &Lab{Device: device, Rand: rand.New(rand.NewPCG(o.Seed, 0)), Report: NewReport(), first: o.First}
	if err := l.Use(application); err != nil {
		return nil, err
	}
	return l, l.serve()
}

// Use changes to another application's releases.
func (l *Lab) Use(application string) error {
	l.folder, l.Releases = "/releases/"+application, map[string]Tree{}
	bundles, err := filepath.Glob(l.folder + "/*.tandem")
	if err != nil {
		return err
	}
	for _, b := range bundles {
		version := strings.TrimSuffix(filepath.Base(b), ".tandem")
		t, err := ReadTree(filepath.Join(l.folder, version), "")
		if err != nil {
			return err
		}
		l.Releases[version] = t.With("tag", version)
	}
	if len(l.Releases) == 0 {
		return fmt.Errorf("%s has no bundles", l.folder)
	}
	return nil
}

// Bundle is the file of a release.
func (l *Lab) Bundle(version string) string { return l.folder + "/" + version + ".tandem" }

// Fail reports a defect.
func (l *Lab) Fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fmt.Println("FAILED: " + text)
	first, _, _ := strings.Cut(text, "\n")
	l.Failures = append(l.Failures, first)
}

// Check reports what holds, and what does not.
func (l *Lab) Check(what string, ok bool, detail string) {
	if ok {
		fmt.Println("ok: " + what)
	} else {
		l.Fail("%s\n%s", what, detail)
	}
}

// Summary prints the last line of a run.
func (l *Lab) Summary(seed uint64, took time.Duration) {
	fmt.Printf("%d power cuts and %d more just after the end, seed %d, %.0f s in all: %d failures\n",
		l.Report.Cuts(), l.Report.Outlasted(), seed, took.Seconds(), len(l.Failures))
}

// Result is the error of the whole run. One without a cut proves nothing.
func (l *Lab) Result() error {
	if l.Report.Cuts() == 0 {
		return errors.New("no cut was made")
	}
	if len(l.Failures) > 0 {
		return fmt.Errorf("%d failures, the first: %s", len(l.Failures), l.Failures[0])
	}
	return nil
}

// Reset starts over with empty partitions and a release.
func (l *Lab) Reset() error {
	for _, dir := range []string{SystemDir, UsrDataDir} {
		if err := l.Erase(dir); err != nil {
			return err
		}
	}
	if code, out := Tandem("install", l.Bundle("1.0.0")); code != 0 {
		return fmt.Errorf("install: exit code %d: %s", code, out)
	}
	return nil
}

// bystander is a file on each partition that is none of tandem's business.
const bystander = "other/file"

// Erase takes a partition away and leaves an empty one, but for a file that
// must be left alone.
func (l *Lab) Erase(dir string) error {
	if err := l.Device.Erase(dir); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o755); err != nil {
		return err
	}
	if err := Replace(filepath.Join(dir, bystander), []byte(dir)); err != nil {
		return err
	}
	return syncDir(dir)
}

// outside says what is wrong with what lies beside tandem's folders (P6), those of each
// source among them.
func outside() string {
	for dir, ours := range map[string][]string{SystemDir: {"apprun"}, UsrDataDir: {"appbackup", "tandem", "plain", "deltas"}} {
		data, err := os.ReadFile(filepath.Join(dir, bystander))
		if err != nil || string(data) != dir {
			return fmt.Sprintf("%s/%s: %q, %v", dir, bystander, data, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err.Error()
		}
		known := map[string]bool{"other": true, "vendor": true, "lost+found": true}
		for _, name := range ours {
			known[name] = true
		}
		for _, e := range entries {
			if !known[e.Name()] {
				return fmt.Sprintf("%s/%s: nobody knows it", dir, e.Name())
			}
		}
	}
	return ""
}

// Edit changes the configuration as an application does: with care, or by
// writing over the file and leaving the rest to the kernel.
func (l *Lab) Edit(careful bool) (Tree, error) {
	l.counter++
	name := Live + "/apps/etc/app.conf"
	data := []byte(fmt.Sprintf("name=Tandem\nedit=%d\n", l.counter))
	if !careful {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return nil, err
		}
		return ReadSide(Live)
	}
	if err := Replace(name, data); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(Live+"/apps/data", 0o755); err != nil {
		return nil, err
	}
	if err := Replace(Live+"/apps/data/state.db", bytes.Repeat(data, 100)); err != nil {
		return nil, err
	}
	if err := syncDir(Live + "/apps"); err != nil {
		return nil, err
	}
	return ReadSide(Live)
}

// counted is a version with a patch number that has not been before.
func counted(version string, n int) string {
	part := strings.SplitN(version, ".", 3)
	return fmt.Sprintf("%s.%s.%d", part[0], part[1], n)
}

// ByHand makes a new version without tandem: files, sync, tag, sync.
func (l *Lab) ByHand(now Tree) (Tree, error) {
	l.counter++
	data := make([]byte, 6_000)
	for i := range data {
		data[i] = byte(l.Rand.Uint32())
	}
	if err := os.WriteFile(Live+"/apps/bin/app", data, 0o755); err != nil {
		return nil, err
	}
	unix.Sync()
	if err := os.WriteFile(Live+"/app_ver.txt", []byte(counted(now["tag"], l.counter)+"\n"), 0o644); err != nil {
		return nil, err
	}
	unix.Sync()
	return ReadSide(Live)
}

// Replace writes a file as one should: new file, fsync, rename, fsync of the
// directory.
func Replace(name string, data []byte) error {
	f, err := os.Create(name + "~")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(name+"~", name)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
