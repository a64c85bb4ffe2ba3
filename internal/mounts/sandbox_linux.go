package mounts

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// OnlyHere reports whether dir, or the nearest directory above it that exists, is
// read-only for this process alone: the mount that it sees is, its file system is
// not. So a service's sandbox has what it does not let the service write
// (ProtectSystem=, ProtectHome= of systemd).
func OnlyHere(dir string) (bool, error) {
	dir, err := existing(dir)
	if err != nil {
		return false, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Flags&unix.ST_RDONLY == 0 {
		return false, err
	}
	at, err := Point(dir)
	if err != nil {
		return false, err
	}
	f, err := os.Open(table)
	if err != nil {
		return false, err
	}
	defer f.Close()
	ok, err := onlyHere(f, at)
	if err != nil {
		return false, fmt.Errorf("%s: %w", table, err)
	}
	return ok, nil
}

func onlyHere(r io.Reader, at string) (only bool, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		// ID, parent, device, root, mount point, its options, fields until "-",
		// type, source, options of the file system
		fields := strings.Fields(lines.Text())
		end := slices.Index(fields, "-")
		if end < 6 || len(fields) <= end+3 || unescape(fields[4]) != at {
			continue
		}
		only = has(fields[5], "ro") && has(fields[end+3], "rw") // of several the last is on top
	}
	return only, lines.Err()
}

func has(options, option string) bool {
	return slices.Contains(strings.Split(options, ","), option)
}
