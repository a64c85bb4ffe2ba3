package change

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
	"syscall"

	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// ErrContent says that what was given is not the content that was expected.
var ErrContent = errors.New("content does not match its sha256")

// Verified is content that hashes itself on its way: Read gives io.EOF only
// after content of that digest.
type Verified interface {
	io.Reader
	Verified() digest.SHA256
}

// Change is a plan that is being carried out. It ends with Commit or Discard.
type Change struct {
	*Plan
	fs      fsys.FS
	barrier fsys.Barrier
	each    bool    // each file is synced before its writer is closed
	direct  bool    // files are written over what is there, for want of room
	content []given // sorted by path
	buf     []byte
	// cannot are paths that the file system cannot hold.
	cannot []Left
}

// given is content that a change waits for, or has.
type given struct {
	Content
	ino  uint64 // of what is staged
	here bool
}

// find returns the content of p; nil where none is to be staged.
func (c *Change) find(p manifest.Path) *given {
	i := sort.Search(len(c.content), func(i int) bool { return c.content[i].Path >= p })
	if i == len(c.content) || c.content[i].Path != p {
		return nil
	}
	return &c.content[i]
}

// has notes that the content of p is staged.
func (c *Change) has(p manifest.Path, ino uint64) {
	g := c.find(p)
	g.ino, g.here = ino, true
}

// few is up to how many files are synced one by one where a sync of the whole
// file system is dear: on UBIFS it commits the journal.
const few = 8

// oneByOne reports whether n files or directories are to be synced one by one,
// and not by a sync of the whole file system.
func oneByOne(fs fsys.FS, n int) bool {
	return !fs.SyncReports() || n <= few && !fs.SyncCheap()
}

// Begin checks that there is room, and prepares to stage what p needs. Recover
// must have been called before.
//
// Where there is too little room for more than the record the error is a *SpaceError, and
// nothing was touched. After any error or a power cut the side is as it was; what is left in
// next goes with the next change.
func Begin(fs fsys.FS, p *Plan, buf []byte) (*Change, error) {
	c := newChange(fs, p, buf)
	if err := c.checkEnd(); err != nil {
		return nil, err
	}
	if !c.Idle() { // a record alone is tried: the room that is kept back for root may do
		if err := c.checkSpace(); err != nil {
			return nil, err
		}
	}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(err, c.Discard())
	}
	return c, nil
}

func newChange(fs fsys.FS, p *Plan, buf []byte) *Change {
	c := &Change{Plan: p, fs: fs, buf: buf}
	all := p.Content()
	c.content = make([]given, len(all))
	for i, f := range all {
		c.content[i].Content = f
	}
	sort.Slice(c.content, func(i, k int) bool { return c.content[i].Path < c.content[k].Path })
	c.each = oneByOne(fs, len(c.content))
	return c
}

// checkEnd finds out before anything is changed whether what a change ends with can be replaced.
func (c *Change) checkEnd() error {
	for _, name := range []string{RecordFile, TagFile, "."} {
		i, err := c.fs.Lstat(name)
		if err == nil && (i.Fixed || i.Mount && i.Type != fsys.TypeDir) && (c.Tag || name == RecordFile) && !c.Idle() {
			return fmt.Errorf("%s: %w: it is immutable, or something is mounted on it", c.fs.Path(name), ErrBlocked)
		}
	}
	return nil
}

func (c *Change) prepare() error {
	if c.Idle() {
		return c.stageRecord()
	}
	if err := discard(c.fs); err != nil {
		return err
	}
	var err error
	if c.barrier, err = c.fs.Barrier(); err != nil { // before the first byte is written
		return err
	}
	if err := ownPlace(c.fs, nextDir); err != nil {
		return err
	}
	for _, d := range []string{nextDir, newDir, oldDir, path.Join(oldDir, contentDir), path.Join(oldDir, oddDir)} {
		if err := c.fs.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	return c.makeAll()
}

// makeAll makes what needs no content. What the file system cannot hold is left out.
func (c *Change) makeAll() error {
	kept := c.Ops[:0:0]
	for _, o := range c.Ops {
		why, err := c.make(&o)
		switch {
		case err != nil:
			return err
		case why != "":
			c.cannot = append(c.cannot, Left{o.Path, why})
		default:
			kept = append(kept, o)
		}
	}
	c.Ops = kept
	return nil
}

// make makes what of an op needs no content. It says why where the file system
// cannot hold it.
func (c *Change) make(o *Op) (why string, err error) {
	if o.New != nil && len(path.Base(string(o.Path))) > 100 { // some file systems have shorter names
		if _, err := c.fs.Lstat(Name(o.Path)); err != nil && cannotHold(err) {
			return c.refuse(o, err)
		}
	}
	switch {
	case o.Slot == "":
		return "", nil
	case o.New.Type == manifest.Symlink:
		return c.refuse(o, c.symlink(o.New, path.Join(newDir, o.Slot)))
	case o.New.Type != manifest.Dir:
		return "", nil
	}
	if err := c.fs.Mkdir(path.Join(newDir, o.Slot), 0o700); err != nil {
		return c.refuse(o, err)
	}
	for e := range c.Record.Entries() {
		if !under(o.Path, e.Path) {
			continue
		}
		switch e.Type {
		case manifest.Dir:
			err = c.fs.Mkdir(member(o, e.Path), 0o700)
		case manifest.Symlink:
			err = c.symlink(e, member(o, e.Path))
		default:
			continue
		}
		if err != nil && !c.Live && cannotHold(err) {
			c.cannot = append(c.cannot, Left{e.Path, reason(err)})
		} else if err != nil {
			return "", err
		}
	}
	return "", nil
}

// refuse tells what a backup's file system cannot hold from what went wrong.
func (c *Change) refuse(o *Op, err error) (string, error) {
	if err != nil && !c.Live && cannotHold(err) {
		return reason(err), nil
	}
	return "", err
}

func (c *Change) symlink(e *manifest.Entry, name string) error {
	if err := c.fs.Symlink(string(e.Target), name); err != nil {
		return err
	}
	was, err := c.fs.Lstat(name)
	if err != nil {
		return err
	}
	return c.setAttr(e.Path, name, freshAttr(e), was)
}

// attributes sets what the file system can keep of attributes. What it cannot
// is noted: the record has it.
func (c *Change) attributes(p manifest.Path, want fsys.Attr, was fsys.Info, set func(fsys.Attr) error) error {
	why, err := keep(c.Live, want, was, set)
	if why != nil {
		c.cannot = append(c.cannot, Left{p, reason(why)})
	}
	return err
}

// keep sets what the file system can keep of attributes. why is what it has against the rest.
func keep(live bool, want fsys.Attr, was fsys.Info, set func(fsys.Attr) error) (why, err error) {
	if err = set(want); !bearable(live, err) {
		return nil, err
	}
	why, want.Xattrs = err, nil
	if err = set(want); bearable(live, err) {
		want.UID, want.GID = was.UID, was.GID
		err = set(want)
	}
	if bearable(live, err) {
		err = nil
	}
	return why, err
}

// bearable reports whether an error of setting attributes is one that the
// content need not wait for: a backup does without any, the live side without
// extended ones. A file system that has no room for attributes says ENOSPC.
func bearable(live bool, err error) bool {
	switch {
	case err == nil:
		return false
	case fsys.IsNoSpace(err), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.E2BIG), errors.Is(err, syscall.ERANGE):
		return true
	}
	return !live && cannotHold(err)
}

func (c *Change) setAttr(p manifest.Path, name string, want fsys.Attr, was fsys.Info) error {
	was.Ctime = 0 // each attribute that is set moves it
	return c.attributes(p, want, was, func(a fsys.Attr) error { return c.fs.SetAttr(name, a, was) })
}

func attr(e *manifest.Entry) fsys.Attr {
	x := e.Xattrs
	if x == nil {
		x = map[string][]byte{}
	}
	return fsys.Attr{Mode: uint32(e.Mode), UID: e.UID, GID: e.GID, Mtime: e.Mtime, Xattrs: x}
}

// freshAttr is attr for what was just made, and has no attributes that would
// have to go.
func freshAttr(e *manifest.Entry) fsys.Attr {
	a := attr(e)
	a.Xattrs = e.Xattrs
	return a
}

// Cannot returns what the file system turned out not to be able to hold.
func (c *Change) Cannot() []Left { return c.cannot }

// Wants reports whether the content of p has to be given, and was not yet.
func (c *Change) Wants(p manifest.Path) bool {
	g := c.find(p)
	return g != nil && !g.here
}

// Wanted returns the files whose content has to be given, and was not yet.
func (c *Change) Wanted() []Content {
	all := c.Plan.Content()
	wanted := all[:0]
	for _, f := range all {
		if c.Wants(f.Path) {
			wanted = append(wanted, f)
		}
	}
	return wanted
}

// Placed returns the inode of what was staged for p.
func (c *Change) Placed(p manifest.Path) (ino uint64, ok bool) {
	g := c.find(p)
	if g == nil || !g.here {
		return 0, false
	}
	return g.ino, true
}

// Link stages f by another name of what the side keeps for a rollback, where that
// has its content and no other name yet, and reports whether it did. Nothing is
// copied then. Two files of the same content are not one: who changes the one would
// change the other.
func (c *Change) Link(f Content, kept string) (bool, error) {
	if was, err := c.fs.Lstat(kept); c.direct || err != nil || was.Nlink > 1 || c.fs.Link(kept, f.name()) != nil {
		return false, nil
	}
	was, err := c.fs.Lstat(f.name())
	if err == nil {
		err = c.setAttr(f.Path, f.name(), attr(f.Entry), was)
	}
	if err == nil && c.each {
		err = syncFile(c.fs, f.name())
	}
	if err != nil {
		return false, err
	}
	c.has(f.Path, was.Ino)
	return true, nil
}

// Put stages the content of f, and checks it against size and digest; content
// that is Verified is not hashed once more. The error wraps ErrContent where it
// is another.
func (c *Change) Put(ctx context.Context, f Content, content io.Reader) error {
	return PutAll(ctx, []*Change{c}, f.Path, content, func(_ *Change, err error) error { return err })
}

// PutAll stages the content of the file p for several changes at once: it is
// read and hashed once. failed is told when one of them cannot go on; where it
// returns nil the others do.
func PutAll(ctx context.Context, changes []*Change, p manifest.Path, content io.Reader, failed func(*Change, error) error) error {
	var outs []*staged
	defer func() {
		for _, s := range outs {
			s.out.Close() // of no consequence once it was closed below
		}
	}()
	each := func(step func(s *staged) error) error {
		for n := 0; n < len(outs); n++ {
			if err := step(outs[n]); err != nil {
				if err := failed(outs[n].c, err); err != nil {
					return err
				}
				outs[n].out.Close() // nothing of it is of use
				outs = slices.Delete(outs, n, n+1)
				n--
			}
		}
		return nil
	}
	var e *manifest.Entry
	for _, c := range changes {
		f := c.find(p)
		if f == nil {
			return fmt.Errorf("%w: %s: content that nobody asked for", manifest.ErrInvalid, p)
		}
		e = f.Entry
		s, err := c.create(f.Content)
		if err != nil {
			if err := failed(c, err); err != nil {
				return err
			}
		} else if s != nil {
			outs = append(outs, s)
		}
	}
	if len(outs) == 0 {
		return nil // no file system can hold it
	}
	var h hash.Hash // nil where content does it
	if v, ok := content.(Verified); !ok || v.Verified() != *e.SHA256 {
		h = digest.New()
	}
	buf := changes[0].buf
	var n int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, rerr := io.ReadFull(content, buf)
		if n += int64(k); n > e.Size {
			return fmt.Errorf("%s: %w", p, ErrContent)
		}
		if k > 0 {
			if h != nil {
				h.Write(buf[:k])
			}
			if err := each(func(s *staged) error { return s.holes.write(buf[:k]) }); err != nil {
				return err
			}
		}
		if rerr == io.EOF || rerr == io.ErrUnexpectedEOF {
			break
		}
		if rerr != nil {
			return rerr
		}
	}
	if n != e.Size || h != nil && digest.Sum(h) != *e.SHA256 {
		return fmt.Errorf("%s: %w", p, ErrContent)
	}
	return each((*staged).end)
}

// staged is a file that is being staged.
type staged struct {
	c     *Change
	f     Content
	out   fsys.File
	holes holeWriter
}

// create makes the file for the content of f; nil if the file system cannot hold it.
func (c *Change) create(f Content) (*staged, error) {
	if slices.ContainsFunc(c.cannot, func(l Left) bool { return under(l.Path, f.Path) && c.missing(f.name()) }) {
		return nil, nil // its directory cannot be held either
	}
	name := f.name()
	if c.direct {
		name = Name(f.Path)
	}
	out, err := c.fs.Create(name, uint32(f.Mode)&0o777)
	if err != nil {
		if !c.Live && cannotHold(err) {
			c.cannot = append(c.cannot, Left{f.Path, reason(err)})
			return nil, nil
		}
		return nil, err
	}
	return &staged{c: c, f: f, out: out, holes: holeWriter{f: out}}, nil
}

// missing reports whether the directory of a staged file is not there.
func (c *Change) missing(name string) bool {
	_, err := c.fs.Lstat(path.Dir(name))
	return fsys.IsNotExist(err)
}

// end gives the file its attributes and, if need be, makes it durable.
func (s *staged) end() error {
	if err := s.holes.end(); err != nil {
		return err
	}
	was, err := s.out.Stat()
	if err == nil {
		err = s.c.attributes(s.f.Path, freshAttr(s.f.Entry), was, s.out.SetAttr)
	}
	if err != nil {
		return err
	}
	if s.c.each {
		if err := s.out.Sync(); err != nil {
			return err
		}
	}
	s.c.has(s.f.Path, was.Ino)
	return s.out.Close()
}

// Staged calls f with the digest of each file that is staged.
func (c *Change) Staged(f func(digest.SHA256)) {
	for i := range c.content {
		if g := &c.content[i]; g.here {
			f(*g.SHA256)
		}
	}
}

// Restage goes over to another plan for the same side; what is staged already
// and still wanted is kept. The change that it is called on is used up.
//
// After an error or a power cut the side is as it was.
func (c *Change) Restage(p *Plan) (*Change, error) {
	next := newChange(c.fs, p, c.buf)
	next.barrier, c.barrier = c.barrier, nil
	const was = nextDir + "/was"
	if next.barrier == nil { // nothing had to be staged until now
		return next, next.prepare()
	}
	if err := c.fs.Rename(newDir, was); err != nil {
		return next, err
	}
	if err := c.fs.Mkdir(newDir, 0o700); err != nil {
		return next, err
	}
	if err := next.makeAll(); err != nil {
		return next, err
	}
	have := map[digest.SHA256][]*given{}
	for i := range c.content {
		if g := &c.content[i]; g.here {
			have[*g.SHA256] = append(have[*g.SHA256], g)
		}
	}
	for i := range next.content {
		f := &next.content[i]
		old := have[*f.SHA256]
		if len(old) == 0 {
			continue
		}
		have[*f.SHA256] = old[1:]
		from := path.Join(was, strings.TrimPrefix(old[0].name(), newDir))
		if err := c.fs.Rename(from, f.name()); err != nil {
			return next, err
		}
		info, err := c.fs.Lstat(f.name())
		if err == nil {
			err = next.setAttr(f.Path, f.name(), attr(f.Entry), info)
		}
		if err == nil && next.each {
			err = syncFile(c.fs, f.name())
		}
		if err != nil {
			return next, err
		}
		f.ino, f.here = info.Ino, true
	}
	return next, clear(c.fs, was)
}

// Discard forgets what was staged. Nothing else was touched. What cannot be
// removed is left to the next change.
func (c *Change) Discard() error {
	if c.barrier != nil {
		c.barrier.Close() // nothing depends on what it would tell
		c.barrier = nil
	}
	if c.Idle() {
		return fsys.RemoveAll(c.fs, recordTmp)
	}
	return clear(c.fs, nextDir)
}

// Outcome is what became of a change.
type Outcome struct {
	Wrote bool
	Left  []Left          // paths that are not as they should be, and why
	Newer []manifest.Path // configuration that was written meanwhile, and stays
	Aside []manifest.Path // what was put aside

	Cannot []Left // attributes that the file system turned out not to be able to hold
}

// Commit makes the change. written are files of the side that others wrote, and
// that the new record speaks of: they are made durable first.
//
// After success the side is what the plan makes of it, also after a power cut.
// After an error or a power cut it is that or what it was, whole; Recover
// finishes or takes back what is left. The error wraps ErrBlocked where the
// change could not be finished and was taken back.
func (c *Change) Commit(written []manifest.Path) (*Outcome, error) {
	defer func() {
		if c.barrier != nil {
			c.barrier.Close() // what it had to tell was asked for
		}
	}()
	if err := c.syncWritten(written); err != nil {
		return nil, err
	}
	if c.Idle() {
		wrote, err := c.replaceRecord()
		return &Outcome{Wrote: wrote, Left: c.Left}, err
	}
	for _, f := range c.Wanted() {
		if !slices.ContainsFunc(c.cannot, func(l Left) bool { return l.Path == f.Path || under(l.Path, f.Path) }) {
			return nil, fmt.Errorf("%w: %s: its content was never given", manifest.ErrInvalid, f.Path)
		}
	}
	if c.direct {
		return c.commitDirect()
	}
	m := commit{Version: c.Record.Manifest.Version, Record: c.Body.Sum, Tag: c.Tag, Ops: c.Ops}
	fresh, err := c.fresh()
	if err != nil {
		return nil, err
	}
	if err := c.complete(&m, fresh); err != nil {
		return nil, err
	}
	if !fresh {
		if err := c.fs.Rename(commitTmp, CommitFile); err != nil {
			return nil, err
		}
		if err := c.fs.SyncDir(OwnDir); err != nil {
			return nil, err
		}
	}
	a := &applier{fs: c.fs, commit: &m, unwritten: fresh, live: c.Live, by: c.By, barrier: c.barrier}
	out, err := a.run()
	if out != nil {
		out.Left = append(out.Left, c.Left...)
		out.Wrote = true
	}
	return out, err
}

// commitTmp is what commit.json is before it has its name: it is made durable with
// all that it tells of.
const commitTmp = CommitFile + ".tmp"

// fresh reports whether the side has nothing that a power cut could leave mixed with
// what is new, and the other side has all of that: then no commit is written. Until
// the tag is there, last of all, the side is an unfinished copy.
func (c *Change) fresh() (bool, error) {
	if !c.Tag || !c.Copy || c.Facts != nil || c.Whole {
		return false, nil
	}
	for _, name := range []string{AppsDir, TagFile} {
		if _, err := c.fs.Lstat(name); !fsys.IsNotExist(err) {
			return false, err
		}
	}
	return true, nil
}

// complete adds what needs all files to be there, and makes everything durable,
// the commit included, unless the side is fresh. It has its name with the rename that
// follows.
func (c *Change) complete(m *commit, fresh bool) error {
	for i := range c.Ops {
		if err := c.completeDir(&c.Ops[i]); err != nil {
			return err
		}
	}
	if err := c.write(path.Join(nextDir, path.Base(RecordFile)), c.writeRecord); err != nil {
		return err
	}
	if c.Tag {
		if err := c.write(path.Join(nextDir, TagFile), c.writeTag); err != nil {
			return err
		}
		if err := c.keepRecord(); err != nil {
			return err
		}
	}
	if !fresh {
		data, err := m.encode(c.fs, c.By)
		if err == nil {
			err = fsys.RemoveAll(c.fs, commitTmp)
		}
		if err == nil {
			err = c.write(commitTmp, func(w io.Writer) error { _, err := w.Write(data); return err })
		}
		if err != nil {
			return err
		}
	}
	if !c.each {
		return c.barrier.Sync()
	}
	if err := c.syncStaged(newDir); err != nil {
		return err
	}
	return syncDirs(c.fs, newDir, oldDir, nextDir, OwnDir, ".")
}

// completeDir gives a directory that is staged as a whole its hard links, and
// all directories in it their attributes.
func (c *Change) completeDir(o *Op) error {
	if o.Slot == "" || o.New.Type != manifest.Dir {
		return nil
	}
	dirs := []*manifest.Entry{}
	if o.Path != "." {
		dirs = append(dirs, o.New)
	} else if err := c.rootMode(o); err != nil {
		return err
	}
	for e := range c.Record.Entries() {
		if !under(o.Path, e.Path) {
			continue
		}
		switch e.Type {
		case manifest.Dir:
			dirs = append(dirs, e)
		case manifest.Hardlink:
			if !under(o.Path, e.Link) || c.dropped[e.Link] {
				continue // linked once all is in place, or left out, too
			}
			if err := c.fs.Link(member(o, e.Link), member(o, e.Path)); err != nil {
				if c.Live || !cannotHold(err) {
					return err
				}
				c.cannot = append(c.cannot, Left{e.Path, reason(err)})
			}
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		e := dirs[i]
		name := path.Join(newDir, o.Slot)
		if e.Path != o.Path {
			name = member(o, e.Path)
		}
		was, err := c.fs.Lstat(name)
		if fsys.IsNotExist(err) {
			continue // it cannot be held
		}
		if err == nil {
			err = c.setAttr(e.Path, name, freshAttr(e), was)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rootMode lets others look into apps: what lies there is run by others.
func (c *Change) rootMode(o *Op) error {
	name := path.Join(newDir, o.Slot)
	was, err := c.fs.Lstat(name)
	if err != nil {
		return err
	}
	return c.setAttr(o.Path, name, fsys.Attr{Mode: 0o755, UID: was.UID, GID: was.GID, Mtime: was.Mtime}, was)
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

// keepRecord adds the present version to the undo log, which becomes the one that
// a rollback returns to. What had no name is none.
func (c *Change) keepRecord() error {
	if c.Facts == nil || c.Whole || c.Facts.Basis.Manifest.Version.IsZero() {
		return nil
	}
	tag := versioning.EncodeTag(c.Facts.Basis.Manifest.Version)
	if err := c.write(path.Join(oldDir, TagFile), func(w io.Writer) error { _, err := w.Write(tag); return err }); err != nil {
		return err
	}
	to := path.Join(oldDir, path.Base(RecordFile))
	if !c.Facts.Sum.IsZero() && c.fs.Link(RecordFile, to) == nil { // nobody writes it in place
		return nil
	}
	return c.write(to, func(w io.Writer) error {
		body, err := c.Facts.Basis.Body()
		if err != nil {
			return err
		}
		return c.Facts.Basis.Write(w, c.By, body)
	})
}

// write makes a file of ours. Where one barrier makes all durable, it is left to
// do so.
func (c *Change) write(name string, content func(io.Writer) error) error {
	f, err := c.fs.Create(name, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // of no consequence once it was closed below
	if err := content(f); err != nil {
		return err
	}
	if path.Base(name) == TagFile { // others read it
		info, err := f.Stat()
		if err == nil {
			err = c.attributes(".", fsys.Attr{Mode: 0o644, UID: info.UID, GID: info.GID, Mtime: info.Mtime}, info, f.SetAttr)
		}
		if err != nil {
			return err
		}
	}
	if c.each {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

func (c *Change) writeRecord(w io.Writer) error {
	return c.Record.Write(w, c.By, c.Body)
}

func (c *Change) writeTag(w io.Writer) error {
	_, err := w.Write(versioning.EncodeTag(c.Record.Manifest.Version))
	return err
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

// recordTmp is a record before it has its name, where nothing else changes.
const recordTmp = RecordFile + ".tmp"

// stageRecord writes the record, where that is all there is to do: whether the side can be
// written turns out before the other one is.
func (c *Change) stageRecord() error {
	if c.sameRecord() {
		return nil
	}
	if err := ownPlace(c.fs, RecordFile); err != nil {
		return err
	}
	if err := fsys.RemoveAll(c.fs, recordTmp); err != nil {
		return err
	}
	return c.write(recordTmp, c.writeRecord)
}

// replaceRecord gives the record that was staged its name.
func (c *Change) replaceRecord() (wrote bool, err error) {
	if c.sameRecord() {
		return false, nil
	}
	if err := syncFile(c.fs, recordTmp); err != nil {
		return false, err
	}
	if err := c.fs.Rename(recordTmp, RecordFile); err != nil {
		return false, err
	}
	return true, syncDirs(c.fs, OwnDir, ".")
}

func (c *Change) sameRecord() bool { return c.Facts != nil && c.Body.Sum == c.Facts.Sum }

func syncDirs(fs fsys.FS, names ...string) error {
	for _, n := range names {
		if err := fs.SyncDir(n); err != nil {
			return err
		}
	}
	return nil
}
