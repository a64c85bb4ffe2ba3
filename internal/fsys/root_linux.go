package fsys

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"tandem/internal/mounts"
)

// root is an open directory and the two ways below it: opening a name and
// describing an entry. Neither follows a symbolic link or enters another mount.
// Both are done by one system call where the kernel has it, else step by step.
type root struct {
	file    *os.File
	dev     uint64
	overlay bool
	flash   bool // a file system of raw flash
	openat2 bool // since Linux 5.6
	statx   bool // since Linux 4.11

	// Where statx does not tell mounts (before 5.8): the list of them, nil if
	// that cannot be had, and where the root lies in it.
	mountsListed bool
	table        *mounts.Table
	real         string
}

func openRoot(dir string) (*root, error) {
	fd := -1 // os.Open would ask the kernel five times whether it can be waited for
	err := retry(func() (err error) {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	r := &root{file: os.NewFile(uintptr(fd), dir)}
	if err := r.probe(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// ubifsMagic is what statfs says of UBIFS; x/sys does not name it.
const ubifsMagic = 0x24051905

// probe finds out what the kernel has. A sandbox may refuse a call with any
// error, so that each one means that it is not to be had.
func (r *root) probe() error {
	r.statx = true
	info, known, err := r.statFD(r.fd())
	if err != nil {
		r.statx = false
		info, known, err = r.statFD(r.fd())
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: r.file.Name(), Err: err}
	}
	r.dev = info.Dev
	if known&tellsMounts == 0 {
		r.listMounts()
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(r.fd(), &st); err != nil {
		return &os.PathError{Op: "statfs", Path: r.file.Name(), Err: err}
	}
	switch int64(st.Type) {
	case unix.OVERLAYFS_SUPER_MAGIC:
		r.overlay = true
	case ubifsMagic, unix.JFFS2_SUPER_MAGIC:
		r.flash = true
	}
	fd, err := unix.Openat2(r.fd(), ".", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: inside})
	if err == nil {
		r.openat2 = true
		unix.Close(fd)
	}
	return nil
}

// listMounts goes by the list of mounts from now on. Without it the device of an
// entry alone has to tell.
func (r *root) listMounts() {
	r.mountsListed = true
	var err error
	if r.real, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(r.fd())); err == nil {
		r.table, _ = mounts.OpenTable()
	}
}

func (r *root) fd() int { return int(r.file.Fd()) }

func (r *root) close() error {
	if r.table != nil {
		r.table.Close() // it was only read
	}
	return r.file.Close()
}

const inside = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

// open opens the existing entry name. A link gives ELOOP, a mount EXDEV.
func (r *root) open(name string, flags int) (int, error) {
	if r.openat2 && len(name) < unix.PathMax {
		return r.openIn(r.fd(), ".", name, flags)
	}
	at, in := r.fd(), "."
	for {
		elem, rest, deeper := strings.Cut(name, "/")
		f := flags
		if deeper {
			f = unix.O_PATH | unix.O_DIRECTORY
		}
		fd, err := r.openIn(at, in, elem, f)
		if at != r.fd() {
			unix.Close(at)
		}
		if err != nil || !deeper {
			return fd, err
		}
		at, in, name = fd, path.Join(in, elem), rest
	}
}

// openIn opens the entry base of the open directory dir, whose own name is in.
// base has more than one element only with openat2.
func (r *root) openIn(dir int, in, base string, flags int) (fd int, err error) {
	flags |= unix.O_CLOEXEC
	if r.openat2 {
		how := unix.OpenHow{Flags: uint64(flags), Resolve: inside}
		err = retry(func() error { fd, err = unix.Openat2(dir, base, &how); return err })
		return fd, err
	}
	err = retry(func() error { fd, err = unix.Openat(dir, base, flags|unix.O_NOFOLLOW, 0); return err })
	if err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			var st unix.Stat_t
			if e := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); e == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
				return -1, syscall.ELOOP
			}
		}
		return -1, err
	}
	info, told, err := r.statFD(fd)
	if err == nil {
		var mount bool
		if mount, err = r.isMount(&info, told, in, base); mount {
			err = syscall.EXDEV
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// retry repeats f as long as it is interrupted.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// elsewhere returns the error that open's callers see.
func elsewhere(err error) error {
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EXDEV) {
		return ErrElsewhere
	}
	return err
}
