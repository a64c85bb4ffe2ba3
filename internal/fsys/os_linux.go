package fsys

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// OS is the FS of a directory of the running system. It may be used by several
// goroutines at once.
type OS struct {
	dir         string
	root        *os.Root
	parents     parents
	syncReports bool
}

// OpenOS opens the directory dir, which must exist.
func OpenOS(dir string) (*OS, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		root.Close()
		return nil, os.NewSyscallError("uname", err)
	}
	return &OS{dir: dir, root: root, syncReports: kernelAtLeast(unix.ByteSliceToString(u.Release[:]), 5, 8)}, nil
}

// kernelAtLeast reads a release such as "3.18.20" or "6.1.0-13-armmp".
func kernelAtLeast(release string, major, minor int) bool {
	fields := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
	if len(fields) < 2 {
		return false
	}
	a, errA := strconv.Atoi(fields[0])
	b, errB := strconv.Atoi(fields[1])
	return errA == nil && errB == nil && (a > major || a == major && b >= minor)
}

// Close lets go of the directory.
func (o *OS) Close() error {
	o.parents.forget()
	return o.root.Close()
}

// Path implements FS.
func (o *OS) Path(name string) string { return filepath.Join(o.dir, name) }

// at calls f with the directory that holds name, opened without ever leaving
// the root, and the last element of name. It adds what failed and where.
func (o *OS) at(op, name string, f func(dir int, base string) error) error {
	d, err := o.parent(op, name)
	if err != nil {
		return err
	}
	defer d.release()
	return o.wrap(op, name, f(d.fd, path.Base(name)))
}

// parent opens the directory that holds name. A name that climbs is refused
// here, because its last element is used as it is.
func (o *OS) parent(op, name string) (*parent, error) {
	if path.Base(name) == ".." || path.IsAbs(name) {
		return nil, o.wrap(op, name, syscall.EINVAL)
	}
	d, err := o.parents.get(path.Dir(name), func(dir string) (*os.File, error) {
		return o.root.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	})
	if err != nil {
		return nil, o.wrap(op, name, err)
	}
	return d, nil
}

// openDir opens a directory, not a symbolic link to one.
func (o *OS) openDir(op, name string) (d *os.File, err error) {
	err = o.at(op, name, func(dir int, base string) error {
		fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			d = os.NewFile(uintptr(fd), o.Path(name))
		}
		return err
	})
	return d, err
}

func (o *OS) wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return &fs.PathError{Op: op, Path: o.Path(name), Err: err}
}

// both is at for operations on two names.
func (o *OS) both(op, oldname, newname string, f func(oldDir int, oldBase string, newDir int, newBase string) error) error {
	a, err := o.parent(op, oldname)
	if err != nil {
		return err
	}
	defer a.release()
	b, err := o.parent(op, newname)
	if err != nil {
		return err
	}
	defer b.release()
	if err := f(a.fd, path.Base(oldname), b.fd, path.Base(newname)); err != nil {
		return &os.LinkError{Op: op, Old: o.Path(oldname), New: o.Path(newname), Err: err}
	}
	return nil
}

// Lstat implements FS.
func (o *OS) Lstat(name string) (Info, error) {
	var st unix.Stat_t
	err := o.at("stat", name, func(dir int, base string) error {
		return unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return Info{}, err
	}
	return infoOf(path.Base(name), &st), nil
}

func infoOf(name string, st *unix.Stat_t) Info {
	i := Info{
		Name:  name,
		Type:  TypeOther,
		Mode:  uint32(st.Mode) & 0o7777,
		UID:   int(st.Uid),
		GID:   int(st.Gid),
		Size:  st.Size,
		Alloc: int64(st.Blocks) * 512,
		Mtime: st.Mtim.Nano(),
		Dev:   uint64(st.Dev),
		Ino:   uint64(st.Ino),
		Nlink: uint64(st.Nlink),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		i.Type = TypeFile
	case unix.S_IFDIR:
		i.Type = TypeDir
	case unix.S_IFLNK:
		i.Type = TypeSymlink
	}
	return i
}

// ReadDir implements FS.
func (o *OS) ReadDir(name string) ([]Info, error) {
	d, err := o.openDir("read directory", name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, o.wrap("read directory", name, err)
	}
	slices.Sort(names)
	infos := make([]Info, 0, len(names))
	var st unix.Stat_t
	for _, n := range names {
		switch err := unix.Fstatat(int(d.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case errors.Is(err, syscall.ENOENT):
		case err != nil:
			return nil, o.wrap("stat", path.Join(name, n), err)
		default:
			infos = append(infos, infoOf(n, &st))
		}
	}
	return infos, nil
}

// Readlink implements FS.
func (o *OS) Readlink(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	var n int
	err := o.at("read link", name, func(dir int, base string) (err error) {
		n, err = unix.Readlinkat(dir, base, buf)
		return err
	})
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Open implements FS. Reading does not change the access time where the
// process may ask for that, so that looking at a file does not write to flash.
func (o *OS) Open(name string) (File, error) {
	fd, err := o.open("open", name, unix.S_IFREG)
	if err != nil {
		return nil, err
	}
	return &osFile{fd: fd, path: o.Path(name)}, nil
}

// open opens an entry of one of the types. It looks before it opens, because
// opening a device node can do things.
func (o *OS) open(op, name string, types ...uint32) (fd int, err error) {
	err = o.at(op, name, func(dir int, base string) (err error) {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if !slices.Contains(types, uint32(st.Mode)&unix.S_IFMT) {
			return errNotRegular
		}
		const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
		fd, err = unix.Openat(dir, base, flags|unix.O_NOATIME, 0)
		if errors.Is(err, syscall.EPERM) {
			fd, err = unix.Openat(dir, base, flags, 0)
		}
		return err
	})
	return fd, err
}

var errNotRegular = errors.New("not a regular file")

// Create implements FS.
func (o *OS) Create(name string, mode uint32) (File, error) {
	var fd int
	err := o.at("create", name, func(dir int, base string) (err error) {
		fd, err = unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if err != nil {
			return err
		}
		if mode&0o077 == 0 {
			return nil
		}
		if err := unix.Fchmod(fd, mode); err != nil { // whatever the umask is
			unix.Close(fd)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &osFile{fd: fd, path: o.Path(name)}, nil
}

// Mkdir implements FS.
func (o *OS) Mkdir(name string, mode uint32) error {
	return o.at("make directory", name, func(dir int, base string) error {
		if err := unix.Mkdirat(dir, base, mode); err != nil {
			return err
		}
		return unix.Fchmodat(dir, base, mode, 0) // whatever the umask is
	})
}

// Symlink implements FS.
func (o *OS) Symlink(target, name string) error {
	return o.at("make symbolic link", name, func(dir int, base string) error {
		return unix.Symlinkat(target, dir, base)
	})
}

// Link implements FS.
func (o *OS) Link(oldname, newname string) error {
	return o.both("link", oldname, newname, func(a int, old string, b int, new string) error {
		return unix.Linkat(a, old, b, new, 0)
	})
}

// Rename implements FS.
func (o *OS) Rename(oldname, newname string) error {
	defer o.parents.forget()
	return o.both("rename", oldname, newname, unix.Renameat)
}

// Exchange implements FS. Linux has it since 3.15, UBIFS since 4.9: older
// ones answer ENOSYS and EINVAL.
func (o *OS) Exchange(a, b string) error {
	defer o.parents.forget()
	return o.both("exchange", a, b, func(da int, na string, db int, nb string) error {
		err := unix.Renameat2(da, na, db, nb, unix.RENAME_EXCHANGE)
		if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
			return ErrUnsupported
		}
		return err
	})
}

// Remove implements FS.
func (o *OS) Remove(name string) error {
	return o.at("remove", name, func(dir int, base string) error {
		err := unix.Unlinkat(dir, base, 0)
		if errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.EPERM) {
			defer o.parents.forget()
			if e := unix.Unlinkat(dir, base, unix.AT_REMOVEDIR); !errors.Is(e, syscall.ENOTDIR) {
				return e
			}
		}
		return err
	})
}

// SetAttr implements FS. The mode comes after the owner, because chown clears
// setuid and setgid.
func (o *OS) SetAttr(name string, a Attr) error {
	return o.at("set attributes", name, func(dir int, base string) error {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		now := infoOf(base, &st)
		if now.UID != a.UID || now.GID != a.GID {
			if err := unix.Fchownat(dir, base, a.UID, a.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
			// Which of setuid and setgid chown clears depends on the entry.
			if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
			now = infoOf(base, &st)
		}
		if a.Xattrs != nil && (now.Type == TypeFile || now.Type == TypeDir) {
			err := o.setXattrs(name, a.Xattrs)
			if errors.Is(err, fs.ErrPermission) && now.Mode != a.Mode { // the mode it has is in the way
				if err = unix.Fchmodat(dir, base, a.Mode, 0); err == nil {
					err = o.setXattrs(name, a.Xattrs)
				}
			}
			if err != nil {
				return err
			}
		}
		if now.Type != TypeSymlink && now.Mode != a.Mode {
			if err := unix.Fchmodat(dir, base, a.Mode, 0); err != nil {
				return err
			}
		}
		if now.Mtime != a.Mtime {
			mtime := unix.NsecToTimespec(a.Mtime)
			return unix.UtimesNanoAt(dir, base, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}, unix.AT_SYMLINK_NOFOLLOW)
		}
		return nil
	})
}

// Xattrs implements FS.
func (o *OS) Xattrs(name string) (map[string][]byte, error) {
	fd, err := o.open("read attributes", name, unix.S_IFREG, unix.S_IFDIR)
	if errors.Is(err, errNotRegular) {
		return nil, nil // a symbolic link or a device has none that we could carry
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	attrs, err := fxattrs(fd)
	return attrs, o.wrap("read attributes", name, err)
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

// keepXattr leaves out what the kernel makes for one inode and what a
// security policy gives a new file by itself.
func keepXattr(name string) bool {
	return name != "security.selinux" && name != "security.evm" && name != "security.ima"
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

func (o *OS) setXattrs(name string, want map[string][]byte) error {
	fd, err := o.open("set attributes", name, unix.S_IFREG, unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
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

// SyncDir implements FS.
func (o *OS) SyncDir(name string) error {
	d, err := o.openDir("sync", name)
	if err != nil {
		return err
	}
	defer d.Close()
	return o.wrap("sync", name, d.Sync())
}

// Sync implements FS.
func (o *OS) Sync() error {
	defer o.parents.forget()
	d, err := o.openDir("sync", ".")
	if err != nil {
		return err
	}
	defer d.Close()
	return o.wrap("sync", ".", unix.Syncfs(int(d.Fd())))
}

// SyncReports implements FS.
func (o *OS) SyncReports() bool { return o.syncReports }

// Space implements FS.
func (o *OS) Space() (Space, error) {
	d, err := o.openDir("statfs", ".")
	if err != nil {
		return Space{}, err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return Space{}, o.wrap("statfs", ".", err)
	}
	s := Space{Free: int64(st.Bavail) * int64(st.Bsize), Inodes: -1, BlockSize: int64(st.Bsize)}
	if st.Files > 0 { // UBIFS, btrfs and others do not count them
		s.Inodes = int64(st.Ffree)
	}
	return s, nil
}

var _ FS = (*OS)(nil)
