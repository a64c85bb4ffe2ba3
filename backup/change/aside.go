package change

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

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

// take moves what lies at from to the set, as p. It is durable once sync was called.
func (a *aside) take(from string, p manifest.Path) error {
	if a.set == "" {
		sets, err := asideSets(a.fs)
		if err != nil {
			return err
		}
		last := 0
		if len(sets) > 0 {
			last, _ = strconv.Atoi(sets[len(sets)-1]) // it has digits only
		}
		a.set = path.Join(AsideDir, fmt.Sprintf("%08d", last+1))
	}
	to := path.Join(a.set, string(p))
	for n := 1; ; n++ {
		if _, err := a.fs.Lstat(to); fsys.IsNotExist(err) {
			break
		} else if err != nil {
			return err
		}
		to = path.Join(a.set, fmt.Sprintf("%s.%d", p, n))
	}
	if err := fsys.MkdirAll(a.fs, path.Dir(to), 0o700); err != nil {
		return err
	}
	if err := a.fs.Rename(from, to); err != nil {
		return err
	}
	a.put = append(a.put, p)
	for _, d := range []string{path.Dir(from), path.Dir(to)} {
		if !slices.Contains(a.dirs, d) {
			a.dirs = append(a.dirs, d)
		}
	}
	return nil
}

// sync makes the set durable, and lets go of the oldest ones beyond the bounds.
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
	var total int64
	for n, s := range slices.Backward(sets) {
		size, err := Allocated(a.fs, path.Join(AsideDir, s))
		if err != nil {
			return err
		}
		if total += size; n < len(sets)-1 && (len(sets)-n > maxAsideSets || total > maxAsideBytes) {
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
	for _, s := range slices.Backward(sets) {
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
