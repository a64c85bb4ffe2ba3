package memfs

import (
	"io/fs"

	"tandem/internal/fsys"
)

func (t *tree) SyncDir(name string) error {
	return t.do("syncdir", name, func() error {
		p, _, err := t.directory(name)
		if err != nil {
			return err
		}
		if f := t.d.step("syncdir", t.rel(name)); f.err != nil {
			return f.err
		}
		t.d.mut(p.ino).flush()
		t.d.syncEntries(p.ino)
		return nil
	})
}

func (t *tree) Sync() error {
	return t.do("sync", ".", func() error { return t.sync(t.d.lost) })
}

// sync makes the disk durable, for one who has been told of that many losses.
func (t *tree) sync(told int) error {
	d := t.d
	f := d.step("sync")
	switch {
	case f.err == ErrPowerCut:
		return f.err
	case f.err != nil:
		d.lose(f.err)
	default:
		for ino, n := range d.inodes {
			if n.safe < len(n.data) || !n.attr.equal(n.synced) {
				d.mut(ino).flush()
			}
		}
		d.log = nil
		d.forget()
		if d.lost > told {
			f.err = d.lostErr
		}
	}
	if d.opts.NoSyncReports {
		return nil
	}
	return f.err
}

// barrier tells of what was lost since it was opened, once.
type barrier struct {
	t      *tree
	boot   int
	told   int
	closed bool
}

func (t *tree) Barrier() (fsys.Barrier, error) {
	b := &barrier{t: t}
	err := t.do("barrier", ".", func() error {
		b.boot, b.told = t.d.m.boots, t.d.lost
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (b *barrier) do(op string, run func() error) error {
	return b.t.do(op, ".", func() error {
		if b.boot != b.t.d.m.boots {
			return ErrPowerCut
		}
		if b.closed {
			return fs.ErrClosed
		}
		return run()
	})
}

func (b *barrier) Sync() error {
	return b.do("sync", func() error {
		told := b.told
		defer func() { b.told = b.t.d.lost }()
		return b.t.sync(told)
	})
}

func (b *barrier) Close() error {
	return b.do("close", func() error {
		b.closed = true
		return nil
	})
}

func (t *tree) SyncReports() bool { return !t.d.opts.NoSyncReports }

func (t *tree) SyncCheap() bool { return t.d.opts.SyncCheap }

// LoseWrites lets the kernel write out by itself and fail with err: what was not
// synced is in doubt, and another program's sync has been told. A Barrier that
// is open tells it once more, and File.Sync for each file that lost data; but
// not FS.Sync. It is not a counted operation.
func (d *Disk) LoseWrites(err error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.lose(err)
}

func (d *Disk) lose(err error) {
	lost := false
	for ino, n := range d.inodes {
		if n.clean < len(n.data) {
			n = d.mut(ino)
			n.lose()
			n.wbErr = err
			lost = true
		}
	}
	if lost {
		d.lost++
		d.lostErr = err
	}
}
