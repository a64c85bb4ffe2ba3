package memfs

import (
	"slices"
	"syscall"
)

// failure is what an operation meets: nothing, if err is nil.
type failure struct {
	err     error
	written int // bytes that a Write takes before it fails
}

// CutAt cuts the power at the n-th changing operation from now: 1 is the next.
// It does not happen, and it and all that follows, reads included, fail with
// ErrPowerCut until Restart. n below 1 takes the order back.
func (m *Machine) CutAt(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cutAt = 0
	if n > 0 {
		m.cutAt = m.ops + n
	}
}

// FailAt lets the n-th changing operation from now fail with err, EIO if that is
// nil, without having happened. Later ones work. A failed Sync leaves the
// data in doubt; on a disk with NoSyncReports a failed FS.Sync returns nil, and
// the next Sync of each file that lost data gives the error.
func (m *Machine) FailAt(n int, err error) {
	m.FailWriteAt(n, 0, err)
}

// FailWriteAt is FailAt, but if the operation is a File.Write, it takes the
// first written bytes before it fails.
func (m *Machine) FailWriteAt(n, written int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n < 1 {
		return
	}
	if err == nil {
		err = syscall.EIO
	}
	if m.failures == nil {
		m.failures = make(map[int]failure)
	}
	m.failures[m.ops+n] = failure{err, max(written, 0)}
}

// FailLooks lets the operations that change nothing fail with what f says of
// them: op is "lstat", "readdir", "readlink", "xattrs", "open", "statfs", "entry"
// for each entry that a ReadDir describes, and for an open file "read", "stat"
// and "xattrs"; path is the full one. nil takes it back. It stays in force over
// Restart.
func (m *Machine) FailLooks(f func(op, path string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failLooks = f
}

var looks = []string{"lstat", "readdir", "readlink", "xattrs", "open", "statfs", "entry", "read", "stat"}

// FailReads is FailLooks for Open, and for Read and ReadAt of a file, alone.
func (m *Machine) FailReads(f func(path string) error) {
	if f == nil {
		m.FailLooks(nil)
		return
	}
	m.FailLooks(func(op, path string) error {
		if op == "open" || op == "read" {
			return f(path)
		}
		return nil
	})
}

// Before lets f come before each operation on a file system and on a file, as
// another program does that works beside this one; op and path tell which. f may
// use the machine: it does not come before its own operations, which do not fail
// by FailLooks either. nil takes it back. It stays in force over Restart, and
// stays with m when m is cloned.
func (m *Machine) Before(f func(op, path string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = f
}

// ask lets what Before and FailLooks ordered have its way, unlocked. Neither is
// for what the function of Before does.
func (m *Machine) ask(op string, t *tree, name string) error {
	m.mu.Lock()
	before, fail := m.before, m.failLooks
	asked := !m.off && !m.busy
	if asked && before != nil {
		m.busy = true
	}
	m.mu.Unlock()
	if !asked {
		return nil
	}
	if before != nil {
		before(op, t.Path(name))
		m.mu.Lock()
		m.busy, asked = false, !m.off
		m.mu.Unlock()
	}
	if !asked || fail == nil || !slices.Contains(looks, op) {
		return nil
	}
	return fail(op, t.Path(name))
}

// step counts one changing operation and reports whether it is to fail. If it is
// not, the caller must carry it out.
func (d *Disk) step(what string, names ...string) failure {
	m := d.m
	m.ops++
	m.now += tick
	var f failure
	if m.ops == m.cutAt {
		m.off = true
		f.err = ErrPowerCut
	} else {
		f = m.failures[m.ops]
		delete(m.failures, m.ops)
	}
	e := event{disk: d.name, what: what, err: f.err}
	copy(e.names[:], names)
	m.trace = append(m.trace, e)
	return f
}
