package backup

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// staleError says that a file is not what the plan took it for: it is damaged,
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

var errContent = errors.New("content does not match its sha256")

// staging is a version being built in next/ of a side. Nothing outside next/
// is touched before seal.
type staging struct {
	side    *Side
	snap    *Snapshot
	record  *Record
	patch   *commit // what is to be put in place; nil if the whole tree is swapped
	buf     []byte
	wanted  []wanted          // files whose content is to come, sorted by path
	links   []linked          // files that are linked from a tree of this side
	files   map[Path]string   // names of a patch's staged content
	direct  bool              // written over what is there, for want of room
	holes   int               // damaged files of a patch that nobody can mend
	batch   bool              // one Sync at the end makes all durable
	awaited func(*Entry) bool // whether a wanted file comes from elsewhere than the sides; may be nil
	sum     digest.SHA256     // that the record is sealed with, once it is
	report  func(bytes int64)

	committed bool // commit.json was durable: also where it is gone, it may come back with a power cut
}

// wanted is a file whose content is to come.
type wanted struct {
	*Entry
	alloc int64 // what it takes on the disk, in bytes: less than its size if it has holes
	given bool
}

// planStaging works out what it takes to bring a side, of which snap was
// taken, to record. It touches nothing.
func planStaging(ctx context.Context, side *Side, snap *Snapshot, record *Record, buf []byte) (*staging, error) {
	st := &staging{side: side, snap: snap, record: record, buf: buf, batch: side.FS.SyncReports()}
	if snap.usable() && !snap.Nested && !snap.noDir && snap.Version.String() == record.Manifest.Version.String() {
		return st, st.planPatch(ctx)
	}
	return st, st.planSwap(ctx)
}

// begin checks the room, then prepares next/ for the files that are wanted.
// Nothing is touched when there is too little room.
func (st *staging) begin() error {
	if err := st.checkSpace(); err != nil || st.idle() {
		return err
	}
	if err := discard(st.side.FS); err != nil {
		return err
	}
	return st.prepare()
}

// idle says whether nothing but the record may have to be replaced.
func (st *staging) idle() bool {
	return st.patch != nil && len(st.patch.Remove)+len(st.patch.Put)+len(st.patch.Attr) == 0
}

// planSwap finds what of a whole new tree can be linked from the present one.
func (st *staging) planSwap(ctx context.Context) error {
	for e := range st.record.entries() {
		if e.Type != File {
			continue
		}
		linked, err := st.linkTo(ctx, st.snap, e)
		if err != nil {
			return err
		}
		if !linked {
			st.want(e)
		}
	}
	return nil
}

func (st *staging) want(e *Entry) { st.wanted = append(st.wanted, wanted{Entry: e, alloc: e.Size}) }

// wants gives the wanted file p; nil if it is not wanted.
func (st *staging) wants(p Path) *wanted {
	i, ok := slices.BinarySearchFunc(st.wanted, p, func(w wanted, p Path) int { return strings.Compare(string(w.Path), string(p)) })
	if !ok {
		return nil
	}
	return &st.wanted[i]
}

// linked is a file that is linked, and the tree it is linked from.
type linked struct {
	*Entry
	from *tree
}

// linkFrom links what donor, a tree of this side, has of the files that are
// still wanted.
func (st *staging) linkFrom(ctx context.Context, donor *Snapshot) error {
	if st.patch != nil {
		return nil
	}
	still := st.wanted[:0]
	for _, w := range st.wanted {
		linked, err := st.linkTo(ctx, donor, w.Entry)
		if err != nil {
			return err
		}
		if !linked {
			still = append(still, w)
		}
	}
	st.wanted = still
	return nil
}

// linkTo plans to link the file of e from donor, if that has it with the same
// content and attributes. Configuration on system is copied all the same,
// because the application writes it in place, and previous must not change
// with it; nobody writes on usr_data.
func (st *staging) linkTo(ctx context.Context, donor *Snapshot, e *Entry) (bool, error) {
	if st.side.Name == System && st.record.Manifest.isConfig(e.Path) {
		return false, nil
	}
	m, err := donor.holds(ctx, e, st.buf)
	if err != nil || m != matches {
		return false, err
	}
	st.links = append(st.links, linked{e, donor.tree})
	return true, nil
}

// planPatch finds which single files of the tree have to change.
func (st *staging) planPatch(ctx context.Context) error {
	st.patch, st.files = &commit{}, map[Path]string{}
	for e := range st.record.entries() {
		if st.snap.leave(e.Path) {
			continue
		}
		m, err := st.snap.holds(ctx, e, st.buf)
		switch {
		case err != nil:
			return err
		case m == matches:
			continue
		case m == attrDiffers:
			st.patch.Attr = append(st.patch.Attr, e)
			continue
		}
		put := place{Entry: e}
		st.see(e.Path)
		if e.Type == File || e.Type == Symlink {
			put.File = strconv.Itoa(len(st.patch.Put))
			st.files[e.Path] = put.File
		}
		if e.Type == File {
			st.want(e)
		}
		st.patch.Put = append(st.patch.Put, put)
	}
	for _, f := range slices.Backward(st.snap.tree.found) {
		p := f.path
		if f.kind != kindOther && st.record.find(p) == nil && !st.record.Manifest.isIgnored(p) && !st.snap.leave(p) {
			st.patch.Remove = append(st.patch.Remove, p)
			st.see(p)
		}
	}
	return nil
}

// see notes what is to be replaced or removed, where an application may write.
func (st *staging) see(p Path) {
	if st.side.Name != System {
		return
	}
	if st.patch.seen == nil {
		st.patch.seen = map[Path]*found{}
	}
	st.patch.seen[p] = st.snap.tree.get(p)
}

// SpaceError says how much room a change needs and how much there is. It
// wraps ErrNoSpace.
type SpaceError struct {
	Path                     string
	NeedBytes, FreeBytes     int64
	NeedEntries, FreeEntries int64
}

func (e *SpaceError) Error() string {
	if e.FreeEntries >= 0 && e.NeedEntries > e.FreeEntries {
		return fmt.Sprintf("%s: %v: needs %d new files, the file system has room for %d", e.Path, ErrNoSpace, e.NeedEntries, e.FreeEntries)
	}
	return fmt.Sprintf("%s: %v: needs %d bytes, %d are free", e.Path, ErrNoSpace, e.NeedBytes, e.FreeBytes)
}

func (e *SpaceError) Unwrap() error { return ErrNoSpace }

// recordEntry is what an entry takes in record.json and commit.json, in bytes;
// generous, names are short.
const recordEntry = 512

func (st *staging) checkSpace() error {
	need, err := st.need()
	if err == nil && need.NeedBytes > need.FreeBytes {
		// UBIFS guesses what is not written out yet, and guesses low.
		if err := st.side.FS.Sync(); err != nil {
			return err
		}
		need, err = st.need()
	}
	if err != nil {
		return err
	}
	if need.NeedBytes > need.FreeBytes || need.FreeEntries >= 0 && need.NeedEntries > need.FreeEntries {
		return need
	}
	return nil
}

// need works out what the change takes, and what there is.
func (st *staging) need() (*SpaceError, error) {
	space, err := st.side.FS.Space()
	if err != nil {
		return nil, err
	}
	block := max(space.BlockSize, 1)
	round := func(n int64) int64 { return (n + block - 1) / block * block }
	need := &SpaceError{Path: st.snap.Path, FreeBytes: space.Free, FreeEntries: space.Inodes}
	for i := range st.wanted {
		need.NeedBytes += round(min(st.wanted[i].alloc, st.wanted[i].Size))
		need.NeedEntries++
	}
	if st.patch == nil {
		for e := range st.record.entries() {
			if e.Type != Hardlink && e.Type != File {
				need.NeedBytes += block
				need.NeedEntries++
			}
		}
	}
	if !st.idle() {
		need.NeedBytes += 2*round(int64(st.record.size())*recordEntry) + 4*block // record, commit, directories
		need.NeedEntries += 8
	}
	return need, nil
}

// staged gives the name in next/ for an entry.
func (st *staging) staged(p Path) string {
	switch {
	case st.direct:
		return app(".", p)
	case st.patch == nil:
		return app(nextDir, p)
	}
	return path.Join(nextDir, filesDir, st.files[p])
}

func (st *staging) prepare() error {
	fs := st.side.FS
	if err := fsys.MkdirAll(fs, nextDir, 0o755); err != nil {
		return err
	}
	if st.patch != nil {
		if err := fs.Mkdir(path.Join(nextDir, filesDir), 0o700); err != nil {
			return err
		}
		for i := range st.patch.Put {
			if e := st.patch.Put[i].Entry; e.Type == Symlink {
				if err := st.symlink(e); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, d := range []string{appsDir, oldDir} {
		if err := fs.Mkdir(path.Join(nextDir, d), 0o755); err != nil {
			return err
		}
	}
	for e := range st.record.entries() {
		var err error
		switch e.Type {
		case Dir:
			err = fs.Mkdir(app(nextDir, e.Path), 0o700)
		case Symlink:
			err = st.symlink(e)
		}
		if err != nil {
			return err
		}
	}
	for i := range st.links {
		e, from := st.links[i].Entry, st.links[i].from
		if err := fs.Link(from.name(e.Path), app(nextDir, e.Path)); err != nil {
			return err
		}
		if !sameMtime(from.get(e.Path).mtime, e.Mtime) {
			if err := setAttrOf(fs, app(nextDir, e.Path), e.attr()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (st *staging) symlink(e *Entry) error {
	name := st.staged(e.Path)
	if err := st.side.FS.Symlink(string(e.Target), name); err != nil {
		return err
	}
	return setAttrOf(st.side.FS, name, e.attr())
}

// Verified is content that hashes itself on its way: Read gives io.EOF only
// after content of that digest.
type Verified interface {
	io.Reader
	Verified() digest.SHA256
}

// give stages the content of a wanted file and checks it against the size and
// the digest of e.
func (st *staging) give(ctx context.Context, e *Entry, content io.Reader) error {
	fs, name := st.side.FS, st.staged(e.Path)
	f, err := fs.Create(name, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // of no consequence once it was closed below
	var h hash.Hash // nil where content does it
	if v, ok := content.(Verified); !ok || v.Verified() != *e.SHA256 {
		h = digest.New()
	}
	out := holeWriter{f: f}
	var n int64
	src := withContext(ctx, content)
	for {
		k, rerr := io.ReadFull(src, st.buf)
		if k > 0 {
			n += int64(k)
			if n > e.Size {
				return fmt.Errorf("%s: %w", e.Path, errContent)
			}
			if h != nil {
				h.Write(st.buf[:k])
			}
			if err := out.write(st.buf[:k]); err != nil {
				return err
			}
			if st.report != nil {
				st.report(int64(k))
			}
		}
		if rerr == io.EOF || rerr == io.ErrUnexpectedEOF {
			break
		}
		if rerr != nil {
			return rerr
		}
	}
	if err := out.end(); err != nil {
		return err
	}
	if n != e.Size || h != nil && digest.Sum(h) != *e.SHA256 {
		return fmt.Errorf("%s: %w", e.Path, errContent)
	}
	if err := setAttrOf(fs, name, e.freshAttr()); err != nil {
		return err
	}
	if !st.batch {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if w := st.wants(e.Path); w != nil {
		w.given = true
	}
	return f.Close()
}

// seal makes what was staged durable and puts it in place.
//
// After success the side is the new version, also after a power cut. After an
// error or a power cut it is either the old version or the new one; recovery
// finishes or discards what is left in next/. It says whether there was
// anything to write.
func (st *staging) seal(ctx context.Context) (wrote bool, err error) {
	if st.sum, err = st.record.sum(); err != nil {
		return false, err
	}
	if st.idle() && !st.direct {
		return st.replaceRecord()
	}
	if err := st.commit(ctx); err != nil {
		if _, e := st.side.FS.Lstat(commitFile); !st.committed && fsys.IsNotExist(e) {
			_ = st.discard() // makes room; where it fails, recovery does it
		}
		return false, err
	}
	return true, nil
}

// writeRecord writes the content of record.json.
func (st *staging) writeRecord(w io.Writer) error { return st.record.write(w, st.sum) }

func (st *staging) commit(ctx context.Context) error {
	fs := st.side.FS
	for i := range st.wanted {
		if w := &st.wanted[i]; !w.given {
			return fmt.Errorf("%w: %s: its content was never given", ErrInvalid, w.Path)
		}
	}
	if st.direct {
		return st.sealDirect()
	}
	if st.patch == nil {
		if err := st.completeTree(ctx); err != nil {
			return err
		}
	}
	if err := st.write(path.Join(nextDir, path.Base(recordFile)), st.writeRecord); err != nil {
		return err
	}
	c := &commit{}
	if st.patch != nil {
		c = st.patch
	} else {
		info, err := fs.Lstat(path.Join(nextDir, appsDir))
		if err != nil {
			return err
		}
		c.Apps = info.Ino
		c.Damaged = st.snap.State == Damaged && st.snap.Version.Compare(st.record.Manifest.Version) > 0
		if err := st.write(path.Join(nextDir, tagFile), st.writeTag); err != nil {
			return err
		}
	}
	c.Version = st.record.Manifest.Version
	if err := st.makeDurable(); err != nil {
		return err
	}
	data, err := c.encode()
	if err != nil {
		return err
	}
	if err := ownPlace(fs, commitFile); err != nil {
		return err
	}
	if err := fsys.WriteFile(fs, commitFile, data, 0o644); err != nil {
		return err
	}
	st.committed = true
	return c.finish(fs)
}

// replaceRecord is all there is to do when the files are right already.
func (st *staging) replaceRecord() (wrote bool, err error) {
	if st.sum == st.snap.ownSum || st.holes > 0 {
		return false, nil
	}
	fs := st.side.FS
	if err := ownPlace(fs, recordFile); err != nil {
		return false, err
	}
	// What the record says must be durable before the record is: these files
	// were written by others.
	if st.batch {
		err = fs.Sync()
	} else {
		err = st.syncEach(func(p Path) string { return app(".", p) })
	}
	if err != nil {
		return false, err
	}
	if err := fsys.WriteFileFrom(fs, recordFile, 0o644, st.writeRecord); err != nil {
		return false, err
	}
	return true, fs.SyncDir(".")
}

func (st *staging) syncEach(name func(Path) string) error {
	for e := range st.record.entries() {
		var err error
		switch e.Type {
		case File:
			err = syncFile(st.side.FS, name(e.Path))
		case Dir:
			err = st.side.FS.SyncDir(name(e.Path))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// write makes a file below next/. Where one Sync makes all of that durable, it
// is left to do so: nothing is told of these files before.
func (st *staging) write(name string, content func(io.Writer) error) error {
	if !st.batch {
		return fsys.WriteSynced(st.side.FS, name, 0o644, content)
	}
	f, err := st.side.FS.Create(name, 0o644)
	if err != nil {
		return err
	}
	defer f.Close() // of no consequence once it was closed below
	if err := content(f); err != nil {
		return err
	}
	return f.Close()
}

func (st *staging) writeTag(w io.Writer) error {
	_, err := w.Write(versioning.EncodeTag(st.record.Manifest.Version))
	return err
}

// completeTree adds what needs the files to be there: hard links, what the
// application keeps for itself, the attributes of directories.
func (st *staging) completeTree(ctx context.Context) error {
	fs := st.side.FS
	for e := range st.record.entries() {
		if e.Type == Hardlink {
			if err := fs.Link(app(nextDir, e.Link), app(nextDir, e.Path)); err != nil {
				return err
			}
		}
	}
	if err := st.carryOver(ctx); err != nil {
		return err
	}
	if err := st.setDirs(nextDir); err != nil {
		return err
	}
	if !st.snap.usable() || st.snap.Version.Compare(st.record.Manifest.Version) == 0 {
		return nil
	}
	for _, name := range []string{recordFile, tagFile} {
		if err := fs.Link(name, path.Join(nextDir, oldDir, path.Base(name))); err != nil && !fsys.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// setDirs sets the attributes of directories, those inside first: making
// entries in a directory changes its time.
func (st *staging) setDirs(version string) error {
	var dirs []*Entry
	for e := range st.record.entries() {
		if e.Type == Dir {
			dirs = append(dirs, e)
		}
	}
	for _, e := range slices.Backward(dirs) {
		if err := setAttrOf(st.side.FS, app(version, e.Path), e.attr()); err != nil {
			return err
		}
	}
	return nil
}

// carryOver brings along what is neither application file nor configuration:
// logs and sockets, which the application may have open at this moment. They
// are linked, so that it goes on writing to the same file.
func (st *staging) carryOver(ctx context.Context) error {
	if st.snap.tree == nil {
		return nil
	}
	fs := st.side.FS
	var dirs []*Entry
	carried := map[Path]bool{} // directories
	for _, f := range st.snap.tree.found {
		p := f.path
		if f.kind != kindOther && !st.record.Manifest.isIgnored(p) && !st.snap.leave(p) || st.record.find(p) != nil {
			continue
		}
		if dir := Path(path.Dir(string(p))); dir != "." && st.record.typeAt(dir) != Dir && !carried[dir] {
			continue // its directory went with the release that made it
		}
		if f.kind == kindDir {
			e, err := st.snap.tree.entry(ctx, f, false, st.buf)
			if err != nil {
				return err
			}
			if err := fs.Mkdir(app(nextDir, p), 0o700); err != nil {
				return err
			}
			carried[p] = true
			dirs = append(dirs, e)
			continue
		}
		if err := fs.Link(st.snap.tree.name(p), app(nextDir, p)); err != nil && !fsys.IsNotExist(err) {
			return err
		}
	}
	for _, e := range slices.Backward(dirs) {
		if err := setAttrOf(fs, app(nextDir, e.Path), e.attr()); err != nil {
			return err
		}
		if err := fs.SyncDir(app(nextDir, e.Path)); err != nil {
			return err
		}
	}
	return nil
}

// makeDurable syncs everything below next/, and the way to it.
func (st *staging) makeDurable() error {
	fs := st.side.FS
	if st.batch {
		return fs.Sync()
	}
	if st.patch == nil {
		if err := st.syncEach(func(p Path) string { return app(nextDir, p) }); err != nil {
			return err
		}
		if err := syncDirs(fs, path.Join(nextDir, appsDir), path.Join(nextDir, oldDir)); err != nil {
			return err
		}
	} else if err := fs.SyncDir(path.Join(nextDir, filesDir)); err != nil {
		return err
	}
	return syncDirs(fs, nextDir, ownDir, ".")
}

// discard removes what was staged. What cannot be removed is left to recovery.
func (st *staging) discard() error { return discard(st.side.FS) }

// fill gets every wanted file from where the sources have it.
func (st *staging) fill(ctx context.Context, src *sources) error {
	for i := range st.wanted {
		e := st.wanted[i].Entry
		if st.awaited != nil && st.awaited(e) {
			continue
		}
		from, ok := src.find(st.side.Name, e)
		if !ok {
			return &staleError{st.side.Name, e.Path, errors.New("no side has it any more")}
		}
		from.live = st.side.Name == UsrData && from.side == System && from.path == e.Path && from.snap.edited[e.Path]
		if err := st.copyFrom(ctx, e, from); err != nil {
			return err
		}
	}
	return nil
}

// dropUnmendable leaves files alone that are damaged everywhere, so that the
// others of the same version can be mended all the same.
func (st *staging) dropUnmendable(src *sources) {
	gone := map[Path]bool{}
	for i := range st.wanted {
		w := &st.wanted[i]
		if from, ok := src.find(st.side.Name, w.Entry); ok {
			w.alloc = from.alloc
		} else {
			gone[w.Path] = true
		}
	}
	if st.patch == nil {
		return
	}
	st.holes = len(gone)
	st.wanted = slices.DeleteFunc(st.wanted, func(w wanted) bool { return gone[w.Path] })
	st.patch.Put = slices.DeleteFunc(st.patch.Put, func(p place) bool { return gone[p.Entry.Path] })
}

func (st *staging) copyFrom(ctx context.Context, e *Entry, from source) error {
	err := st.copyOnce(ctx, e, from)
	var stale *staleError
	if !errors.As(err, &stale) || !from.live {
		return err
	}
	// The application has written it again. What is captured is the file as it
	// is now, if it holds still long enough to be read twice.
	for range hashAttempts {
		if err := fsys.RemoveAll(st.side.FS, st.staged(e.Path)); err != nil {
			return err
		}
		now, rerr := readContent(ctx, from.fs, from.name, st.buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		from.snap.busy[e.Path] = true
		if fsys.IsNotExist(rerr) {
			st.forget(e.Path)
			return nil
		}
		if rerr != nil {
			return err
		}
		fresh := *e
		fresh.SHA256, fresh.Size, fresh.Mtime, fresh.Xattrs = &now.sum, now.size, now.info.Mtime, now.xattrs
		fresh.Fresh = true
		fresh.Mode, fresh.UID, fresh.GID = Mode(now.info.Mode), now.info.UID, now.info.GID
		if e := st.copyOnce(ctx, &fresh, from); e == nil {
			st.recapture(&fresh)
			return nil
		} else if !errors.As(e, &stale) {
			return e
		}
	}
	return err
}

// forget leaves out configuration that is gone by now.
func (st *staging) forget(p Path) {
	st.record.Config = overlay(st.record.Config, map[Path]*Entry{p: nil})
	if w := st.wants(p); w != nil {
		w.given = true // nobody waits for it
	}
	if st.patch != nil {
		st.patch.Put = slices.DeleteFunc(st.patch.Put, func(c place) bool { return c.Entry.Path == p })
	}
}

// recapture records configuration as it was copied in the end.
func (st *staging) recapture(e *Entry) {
	if findEntry(st.record.Config, e.Path) != nil {
		st.record.Config = overlay(st.record.Config, map[Path]*Entry{e.Path: e})
	}
}

func (st *staging) copyOnce(ctx context.Context, e *Entry, from source) error {
	f, err := from.fs.Open(from.name)
	if err != nil {
		return &staleError{from.side, from.path, err}
	}
	defer f.Close()
	content := &readErrors{r: f}
	err = st.give(ctx, e, content)
	if ctx.Err() == nil && (errors.Is(err, errContent) || content.err != nil) {
		return &staleError{from.side, from.path, err}
	}
	return err
}

// readErrors tells errors of the source from those of the destination.
type readErrors struct {
	r   io.Reader
	err error
}

func (r *readErrors) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}
