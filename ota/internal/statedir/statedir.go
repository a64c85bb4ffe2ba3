// Package statedir keeps what belongs into the agent's state directory there,
// whatever damage lies in its place.
package statedir

import (
	"github.com/sirupsen/logrus"

	"tandem/internal/fsys"
)

// Evict removes name unless it is of the type that belongs there.
func Evict(fs fsys.FS, log *logrus.Logger, name string, t fsys.Type) error {
	info, err := fs.Lstat(name)
	switch {
	case fsys.IsNotExist(err):
		return nil
	case err != nil:
		return err
	case info.Type == t:
		return nil
	}
	log.Warnf("%s is a %s, not a %s: removed", fs.Path(name), info.Type, t)
	return fsys.RemoveAll(fs, name)
}

// MakeDir makes a directory in the root of fs, durably, unless it is there.
// Anything else of that name is damage, and goes.
func MakeDir(fs fsys.FS, log *logrus.Logger, name string, mode uint32) error {
	if err := Evict(fs, log, name, fsys.TypeDir); err != nil {
		return err
	}
	if info, err := fs.Lstat(name); err == nil && info.Type == fsys.TypeDir {
		return nil
	}
	if err := fs.Mkdir(name, mode); err != nil {
		return err
	}
	if err := fs.SyncDir("."); err != nil {
		_ = fs.Remove(name) // or the next call would take it for durable
		return err
	}
	return nil
}
