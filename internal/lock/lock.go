// Package lock keeps two tandems from working at the same time.
package lock

import (
	"errors"
	"fmt"

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
