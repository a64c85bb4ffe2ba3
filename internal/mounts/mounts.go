// Package mounts tells what is mounted.
package mounts

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// table is where Linux lists the mounts that this process sees; its format is
// described in proc_pid_mountinfo(5).
const table = "/proc/self/mountinfo"

// Mounted says whether a file system is mounted at the directory dir. Symbolic
// links on the way to it are followed; a missing directory is not a mount point.
func Mounted(dir string) (bool, error) {
	real, err := filepath.EvalSymlinks(dir)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f, err := os.Open(table)
	if err != nil {
		return false, err
	}
	defer f.Close()
	ok, err := listed(f, real)
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
