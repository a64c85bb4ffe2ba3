// Package cut is a file system for tests that loses power at a chosen
// operation: from there on nothing works any more, and files that were not
// synced are empty, as UBIFS leaves them.
package cut

import (
	"errors"

	"tandem/internal/fsys"
)

// ErrPower is what every operation returns once the power is gone.
var ErrPower = errors.New("power cut")

// FS wraps a file system.
type FS struct {
	fsys.FS
	// At is the number of the changing operation that does not happen any
	// more, counted from 1; 0 means never.
	At int
	// Empty makes a file empty. It stands for the loss of what was not synced.
	Empty func(name string) error

	ops      int
	unsynced map[*file]bool
}

// Ops says how many changing operations were asked for.
func (f *FS) Ops() int { return f.ops }

// step counts an operation and reports whether it still happens.
func (f *FS) step() error {
	f.ops++
	if f.At == 0 || f.ops < f.At {
		return nil
	}
	for file := range f.unsynced {
		if err := f.Empty(file.name); err != nil {
			return err
		}
	}
	f.unsynced = nil
	return ErrPower
}

// Create implements fsys.FS.
func (f *FS) Create(name string, mode uint32) (fsys.File, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	inner, err := f.FS.Create(name, mode)
	if err != nil {
		return nil, err
	}
	if f.unsynced == nil {
		f.unsynced = make(map[*file]bool)
	}
	c := &file{File: inner, fs: f, name: name}
	f.unsynced[c] = true
	return c, nil
}

// Mkdir implements fsys.FS.
func (f *FS) Mkdir(name string, mode uint32) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.Mkdir(name, mode)
}

// Link implements fsys.FS.
func (f *FS) Link(oldname, newname string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.Link(oldname, newname)
}

// Rename implements fsys.FS.
func (f *FS) Rename(oldname, newname string) error {
	if err := f.step(); err != nil {
		return err
	}
	if err := f.FS.Rename(oldname, newname); err != nil {
		return err
	}
	for file := range f.unsynced {
		if file.name == oldname {
			file.name = newname
		}
	}
	return nil
}

// Remove implements fsys.FS.
func (f *FS) Remove(name string) error {
	if err := f.step(); err != nil {
		return err
	}
	err := f.FS.Remove(name)
	if err == nil {
		for file := range f.unsynced {
			if file.name == name {
				delete(f.unsynced, file)
			}
		}
	}
	return err
}

// SyncDir implements fsys.FS.
func (f *FS) SyncDir(name string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.SyncDir(name)
}

type file struct {
	fsys.File
	fs   *FS
	name string
}

func (f *file) Write(p []byte) (int, error) {
	if err := f.fs.step(); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *file) Sync() error {
	if err := f.fs.step(); err != nil {
		return err
	}
	err := f.File.Sync()
	if err == nil {
		delete(f.fs.unsynced, f)
	}
	return err
}
