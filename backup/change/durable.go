package change

import (
	"errors"
	"maps"
	"path"
	"slices"

	"tandem/backup/manifest"
	"tandem/internal/fsys"
)

// few is up to how many files are synced one by one where a sync of the whole
// file system is dear: on UBIFS it commits the journal.
const few = 8

// oneByOne reports whether n files or directories are to be synced one by one,
// and not by a sync of the whole file system.
func oneByOne(fs fsys.FS, n int) bool {
	return !fs.SyncReports() || n <= few && !fs.SyncCheap()
}

// syncWritten makes files durable that others wrote.
func (c *Change) syncWritten(written []manifest.Path) error {
	if len(written) > 0 && !oneByOne(c.fs, len(written)) {
		return c.fs.Sync()
	}
	dirs := map[string]bool{}
	for _, p := range written {
		name := Name(p)
		info, err := c.fs.Lstat(name)
		switch {
		case err == nil && info.Type == fsys.TypeFile:
			err = syncFile(c.fs, name)
		case err == nil && info.Type == fsys.TypeDir:
			dirs[name] = true
		}
		if err != nil && !fsys.IsNotExist(err) {
			return c.fs.Sync() // it may not be opened, or is told apart
		}
		dirs[path.Dir(name)] = true
	}
	return syncChanged(c.fs, dirs)
}

// syncChanged makes directories of the application durable, in order. One that somebody removed, or put
// something else in the place of, is nobody's any more.
func syncChanged(fs fsys.FS, dirs map[string]bool) error {
	for _, d := range slices.Sorted(maps.Keys(dirs)) {
		if err := fs.SyncDir(d); err != nil && !fsys.IsNotExist(err) && !errors.Is(err, fsys.ErrElsewhere) {
			return err
		}
	}
	return nil
}

// syncStaged makes the directories below dir durable; their files are.
func (c *Change) syncStaged(dir string) error {
	infos, err := c.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.Type == fsys.TypeDir {
			name := path.Join(dir, i.Name)
			if err := c.syncStaged(name); err != nil {
				return err
			}
			if err := c.fs.SyncDir(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func syncFile(fs fsys.FS, name string) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func syncDirs(fs fsys.FS, names ...string) error {
	for _, n := range names {
		if err := fs.SyncDir(n); err != nil {
			return err
		}
	}
	return nil
}
