package mounts

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRemount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_RDONLY, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	point, err := Point(filepath.Join(dir, "not", "there"))
	if err != nil || point != dir {
		t.Fatalf("Point = %q, %v, want %q", point, err, dir)
	}
	for _, readOnly := range []bool{false, true} {
		if err := Remount(point, readOnly); err != nil {
			t.Fatal(err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if got := st.Flags&unix.MS_RDONLY != 0; got != readOnly {
			t.Errorf("read-only is %v, want %v", got, readOnly)
		}
		if st.Flags&unix.MS_NOSUID == 0 {
			t.Error("nosuid was lost")
		}
	}
}
