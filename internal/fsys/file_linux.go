package fsys

import (
	"errors"
	"io"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// osFile is an open regular file. An os.File would do, but asks the kernel two
// more things of each file than are needed, and there are thousands.
type osFile struct {
	of   *OS
	fd   int // -1 once it was closed
	pos  int64
	path string
}

func (f *osFile) wrap(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case f.fd < 0:
		err = fs.ErrClosed
	}
	return &fs.PathError{Op: op, Path: f.path, Err: err}
}

// Read implements File.
func (f *osFile) Read(p []byte) (int, error) {
	n, err := f.read(p, f.pos)
	f.pos += int64(n)
	return n, err
}

// ReadAt implements File.
func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := f.read(p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (f *osFile) read(p []byte, off int64) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	err = retry(func() error { n, err = unix.Pread(f.fd, p, off); return err })
	switch {
	case err != nil:
		return 0, f.wrap("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// NextData implements File. The kernel counts a place beyond the end, and one
// in the hole at the end, as no place (ENXIO).
func (f *osFile) NextData(off int64) (int64, error) {
	next, err := unix.Seek(f.fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return 0, io.EOF
	case errors.Is(err, syscall.EINVAL):
		return off, nil
	case err != nil:
		return 0, f.wrap("seek", err)
	}
	return next, nil
}

// Write implements File.
func (f *osFile) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(f.fd, p[done:], f.pos)
		if n > 0 {
			done += n
			f.pos += int64(n)
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return done, f.wrap("write", err)
		}
	}
	return done, nil
}

// Stat implements File.
func (f *osFile) Stat() (Info, error) {
	info, _, err := f.of.root.statFD(f.fd)
	return info, f.wrap("stat", err)
}

// Xattrs implements File.
func (f *osFile) Xattrs() (map[string][]byte, error) {
	attrs, err := fxattrs(f.fd)
	return attrs, f.wrap("read attributes", err)
}

// SetAttr implements File.
func (f *osFile) SetAttr(a Attr) error {
	now, _, err := f.of.root.statFD(f.fd)
	if err == nil {
		err = setAttr(f.fd, now, a)
	}
	return f.wrap("set attributes", err)
}

// Skip implements File.
func (f *osFile) Skip(n int64) error {
	if f.fd < 0 {
		return f.wrap("seek", fs.ErrClosed)
	}
	f.pos += n
	return nil
}

// Sync implements File.
func (f *osFile) Sync() error {
	return f.wrap("sync", retry(func() error { return unix.Fsync(f.fd) }))
}

// Close implements File.
func (f *osFile) Close() error {
	if f.fd < 0 {
		return f.wrap("close", syscall.EBADF)
	}
	fd := f.fd
	f.fd = -1
	return f.wrap("close", unix.Close(fd))
}
