package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// State is what a look at a side found.
type State string

// The states of a side.
const (
	Intact      State = "intact"      // as its record says; configuration may have been edited
	Damaged     State = "damaged"     // files are missing, changed, unreadable or have wrong attributes
	Tagless     State = "tagless"     // files without a tag that can be read: an unfinished copy
	Absent      State = "absent"      // no application
	Unavailable State = "unavailable" // not mounted, or not there
)

// Problem is one damaged file.
type Problem struct {
	Side   SideName     `json:"side"`
	Path   Path         `json:"path"`
	Kind   tree.Finding `json:"kind"`
	Detail string       `json:"detail"`
}

// Snapshot is what lies on a side, compared with what its record says.
type Snapshot struct {
	Side     SideName
	Path     string
	State    State
	Version  versioning.Version // zero without a tag
	Release  digest.SHA256      // SHA-256 of its release.json; zero if it did not come as a release
	Revision int                // 0 without a record of this version
	Files    int                // files and links of the version
	Previous versioning.Version // zero if none is kept
	Detail   string             // why the state is what it is, for people; may be empty
	Problems []Problem          // damage, sorted by path
	Edited   []Path             // configuration that differs from its capture, or is gone, sorted
	Busy     []Path             // configuration that kept changing while it was read: captured another time
	Skipped  []Path             // of which nothing can be said
	Foreign  []Path             // sockets, FIFOs, device nodes and mount points, which are left alone
	Adopted  bool               // there is no record for this tag: what lies there is taken as it is
	Nested   bool               // the vendor's script put the application one directory too deep
	Commit   versioning.Version // an interrupted change to this version is still to be finished

	err      error          // why it is unavailable
	own      *record.Record // its record, be it of this version or another
	ownSum   digest.SHA256  // of own, as it lies there
	facts    *tree.Facts    // nil without a directory apps
	patterns Manifest
	looked   int64 // when it was, in nanoseconds since 1970-01-01 UTC
	mounted  bool  // apps is a file system of its own: nothing that is staged can be moved there
	noApps   bool  // apps is not there, or is no directory
	strange  bool  // its tag cannot be read
	undoes   bool  // Commit is to be taken back
}

// forget lets go of all but what is told of a side: the rest takes memory for
// each of its files.
func (s *Snapshot) forget() { s.own, s.facts = nil, nil }

// Ignored returns what tells whether a path below apps/ is none of Tandem's
// business, by the patterns of the manifest that the side's files are judged by.
func (s *Snapshot) Ignored() func(Path) bool {
	m := s.patterns
	return m.IsIgnored
}

// usable reports whether the side holds a version that can be named.
func (s *Snapshot) usable() bool { return s.State == Intact || s.State == Damaged }

// basis returns what the side's files were compared with; nil without a version.
func (s *Snapshot) basis() *record.Record {
	if !s.usable() || s.facts == nil {
		return nil
	}
	return s.facts.Basis
}

// looker looks at both sides. What it was told of them, and what it read besides their
// files, serves each further look of the same job.
type looker struct {
	r        *Reconciler
	full     bool                       // hash everything
	suspects map[SideName]map[Path]bool // hash these in any case
	weak     map[SideName]map[Path]bool // the file system cannot keep these as they should be
	known    map[digest.SHA256]*record.Record
	made     map[SideName]digest.SHA256 // the indexes that were made by this job
	notes    map[SideName]bool          // of an orderly end, that were found; false for looked and found none
}

// snapshots takes one of each side. It changes nothing.
func (l *looker) snapshots(ctx context.Context) (system, usrData *Snapshot, err error) {
	var sides [2]*found
	for i, side := range l.r.sides() {
		if sides[i], err = l.load(side); err != nil {
			return nil, nil, sideError(side, err)
		}
	}
	both := func(step func(s, other *found) error) error {
		return l.r.each(2, func(i int) error { return sideError(sides[i].side, step(sides[i], sides[1-i])) })
	}
	if err := both(func(s, _ *found) error { return l.walk(ctx, s) }); err != nil {
		return nil, nil, err
	}
	if err := straighten(ctx, sides[0], sides[1]); err != nil {
		return nil, nil, err
	}
	for _, s := range sides {
		if s.comparable() {
			if s.index, s.same, err = l.index(s.side); err != nil {
				return nil, nil, sideError(s.side, err)
			}
		}
	}
	if err := both(func(s, other *found) error { return l.compare(ctx, s, other) }); err != nil {
		return nil, nil, err
	}
	return sides[0].Snapshot, sides[1].Snapshot, nil
}

// found is a side in the midst of a look.
type found struct {
	*Snapshot
	side *Side
	open bool // what lies in it is still to be found out
	// lostRecord says that there is a record, which cannot be read.
	lostRecord bool
	tree       *tree.Tree // nil without a directory apps
	index      *tree.Index
	same       bool // what the index saw is known not to have gone through a power cut since
}

// comparable reports whether there is something to compare that can be walked.
func (s *found) comparable() bool {
	return s.State != Unavailable && s.State != Damaged && s.facts == nil
}

// unavailable says that a side cannot be used.
func (s *found) unavailable(err error) { s.State, s.err, s.Detail = Unavailable, err, err.Error() }

// load reads what a side says of itself.
func (l *looker) load(side *Side) (*found, error) {
	s := &found{Snapshot: &Snapshot{Side: side.Name, State: Absent}, side: side}
	switch err := side.ready(); {
	case errors.Is(err, fs.ErrNotExist): // not made yet
		return s, nil
	case fsys.IsTransient(err):
		return nil, err
	case err != nil:
		s.unavailable(err)
		return s, nil
	}
	disk := side.FS
	s.Path = disk.Path(".")
	s.looked = l.r.Now().UnixNano()
	var err error
	s.own, s.ownSum, err = record.Load(disk, change.RecordFile, l.known)
	switch {
	case err != nil && tree.Means(err) == tree.Nothing && !errors.Is(err, manifest.ErrInvalid):
		return nil, err
	case err != nil:
		s.Detail, s.lostRecord = err.Error(), true
	}
	if prev, err := versioning.ReadTag(disk, path.Join(change.PreviousDir, change.TagFile)); err == nil {
		s.Previous = prev
	}
	done, err := l.unfinished(disk, s)
	s.open = !done
	return s, err
}

// walk finds out what lies on a side, and which version that is.
func (l *looker) walk(ctx context.Context, s *found) error {
	if !s.open {
		return nil
	}
	side := s.side
	disk := side.FS
	apps, err := disk.Lstat(change.AppsDir)
	switch {
	case fsys.IsNotExist(err):
	case err != nil && tree.Means(err) == tree.Nothing:
		return err
	case err != nil:
		s.State, s.Detail = Damaged, err.Error()
	case apps.Type == fsys.TypeSymlink && side.live():
		s.unavailable(fmt.Errorf("%w: %s: a symbolic link: expected a directory; Tandem follows no links, set the side's path to where the application lies", ErrUnavailable, disk.Path(change.AppsDir)))
		return nil
	case apps.Mount && side.Mounted != nil:
		s.mounted = true
		var sub fsys.FS
		if sub, err = side.Mounted(); err == nil {
			s.tree, err = tree.Scan(ctx, sub, ".")
		}
		if err != nil && tree.Means(err) == tree.Nothing {
			return err
		} else if err != nil {
			s.unavailable(fmt.Errorf("%w: %w", ErrUnavailable, err))
			return nil
		}
	case apps.Type != fsys.TypeDir:
		s.Detail = fmt.Sprintf("%s: a %s, expected a directory", disk.Path(change.AppsDir), apps.Type)
	default:
		if s.tree, err = tree.Scan(ctx, disk, change.AppsDir); err != nil && !fsys.IsNotExist(err) {
			if tree.Means(err) == tree.Nothing {
				return err
			}
			s.State, s.Detail = Damaged, err.Error()
		}
	}
	return l.readTag(disk, s)
}

// unfinished finds out whether a change was committed and is still to be
// finished: then the side is the new version already.
func (l *looker) unfinished(disk fsys.FS, s *found) (bool, error) {
	u, err := change.Pending(disk, l.known)
	if u == nil || err != nil {
		return false, err
	}
	s.Commit, s.undoes = u.Version, u.Undo
	if u.Undo || u.Record == nil {
		return false, nil
	}
	s.own, s.ownSum = u.Record, u.Sum
	s.State, s.Version, s.Release, s.Revision = Intact, u.Version, u.Record.Manifest.Release, u.Record.Revision
	s.Files = u.Record.Files()
	s.patterns = patterns(u.Record)
	s.facts = &tree.Facts{Basis: u.Record, Sum: u.Sum, Tree: &tree.Tree{FS: disk, Root: change.AppsDir}}
	s.Detail = fmt.Sprintf("the change to %s was interrupted: tandem boot finishes it", u.Version)
	return true, nil
}

// readTag finds out which version the side says it has.
func (l *looker) readTag(disk fsys.FS, s *found) error {
	v, err := versioning.ReadTag(disk, change.TagFile)
	s.Version = v
	var te *versioning.TagError
	switch {
	case err == nil:
	case errors.As(err, &te):
		s.Detail, s.strange = te.Error(), true
		if s.own != nil && !s.tree.Empty() { // what the record describes has a name all the same
			s.Version = s.own.Manifest.Version
			s.Detail += fmt.Sprintf("; its record says %s", s.Version)
		}
	case err == versioning.ErrNoTag:
	case errors.Is(err, versioning.ErrNoTag):
		s.Detail = err.Error()
	default:
		return err
	}
	switch {
	case s.State == Damaged && !s.Version.IsZero():
	case s.Version.IsZero() && !s.tree.Empty():
		s.State = Tagless
		if s.Detail == "" {
			s.Detail = fmt.Sprintf("%s: missing: an unfinished copy", disk.Path(change.TagFile))
		}
	case s.tree.Empty() && s.own == nil:
		s.State, s.Version = Absent, versioning.Version{}
	case s.Version.IsZero():
		s.State = Absent
	}
	return nil
}

func patterns(r *record.Record) Manifest {
	return Manifest{Config: r.Manifest.Config, Ignore: r.Manifest.Ignore}
}

// compare finds what a side's files are to be compared with, and compares.
func (l *looker) compare(ctx context.Context, s, other *found) error {
	if s.State == Unavailable || s.facts != nil {
		return nil
	}
	if s.State == Damaged { // the tree itself cannot be walked
		s.unwalked()
		return nil
	}
	basis := &record.Record{}
	sum := digest.SHA256{}
	var err error
	switch {
	case s.Version.IsZero():
	case s.own != nil && s.own.Manifest.Version.String() == s.Version.String():
		basis, sum = s.own, s.ownSum
	case s.tree.Empty(): // a tag and a record, but of something else, and no files
		s.State, s.Version = Absent, versioning.Version{}
	case s.own == nil && other.own != nil && other.own.Manifest.Version.String() == s.Version.String():
		s.Adopted = true
		if basis = other.own; !s.lostRecord { // an image, which says nothing of what became of it here
			basis = &record.Record{Manifest: other.own.Manifest}
		}
	default:
		if s.same && !l.full {
			s.index.Mark(s.tree, s.ownSum)
		}
		if basis, err = l.adopt(ctx, s); err != nil {
			return err
		}
	}
	if s.tree == nil {
		s.noApps = true
		if basis.Len() == 0 {
			return nil
		}
		s.tree = &tree.Tree{FS: s.side.FS, Root: change.AppsDir}
	}
	index := s.index
	s.index = nil // once it is marked on the tree it is not needed
	s.facts, err = tree.Compare(ctx, s.tree, basis, tree.Options{
		Live: s.side.live(), Full: l.full, Suspects: l.suspects[s.Side], Weak: l.weak[s.Side],
		Index: index, Sum: sum, SameBoot: s.same, Started: l.r.Started,
	})
	if err != nil {
		return err
	}
	s.tell()
	return nil
}

// tell fills in what is told of the facts.
func (s *Snapshot) tell() {
	f := s.facts
	s.patterns = patterns(f.Basis)
	s.Foreign = f.Foreign
	if s.Version.IsZero() {
		return
	}
	s.Release, s.Revision, s.Files, s.State = f.Basis.Manifest.Release, f.Basis.Revision, f.Basis.Files(), Intact
	for _, o := range f.Odd {
		switch {
		case o.Finding.IsDamage():
			s.Problems = append(s.Problems, Problem{Side: s.Side, Path: o.Path, Kind: o.Finding, Detail: o.Detail})
		case o.Finding == tree.Edited || o.Finding == tree.Deleted:
			s.Edited = append(s.Edited, o.Path)
		case o.Finding == tree.Busy:
			s.Busy = append(s.Busy, o.Path)
		case o.Finding == tree.Skipped && o.Detail != "", o.Finding == tree.Unknown:
			s.Skipped = append(s.Skipped, o.Path)
		}
	}
	if len(s.Problems) == 0 {
		return
	}
	s.State = Damaged
	if s.Detail == "" {
		s.Detail = fmt.Sprintf("%s: %s: %s", s.Problems[0].Path, s.Problems[0].Kind, s.Problems[0].Detail)
		if n := len(s.Problems) - 1; n > 0 {
			s.Detail += fmt.Sprintf(" (and %d more)", n)
		}
	}
}

// unwalked makes facts of a tree that the disk does not give.
func (s *found) unwalked() {
	basis := s.own
	if basis == nil || basis.Manifest.Version.String() != s.Version.String() {
		basis = &record.Record{Manifest: Manifest{Version: s.Version}}
	}
	s.facts = &tree.Facts{Basis: basis, Tree: &tree.Tree{FS: s.side.FS, Root: change.AppsDir}}
	s.facts.Odd = append(s.facts.Odd, tree.Fact{Path: ".", Finding: tree.Unreadable, Detail: s.Detail})
	for e := range basis.Entries() {
		s.facts.Odd = append(s.facts.Odd, tree.Fact{Path: e.Path, Entry: e, Finding: tree.Unreadable, Detail: s.Detail})
	}
	s.tell()
}
