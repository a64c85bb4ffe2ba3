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
	fd   int // -1 once it was closed
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
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := unix.Read(f.fd, p)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, f.wrap("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write implements File.
func (f *osFile) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(f.fd, p[done:])
		if n > 0 {
			done += n
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return done, f.wrap("write", err)
		}
	}
	return done, nil
}

// Stat implements File.
func (f *osFile) Stat() (Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return Info{}, f.wrap("stat", err)
	}
	return infoOf("", &st), nil
}

// Xattrs implements File.
func (f *osFile) Xattrs() (map[string][]byte, error) {
	attrs, err := fxattrs(f.fd)
	return attrs, f.wrap("read attributes", err)
}

// Skip implements File.
func (f *osFile) Skip(n int64) error {
	_, err := unix.Seek(f.fd, n, io.SeekCurrent)
	return f.wrap("seek", err)
}

// Sync implements File.
func (f *osFile) Sync() error { return f.wrap("sync", unix.Fsync(f.fd)) }

// Close implements File.
func (f *osFile) Close() error {
	if f.fd < 0 {
		return f.wrap("close", syscall.EBADF)
	}
	fd := f.fd
	f.fd = -1
	return f.wrap("close", unix.Close(fd))
}
