package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tandem/backup"
	"tandem/internal/config"
)

// sides looks at both sides: what is on them, and whether there is room.
func (x *examination) sides(ctx context.Context) {
	status, err := x.Device.Status(ctx)
	if err != nil {
		x.wrong("sides", err.Error(), "no update is installed, and nothing is backed up", x.Explain(err).Hint)
		return
	}
	usable := 0
	for _, name := range []backup.SideName{backup.System, backup.UsrData} {
		c, other := x.Config.System, status.Sides[backup.UsrData].State
		if name == backup.UsrData {
			c, other = x.Config.UsrData, status.Sides[backup.System].State
		}
		about, side := string(name), status.Sides[name]
		switch side.State {
		case backup.Unavailable:
			x.wrong(about, side.Detail, "no update is installed, and nothing is backed up",
				fmt.Sprintf("mount the partition, or correct path and mount of [%s]", about))
			continue
		case backup.Absent:
			switch other {
			case backup.Absent: // told once, below
			case backup.Unavailable:
				x.wrong(about, "nothing is there", "the other side may have the application", "see first to that one")
			default:
				x.wrong(about, "nothing is there", "only the other side has the application", "tandem boot")
			}
		case backup.Intact:
			usable++
			x.fine(about, "%s is intact", side.Version)
		default:
			x.wrong(about, fmt.Sprintf("it is %s: %s", side.State, side.Detail), "the application may not work, or is not backed up",
				"tandem verify tells what it is, tandem verify --repair repairs it")
		}
		x.room(about, c)
	}
	switch {
	case status.Sides[backup.System].State == backup.Absent && status.Sides[backup.UsrData].State == backup.Absent:
		x.wrong("application", "there is none on either side", "nothing runs", "install a bundle with: tandem install FILE")
	case usable == 2 && !status.InStep:
		x.wrong("sides", "they are not in step", "what one side has alone is lost with it", "tandem backup")
	case usable == 2:
		x.fine("sides", "they are in step")
	}
	if p := status.Pending; p != nil {
		x.note("application", fmt.Sprintf("%s is not confirmed yet", p.Version), "tandem confirm, or it is rolled back after some starts")
	}
	var a, b unix.Stat_t
	if unix.Stat(x.Config.System.Path, &a) == nil && unix.Stat(x.Config.UsrData.Path, &b) == nil && a.Dev == b.Dev {
		x.wrong("sides", "both are on one file system", "the copy does not survive its loss", "give usr_data a partition of its own")
	}
}

// room looks whether a second version fits on the file system of a side.
func (x *examination) room(about string, side config.Side) {
	var st unix.Statfs_t
	if err := unix.Statfs(side.Path, &st); err != nil {
		return // it is not there yet
	}
	if st.Flags&unix.ST_RDONLY != 0 && !side.Remount {
		x.wrong(about, "it is mounted read-only", "nothing is installed or repaired there",
			fmt.Sprintf("mount it read-write, or set remount = true in [%s]", about))
	}
	size, entries := occupied(filepath.Join(side.Path, "apps"))
	if free := int64(st.Bavail) * int64(st.Bsize); free < size {
		x.wrong(about, fmt.Sprintf("%d bytes are free, the application has %d", free, size),
			"a version that differs in much does not fit beside it: it is written over what runs, or refused", "make room there")
	}
	if st.Files > 0 && int64(st.Ffree) < entries {
		x.wrong(about, fmt.Sprintf("room for %d more files, the application has %d", st.Ffree, entries),
			"a version that differs in much is refused", "make the file system with more inodes, or remove files there")
	}
}

// occupied counts the bytes and entries of a tree, as far as it can be read.
func occupied(dir string) (size, entries int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
				return fs.SkipDir
			}
			return err
		}
		entries++
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	return size, entries
}
