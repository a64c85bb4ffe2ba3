package codec

// Arch is the machine that both files are programs for.
type Arch int

// What the rules of prediction know. NoArch is data: nothing is predicted, and
// the mode of a piece is not coded.
const (
	NoArch Arch = iota
	ARM
	ARM64
	AMD64
)

// A Segment is a part of a program as it is loaded: Addr and what follows
// come from FileSize bytes at Offset.
type Segment struct{ Addr, Offset, FileSize, MemSize int64 }

// MaxSegments is how many segments of a program a patch knows.
const MaxSegments = 8

// A Base is the address in both programs that a table's entries count from.
type Base struct{ Old, New int64 }

// The bases of a Go program's tables, in the order of Layout.Bases.
const (
	BaseText = iota
	BaseTypes
	BaseFunctab
	BasePctab
	BaseNames
	BaseGofunc
	BaseCutab
	numBases
)

// A Layout is what a patch tells of the two programs.
type Layout struct {
	Arch     Arch
	Old, New []Segment
	Bases    []Base // all or none
	// Go's table of functions in the old file: where it is, how many it
	// lists, and the size of a pointer. 0 if there is none.
	Functab, Functions, Pointer int64
}

// An Op is an operation: Copy bytes of the old file from Old on become the new
// bytes from New on, and Extra bytes that are new come after them.
type Op struct{ Old, New, Copy, Extra int32 }

func (o Op) oldEnd() int { return int(o.Old) + int(o.Copy) }

// A header codes the head: the layout and the operations.
type header struct {
	*coder
	plain, signed  numbers
	copies, extras numbers
	moves          [2]numbers // by whether the operation has no extra bytes
	noExtra        prob
	noMove         [2]prob
	oldLen, newLen int
}

func newHeader(c *coder, oldLen, newLen int) *header {
	return &header{
		coder: c, plain: newNumbers(), signed: newNumbers(), copies: newNumbers(), extras: newNumbers(),
		moves:  [2]numbers{newNumbers(), newNumbers()},
		oldLen: oldLen, newLen: newLen,
	}
}

func (h *header) count(v *int64) { *v = h.number(&h.plain, *v) }

// near codes a number by how far it is from another.
func (h *header) near(v *int64, from int64) { *v = from + h.coder.signed(&h.signed, *v-from) }

// layout codes l.
func (h *header) layout(l *Layout) {
	arch := int64(l.Arch)
	h.count(&arch)
	if arch > int64(AMD64) {
		h.fail("a machine that is not known")
	}
	l.Arch = Arch(arch)
	h.segments(&l.Old, nil)
	h.segments(&l.New, l.Old)
	n := int64(len(l.Bases))
	h.count(&n)
	if n != 0 && n != numBases {
		h.fail("%d bases of tables", n)
	}
	if h.err != nil {
		return
	}
	if l.Bases == nil {
		l.Bases = make([]Base, n)
	}
	for i := range l.Bases {
		h.count(&l.Bases[i].Old)
		h.near(&l.Bases[i].New, l.Bases[i].Old)
	}
	h.count(&l.Functab)
	h.count(&l.Functions)
	h.count(&l.Pointer)
	if l.Functab+8*l.Functions > int64(h.oldLen) {
		h.fail("the table of functions lies outside the old file")
	}
}

// segments codes the segments of a program, each by how it differs from that
// in its place in like.
func (h *header) segments(s *[]Segment, like []Segment) {
	n := int64(len(*s))
	h.count(&n)
	if n > MaxSegments {
		h.fail("%d segments", n)
	}
	if h.err != nil {
		return
	}
	if *s == nil {
		*s = make([]Segment, n)
	}
	for i := range *s {
		g := &(*s)[i]
		if i < len(like) {
			h.near(&g.Addr, like[i].Addr)
			h.near(&g.Offset, like[i].Offset)
			h.near(&g.FileSize, like[i].FileSize)
			h.near(&g.MemSize, like[i].MemSize)
			continue
		}
		h.count(&g.Addr)
		h.near(&g.Offset, g.Addr)
		h.count(&g.FileSize)
		h.near(&g.MemSize, g.FileSize)
	}
}

// operations codes the list of operations, and sees to it that each lies in
// the old file and that together they make the new one.
func (h *header) operations(ops []Op) []Op {
	n := int64(len(ops))
	h.count(&n)
	if n > MaxOperations {
		h.fail("%d operations", n)
	}
	if h.err != nil {
		return nil
	}
	if ops == nil {
		ops = make([]Op, n)
	}
	from, to := 0, 0
	for i := range ops {
		o := &ops[i]
		size := h.number(&h.copies, int64(o.Copy))
		without := toBit(h.flag(&h.noExtra, o.Extra == 0))
		extra := int64(0)
		if without == 0 {
			extra = h.number(&h.extras, int64(o.Extra)-1) + 1
		}
		move := int64(o.Old) - int64(from)
		if h.flag(&h.noMove[without], move == 0) {
			move = 0
		} else {
			move = h.coder.signed(&h.moves[without], move)
		}
		old := int64(from) + move
		if old < 0 || old+size > int64(h.oldLen) {
			h.fail("an operation copies what lies outside the old file")
		}
		if int64(to)+size+extra > int64(h.newLen) {
			h.fail("the operations make more than the new file")
		}
		if h.err != nil {
			return nil
		}
		*o = Op{Old: int32(old), New: int32(to), Copy: int32(size), Extra: int32(extra)}
		from, to = o.oldEnd(), to+int(size+extra)
	}
	if to != h.newLen {
		h.fail("the operations make %d of the %d bytes of the new file", to, h.newLen)
	}
	return ops
}
