package fsys

import (
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// parents keeps the directories that were used last open: most operations
// follow others in the same directory, and finding it anew costs more than the
// operation. What is open was checked when it was opened, whatever has become of
// its name; but a name must not lead to a directory that was moved away for
// long. So one is forgotten when we move it or what it lies in, and soon anyway.
type parents struct {
	mu     sync.Mutex
	recent [4]*parent // the latest first
}

// parentAge is for how long a directory counts that somebody else may have moved.
const parentAge = 20 * time.Millisecond

// parent is an open directory. It is closed when nobody uses it any more.
type parent struct {
	name   string
	fd     int
	opened time.Time
	of     *parents
	refs   int
}

// get returns the directory name, opened by open if need be. The caller releases it.
func (p *parents) get(name string, open func(string) (int, error)) (*parent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for i, d := range p.recent {
		if d == nil || d.name != name {
			continue
		}
		if now.Sub(d.opened) > parentAge {
			p.recent[i] = nil
			d.drop()
			break
		}
		copy(p.recent[1:i+1], p.recent[:i])
		p.recent[0] = d
		d.refs++
		return d, nil
	}
	fd, err := open(name)
	if err != nil {
		return nil, err
	}
	last := len(p.recent) - 1
	if old := p.recent[last]; old != nil {
		old.drop()
	}
	copy(p.recent[1:], p.recent[:last])
	p.recent[0] = &parent{name: name, fd: fd, opened: now, of: p, refs: 2} // the caller's and ours
	return p.recent[0], nil
}

func (d *parent) release() {
	d.of.mu.Lock()
	defer d.of.mu.Unlock()
	d.drop()
}

func (d *parent) drop() {
	if d.refs--; d.refs == 0 {
		unix.Close(d.fd) // it was only looked at: nothing can be lost
	}
}

// forget lets go of the directory name and what lies in it.
func (p *parents) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, d := range p.recent {
		if d == nil {
			continue
		}
		rest, in := strings.CutPrefix(d.name, name)
		if name == "." || in && (rest == "" || rest[0] == '/') {
			p.recent[i] = nil
			d.drop()
		}
	}
}
