package change

import (
	"path"
	"strconv"

	"tandem/backup/manifest"
)

// undo takes a change back that could not be finished, the last op first. What
// cannot be taken back is told, and the next look finds it.
func (a *applier) undo() error {
	a.begin()
	for i := len(a.commit.Ops) - 1; i >= 0; i-- {
		o := &a.commit.Ops[i]
		if err := a.takeBack(i, o); err != nil {
			if !a.stands(err) {
				return err
			}
			a.out.Left = append(a.out.Left, Left{o.Path, err.Error()})
		}
	}
	if err := a.sync(); err != nil {
		return err
	}
	return a.end()
}

func (a *applier) takeBack(i int, o *Op) error {
	name := Name(o.Path)
	live, there, err := a.lstat(name)
	if err != nil {
		return err
	}
	if o.Attr {
		if !there {
			return nil
		}
		return a.setAttr(name, o.Old, live)
	}
	if there && o.New != nil { // take away what was placed, unless it was written since
		placed, err := a.holds(o.New, name, live)
		switch {
		case err != nil:
			return err
		case !placed:
			return nil
		case o.New.Type == manifest.Dir && o.Old == nil:
			err = a.rename(name, path.Join(newDir, "undone-"+strconv.Itoa(i)))
		case o.New.Type == manifest.Dir:
			a.dirs[path.Dir(name)] = true
			err = a.fs.Remove(name)
		case o.Slot != "":
			slot := path.Join(newDir, o.Slot)
			staged, left, e := a.lstat(slot)
			if e == nil && left && a.linked(staged, live, there) {
				left, e = false, a.fs.Remove(slot)
			}
			if e != nil {
				return e
			}
			if left {
				if done, e := a.exchanged(o, slot, staged, name, live, there); e != nil || !done {
					return e // not placed: what lies there is of the same content
				}
				a.dirs[path.Dir(slot)], a.dirs[path.Dir(name)] = true, true
				return a.fs.Exchange(slot, name)
			}
			if back, e := a.displaced(i, o); e != nil || back == "" && o.Old != nil {
				return e
			}
			err = a.rename(name, slot)
		default:
			a.dirs[path.Dir(name)] = true
			err = a.fs.Remove(name)
		}
		if err != nil {
			return err
		}
	}
	if o.Old == nil {
		return nil
	}
	from, err := a.displaced(i, o)
	if err != nil {
		return err
	}
	if from != "" {
		return a.rename(from, name)
	}
	if o.Old.Type == manifest.Dir && !there {
		return a.mkdir(name, o.Old)
	}
	return nil
}

// displaced returns where the undo log has what an op displaced; "" if it has not.
func (a *applier) displaced(i int, o *Op) (string, error) {
	content, odd := a.slots(i, o)
	for _, name := range []string{odd, content} {
		if name == "" {
			continue
		}
		if _, there, err := a.lstat(name); err != nil || there {
			return name, err
		}
	}
	return "", nil
}
