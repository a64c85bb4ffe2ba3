package mounts

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The list follows what is mounted and unmounted.
func TestTable(t *testing.T) {
	table, err := OpenTable()
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	want := func(path string, mounted bool) {
		t.Helper()
		if got, err := table.Has(path); err != nil || got != mounted {
			t.Errorf("%s is mounted: %t, %v, want %t", path, got, err, mounted)
		}
	}
	want("/proc", true)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	point := filepath.Join(dir, "a point")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	want(point, false)
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
	for range 200 {
		if err := unix.Mount(dir, point, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		want(point, true)
		want(dir, false)
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		want(point, false)
	}
}
