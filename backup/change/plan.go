package change

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// ErrBlocked says that something stands in the way of a change that must not be
// left out. Nothing was touched.
var ErrBlocked = errors.New("cannot be changed")

// Target is what a side shall hold.
type Target struct {
	Record *record.Record
	// Body is that of the record; zero where it is not known yet.
	Body record.Body
	// Facts are what a look found on the side; nil for an empty one.
	Facts *tree.Facts
	Live  bool // an application runs from the side
	// Tag says that the version changes: the tag is written, and what was there
	// is kept for a rollback.
	Tag bool
	// Times says that configuration gets the times of the record, too: its content
	// comes from elsewhere.
	Times bool
	// Copy says that the other side holds all of the record by the time of the commit.
	Copy bool
	By   record.Author
	// Whole says that apps is replaced as a whole, whatever is in it.
	Whole bool
	// Known reports whether what has that content is known to lie elsewhere, or
	// is of no worth to anybody: then it need not be put aside. It may be nil.
	Known func(digest.SHA256) bool
	// AsideAll says that what was there is worth keeping for people, not for a
	// rollback: a version that could not be mended.
	AsideAll bool
	// Aside are paths of which what goes is put where people find it.
	Aside map[manifest.Path]bool
	// Leave are paths that are left as they are, whatever the record says.
	Leave map[manifest.Path]bool
}

// Plan is what it takes to make a side hold its target. It is a value: making
// one touches nothing.
type Plan struct {
	Target
	Ops  []Op
	Left []Left // what should change, and is left as it is
	// Holes is how much of the content takes no room, in bytes, as far as that is known.
	Holes int64

	dropped map[manifest.Path]bool // files that are left out, be it of a directory that is staged as a whole
}

// Left is a path that a plan leaves as it is.
type Left struct {
	Path manifest.Path
	Why  string
}

// NewPlan works out what has to change. The error wraps ErrBlocked where an
// application file must change and cannot.
func NewPlan(t Target) (*Plan, error) {
	if t.Body.Size == 0 {
		var err error
		if t.Body, err = t.Record.Body(); err != nil {
			return nil, err
		}
	}
	p := &planner{Plan: &Plan{Target: t}, replaced: map[manifest.Path]bool{}, whole: map[manifest.Path]bool{}}
	if t.Facts == nil || t.Whole {
		p.Ops = []Op{{Path: ".", New: &manifest.Entry{Path: ".", Type: manifest.Dir, Mode: 0o755}, Slot: "0"}}
		if t.Whole {
			p.Ops[0].Old = p.Ops[0].New
		}
		return p.Plan, nil
	}
	if err := p.walk(); err != nil {
		return nil, err
	}
	for i := range p.Ops {
		if p.staged(&p.Ops[i]) {
			p.Ops[i].Slot = strconv.Itoa(i)
		}
	}
	return p.Plan, nil
}

// Idle reports whether nothing but the record may have to be written.
func (p *Plan) Idle() bool { return len(p.Ops) == 0 && !p.Tag }

type planner struct {
	*Plan
	// replaced are the files that get another inode.
	replaced map[manifest.Path]bool
	// whole are the directories that are staged as a whole, with all that is in
	// them. More than one may be open: "a.b" is between "a" and "a/b".
	whole map[manifest.Path]bool
}

func (p *planner) walk() error {
	var removals []Op
	c := p.Facts.Tree.Nodes()
	remove := func() error {
		o, err := p.remove(c.Node())
		removals = append(removals, o...)
		return err
	}
	for e := range p.Record.Entries() {
		for c.Before(e.Path) {
			if err := remove(); err != nil {
				return err
			}
		}
		if err := p.want(e, c.On(e.Path)); err != nil {
			return err
		}
	}
	for c.Next() {
		if err := remove(); err != nil {
			return err
		}
	}
	slices.Reverse(removals) // what is in a directory goes before it
	p.Ops = append(removals, p.Ops...)
	return nil
}

// under reports whether q lies below dir.
func under(dir, q manifest.Path) bool {
	return dir == "." || len(q) > len(dir) && q[:len(dir)] == dir && q[len(dir)] == '/'
}

// inWhole reports whether q is staged with a directory that it lies in.
func (p *planner) inWhole(q manifest.Path) bool {
	if len(p.whole) == 0 {
		return false
	}
	for dir := path.Dir(string(q)); dir != "."; dir = path.Dir(dir) {
		if p.whole[manifest.Path(dir)] {
			return true
		}
	}
	return false
}

// want plans what it takes to have e where n lies.
func (p *planner) want(e *manifest.Entry, n *tree.Node) error {
	if p.inWhole(e.Path) {
		return nil
	}
	f := p.Facts
	config := p.Live && p.Record.Captures(e)
	if p.Leave[e.Path] {
		return nil
	}
	// Another version does not wait for who writes a file of the one before.
	o := f.At(e.Path)
	busy := o != nil && o.Finding == tree.Busy && p.Live && p.Tag && !config
	if o != nil && o.Leaves() && !busy {
		return p.leave(e.Path, o.Detail, config)
	}
	if n == nil {
		if above := f.Tree.Above(e.Path); above != nil && (above.Foreign() && !p.replaced[above.Path] || above.Err() != nil && tree.Means(above.Err()) != tree.Damage) {
			return p.leave(e.Path, "its directory is not Tandem's", config)
		}
		if why := p.fixedParent(e.Path); why != "" {
			return p.leave(e.Path, why, config)
		}
		p.put(nil, e, config)
		return nil
	}
	if e.Type == manifest.Hardlink && n.Link() == e.Link && !p.replaced[e.Link] {
		return nil
	}
	has := f.HasAt(n)
	if has != nil && manifest.SameContent(has, e) && (has.Type == manifest.Dir || n.EntryType() == has.Type || has.Type == manifest.Hardlink) {
		same := manifest.SameAttr(has, e) || f.Weak && !p.Live
		if e.Type == manifest.Hardlink && p.replaced[e.Link] {
			return p.replace(n, has, e, config)
		}
		if same && (config && !e.Adopted && !p.Times || e.Type != manifest.File || tree.SameTime(n.Mtime, e.Mtime)) {
			return nil
		}
		if n.Nlink > 1 && e.Type == manifest.File && (p.Live || int(n.Nlink) > p.names(e)) { // others would be changed with it
			return p.replace(n, has, e, config)
		}
		if n.Fixed() {
			return p.leave(e.Path, fixed(n), config)
		}
		p.Ops = append(p.Ops, Op{Path: e.Path, Old: has, New: e, Attr: true, Config: config, seen: info(n)})
		return nil
	}
	return p.replace(n, has, e, config)
}

// names returns how many names the file e is to have.
func (p *planner) names(e *manifest.Entry) int {
	n := 1
	for other := range p.Record.Entries() {
		if other.Type == manifest.Hardlink && other.Link == e.Path {
			n++
		}
	}
	return n
}

// foreign reports whether n is left alone.
func (p *planner) foreign(n *tree.Node) bool { return n.Foreign() && (p.Live || n.IsDir()) }

func (p *planner) replace(n *tree.Node, has, e *manifest.Entry, config bool) error {
	switch {
	case p.foreign(n) && (config || n.IsDir()):
		return p.leave(e.Path, "a "+string(n.Type())+" lies there", config)
	case n.Fixed():
		return p.leave(e.Path, fixed(n), config)
	}
	if why := p.fixedParent(e.Path); why != "" {
		return p.leave(e.Path, why, config)
	}
	if n.IsDir() {
		for c := p.Facts.Tree.Below(n.Path); c.Next() && under(n.Path, c.Node().Path); {
			if below := c.Node(); below.Fixed() || below.Foreign() {
				return p.leave(e.Path, fmt.Sprintf("%s lies below it, and cannot be removed", below.Path), config)
			}
		}
	}
	p.put(n, e, config)
	o := &p.Ops[len(p.Ops)-1]
	o.Old = described(n, has)
	o.Aside = p.worth(n, has) || p.Aside[n.Path] && !n.IsDir() || !p.Live && e.Type == manifest.File && e.Size == 0 && n.Size > 0
	return nil
}

// described returns what lies at n, as far as it is known.
func described(n *tree.Node, has *manifest.Entry) *manifest.Entry {
	if has != nil && n.EntryType() == has.Type {
		return has
	}
	return &manifest.Entry{Path: n.Path, Type: n.EntryType(), Size: n.Size}
}

// worth reports whether what is displaced at n is to be put aside.
func (p *planner) worth(n *tree.Node, has *manifest.Entry) bool {
	o := p.Facts.At(n.Path)
	switch {
	case n.IsDir(), p.Known == nil:
		return false
	case p.AsideAll:
		return has == nil || has.SHA256 == nil || !p.Known(*has.SHA256)
	case o == nil:
		return p.Facts.Basis.Find(n.Path) == nil // what is ignored, or what a directory goes with
	case o.Finding == tree.Busy:
		return true
	case o.Finding != tree.Edited && !o.Aside:
		return false
	case p.Live && o.Finding != tree.Edited && o.Entry != nil && !p.Facts.Basis.Captures(o.Entry):
		return true // a person's change; where the application has it, too, it does not stay for sure
	}
	return has == nil || has.SHA256 == nil || !p.Known(*has.SHA256)
}

func fixed(n *tree.Node) string {
	if n.Foreign() {
		return "another file system is mounted there"
	}
	return "it is immutable, or something is mounted on it"
}

// fixedParent says why nothing can be made or removed in the directory of q.
func (p *planner) fixedParent(q manifest.Path) string {
	dir := manifest.Path(path.Dir(string(q)))
	if n := p.Facts.Tree.Get(dir); n != nil && n.Fixed() {
		return "its directory is immutable, or another file system"
	}
	return ""
}

// leave notes that a path stays as it is. An application file has to be as the
// release has it.
func (p *planner) leave(q manifest.Path, why string, config bool) error {
	if p.Live && !config && p.Tag {
		return fmt.Errorf("%s: %w: %s", p.Facts.Tree.FS.Path(p.Facts.Tree.Name(q)), ErrBlocked, why)
	}
	p.Left = append(p.Left, Left{q, why})
	return nil
}

func (p *planner) put(n *tree.Node, e *manifest.Entry, config bool) {
	o := Op{Path: e.Path, New: e, Config: config}
	if n != nil {
		o.seen = info(n)
	} else if e.Type == manifest.Dir {
		p.whole[e.Path] = true
	}
	p.replaced[e.Path] = true
	p.Ops = append(p.Ops, o)
}

// staged reports whether what o puts in place has to be made before.
func (p *planner) staged(o *Op) bool {
	switch {
	case o.New == nil || o.Attr || o.New.Type == manifest.Hardlink:
		return false
	case o.New.Type == manifest.Dir:
		return o.Old == nil
	}
	return true
}

func info(n *tree.Node) *fsys.Info {
	i := n.Info()
	return &i
}

// remove plans to remove what the target does not know.
func (p *planner) remove(n *tree.Node) ([]Op, error) {
	f := p.Facts
	if p.foreign(n) || p.Leave[n.Path] {
		return nil, nil
	}
	gone := p.displaced(n.Path) // with the directory that it is in
	if p.Record.Manifest.IsIgnored(n.Path) && !gone {
		return nil, nil
	}
	if o := f.At(n.Path); o != nil && o.Finding == tree.Skipped && o.Detail == "" {
		return nil, nil // what is in it stays, and is named
	} else if o != nil && !gone && (o.Leaves() || o.Finding == tree.Unreadable && o.Entry == nil) {
		return nil, p.leave(n.Path, o.Detail, true)
	}
	why := p.fixedParent(n.Path)
	if n.Fixed() {
		why = fixed(n)
	}
	if why != "" {
		return nil, p.leave(n.Path, why, true)
	}
	has := f.HasAt(n)
	config := p.Live && (f.Basis.Manifest.IsConfig(n.Path) || f.Basis.Find(n.Path) == nil)
	return []Op{{Path: n.Path, Old: described(n, has), Config: config && !gone, Aside: p.worth(n, has) || p.Aside[n.Path] && !n.IsDir(), seen: info(n)}}, nil
}

// displaced reports whether p lies in a directory that has to make way for
// something that is none.
func (p *planner) displaced(q manifest.Path) bool {
	for dir := path.Dir(string(q)); dir != "."; dir = path.Dir(dir) {
		if e := p.Record.Find(manifest.Path(dir)); e != nil {
			return e.Type != manifest.Dir
		}
	}
	return false
}

// Drop leaves out the files whose content cannot be had, and what links to them. It reports
// whether there are any.
func (p *Plan) Drop(lost func(*manifest.Entry) bool) bool {
	p.dropped = map[manifest.Path]bool{}
	for _, f := range p.Content() {
		if lost(f.Entry) {
			p.dropped[f.Path] = true
		}
	}
	p.Ops = slices.DeleteFunc(p.Ops, func(o Op) bool {
		return o.New != nil && (p.dropped[o.Path] || o.New.Type == manifest.Hardlink && p.dropped[o.New.Link])
	})
	return len(p.dropped) > 0
}

// Content is a file whose content has to be staged.
type Content struct {
	*manifest.Entry
	op *Op // that it is staged for
}

// name returns where it is staged: a plan may have very many, so that it is not kept.
func (f Content) name() string {
	if f.op.New.Type == manifest.File {
		return path.Join(newDir, f.op.Slot)
	}
	return member(f.op, f.Path)
}

// Content returns the files whose content has to come from somewhere.
func (p *Plan) Content() []Content {
	var list []Content
	for i := range p.Ops {
		o := &p.Ops[i]
		switch {
		case o.Slot == "":
		case o.New.Type == manifest.File:
			list = append(list, Content{o.New, o})
		case o.New.Type == manifest.Dir:
			for e := range p.Record.Entries() {
				if e.Type == manifest.File && under(o.Path, e.Path) && !p.dropped[e.Path] {
					list = append(list, Content{e, o})
				}
			}
		}
	}
	return list
}

// member returns where q is staged, as part of the directory of o.
func member(o *Op, q manifest.Path) string {
	rel := string(q)
	if o.Path != "." {
		rel = rel[len(o.Path)+1:]
	}
	return path.Join(newDir, o.Slot, rel)
}
