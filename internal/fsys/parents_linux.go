package fsys

import (
	"os"
	"sync"
)

// parents keeps the directories that were used last open: most operations
// follow others in the same directory, and walking there without leaving the
// root costs more than the operation. It is emptied whenever an entry may have
// moved.
type parents struct {
	mu     sync.Mutex
	recent [4]*parent // the latest first
}

// parent is an open directory. It is closed when nobody uses it any more.
type parent struct {
	name string
	file *os.File
	fd   int
	of   *parents
	refs int
}

// get gives the directory name, opened by open if need be. The caller releases it.
func (p *parents) get(name string, open func(string) (*os.File, error)) (*parent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, d := range p.recent {
		if d != nil && d.name == name {
			copy(p.recent[1:i+1], p.recent[:i])
			p.recent[0] = d
			d.refs++
			return d, nil
		}
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	last := len(p.recent) - 1
	if old := p.recent[last]; old != nil {
		old.drop()
	}
	copy(p.recent[1:], p.recent[:last])
	p.recent[0] = &parent{name: name, file: f, fd: int(f.Fd()), of: p, refs: 2} // the caller's and ours
	return p.recent[0], nil
}

func (d *parent) release() {
	d.of.mu.Lock()
	defer d.of.mu.Unlock()
	d.drop()
}

func (d *parent) drop() {
	if d.refs--; d.refs == 0 {
		d.file.Close() // it was only looked at: nothing can be lost
	}
}

func (p *parents) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, d := range p.recent {
		if d != nil {
			d.drop()
		}
		p.recent[i] = nil
	}
}
