package change

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"syscall"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// applier puts a committed change in place, or takes it back. Each step looks at
// what is done already, so that it can be run again after a power cut at any
// point.
type applier struct {
	fs     fsys.FS
	commit *commit
	live   bool
	by     record.Author
	// unwritten says that there is no commit.json: the side is fresh.
	unwritten bool
	barrier   fsys.Barrier // opened before anything was written; nil at recovery
	again     bool         // after a power cut or an error: nothing is known of how far it came
	out       Outcome
	dirs      map[string]bool // whose entries changed
	whole     bool            // attributes are made durable with all else, by one sync
}

// run finishes the change, or takes it back where that fails.
func (a *applier) run() (*Outcome, error) {
	if !a.commit.Undo {
		err := a.apply()
		if err == nil {
			return &a.out, nil
		}
		var blocked *blockedError
		if !errors.As(err, &blocked) {
			return &a.out, err
		}
		a.commit.Undo, a.again, a.unwritten = true, true, false
		if err := a.commit.store(a.fs, a.by); err != nil {
			return &a.out, errors.Join(blocked, err)
		}
		if err := a.undo(); err != nil {
			return &a.out, errors.Join(blocked, err)
		}
		return &a.out, blocked
	}
	a.again = true
	return &a.out, a.undo()
}

// blockedError says that one path keeps a change from being finished.
type blockedError struct {
	name string
	err  error
}

func (e *blockedError) Error() string { return fmt.Sprintf("%s: %v: %v", e.name, ErrBlocked, e.err) }

func (e *blockedError) Unwrap() []error { return []error{ErrBlocked, e.err} }

func (a *applier) apply() error {
	a.begin()
	for i := range a.commit.Ops {
		o := &a.commit.Ops[i]
		if err := a.place(i, o); err != nil {
			if !a.stands(err) {
				return fmt.Errorf("%s: %w", a.fs.Path(Name(o.Path)), err)
			}
			if a.live && !o.Config && a.commit.Tag && o.New != nil { // what only should go can stay
				return &blockedError{a.fs.Path(Name(o.Path)), err}
			}
			a.out.Left = append(a.out.Left, Left{o.Path, err.Error()})
		}
	}
	// The record is of no use to anybody before the commit is gone: it goes with the rest.
	if err := a.moveStaged(RecordFile); err != nil {
		return err
	}
	a.dirs[OwnDir], a.dirs[nextDir] = true, true
	if err := a.sync(); err != nil {
		return err
	}
	return a.finish()
}

// begin notes what has to be synced whatever is done now: what an earlier try
// moved, in this run of the machine, may not be durable yet.
func (a *applier) begin() {
	a.dirs = map[string]bool{}
	attrs := 0
	for i := range a.commit.Ops {
		if a.commit.Ops[i].Attr {
			attrs++
		}
	}
	a.whole = attrs > 1 && !oneByOne(a.fs, attrs)
	if !a.again {
		return
	}
	for _, d := range []string{newDir, path.Join(oldDir, contentDir), path.Join(oldDir, oddDir), "."} {
		a.dirs[d] = true
	}
	for i := range a.commit.Ops {
		a.dirs[path.Dir(Name(a.commit.Ops[i].Path))] = true
	}
}

// stands reports whether err is of the one path that it was met at, and will
// come again: not of the whole disk, nor of this moment.
func (a *applier) stands(err error) bool {
	return tree.Means(err) != tree.Nothing && !fsys.IsUnreadable(err) && !fsys.IsNoSpace(err) && !errors.Is(err, syscall.EROFS)
}

// sync makes the directories durable whose entries changed.
func (a *applier) sync() error {
	if a.whole || len(a.dirs) > 3 && !oneByOne(a.fs, len(a.dirs)) {
		if a.barrier != nil {
			return a.barrier.Sync()
		}
		return a.fs.Sync()
	}
	return syncChanged(a.fs, a.dirs)
}

// rename moves an entry, and notes the directories that have to be synced.
func (a *applier) rename(from, to string) error {
	if err := a.fs.Rename(from, to); err != nil {
		return err
	}
	a.dirs[path.Dir(from)], a.dirs[path.Dir(to)] = true, true
	return nil
}

// lstat is Lstat for what may be missing.
func (a *applier) lstat(name string) (info fsys.Info, there bool, err error) {
	info, err = a.fs.Lstat(name)
	if fsys.IsNotExist(err) {
		return info, false, nil
	}
	return info, err == nil, err
}

// slots are where what an op displaces goes in the undo log.
func (a *applier) slots(i int, o *Op) (content, odd string) {
	odd = path.Join(oldDir, oddDir, strconv.Itoa(i))
	if o.Old != nil && o.Old.SHA256 != nil {
		content = Kept(oldDir, o.Old.SHA256.String())
	}
	return content, odd
}

// displace moves what lies at from to the undo log.
func (a *applier) displace(i int, o *Op, from string) error {
	to, odd := a.slots(i, o)
	for _, slot := range []string{to, odd} {
		if slot == "" {
			continue
		}
		if _, there, err := a.lstat(slot); err != nil {
			return err
		} else if !there {
			return a.rename(from, slot)
		}
	}
	// Both have something already: this one came meanwhile.
	s := &aside{fs: a.fs}
	if err := s.move(from, o.Path); err != nil {
		return err
	}
	a.out.Aside = append(a.out.Aside, o.Path)
	return s.sync()
}

// untouched reports whether what lies at a path is what the change was made
// for: what the look found or, after a power cut, what the commit tells.
func (a *applier) untouched(o *Op, name string, now fsys.Info) (bool, error) {
	if o.seen != nil && !a.again {
		return o.seen.Type == now.Type && o.seen.Ino == now.Ino && o.seen.Size == now.Size && o.seen.Mtime == now.Mtime, nil
	}
	return a.holds(o.Old, name, now)
}

// holds reports whether what lies at name is what e says, attributes apart. What
// e has no digest of is taken for it if the type fits.
func (a *applier) holds(e *manifest.Entry, name string, now fsys.Info) (bool, error) {
	if e == nil {
		return false, nil
	}
	switch e.Type {
	case manifest.File, manifest.Hardlink:
		if now.Type != fsys.TypeFile {
			return false, nil
		}
		if e.SHA256 == nil {
			return true, nil
		}
		if now.Size != e.Size {
			return false, nil
		}
		sum, err := a.hash(name)
		return err == nil && sum == *e.SHA256, err
	case manifest.Symlink:
		if now.Type != fsys.TypeSymlink {
			return false, nil
		}
		target, err := a.fs.Readlink(name)
		return err == nil && (e.Target == "" || target == string(e.Target)), err
	}
	return string(now.Type) == e.Type.String(), nil
}

func (a *applier) hash(name string) (digest.SHA256, error) {
	f, err := a.fs.Open(name)
	if err != nil {
		return digest.SHA256{}, err
	}
	defer f.Close()
	sum, _, err := digest.OfReader(f)
	return sum, err
}

// place does what an op says, unless it is done.
func (a *applier) place(i int, o *Op) error {
	name := Name(o.Path)
	live, there, err := a.lstat(name)
	if err != nil {
		return err
	}
	switch {
	case o.New == nil:
		if !there {
			return nil
		}
		return a.remove(i, o, name, live)
	case o.Attr:
		if !there || o.seen != nil && !a.again && live.Ino != o.seen.Ino {
			return nil // the next look takes it for what it is
		}
		return a.setAttr(name, o.New, live)
	case o.New.Type == manifest.Hardlink:
		return a.link(i, o, name, live, there)
	case o.Slot == "":
		return a.makeDir(i, o, name, live, there)
	}
	return a.put(i, o, name, live, there)
}

// setAttr gives what lies at name the attributes of e, if it is of its type, and
// nobody else's, too: an application can put another name of any file in a
// directory of its own.
func (a *applier) setAttr(name string, e *manifest.Entry, was fsys.Info) error {
	if was.Type != fsys.Type(e.Type.String()) || a.live && was.Type == fsys.TypeFile && was.Nlink > 1 {
		return nil
	}
	was.Ctime = 0
	why, err := keep(a.live, attr(e), was, func(x fsys.Attr) error { return a.fs.SetAttr(name, x, was) })
	if why != nil {
		a.out.Cannot = append(a.out.Cannot, Left{e.Path, reason(why)})
	}
	if err != nil {
		if fsys.IsNotExist(err) || errors.Is(err, fsys.ErrReplaced) {
			return nil
		}
		return err
	}
	switch {
	case a.whole:
	case was.Type == fsys.TypeDir:
		return a.fs.SyncDir(name)
	case was.Type == fsys.TypeFile:
		return syncFile(a.fs, name)
	}
	return nil
}

// remove takes away what lies at name, if it still is what was to go.
func (a *applier) remove(i int, o *Op, name string, live fsys.Info) error {
	if live.Type == fsys.TypeDir {
		if o.Old.Type != manifest.Dir {
			return nil
		}
		left, err := a.fs.ReadDir(name)
		if err != nil || len(left) > 0 { // it holds what is not ours to remove
			return err
		}
		a.dirs[path.Dir(name)] = true
		return a.fs.Remove(name)
	}
	same, err := a.untouched(o, name, live)
	if err != nil {
		return err
	}
	if !same {
		if o.Config || live.Type == fsys.TypeOther {
			a.out.Newer = append(a.out.Newer, o.Path)
			return nil
		}
		o.Aside = true
	}
	return a.displace(i, o, name)
}

// put places what was staged.
func (a *applier) put(i int, o *Op, name string, live fsys.Info, there bool) error {
	slot := path.Join(newDir, o.Slot)
	staged, left, err := a.lstat(slot)
	if err != nil || !left {
		return err // in place already, or written anew since
	}
	if a.linked(staged, live, there) {
		return nil
	}
	if a.again {
		if done, err := a.exchanged(o, slot, staged, name, live, there); err != nil || done {
			if done {
				err = a.displace(i, o, slot)
			}
			return err
		}
	}
	if !there {
		return a.putNew(o, slot, name, staged)
	}
	if live.Type == fsys.TypeDir {
		if staged.Type == fsys.TypeDir && o.Old == nil {
			return nil // somebody made it meanwhile; what it lacks is found by the next look
		}
		left, err := a.fs.ReadDir(name)
		switch {
		case err != nil:
		case len(left) == 0:
			err = a.fs.Remove(name)
		default:
			o.Aside = true
			err = a.displace(i, o, name)
		}
		if err != nil {
			return err
		}
		return a.putNew(o, slot, name, staged)
	}
	same, err := a.untouched(o, name, live)
	if err != nil {
		return err
	}
	switch {
	case !same && o.Config:
		a.out.Newer = append(a.out.Newer, o.Path)
		return nil
	case !same:
		o.Aside = true
	case staged.Type == fsys.TypeDir:
		if err := a.displace(i, o, name); err != nil {
			return err
		}
		return a.putNew(o, slot, name, staged)
	}
	err = a.fs.Exchange(slot, name)
	if errors.Is(err, fsys.ErrUnsupported) {
		return a.putOver(i, o, slot, name, staged, live)
	}
	if err != nil {
		return err
	}
	a.dirs[path.Dir(slot)], a.dirs[path.Dir(name)] = true, true
	if now, err := a.fs.Lstat(slot); err != nil {
		return err
	} else if now.Ino != live.Ino || now.Size != live.Size || now.Mtime != live.Mtime || now.Type != live.Type {
		// It was replaced between the look and the exchange.
		if o.Config {
			a.out.Newer = append(a.out.Newer, o.Path)
			return a.fs.Exchange(slot, name)
		}
		o.Aside = true
	}
	return a.displace(i, o, slot)
}

// linked reports whether an earlier try linked what is staged into its place, where it may
// have been written to since: the name in the slot is the one that lasts, and goes with next.
func (a *applier) linked(staged, live fsys.Info, there bool) bool {
	return a.again && there && staged.Type != fsys.TypeDir && staged.Dev == live.Dev && staged.Ino == live.Ino
}

// exchanged reports whether what lies in a slot is what was displaced: the
// exchange is done, and only the undo log lacks it.
func (a *applier) exchanged(o *Op, slot string, staged fsys.Info, name string, live fsys.Info, there bool) (bool, error) {
	if staged.Type == fsys.TypeDir {
		return false, nil
	}
	isNew, err := a.holds(o.New, slot, staged)
	if err != nil || !isNew {
		return err == nil, err
	}
	if !there {
		return false, nil
	}
	placed, err := a.holds(o.New, name, live)
	if err != nil || !placed {
		return false, err
	}
	// One content, other attributes.
	return live.Mode == uint32(o.New.Mode) && live.UID == o.New.UID && live.GID == o.New.GID, nil
}

// putNew places what was staged where nothing is. A file of configuration that
// somebody makes in the same moment is the newer one.
func (a *applier) putNew(o *Op, slot, name string, staged fsys.Info) error {
	if a.live && o.Config && staged.Type != fsys.TypeDir {
		err := a.fs.Link(slot, name)
		switch {
		case err == nil:
			// The other name goes with next: were it removed here, that could
			// survive a power cut, and the new name not.
			a.dirs[path.Dir(name)] = true
			return nil
		case errors.Is(err, fs.ErrExist):
			a.out.Newer = append(a.out.Newer, o.Path)
			return nil
		case fsys.IsNotExist(err): // its directory went meanwhile
			a.out.Newer = append(a.out.Newer, o.Path)
			return nil
		case !cannotHold(err):
			return err
		}
	}
	return a.rename(slot, name)
}

// putOver is for kernels and file systems that cannot exchange. An application
// file is linked away and renamed over; configuration is renamed away, and what
// somebody makes in the free place meanwhile is the newer one.
func (a *applier) putOver(i int, o *Op, slot, name string, staged, live fsys.Info) error {
	if !o.Config {
		content, odd := a.slots(i, o)
		for _, to := range []string{content, odd} {
			if to == "" {
				continue
			}
			was, there, err := a.lstat(to)
			if err != nil {
				return err
			}
			if !there && a.fs.Link(name, to) != nil {
				break
			}
			if !there {
				a.dirs[path.Dir(to)] = true
				if was, err = a.fs.Lstat(to); err != nil {
					return err
				}
				o.Aside = o.Aside || was.Ino != live.Ino // it was replaced between the look and the link
			}
			if !there || was.Ino == live.Ino { // it was linked before a power cut
				return a.rename(slot, name)
			}
		}
	}
	if err := a.displace(i, o, name); err != nil {
		return err
	}
	return a.putNew(o, slot, name, staged)
}

// makeDir makes a directory where something else was.
func (a *applier) makeDir(i int, o *Op, name string, live fsys.Info, there bool) error {
	if there && live.Type == fsys.TypeDir {
		return nil
	}
	if there {
		same, err := a.untouched(o, name, live)
		if err != nil {
			return err
		}
		if !same {
			o.Aside = true
		}
		if err := a.displace(i, o, name); err != nil {
			return err
		}
	}
	return a.mkdir(name, o.New)
}

// mkdir makes the directory that e describes.
func (a *applier) mkdir(name string, e *manifest.Entry) error {
	if err := a.fs.Mkdir(name, 0o700); err != nil {
		return err
	}
	a.dirs[path.Dir(name)] = true
	info, err := a.fs.Lstat(name)
	if err != nil {
		return err
	}
	return a.setAttr(name, e, info)
}

// link makes a further name of a file that is in place.
func (a *applier) link(i int, o *Op, name string, live fsys.Info, there bool) error {
	to := Name(o.New.Link)
	target, err := a.fs.Lstat(to)
	if err != nil {
		return err
	}
	if there && live.Ino == target.Ino {
		return nil
	}
	if there {
		if err := a.displace(i, o, name); err != nil {
			return err
		}
	}
	a.dirs[path.Dir(name)] = true
	return a.fs.Link(to, name)
}
