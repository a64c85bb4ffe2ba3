// Package lock keeps two tandems from working at the same time.
package lock

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/gofrs/flock"
)

// ErrBusy says that another tandem holds the lock.
var ErrBusy = errors.New("another tandem is at work")

// ErrPlace says that a lock file cannot be where it is to be.
var ErrPlace = errors.New("no place for a lock file")

// failed says that the lock file name could not be taken, and why.
func failed(name string, err error) error {
	for _, no := range []error{syscall.EISDIR, syscall.ENOTDIR, syscall.ENOENT, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.ENXIO} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: %w", ErrPlace, err)
		}
	}
	return fmt.Errorf("lock %s: %w", name, err)
}

// Acquire takes the lock file name without waiting, and returns what lets go
// of it. The kernel lets go of it when the process ends, however that comes about;
// the file itself stays, and nothing is written to it. A directory for it that is
// missing is made.
//
// The error wraps ErrBusy where another one holds it, and names that one.
func Acquire(name string) (release func() error, err error) {
	l, ok, err := take(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s holds %s", ErrBusy, holder(name), name)
	}
	return l.Unlock, nil
}

// take tries to take a lock. What lies there is opened without waiting: for a FIFO that
// would be for ever.
func take(name string) (l *flock.Flock, ok bool, err error) {
	l = flock.New(name, flock.SetFlag(os.O_CREATE|os.O_RDONLY|syscall.O_NONBLOCK))
	if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
		ok, err = l.TryLock()
	}
	if err != nil {
		err = failed(name, err)
	}
	return l, ok, err
}

// Directory takes the directory name itself, without waiting, and returns what
// lets go of it. No file stands for it that somebody could remove meanwhile: who
// works on a directory holds it as long as the directory lives. Where the file
// system knows no locks, it does nothing.
//
// The error wraps ErrBusy where another process holds it.
func Directory(name string) (release func() error, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = fmt.Errorf("%w: %s holds the directory %s", ErrBusy, holder(name), name)
	case unknown(err):
		return f.Close, nil
	case err != nil:
		err = fmt.Errorf("lock %s: %w", name, err)
	default:
		return f.Close, nil
	}
	return nil, errors.Join(err, f.Close())
}

// unknown reports whether a file system knows no locks, or none of a file that
// is open for reading alone, as directories are.
func unknown(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EBADF)
}

// AcquirePID takes the file name, as Acquire does, for a daemon of which one may
// run, and writes its process id there. release removes the file, if it is a regular one.
//
// The error wraps ErrBusy where another one runs, and names its process id.
func AcquirePID(name string, pid int) (release func() error, err error) {
	for {
		l, ok, err := take(name)
		if err != nil {
			return nil, err
		}
		if !ok {
			other, _ := os.ReadFile(name) // it may be written just now
			return nil, fmt.Errorf("%w: an agent runs with process id %s, and holds %s", ErrBusy, bytes.TrimSpace(other), name)
		}
		same, err := current(l, name)
		if err == nil && !same { // the one before removed it in between
			err = l.Unlock()
			if err == nil {
				continue
			}
		}
		if err == nil {
			err = os.WriteFile(name, []byte(strconv.Itoa(pid)+"\n"), 0o644)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("pid file: %w", err), l.Unlock())
		}
		return func() error {
			if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() { // such as /dev/null
				return l.Unlock()
			}
			return errors.Join(os.Remove(name), l.Unlock())
		}, nil
	}
}

// Ends reports whether the process that the file names, as AcquirePID wrote it, has ended,
// though somebody may hold the file yet: of a program that is killed the first thread may
// be gone while others, which end by themselves, still have its files.
func Ends(name string) bool {
	pid, err := os.ReadFile(name)
	if err != nil || len(bytes.TrimSpace(pid)) == 0 {
		return false // nobody is named
	}
	command, err := os.ReadFile("/proc/" + string(bytes.TrimSpace(pid)) + "/cmdline")
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(command) == 0
}

// current reports whether name still is the file that l holds.
func current(l *flock.Flock, name string) (bool, error) {
	held, err := l.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(held, there), err
}
