package fsys

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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

// syncReports reports whether this kernel's syncfs tells of write errors.
func syncReports() (bool, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false, os.NewSyscallError("uname", err)
	}
	return kernelAtLeast(unix.ByteSliceToString(u.Release[:]), 5, 8), nil
}

// SyncReports implements FS. On overlayfs syncfs does not tell what the file
// systems below it could not write.
func (o *OS) SyncReports() bool { return o.syncReports && !o.root.overlay }

// SyncCheap implements FS.
func (o *OS) SyncCheap() bool { return !o.root.flash }

// SyncDir implements FS.
func (o *OS) SyncDir(name string) error {
	fd, err := o.openDir("sync", name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return o.wrap("sync", name, retry(func() error { return unix.Fsync(fd) }))
}

// Sync implements FS.
func (o *OS) Sync() error {
	b, err := o.Barrier()
	if err != nil {
		return err
	}
	return errors.Join(b.Sync(), b.Close())
}

// barrier is an open root.
type barrier struct {
	of *OS
	fd int
}

// Barrier implements FS.
func (o *OS) Barrier() (Barrier, error) {
	fd, err := o.openDir("sync", ".")
	if err != nil {
		return nil, err
	}
	return &barrier{o, fd}, nil
}

// Sync implements Barrier.
func (b *barrier) Sync() error {
	if b.fd < 0 {
		return b.of.wrap("sync", ".", fs.ErrClosed)
	}
	return b.of.wrap("sync", ".", retry(func() error { return unix.Syncfs(b.fd) }))
}

// Close implements Barrier.
func (b *barrier) Close() error {
	if b.fd < 0 {
		return b.of.wrap("close", ".", fs.ErrClosed)
	}
	fd := b.fd
	b.fd = -1
	return b.of.wrap("close", ".", unix.Close(fd))
}

// Space implements FS.
func (o *OS) Space() (Space, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(o.root.fd(), &st) }); err != nil {
		return Space{}, o.wrap("statfs", ".", err)
	}
	size := int64(st.Bsize)
	s := Space{Free: int64(st.Bavail) * size, Total: int64(st.Blocks) * size, Inodes: -1, BlockSize: size}
	if st.Files > 0 { // UBIFS, btrfs and others do not count them
		s.Inodes = int64(st.Ffree)
	}
	if st.Blocks == 0 { // ramfs and others do not count them
		s.Free = 1 << 60
	}
	return s, nil
}
