package tree

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sort"
	"strings"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
)

// Options say how to look at a side.
type Options struct {
	Live     bool                   // an application runs from it
	Full     bool                   // every file is read
	Suspects map[manifest.Path]bool // these are read in any case
	Weak     map[manifest.Path]bool // the file system is known not to keep these as they should be
	Index    *Index                 // may be nil
	Sum      digest.SHA256          // of the record, as it lies on the side
	// SameBoot says that the index was made, or its configuration was read, since
	// the machine started; or that it was shut down in order before.
	SameBoot bool
	Started  int64 // when the machine started, in nanoseconds since 1970-01-01 UTC
}

type looker struct {
	Options
	ctx    context.Context
	f      *Facts
	gone   map[manifest.Path]bool // seen by the index, and not there any more
	unseen bool                   // there is no index
	lost   bool                   // application files are missing
	none   bool                   // all of them are
	over   map[manifest.Path]bool // directories of a backup that hold what is beyond the limits
}

// Compare finds out what of basis lies in t as it should, and what does not. The
// error is one of those of Scan.
func Compare(ctx context.Context, t *Tree, basis *record.Record, o Options) (*Facts, error) {
	l := &looker{Options: o, ctx: ctx, f: &Facts{Tree: t, Basis: basis, Sum: o.Sum}, unseen: o.Index == nil}
	l.f.Weak = len(o.Weak) > 0
	if o.Index != nil { // one of another record knows no content, but what was there
		l.gone = o.Index.Mark(t, o.Sum)
		l.f.Weak = l.f.Weak || o.Index.Weak && o.Index.Record == o.Sum
		l.Index = nil // all that it knows is noted
	}
	l.over = map[manifest.Path]bool{}
	for p, r := range t.rare {
		if !o.Live && errors.Is(r.err, ErrBeyond) {
			for dir := path.Dir(string(p)); dir != "."; dir = path.Dir(dir) {
				l.over[manifest.Path(dir)] = true
			}
		}
	}
	var gone []*manifest.Entry
	c := t.Nodes()
	for e := range basis.Entries() {
		for c.Before(e.Path) {
			if err := l.unknown(c.Node()); err != nil {
				return nil, err
			}
		}
		n := c.On(e.Path)
		if n == nil {
			gone = append(gone, e)
			continue
		}
		if err := l.known(e, n); err != nil {
			return nil, err
		}
	}
	for c.Next() {
		if err := l.unknown(c.Node()); err != nil {
			return nil, err
		}
	}
	l.sort()
	// Why something is gone can be told only when the rest is known.
	missing := 0
	for _, e := range gone {
		if l.application(e) && t.Above(e.Path).Err() == nil {
			missing++
		}
	}
	l.lost, l.none = missing > 0, missing > 0
	for e := range basis.Entries() {
		if l.none && l.application(e) {
			missing--
			l.none = missing >= 0
		}
	}
	var facts []Fact
	for _, e := range gone {
		if o := l.absent(e); o != nil {
			facts = append(facts, *o)
		}
	}
	l.f.Odd = append(l.f.Odd, facts...)
	l.sort()
	for i := range l.f.Odd {
		// A program that empties a journal when it commits has meant that.
		if o := &l.f.Odd[i]; o.Finding == Corrupt && o.Now != nil && o.Now.Size == 0 && o.Entry.Size > 0 && l.config(o.Entry) && l.settled(o.Entry) {
			o.Finding, o.Aside = Edited, false
		}
	}
	return l.f, nil
}

func (l *looker) sort() {
	sort.Slice(l.f.Odd, func(i, j int) bool { return l.f.Odd[i].Path < l.f.Odd[j].Path })
}

// config reports whether e may change on this side.
func (l *looker) config(e *manifest.Entry) bool { return l.Live && l.f.Basis.Captures(e) }

// application reports whether e is a file, or link, of the application.
func (l *looker) application(e *manifest.Entry) bool {
	return e.Type != manifest.Dir && (!l.config(e) || e.Adopted)
}

func (l *looker) odd(o Fact) {
	n := *o.Node // which is good until the next one
	o.Node = &n
	l.f.Odd = append(l.f.Odd, o)
}

// unknown looks at what the record does not know.
func (l *looker) unknown(n *Node) error {
	o := Fact{Path: n.Path, Node: n}
	switch {
	case l.foreign(n):
		l.f.Foreign = append(l.f.Foreign, n.Path)
		return nil
	case l.f.Basis.Manifest.IsIgnored(n.Path):
		return nil
	case n.Err() != nil && (l.Live || !n.IsDir() || errors.Is(n.Err(), ErrBeyond)):
		return l.failed(&o, n.Err())
	case l.over[n.Path]: // it cannot go, and what is in it is named
		o.Finding = Skipped
		l.odd(o)
		return nil
	case !l.Live:
		o.Finding, o.Detail, o.Aside = Extra, "not part of the version", true
		if !n.IsDir() && !n.Foreign() {
			now, err := Describe(l.ctx, l.f.Tree, n)
			if err != nil && Means(err) == Nothing {
				return err
			}
			o.Now = now
		}
		l.odd(o)
		return nil
	}
	o.Finding = Edited
	return l.describe(&o)
}

// describe reads what lies at the path of a fact, and adds the fact.
func (l *looker) describe(o *Fact) error {
	now, err := Describe(l.ctx, l.f.Tree, o.Node)
	if err == nil {
		o.Now = now
		l.odd(*o)
		return nil
	}
	return l.failed(o, err)
}

// failed adds the fact that something could not be read.
func (l *looker) failed(o *Fact, err error) error {
	if errors.Is(err, errUnsettled) {
		o.Finding, o.Detail = Busy, "is being written"
	} else {
		switch o.Detail = err.Error(); Means(err) {
		case Nothing:
			return err
		case Damage:
			o.Finding = Unreadable
			o.Aside = o.Entry != nil && l.config(o.Entry) && o.Node.flags&flagFits == 0 // an edit that may be read another time
		case Gone:
			o.Finding, o.Detail = Busy, "is being replaced"
		case Opaque:
			o.Finding = Unknown
			if errors.Is(err, ErrBeyond) {
				o.Finding = Skipped
			}
		}
	}
	l.odd(*o)
	return nil
}

// Describe returns what lies at n, content included. A further name of a file is
// told as a hard link if the first one is configuration, too, or application file
// of the same release; see link.
func Describe(ctx context.Context, t *Tree, n *Node) (*manifest.Entry, error) {
	e := &manifest.Entry{Path: n.Path, Mode: manifest.Mode(n.Mode), UID: n.UID, GID: n.GID, Mtime: n.Mtime}
	switch n.kind {
	case kindSymlink:
		if err := n.Err(); err != nil {
			return nil, err
		}
		e.Type, e.Mode, e.Target = manifest.Symlink, 0, manifest.Path(n.target())
		return e, nil
	case kindDir:
		e.Type = manifest.Dir
		xattrs, err := t.FS.Xattrs(t.Name(n.Path))
		if err != nil {
			return nil, err
		}
		e.Xattrs = xattrs
		return e, nil
	case kindFile:
		if err := n.Err(); err != nil {
			return nil, err
		}
		c, err := t.read(ctx, n)
		if err != nil {
			return nil, err
		}
		s := &manifest.Summed{Entry: *e, Sum: c.sum}
		s.Type, s.SHA256, s.Size, s.Xattrs = manifest.File, &s.Sum, n.Size, c.xattrs
		return &s.Entry, nil
	}
	return nil, fmt.Errorf("%s: a %s", t.FS.Path(t.Name(n.Path)), n.Type())
}

// known looks at what lies at the path of an entry.
func (l *looker) known(e *manifest.Entry, n *Node) error {
	o := Fact{Path: e.Path, Entry: e, Node: n}
	config := l.config(e)
	if n.Foreign() {
		left := l.foreign(n) && (config || n.kind != kindOther)
		if left {
			l.f.Foreign = append(l.f.Foreign, n.Path)
		}
		switch {
		case e.Type == manifest.Dir && n.kind == kindDir: // what is mounted there is somebody else's
			return nil
		case left:
			if o.Finding, o.Detail = Skipped, foreign(n); !l.Live {
				o.Finding = Missing
			}
		default:
			o.Finding, o.Detail, o.Aside = Corrupt, wrongType(e, n), true
		}
		l.odd(o)
		return nil
	}
	if err := n.Err(); err != nil && (n.kind != kindDir || l.Live && Means(err) == Opaque) {
		return l.failed(&o, err)
	}
	trusted := n.Known() && !l.Full && !l.Suspects[e.Path] && (l.SameBoot || !config && n.Ctime < l.Started) || n.flags&flagTold != 0
	unstamped := config && e.Type == manifest.Dir // its attributes may change without its stamps telling
	if trusted && !unstamped && (e.Type != manifest.Hardlink || n.Link() == e.Link) {
		return nil
	}
	switch e.Type {
	case manifest.Hardlink:
		if n.Link() == e.Link {
			return nil
		}
		return l.differs(&o, config, fmt.Sprintf("expected a hard link to %s", e.Link))
	case manifest.Symlink:
		if n.kind != kindSymlink {
			return l.differs(&o, config, wrongType(e, n))
		}
		if n.target() != string(e.Target) {
			return l.differs(&o, config, fmt.Sprintf("points to %q, expected %q", n.target(), e.Target))
		}
	case manifest.Dir:
		if n.kind != kindDir {
			return l.differs(&o, config, wrongType(e, n))
		}
	case manifest.File:
		if n.kind != kindFile {
			return l.differs(&o, config, wrongType(e, n))
		}
		if to := n.Link(); config && to != "" && l.f.Basis.Manifest.IsConfig(to) {
			o.Finding, o.Detail = Edited, fmt.Sprintf("a hard link to %s", to)
			return l.describe(&o)
		}
		if n.Size != e.Size {
			return l.differs(&o, config, fmt.Sprintf("%d bytes, expected %d", n.Size, e.Size))
		}
		return l.content(&o, config)
	}
	xattrs := e.Xattrs
	if e.Type == manifest.Dir && (l.Full || unstamped || n.flags&flagFits == 0) && sameOwner(e, n) {
		var err error
		if xattrs, err = l.f.Tree.FS.Xattrs(l.f.Tree.Name(e.Path)); err != nil {
			return l.failed(&o, err)
		}
	}
	return l.attributes(&o, config, xattrs)
}

// foreign reports whether n is left alone. A backup is Tandem's, but for what is
// mounted in it.
func (l *looker) foreign(n *Node) bool { return n.Foreign() && (l.Live || n.kind != kindOther) }

func wrongType(e *manifest.Entry, n *Node) string {
	return fmt.Sprintf("a %s, expected a %s", n.Type(), e.Type)
}

func foreign(n *Node) string {
	if n.kind == kindDir {
		return "another file system is mounted there"
	}
	return "a " + string(n.Type())
}

// content compares a file that is of the size that it should be.
func (l *looker) content(o *Fact, config bool) error {
	c, err := l.f.Tree.read(l.ctx, o.Node)
	if err != nil && Means(err) == Opaque && !config && !sameOwner(o.Entry, o.Node) { // it may be that which forbids it
		return l.attributes(o, config, o.Entry.Xattrs)
	}
	// Others may give it names while it is read: that must not keep an
	// installation waiting.
	if err != nil && (config || !errors.Is(err, errUnsettled) || c.sum != *o.Entry.SHA256) {
		return l.failed(o, err)
	}
	if c.sum == *o.Entry.SHA256 {
		return l.attributes(o, config, c.xattrs)
	}
	o.Now = &manifest.Entry{
		Path: o.Path, Type: manifest.File, Mode: manifest.Mode(o.Node.Mode), UID: o.Node.UID, GID: o.Node.GID,
		Size: o.Node.Size, Mtime: o.Node.Mtime, SHA256: &c.sum, Xattrs: c.xattrs,
	}
	return l.differs(o, config, fmt.Sprintf("sha256 %s, expected %s", c.sum, o.Entry.SHA256))
}

// sameOwner reports whether mode and owner of n are as e says.
func sameOwner(e *manifest.Entry, n *Node) bool {
	return manifest.Mode(n.Mode) == e.Mode && n.UID == e.UID && n.GID == e.GID
}

// attributes compares what is not content.
func (l *looker) attributes(o *Fact, config bool, xattrs map[string][]byte) error {
	e, n := o.Entry, o.Node
	now := *e
	now.Mode, now.UID, now.GID, now.Xattrs, now.Mtime = manifest.Mode(n.Mode), n.UID, n.GID, xattrs, n.Mtime
	if e.Type == manifest.Symlink {
		now.Mode = e.Mode
	}
	if manifest.SameAttr(e, &now) || l.f.Weak && !l.Live {
		return nil
	}
	o.Now, o.Finding = &now, Attributes
	if config {
		o.Finding = Edited
	}
	o.Detail = fmt.Sprintf("mode %04o owner %d:%d, expected %04o %d:%d, or other extended attributes", n.Mode, n.UID, n.GID, uint32(e.Mode), e.UID, e.GID)
	l.odd(*o)
	return nil
}

// differs adds a fact of a path that holds something else than it should: an
// edit, somebody's change of an application file, or damage.
func (l *looker) differs(o *Fact, config bool, detail string) error {
	o.Detail = detail
	n, e := o.Node, o.Entry
	fits := n.flags&flagFits != 0
	file := n.kind == kindFile && e.Type == manifest.File
	asRecorded := n.flags&flagSeen == 0 && file && n.Size == e.Size && SameTime(n.Mtime, e.Mtime)
	emptied := file && n.Size == 0 && e.Size > 0
	switch {
	case !l.Live:
		o.Finding, o.Aside = Corrupt, !fits
	case !config:
		o.Finding, o.Aside = Corrupt, !fits // somebody wrote it, or bits flipped under its stamps
	case fits && l.SameBoot && n.flags&flagRacy == 0:
		o.Finding = Corrupt
	case asRecorded && !fits:
		o.Finding, o.Aside = Corrupt, true
	case emptied && !(l.SameBoot && n.flags&flagSeen != 0):
		o.Finding = Corrupt
	default:
		o.Finding = Edited
	}
	if o.Now != nil {
		l.odd(*o)
		return nil
	}
	finding, aside := o.Finding, o.Aside
	if err := l.describe(o); err != nil {
		return err
	}
	if last := &l.f.Odd[len(l.f.Odd)-1]; last.Now == nil && (last.Finding == Skipped || last.Finding == Unknown) && finding.IsDamage() {
		last.Finding, last.Aside = finding, aside // what it is, is of no matter
	}
	return nil
}

// SameTime reports whether a file has a recorded time. It may lie on a file
// system that keeps whole seconds, or every other, only.
func SameTime(found, recorded int64) bool {
	return found == recorded || found%second == 0 && (found/second == recorded/second || found/second == recorded/second&^1)
}

// absent says what it means that an entry is not there; nil if it is as it
// should be.
func (l *looker) absent(e *manifest.Entry) *Fact {
	o := &Fact{Path: e.Path, Entry: e, Finding: Missing, Detail: "expected a " + e.Type.String()}
	above := l.f.Tree.Above(e.Path)
	switch {
	case above != nil && above.Foreign() && !(l.Live && l.makesWay(above)):
		if o.Detail = foreign(above); l.Live {
			o.Finding = Skipped
		}
	case above.Err() != nil:
		o.Detail = above.Err().Error()
		switch {
		case Means(above.Err()) == Damage:
			o.Finding = Unreadable
		case errors.Is(above.Err(), ErrBeyond):
			o.Finding = Skipped
		default:
			o.Finding = Unknown
		}
	case l.Weak[e.Path] || l.f.Weak && !l.Live && e.Type == manifest.Symlink:
		return nil
	case !l.config(e) || e.Adopted:
	case l.none: // it is not configuration that went
	case l.SameBoot && l.gone[e.Path]:
		o.Finding = Deleted
	case l.settled(e):
		o.Finding, o.Aside = Deleted, true
	case l.lost || l.unseen && l.f.Tree.Empty() || above == nil && path.Dir(string(e.Path)) != "." || above != nil && string(above.Path) != path.Dir(string(e.Path)):
	case l.newer(e):
		o.Finding, o.Aside = Deleted, true
	}
	return o
}

// makesWay reports whether n, which is no directory, lies where the application has one.
func (l *looker) makesWay(n *Node) bool {
	e := l.f.Basis.Find(n.Path)
	return e != nil && !n.IsDir() && !l.config(e)
}

// settled reports whether e is what another file of its directory, whose name its
// own begins with, was written with, and that file went on since: a journal whose
// database is newer than the capture, or lies there without it. Were such a one put
// back, it would undo what was committed.
func (l *looker) settled(e *manifest.Entry) bool {
	dir, base := path.Split(string(e.Path))
	if of, ok := strings.CutSuffix(base, "-journal"); ok && of != "" {
		if n := l.f.Tree.Get(manifest.Path(dir + of)); n != nil && n.IsFile() {
			o := l.f.At(n.Path)
			return o == nil || o.Finding == Edited
		}
	}
	for i := range l.f.Odd {
		o := &l.f.Odd[i]
		if d, of := path.Split(string(o.Path)); o.Finding == Edited && d == dir && of != base && strings.HasPrefix(base, of) {
			return true
		}
	}
	return false
}

// newer reports whether something else in the directory of e is newer than its
// capture: then the application went on after it, and the capture would not fit
// the rest.
func (l *looker) newer(e *manifest.Entry) bool {
	dir := path.Dir(string(e.Path))
	for i := range l.f.Odd {
		o := &l.f.Odd[i]
		if o.Finding == Edited && o.Path != e.Path && path.Dir(string(o.Path)) == dir && (o.Node == nil || !o.Node.IsDir()) {
			return true
		}
	}
	return false
}
