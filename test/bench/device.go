package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// device is a file system for one side.
type device struct {
	dir  string
	stat string // the block device's counters; "" for a plain directory
}

// loopDevice makes an ext4 file system in a file beside dir and mounts it there.
// The inodes hold times in nanoseconds and are all made at once, so that
// nothing but the runs writes later; access times are off, as on UBIFS. inodes is how
// many it has at least, 0 for as many as usual.
func loopDevice(ctx context.Context, dir string, size int64, inodes int) (*device, error) {
	image := dir + ".img"
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	mkfs := []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256", "-E", "lazy_itable_init=0,lazy_journal_init=0"}
	if inodes > 0 {
		mkfs = append(mkfs, "-N", strconv.Itoa(inodes))
	}
	for _, argv := range [][]string{
		append(mkfs, image),
		{"mount", "-o", "loop,noatime", image, dir},
	} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			_ = exec.Command("umount", dir).Run() // a mount that was interrupted may be in place
			line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
			return nil, fmt.Errorf("%s: %w: %s", argv[0], err, line)
		}
	}
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	if err != nil {
		err = fmt.Errorf("%s: %w", dir, err)
	}
	return &device{dir, fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev))}, err
}

// close unmounts the device. A command that was just killed may hold it for a
// moment longer.
func (d *device) close() error {
	if d.stat == "" {
		return nil
	}
	var out []byte
	var err error
	for range 50 {
		if out, err = exec.Command("umount", d.dir).CombinedOutput(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("umount %s: %w: %s", d.dir, err, strings.TrimSpace(string(out)))
}

// sync makes everything on the file system durable and gives the bytes that
// were ever written to its device, 0 where that is not known.
func (d *device) sync() (int64, error) {
	f, err := os.Open(d.dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return 0, fmt.Errorf("sync %s: %w", d.dir, err)
	}
	if d.stat == "" {
		return 0, nil
	}
	return written(d.stat)
}

// written reads a block device's counter of bytes.
func written(stat string) (int64, error) {
	data, err := os.ReadFile(stat)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) < 7 {
		return 0, fmt.Errorf("%s: expected the counters of a block device", stat)
	}
	sectors, err := strconv.ParseInt(fields[6], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", stat, err)
	}
	return sectors * 512, nil
}

// devices makes the file systems of both sides. Where that cannot be, plain
// directories take their place, and the reason is given.
func devices(ctx context.Context, tmp string, size int64, inodes int) (devs []*device, why string, err error) {
	names := []string{filepath.Join(tmp, "system"), filepath.Join(tmp, "usr_data")}
	for _, dir := range names {
		d, err := loopDevice(ctx, dir, size, inodes)
		if err != nil {
			why = err.Error()
			break
		}
		devs = append(devs, d)
	}
	if why == "" || ctx.Err() != nil {
		return devs, "", ctx.Err()
	}
	for _, d := range devs {
		if err := d.close(); err != nil {
			return nil, "", err
		}
	}
	devs = nil
	for _, dir := range names {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, "", err
		}
		devs = append(devs, &device{dir: dir})
	}
	return devs, why, nil
}

// sample is what one run cost.
type sample struct {
	wall, cpu time.Duration
	peak      int64 // bytes of memory, of the largest of its processes
	peakLess  bool  // peak is only a bound: see resetPeak
	written   int64 // bytes
}

// measure runs p, and syncs before and after.
func (l *lab) measure(ctx context.Context, p *program) (sample, error) {
	var s sample
	before, err := l.written()
	if err != nil {
		return s, err
	}
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	cmd.Stderr = &stderr
	if p.clock {
		cmd.Stdout = &stdout
	}
	// The whole group ends with it, so that nothing keeps a file system busy.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if p.stdin != "" {
		f, err := os.Open(p.stdin)
		if err != nil {
			return s, err
		}
		defer f.Close()
		cmd.Stdin = f
	}
	debug.FreeOSMemory()
	resetPeak()
	start := time.Now()
	err = cmd.Run()
	s.wall = time.Since(start)
	if ctx.Err() != nil {
		return s, ctx.Err()
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w: %s", p.name, err, strings.TrimSpace(stderr.String()))
	}
	if p.clock {
		if s.wall, err = clock(stdout.String()); err != nil {
			return s, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	after, err := l.written()
	if err != nil {
		return s, err
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return s, fmt.Errorf("%s: no resource usage", p.name)
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	s.peak = int64(usage.Maxrss) << 10
	s.peakLess = s.peak <= ownPeak()+256<<10
	s.written = after - before
	if !l.counted {
		s.written = int64(usage.Oublock) * 512
	}
	return s, nil
}

// clock reads how long a program worked from what it printed.
func clock(printed string) (time.Duration, error) {
	var begin, end int64
	if _, err := fmt.Sscan(printed, &begin, &end); err != nil {
		return 0, fmt.Errorf("printed %q, expected two times: %w", printed, err)
	}
	return time.Duration(end - begin), nil
}

func (l *lab) written() (int64, error) {
	var sum int64
	if l.slot != nil {
		var err error
		if sum, err = written(l.slot.stat); err != nil {
			return 0, err
		}
	}
	for _, d := range l.devices {
		n, err := d.sync()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// resetPeak makes the kernel forget our own peak. It counts a child's from the
// moment before exec, when the child still has our memory: ours is the least
// that can be measured, so it should be small.
func resetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

func ownPeak() int64 {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
