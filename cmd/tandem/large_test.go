package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What tandem may take at the most, in bytes: so much for the program itself,
// and so much more for each file.
const (
	memoryAtRest  = 18 << 20
	memoryPerFile = 1200
)

// Very many small files take little memory each. -v shows time and peak memory
// of each command.
func TestManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 20,000 files to two sides")
	}
	files := many(t, 20_000)
	files.measure("first backup", "boot")
	files.measure("nothing to do", "boot")
	files.measure("new version, bumped", "bump", "patch")
}

// What a real tree may hold at the most: 100,000 small files, and a file of
// 1 GiB, in bounded memory. It takes minutes, so it is run when TANDEM_LONG is
// set; the short form has a file with holes alone.
func TestLongLargeTrees(t *testing.T) {
	if os.Getenv("TANDEM_LONG") == "" {
		t.Skip("set TANDEM_LONG=1 to run it")
	}
	short := os.Getenv("TANDEM_LONG") == "short"
	t.Run("100,000 files", func(t *testing.T) {
		if short {
			t.Skip("TestManyFiles has 20,000")
		}
		many(t, 100_000).all("system/apps/d02/d7/file11")
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
		l := large{d, memoryAtRest}
		l.tag()
		l.all("system/apps/file")
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
		if short {
			t.Skip("writes it to two sides, and hashes it seven times")
		}
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
		l := large{d, memoryAtRest}
		l.tag()
		l.all("system/apps/file")
	})
}

// large is a device with a large tree, each of whose commands has to do with
// so much memory, in bytes.
type large struct {
	*unit
	memory int64
}

// many makes a device with that many files, a hundred to a directory.
func many(t *testing.T, files int) large {
	d := newDevice(t, "")
	for i := range files / 100 {
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
	l := large{d, memoryAtRest + int64(files)*memoryPerFile}
	l.tag()
	return l
}

func largeFile(t *testing.T, d *unit, write func(*os.File) error) {
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

func (l large) tag() {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, "system/app_ver.txt"), []byte("1.0.0\n"), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

func (l large) measure(what string, args ...string) {
	l.t.Helper()
	start := time.Now()
	r := l.start(l.t.Context(), args...)
	peak := watchMemory(r.cmd.Process.Pid)
	if o := l.wait(r); o.exit != 0 {
		l.t.Fatalf("%s: %s", what, o)
	}
	memory := <-peak
	l.t.Logf("%-22s %6.2f s, %6.2f s of CPU, %4d MiB", what, time.Since(start).Seconds(),
		(r.cmd.ProcessState.UserTime() + r.cmd.ProcessState.SystemTime()).Seconds(), memory>>20)
	if memory > l.memory {
		l.t.Errorf("%s: %d KiB of memory: want at most %d", what, memory>>10, l.memory>>10)
	}
}

// watchMemory looks at the most memory that a process has had, in bytes, until it
// ends, and sends what it saw last. What wait tells would count that of the program
// which started it, too.
func watchMemory(pid int) <-chan int64 {
	peak := make(chan int64, 1)
	go func() {
		var most int64
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ; ; <-tick.C {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			_, line, found := strings.Cut(string(text), "VmHWM:")
			if err != nil || !found { // it has ended
				peak <- most << 10
				return
			}
			if _, err := fmt.Sscan(line, &most); err != nil {
				most = math.MaxInt64 >> 10
			}
		}
	}()
	return peak
}

// all runs the device through backup, boot, repair and restore. damage is one
// of its files.
func (l large) all(damage string) {
	l.t.Helper()
	l.measure("first backup", "boot")
	l.measure("nothing to do", "boot")
	l.measure("full verification", "verify")
	if err := os.Remove(filepath.Join(l.dir, damage)); err != nil {
		l.t.Fatal(err)
	}
	l.measure("one file mended", "boot")
	if err := os.RemoveAll(filepath.Join(l.dir, "system")); err != nil {
		l.t.Fatal(err)
	}
	l.measure("restore", "boot")
	l.measure("new version, bumped", "bump", "patch")
	l.measure("verified again", "verify")
}
