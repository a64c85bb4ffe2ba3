package tree

import (
	"context"
	"path"
	"sort"

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
	w := &resting{ctx: ctx, fs: fs, root: root, m: m, live: live, now: now, index: x.read()}
	w.index.next()
	if !w.walk(root, "", 0) || w.index.more || w.index.Err() != nil {
		return nil
	}
	return &w.rest
}

// resting walks a tree in the order of the paths in an index, and reads that beside it.
type resting struct {
	ctx  context.Context
	fs   fsys.FS
	root string
	m    *manifest.Manifest
	live bool
	now  int64
	rest Rest

	index *entryReader
	seen  int // nodes
}

// step is an entry of a directory, or what lies below it: the two stand apart in the
// order of paths, in which "a-b" comes between "a" and "a/c".
type step struct {
	key   string
	info  *fsys.Info
	below bool
}

// steps returns what lies in a directory, and what below it, in the order of their paths.
func steps(infos []fsys.Info) []step {
	list := make([]step, 0, len(infos))
	for i := range infos {
		list = append(list, step{key: infos[i].Name, info: &infos[i]})
	}
	for i := range infos {
		if infos[i].Type == fsys.TypeDir && !infos[i].Mount {
			list = append(list, step{key: infos[i].Name + "/", info: &infos[i], below: true})
		}
	}
	if len(list) > len(infos) { // else they are in order
		sort.Slice(list, func(i, j int) bool { return list[i].key < list[j].key })
	}
	return list
}

func (w *resting) walk(name, at string, depth int) bool {
	if w.ctx.Err() != nil || depth > maxDepth {
		return false
	}
	infos, err := w.fs.ReadDir(name)
	if w.seen += len(infos); err != nil || w.seen > maxEntries {
		return false
	}
	for _, s := range steps(infos) {
		if !s.below {
			if !w.fits(at, s.info) {
				return false
			}
		} else if !w.walk(path.Join(name, s.info.Name), string(below(at, s.info.Name)), depth+1) {
			return false
		}
	}
	return true
}

// below returns the path of an entry of the directory at, "" for the root.
func below(at, name string) manifest.Path {
	if at == "" {
		return manifest.Path(name)
	}
	return manifest.Path(at + "/" + name)
}

// fits reports whether what lies in the directory at is what the index saw there, or
// nobody's business.
func (w *resting) fits(at string, i *fsys.Info) bool {
	var n Node
	n.set("", i)
	if age := w.now - n.Ctime; w.live && !n.IsDir() && age >= 0 && age < Tick && n.Ctime%second != 0 {
		return false
	}
	if x := w.index; x.more && isAt(x.path, at, i.Name) {
		ok := !n.Foreign() && stamps(&n) == x.was && x.flags&racy == 0 && (x.flags&bare == 0 || w.isBare(below(at, i.Name)))
		x.next()
		return ok
	}
	p := below(at, i.Name)
	switch {
	case !named(p):
		return false
	case n.Foreign() && (w.live || n.kind != kindOther):
		w.rest.Foreign = append(w.rest.Foreign, p)
		return true
	}
	return w.m.IsIgnored(p)
}

// isBare reports whether the directory p has no extended attributes.
func (w *resting) isBare(p manifest.Path) bool {
	xattrs, err := w.fs.Xattrs(w.root + "/" + string(p))
	return err == nil && len(xattrs) == 0
}

// isAt reports whether path is that of what has that name in the directory at.
func isAt(path []byte, at, name string) bool {
	if at == "" {
		return string(path) == name
	}
	n := len(at)
	return len(path) == n+1+len(name) && string(path[:n]) == at && path[n] == '/' && string(path[n+1:]) == name
}
