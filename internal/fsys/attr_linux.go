package fsys

import (
	"bytes"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetAttr implements FS.
func (o *OS) SetAttr(name string, a Attr, was Info) error {
	return o.at("set attributes", name, func(dir *parent, base string) error {
		switch was.Type {
		case TypeSymlink:
			return o.setLinkAttr(dir, base, a, was)
		case TypeOther:
			return syscall.EINVAL
		}
		fd, err := o.openEntry(dir, base)
		if errors.Is(err, syscall.EACCES) {
			fd, err = o.openClosed(dir, base, was)
			was.Ctime = 0 // it was the same, and that has changed it
		}
		if err != nil {
			return replaced(err)
		}
		defer unix.Close(fd)
		now, err := o.same(fd, was)
		if err != nil {
			return err
		}
		return setAttr(fd, now, a)
	})
}

// same describes an open entry, which has to be the one that was looked at.
func (o *OS) same(fd int, was Info) (Info, error) {
	now, _, err := o.root.statFD(fd)
	if err == nil && !was.Same(now) {
		err = ErrReplaced
	}
	return now, err
}

// replaced returns the error of opening a file or directory that was there: what
// is a link or a socket now is not the same.
func replaced(err error) error {
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) {
		return ErrReplaced
	}
	return elsewhere(err)
}

// openClosed opens an entry that may not be read as it is, by letting its owner
// read it first.
func (o *OS) openClosed(dir *parent, base string, was Info) (int, error) {
	fd, err := o.root.openIn(dir.fd, dir.name, base, unix.O_PATH)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	now, err := o.same(fd, was)
	if err != nil {
		return -1, err
	}
	link := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := unix.Chmod(link, now.Mode|0o400); err != nil {
		return -1, err
	}
	return unix.Open(link, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// setLinkAttr gives a symbolic link its owner and time.
func (o *OS) setLinkAttr(dir *parent, base string, a Attr, was Info) error {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(dir.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	now, err := o.same(fd, was)
	if err != nil {
		return err
	}
	if now.UID != a.UID || now.GID != a.GID {
		if err := unix.Fchownat(fd, "", int(a.UID), int(a.GID), unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if now.Mtime == a.Mtime {
		return nil
	}
	times := mtime(a)
	err = unix.UtimesNanoAt(fd, "", times[:], unix.AT_EMPTY_PATH)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) { // before Linux 5.8
		err = unix.UtimesNanoAt(dir.fd, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}

func mtime(a Attr) [2]unix.Timespec {
	return [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(a.Mtime)}
}

// setAttr gives an open file or directory, which is as now, the attributes. The
// mode comes after the owner, because chown clears setuid and setgid.
func setAttr(fd int, now Info, a Attr) error {
	if now.UID != a.UID || now.GID != a.GID {
		if err := unix.Fchown(fd, int(a.UID), int(a.GID)); err != nil {
			return err
		}
		// Which of setuid and setgid chown clears depends on the entry.
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		now.Mode = uint32(st.Mode) & 0o7777
	}
	if a.Xattrs != nil {
		err := setXattrs(fd, a.Xattrs)
		if errors.Is(err, fs.ErrPermission) && now.Mode != a.Mode { // the mode it has is in the way
			if err = unix.Fchmod(fd, a.Mode); err == nil {
				now.Mode = a.Mode
				err = setXattrs(fd, a.Xattrs)
			}
		}
		if err != nil {
			return err
		}
	}
	if now.Mode != a.Mode {
		if err := unix.Fchmod(fd, a.Mode); err != nil {
			return err
		}
	}
	if now.Mtime == a.Mtime {
		return nil
	}
	// utimensat without a name acts on the descriptor; x/sys has no way to say so.
	times := mtime(a)
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times[0])), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Xattrs implements FS.
func (o *OS) Xattrs(name string) (attrs map[string][]byte, err error) {
	err = o.at("read attributes", name, func(dir *parent, base string) error {
		fd, err := o.openEntry(dir, base)
		if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) || errors.Is(err, errNotRegular) {
			return nil // a symbolic link or a device has none that we could carry
		}
		if err != nil {
			return elsewhere(err)
		}
		defer unix.Close(fd)
		attrs, err = fxattrs(fd)
		return err
	})
	return attrs, err
}

func fxattrs(fd int) (map[string][]byte, error) {
	list, err := xattrValue(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if errors.Is(err, syscall.ENOTSUP) || err == nil && len(list) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var attrs map[string][]byte
	for n := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if !keepXattr(n) {
			continue
		}
		v, err := xattrValue(func(buf []byte) (int, error) { return unix.Fgetxattr(fd, n, buf) })
		if errors.Is(err, syscall.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if attrs == nil {
			attrs = make(map[string][]byte)
		}
		attrs[n] = v
	}
	return attrs, nil
}

// keepXattr leaves out what the kernel makes for one inode, what a security
// policy gives a new file by itself, and what only the system's own tools see
// (CAP_SYS_ADMIN): a service without that must find the same as tandem boot.
func keepXattr(name string) bool {
	return !strings.HasPrefix(name, "trusted.") && name != "security.selinux" && name != "security.evm" && name != "security.ima"
}

// xattrValue asks for the size first: most files have none and cost one call.
func xattrValue(get func(buf []byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		buf := make([]byte, n)
		n, err = get(buf)
		if errors.Is(err, syscall.ERANGE) {
			continue // it grew in between
		}
		return buf[:max(n, 0)], err
	}
}

func setXattrs(fd int, want map[string][]byte) error {
	have, err := fxattrs(fd)
	if err != nil {
		return err
	}
	for n, v := range want {
		if old, ok := have[n]; ok && bytes.Equal(old, v) {
			continue
		}
		if err := unix.Fsetxattr(fd, n, v, 0); err != nil {
			return err
		}
	}
	for n := range have {
		if _, ok := want[n]; !ok {
			if err := unix.Fremovexattr(fd, n); err != nil {
				return err
			}
		}
	}
	return nil
}
