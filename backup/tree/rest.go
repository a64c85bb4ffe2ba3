package tree

import (
	"context"
	"path"
	"slices"
	"strings"

	"tandem/backup/manifest"
	"tandem/internal/fsys"
)

// Rest is a tree that lies as an index saw it.
type Rest struct {
	Foreign []manifest.Path // as in Facts
}

// AtRest reports whether everything below the directory root of fs lies as x saw it,
// which is all that its record knows, and whether nothing else does but what m
// ignores: then Compare would find nothing, and all that it takes besides a walk
// is spared. It may be asked only where what x saw went through no power cut since.
//
// nil means that Compare has to tell. So does an error, which therefore is not
// given. m needs no files. now is in nanoseconds since 1970-01-01 UTC; on a live side
// what was written within a tick of it is not at rest.
func (x *Index) AtRest(ctx context.Context, fs fsys.FS, root string, m *manifest.Manifest, live bool, now int64) *Rest {
	if x == nil || !x.Whole || x.Weak {
		return nil
	}
	w := &resting{ctx: ctx, fs: fs, m: m, live: live, now: now, entries: reader{b: x.raw}, left: x.n}
	w.next()
	if !w.walk(root, "", 0) || w.left >= 0 || w.entries.bad {
		return nil
	}
	return &w.rest
}

// resting walks a tree in the order of the paths in an index, and reads that beside it.
type resting struct {
	ctx  context.Context
	fs   fsys.FS
	m    *manifest.Manifest
	live bool
	now  int64
	rest Rest

	entries reader
	left    int // entries behind the present one; -1 after the last
	path    []byte
	was     [7]uint64
	flags   uint64
	seen    int // nodes
}

// next goes to the next entry of the index.
func (w *resting) next() {
	if w.left--; w.left < 0 {
		w.path = nil
		return
	}
	shared := min(w.entries.number(), uint64(len(w.path)))
	w.path = append(w.path[:shared], w.entries.bytes(w.entries.number())...)
	for i := range w.was {
		w.was[i] = w.entries.number()
	}
	w.flags = w.entries.number()
}

// step is an entry of a directory, or what lies below it: the two stand apart in the
// order of paths, in which "a-b" comes between "a" and "a/c".
type step struct {
	key   string
	info  *fsys.Info
	below bool
}

func (w *resting) walk(name, at string, depth int) bool {
	if w.ctx.Err() != nil || depth > maxDepth {
		return false
	}
	infos, err := w.fs.ReadDir(name)
	if w.seen += len(infos); err != nil || w.seen > maxEntries {
		return false
	}
	all := make([]step, 0, 2*len(infos))
	steps := make([]*step, 0, 2*len(infos))
	for i := range infos {
		all = append(all, step{key: infos[i].Name, info: &infos[i]})
		steps = append(steps, &all[len(all)-1])
		if infos[i].Type == fsys.TypeDir && !infos[i].Mount {
			all = append(all, step{key: infos[i].Name + "/", info: &infos[i], below: true})
			steps = append(steps, &all[len(all)-1])
		}
	}
	slices.SortFunc(steps, func(a, b *step) int { return strings.Compare(a.key, b.key) })
	for _, s := range steps {
		p := s.info.Name
		if at != "" {
			p = at + "/" + p
		}
		if s.below && !w.walk(path.Join(name, s.info.Name), p, depth+1) || !s.below && !w.fits(manifest.Path(p), s.info) {
			return false
		}
	}
	return true
}

// fits reports whether what lies at p is what the index saw there, or nobody's business.
func (w *resting) fits(p manifest.Path, i *fsys.Info) bool {
	n := node(p, i)
	if age := w.now - n.Ctime; w.live && !n.IsDir() && age >= 0 && age < Tick && n.Ctime%second != 0 {
		return false
	}
	if w.left >= 0 && string(w.path) == string(p) {
		ok := !n.Foreign() && stamps(n) == w.was && w.flags&racy == 0
		w.next()
		return ok
	}
	switch {
	case len(p) > maxPath || manifest.CheckPath(p) != nil:
		return false
	case n.Foreign() && (w.live || n.kind != kindOther):
		w.rest.Foreign = append(w.rest.Foreign, p)
		return true
	}
	return w.m.IsIgnored(p)
}
