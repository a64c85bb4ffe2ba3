package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// What a real tree may hold at the most: 100,000 small files, and a file of
// 1 GiB, in bounded memory. It takes minutes, so it is run when TANDEM_LONG is
// set; -v shows time and peak memory of each command.
func TestLargeTrees(t *testing.T) {
	if os.Getenv("TANDEM_LONG") == "" {
		t.Skip("set TANDEM_LONG=1 to run it")
	}
	t.Run("100,000 files", func(t *testing.T) {
		d := newDevice(t, "")
		for i := range 1000 {
			dir := filepath.Join(d.dir, fmt.Sprintf("system/apps/d%02d/d%d", i/10, i%10))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for k := range 100 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%02d", k)), fmt.Appendf(nil, "%d %d\n", i, k), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		large(t, d, 256<<20, "system/apps/d42/d7/file11")
	})
	t.Run("1 GiB, sparse", func(t *testing.T) {
		d := newDevice(t, "")
		largeFile(t, d, func(f *os.File) error {
			for _, at := range []int64{0, 400 << 20, 1<<30 - 5} {
				if _, err := f.WriteAt([]byte("bytes"), at); err != nil {
					return err
				}
			}
			return nil
		})
		large(t, d, 32<<20, "system/apps/file")
		for _, side := range []string{"system", "usr_data"} {
			var st syscall.Stat_t
			if err := syscall.Stat(filepath.Join(d.dir, side, "apps/file"), &st); err != nil {
				t.Fatal(err)
			}
			if st.Size != 1<<30 || st.Blocks*512 > 1<<20 {
				t.Errorf("%s: %d bytes long, %d on the disk: want 1 GiB with holes", side, st.Size, st.Blocks*512)
			}
		}
	})
	t.Run("1 GiB", func(t *testing.T) {
		d := newDevice(t, "")
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = byte(i*i>>7) | 1
		}
		largeFile(t, d, func(f *os.File) error {
			for range 1 << 10 {
				if _, err := f.Write(block); err != nil {
					return err
				}
			}
			return nil
		})
		large(t, d, 32<<20, "system/apps/file")
	})
}

func largeFile(t *testing.T, d *device, write func(*os.File) error) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(d.dir, "system/apps"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(d.dir, "system/apps/file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := write(f); err != nil {
		t.Fatal(err)
	}
}

// large runs a device with a large tree through backup, boot, repair and
// restore, each within that much memory. damage is one of its files.
func large(t *testing.T, d *device, memory int64, damage string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "system/app_ver.txt"), []byte("1.0.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	measure := func(what string, args ...string) {
		t.Helper()
		start := time.Now()
		r := d.start(t.Context(), args...)
		if o := d.wait(r); o.exit != 0 {
			t.Fatalf("%s: %s", what, o)
		}
		use := r.cmd.ProcessState.SysUsage().(*syscall.Rusage)
		t.Logf("%-22s %6.2f s, %6.2f s of CPU, %4d MiB", what, time.Since(start).Seconds(),
			(r.cmd.ProcessState.UserTime() + r.cmd.ProcessState.SystemTime()).Seconds(), use.Maxrss>>10)
		if use.Maxrss<<10 > memory {
			t.Errorf("%s: %d MiB of memory: want at most %d", what, use.Maxrss>>10, memory>>20)
		}
	}
	measure("first backup", "boot")
	measure("nothing to do", "boot")
	measure("full verification", "verify")
	if err := os.Remove(filepath.Join(d.dir, damage)); err != nil {
		t.Fatal(err)
	}
	measure("one file mended", "boot")
	if err := os.RemoveAll(filepath.Join(d.dir, "system")); err != nil {
		t.Fatal(err)
	}
	measure("restore", "boot")
	measure("new version, bumped", "bump", "patch")
	measure("verified again", "verify")
}
