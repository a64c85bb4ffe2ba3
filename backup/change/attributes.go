package change

import (
	"errors"
	"syscall"

	"tandem/backup/manifest"
	"tandem/internal/fsys"
)

// attributes sets what the file system can keep of attributes. What it cannot
// is noted: the record has it.
func (c *Change) attributes(p manifest.Path, want fsys.Attr, was fsys.Info, set func(fsys.Attr) error) error {
	why, err := keep(c.Live, want, was, set)
	if why != nil {
		c.cannot.add(p, reason(why))
	}
	return err
}

// keep sets what the file system can keep of attributes. why is what it has against the rest.
func keep(live bool, want fsys.Attr, was fsys.Info, set func(fsys.Attr) error) (why, err error) {
	if err = set(want); !bearable(live, err) {
		return nil, err
	}
	why, want.Xattrs = err, nil
	if err = set(want); bearable(live, err) {
		want.UID, want.GID = was.UID, was.GID
		err = set(want)
	}
	if bearable(live, err) {
		err = nil
	}
	return why, err
}

// bearable reports whether an error of setting attributes is one that the
// content need not wait for: a backup does without any, the live side without
// extended ones. A file system that has no room for attributes says ENOSPC.
func bearable(live bool, err error) bool {
	switch {
	case err == nil:
		return false
	case fsys.IsNoSpace(err), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.E2BIG), errors.Is(err, syscall.ERANGE):
		return true
	}
	return !live && cannotHold(err)
}

func (c *Change) setAttr(p manifest.Path, name string, want fsys.Attr, was fsys.Info) error {
	was.Ctime = 0 // each attribute that is set moves it
	return c.attributes(p, want, was, func(a fsys.Attr) error { return c.fs.SetAttr(name, a, was) })
}

func attr(e *manifest.Entry) fsys.Attr {
	x := e.Xattrs
	if x == nil {
		x = map[string][]byte{}
	}
	return fsys.Attr{Mode: uint32(e.Mode), UID: e.UID, GID: e.GID, Mtime: e.Mtime, Xattrs: x}
}

// freshAttr is attr for what was just made, and has no attributes that would
// have to go.
func freshAttr(e *manifest.Entry) fsys.Attr {
	a := attr(e)
	a.Xattrs = e.Xattrs
	return a
}
