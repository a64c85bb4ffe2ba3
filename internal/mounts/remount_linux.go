package mounts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Point returns the mount point of the file system that dir, or the nearest
// directory above it that exists, lies on.
func Point(dir string) (string, error) {
	dir, err := existing(dir)
	if err != nil {
		return "", err
	}
	for {
		ok, err := point(dir)
		if err != nil || ok {
			return dir, err
		}
		if dir == "/" {
			return "", fmt.Errorf("%s: %s does not list the root", dir, table)
		}
		dir = filepath.Dir(dir)
	}
}

// existing returns dir, or the nearest directory above it that exists, without links.
func existing(dir string) (string, error) {
	for {
		real, err := filepath.EvalSymlinks(dir)
		if !os.IsNotExist(err) || dir == "/" {
			return real, err
		}
		dir = filepath.Dir(dir)
	}
}

// keep are the flags of a mount that a remount would drop unless they are
// given again; statfs and mount use the same bits for them.
const keep = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_SYNCHRONOUS | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME

// Remount makes the file system at a mount point writable or read-only. Its
// other flags stay as they are.
func Remount(point string, readOnly bool) error {
	var st unix.Statfs_t
	if err := unix.Statfs(point, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", point, err)
	}
	flags := uintptr(st.Flags)&keep | unix.MS_REMOUNT
	how := "read-write"
	if readOnly {
		flags |= unix.MS_RDONLY
		how = "read-only"
	}
	if err := unix.Mount("", point, "", flags, ""); err != nil {
		return fmt.Errorf("remount %s %s: %w", point, how, err)
	}
	return nil
}

// Below reports whether path lies at or below dir.
func Below(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
