package fsys

import (
	"errors"
	"syscall"
)

// IsUnreadable says whether err means that the disk could not give what it
// holds: an I/O error, or a checksum of flash (EBADMSG) or of the file system
// (EUCLEAN) that does not match.
func IsUnreadable(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EBADMSG) || errors.Is(err, syscall.EUCLEAN)
}

// ReadAgain gives a file system like fs that opens a file, or reads from it, a
// second time when the first try finds it unreadable. What flash cannot correct
// at one moment it often can at the next, and what is taken for damage is
// replaced: a single failure is too little to lose an edit for.
func ReadAgain(fs FS) FS { return &readAgain{fs} }

type readAgain struct{ FS }

func (r *readAgain) Open(name string) (File, error) {
	f, err := r.FS.Open(name)
	if IsUnreadable(err) {
		f, err = r.FS.Open(name)
	}
	if err != nil {
		return nil, err
	}
	return &againFile{f}, nil
}

type againFile struct{ File }

// Read reads where the first try has left off: an error moves nothing.
func (f *againFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if n == 0 && IsUnreadable(err) {
		n, err = f.File.Read(p)
	}
	return n, err
}
