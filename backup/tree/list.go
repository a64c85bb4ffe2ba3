package tree

import (
	"bytes"
	"encoding/binary"
	"sort"

	"tandem/backup/manifest"
	"tandem/internal/compact"
)

// list holds nodes, sorted by path. A tree has as many as files, so that each byte counts: a
// node is kept as what it has not in common with the one before. It is safe for many readers.
type list struct {
	blocks [][]byte // of so many nodes each, but for the last one; the first of each begins anew
	n      int
	notes  []uint8 // what was noted on each node later; nil for nothing
	rare   map[manifest.Path]*rare
	to     compact.Writer // of the last block
	last   Node           // that was added
}

const inBlock = 8 // nodes

// asBefore says that of type, owner, mode, names and flags a node has what the one before has.
const asBefore = 1

// add adds n, whose path is higher than those before.
func (l *list) add(n *Node) {
	k := l.n / inBlock
	if l.n%inBlock == 0 {
		if k > 0 {
			l.blocks[k-1] = bytes.Clone(l.blocks[k-1]) // it does not grow any more
		}
		l.blocks, l.to, l.last = append(l.blocks, nil), compact.Writer{Bytes: l.to.Bytes[:0]}, Node{}
	}
	w, was := &l.to, l.last
	w.Path(string(n.Path))
	if was.kind == n.kind && was.Mode == n.Mode && was.UID == n.UID && was.GID == n.GID && was.Nlink == n.Nlink && was.Dev == n.Dev && was.flags == n.flags {
		w.Uint(asBefore)
	} else {
		for _, v := range [...]uint64{0, uint64(n.kind), uint64(n.flags), uint64(n.Mode), uint64(n.UID), uint64(n.GID), uint64(n.Nlink), n.Dev} {
			w.Uint(v)
		}
	}
	for _, v := range [...]int64{n.Mtime - was.Mtime, n.Ctime - was.Ctime, int64(n.Ino - was.Ino), n.Size, n.Alloc - n.Size} {
		w.Int(v)
	}
	l.blocks[k], l.last = w.Bytes, *n
	l.n++
}

// reader reads what a compact.Writer wrote, of a block in memory.
type reader struct{ b []byte }

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	r.b = r.b[n:]
	return v
}

func (r *reader) signed() int64 {
	v, n := binary.Varint(r.b)
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

// seldom returns what few nodes have, of the one at p.
func (l *list) seldom(p manifest.Path) *rare {
	if l.rare == nil {
		l.rare = map[manifest.Path]*rare{}
	}
	if l.rare[p] == nil {
		l.rare[p] = &rare{}
	}
	return l.rare[p]
}

// note notes flags on the node i.
func (l *list) note(i int, flags uint8) {
	if l.notes == nil {
		l.notes = make([]uint8, l.n)
	}
	l.notes[i] |= flags
}

// Cursor goes through a list. Of the node that it is at, found has all but the path, which is
// in path, and what is rare.
type Cursor struct {
	l     *list
	at    int // of the node
	taken bool
	rest  reader
	path  []byte
	flags uint8 // of the node, without what was noted later
	found Node
}

// begin returns a cursor before the node i, the first of a block. It keeps paths in room.
func (l *list) begin(i int, room []byte) Cursor {
	return Cursor{l: l, at: i - 1, taken: true, path: room}
}

// ahead goes to the next node if the last one was taken; false after the last one.
func (c *Cursor) ahead() bool {
	if !c.taken {
		return c.at < c.l.n
	}
	c.taken = false
	if c.at++; c.at == c.l.n {
		return false
	}
	if c.at%inBlock == 0 {
		c.rest.b, c.path, c.flags, c.found = c.l.blocks[c.at/inBlock], c.path[:0], 0, Node{}
	}
	r, n := &c.rest, &c.found
	shared := r.number()
	c.path = append(c.path[:shared], r.bytes(r.number())...)
	if r.number() != asBefore {
		n.kind, c.flags = kind(r.number()), uint8(r.number())
		n.Mode, n.UID, n.GID, n.Nlink, n.Dev = uint16(r.number()), uint32(r.number()), uint32(r.number()), uint32(r.number()), r.number()
	}
	n.Mtime += r.signed()
	n.Ctime += r.signed()
	n.Ino += uint64(r.signed())
	n.Size = r.signed()
	n.Alloc = n.Size + r.signed()
	if n.flags = c.flags; c.l.notes != nil {
		n.flags |= c.l.notes[c.at]
	}
	return true
}

// Next takes the next node; false after the last one.
func (c *Cursor) Next() bool {
	c.taken = c.ahead()
	return c.taken
}

// Before takes the next node if its path is lower than p, and reports whether it is.
func (c *Cursor) Before(p manifest.Path) bool {
	c.taken = c.ahead() && c.compare(p) < 0
	return c.taken
}

// On takes the node at p, and returns it; nil if there is none. Those before are passed over:
// it is asked for paths in order.
func (c *Cursor) On(p manifest.Path) *Node {
	for c.Before(p) {
	}
	if c.taken = c.at < c.l.n && c.compare(p) == 0; !c.taken {
		return nil
	}
	return c.node(p)
}

// Node returns the node that was taken last. It is good until the next one is.
func (c *Cursor) Node() *Node { return c.node(manifest.Path(c.path)) }

// Place is its place in the list.
func (c *Cursor) Place() int { return c.at }

// node is Node for who has its path.
func (c *Cursor) node(p manifest.Path) *Node {
	c.found.Path, c.found.rare = p, c.l.rare[p]
	return &c.found
}

// compare compares the path of the present node to p.
func (c *Cursor) compare(p manifest.Path) int {
	switch {
	case string(c.path) < string(p):
		return -1
	case string(c.path) == string(p):
		return 0
	}
	return 1
}

// to goes to the first node that is not before p; false if there is none.
func (c *Cursor) to(p manifest.Path) bool {
	blocks := c.l.blocks
	k := sort.Search(len(blocks), func(k int) bool {
		r := reader{b: blocks[k]}
		r.number() // there is nothing in common
		return string(r.bytes(r.number())) > string(p)
	})
	*c = c.l.begin(max(k-1, 0)*inBlock, c.path)
	for c.Before(p) {
	}
	return c.at < c.l.n
}

// Len returns how many nodes there are.
func (l *list) Len() int { return l.n }

// Nodes returns a cursor before the first node.
func (l *list) Nodes() *Cursor {
	c := l.begin(0, nil)
	return &c
}

// At returns the node i.
func (l *list) At(i int) *Node {
	c := l.begin(i/inBlock*inBlock, nil)
	for c.Next() && c.at < i {
	}
	return c.Node()
}

// Any reports whether f holds of any node.
func (l *list) Any(f func(*Node) bool) bool {
	for c := l.Nodes(); c.Next(); {
		if f(c.Node()) {
			return true
		}
	}
	return false
}

// Has reports whether something lies at p.
func (l *list) Has(p manifest.Path) bool {
	var room [256]byte
	c := l.begin(0, room[:0])
	return c.to(p) && c.compare(p) == 0
}

// get returns what lies at p; nil if nothing does.
func (l *list) get(p manifest.Path) *Node {
	var room [256]byte
	c := l.begin(0, room[:0])
	if !c.to(p) || c.compare(p) != 0 {
		return nil
	}
	n := *c.node(p)
	return &n
}

// Below returns a cursor before the first node below the directory p, if there is any.
func (l *list) Below(p manifest.Path) *Cursor {
	c := l.Nodes()
	c.to(p + "/")
	return c
}
