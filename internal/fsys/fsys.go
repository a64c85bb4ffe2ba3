// Package fsys is the seam between Tandem and the disk: a small file-system
// interface rooted in one directory, its implementation on Linux, and the
// durable writes that everything else is built from.
//
// Names are relative to the root, separated by slashes, and never climb out of
// it; "." is the root itself. No operation follows a symbolic link, be it on the
// way or the last element, or goes across a mount below the root: that is
// ErrElsewhere.
//
// An operation that returned nil has happened, but survives a power cut only
// once it was synced: file data and attributes by File.Sync, directory entries
// by SyncDir on the directory that holds them, everything at once by Sync.
package fsys

import (
	"io"
	"path"
	"strings"
)

// Type is the kind of a directory entry.
type Type string

// The kinds of entry. Other stands for sockets, FIFOs and device nodes, which
// are never copied.
const (
	TypeFile    Type = "file"
	TypeDir     Type = "dir"
	TypeSymlink Type = "symlink"
	TypeOther   Type = "special file"
)

// Info describes a directory entry. It never describes what a symbolic link
// points to.
type Info struct {
	Name  string // last element of the name
	Type  Type
	Mode  uint32 // permission bits with setuid, setgid and sticky (07777)
	UID   uint32
	GID   uint32
	Size  int64 // bytes; meaningful for files
	Alloc int64 // bytes that it takes on the disk; a file with holes takes less than Size
	Mtime int64 // nanoseconds since 1970-01-01 UTC
	Ctime int64 // the same, of the last change to content, attributes or names
	Dev   uint64
	Ino   uint64 // stable across remounts on UBIFS and ext4
	Nlink uint64
	Mount bool // something else is mounted here, or it is of another file system than the root
	Fixed bool // immutable or append-only, as far as the file system tells
}

// Same reports whether now describes the same entry as i, unchanged: its type,
// device and inode, the ctime unless i has none, and no more links than one or
// those that i has. Only the ctime tells a file from a newer one that was given
// its inode.
func (i Info) Same(now Info) bool {
	return i.Type == now.Type && i.Dev == now.Dev && i.Ino == now.Ino &&
		(i.Ctime == 0 || i.Ctime == now.Ctime) &&
		(i.Type != TypeFile || now.Nlink <= 1 || i.Nlink > 1)
}

// Attr is what can be set on an entry. Mode is not applied to symbolic links.
type Attr struct {
	Mode   uint32
	UID    uint32
	GID    uint32
	Mtime  int64             // nanoseconds since 1970-01-01 UTC
	Xattrs map[string][]byte // the complete set; others are removed. nil leaves them alone
}

// Space is what a file system has left for us.
type Space struct {
	Free      int64 // bytes that this process may still write, reserve excluded; very many if the file system does not count them
	Total     int64 // bytes of the whole file system
	Inodes    int64 // entries that may still be made; -1 if the file system does not count them
	BlockSize int64
}

// File is an open regular file.
type File interface {
	io.Reader
	io.Writer
	io.ReaderAt
	// NextData gives the next place from off on that is not in a hole, io.EOF
	// if there is none. Where the file system cannot tell, that is off.
	NextData(off int64) (int64, error)
	// Stat describes the file as Lstat does, its name left out.
	Stat() (Info, error)
	// Xattrs gives what FS.Xattrs gives.
	Xattrs() (map[string][]byte, error)
	// SetAttr sets what FS.SetAttr sets, on this file whatever its name leads to.
	SetAttr(a Attr) error
	// Skip leaves n bytes of zeros before the next Write, as a hole where the
	// file system knows such. A file must not end with a Skip.
	Skip(n int64) error
	// Sync makes the data and attributes of the file durable, but not its
	// directory entry. After an error the data is in doubt and must be written
	// again to a new file.
	Sync() error
	Close() error
}

// Barrier makes a file system durable as Sync does, and tells of each write
// error since it was opened: others that sync may have been told first. It is
// opened before the first byte is written that it is for.
type Barrier interface {
	Sync() error
	Close() error
}

// FS is a tree of files rooted in one directory. Errors are *fs.PathError or
// *os.LinkError with the full path, and wrap a syscall.Errno or an error of this
// package.
type FS interface {
	// Path gives the full path of name, for messages and for handing to others.
	Path(name string) string

	Lstat(name string) (Info, error)
	// ReadDir lists a directory, sorted by name, each entry as Lstat gives it.
	// An entry that vanishes meanwhile is left out. So is one that cannot be
	// described: then the list comes with EntryErrors.
	ReadDir(name string) ([]Info, error)
	Readlink(name string) (string, error)
	// Xattrs gives the extended attributes that a copy keeps. A file system
	// without extended attributes has none.
	Xattrs(name string) (map[string][]byte, error)
	// Open opens a regular file for reading, also one that another is mounted on. It
	// does not block on FIFOs and refuses anything but a regular file.
	Open(name string) (File, error)

	// Create makes a new regular file for writing; it fails if name exists.
	// It has that mode, or less, from the first moment, whatever the umask is.
	Create(name string, mode uint32) (File, error)
	Mkdir(name string, mode uint32) error
	Symlink(target, name string) error
	Link(oldname, newname string) error
	// Rename moves oldname to newname, replacing a file or an empty directory there.
	Rename(oldname, newname string) error
	// Exchange swaps two entries atomically. It fails with ErrUnsupported
	// where the kernel or the file system cannot.
	Exchange(a, b string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// SetAttr sets owner, extended attributes, mode and modification time, in
	// that order, of the file, directory or link that was describes; if name
	// leads to another it sets nothing and fails with ErrReplaced. What is as
	// wanted already is not set again. After an error some of it may be set.
	SetAttr(name string, a Attr, was Info) error

	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Sync makes everything on the file system durable. Where it cannot tell
	// whether that failed (before Linux 5.8, on overlayfs), SyncReports is false and files
	// and directories must be synced one by one as well.
	Sync() error
	Barrier() (Barrier, error)
	SyncReports() bool
	// SyncCheap reports whether one Sync costs no more than those of two files: not
	// where it commits the journal of the whole file system, as on UBIFS.
	SyncCheap() bool
	Space() (Space, error)
}

// ValidName reports whether name is one that an FS takes: "." or elements of any
// bytes but 0, separated by single slashes, none of them "." or "..".
func ValidName(name string) bool {
	if name == "." {
		return true
	}
	for rest, more := name, true; more; { // allocates nothing, as there are many
		var elem string
		elem, rest, more = strings.Cut(rest, "/")
		if elem == "" || elem == "." || elem == ".." {
			return false
		}
	}
	return strings.IndexByte(name, 0) < 0
}

// RemoveAll removes name and what is below it. A name that does not exist is
// no error. After an error or a power cut some of it may be left.
func RemoveAll(fsys FS, name string) error {
	info, err := fsys.Lstat(name)
	if IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Type == TypeDir {
		entries, err := fsys.ReadDir(name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := RemoveAll(fsys, path.Join(name, e.Name)); err != nil {
				return err
			}
		}
	}
	if err := fsys.Remove(name); err != nil && !IsNotExist(err) {
		return err
	}
	return nil
}

// MkdirAll makes the directory name and those above it that are missing. They
// are not durable until their parents are synced.
func MkdirAll(fsys FS, name string, mode uint32) error {
	if name == "." {
		return nil
	}
	info, err := fsys.Lstat(name)
	switch {
	case err == nil && info.Type == TypeDir:
		return nil
	case err != nil && !IsNotExist(err):
		return err
	}
	if err := MkdirAll(fsys, path.Dir(name), mode); err != nil {
		return err
	}
	return fsys.Mkdir(name, mode)
}

// ReadFile reads a whole file of at most limit bytes; a longer one is a
// *TooLongError.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &TooLongError{Path: fsys.Path(name), Limit: limit}
	}
	return data, nil
}

// WriteFile durably replaces name with data: it writes name+".tmp", syncs it,
// renames it over name and syncs the directory.
//
// After success the new content survives a power cut. After an error or a
// power cut name holds either its old or its new content, whole; a ".tmp" file
// may be left, which the next WriteFile replaces.
func WriteFile(fsys FS, name string, data []byte, mode uint32) error {
	return WriteFileFrom(fsys, name, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFileFrom is WriteFile for what content writes.
func WriteFileFrom(fsys FS, name string, mode uint32, content func(io.Writer) error) error {
	tmp := name + ".tmp"
	if err := RemoveAll(fsys, tmp); err != nil {
		return err
	}
	if err := WriteSynced(fsys, tmp, mode, content); err != nil {
		_ = fsys.Remove(tmp) // the first error is the one to report
		return err
	}
	if err := fsys.Rename(tmp, name); err != nil {
		_ = fsys.Remove(tmp)
		return err
	}
	return fsys.SyncDir(path.Dir(name))
}

// WriteSynced makes the new file name and durably writes what content writes
// to it. Its name is not durable until its directory is synced. After an error
// or a power cut some of it may be left.
func WriteSynced(fsys FS, name string, mode uint32, content func(io.Writer) error) error {
	f, err := fsys.Create(name, mode)
	if err != nil {
		return err
	}
	defer f.Close() // of no consequence once it was closed below
	if err := content(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}
