package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Output that nobody reads never ends work: each command does what it is there for,
// and its exit code tells, although whoever was to read what it says has gone.
func TestNobodyReads(t *testing.T) {
	t.Parallel()
	d := newDevice(t, sourceSection("file:"+bundleFile("repo")))
	unread := func(args ...string) {
		t.Helper()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		defer w.Close()
		cmd := d.command(t.Context(), args...)
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Run(); err != nil {
			t.Errorf("tandem %q: %v", args, err)
		}
	}
	unread("--verbose", "install", bundleFile("hello-1.0.0.tandem"))
	if err := os.RemoveAll(filepath.Join(d.dir, "usr_data")); err != nil {
		t.Fatal(err)
	}
	unread("--verbose", "boot")
	if o := d.must("status"); !matches(o.stdout, "the sides are in step") {
		t.Errorf("after boot: %s", o)
	}
	unread("--json", "update")
	if o := d.must("status"); !matches(o.stdout, `usr_data +intact +1\.1\.0`) {
		t.Errorf("after update: %s", o)
	}
	for _, args := range [][]string{{"status"}, {"history"}, {"verify", "--json"}, {"help"}, {"version"}} {
		unread(args...)
	}
}

// A hook is started with the signals as they usually are: a pipe's end ends what
// writes to it.
func TestHooksHaveUsualSignals(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "\n[hooks]\npre_install = [\"sh\", \"-c\", \"grep -E '^Sig(Ign|Blk)' /proc/self/status >signals\"]\n")
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	text, err := os.ReadFile(filepath.Join(d.dir, "signals"))
	if err != nil {
		t.Fatal(err)
	}
	_, mask, _ := strings.Cut(string(text), "SigIgn:\t")
	mask, _, _ = strings.Cut(mask, "\n")
	ignored, err := strconv.ParseUint(mask, 16, 64)
	if err != nil || ignored&(1<<(unix.SIGPIPE-1)) != 0 {
		t.Errorf("signals of a hook: %v\n%s", err, text)
	}
}

// A result that cannot be written, on a full disk, is told.
func TestFullOutput(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no /dev/full here")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	d := newDevice(t, "")
	r := &running{cmd: d.command(t.Context(), "version")}
	r.cmd.Stdout, r.cmd.Stderr = full, &r.stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if o := d.wait(r); o.exit != 1 || !matches(o.stderr, unix.ENOSPC.Error()) {
		t.Errorf("%s", o)
	}
}
