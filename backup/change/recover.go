package change

import (
	"errors"
	"path"
	"strings"
	"syscall"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// Recovered is what recovery found to do on a side.
type Recovered struct {
	Version versioning.Version // of the change; zero if there was none
	Undone  bool               // it could not be finished and was taken back
	Outcome
}

// Recover finishes or takes back what a power cut or an error interrupted on a
// side: with a commit.json it rolls forward, without one it discards what was
// staged.
//
// After success nothing is pending. After an error or a power cut it can be run
// again, from wherever it came to. A change that one path stands in the way of is
// taken back; that is no error.
func Recover(fs fsys.FS, live bool, by record.Author) (*Recovered, error) {
	if err := clearName(fs); err != nil {
		return nil, err
	}
	c, err := load(fs)
	switch {
	case errors.Is(err, record.ErrNewer):
		return nil, err
	case errors.Is(err, manifest.ErrInvalid):
		// It was durable before anything was moved, so this is flash that went
		// bad. The record and the other side say what is left to save.
		a := &applier{fs: fs}
		err := a.abandon()
		return &Recovered{Outcome: a.out}, err
	case err != nil:
		return nil, err
	case c == nil:
		if err := discard(fs); !errors.Is(err, syscall.EROFS) {
			return &Recovered{}, err
		}
		return &Recovered{}, nil // it harms nothing, and goes once something can be changed
	}
	// Where this run of the machine wrote it, its name may not be durable yet.
	if err := fs.SyncDir(OwnDir); err != nil {
		return nil, err
	}
	a := &applier{fs: fs, commit: c, live: live, by: by, again: true}
	out, err := a.run()
	r := &Recovered{Version: c.Version, Undone: c.Undo, Outcome: *out}
	if err != nil && !errors.Is(err, ErrBlocked) {
		return r, err
	}
	return r, nil
}

// discard removes what was staged and never committed, and tries again what could not be
// removed before.
func discard(fs fsys.FS) error {
	infos, err := fs.ReadDir(OwnDir)
	if fsys.IsTransient(err) {
		return err
	}
	for _, i := range infos { // none where they cannot be had
		name := path.Join(OwnDir, i.Name)
		var err error
		switch {
		case name == nextDir:
			// The commit that it belongs to may have been removed, and that not be
			// durable: it must not come back when next is gone.
			if err = fs.SyncDir(OwnDir); err == nil {
				err = clear(fs, nextDir)
			}
		case strings.HasPrefix(i.Name, stuckPrefix):
			_ = fsys.RemoveAll(fs, name) // it is in nobody's way
		case strings.HasSuffix(i.Name, ".tmp"):
			err = fsys.RemoveAll(fs, name)
		}
		if err != nil {
			return err
		}
	}
	return fsys.RemoveAll(fs, TagFile+".tmp")
}
