package change

import (
	"errors"
	"fmt"
	"path"
	"syscall"

	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// ownPlace makes way for a file of ours: its directory is there, closed to
// others, and nothing but a file or directory lies in its place. All below
// .tandem is ours to remove.
func ownPlace(fs fsys.FS, name string) error {
	if err := clearName(fs); err != nil {
		return err
	}
	if err := fsys.MkdirAll(fs, path.Dir(name), 0o700); err != nil {
		return err
	}
	if info, err := fs.Lstat(name); err != nil || info.Type == fsys.TypeFile {
		return nil
	}
	return clear(fs, name)
}

// clearName makes way for .tandem: the name is ours, what lies there may not be.
func clearName(fs fsys.FS) error {
	if info, err := fs.Lstat(OwnDir); err != nil || info.Type == fsys.TypeDir {
		return nil
	}
	return fs.Remove(OwnDir)
}

// Newer returns a *record.NewerError if one of our files on a side was made by a newer
// Tandem. The error is one of those of record.Newer.
func Newer(fs fsys.FS) error {
	name := "/" + path.Base(RecordFile)
	return record.Newer(fs, RecordFile, CommitFile, PendingFile, RevokedFile, IndexFile, KeptFile, PreviousDir+name, nextDir+name, oldDir+name)
}

// WriteOwn durably replaces a file of ours.
//
// After success the new content survives a power cut. After an error or a power
// cut the file holds either its old or its new content, whole.
func WriteOwn(fs fsys.FS, name string, data []byte) error {
	if err := ownPlace(fs, name); err != nil {
		return err
	}
	if err := fsys.WriteFile(fs, name, data, 0o600); err != nil {
		return err
	}
	return fs.SyncDir(".")
}

// SyncOwn makes a file of ours durable, its name included.
func SyncOwn(fs fsys.FS, name string) error {
	if err := syncFile(fs, name); err != nil {
		return err
	}
	return fs.SyncDir(path.Dir(name))
}

// stuckPrefix begins the names of what could not be removed.
const stuckPrefix = "stuck-"

// clear removes something of ours. What cannot be removed is moved out of the
// way, so that it never keeps anything waiting.
func clear(fs fsys.FS, name string) error {
	err := fsys.RemoveAll(fs, name)
	if err == nil {
		return nil
	}
	for n := range 100 {
		to := path.Join(OwnDir, fmt.Sprintf("%s%d", stuckPrefix, n))
		if _, e := fs.Lstat(to); !fsys.IsNotExist(e) {
			continue
		}
		if fs.Rename(name, to) == nil {
			return nil
		}
		break
	}
	return err
}

// cannotHold reports whether err means that the file system has no place for
// such a name, file or attribute, whatever room there is.
func cannotHold(err error) bool {
	for _, e := range []error{
		errors.ErrUnsupported, syscall.EPERM, syscall.EINVAL, syscall.ENAMETOOLONG, syscall.EOPNOTSUPP, syscall.ERANGE, syscall.E2BIG,
		syscall.EEXIST, syscall.EILSEQ, syscall.EFBIG, syscall.EOVERFLOW, syscall.EMLINK, syscall.ENOSYS,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return "its file system cannot hold it: " + errno.Error()
	}
	return "its file system cannot hold it"
}

// WriteTag durably makes v the tag of a side. A directory that lies in its place
// is put aside: somebody made it, and it is not ours to delete.
func WriteTag(fs fsys.FS, v versioning.Version) error {
	if info, err := fs.Lstat(TagFile); err == nil && info.Type == fsys.TypeDir {
		s := &aside{fs: fs}
		if err := s.move(TagFile, TagFile); err != nil {
			return err
		}
		if err := s.sync(); err != nil {
			return err
		}
	}
	return versioning.WriteTag(fs, TagFile, v)
}
