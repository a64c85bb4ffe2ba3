package change

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"tandem/backup/manifest"
	"tandem/internal/fsys"
)

// The bounds of what is put aside on a side: the newest stay.
const (
	maxAsideSets  = 32
	maxAsideBytes = 32 << 20
)

// asideSets lists the sets in aside, oldest first. Each is what one change put
// there, under the paths that it had.
func asideSets(fs fsys.FS) ([]string, error) {
	infos, err := fs.ReadDir(AsideDir)
	if fsys.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var sets []string
	for _, i := range infos {
		if i.Type == fsys.TypeDir && strings.Trim(i.Name, "0123456789") == "" {
			sets = append(sets, i.Name)
		}
	}
	return sets, nil
}

// aside is the set that one change puts aside; it is made when it is needed.
type aside struct {
	fs   fsys.FS
	set  string
	dirs []string // made, to be synced
	put  []manifest.Path
}

// move moves what lies at from to the set, as p. It is durable once sync was called.
func (a *aside) move(from string, p manifest.Path) error {
	to, err := a.room(p)
	if err != nil {
		return err
	}
	if err := a.fs.Rename(from, to); err != nil {
		return err
	}
	a.note(from, to, p)
	return nil
}

// link is move, but leaves a file where it is, too, if the file system can.
func (a *aside) link(from string, p manifest.Path) error {
	to, err := a.room(p)
	if err != nil {
		return err
	}
	if err := a.fs.Link(from, to); err != nil {
		return a.move(from, p)
	}
	a.note(from, to, p)
	return nil
}

// room returns a free name in the set for p.
func (a *aside) room(p manifest.Path) (string, error) {
	if a.set == "" {
		if info, err := a.fs.Lstat(AsideDir); err == nil && info.Type != fsys.TypeDir { // it is not what was put aside
			if err := clear(a.fs, AsideDir); err != nil {
				return "", err
			}
		}
		sets, err := asideSets(a.fs)
		if err != nil {
			return "", err
		}
		last := 0
		if len(sets) > 0 {
			last, _ = strconv.Atoi(sets[len(sets)-1]) // it has digits only
		}
		a.set = setAfter(last)
	}
	if p == "." { // a set is a directory
		p = AppsDir
	}
	to := path.Join(a.set, string(p))
	for n := 1; ; n++ {
		if _, err := a.fs.Lstat(to); fsys.IsNotExist(err) {
			break
		} else if err != nil {
			return "", err
		}
		to = path.Join(a.set, fmt.Sprintf("%s.%d", p, n))
	}
	err := fsys.MkdirAll(a.fs, path.Dir(to), 0o700)
	if isNoDir(err) { // a file of the set has the name: the two were never there at once
		last, _ := strconv.Atoi(path.Base(a.set))
		a.set = setAfter(last)
		return a.room(p)
	}
	return to, err
}

func setAfter(last int) string { return path.Join(AsideDir, fmt.Sprintf("%08d", last+1)) }

// isNoDir reports whether err says that something else lies where a directory is to be.
func isNoDir(err error) bool {
	return errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fsys.ErrElsewhere)
}

// note notes what was put there.
func (a *aside) note(from, to string, p manifest.Path) {
	a.put = append(a.put, p)
	for _, d := range []string{path.Dir(from), path.Dir(to)} {
		if !slices.Contains(a.dirs, d) {
			a.dirs = append(a.dirs, d)
		}
	}
}

// sync makes the set durable, and lets go of others beyond the bounds: the oldest ones, and
// first those of which newer ones have all paths. A program that goes on writing what is
// mended each time does not push out what a person may want back.
func (a *aside) sync() error {
	if a.set == "" {
		return nil
	}
	for _, d := range a.dirs {
		for ; d != "." && d != OwnDir; d = path.Dir(d) {
			if err := a.fs.SyncDir(d); err != nil {
				return err
			}
		}
	}
	if err := a.fs.SyncDir(OwnDir); err != nil {
		return err
	}
	sets, err := asideSets(a.fs)
	if err != nil {
		return err
	}
	list, err := ListAside(a.fs)
	if err != nil {
		return err
	}
	seen, newest := map[manifest.Path]bool{}, map[string]bool{}
	for _, it := range list {
		if !seen[it.Path] {
			seen[it.Path] = true
			set, _, _ := strings.Cut(it.Name[len(AsideDir)+1:], "/")
			newest[set] = true
		}
	}
	slices.Reverse(sets)
	sort.SliceStable(sets, func(i, k int) bool { return newest[sets[i]] && !newest[sets[k]] })
	var total int64
	for n, s := range sets {
		size, err := Allocated(a.fs, path.Join(AsideDir, s))
		if err != nil {
			return err
		}
		if total += size; n > 0 && (n >= maxAsideSets || total > maxAsideBytes) {
			if err := fsys.RemoveAll(a.fs, path.Join(AsideDir, s)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Allocated returns what the files below dir take on the disk, in bytes.
func Allocated(fs fsys.FS, dir string) (int64, error) {
	infos, err := fs.ReadDir(dir)
	if fsys.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var total int64
	for _, i := range infos {
		if i.Type != fsys.TypeDir {
			total += i.Alloc
			continue
		}
		n, err := Allocated(fs, path.Join(dir, i.Name))
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// Aside is something that was put aside.
type Aside struct {
	Path manifest.Path
	Name string // on the side's file system
	Size int64  // bytes
}

// ListAside returns what was put aside on a side, the newest first.
func ListAside(fs fsys.FS) ([]Aside, error) {
	sets, err := asideSets(fs)
	if err != nil {
		return nil, err
	}
	var list []Aside
	for i := len(sets) - 1; i >= 0; i-- {
		s := sets[i]
		root := path.Join(AsideDir, s)
		var walk func(dir string) error
		walk = func(dir string) error {
			infos, err := fs.ReadDir(dir)
			if err != nil {
				return err
			}
			for _, i := range infos {
				name := path.Join(dir, i.Name)
				if i.Type == fsys.TypeDir {
					if err := walk(name); err != nil {
						return err
					}
					continue
				}
				list = append(list, Aside{Path: manifest.Path(strings.TrimPrefix(name, root+"/")), Name: name, Size: i.Size})
			}
			return nil
		}
		if err := walk(root); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Recall puts a copy of what was put aside, on from, in its place in apps on to;
// what lies there goes aside. The copy is a new file, modified at the time now. The
// journals of a database go with it, there and back.
//
// After an error or a power cut what was there lies in its place or aside.
func Recall(from fsys.FS, what Aside, to fsys.FS, now int64) error {
	const staged = OwnDir + "/recalled"
	ends := []string{""}
	for _, end := range manifest.Journals {
		if _, err := from.Lstat(what.Name + end); err == nil {
			ends = append(ends, end)
		}
	}
	for _, end := range ends {
		if err := fsys.RemoveAll(to, staged+end); err != nil {
			return err
		}
		if err := copyAside(from, what.Name+end, to, staged+end, now); err != nil {
			return err
		}
	}
	name := Name(what.Path)
	err := fsys.MkdirAll(to, path.Dir(name), 0o755)
	if isNoDir(err) {
		return fmt.Errorf("%w: there is no directory to put it into: %w", ErrBlocked, err)
	}
	if err != nil {
		return err
	}
	s := &aside{fs: to}
	switch there, err := to.Lstat(name); {
	case fsys.IsNotExist(err):
	case err != nil:
		return err
	case there.Type == fsys.TypeOther || there.Mount || there.Fixed:
		return fmt.Errorf("%s: %w: a %s lies there", to.Path(name), ErrBlocked, there.Type)
	default:
		if err := s.link(name, what.Path); err != nil {
			return err
		}
	}
	for _, end := range manifest.Journals { // it would be played into the database that comes
		if there, err := to.Lstat(name + end); err != nil || there.Type != fsys.TypeFile {
			continue
		}
		if err := s.move(name+end, what.Path+manifest.Path(end)); err != nil {
			return err
		}
	}
	if err := s.sync(); err != nil {
		return err
	}
	for _, end := range ends {
		if err := to.Rename(staged+end, name+end); err != nil {
			return err
		}
	}
	return to.SyncDir(path.Dir(name))
}

// copyAside makes a durable copy of a file or link.
func copyAside(from fsys.FS, name string, to fsys.FS, staged string, now int64) error {
	info, err := from.Lstat(name)
	if err != nil {
		return err
	}
	switch info.Type {
	case fsys.TypeSymlink:
		target, err := from.Readlink(name)
		if err != nil {
			return err
		}
		return to.Symlink(target, staged)
	case fsys.TypeFile:
	default:
		return fmt.Errorf("%s: a %s, expected a file or a link", from.Path(name), info.Type)
	}
	src, err := from.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	xattrs, err := src.Xattrs()
	if err != nil {
		return err
	}
	f, err := to.Create(staged, 0o600)
	if err != nil {
		return err
	}
	w := &holeWriter{f: f}
	buf := make([]byte, 64<<10)
	for err == nil {
		var n int
		if n, err = src.Read(buf); n > 0 {
			if e := w.write(buf[:n]); e != nil {
				err = e
			}
		}
	}
	if err == io.EOF {
		err = w.end()
	}
	if err == nil {
		err = f.SetAttr(fsys.Attr{Mode: info.Mode, UID: info.UID, GID: info.GID, Mtime: now, Xattrs: xattrs})
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
