package fsys

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// OS is the FS of a directory of the running system. It may be used by several
// goroutines at once.
type OS struct {
	dir         string
	root        *root
	parents     parents
	syncReports bool
	umask       func() uint32
}

// OpenOS opens the directory dir, which must exist. Symbolic links and mounts
// on the way to it are followed.
func OpenOS(dir string) (*OS, error) {
	reports, err := syncReports()
	if err != nil {
		return nil, err
	}
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	return &OS{dir: dir, root: root, syncReports: reports, umask: sync.OnceValue(umask)}, nil
}

// Close lets go of the directory.
func (o *OS) Close() error {
	o.parents.forget(".")
	return o.root.close()
}

// Path implements FS.
func (o *OS) Path(name string) string { return filepath.Join(o.dir, name) }

func (o *OS) wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: o.Path(name), Err: err}
}

// at calls f with the open directory that holds name and the last element of
// name. It adds what failed and where.
func (o *OS) at(op, name string, f func(dir *parent, base string) error) error {
	d, err := o.parent(op, name)
	if err != nil {
		return err
	}
	defer d.release()
	return o.wrap(op, name, f(d, path.Base(name)))
}

// parent opens the directory that holds name.
func (o *OS) parent(op, name string) (*parent, error) {
	if !ValidName(name) {
		return nil, o.wrap(op, name, syscall.EINVAL)
	}
	d, err := o.parents.get(path.Dir(name), func(dir string) (int, error) {
		return o.root.open(dir, unix.O_PATH|unix.O_DIRECTORY)
	})
	if err != nil {
		return nil, o.wrap(op, name, elsewhere(err))
	}
	return d, nil
}

// openDir opens a directory for reading. The caller closes it.
func (o *OS) openDir(op, name string) (int, error) {
	if !ValidName(name) {
		return -1, o.wrap(op, name, syscall.EINVAL)
	}
	fd, err := quiet(func(noatime int) (int, error) {
		return o.root.open(name, unix.O_RDONLY|unix.O_DIRECTORY|noatime)
	})
	return fd, o.wrap(op, name, elsewhere(err))
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
func (o *OS) Lstat(name string) (info Info, err error) {
	err = o.at("stat", name, func(dir *parent, base string) (err error) {
		info, err = o.root.lstat(dir.fd, base, dir.name)
		return err
	})
	return info, err
}

// ReadDir implements FS.
func (o *OS) ReadDir(name string) ([]Info, error) {
	fd, err := o.openDir("read directory", name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return nil, o.wrap("read directory", name, err)
	}
	infos := make([]Info, 0, len(names))
	failed := EntryErrors{}
	for _, n := range names {
		switch i, err := o.root.lstat(fd, n, name); {
		case errors.Is(err, syscall.ENOENT):
		case IsTransient(err):
			return nil, o.wrap("stat", path.Join(name, n), err)
		case err != nil:
			failed[n] = o.wrap("stat", path.Join(name, n), err)
		default:
			infos = append(infos, i)
		}
	}
	if len(failed) > 0 {
		return infos, failed
	}
	return infos, nil
}

// dirents are buffers that directories are read into.
var dirents = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// readNames lists an open directory.
func readNames(fd int) ([]string, error) {
	var names []string
	b := dirents.Get().(*[32 << 10]byte)
	defer dirents.Put(b)
	buf := b[:]
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.ReadDirent(fd, buf); return err })
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			slices.Sort(names)
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// Readlink implements FS.
func (o *OS) Readlink(name string) (target string, err error) {
	err = o.at("read link", name, func(dir *parent, base string) error {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir.fd, base, buf)
		target = string(buf[:max(n, 0)])
		return err
	})
	return target, err
}

var errNotRegular = errors.New("not a regular file")

// openEntry opens a file or a directory for reading, without waiting for a FIFO.
func (o *OS) openEntry(dir *parent, base string) (int, error) {
	return quiet(func(noatime int) (int, error) {
		return o.root.openIn(dir.fd, dir.name, base, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|noatime)
	})
}

// quiet opens something in such a way that reading does not change the access
// time, where the process may ask for that: looking does not write to flash.
func quiet(open func(noatime int) (int, error)) (int, error) {
	fd, err := open(unix.O_NOATIME)
	if errors.Is(err, syscall.EPERM) {
		fd, err = open(0)
	}
	return fd, err
}

// Open implements FS.
func (o *OS) Open(name string) (File, error) {
	f := &osFile{of: o, path: o.Path(name)}
	err := o.at("open", name, func(dir *parent, base string) (err error) {
		f.fd, err = o.openEntry(dir, base)
		if errors.Is(err, syscall.EXDEV) { // a file that something is mounted on: its content can be read
			f.fd, err = quiet(func(noatime int) (fd int, err error) {
				err = retry(func() error {
					fd, err = unix.Openat(dir.fd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC|noatime, 0)
					return err
				})
				return fd, err
			})
		}
		if err != nil {
			return elsewhere(err)
		}
		info, _, err := o.root.statFD(f.fd)
		if err == nil && info.Type != TypeFile {
			err = errNotRegular
		}
		if err != nil {
			unix.Close(f.fd)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Create implements FS.
func (o *OS) Create(name string, mode uint32) (File, error) {
	f := &osFile{of: o, path: o.Path(name)}
	err := o.at("create", name, func(dir *parent, base string) error {
		const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
		err := retry(func() (err error) {
			f.fd, err = unix.Openat(dir.fd, base, flags, mode&0o777)
			return err
		})
		if err != nil {
			return err
		}
		if mode&(o.umask()|0o7000) == 0 {
			return nil
		}
		if err := unix.Fchmod(f.fd, mode); err != nil {
			unix.Close(f.fd)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Mkdir implements FS.
func (o *OS) Mkdir(name string, mode uint32) error {
	return o.at("make directory", name, func(dir *parent, base string) error {
		if err := unix.Mkdirat(dir.fd, base, mode&0o1777); err != nil {
			return err
		}
		if mode&(o.umask()|0o6000) == 0 {
			return nil
		}
		fd, err := o.openEntry(dir, base)
		if err != nil {
			return replaced(err)
		}
		defer unix.Close(fd)
		info, _, err := o.root.statFD(fd)
		if err != nil {
			return err
		}
		if info.Type != TypeDir || int(info.UID) != os.Geteuid() {
			return ErrReplaced
		}
		return unix.Fchmod(fd, mode)
	})
}

// Symlink implements FS.
func (o *OS) Symlink(target, name string) error {
	return o.at("make symbolic link", name, func(dir *parent, base string) error {
		return unix.Symlinkat(target, dir.fd, base)
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
	defer o.parents.forget(oldname)
	defer o.parents.forget(newname)
	return o.both("rename", oldname, newname, unix.Renameat)
}

// Exchange implements FS. Linux has it since 3.15, UBIFS since 4.9: older
// ones answer ENOSYS and EINVAL.
func (o *OS) Exchange(a, b string) error {
	defer o.parents.forget(a)
	defer o.parents.forget(b)
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
	defer o.parents.forget(name)
	return o.at("remove", name, func(dir *parent, base string) error {
		err := unix.Unlinkat(dir.fd, base, 0)
		if errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.EPERM) {
			if e := unix.Unlinkat(dir.fd, base, unix.AT_REMOVEDIR); !errors.Is(e, syscall.ENOTDIR) {
				return e
			}
		}
		return err
	})
}

// umask asks the kernel for the bits that new files do not get, without setting
// them for a moment. Before Linux 4.7 it does not tell: then any may be missing.
func umask() uint32 {
	status, _ := os.ReadFile("/proc/self/status") // no text, no line
	for line := range strings.Lines(string(status)) {
		if octal, ok := strings.CutPrefix(line, "Umask:"); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(octal), 8, 32); err == nil {
				return uint32(n)
			}
		}
	}
	return 0o777
}

var _ FS = (*OS)(nil)
