package change

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"

	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// Change is a plan that is being carried out. It ends with Commit or Discard.
type Change struct {
	*Plan
	fs      fsys.FS
	barrier fsys.Barrier
	each    bool    // each file is synced before its writer is closed
	direct  bool    // files are written over what is there, for want of room
	content []given // sorted by path
	cannot  refused
	ready   *commit // nil before Prepare
	fresh   bool    // there is no need to write it
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

// Begin checks that there is room, and prepares to stage what p needs. Recover
// must have been called before.
//
// Where there is too little room for more than the record the error is a *SpaceError, and
// nothing was touched. After any error or a power cut the side is as it was; what is left in
// next goes with the next change.
func Begin(fs fsys.FS, p *Plan) (*Change, error) {
	c := newChange(fs, p)
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

func newChange(fs fsys.FS, p *Plan) *Change {
	c := &Change{Plan: p, fs: fs}
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
	if c.Idle() && c.sameRecord() {
		return nil
	}
	names := []string{OwnDir, RecordFile}
	if c.Tag {
		names = append(names, TagFile, ".")
	}
	for _, name := range names {
		i, err := c.fs.Lstat(name)
		if err == nil && (i.Fixed || i.Mount && i.Type != fsys.TypeDir) {
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
			c.cannot.add(o.Path, why)
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
			c.cannot.add(e.Path, reason(err))
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

// Cannot returns what the file system turned out not to be able to hold.
func (c *Change) Cannot() []Left { return c.cannot.list }

// refused are paths that the file system cannot hold. Several files may be staged at once.
type refused struct {
	mu   sync.Mutex
	list []Left
}

func (r *refused) add(p manifest.Path, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, Left{p, why})
}

// above reports whether there is p, or a directory above it.
func (r *refused) above(p manifest.Path) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.list, func(l Left) bool { return l.Path == p || under(l.Path, p) })
}

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
	next := newChange(c.fs, p)
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
