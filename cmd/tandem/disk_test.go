package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk that is full at any write: whatever room there is, an installation
// succeeds or is refused for want of room, at least one side is whole
// throughout, and with room the device is in step again.
func TestFullDiskAtAnyWrite(t *testing.T) {
	t.Parallel()
	if !canMount(t) {
		t.Skip("file systems may not be mounted here")
	}
	for _, full := range []string{"system", "usr_data"} {
		t.Run(full, func(t *testing.T) {
			t.Parallel()
			refused, done := 0, 0
			for pages := int64(0); pages < 32; pages++ {
				d := newDevice(t, "")
				dir := filepath.Join(d.dir, full)
				end := mountSmall(t, dir)
				d.must("install", bundleFile("hello-1.0.0.tandem"))
				if err := fill(dir, pages*4096); err != nil {
					t.Fatal(err)
				}
				before := d.sides()
				what := fmt.Sprintf("%s with %d pages free", full, pages)
				o := d.run("install", bundleFile("hello-1.1.0.tandem"))
				switch {
				case o.exit == 0:
					done++
				case o.exit != 40 || !strings.Contains(o.stderr, dir+": not enough space: needs"):
					t.Errorf("%s: %s\nwant exit 40 and a message that says how much room is needed where", what, o)
				case full == "system":
					refused++
					if diff := before.differences(d.sides(), unchanged); len(diff) > 0 {
						t.Errorf("%s: the sides changed: %q", what, diff)
					}
				default:
					refused++
					if !strings.Contains(o.stderr, "1.1.0 is installed on system, but not backed up") {
						t.Errorf("%s: %s", what, o)
					}
					if v := d.run("verify"); !strings.Contains(v.stdout, "usr_data  intact      1.0.0") {
						t.Errorf("%s: usr_data is not as it was: %s", what, v)
					}
				}
				if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
					t.Fatal(err)
				}
				d.must("boot")
				d.must("verify")
				d.must("install", "--allow-downgrade", bundleFile("hello-1.1.0.tandem"))
				end()
				if done == 3 {
					break
				}
			}
			if refused == 0 || done == 0 {
				t.Errorf("%s: %d installations were refused and %d done: want some of each", full, refused, done)
			}
		})
	}
}

// mountSmall mounts a file system that can hold an application or two.
func mountSmall(t *testing.T, dir string) (end func()) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	mounted := true
	end = func() {
		if mounted {
			mounted = false
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	t.Cleanup(end)
	return end
}
