// Package memfs is a device in memory, for tests: file systems that keep what
// POSIX promises under a power cut, and no more than that.
//
// A Machine holds disks and counts the operations that change one of them. A
// test lets it fail at a chosen operation (CutAt, FailAt), and restarts it in
// one of the states that the power cut may have left (Restart). Clone makes
// several of those states reachable from one cut.
//
// # What survives a power cut
//
// Entries. Each operation that changes directory entries goes into a log, in
// order, and takes effect as a whole or not at all, renames between two
// directories and exchanges included. It is durable once SyncDir was called on
// every directory that it touches, or Sync on its disk. Of the rest any part may
// survive, as long as each survivor finds the entries and directories that it
// started from; the Choice picks. Syncing a file makes none of its entries durable,
// and syncing a directory does not make that directory's own entry durable.
//
// Data. What was written to a file before its last successful Sync is durable.
// What came later may be there, missing, cut short, or replaced by zeros.
//
// Attributes. Those that an entry was made with come with the entry. Later
// changes are durable once the file (File.Sync), the directory itself (SyncDir)
// or the disk was synced; before that each of mode, owner, times and extended
// attributes may be old or new. The change time moves as on Linux: with each
// change of content, attributes or names, a rename included.
//
// A failed Sync leaves data in doubt for good: it can still be read, and later
// Syncs succeed, but do not make it durable, as on Linux, where the pages count
// as clean after the error. A failed SyncDir makes nothing durable; a later one
// that succeeds does.
package memfs

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"tandem/internal/fsys"
)

// ErrPowerCut is what everything fails with from the operation that CutAt named
// until Restart. Files that were open then fail with it for good.
var ErrPowerCut = errors.New("power cut")

const (
	blockSize = 4096
	tick      = int64(time.Millisecond)
	epochTime = int64(1_767_225_600) * int64(time.Second) // 2026-01-01
	plenty    = int64(1) << 50                            // free bytes of a disk without limit
	rootIno   = 1
)

// Options describes a disk. The zero value has everything and no limits.
type Options struct {
	Capacity      int64 // bytes; 0 is no limit
	Quota         bool  // Space tells nothing of Capacity
	Inodes        int64 // entries with their own inode, the root included; 0 is no limit
	NoExchange    bool  // Exchange fails with ErrUnsupported
	NoSyncReports bool  // Sync hides write errors, as before Linux 5.8
	SyncCheap     bool  // one Sync costs no more than those of two files, as on ext4
	NoXattrs      bool  // no extended attributes
	ReadOnly      bool
	CoarseMtime   bool // modification times in whole seconds
}

// Machine is a device: disks that lose power together, one count of changing
// operations, one clock. It is safe for concurrent use.
type Machine struct {
	mu        sync.Mutex
	disks     []*Disk
	now       int64 // ns since 1970; one tick per changing operation
	ops       int
	cutAt     int // the operation that does not happen; 0 is none
	off       bool
	failures  map[int]failure
	failLooks func(op, path string) error
	before    func(op, path string)
	busy      bool      // with what Before ordered
	past      [][]event // the trace up to the last Clone, shared
	trace     []event   // and since
	boots     int       // open files of an earlier boot are dead
	started   int64     // when the present boot began, in ns since 1970
	epoch     int       // inodes of an earlier epoch are shared with a clone
}

type event struct {
	disk, what string
	names      [2]string
	err        error
}

func (e event) String() string {
	s := e.what
	if e.disk != "" {
		s = e.disk + ": " + s
	}
	for _, n := range e.names {
		if n != "" {
			s += " " + n
		}
	}
	if e.err != nil {
		s += " (" + e.err.Error() + ")"
	}
	return s
}

// NewMachine makes a machine without disks.
func NewMachine() *Machine {
	return &Machine{now: epochTime, epoch: 1}
}

// NewDisk adds an empty disk. A name that is taken gives the disk that has it.
func (m *Machine) NewDisk(name string, o Options) *Disk {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.disk(name); d != nil {
		return d
	}
	d := &Disk{
		m: m, name: name, opts: o,
		dev:     uint64(len(m.disks) + 1),
		lastIno: rootIno,
		inodes:  make(map[uint64]*inode),
		open:    make(map[uint64]int),
	}
	a := attr{mode: 0o755, mtime: d.time(m.now), ctime: d.time(m.now)}
	d.inodes[rootIno] = &inode{
		epoch: m.epoch, typ: fsys.TypeDir, parent: rootIno, nlink: 1,
		attr: a, synced: a, entries: make(map[string]uint64),
	}
	d.recount()
	m.disks = append(m.disks, d)
	return d
}

// Disk returns the disk of that name, or nil.
func (m *Machine) Disk(name string) *Disk {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk(name)
}

func (m *Machine) disk(name string) *Disk {
	for _, d := range m.disks {
		if d.name == name {
			return d
		}
	}
	return nil
}

// Ops says how many changing operations there were: Create, File.Write,
// File.Sync, Mkdir, Symlink, Link, Rename, Exchange, Remove, SetAttr, SyncDir
// and Sync, that of a Barrier too, those that CutAt and FailAt struck included. A call that finds
// nothing to change, or is refused because of what it names, is not counted.
func (m *Machine) Ops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ops
}

// Trace lists the counted operations and the restarts, for messages.
func (m *Machine) Trace() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for _, events := range append(slices.Clip(m.past), m.trace) {
		for _, e := range events {
			lines = append(lines, e.String())
		}
	}
	return lines
}

// LastOp returns the disk and the kind, such as "rename", of the last counted
// operation, or of the last restart.
func (m *Machine) LastOp() (disk, what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, events := range slices.Backward(append(slices.Clip(m.past), m.trace)) {
		if len(events) > 0 {
			e := events[len(events)-1]
			return e.disk, e.what
		}
	}
	return "", ""
}

// Now is the time on the machine's clock. It moves by a millisecond with each
// counted operation.
func (m *Machine) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Unix(0, m.now)
}

// Boot tells this run of the machine from those before a power cut, and when it
// began, in nanoseconds since 1970-01-01 UTC.
func (m *Machine) Boot() (id string, started int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("boot-%d", m.boots), m.started
}

// Advance moves the clock.
func (m *Machine) Advance(by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now += int64(by)
}

// Clone copies the machine and its disks, what is not durable included. What is
// ordered by CutAt and FailAt goes along; open files stay with m.
func (m *Machine) Clone() *Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++ // from here on both sides copy an inode before they change it
	if len(m.trace) > 0 {
		m.past = append(slices.Clip(m.past), m.trace)
		m.trace = nil
	}
	c := &Machine{
		now: m.now, ops: m.ops, cutAt: m.cutAt, off: m.off,
		failures:  maps.Clone(m.failures),
		failLooks: m.failLooks,
		past:      m.past,
		boots:     m.boots,
		started:   m.started,
		epoch:     m.epoch,
	}
	for _, d := range m.disks {
		n := *d
		n.m = c
		n.inodes = maps.Clone(d.inodes)
		n.open = make(map[uint64]int)
		n.gone = slices.Clone(d.gone)
		n.log = slices.Clone(d.log)
		c.disks = append(c.disks, &n)
	}
	return c
}

// Cuts runs work on clones of m: with the power cut at its first changing
// operation, at its second and so on, and last without a cut. It gives each cut
// and the machine that it left, which is still to be restarted.
func (m *Machine) Cuts(work func(*Machine)) iter.Seq2[int, *Machine] {
	return func(yield func(int, *Machine) bool) {
		for n := 1; ; n++ {
			c := m.Clone()
			c.CutAt(n)
			work(c)
			cut := c.Off()
			if !cut {
				c.CutAt(0)
			}
			if !yield(n, c) || !cut {
				return
			}
		}
	}
}

// Off reports whether the power is cut.
func (m *Machine) Off() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.off
}

// Disk is one file system of a machine.
type Disk struct {
	m       *Machine
	name    string
	opts    Options
	dev     uint64
	lastIno uint64

	inodes map[uint64]*inode // as seen by programs, and what the log still names
	open   map[uint64]int    // open files per inode
	gone   []uint64          // inodes without a name, forgotten once the log is empty
	log    []change          // entry operations that may be lost

	blocks, count int64 // in use

	lost    int // times that writing out failed
	lostErr error
}

// FS is the whole disk. It stays valid over Restart.
func (d *Disk) FS() fsys.FS { return d.Sub(".") }

// Sub is the tree below dir, which is looked up anew with each operation.
func (d *Disk) Sub(dir string) fsys.FS { return &tree{d, dir} }

// SetReadOnly remounts the disk.
func (d *Disk) SetReadOnly(ro bool) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.opts.ReadOnly = ro
}

// Damage changes what the file holds, durably and without a trace in its
// attributes, as a worn-out flash page does. It is not a counted operation.
func (d *Disk) Damage(name string, change func([]byte) []byte) error {
	return d.overwrite("damage", name, change, func(uint64) {})
}

// Edit changes what the file holds, durably and in place, as an application
// does that opens and overwrites it. It is not a counted operation.
func (d *Disk) Edit(name string, change func([]byte) []byte) error {
	return d.overwrite("edit", name, change, func(ino uint64) {
		d.touch(ino)
		n := d.inodes[ino]
		n.synced.mtime, n.synced.ctime = n.attr.mtime, n.attr.ctime
	})
}

// EditData is Edit as a database does it, with fdatasync: the times are not made
// durable, so that a power cut may leave the new content under the old ones.
func (d *Disk) EditData(name string, change func([]byte) []byte) error {
	return d.overwrite("edit data", name, change, d.touch)
}

// overwrite changes the content of a file durably, and its times by touch.
func (d *Disk) overwrite(op, name string, change func([]byte) []byte, touch func(ino uint64)) error {
	t := &tree{d, "."}
	return t.run(op, name, func() error {
		p, err := t.regular(name)
		if err != nil {
			return err
		}
		n := d.mut(p.ino)
		d.blocks -= n.blocks()
		n.data = slices.Clone(change(slices.Clone(n.data)))
		n.safe, n.clean, n.doubt = len(n.data), len(n.data), nil
		d.blocks += n.blocks()
		touch(p.ino)
		return nil
	})
}

// SetMount lets the entry name look as if something else were mounted there, or
// no more. It is not a counted operation.
func (d *Disk) SetMount(name string, mounted bool) error {
	return d.mark("mount", name, func(n *inode) { n.mount = mounted })
}

// SetFixed makes the entry name immutable, or no more. It is not a counted
// operation.
func (d *Disk) SetFixed(name string, fixed bool) error {
	return d.mark("chattr", name, func(n *inode) { n.fixed = fixed })
}

func (d *Disk) mark(op, name string, how func(*inode)) error {
	t := &tree{d, "."}
	return t.run(op, name, func() error {
		p, _, err := t.get(name)
		if err == nil {
			how(d.mut(p.ino))
		}
		return err
	})
}

// Mkfifo makes an entry of type Other. It counts as a Create.
func (d *Disk) Mkfifo(name string, mode uint32) error {
	t := &tree{d, "."}
	return t.run("mkfifo", name, func() error {
		_, err := t.create("mkfifo", name, fsys.TypeOther, mode, "")
		return err
	})
}

// inode is a file, directory or other thing on a disk. One of an earlier epoch
// is shared between clones and never changed; see Disk.mut.
type inode struct {
	epoch  int
	typ    fsys.Type
	nlink  int // names in directories
	attr   attr
	synced attr // the attributes that are durable
	target string
	mount  bool // something else is mounted here
	fixed  bool // immutable

	parent  uint64            // directories: the one that holds it, 0 if none does
	entries map[string]uint64 // directories

	// A file only ever grows, so one slice holds both what is durable and what
	// is not. Its bytes are never changed in place.
	data  []byte
	safe  int    // durable length
	clean int    // what no Sync will write any more, durable or failed
	doubt []span // what failed Syncs lost, below clean
	wbErr error  // a write error that the next File.Sync has to report
}

type attr struct {
	mode     uint32
	uid, gid uint32
	mtime    int64
	ctime    int64
	xattrs   map[string][]byte // replaced as a whole, never changed
}

type span struct{ from, to int }

func (n *inode) blocks() int64 {
	switch n.typ {
	case fsys.TypeDir:
		return 1
	case fsys.TypeFile:
		return (int64(len(n.data)) + blockSize - 1) / blockSize
	}
	return 0
}

// flush makes data and attributes durable, except for data in doubt.
func (n *inode) flush() {
	n.safe, n.clean = len(n.data), len(n.data)
	n.synced = n.attr
}

// lose leaves the data that a failing Sync was to write in doubt.
func (n *inode) lose() bool {
	if n.clean == len(n.data) {
		return false
	}
	n.doubt = append(slices.Clip(n.doubt), span{n.clean, len(n.data)})
	n.clean = len(n.data)
	return true
}

// mut returns the inode for changing, as a private copy if a clone may share it.
func (d *Disk) mut(ino uint64) *inode {
	n := d.inodes[ino]
	if n.epoch == d.m.epoch {
		return n
	}
	c := *n
	c.epoch = d.m.epoch
	c.entries = maps.Clone(n.entries)
	c.data = slices.Clip(n.data) // so that growing it does not write into the shared array
	d.inodes[ino] = &c
	return &c
}

// touch sets the times of an inode whose content changes.
func (d *Disk) touch(ino uint64) {
	d.change(ino)
	d.inodes[ino].attr.mtime = d.time(d.m.now)
}

// change sets the time of an inode that changes but for its content.
func (d *Disk) change(ino uint64) {
	d.mut(ino).attr.ctime = d.time(d.m.now)
}

func (d *Disk) time(ns int64) int64 {
	if d.opts.CoarseMtime {
		s := int64(time.Second)
		ns -= ((ns % s) + s) % s
	}
	return ns
}

// release gives back the space of an inode without a name once no file is open on it.
func (d *Disk) release(ino uint64) {
	n := d.inodes[ino]
	if n == nil || n.nlink > 0 || d.open[ino] > 0 {
		return
	}
	d.blocks -= n.blocks()
	d.count--
	d.gone = append(d.gone, ino)
	d.forget()
}

// forget drops the inodes that nothing names any more, not even the log.
func (d *Disk) forget() {
	if len(d.log) > 0 {
		return
	}
	for _, ino := range d.gone {
		delete(d.inodes, ino)
	}
	d.gone = nil
}

// recount computes the space in use from the inodes.
func (d *Disk) recount() {
	d.blocks, d.count = 0, 0
	for _, n := range d.inodes {
		d.blocks += n.blocks()
		d.count++
	}
}

// room is how many blocks may still be used.
func (d *Disk) room() int64 {
	if d.opts.Capacity <= 0 {
		return plenty / blockSize
	}
	return max(d.opts.Capacity/blockSize-d.blocks, 0)
}

// writable reports whether the disk takes a change that needs so many inodes and blocks.
func (d *Disk) writable(inodes, blocks int64) error {
	if d.opts.ReadOnly {
		return syscall.EROFS
	}
	if d.opts.Inodes > 0 && d.count+inodes > d.opts.Inodes {
		return syscall.ENOSPC
	}
	if blocks > d.room() {
		return syscall.ENOSPC
	}
	return nil
}

func (d *Disk) path(name string) string {
	if name == "." {
		return "/" + d.name
	}
	return "/" + d.name + "/" + strings.TrimPrefix(name, "./")
}
