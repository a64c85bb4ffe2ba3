// Package lock keeps two tandems from working at the same time.
package lock

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/gofrs/flock"
)

// ErrBusy says that another tandem holds the lock.
var ErrBusy = errors.New("another tandem is at work")

// Acquire takes the lock file name without waiting, and gives what lets go of
// it. The kernel lets go of it when the process ends, however that comes about;
// the file itself stays.
func Acquire(name string) (release func() error, err error) {
	l := flock.New(name)
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if !ok {
		return nil, fmt.Errorf("%w: it holds %s", ErrBusy, name)
	}
	return l.Unlock, nil
}

// AcquirePID takes the file name, as Acquire does, for a daemon of which one may
// run, and writes its process id there. release removes the file.
//
// The error wraps ErrBusy where another one runs, and names its process id.
func AcquirePID(name string, pid int) (release func() error, err error) {
	for {
		l := flock.New(name)
		ok, err := l.TryLock()
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
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
		return func() error { return errors.Join(os.Remove(name), l.Unlock()) }, nil
	}
}

// current says whether name still is the file that l holds.
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
