package device

import (
	"fmt"
	"path/filepath"
	"syscall"

	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/mounts"
)

// sandboxed returns an error, which wraps backup.ErrUnavailable and EROFS, where a
// side can be written, but not by this process: the sandbox of its service forbids
// it.
func sandboxed(name backup.SideName, c config.Side) error {
	if only, err := mounts.OnlyHere(c.Path); err != nil || !only {
		return nil // without /proc, as where an image is made, nothing is known
	}
	opened := c.Mount
	if opened == "" { // a directory that is made again is another one to a sandbox
		opened = filepath.Dir(c.Path)
	}
	return fmt.Errorf("%w: %s: %s: %w in the sandbox of this service alone: it needs a drop-in with ReadWritePaths=-%s",
		backup.ErrUnavailable, name, c.Path, syscall.EROFS, opened)
}
