package backup

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/sirupsen/logrus"

	"tandem/internal/fsys"
	"tandem/versioning"
)

// ErrInPlace says that a release fits only when it is written over what is
// there. It wraps ErrNoSpace.
var ErrInPlace = fmt.Errorf("%w for two versions", ErrNoSpace)

// room is an amount of space.
type room struct{ bytes, entries int64 }

func (a room) plus(b room) room { return room{a.bytes + b.bytes, a.entries + b.entries} }

// fits says whether need has its place in a. Negative entries are not counted
// by the file system.
func (a room) fits(need room, counted bool) bool {
	return need.bytes <= a.bytes && (!counted || need.entries <= a.entries)
}

// tight is what is left when begin found too little room: first to give up
// what was kept for a rollback, then to write in place. In place the side is
// no version at all until it is done, so inPlace has to agree: it returns nil
// only while the other side is verified whole.
//
// With an error that wraps ErrNoSpace or ErrInPlace nothing was touched.
func (st *staging) tight(ctx context.Context, short *SpaceError, log logrus.FieldLogger, inPlace func() error) error {
	counted := short.FreeEntries >= 0
	have := room{short.FreeBytes, short.FreeEntries}
	kept, links, err := st.keptAside()
	if err != nil {
		return err
	}
	if kept.bytes > 0 && have.plus(kept).fits(room{short.NeedBytes, short.NeedEntries}, counted) {
		log.WithField("side", st.side.Name).Warn("not enough space: the previous version is given up")
		if err := st.dropKept(); err != nil {
			return err
		}
		return st.begin()
	}
	if st.snap.tree == nil || st.snap.Nested || st.snap.noDir {
		return short
	}
	direct := *st
	direct.wanted, direct.links, direct.direct = nil, nil, true
	if err := direct.planPatch(ctx); err != nil {
		return err
	}
	need, err := direct.need()
	if err != nil {
		return err
	}
	if !have.plus(kept).plus(direct.reclaimed(links)).fits(room{need.NeedBytes, need.NeedEntries}, counted) {
		return short
	}
	if err := inPlace(); err != nil {
		return err
	}
	log.WithField("side", st.side.Name).Warn("not enough space for two versions: writing in place; until that is done only the other side has the application")
	*st = direct
	return st.beginDirect()
}

// keptAside says what giving up previous and damaged trees would free, and
// how many names each inode has there.
func (st *staging) keptAside() (room, map[uint64]uint64, error) {
	var r room
	links := map[uint64]uint64{}
	var walk func(name string) error
	files := map[uint64]fsys.Info{}
	walk = func(name string) error {
		infos, err := st.side.FS.ReadDir(name)
		if fsys.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, i := range infos {
			if i.Type == fsys.TypeDir {
				r.entries++
				if err := walk(path.Join(name, i.Name)); err != nil {
					return err
				}
				continue
			}
			links[i.Ino]++
			files[i.Ino] = i
		}
		return nil
	}
	for _, dir := range []string{prevDir, damagedDir} {
		if err := walk(dir); err != nil {
			return r, nil, err
		}
	}
	for ino, i := range files {
		if links[ino] >= i.Nlink {
			r.bytes += i.Alloc
			r.entries++
		}
	}
	return r, links, nil
}

// dropKept removes what was kept for a rollback. After a power cut some of it
// may be left.
func (st *staging) dropKept() error {
	for _, dir := range []string{prevDir, damagedDir} {
		if err := fsys.RemoveAll(st.side.FS, dir); err != nil {
			return err
		}
	}
	return st.side.FS.Sync() // some file systems give space back only then
}

// reclaimed says what writing in place frees before it writes. links has the
// names of inodes that go anyway.
func (st *staging) reclaimed(links map[uint64]uint64) room {
	var r room
	gone := func(p Path) {
		f := st.snap.tree.get(p)
		if f == nil || f.kind == kindDir {
			return
		}
		links[f.ino]++
		if links[f.ino] == uint64(f.nlink) {
			r.bytes += f.alloc
			r.entries++
		}
	}
	for _, p := range st.patch.Remove {
		gone(p)
	}
	for i := range st.patch.Put {
		gone(st.patch.Put[i].Entry.Path)
	}
	return r
}

// beginDirect takes the tag away, then what has to go. From here until
// sealDirect is done the side is an unfinished copy; what of it is right
// already is found again by its hashes.
func (st *staging) beginDirect() error {
	fs := st.side.FS
	if err := fsys.RemoveAll(fs, tagFile); err != nil {
		return err
	}
	if err := fs.SyncDir("."); err != nil {
		return err
	}
	if err := discard(fs); err != nil {
		return err
	}
	if err := st.dropKept(); err != nil {
		return err
	}
	for _, p := range st.patch.Remove {
		if err := removeLeaf(fs, app(".", p)); err != nil {
			return err
		}
	}
	for i := range st.patch.Put {
		if e := st.patch.Put[i].Entry; e.Type != Dir || st.snap.tree.get(e.Path) != nil {
			if err := fsys.RemoveAll(fs, app(".", e.Path)); err != nil {
				return err
			}
		}
	}
	if err := fs.Sync(); err != nil { // gives the space back
		return err
	}
	if err := fsys.MkdirAll(fs, appsDir, 0o755); err != nil {
		return err
	}
	for i := range st.patch.Put {
		var err error
		switch e := st.patch.Put[i].Entry; e.Type {
		case Dir:
			err = fs.Mkdir(app(".", e.Path), 0o700)
		case Symlink:
			err = st.symlink(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeLeaf removes a file or an empty directory. A directory that holds what
// is not ours to remove stays.
func removeLeaf(fs fsys.FS, name string) error {
	info, err := fs.Lstat(name)
	if err == nil && info.Type == fsys.TypeDir {
		if left, err := fs.ReadDir(name); err == nil && len(left) > 0 {
			return nil
		}
	}
	if err == nil {
		err = fs.Remove(name)
	}
	if fsys.IsNotExist(err) {
		return nil
	}
	return err
}

// sealDirect ends what beginDirect began: the files are made durable, then
// the record is written, then the tag.
func (st *staging) sealDirect() error {
	fs := st.side.FS
	for i := range st.patch.Put {
		if e := st.patch.Put[i].Entry; e.Type == Hardlink {
			if err := fs.Link(app(".", e.Link), app(".", e.Path)); err != nil {
				return err
			}
		}
	}
	for i := range st.patch.Attr {
		if e := st.patch.Attr[i]; e.Type != Dir {
			if err := setAttrOf(fs, app(".", e.Path), e.attr()); err != nil {
				return err
			}
		}
	}
	if err := st.setDirs("."); err != nil {
		return err
	}
	if !st.batch {
		if err := st.syncEach(func(p Path) string { return app(".", p) }); err != nil {
			return err
		}
		if err := syncDirs(fs, appsDir, "."); err != nil {
			return err
		}
	}
	if err := fs.Sync(); err != nil {
		return err
	}
	if err := ownPlace(fs, recordFile); err != nil {
		return err
	}
	if err := fsys.WriteFileFrom(fs, recordFile, 0o644, st.writeRecord); err != nil {
		return err
	}
	return versioning.WriteTag(fs, tagFile, st.record.Manifest.Version)
}

// CouldHold says whether a side could hold a version of so many bytes at all,
// were it written over what is there: what is not worth downloading is not
// downloaded. The error wraps ErrNoSpace.
func (r *Reconciler) CouldHold(name SideName, bytes int64) error {
	side := r.System
	if name == UsrData {
		side = r.UsrData
	}
	if side.ready() != nil {
		return nil // that is told elsewhere
	}
	space, err := side.FS.Space()
	if err != nil {
		return sideError(side, err)
	}
	have := space.Free
	seen := map[uint64]bool{}
	for _, dir := range []string{appsDir, ownDir} {
		n, err := allocated(side.FS, dir, seen)
		if err != nil {
			return sideError(side, err)
		}
		have += n
	}
	if bytes > have {
		return sideError(side, &SpaceError{Path: side.FS.Path("."), NeedBytes: bytes, FreeBytes: have, FreeEntries: -1})
	}
	return nil
}

// allocated says what the files below dir take, each inode once.
func allocated(fs fsys.FS, dir string, seen map[uint64]bool) (int64, error) {
	infos, err := fs.ReadDir(dir)
	if fsys.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var total int64
	for _, i := range infos {
		if i.Type == fsys.TypeDir {
			n, err := allocated(fs, path.Join(dir, i.Name), seen)
			if err != nil {
				return 0, err
			}
			total += n
		} else if !seen[i.Ino] {
			seen[i.Ino] = true
			total += i.Alloc
		}
	}
	return total, nil
}

// whole says whether side holds all of record, every byte read.
func (r *Reconciler) whole(ctx context.Context, side SideName, record *Record) error {
	in := newInspector(r.now(), Options{Full: true})
	system, usrData, err := in.look(ctx, r.System, r.UsrData)
	if err != nil {
		return err
	}
	snap := system
	if side == UsrData {
		snap = usrData
	}
	if !snap.usable() || snap.Nested {
		return fmt.Errorf("%s is %s", side, snap.State)
	}
	if record == nil {
		record = snap.basis
	}
	for e := range record.entries() {
		m, err := snap.holds(ctx, e, in.buf)
		if err != nil {
			return err
		}
		if m != matches && m != attrDiffers {
			return &staleError{side, e.Path, errContent} // decide once more, knowing that
		}
	}
	return nil
}

// makeRoom begins st in whatever way there is room for. record is what the
// other side must hold for writing in place; nil means its own version.
func (r *Reconciler) makeRoom(ctx context.Context, st *staging, record *Record) error {
	err := st.begin()
	var short *SpaceError
	if !errors.As(err, &short) {
		return err
	}
	return st.tight(ctx, short, r.Log, func() error {
		if err := r.whole(ctx, st.side.Name.Other(), record); err != nil {
			return fmt.Errorf("%w; writing in place needs the other side whole: %w", short, err)
		}
		return nil
	})
}
