// Package mounts tells what is mounted.
package mounts

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// table is where Linux lists the mounts that this process sees; its format is
// described in proc_pid_mountinfo(5).
const table = "/proc/self/mountinfo"

// Mounted reports whether a file system of its own is mounted at the directory
// dir: something is mounted there, and it is another file system than that of
// the directory above it and that of the root directory. Symbolic links on the
// way to dir are followed; a missing directory is not a mount point.
//
// A bind mount of the same file system is none: it is what systemd makes of each
// path of ReadWritePaths=, whether the partition that belongs there came or not.
// A bind mount of another file system is one: so a partition comes into a container.
func Mounted(dir string) (bool, error) {
	real, err := filepath.EvalSymlinks(dir)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return false, err
	}
	ok, err := point(real)
	if err != nil || !ok || real == "/" {
		return ok, err
	}
	own, err := device(real)
	if err != nil {
		return false, err
	}
	for _, other := range []string{filepath.Dir(real), "/"} {
		dev, err := device(other)
		if err != nil || dev == own {
			return false, err
		}
	}
	return true, nil
}

// device returns the number of the file system that a file is on. It tells the
// subvolumes of btrfs apart, other than the table of mounts.
func device(name string) (uint64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("stat %s: %w", name, errors.ErrUnsupported)
	}
	return uint64(st.Dev), nil // it has fewer bits on some computers
}

// point reports whether anything is mounted at a directory, named without links. Since
// Linux 5.8 the kernel tells that of the directory; else, or where a sandbox does not let
// it be asked, the list of mounts does, which takes the longer the more mounts there are.
func point(dir string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_NO_AUTOMOUNT, 0, &st)
	if err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	return inTable(dir)
}

func inTable(dir string) (bool, error) {
	f, err := os.Open(table)
	if err != nil {
		return false, err
	}
	defer f.Close()
	ok, err := listed(f, dir)
	if err != nil {
		return false, fmt.Errorf("%s: %w", table, err)
	}
	return ok, nil
}

func listed(r io.Reader, dir string) (bool, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && unescape(fields[4]) == dir {
			return true, nil
		}
	}
	return false, lines.Err()
}

// unescape undoes the kernel's octal escapes: \040 is a space.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
