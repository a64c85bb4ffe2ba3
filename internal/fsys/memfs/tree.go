package memfs

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"tandem/internal/fsys"
)

// tree is a directory of a disk as a fsys.FS.
type tree struct {
	d   *Disk
	dir string
}

// place is where a name leads to. Without an entry there, ino is 0.
type place struct {
	dir  uint64
	name string
	ino  uint64
}

func (t *tree) rel(name string) string {
	switch {
	case t.dir == ".":
		return name
	case name == ".":
		return t.dir
	}
	return t.dir + "/" + name
}

func (t *tree) Path(name string) string { return t.d.path(t.rel(name)) }

// do runs f as an operation of the program that is tested.
func (t *tree) do(op, name string, f func() error) error {
	if err := t.d.m.ask(op, t, name); err != nil {
		return &fs.PathError{Op: op, Path: t.Path(name), Err: err}
	}
	return t.run(op, name, f)
}

// run runs f with the machine locked and powered, and adds operation and path to
// its error.
func (t *tree) run(op, name string, f func() error) error {
	m := t.d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	err := error(ErrPowerCut)
	if !m.off {
		err = f()
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: t.Path(name), Err: err}
	}
	return nil
}

// do2 is do for an operation on two names.
func (t *tree) do2(op, a, b string, f func() error) error {
	err := t.do(op, b, f)
	if pe, ok := err.(*fs.PathError); ok {
		return &os.LinkError{Op: op, Old: a, New: t.Path(b), Err: pe.Err}
	}
	return err
}

// find follows name, which never leads through a symbolic link or a mount.
func (t *tree) find(name string) (place, error) {
	if !fsys.ValidName(name) {
		return place{}, syscall.EINVAL
	}
	p := place{dir: rootIno, name: ".", ino: rootIno}
	full := t.rel(name)
	if full == "." {
		return p, nil
	}
	above := 0
	if t.dir != "." {
		above = 1 + strings.Count(t.dir, "/")
	}
	i := -1
	for elem := range strings.SplitSeq(full, "/") {
		i++
		n := t.d.inodes[p.ino]
		switch {
		case n == nil:
			return place{}, syscall.ENOENT
		case n.typ == fsys.TypeSymlink, n.mount && i > above:
			return place{}, fsys.ErrElsewhere
		case n.typ != fsys.TypeDir:
			return place{}, syscall.ENOTDIR
		case len(elem) > 255:
			return place{}, syscall.ENAMETOOLONG
		}
		p = place{dir: p.ino, name: elem, ino: n.entries[elem]}
	}
	return p, nil
}

// get finds what must exist.
func (t *tree) get(name string) (place, *inode, error) {
	p, err := t.find(name)
	if err != nil {
		return p, nil, err
	}
	n := t.d.inodes[p.ino]
	if n == nil {
		return p, nil, syscall.ENOENT
	}
	return p, n, nil
}

// regular finds what must be a regular file.
func (t *tree) regular(name string) (place, error) {
	p, n, err := t.get(name)
	if err != nil {
		return p, err
	}
	switch {
	case n.typ == fsys.TypeFile:
		return p, nil
	case n.mount, n.typ == fsys.TypeSymlink:
		return p, fsys.ErrElsewhere
	case n.typ == fsys.TypeDir:
		return p, syscall.EISDIR
	}
	return p, syscall.EINVAL
}

// directory finds what must be a directory.
func (t *tree) directory(name string) (place, *inode, error) {
	p, n, err := t.get(name)
	switch {
	case err != nil:
		return p, n, err
	case n.typ == fsys.TypeSymlink, n.mount && name != ".":
		return p, n, fsys.ErrElsewhere
	case n.typ != fsys.TypeDir:
		return p, n, syscall.ENOTDIR
	}
	return p, n, nil
}

// movable reports what keeps the entry p from being renamed or removed.
func (t *tree) movable(p place) error {
	n, dir := t.d.inodes[p.ino], t.d.inodes[p.dir]
	switch {
	case n != nil && n.mount:
		return syscall.EBUSY
	case n != nil && n.fixed, dir.fixed:
		return syscall.EPERM
	}
	return nil
}

func (t *tree) info(name string, ino uint64) fsys.Info {
	n := t.d.inodes[ino]
	i := fsys.Info{
		Name: name, Type: n.typ, Mode: n.attr.mode, UID: n.attr.uid, GID: n.attr.gid,
		Mtime: n.attr.mtime, Ctime: n.attr.ctime, Dev: t.d.dev, Ino: ino, Nlink: uint64(n.nlink),
		Mount: n.mount, Fixed: n.fixed,
	}
	switch n.typ {
	case fsys.TypeFile:
		i.Size = int64(len(n.data))
		i.Alloc = n.blocks() * blockSize
	case fsys.TypeSymlink:
		i.Size = int64(len(n.target))
	case fsys.TypeDir:
		i.Size = blockSize
		i.Nlink = 2
		for _, c := range n.entries {
			if t.d.inodes[c].typ == fsys.TypeDir {
				i.Nlink++
			}
		}
	}
	return i
}

func (t *tree) Lstat(name string) (info fsys.Info, err error) {
	err = t.do("lstat", name, func() error {
		p, _, err := t.get(name)
		if err != nil {
			return err
		}
		info = t.info(path.Base(name), p.ino)
		info.Mount = info.Mount && name != "."
		return nil
	})
	return info, err
}

// ReadDir describes one entry after the other, as Linux does: others may come
// between.
func (t *tree) ReadDir(name string) ([]fsys.Info, error) {
	var dir uint64
	var names []string
	err := t.do("readdir", name, func() error {
		p, n, err := t.directory(name)
		if err != nil {
			return err
		}
		dir, names = p.ino, slices.Sorted(maps.Keys(n.entries))
		return nil
	})
	if err != nil {
		return nil, err
	}
	infos := make([]fsys.Info, 0, len(names))
	failed := fsys.EntryErrors{}
	for _, e := range names {
		err := t.do("entry", path.Join(name, e), func() error {
			if n := t.d.inodes[dir]; n != nil && n.entries[e] != 0 {
				infos = append(infos, t.info(e, n.entries[e]))
			}
			return nil
		})
		switch {
		case fsys.IsTransient(err), errors.Is(err, ErrPowerCut):
			return nil, err
		case err != nil:
			failed[e] = err
		}
	}
	if len(failed) > 0 {
		return infos, failed
	}
	return infos, nil
}

func (t *tree) Readlink(name string) (target string, err error) {
	err = t.do("readlink", name, func() error {
		_, n, err := t.get(name)
		if err != nil {
			return err
		}
		if n.typ != fsys.TypeSymlink {
			return syscall.EINVAL
		}
		target = n.target
		return nil
	})
	return target, err
}

func (t *tree) Xattrs(name string) (xattrs map[string][]byte, err error) {
	err = t.do("xattrs", name, func() error {
		_, n, err := t.get(name)
		if err == nil && n.mount {
			err = fsys.ErrElsewhere
		}
		if err != nil {
			return err
		}
		xattrs = cloneXattrs(n.attr.xattrs)
		return nil
	})
	return xattrs, err
}

func cloneXattrs(x map[string][]byte) map[string][]byte {
	if len(x) == 0 {
		return nil
	}
	c := make(map[string][]byte, len(x))
	for k, v := range x {
		c[k] = bytes.Clone(v)
	}
	return c
}

func (t *tree) Open(name string) (fsys.File, error) {
	var f *file
	err := t.do("open", name, func() error {
		p, err := t.regular(name)
		if err != nil {
			return err
		}
		f = t.handle(name, p.ino, false)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (t *tree) handle(name string, ino uint64, write bool) *file {
	t.d.open[ino]++
	return &file{t: t, name: name, ino: ino, write: write, boot: t.d.m.boots}
}

// create makes a new inode and its entry.
func (t *tree) create(op, name string, typ fsys.Type, mode uint32, target string) (uint64, error) {
	d := t.d
	p, err := t.find(name)
	if err != nil {
		return 0, err
	}
	if p.ino != 0 || name == "." {
		return 0, syscall.EEXIST
	}
	if d.inodes[p.dir].fixed {
		return 0, syscall.EPERM
	}
	n := &inode{epoch: d.m.epoch, typ: typ, target: target}
	if typ == fsys.TypeDir {
		n.entries = make(map[string]uint64)
	}
	if err := d.writable(1, n.blocks()); err != nil {
		return 0, err
	}
	if f := d.step(op, t.rel(name)); f.err != nil {
		return 0, f.err
	}
	n.attr = attr{mode: mode & 0o7777, mtime: d.time(d.m.now), ctime: d.time(d.m.now)}
	n.synced = n.attr
	d.lastIno++
	d.inodes[d.lastIno] = n
	d.blocks += n.blocks()
	d.count++
	d.commit(change{edits: []edit{{dir: p.dir, name: p.name, to: d.lastIno}}})
	return d.lastIno, nil
}

func (t *tree) Create(name string, mode uint32) (fsys.File, error) {
	var f *file
	err := t.do("create", name, func() error {
		ino, err := t.create("create", name, fsys.TypeFile, mode, "")
		if err != nil {
			return err
		}
		f = t.handle(name, ino, true)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (t *tree) Mkdir(name string, mode uint32) error {
	return t.do("mkdir", name, func() error {
		_, err := t.create("mkdir", name, fsys.TypeDir, mode, "")
		return err
	})
}

func (t *tree) Symlink(target, name string) error {
	return t.do2("symlink", target, name, func() error {
		if target == "" {
			return syscall.ENOENT
		}
		_, err := t.create("symlink", name, fsys.TypeSymlink, 0o777, target)
		return err
	})
}

func (t *tree) Link(oldname, newname string) error {
	return t.do2("link", t.Path(oldname), newname, func() error {
		old, n, err := t.get(oldname)
		if err != nil {
			return err
		}
		p, err := t.find(newname)
		switch {
		case err != nil:
			return err
		case p.ino != 0:
			return syscall.EEXIST
		case n.mount:
			return syscall.EXDEV
		case n.typ == fsys.TypeDir, n.fixed, t.d.inodes[p.dir].fixed:
			return syscall.EPERM
		}
		if err := t.d.writable(0, 0); err != nil {
			return err
		}
		if f := t.d.step("link", t.rel(oldname), t.rel(newname)); f.err != nil {
			return f.err
		}
		t.d.commit(change{link: true, edits: []edit{{dir: p.dir, name: p.name, to: old.ino}}})
		return nil
	})
}

// two finds what a rename is about. Neither root can be moved.
func (t *tree) two(a, b string) (from, to place, err error) {
	if from, _, err = t.get(a); err != nil {
		return
	}
	if to, err = t.find(b); err != nil {
		return
	}
	if a == "." || b == "." {
		err = syscall.EBUSY
	}
	return from, to, cmp.Or(err, t.movable(from), t.movable(to))
}

func (t *tree) Rename(oldname, newname string) error {
	return t.do2("rename", t.Path(oldname), newname, func() error {
		d := t.d
		from, to, err := t.two(oldname, newname)
		if err != nil {
			return err
		}
		if from.ino == to.ino {
			return nil
		}
		if d.within(to.dir, from.ino) {
			return syscall.EINVAL
		}
		if old := d.inodes[to.ino]; old != nil {
			moved := d.inodes[from.ino].typ == fsys.TypeDir
			switch {
			case moved && old.typ != fsys.TypeDir:
				return syscall.ENOTDIR
			case !moved && old.typ == fsys.TypeDir:
				return syscall.EISDIR
			case len(old.entries) > 0:
				return syscall.ENOTEMPTY
			}
		}
		if err := d.writable(0, 0); err != nil {
			return err
		}
		if f := d.step("rename", t.rel(oldname), t.rel(newname)); f.err != nil {
			return f.err
		}
		d.commit(change{edits: []edit{
			{dir: from.dir, name: from.name, from: from.ino},
			{dir: to.dir, name: to.name, from: to.ino, to: from.ino},
		}})
		return nil
	})
}

func (t *tree) Exchange(a, b string) error {
	return t.do2("exchange", t.Path(a), b, func() error {
		d := t.d
		if d.opts.NoExchange {
			return syscall.ENOTSUP
		}
		from, to, err := t.two(a, b)
		if err != nil {
			return err
		}
		if to.ino == 0 {
			return syscall.ENOENT
		}
		if from.ino == to.ino {
			return nil
		}
		if d.within(to.dir, from.ino) || d.within(from.dir, to.ino) {
			return syscall.EINVAL
		}
		if err := d.writable(0, 0); err != nil {
			return err
		}
		if f := d.step("exchange", t.rel(a), t.rel(b)); f.err != nil {
			return f.err
		}
		d.commit(change{edits: []edit{
			{dir: from.dir, name: from.name, from: from.ino, to: to.ino},
			{dir: to.dir, name: to.name, from: to.ino, to: from.ino},
		}})
		return nil
	})
}

func (t *tree) Remove(name string) error {
	return t.do("remove", name, func() error {
		p, n, err := t.get(name)
		switch {
		case err != nil:
			return err
		case name == ".":
			return syscall.EBUSY
		case t.movable(p) != nil:
			return t.movable(p)
		case len(n.entries) > 0:
			return syscall.ENOTEMPTY
		}
		if err := t.d.writable(0, 0); err != nil {
			return err
		}
		if f := t.d.step("remove", t.rel(name)); f.err != nil {
			return f.err
		}
		t.d.commit(change{edits: []edit{{dir: p.dir, name: p.name, from: p.ino}}})
		return nil
	})
}

func (t *tree) SetAttr(name string, a fsys.Attr, was fsys.Info) error {
	return t.do("setattr", name, func() error {
		p, n, err := t.get(name)
		switch {
		case err != nil:
			return err
		case n.mount && name != ".":
			return fsys.ErrElsewhere
		case was.Type == fsys.TypeOther:
			return syscall.EINVAL
		case !was.Same(t.info("", p.ino)):
			return fsys.ErrReplaced
		}
		return t.setAttr(name, p.ino, a)
	})
}

func (t *tree) setAttr(name string, ino uint64, a fsys.Attr) error {
	d, n := t.d, t.d.inodes[ino]
	want := attr{mode: a.Mode & 0o7777, uid: a.UID, gid: a.GID, mtime: d.time(a.Mtime), ctime: n.attr.ctime, xattrs: n.attr.xattrs}
	if n.typ == fsys.TypeSymlink {
		want.mode = n.attr.mode
	}
	if a.Xattrs != nil && n.typ != fsys.TypeSymlink {
		want.xattrs = cloneXattrs(a.Xattrs)
	}
	if want.equal(n.attr) {
		return nil
	}
	if err := d.writable(0, 0); err != nil {
		return err
	}
	if n.fixed {
		return syscall.EPERM
	}
	if d.opts.NoXattrs && len(want.xattrs) > 0 {
		return syscall.ENOTSUP
	}
	if f := d.step("setattr", t.rel(name)); f.err != nil {
		return f.err
	}
	d.mut(ino).attr = want
	d.change(ino)
	return nil
}

func (a attr) equal(b attr) bool {
	return a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && a.mtime == b.mtime && a.ctime == b.ctime &&
		maps.EqualFunc(a.xattrs, b.xattrs, bytes.Equal)
}

func (t *tree) Space() (s fsys.Space, err error) {
	err = t.do("statfs", ".", func() error {
		d := t.d
		s = fsys.Space{Free: d.room() * blockSize, Total: cmp.Or(d.opts.Capacity, plenty), Inodes: -1, BlockSize: blockSize}
		if d.opts.Quota {
			s.Free, s.Total = plenty, plenty
		}
		if d.opts.Inodes > 0 {
			s.Inodes = max(d.opts.Inodes-d.count, 0)
		}
		return nil
	})
	return s, err
}
