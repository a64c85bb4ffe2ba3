package memfs

import (
	"errors"
	"io"
	"io/fs"
	"syscall"

	"tandem/internal/fsys"
)

// file is an open regular file.
type file struct {
	t      *tree
	name   string
	ino    uint64
	boot   int
	pos    int
	write  bool
	closed bool
}

// do runs f if the file is still open. It is locked meanwhile.
func (f *file) do(op string, run func(d *Disk) error) error {
	return f.t.do(op, f.name, func() error {
		if f.boot != f.t.d.m.boots {
			return ErrPowerCut
		}
		if f.closed {
			return fs.ErrClosed
		}
		return run(f.t.d)
	})
}

func (f *file) Read(p []byte) (n int, err error) {
	n, err = f.readAt(p, int64(f.pos))
	f.pos += n
	if err == nil && n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	n, err = f.readAt(p, off)
	if err == nil && n < len(p) {
		return n, io.EOF
	}
	return n, err
}

func (f *file) readAt(p []byte, off int64) (n int, err error) {
	err = f.do("read", func(d *Disk) error {
		if f.write {
			return syscall.EBADF
		}
		data := d.inodes[f.ino].data
		n = copy(p, data[min(off, int64(len(data))):]) // it may have been cut short meanwhile
		return nil
	})
	return n, err
}

// NextData knows no holes.
func (f *file) NextData(off int64) (next int64, err error) {
	err = f.do("seek", func(d *Disk) error {
		if off >= int64(len(d.inodes[f.ino].data)) {
			return io.EOF
		}
		next = off
		return nil
	})
	if errors.Is(err, io.EOF) {
		err = io.EOF
	}
	return next, err
}

// Write appends p. Where the disk has room for a part of it only, that part is
// written.
func (f *file) Write(p []byte) (n int, err error) {
	err = f.do("write", func(d *Disk) error {
		if !f.write {
			return syscall.EBADF
		}
		if len(p) == 0 {
			return nil
		}
		if d.opts.ReadOnly {
			return syscall.EROFS
		}
		fail := d.step("write", f.t.rel(f.name))
		n = len(p)
		if fail.err != nil {
			n = min(n, fail.written)
		}
		node := d.inodes[f.ino]
		if room := (d.room()+node.blocks())*blockSize - int64(len(node.data)); int64(n) > room {
			n = int(room)
			if fail.err == nil {
				fail.err = syscall.ENOSPC
			}
		}
		if n > 0 {
			node = d.mut(f.ino)
			d.blocks -= node.blocks()
			node.data = append(node.data, p[:n]...)
			d.blocks += node.blocks()
			d.touch(f.ino)
		}
		return fail.err
	})
	return n, err
}

func (f *file) Stat() (info fsys.Info, err error) {
	err = f.do("stat", func(*Disk) error {
		info = f.t.info("", f.ino)
		return nil
	})
	return info, err
}

func (f *file) Xattrs() (xattrs map[string][]byte, err error) {
	err = f.do("xattrs", func(d *Disk) error {
		xattrs = cloneXattrs(d.inodes[f.ino].attr.xattrs)
		return nil
	})
	return xattrs, err
}

func (f *file) SetAttr(a fsys.Attr) error {
	return f.do("setattr", func(*Disk) error { return f.t.setAttr(f.name, f.ino, a) })
}

// Skip writes the zeros: this file system knows no holes.
func (f *file) Skip(n int64) error {
	_, err := f.Write(make([]byte, n))
	return err
}

func (f *file) Sync() error {
	return f.do("sync", func(d *Disk) error {
		fail := d.step("fsync", f.t.rel(f.name))
		if fail.err == ErrPowerCut {
			return fail.err
		}
		n := d.mut(f.ino)
		if fail.err == nil && n.wbErr != nil {
			fail.err, n.wbErr = n.wbErr, nil
		}
		if fail.err != nil {
			n.lose()
			return fail.err
		}
		n.flush()
		return nil
	})
}

func (f *file) Close() error {
	return f.do("close", func(d *Disk) error {
		f.closed = true
		if d.open[f.ino]--; d.open[f.ino] <= 0 {
			delete(d.open, f.ino)
		}
		d.release(f.ino)
		return nil
	})
}
