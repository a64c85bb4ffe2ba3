package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	dev "tandem/agent/device"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// edited waits until an edit is on the other side, and says how long it took.
func (d *device) edited(name, text string) time.Duration {
	d.t.Helper()
	d.check(os.WriteFile(filepath.Join(d.dir, "system/apps", name), []byte(text), 0o644))
	began := time.Now()
	eventually(d.t, soon, "the edit is backed up", func() error {
		if got := d.read(filepath.Join("usr_data/apps", name)); got != text {
			return fmt.Errorf("usr_data has %q", got)
		}
		return nil
	})
	return time.Since(began)
}

func TestEditIsBackedUp(t *testing.T) {
	t.Parallel()
	w := newWeb(t, shared())
	d := installed(t, options{source: w.url, agent: pollOften, hooks: true})
	w.be(stall) // a download is under way all the time
	d.start()
	eventually(t, soon, "a download", func() error {
		if len(w.requests(bundles)) == 0 {
			return errors.New("none is under way")
		}
		return nil
	})
	for i, name := range []string{"etc/hello.conf", "etc/hello.conf", "etc/made/deep/here.conf"} {
		d.check(os.MkdirAll(filepath.Dir(d.path("system/apps/"+name)), 0o755))
		took := d.edited(name, fmt.Sprintf("edit = %d\n", i))
		t.Logf("%s is backed up %s after the edit", name, took.Round(10*time.Millisecond))
		if took > promise {
			t.Errorf("%s is backed up after %s, the promise is %s", name, took, promise)
		}
	}
	// One that is made while the agent does not run is found when it starts.
	d.end()
	d.write("system/apps/etc/other.conf", "other = 2\n")
	d.start()
	eventually(t, soon, "the edit is backed up", func() error {
		if d.read("usr_data/apps/etc/other.conf") != "other = 2\n" {
			return errors.New("it is not")
		}
		return nil
	})
}

// An application that writes its configuration in place has emptied it for a
// while. That is an edit while the device runs: it is backed up like any other,
// and what the capture before had goes aside.
func TestEmptiedWhileWritten(t *testing.T) {
	t.Parallel()
	d := installed(t, options{hooks: true})
	const name = "apps/etc/hello.conf"
	captured := d.read("system/" + name)
	d.start()
	holds := func(what, want string) {
		t.Helper()
		eventually(t, soon, what, func() error {
			if a, b := d.read("system/"+name), d.read("usr_data/"+name); a != want || b != want {
				return fmt.Errorf("system has %q, usr_data %q", a, b)
			}
			return nil
		})
	}
	f, err := os.Create(d.path("system/" + name))
	d.check(err)
	holds("it is backed up as it is", "")
	eventually(t, soon, "the capture before lies aside", func() error {
		aside, _ := filepath.Glob(d.path("usr_data/.tandem/aside/*/etc/hello.conf"))
		if len(aside) != 1 {
			return fmt.Errorf("there are %q, want one", aside)
		}
		if got, err := os.ReadFile(aside[0]); err != nil || string(got) != captured {
			return fmt.Errorf("it holds %q, %v, want %q", got, err, captured)
		}
		return nil
	})
	_, err = f.WriteString("slowly = written\n")
	d.check(errors.Join(err, f.Close()))
	holds("what was written is backed up", "slowly = written\n")
}

func TestStartRestores(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"system", "usr_data"} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()
			d := installed(t, options{hooks: true})
			d.remove(side)
			d.start()
			eventually(t, soon, "both sides are there", func() error { return d.runs("1.0.0") })
			want := map[string]string{"system": "restore", "usr_data": "back up"}[side]
			eventually(t, soon, "it is remembered", func() error {
				h := d.history()
				if last := h[len(h)-1]; last.Action != want || last.Command != "agent" || last.Version.String() != "1.0.0" {
					return fmt.Errorf("the last event is %+v, want %q", last, want)
				}
				return nil
			})
		})
	}
}

// Damage that nothing but reading finds is found, and mended, on either side.
func TestScrub(t *testing.T) {
	t.Parallel()
	d := installed(t, options{agent: "scrub = \"1s\"\n", hooks: true})
	d.start()
	for _, side := range []string{"system", "usr_data"} {
		name := d.path(side + "/apps/share/same")
		info, err := os.Stat(name)
		d.check(err)
		data, err := os.ReadFile(name)
		d.check(err)
		good := slices.Clone(data)
		data[1000] ^= 1
		f, err := os.OpenFile(name, os.O_WRONLY, 0) // the inode stays, as with a bad block
		d.check(err)
		_, err = f.Write(data)
		d.check(errors.Join(err, f.Close(), os.Chtimes(name, info.ModTime(), info.ModTime())))
		eventually(t, soon, side+" is mended", func() error {
			now, err := os.ReadFile(name)
			if err == nil && !slices.Equal(now, good) {
				err = errors.New("it is damaged")
			}
			return err
		})
		eventually(t, soon, "the repair is told", func() error {
			h := d.history()
			for _, e := range h {
				for _, p := range e.Repaired {
					if string(p.Side) == side && p.Path == "share/same" {
						return nil
					}
				}
			}
			return fmt.Errorf("history: %+v", h)
		})
	}
	eventually(t, soon, "in step", func() error { return d.runs("1.0.0") })
}

// A full disk is told once, costs no data, and is tried again once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounts a file system")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("file systems cannot be mounted here: ", err)
	}
	w := newWeb(t, shared())
	collector := newCollector(t, nil)
	d := newDevice(t, options{source: w.url, report: collector.url, agent: pollOften, hooks: true, usrData: disk})
	t.Cleanup(func() {
		if d.agent != nil {
			d.kill()
		}
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d.must("install", bundle("1.0.0"))
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast, 300<<10)
	d.start()
	refused := func() (n int) {
		for _, e := range d.history() {
			if e.Error != "" {
				n++
			}
		}
		return n
	}
	eventually(t, soon, "the full disk is told", func() error {
		if refused() == 0 {
			return errors.New("it is not")
		}
		return nil
	})
	d.polled()
	d.polled()
	d.end()
	d.start()
	d.polled()
	d.polled()
	d.until(soon, "the reason", func(s *dev.Status) error {
		if !strings.Contains(s.Agent.Barred, "1.1.0: ") {
			return fmt.Errorf("%q", s.Agent.Barred)
		}
		return nil
	})
	if n := refused(); n != 1 {
		t.Errorf("it was told %d times", n)
	}
	if n := w.downloads(); n > 1 {
		t.Errorf("the bundle was asked for %d times", n)
	}
	d.check(os.Remove(ballast))
	d.comesToRun("1.1.0")
	eventually(t, atLast, "all is reported", func() error {
		events, wrong := collector.get()
		if len(wrong) > 0 || len(events) < len(d.history()) {
			return fmt.Errorf("%d events, %q", len(events), wrong)
		}
		return nil
	})
}

// fill leaves so many bytes free on the file system of a file.
func fill(t *testing.T, name string, free int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-free); err != nil {
		t.Fatal(err)
	}
}
