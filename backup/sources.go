package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/tree"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// staleError says that a file is not what the look took it for: it is damaged,
// or it changed meanwhile. The sides must be looked at again.
type staleError struct {
	side SideName
	path Path
	err  error
}

func (e *staleError) Error() string {
	return fmt.Sprintf("%s: %s: changed or damaged: %v", e.side, e.path, e.err)
}

func (e *staleError) Unwrap() error { return e.err }

// source is where the content of an entry can be read.
type source struct {
	fs   fsys.FS
	name string
	side SideName
	path Path       // "" for what is kept for a rollback
	node *tree.Node // nil there
}

// kept is a content that a side keeps for a rollback.
type kept struct {
	side SideName
	sum  digest.SHA256
}

// sources finds content by digest, in what was found on both sides and what they
// keep for a rollback.
type sources struct {
	snaps []*Snapshot
	sides []*Side
	job   *job
	bad   map[kept]bool              // what is kept under these turned out to be damaged
	known map[digest.SHA256][]source // made when it is first asked for
	none  map[SideName]bool          // sides that keep nothing for a rollback
	mu    sync.Mutex                 // of all this, while files are copied
}

func (j *job) sources(snaps ...*Snapshot) *sources {
	return &sources{snaps: snaps, sides: j.r.sides(), job: j, bad: j.badKept, none: map[SideName]bool{}}
}

// find returns a place that is believed to hold the content of e: its path or
// else any other one, each on side near if that has it.
func (s *sources) find(near SideName, e *manifest.Entry) (source, bool) {
	for _, n := range []SideName{near, near.Other()} {
		for _, snap := range s.snaps {
			if snap.Side != n || snap.facts == nil {
				continue
			}
			if has := snap.facts.Has(e.Path); has != nil && has.SHA256 != nil && *has.SHA256 == *e.SHA256 {
				if node := snap.facts.Tree.Get(e.Path); node != nil && node.IsFile() {
					return snap.source(e.Path, node), true
				}
			}
		}
	}
	list := s.lookup()[*e.SHA256]
	for _, n := range []SideName{near, near.Other()} {
		for _, o := range list {
			if o.side == n {
				return o, true
			}
		}
	}
	return s.inPrevious(near, *e.SHA256)
}

// inPrevious finds content in what is kept for a rollback.
func (s *sources) inPrevious(near SideName, sum digest.SHA256) (source, bool) {
	for _, n := range []SideName{near, near.Other()} {
		for _, side := range s.sides {
			if side.Name != n || s.none[n] || side.ready() != nil || s.bad[kept{n, sum}] {
				continue
			}
			if _, err := side.FS.Lstat(change.PreviousDir); fsys.IsNotExist(err) { // no need to ask for each file
				s.none[n] = true
				continue
			}
			name := change.Kept(change.PreviousDir, sum.String())
			// What cannot be looked at now may well be there: whoever reads it finds out.
			info, err := side.FS.Lstat(name)
			if err == nil && info.Type == fsys.TypeFile || err != nil && tree.Means(err) == tree.Nothing {
				return source{fs: side.FS, name: name, side: n}, true
			}
		}
	}
	return source{}, false
}

func (s *Snapshot) source(p Path, n *tree.Node) source {
	t := s.facts.Tree
	return source{fs: t.FS, name: t.Name(p), side: s.Side, path: p, node: n}
}

// lookup returns what both sides are known to have.
func (s *sources) lookup() map[digest.SHA256][]source {
	if s.known != nil {
		return s.known
	}
	s.known = map[digest.SHA256][]source{}
	for _, snap := range s.snaps {
		if snap.facts == nil {
			continue
		}
		for c := snap.facts.Tree.Nodes(); c.Next(); {
			n := c.Node()
			if !n.IsFile() {
				continue
			}
			if has := snap.facts.Has(n.Path); has != nil && has.SHA256 != nil {
				node := *n
				s.known[*has.SHA256] = append(s.known[*has.SHA256], snap.source(n.Path, &node))
			}
		}
	}
	return s.known
}

// has reports whether the content of e is believed to lie somewhere.
func (s *sources) has(near SideName, e *manifest.Entry) bool {
	_, ok := s.find(near, e)
	return ok
}

// holes returns how much of what a plan wants has no room on the disk where it lies now, in bytes.
func (s *sources) holes(near SideName, p *change.Plan) int64 {
	var all int64
	for _, f := range p.Content() {
		if from, ok := s.find(near, f.Entry); ok && from.node != nil {
			all += max(0, f.Size-from.node.Alloc)
		}
	}
	return all
}

// lost reports whether the content of an entry of a side is damaged there, and
// found nowhere.
func (s *sources) lost(snap *Snapshot, o *tree.Fact) bool {
	switch {
	case o.Entry == nil || o.Entry.Type != manifest.File || !o.Finding.IsDamage() || o.Finding == tree.Attributes:
		return false
	}
	return !s.has(snap.Side, o.Entry)
}

// mendable reports whether all application files that snap lacks can be had from
// somewhere. Configuration that is lost on both sides is a loss to report, but
// no reason to give up a version.
func (s *sources) mendable(snap *Snapshot) bool {
	f := snap.facts
	if f.At(".") != nil && !slices.ContainsFunc(s.snaps, func(o *Snapshot) bool { return o != snap && o.usable() }) {
		return false
	}
	for i := range f.Odd {
		if o := &f.Odd[i]; s.lost(snap, o) && !f.Basis.Writable(o.Entry) {
			return false
		}
	}
	for i := range snap.Problems {
		if o := f.At(snap.Problems[i].Path); o != nil && !o.Finding.IsDamage() { // see uncover
			return false
		}
	}
	return true
}

// uncover takes a side for damaged that holds application files of which nothing can be
// said, as those below a mount point, if they are found nowhere else: then its version
// can neither be copied nor told to be whole.
func (s *sources) uncover(snap *Snapshot) {
	if snap.State != Intact && snap.State != Damaged {
		return
	}
	for _, p := range snap.Skipped {
		o := snap.facts.At(p)
		if e := o.Entry; e == nil || e.Type != manifest.File || snap.facts.Basis.Captures(e) || s.has(snap.Side, e) {
			continue
		}
		snap.State = Damaged
		snap.Problems = append(snap.Problems, Problem{Side: snap.Side, Path: p, Kind: tree.Unreadable, Detail: o.Detail})
	}
}

// copy stages the content of f from where the sources have it. It may be called for several
// files at once.
func (s *sources) copy(ctx context.Context, near SideName, c *change.Change, f change.Content) error {
	from, linked, err := s.link(ctx, near, c, f)
	if linked || err != nil {
		return err
	}
	damaged := func(err error) error {
		if from.node == nil {
			s.mu.Lock()
			s.bad[kept{from.side, *f.SHA256}] = true
			s.mu.Unlock()
		}
		return &staleError{from.side, from.path, err}
	}
	file, err := from.fs.Open(from.name)
	if err != nil {
		if tree.Means(err) == tree.Nothing {
			return err
		}
		return damaged(err)
	}
	defer file.Close()
	var r io.Reader = file
	if from.node != nil {
		r = tree.NewReader(ctx, file, from.node)
	}
	content := &fsys.ReadErrors{R: r}
	err = c.Put(ctx, f, content)
	if ctx.Err() == nil && (errors.Is(err, change.ErrContent) || content.Err != nil && tree.Means(content.Err) != tree.Nothing) {
		return damaged(err)
	}
	return err
}

// link stages f by another name of what is kept for a rollback, if there is such, or says
// where its content is to be copied from.
func (s *sources) link(ctx context.Context, near SideName, c *change.Change, f change.Content) (from source, linked bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from, ok := s.inPrevious(near, *f.SHA256); ok && from.side == near {
		whole, err := s.job.whole(ctx, from, *f.SHA256)
		if whole {
			linked, err = c.Link(f, from.name)
		}
		if linked || err != nil {
			return from, linked, err
		}
	}
	from, ok := s.find(near, f.Entry)
	if !ok {
		err = &staleError{near, f.Path, errors.New("no side has it any more")}
	}
	return from, false, err
}
