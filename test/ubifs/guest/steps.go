//go:build linux

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tandem/test/internal/guest"
)

// steps sees the changes to the directories of both sides, those of tandem's
// own and those that hold them: there its steps begin and end.
type steps struct {
	flash *flash
	file  *os.File
	dirs  map[int32]string
}

var stepDirs = []string{
	guest.SystemDir, guest.Live, guest.Live + "/.tandem", vendorLive,
	guest.UsrDataDir, guest.Backup, guest.Backup + "/.tandem", vendorBackup,
}

const changes = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO

func watchSteps(f *flash) (*steps, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	s := &steps{f, os.NewFile(uintptr(fd), "inotify"), map[int32]string{}}
	for _, dir := range stepDirs {
		s.add(dir)
	}
	return s, nil
}

// add watches a directory; one that is not there yet comes later.
func (s *steps) add(dir string) {
	conn, err := s.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		if wd, err := unix.InotifyAddWatch(int(fd), dir, changes); err == nil {
			s.dirs[int32(wd)] = dir
		}
	})
}

// pullAt lets the power fail a while after the n-th change. It ends when that
// is done or when s is closed.
func (s *steps) pullAt(n int, after time.Duration, pulled chan<- struct{}) {
	buf := make([]byte, 4096)
	for {
		size, err := s.file.Read(buf)
		if err != nil {
			return
		}
		for rest := buf[:size]; len(rest) >= unix.SizeofInotifyEvent; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
			end := unix.SizeofInotifyEvent + int(e.Len)
			name := strings.TrimRight(string(rest[unix.SizeofInotifyEvent:end]), "\x00")
			rest = rest[end:]
			if e.Mask&changes == 0 {
				continue
			}
			if n--; n == 0 {
				time.Sleep(after)
				s.flash.Pull()
				close(pulled)
				return
			}
			if dir := filepath.Join(s.dirs[e.Wd], name); e.Mask&unix.IN_ISDIR != 0 {
				if slices.Contains(stepDirs, dir) {
					s.add(dir)
				}
			}
		}
	}
}
