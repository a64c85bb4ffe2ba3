// Package change is the one way in which Tandem changes a side.
//
// A change is staged in .tandem/next, made durable, and committed by
// commit.json: from there on the side is what the change makes of it, and
// recovery rolls forward; before, recovery discards what was staged. Then each
// path that changes gets what was staged for it, what was there goes to an undo
// log, and the record and the tag follow. Files that do not change are not
// touched.
//
// Recovery decides by what lies there (staged, in place, neither), never by
// inode numbers. A commit that cannot be finished is undone by the same steps
// backwards. Nothing here waits for a single path: what cannot be placed or
// removed is named and left.
package change

import (
	"path"

	"tandem/backup/manifest"
)

// The layout of a side.
const (
	AppsDir     = "apps"
	TagFile     = "app_ver.txt"
	OwnDir      = ".tandem"
	RecordFile  = ".tandem/record"
	IndexFile   = ".tandem/index"
	CommitFile  = ".tandem/commit.json"
	PreviousDir = ".tandem/previous"
	AsideDir    = ".tandem/aside"
	PendingFile = ".tandem/pending.json"
	RevokedFile = ".tandem/revoked.json"
	KeptFile    = ".tandem/self/kept.json" // of Tandem's own program

	nextDir = ".tandem/next"
	newDir  = ".tandem/next/new" // what is to be put in place, numbered
	oldDir  = ".tandem/next/old" // the undo log: becomes previous at a change of version
	// An undo log holds the record of what it belongs to, and:
	contentDir = "files" // files, by the digest of their content
	oddDir     = "odd"   // what has no digest, numbered as it was in next/new
)

// Name returns the name of p, which is below apps/, on a side; "." is apps itself.
func Name(p manifest.Path) string { return path.Join(AppsDir, string(p)) }

// Kept returns the name in an undo log of a file with that digest.
func Kept(log, sum string) string { return path.Join(log, contentDir, sum) }
