package fsys

import (
	"errors"
	"sync"
	"syscall"
)

// Remounting is an FS that is made writable when it first has to be: the
// first operation that fails because the file system is mounted read-only
// calls the function it was made with, and is tried again.
type Remounting struct {
	FS
	writable func() error

	mu   sync.Mutex
	done bool
}

// OnReadOnly returns an FS that calls writable, once, when fs turns out to be
// read-only.
func OnReadOnly(fs FS, writable func() error) *Remounting {
	return &Remounting{FS: fs, writable: writable}
}

// Remounted reports whether the file system was made writable.
func (r *Remounting) Remounted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done
}

func (r *Remounting) try(op func() error) error {
	err := op()
	if !errors.Is(err, syscall.EROFS) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.done {
		if e := r.writable(); e != nil {
			return errors.Join(err, e)
		}
		r.done = true
	}
	return op()
}

// Create implements FS.
func (r *Remounting) Create(name string, mode uint32) (f File, err error) {
	err = r.try(func() error {
		f, err = r.FS.Create(name, mode)
		return err
	})
	return f, err
}

// Mkdir implements FS.
func (r *Remounting) Mkdir(name string, mode uint32) error {
	return r.try(func() error { return r.FS.Mkdir(name, mode) })
}

// Symlink implements FS.
func (r *Remounting) Symlink(target, name string) error {
	return r.try(func() error { return r.FS.Symlink(target, name) })
}

// Link implements FS.
func (r *Remounting) Link(oldname, newname string) error {
	return r.try(func() error { return r.FS.Link(oldname, newname) })
}

// Rename implements FS.
func (r *Remounting) Rename(oldname, newname string) error {
	return r.try(func() error { return r.FS.Rename(oldname, newname) })
}

// Exchange implements FS.
func (r *Remounting) Exchange(a, b string) error {
	return r.try(func() error { return r.FS.Exchange(a, b) })
}

// Remove implements FS.
func (r *Remounting) Remove(name string) error {
	return r.try(func() error { return r.FS.Remove(name) })
}

// SetAttr implements FS.
func (r *Remounting) SetAttr(name string, a Attr, was Info) error {
	return r.try(func() error { return r.FS.SetAttr(name, a, was) })
}
