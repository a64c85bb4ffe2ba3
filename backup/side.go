package backup

import (
	"path"

	"tandem/internal/fsys"
)

// SideName names one of the two homes of the application.
type SideName string

// The two sides.
const (
	System  SideName = "system"   // live: the application runs from it
	UsrData SideName = "usr_data" // backup
)

// Other gives the other side.
func (n SideName) Other() SideName {
	if n == System {
		return UsrData
	}
	return System
}

// The layout of a side, as the design fixes it.
const (
	appsDir     = "apps"
	tagFile     = "app_ver.txt"
	ownDir      = ".tandem"
	recordFile  = ".tandem/record.json"
	commitFile  = ".tandem/commit.json"
	nextDir     = ".tandem/next"
	prevDir     = ".tandem/previous"
	damagedDir  = ".tandem/damaged" // a tree that could not be mended, kept for people to look at
	pendingFile = ".tandem/pending.json"
	revokedFile = ".tandem/revoked.json"
)

// Below next/ and previous/ a version lies as on a side; next/ holds besides:
const (
	oldDir   = "old"   // what becomes previous/
	filesDir = "files" // single files that a patch puts in place
)

// Side is one of the two homes of the application.
type Side struct {
	Name SideName
	FS   fsys.FS // rooted at the side's path
	// Ready makes sure that the side can be used: mounted, there. Its error
	// wraps ErrUnavailable. nil means always ready.
	Ready func() error
}

// NewSide is a side on fs that is always ready. A file that fs cannot give at
// the first try is asked for again before it counts as damage.
func NewSide(name SideName, fs fsys.FS) *Side { return &Side{Name: name, FS: fsys.ReadAgain(fs)} }

func (s *Side) ready() error {
	if s.Ready == nil {
		return nil
	}
	return s.Ready()
}

// app gives the name of p below the directory of a version, "." for the side itself.
func app(version string, p Path) string { return path.Join(version, appsDir, string(p)) }
