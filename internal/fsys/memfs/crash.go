package memfs

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"

	"tandem/internal/fsys"
)

// change is an operation on directory entries. It happens as a whole or not at all.
type change struct {
	edits  []edit // one or two, never changed
	synced uint8  // bit i: the directory of edits[i] was synced afterwards
	link   bool   // adds a name to an inode that has one
}

// edit lets a name lead to another inode; 0 is none.
type edit struct {
	dir      uint64
	name     string
	from, to uint64
}

type slot struct {
	dir  uint64
	name string
}

func (c change) durable() bool { return c.synced == 1<<len(c.edits)-1 }

// unlinks lists the inodes that lose a name and get no other.
func (c change) unlinks() []uint64 {
	var gone []uint64
	for _, e := range c.edits {
		if e.from != 0 && !slices.ContainsFunc(c.edits, func(o edit) bool { return o.to == e.from }) {
			gone = append(gone, e.from)
		}
	}
	return gone
}

// commit carries a checked change out and remembers that it may be lost.
func (d *Disk) commit(c change) {
	d.apply(c)
	d.log = append(d.log, c)
	for _, e := range c.edits {
		d.touch(e.dir)
		for _, ino := range []uint64{e.from, e.to} {
			if ino != 0 {
				d.change(ino)
			}
		}
	}
	for _, ino := range c.unlinks() {
		d.release(ino)
	}
}

func (d *Disk) apply(c change) {
	for _, e := range c.edits {
		d.unlink(e.dir, e.name, e.from)
	}
	for _, e := range c.edits {
		d.relink(e.dir, e.name, e.to)
	}
}

func (d *Disk) revert(c change) {
	for _, e := range c.edits {
		d.unlink(e.dir, e.name, e.to)
	}
	for _, e := range c.edits {
		d.relink(e.dir, e.name, e.from)
	}
}

func (d *Disk) unlink(dir uint64, name string, ino uint64) {
	if ino == 0 {
		return
	}
	delete(d.mut(dir).entries, name)
	n := d.mut(ino)
	n.nlink--
	if n.typ == fsys.TypeDir {
		n.parent = 0
	}
}

func (d *Disk) relink(dir uint64, name string, ino uint64) {
	if ino == 0 {
		return
	}
	d.mut(dir).entries[name] = ino
	n := d.mut(ino)
	n.nlink++
	if n.typ == fsys.TypeDir {
		n.parent = dir
	}
}

// within reports whether dir is top or lies below it.
func (d *Disk) within(dir, top uint64) bool {
	// A loop of directories, which a replay can make for a moment, is longer
	// than there are inodes.
	for range len(d.inodes) + 1 {
		if dir == top {
			return true
		}
		n := d.inodes[dir]
		if n == nil || dir == rootIno {
			return false
		}
		dir = n.parent
	}
	return false
}

// syncEntries makes the changes durable as far as they touch dir.
func (d *Disk) syncEntries(dir uint64) {
	for i := range d.log {
		for j, e := range d.log[i].edits {
			if e.dir == dir {
				d.log[i].synced |= 1 << j
			}
		}
	}
	n := 0
	for n < len(d.log) && d.log[n].durable() {
		n++
	}
	d.log = d.log[n:]
	d.forget()
}

// sure says of each change in the log whether it survives for certain: those
// that are durable, and those that they build on.
func (d *Disk) sure() []bool {
	sure := make([]bool, len(d.log))
	slots := make(map[slot]bool)  // names whose history is needed
	dirs := make(map[uint64]bool) // directories that must have become empty
	for i, c := range slices.Backward(d.log) {
		need := c.durable()
		for _, e := range c.edits {
			need = need || slots[slot{e.dir, e.name}] || dirs[e.dir]
		}
		if !need {
			continue
		}
		sure[i] = true
		for _, e := range c.edits {
			slots[slot{e.dir, e.name}] = true
		}
		for _, ino := range c.unlinks() {
			if d.inodes[ino].typ == fsys.TypeDir {
				dirs[ino] = true
			}
		}
	}
	return sure
}

// replay carries a change out on what survived before it, if that is possible.
func (d *Disk) replay(c change, sure bool) {
	for _, e := range c.edits {
		if !d.within(e.dir, rootIno) || d.inodes[e.dir].entries[e.name] != e.from {
			return
		}
		if c.link && !sure && d.inodes[e.to].nlink == 0 {
			return
		}
	}
	d.apply(c)
	for _, e := range c.edits {
		if e.to != 0 && d.inodes[e.to].typ == fsys.TypeDir && !d.within(e.to, rootIno) {
			d.revert(c)
			return
		}
	}
	for _, ino := range c.unlinks() {
		if len(d.inodes[ino].entries) > 0 {
			d.revert(c)
			return
		}
	}
}

// Choice picks one of the states that a power cut may leave. The zero value is
// Nothing.
type Choice struct {
	entries, content keep
	rng              *rand.Rand
}

type keep int

const (
	keepSynced keep = iota
	keepAll
	keepPrefix
	keepSome
	keepZeros // of data alone
)

// Nothing lets only what was synced survive.
func Nothing() Choice { return Choice{} }

// Everything lets all operations and all data survive, data in doubt included.
func Everything() Choice { return Choice{entries: keepAll, content: keepAll} }

// EntriesOnly lets all entries survive, but of data and attributes only what was
// synced: the file that was renamed before it was written out.
func EntriesOnly() Choice { return Choice{entries: keepAll} }

// Zeros lets all entries, lengths and attributes survive, but data that was not
// synced reads as zeros: the file that has its length on the disk and not its
// blocks.
func Zeros() Choice { return Choice{entries: keepAll, content: keepZeros} }

// DataOnly lets all data and attributes survive, but of the entries only what was
// synced.
func DataOnly() Choice { return Choice{content: keepAll} }

// Prefix lets the entry operations up to a random one survive, as a journalling
// file system does, and some of the data and attributes.
func Prefix(rng *rand.Rand) Choice {
	return Choice{entries: keepPrefix, content: keepSome, rng: orFixed(rng)}
}

// Random lets a random part of entry operations, data and attributes survive.
func Random(rng *rand.Rand) Choice {
	return Choice{entries: keepSome, content: keepSome, rng: orFixed(rng)}
}

// Choices returns every fixed Choice, and n each of Prefix and Random, each with
// its own seed, so that one can be repeated without the others.
func Choices(seed uint64, n int) []Choice {
	c := []Choice{Nothing(), Everything(), EntriesOnly(), Zeros(), DataOnly()}
	for i := range uint64(n) {
		c = append(c, Prefix(rand.New(rand.NewPCG(seed, 2*i))), Random(rand.New(rand.NewPCG(seed, 2*i+1))))
	}
	return c
}

func orFixed(rng *rand.Rand) *rand.Rand {
	if rng == nil {
		return rand.New(rand.NewPCG(0, 0))
	}
	return rng
}

func (c Choice) String() string {
	switch {
	case c.entries == keepSome:
		return "random"
	case c.entries == keepPrefix:
		return "prefix"
	case c.entries == keepAll && c.content == keepAll:
		return "everything"
	case c.content == keepZeros:
		return "zeros"
	case c.entries == keepAll:
		return "entries only"
	case c.content == keepAll:
		return "data only"
	}
	return "nothing"
}

// Restart brings the power back, after a cut or right now: the first disk falls
// into a state of c's choice, each further one into one of the next of others,
// or of the last that there is. Everything is durable then. Open files are dead,
// and what CutAt and FailAt ordered is off.
func (m *Machine) Restart(c Choice, others ...Choice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off = false
	m.cutAt = 0
	m.failures = nil
	m.boots++
	m.started = m.now
	what := "restart with " + c.String()
	for _, o := range others {
		what += ", " + o.String()
	}
	m.trace = append(m.trace, event{what: what})
	for i, d := range m.disks {
		if i > 0 && len(others) > 0 {
			c, others = others[0], others[1:]
		}
		d.crash(c)
	}
}

// Evict drops from the cache what failed Syncs did not write: until then, or
// until Restart, it can still be read.
func (m *Machine) Evict() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.disks {
		for _, ino := range slices.Sorted(maps.Keys(d.inodes)) {
			if len(d.inodes[ino].doubt) == 0 {
				continue
			}
			n := d.mut(ino)
			d.blocks -= n.blocks()
			kept := n.dropDoubt(n.data[:n.clean:n.clean], Nothing())
			if n.clean == len(n.data) { // what follows lost data holds its place
				n.data = kept
			} else {
				n.data = append(append(slices.Clip(kept), make([]byte, n.clean-len(kept))...), n.data[n.clean:]...)
			}
			n.safe, n.clean = min(n.safe, len(n.data)), min(n.clean, len(n.data))
			n.doubt = nil
			d.blocks += n.blocks()
		}
	}
}

// Fingerprint tells machines apart by what their disks hold: names, content,
// attributes, which names share an inode, and the inodes' numbers. Times of
// directories do not count. It is meant for the time after a Restart: what is
// not durable does not count as such.
func (m *Machine) Fingerprint() [sha256.Size]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []byte
	for _, d := range m.disks {
		all = d.fingerprint(append(all, d.name...), rootIno)
	}
	return sha256.Sum256(all)
}

// fingerprint appends what lies at ino, each part with its length before it.
func (d *Disk) fingerprint(all []byte, ino uint64) []byte {
	n := d.inodes[ino]
	text := func(s string) {
		all = binary.AppendUvarint(all, uint64(len(s)))
		all = append(all, s...)
	}
	numbers := []int64{int64(ino), int64(n.attr.mode), int64(n.attr.uid), int64(n.attr.gid), n.attr.mtime, n.attr.ctime, int64(len(n.attr.xattrs)), int64(len(n.entries))}
	if n.typ == fsys.TypeDir {
		numbers[4], numbers[5] = 0, 0
	}
	for _, v := range numbers {
		all = binary.AppendVarint(all, v)
	}
	text(string(n.typ))
	text(n.target)
	all = binary.AppendUvarint(all, uint64(len(n.data)))
	all = append(all, n.data...)
	for _, x := range slices.Sorted(maps.Keys(n.attr.xattrs)) {
		text(x)
		text(string(n.attr.xattrs[x]))
	}
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		text(name)
		all = d.fingerprint(all, n.entries[name])
	}
	return all
}

func (d *Disk) crash(c Choice) {
	d.crashEntries(c)

	// What no entry leads to vanishes.
	for ino, n := range d.inodes {
		if n.nlink == 0 {
			delete(d.inodes, ino)
		}
	}
	d.gone = nil
	d.open = make(map[uint64]int)

	for _, ino := range slices.Sorted(maps.Keys(d.inodes)) {
		n := d.inodes[ino]
		if n.safe < len(n.data) || len(n.doubt) > 0 || n.wbErr != nil || !n.attr.equal(n.synced) {
			n = d.mut(ino)
			n.crash(c)
		}
	}
	d.recount()
}

func (d *Disk) crashEntries(c Choice) {
	log := d.log
	d.log = nil
	if c.entries == keepAll || len(log) == 0 {
		return
	}
	d.log = log
	sure := d.sure()
	d.log = nil

	survives := func(int) bool { return false }
	switch c.entries {
	case keepPrefix:
		n := len(log)
		for n > 0 && !sure[n-1] {
			n--
		}
		n += c.rng.IntN(len(log) - n + 1)
		survives = func(i int) bool { return i < n }
	case keepSome:
		share := c.rng.Float64()
		survives = func(int) bool { return c.rng.Float64() < share }
	}
	for _, ch := range slices.Backward(log) {
		d.revert(ch)
	}
	for i, ch := range log {
		if sure[i] || survives(i) {
			d.replay(ch, sure[i])
		}
	}
}

// crash gives a file or directory the content and attributes that it has after
// the power cut.
func (n *inode) crash(c Choice) {
	end := n.safe  // length afterwards
	zero := n.safe // from here on it holds zeros
	switch c.content {
	case keepAll:
		end, zero = len(n.data), len(n.data)
	case keepZeros:
		end = len(n.data)
	case keepSome:
		end, zero = n.tear(c.rng)
	}
	data := n.data[:zero:zero]
	if zero < end {
		data = append(data, make([]byte, end-zero)...)
	}
	if c.content != keepAll {
		data = n.dropDoubt(data, c)
	}
	n.data = data

	switch c.content {
	case keepSynced:
		n.attr = n.synced
	case keepSome:
		if c.rng.IntN(2) == 0 {
			n.attr.mode = n.synced.mode
		}
		if c.rng.IntN(2) == 0 {
			n.attr.uid, n.attr.gid = n.synced.uid, n.synced.gid
		}
		if c.rng.IntN(2) == 0 {
			n.attr.mtime, n.attr.ctime = n.synced.mtime, n.synced.ctime
		}
		if c.rng.IntN(2) == 0 {
			n.attr.xattrs = n.synced.xattrs
		}
	}
	n.doubt, n.wbErr = nil, nil
	n.flush()
}

// tear picks how much of the un-synced data is left, and what of that is zeros.
func (n *inode) tear(rng *rand.Rand) (end, zero int) {
	all := len(n.data)
	if n.safe == all {
		return all, all
	}
	torn := n.safe + rng.IntN(all-n.safe)
	switch rng.IntN(5) {
	case 0:
		return n.safe, n.safe
	case 1:
		return all, all
	case 2:
		return torn, torn
	case 3:
		return all, torn
	}
	return all, n.safe
}

// dropDoubt loses data that a failed Sync did not write: always what keepSynced
// is asked for, otherwise some of it. Lost data reads as zeros, or is cut off
// where nothing follows it.
func (n *inode) dropDoubt(data []byte, c Choice) []byte {
	owned := false
	for _, s := range slices.Backward(n.doubt) {
		s.to = min(s.to, len(data))
		if s.from >= s.to || c.content == keepSome && c.rng.IntN(2) == 0 {
			continue
		}
		if s.to == len(data) && c.content != keepZeros && (c.content == keepSynced || c.rng.IntN(2) == 0) {
			data = data[:s.from:s.from]
			continue
		}
		if !owned {
			data, owned = slices.Clone(data), true
		}
		clear(data[s.from:s.to])
	}
	return data
}
