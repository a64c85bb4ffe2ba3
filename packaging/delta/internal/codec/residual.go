package codec

import "math/bits"

// residuals codes by how much the new bytes of a copy differ from what was
// foretold.
type residuals struct {
	coder  *coder
	piece  []prob // "differs", by the last two and by size
	flags  *mixer // "this word differs"
	values *mixer // by how much

	pieces  int              // of the last pieces, newest lowest: whether they differed
	history uint32           // of the last words
	since   int              // words since one that differed
	last    [numKinds]uint32 // of the last differing word of each kind, by how much
	soFar   uint32           // of this word, by how much, the bytes in their places
	kinds   [block/4 + 4]kind
}

func newResiduals(c *coder) *residuals {
	return &residuals{
		coder: c, piece: make([]prob, 32),
		flags:  newMixer(c.tables, 8, 17, 16, 800, 1000),
		values: newMixer(c.tables, 9, 19, 64, 800, 30),
	}
}

// code has dst hold the new bytes of the piece instead of those foretold; src
// has them when a patch is made. before is the new byte before the piece.
func (r *residuals) code(p *piece, mode Mode, dst, src []byte, sites []site, before byte) {
	differs := false
	if r.coder.encodes() {
		differs = string(dst) != string(src)
	}
	size := 0
	for len(dst)>>(2*size) > 8 {
		size++
	}
	differs = r.coder.flag(&r.piece[(r.pieces&3)*8+size], differs)
	r.pieces = r.pieces<<1 | toBit(differs)
	if !differs {
		r.history = 0
		r.since += len(dst) / 4
		return
	}
	r.mark(p, dst, sites)
	above := uint32(0)
	first := p.to >> 2
	for w := first; w <= (p.to+len(dst)-1)>>2; w++ {
		lo, hi := max(0, w*4-p.to), min(len(dst), w*4+4-p.to)
		word := uint32(0)
		for i := lo; i < hi; i++ {
			word |= uint32(dst[i]) << (8 * ((p.to + i) & 3))
		}
		k := r.kinds[w-first]
		if r.coder.encodes() {
			differs = string(dst[lo:hi]) != string(src[lo:hi])
		}
		if r.word(uint32(k), uint32(mode), word, above, differs) {
			r.soFar = 0
			for i := lo; i < hi; i++ {
				if i > 0 {
					before = dst[i-1]
				}
				new := byte(0)
				if r.coder.encodes() {
					new = src[i]
				}
				dst[i] = r.value(p.to+i, uint32(k), uint32(mode), word, dst[i], new, before)
			}
			r.last[k] = r.soFar
		}
		above = word
	}
}

// mark notes for each word of the piece of which kind the site in it is.
func (r *residuals) mark(p *piece, dst []byte, sites []site) {
	clear(r.kinds[:])
	first := p.to >> 2
	for _, s := range sites {
		w := (p.to+s.at)>>2 - first
		r.kinds[w] = s.kind
		if (p.to+s.at)&3 != 0 || s.kind == kindPLT {
			r.kinds[w+1] = s.kind
		}
		if s.kind == kindPLT {
			r.kinds[w+2] = s.kind
		}
		if second := s.at + int(s.aux); s.kind == kindADRP && second < len(dst) {
			r.kinds[(p.to+second)>>2-first] = kindSecond
		}
	}
}

// word codes whether a word differs.
func (r *residuals) word(k, mode, word, above uint32, differs bool) bool {
	m := r.flags
	m.ctx = [maxInputs]uint32{
		hash3(1, word, k),
		hash3(2, k<<3|r.history&7, mode),
		hash3(3, r.history&0xff, 0),
		hash3(4, word, above),
		hash3(5, word>>20, k<<1|r.history&1),
		hash3(6, word&0xffff, k<<1|r.history&1),
		hash3(7, uint32(bits.Len(uint(r.since))), k),
		hash3(8, word&0xff00ff00, r.history&1),
	}
	differs = m.bit(r.coder, 1, int(k), toBit(differs)) == 1
	r.history = r.history<<1 | uint32(toBit(differs))
	if r.since++; differs {
		r.since = 0
	}
	return differs
}

// value codes the new byte at an offset where p was foretold, in a word of
// that kind that was foretold as word; before is the byte before it.
func (r *residuals) value(at int, k, mode, word uint32, p, new, before byte) byte {
	ix, so := uint32(at&3), r.soFar
	place := k<<2 | ix
	m := r.values
	m.ctx = [maxInputs]uint32{
		hash3(1, place, 0),
		hash3(2, word^so*0x9E3779B1, ix),
		hash3(3, uint32(p), place),
		hash3(4, r.last[k]^so*0x3779B197, place),
		hash3(5, so, place),
		hash3(6, word>>20, ix^so<<2),
		hash3(7, uint32(before)<<8|uint32(p), ix),
		hash3(8, ix, so>>(8*((ix+3)&3))&255|mode<<8),
		hash3(9, word&0xffff, ix^so<<2),
	}
	d := m.byte(r.coder, int(place), new-p)
	r.soFar |= uint32(d) << (8 * ix)
	return p + d
}
