package fsys

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// TooLongError says that a file is longer than it may be.
type TooLongError struct {
	Path  string
	Limit int64 // bytes
}

func (e *TooLongError) Error() string {
	return fmt.Sprintf("%s: longer than the %d bytes it may have", e.Path, e.Limit)
}

// IsNotExist says whether err means that there is no such entry, be it that
// the name or that one of the directories above it is missing.
func IsNotExist(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// IsNoSpace says whether err means that the file system or a quota is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// IsNotWritable says whether err means that the file system may not be written to.
func IsNotWritable(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
}
