// Package boot tells one run of the machine from others.
package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ID returns what tells this run of the machine from others; "" where the kernel
// does not say.
func ID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// Started returns when the machine was started, by the clock that now was read
// from, in nanoseconds since 1970-01-01 UTC. A clock that was set since moves it.
func Started(now time.Time) int64 {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return now.UnixNano()
	}
	return now.UnixNano() - up.Nano()
}

// Note is a file that holds a few bytes for as long as the machine runs, best in
// a file system that is lost with the power. What it holds must say itself of
// which run it is.
type Note string

// Load returns what was stored; nothing where there is no such file, or it is
// somebody else's.
func (n Note) Load() []byte {
	f, err := os.OpenFile(string(n), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return nil
	}
	b := make([]byte, 1024)
	k, err := f.Read(b)
	if err != nil {
		return nil
	}
	return b[:k]
}

// Store replaces what the file holds. It is not made durable.
func (n Note) Store(data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(string(n)), filepath.Base(string(n))+"-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), string(n))
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error is the one to report
	}
	return err
}
