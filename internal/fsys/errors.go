package fsys

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"syscall"
)

var (
	// ErrUnsupported says that the file system or the kernel lacks an operation.
	ErrUnsupported = errors.ErrUnsupported
	// ErrElsewhere says that a name was not followed, because a symbolic link or
	// a mount on the way leads out of the tree. The last element counts where
	// the operation would have to follow it.
	ErrElsewhere = errors.New("leads through a link or a mount to somewhere else")
	// ErrReplaced says that under a name there is not what was looked at before.
	ErrReplaced = errors.New("was replaced meanwhile")
)

// TooLongError says that a file is longer than it may be.
type TooLongError struct {
	Path  string
	Limit int64 // bytes
}

func (e *TooLongError) Error() string {
	return fmt.Sprintf("%s: longer than the %d bytes it may have", e.Path, e.Limit)
}

// EntryErrors is what a ReadDir returns beside the list when some entries could
// not be described: the error of each, by the last element of its name.
type EntryErrors map[string]error

func (e EntryErrors) Error() string {
	names := slices.Sorted(maps.Keys(e))
	if len(names) == 0 {
		return "no errors"
	}
	text := e[names[0]].Error()
	if more := len(names) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more entries)", more)
	}
	return text
}

// Unwrap returns all of them.
func (e EntryErrors) Unwrap() []error {
	all := make([]error, 0, len(e))
	for _, err := range e {
		all = append(all, err)
	}
	return all
}

// IsNotExist reports whether err means that there is no such entry, be it that
// the name or that one of the directories above it is missing. A link on the
// way is ErrElsewhere.
func IsNotExist(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// IsNoSpace reports whether err means that the file system or a quota is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// IsNotWritable reports whether err means that the file system may not be written to.
func IsNotWritable(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
}

// IsUnreadable reports whether err means that the disk could not give what it
// holds: an I/O error, or a checksum of flash (EBADMSG) or of the file system
// (EUCLEAN) that does not match.
func IsUnreadable(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EBADMSG) || errors.Is(err, syscall.EUCLEAN)
}

// IsTransient reports whether err comes from the state that the kernel or this
// process is in at this moment, and says nothing about what was asked for: no
// memory, no descriptors, an interruption.
func IsTransient(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EINTR, syscall.EAGAIN} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
