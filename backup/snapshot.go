package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

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

// ProblemKind says how a file is damaged.
type ProblemKind string

// The kinds of problem.
const (
	ProblemContent    ProblemKind = "damaged"    // its content is not what the record says
	ProblemMissing    ProblemKind = "missing"    // it is not there
	ProblemUnreadable ProblemKind = "unreadable" // the disk does not give it
	ProblemAttributes ProblemKind = "attributes" // mode, owner or extended attributes are wrong
)

// Problem is one damaged file.
type Problem struct {
	Side   SideName    `json:"side"`
	Path   Path        `json:"path"`
	Kind   ProblemKind `json:"kind"`
	Detail string      `json:"detail"`
}

// Snapshot is what lies on a side, compared with what its record says.
type Snapshot struct {
	Side     SideName
	Path     string
	State    State
	Version  versioning.Version // zero without a tag
	Revision int                // 0 without a record of this version
	Files    int                // files and links of the version
	Previous versioning.Version // zero if none is kept
	Detail   string             // why the state is what it is, for people; may be empty
	Problems []Problem          // damage, sorted by path
	Edited   []Path             // configuration that differs from its capture, sorted
	Busy     []Path             // configuration that kept changing while it was read: captured another time
	Foreign  []Path             // sockets, FIFOs and device nodes, which are left alone
	Adopted  bool               // there is no record for this tag: what lies there is taken as it is
	Nested   bool               // the vendor's script put the application one directory too deep
	Commit   versioning.Version // an interrupted change to this version is still to be finished

	own     *Record       // its record, be it of this version or another
	basis   *Record       // what its files are compared with; nil without a usable tag
	tree    *tree         // nil without one
	trusted bool          // it was just brought to basis, and is not looked at again
	ownSum  digest.SHA256 // that own is sealed with, as it lies there
	bad     map[Path]ProblemKind
	edited  map[Path]bool
	busy    map[Path]bool
	noDir   bool // apps is there, but is no directory
	// patterns has those of basis, once the rest of it is let go of.
	patterns Manifest
	touched  []*Entry // files that are intact but for their time, and not the application's to touch
}

// forget lets go of all but what is told of a side: the rest takes memory for
// each of its files.
func (s *Snapshot) forget() {
	s.patterns = s.manifest()
	s.own, s.basis, s.tree, s.touched = nil, nil, nil, nil
}

// usable says whether the side holds a version that can be named.
func (s *Snapshot) usable() bool { return s.basis != nil }

// inspector looks at both sides.
type inspector struct {
	now      int64                      // nanoseconds since 1970-01-01 UTC
	running  bool                       // the application may be writing
	full     bool                       // hash everything
	suspects map[SideName]map[Path]bool // hash these in any case
	stale    map[Path]int               // how often a file of system was not what it had just been
	buf      []byte
	decoded  map[digest.SHA256]*Record // sides in step have the same record
}

func newInspector(now time.Time, o Options) *inspector {
	return &inspector{
		now:      now.UnixNano(),
		running:  o.Running,
		full:     o.Full,
		suspects: map[SideName]map[Path]bool{System: {}, UsrData: {}},
		buf:      make([]byte, 128<<10),
		decoded:  map[digest.SHA256]*Record{},
		stale:    map[Path]int{},
	}
}

// loadRecord reads the record name and gives the digest that it is sealed with.
// A missing one gives nil and no error.
func (in *inspector) loadRecord(fs fsys.FS, name string) (*Record, digest.SHA256, error) {
	f, size, err := openSealed(fs, name, maxRecord)
	if f == nil || err != nil {
		return nil, digest.SHA256{}, err
	}
	defer f.Close()
	var r *Record
	sum, err := readEnvelope("record", f, size, func(sum digest.SHA256, body io.Reader) (err error) {
		if r = in.decoded[sum]; r == nil {
			if r, err = parseRecord(body); err == nil {
				err = r.check()
			}
		}
		return err
	})
	if err != nil {
		return nil, digest.SHA256{}, fmt.Errorf("%s: %w", fs.Path(name), asDamage(err))
	}
	in.decoded[sum] = r
	return r, sum, nil
}

// look takes a snapshot of both sides. It changes nothing.
func (in *inspector) look(ctx context.Context, system, usrData *Side) (*Snapshot, *Snapshot, error) {
	a, err := in.load(ctx, system)
	if err != nil {
		return nil, nil, err
	}
	b, err := in.load(ctx, usrData)
	if err != nil {
		return nil, nil, err
	}
	if err := straighten(ctx, a, b); err != nil {
		return nil, nil, err
	}
	for _, s := range []struct{ me, other *Snapshot }{{a, b}, {b, a}} {
		if err := in.judge(ctx, s.me, s.other); err != nil {
			return nil, nil, err
		}
	}
	return a, b, nil
}

// load reads what a side says of itself and walks its tree.
func (in *inspector) load(ctx context.Context, side *Side) (*Snapshot, error) {
	s := &Snapshot{Side: side.Name, State: Absent, bad: map[Path]ProblemKind{}, edited: map[Path]bool{}, busy: map[Path]bool{}}
	switch err := side.ready(); {
	case errors.Is(err, fs.ErrNotExist): // not made yet
		return s, nil
	case err != nil:
		s.State, s.Detail = Unavailable, err.Error()
		return s, nil
	}
	disk := side.FS
	s.Path = disk.Path(".")
	var err error
	if s.own, s.ownSum, err = in.loadRecord(disk, recordFile); err != nil {
		s.Detail = err.Error()
	}
	if prev, err := versioning.ReadTag(disk, path.Join(prevDir, tagFile)); err == nil {
		s.Previous = prev
	}
	if c, err := loadCommit(disk); err == nil && c != nil {
		s.Commit = c.Version
		// The side is the new version already; only finishing it is left.
		if r, _, err := in.loadRecord(disk, path.Join(nextDir, path.Base(recordFile))); err == nil && r != nil {
			s.own = r
		}
		if s.own != nil && s.own.Manifest.Version.String() == c.Version.String() {
			s.State, s.Version, s.Revision, s.basis = Intact, c.Version, s.own.Revision, s.own
			s.Files = countFiles(s.basis)
			s.Detail = fmt.Sprintf("the change to %s was interrupted: tandem boot finishes it", c.Version)
			return s, nil
		}
	}
	if info, err := disk.Lstat(appsDir); err == nil && info.Type != fsys.TypeDir {
		s.noDir = true
		s.Detail = fmt.Sprintf("%s: a %s, expected a directory", disk.Path(appsDir), info.Type)
	} else if s.tree, err = scan(ctx, disk, appsDir, s.own); err != nil && !fsys.IsNotExist(err) {
		if ctx.Err() != nil {
			return nil, err
		}
		s.State, s.Detail = Damaged, err.Error()
	}
	s.Version, err = versioning.ReadTag(disk, tagFile)
	var te *versioning.TagError
	switch {
	case errors.As(err, &te), err != versioning.ErrNoTag && errors.Is(err, versioning.ErrNoTag):
		s.Detail = err.Error()
	case err != nil && err != versioning.ErrNoTag:
		return nil, err
	}
	switch {
	case s.Version.IsZero() && !s.tree.empty():
		s.State = Tagless
		if s.Detail == "" {
			s.Detail = fmt.Sprintf("%s: missing: an unfinished copy", disk.Path(tagFile))
		}
	case s.tree.empty() && s.own == nil:
		s.State, s.Version = Absent, versioning.Version{}
	case s.Version.IsZero():
		s.State = Absent
	}
	return s, nil
}

// straighten finds the application where the vendor's script nested it.
func straighten(ctx context.Context, a, b *Snapshot) error {
	da, db := nesting(a, b)
	for _, s := range []struct {
		snap  *Snapshot
		depth int
	}{{a, da}, {b, db}} {
		for range s.depth {
			s.snap.Nested = true
			t, err := scan(ctx, s.snap.tree.fs, path.Join(s.snap.tree.root, appsDir), s.snap.own)
			if err != nil {
				return err
			}
			s.snap.tree = t
		}
	}
	return nil
}

// nesting says how many directories too deep the application lies on each
// side. The vendor's script copies apps into an apps directory it has just
// made, so each of its copies lies one deeper than what it was made from. A
// record, where there is one, knows better than any guess.
func nesting(system, usrData *Snapshot) (int, int) {
	ds, du := depth(system), depth(usrData)
	for _, r := range []*Record{system.own, usrData.own} {
		if r == nil {
			continue
		}
		want := 0
		if r.Manifest.knows(appsDir) || r.find(appsDir) != nil {
			return 0, 0
		}
		if system.own != nil {
			ds = want
		}
		if usrData.own != nil {
			du = want
		}
		return max(ds, 0), max(du, 0)
	}
	switch {
	case ds < 0 && du < 0:
		return 0, 0
	case ds < 0: // only the backup is left, and the script nested it
		return 0, du
	case du < 0: // nothing was ever copied
		return 0, 0
	case du > ds:
		return 0, du - ds
	case ds > du: // restored by the script from a backup that it had nested
		base := max(du-1, 0)
		return ds - base, du - base
	}
	return 0, 0
}

// depth counts the directories that hold nothing but a directory "apps"; -1
// without an application.
func depth(s *Snapshot) int {
	if s.tree.empty() {
		return -1
	}
	n, at := 0, Path("")
	for {
		next := Path(path.Join(string(at), appsDir))
		f := s.tree.get(next)
		if f == nil || f.kind != kindDir {
			return n
		}
		for _, f := range s.tree.found {
			if dir := path.Dir(string(f.path)); f.path != next && (dir == string(at) || dir == "." && at == "") {
				return n
			}
		}
		n, at = n+1, next
	}
}

// judge finds what a side's files are to be compared with, and compares.
func (in *inspector) judge(ctx context.Context, s, other *Snapshot) error {
	if s.State == Unavailable || s.Version.IsZero() || !s.Commit.IsZero() && s.basis != nil {
		return nil
	}
	if s.State == Damaged { // the tree itself cannot be walked
		s.basis = s.own
		if s.basis == nil || s.basis.Manifest.Version.String() != s.Version.String() {
			s.basis = &Record{Manifest: Manifest{Version: s.Version}}
		}
		s.Revision = s.basis.Revision
		s.tree = &tree{}
		for e := range s.basis.entries() {
			s.problem(e.Path, ProblemUnreadable, s.Detail)
		}
		s.problem(".", ProblemUnreadable, s.Detail)
		return nil
	}
	switch {
	case s.own != nil && s.own.Manifest.Version.String() == s.Version.String():
		s.basis = s.own
	case s.tree.empty(): // a tag and a record, but of something else, and no files
		s.State, s.Version = Absent, versioning.Version{}
		return nil
	case s.own == nil && other.own != nil && other.own.Manifest.Version.String() == s.Version.String():
		s.basis, s.Adopted = &Record{Manifest: other.own.Manifest}, true
	default:
		if err := in.adopt(ctx, s); err != nil {
			return err
		}
	}
	s.Revision = s.basis.Revision
	if s.tree == nil {
		s.tree = &tree{}
	}
	if err := in.compare(ctx, s); err != nil {
		return err
	}
	s.State = Intact
	if len(s.Problems) > 0 {
		s.State = Damaged
		if s.Detail == "" {
			s.Detail = fmt.Sprintf("%s: %s: %s", s.Problems[0].Path, s.Problems[0].Kind, s.Problems[0].Detail)
			if n := len(s.Problems) - 1; n > 0 {
				s.Detail += fmt.Sprintf(" (and %d more)", n)
			}
		}
	}
	return nil
}

// countFiles counts files and links.
func countFiles(r *Record) int {
	n := 0
	for e := range r.entries() {
		if e.Type != Dir {
			n++
		}
	}
	return n
}

func (s *Snapshot) problem(p Path, kind ProblemKind, detail string) {
	s.bad[p] = kind
	s.Problems = append(s.Problems, Problem{Side: s.Side, Path: p, Kind: kind, Detail: detail})
	s.State = Damaged
}

// adopt makes a record of what lies on a side. It keeps the division of an
// older record; without one everything is configuration, so that an edit is
// never mistaken for damage.
func (in *inspector) adopt(ctx context.Context, s *Snapshot) error {
	s.Adopted = true
	r := &Record{Manifest: Manifest{Version: s.Version}}
	var defaults []*Entry
	if s.own != nil {
		r.Manifest = s.own.Manifest
		r.Manifest.Version = s.Version
		r.Revision = s.own.Revision + 1
		for _, e := range s.own.Manifest.Files {
			if matchAny(r.Manifest.Config, e.Path) {
				defaults = append(defaults, e)
			}
		}
	}
	division := r.Manifest
	r.Manifest.Files = nil
	for _, f := range s.tree.found {
		if division.isIgnored(f.path) {
			continue
		}
		e, err := s.tree.entry(ctx, f, false, in.buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errNotRegular):
			continue
		case err != nil:
			s.problem(f.path, ProblemUnreadable, err.Error())
			continue
		}
		if division.isConfig(f.path) {
			e = s.own.shares(in.captured(e))
			r.Config = append(r.Config, e)
		} else {
			e = s.own.shares(e)
			r.Manifest.Files = append(r.Manifest.Files, e)
		}
		if e.Type == File {
			f.sum = e.SHA256
		}
	}
	if len(defaults) > 0 {
		r.Manifest.Files = append(r.Manifest.Files, defaults...)
		slices.SortFunc(r.Manifest.Files, byPath)
	}
	s.basis = r
	return nil
}

// captured is an entry as configuration is recorded.
func (in *inspector) captured(e *Entry) *Entry {
	fresh := e.Type == File && e.Mtime > in.now-freshFor
	if e.Fresh == fresh {
		return e
	}
	c := *e
	c.Fresh = fresh
	return &c
}

// compare finds damage and edits.
func (in *inspector) compare(ctx context.Context, s *Snapshot) error {
	s.Files = countFiles(s.basis)
	for e := range s.basis.entries() {
		if s.bad[e.Path] != "" {
			continue
		}
		if err := in.compareEntry(ctx, s, e); err != nil {
			return err
		}
	}
	for _, f := range s.tree.found {
		p := f.path
		if s.bad[p] != "" || s.basis.find(p) != nil {
			continue
		}
		switch {
		case f.kind == kindOther:
			s.Foreign = append(s.Foreign, p)
		case s.basis.Manifest.isIgnored(p):
		default:
			if err := in.edit(ctx, s, f); ctx.Err() != nil {
				return ctx.Err()
			} else if err != nil {
				s.problem(p, ProblemUnreadable, err.Error())
			}
		}
	}
	slices.SortFunc(s.Problems, func(a, b Problem) int { return strings.Compare(string(a.Path), string(b.Path)) })
	slices.Sort(s.Edited)
	return nil
}

// compareEntry finds out what became of one entry of the record.
func (in *inspector) compareEntry(ctx context.Context, s *Snapshot, e *Entry) error {
	m, err := s.tree.compare(ctx, e, in.full || in.suspects[s.Side][e.Path], in.buf)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f := s.tree.get(e.Path)
	if m == matches {
		if e.Type == File && !sameMtime(f.mtime, e.Mtime) && (s.Side == UsrData || !s.basis.captures(e)) {
			s.touched = append(s.touched, e)
		}
		return nil
	}
	if s.Side == System && m == unreadable && fsys.IsNotExist(err) { // gone since the walk: what has its name later is another
		m = missing
	}
	if s.Side == System && in.running && s.basis.captures(e) && !in.rests(s, e, f, m) {
		s.leaveBusy(e.Path)
		return nil
	}
	if s.Side == System && (isEdit(m, e, f) || errors.Is(err, errUnsettled)) && s.basis.captures(e) {
		if err = in.edit(ctx, s, f); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m = unreadable
	}
	s.judgeProblem(e, f, m, err)
	return nil
}

// busyAfter is how often in a row a file may turn out to have changed before
// its capture is left to another time.
const busyAfter = 4

// edit notes configuration that is not captured as it is now. What cannot be
// read is an error; what is gone by now, or does not come to rest, is not.
func (in *inspector) edit(ctx context.Context, s *Snapshot, f *found) error {
	p := f.path
	err := f.err()
	if err == nil && f.kind == kindFile && f.link() == "" && in.stale[p] < busyAfter {
		_, err = s.tree.hash(ctx, f, in.buf)
	}
	switch {
	case fsys.IsNotExist(err): // what has its name later is not what was found
		s.busy[p] = true
		return nil
	case errors.Is(err, errUnsettled), err == nil && in.stale[p] >= busyAfter:
		s.leaveBusy(p)
		return nil
	case err != nil:
		return err
	}
	s.edited[p] = true
	s.Edited = append(s.Edited, p)
	return nil
}

// leaveBusy notes configuration that is left alone, because it is being written.
func (s *Snapshot) leaveBusy(p Path) {
	s.busy[p] = true
	s.Busy = append(s.Busy, p)
}

// RestTime is how long captured configuration that was emptied or removed under
// a running application is left alone.
const RestTime = 10 * time.Second

// rests says whether configuration is as it is for so long that the application
// is not about to write it: many write a file by emptying it first, or by
// removing it. When it was removed only its directory knows. A time that lies
// ahead by more is of a clock that was wrong, and says nothing.
func (in *inspector) rests(s *Snapshot, e *Entry, f *found, m match) bool {
	var since int64
	switch {
	case s.tree.empty(): // it is not one file that went
		return true
	case m == missing:
		dir := path.Dir(string(e.Path))
		for dir != "." && s.tree.get(Path(dir)) == nil {
			dir = path.Dir(dir)
		}
		info, err := s.tree.fs.Lstat(s.tree.name(Path(dir)))
		if err != nil { // the directory goes at this moment, or cannot be read
			return !fsys.IsNotExist(err)
		}
		since = info.Mtime
	case wasEmptied(e, f):
		since = f.mtime
	default:
		return true
	}
	age := time.Duration(in.now - since)
	return age > RestTime || age < -RestTime
}

// wasEmptied says whether a file has lost all its content.
func wasEmptied(e *Entry, f *found) bool {
	return e.Type == File && f.kind == kindFile && f.size == 0 && e.Size > 0
}

// leave says whether what lies at p is not to be touched, whatever the record
// says: it is being written, or holds something that nobody has another copy of.
func (s *Snapshot) leave(p Path) bool {
	return s.busy[p] || s.bad[p] == ProblemUnreadable && s.basis.find(p) == nil
}

// isEdit tells an edit of captured configuration from damage: a file that is
// gone, cannot be read, was emptied, or changed although its time did not.
func isEdit(m match, e *Entry, f *found) bool {
	switch {
	case m == missing || m == unreadable:
		return false
	case m == attrDiffers || e.Type != File || f.kind != kindFile:
		return true
	case wasEmptied(e, f):
		return false
	}
	return e.Fresh || f.link() != "" || f.size != e.Size || f.mtime != e.Mtime
}

func (s *Snapshot) judgeProblem(e *Entry, f *found, m match, err error) {
	switch m {
	case missing:
		s.problem(e.Path, ProblemMissing, "expected a "+string(e.Type))
	case unreadable:
		s.problem(e.Path, ProblemUnreadable, err.Error())
	case attrDiffers:
		s.problem(e.Path, ProblemAttributes, fmt.Sprintf("mode %04o owner %d:%d, expected %04o %d:%d, or other extended attributes",
			f.mode, f.uid, f.gid, uint32(e.Mode), e.UID, e.GID))
	default:
		s.problem(e.Path, ProblemContent, describeDifference(e, f))
	}
}

func describeDifference(e *Entry, f *found) string {
	switch {
	case e.Type == Hardlink:
		return fmt.Sprintf("expected a hard link to %s", e.Link)
	case !f.is(fsys.Type(e.Type)):
		return fmt.Sprintf("a %s, expected a %s", kinds[f.kind], e.Type)
	case e.Type == Symlink:
		return fmt.Sprintf("points to %q, expected %q", f.target(), e.Target)
	case f.link() != "":
		return fmt.Sprintf("a hard link to %s, expected a file of its own", f.link())
	case f.size != e.Size:
		return fmt.Sprintf("%d bytes, expected %d", f.size, e.Size)
	case f.sum != nil:
		return fmt.Sprintf("sha256 %s, expected %s", f.sum, e.SHA256)
	}
	return "differs"
}

// holds says how what lies on the side compares to an entry of a version that
// need not be the side's own. Content is trusted where the side's record knows
// it; elsewhere it is hashed.
func (s *Snapshot) holds(ctx context.Context, e *Entry, buf []byte) (match, error) {
	if s.tree.get(e.Path) == nil {
		return missing, nil
	}
	own := s.basis.find(e.Path)
	if own != nil && (s.bad[e.Path] == "" || s.bad[e.Path] == ProblemAttributes) && !s.edited[e.Path] && !s.busy[e.Path] {
		if !sameContent(own, e) {
			return differs, nil
		}
		if s.bad[e.Path] == "" && sameAttr(own, e) {
			return matches, nil
		}
		return attrDiffers, nil
	}
	m, err := s.tree.compare(ctx, e, true, buf)
	if ctx.Err() != nil {
		return m, ctx.Err()
	}
	if err != nil {
		return unreadable, nil
	}
	return m, nil
}

// has says whether the file at p of a side is known to hold what its record
// says, and gives the digest; nil if not.
func (s *Snapshot) has(p Path) *digest.SHA256 {
	if s.busy[p] {
		return nil
	}
	if f := s.tree.get(p); f != nil && f.sum != nil && f.err() == nil {
		return f.sum
	} else if f == nil && !s.trusted {
		return nil
	}
	kind := s.bad[p]
	if e := s.basis.find(p); e != nil && e.Type == File && (kind == "" || kind == ProblemAttributes) && !s.edited[p] {
		return e.SHA256
	}
	return nil
}

// offer is content that a side is known to have.
type offer struct {
	sum  *digest.SHA256
	path Path
}

// offers gives what a side is known to have, sorted by digest.
func (s *Snapshot) offers() []offer {
	if s.tree == nil {
		return nil
	}
	list := make([]offer, 0, len(s.tree.found))
	add := func(p Path) {
		if sum := s.has(p); sum != nil {
			list = append(list, offer{sum, p})
		}
	}
	for _, f := range s.tree.found {
		add(f.path)
	}
	if s.trusted {
		for e := range s.basis.entries() {
			add(e.Path)
		}
	}
	slices.SortFunc(list, func(a, b offer) int { return bytes.Compare(a.sum[:], b.sum[:]) })
	return list
}
