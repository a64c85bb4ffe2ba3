package codec

import (
	"encoding/binary"
	"slices"
	"sort"
)

var le = binary.LittleEndian

// A Mode is how a piece is predicted: below modeCode it holds two rules for
// data, else it names a rule for code.
type Mode int

// The modes that are not made of rules for data. ModeNone keeps the old bytes.
const (
	ModeNone    Mode = 0
	modeCode    Mode = 64
	ModeA32     Mode = modeCode + 1
	ModeThumb   Mode = modeCode + 2
	ModeA64     Mode = modeCode + 3
	ModeAMD64   Mode = modeCode + 4
	ModeGoFuncs Mode = modeCode + 5
)

// A Rule is for words of data: even and odd ones have each their own.
type Rule int

// A rule above RuleAbsolute is for words that count from a base of that index.
const (
	RuleNone Rule = iota
	RuleAbsolute
	ruleBase
)

// DataRules is how many rules for words there are with that layout.
func (l *Layout) DataRules() Rule { return ruleBase + Rule(min(ruleBases, len(l.Bases))) }

// ruleBases is how many of the bases a rule can name.
const ruleBases = 6

// ModeData is the mode of two rules.
func ModeData(even, odd Rule) Mode { return Mode(even | odd<<3) }

// A kind is what a site is; the residuals of each have their own statistics.
type kind uint8

const (
	kindNone kind = iota
	kindBL        // a branch of A32
	kindThumbBL
	kindThumbBLX
	kindLiteral // a word that counts from an instruction
	kindAbsolute
	kindRelative // a word that counts from a base
	kindB26      // a branch of A64
	kindADRP
	kindAMD64
	kindCutab // as kindRelative, in units of four bytes
	kindPLT   // a stub of the linkage table
	numKinds
	kindSecond = kindCutab // the instruction that an ADRP goes with
)

// A site is a place in a piece that holds, in some form, an address.
type site struct {
	at, size int
	kind     kind
	target   uint32 // the address in the old program
	aux      uint32 // of kindLiteral what it counts from, of kindRelative and kindCutab the base, of kindADRP how far its second is
}

// A piece is what is predicted at once.
type piece struct {
	old   []byte // size bytes and, within the copy, up to ahead more
	size  int
	from  int // its place in the old file
	to    int // its place in the new one
	first bool
}

// shift is from minus to: words stay words where four divides it.
func (p *piece) shift() int { return p.from - p.to }

// word returns where the first 4-aligned word of the new file is, from at on.
func (p *piece) word(at int) int { return at + -(p.to+at)&3 }

// A predictor foretells new bytes. It knows where the addresses of the old
// program have gone by the operations, and learns better where it is shown.
type predictor struct {
	layout *Layout
	ops    []Op
	byOld  []int32 // indices of the operations that copy, by where they do

	learnt  [1 << learnBits]struct{ old, new uint32 }
	pending [pendings]pending
	reg     [16]uint32 // addresses of literals that the code has loaded
	carry   [8]byte    // predicted bytes of the copy's next piece
	carried int
	prev    [2]byte // the two old bytes before the piece
	funcs   funcState
	functab *window

	// What a trial has overwritten in pending, and the sites that it found.
	trying bool
	undo   []undone
	tried  []site
}

const (
	learnBits = 14
	pendings  = 1024
)

// A pending is a literal that the code ahead of it uses: the word at address
// at counts from old in the old program, from new in the new one.
type pending struct{ at, old, new uint32 }

type undone struct {
	i   uint32
	was pending
}

func newPredictor(l *Layout, ops []Op, functab *window) *predictor {
	p := &predictor{layout: l, ops: ops, functab: functab, byOld: make([]int32, 0, len(ops))}
	for i := range ops {
		if ops[i].Copy > 0 {
			p.byOld = append(p.byOld, int32(i))
		}
	}
	sort.Slice(p.byOld, func(i, j int) bool {
		a, b := p.byOld[i], p.byOld[j]
		return ops[a].Old < ops[b].Old || ops[a].Old == ops[b].Old && a < b
	})
	return p
}

// offset returns where the byte at an offset of the old file is in the new one.
func (p *predictor) offset(old int64) (int64, bool) {
	before, after := 0, len(p.byOld) // the first operation after old is between them
	for before < after {
		if m := (before + after) / 2; int64(p.ops[p.byOld[m]].Old) > old {
			after = m
		} else {
			before = m + 1
		}
	}
	for k := after - 1; k >= max(0, after-8); k-- {
		if o := &p.ops[p.byOld[k]]; old < int64(o.oldEnd()) {
			return int64(o.New) + old - int64(o.Old), true
		}
	}
	if after == 0 {
		return 0, false
	}
	o := &p.ops[p.byOld[after-1]]
	return int64(o.New) + old - int64(o.Old), true
}

// address returns where what is at an address of the old program is in the
// new one. It reports false where the old program has no such address.
func (p *predictor) address(old uint32) (uint32, bool) {
	for i, s := range p.layout.Old {
		at := int64(old) - s.Addr
		if at < 0 || at > s.MemSize {
			continue
		}
		if l := &p.learnt[learnSlot(old)]; l.old == old && old != 0 {
			return l.new, true
		}
		if at >= s.FileSize {
			if i >= len(p.layout.New) {
				return old, true
			}
			n := p.layout.New[i]
			return uint32(at - s.FileSize + n.Addr + n.FileSize), true
		}
		off, ok := p.offset(at + s.Offset)
		if !ok {
			return old, false
		}
		return loaded(p.layout.New, off)
	}
	return 0, false
}

// A Map knows where the operations of a patch move things.
type Map struct{ predictor *predictor }

// NewMap returns the map of a patch with that layout and these operations.
func NewMap(l *Layout, ops []Op) Map { return Map{newPredictor(l, ops, nil)} }

// Address returns where what is at an address of the old program is in the
// new one, if that is known.
func (m Map) Address(old uint32) (uint32, bool) { return m.predictor.address(old) }

// loaded returns the address at which the byte at an offset is loaded.
func loaded(segments []Segment, off int64) (uint32, bool) {
	for _, s := range segments {
		if off >= s.Offset && off < s.Offset+s.FileSize {
			return uint32(off - s.Offset + s.Addr), true
		}
	}
	return 0, false
}

func learnSlot(old uint32) uint32 { return old * 0x9E3779B1 >> (32 - learnBits) }

// learn notes where the old address really is in the new program.
func (p *predictor) learn(old, new uint32) {
	if foretold, ok := p.address(old); ok && foretold == new {
		return
	}
	l := &p.learnt[learnSlot(old)]
	l.old, l.new = old, new
}

// wait has the literal at address at wait to be met.
func (p *predictor) wait(at, old, new uint32) {
	i := at >> 2 % pendings
	if p.trying {
		p.undo = append(p.undo, undone{i, p.pending[i]})
	}
	p.pending[i] = pending{at, old, new}
}

// waits returns the literal that waits at that address.
func (p *predictor) waits(at uint32) (pending, bool) {
	w := p.pending[at>>2%pendings]
	return w, at != 0 && w.at == at
}

// trial predicts as predict does, and changes nothing.
func (p *predictor) trial(mode Mode, c *piece, dst []byte) {
	reg, carry, carried, funcs := p.reg, p.carry, p.carried, p.funcs
	p.trying, p.undo = true, p.undo[:0]
	p.tried = p.predict(mode, c, dst, p.tried[:0])
	p.trying = false
	for _, u := range slices.Backward(p.undo) {
		p.pending[u.i] = u.was
	}
	p.reg, p.carry, p.carried, p.funcs = reg, carry, carried, funcs
}

// predict writes the foretold bytes of the piece to dst and appends its sites.
func (p *predictor) predict(mode Mode, c *piece, dst []byte, sites []site) []site {
	copy(dst[:c.size], c.old)
	if c.first {
		p.carried = 0
	}
	start := p.carried
	if start > 0 {
		k := copy(dst[:c.size], p.carry[:p.carried])
		p.carried = copy(p.carry[:], p.carry[k:p.carried])
		if p.carried > 0 {
			return sites
		}
	}
	switch {
	case mode == ModeNone:
		return sites
	case mode < modeCode:
		return p.data(mode, c, start, dst, sites)
	case mode == ModeGoFuncs:
		return p.goFuncs(c, dst, sites)
	}
	code := code{predictor: p, piece: c, start: start, dst: dst, sites: sites}
	var ok1, ok2 bool
	code.oldPC, ok1 = loaded(p.layout.Old, int64(c.from))
	code.newPC, ok2 = loaded(p.layout.New, int64(c.to))
	if !ok1 || !ok2 {
		return sites
	}
	switch {
	case mode == ModeA32 && c.shift()&3 == 0:
		code.a32()
	case mode == ModeThumb && c.shift()&1 == 0:
		code.thumb()
	case mode == ModeA64 && c.shift()&3 == 0:
		code.a64()
	case mode == ModeAMD64:
		code.amd64()
	}
	return code.sites
}

// data predicts words that are addresses, or count from a base.
func (p *predictor) data(mode Mode, c *piece, start int, dst []byte, sites []site) []site {
	if c.shift()&3 != 0 {
		return sites
	}
	rules := [2]Rule{Rule(mode & 7), Rule(mode >> 3)}
	for i := c.word(start); i+4 <= c.size; i += 4 {
		w := le.Uint32(c.old[i:])
		switch r := rules[(c.to+i)>>2&1]; {
		case r == RuleNone:
		case r == RuleAbsolute:
			if v, ok := p.address(w); ok {
				le.PutUint32(dst[i:], v)
				sites = append(sites, site{i, 4, kindAbsolute, w, 0})
			}
		case r < p.layout.DataRules() && w < 1<<31:
			k := uint32(r - ruleBase)
			b := p.layout.Bases[k]
			t := w + uint32(b.Old)
			if v, ok := p.address(t); ok {
				le.PutUint32(dst[i:], v-uint32(b.New))
				sites = append(sites, site{i, 4, kindRelative, t, k})
			}
		}
	}
	return sites
}

// after notes the end of a piece: the new bytes have been written to dst.
func (p *predictor) after(c *piece, dst []byte, sites []site) {
	p.teach(c, dst[:c.size], sites)
	if c.size > 1 {
		copy(p.prev[:], c.old[c.size-2:c.size])
	} else {
		p.prev = [2]byte{p.prev[1], c.old[0]}
	}
}

// teach learns from the new bytes where the addresses at the sites have gone.
func (p *predictor) teach(c *piece, dst []byte, sites []site) {
	pc, mapped := loaded(p.layout.New, int64(c.to))
	for _, s := range sites {
		if s.at+s.size > len(dst) {
			continue
		}
		w, at := le.Uint32(dst[s.at:]), pc+uint32(s.at)
		var t uint32
		ok := mapped
		switch s.kind {
		case kindAbsolute:
			t, ok = w, true
		case kindRelative:
			t, ok = w+uint32(p.layout.Bases[s.aux].New), true
		case kindCutab:
			t, ok = w<<2+uint32(p.layout.Bases[s.aux].New), true
		case kindLiteral:
			t, ok = w+s.aux, true
		case kindBL:
			ok = ok && w>>25&7 == 5
			t = at + 8 + a32Offset(w)
		case kindThumbBL, kindThumbBLX:
			h, g := w&0xffff, w>>16
			ok = ok && isThumbBranch(h, g) && isBLX(g) == (s.kind == kindThumbBLX)
			t = thumbPC(at, g) + thumbOffset(h, g)
		case kindB26:
			ok = ok && isB26(w)
			t = at + b26Offset(w)
		case kindADRP:
			second := s.at + int(s.aux)
			if !ok || !isADRP(w) || second+4 > len(dst) {
				continue
			}
			x := le.Uint32(dst[second:])
			var scale uint32
			scale, ok = low12(x, w&31)
			t = adrpPage(at, w) + low12Offset(x, scale)
		case kindAMD64:
			t = at + 4 + w
		default:
			ok = false
		}
		if ok {
			p.learn(s.target, t)
		}
	}
}
