package codec

// code is the prediction of a piece that is machine code.
type code struct {
	*predictor
	*piece
	start        int // bytes before it are foretold already
	oldPC, newPC uint32
	dst          []byte
	sites        []site
}

func (c *code) found(at, size int, k kind, target, aux uint32) {
	c.sites = append(c.sites, site{at, size, k, target, aux})
}

// put writes foretold bytes, which may reach beyond the piece: what does is
// for the next one.
func (c *code) put(at int, b []byte) {
	if k := copy(c.dst[at:c.size], b); k < len(b) {
		c.carried = copy(c.carry[:], b[k:])
	}
}

func (c *code) put32(at int, v uint32) { le.PutUint32(c.dst[at:], v) }

// literal predicts a word that an instruction before it counts from itself.
func (c *code) literal(i int, l pending) {
	t := le.Uint32(c.old[i:]) + l.old
	if v, ok := c.address(t); ok {
		c.put32(i, v-l.new)
		c.found(i, 4, kindLiteral, t, l.new)
	}
}

// uses notes that the instruction at i of a size that the program counter is
// ahead by, adds it to a register that a literal was loaded into.
func (c *code) uses(r uint32, i int, ahead uint32) {
	pc := c.oldPC + uint32(i)
	if l := c.reg[r]; l != 0 && l-pc < reach {
		c.wait(l, pc+ahead, c.newPC+uint32(i)+ahead)
		c.reg[r] = 0
	}
}

// reach is how far behind the code that uses it a literal is, at most.
const reach = 8192

// a32 is ARM's instruction set of words.
func (c *code) a32() {
	for i := c.word(c.start); i+4 <= c.size; i += 4 {
		w := le.Uint32(c.old[i:])
		pc := c.oldPC + uint32(i)
		l, waiting := c.waits(pc)
		switch {
		case waiting:
			c.literal(i, l)
		case c.isStub(i):
			if c.stub(i, pc) {
				i += 8
			}
		case isA32Branch(w):
			t := pc + 8 + a32Offset(w)
			if v, ok := c.address(t); ok {
				c.put32(i, w&0xff000000|(v-(c.newPC+uint32(i))-8)>>2&0xffffff)
				c.found(i, 4, kindBL, t, 0)
			}
		case w&0x0f7f0000 == 0x051f0000: // ldr Rd, [pc, #d]
			d := w & 0xfff
			if w>>23&1 == 0 {
				d = -d
			}
			c.reg[w>>12&15] = pc + 8 + d
		case w&0x0fff0ff0 == 0x008f0000: // add Rd, pc, Rm
			c.uses(w&15, i, 8)
		default:
			if v, ok := c.address(w); ok {
				c.put32(i, v)
				c.found(i, 4, kindAbsolute, w, 0)
			}
		}
	}
}

func isA32Branch(w uint32) bool { return w>>25&7 == 5 && w>>28 != 15 }

func a32Offset(w uint32) uint32 { return uint32(int32(w<<8) >> 6) }

// isStub reports whether the three words at i are a stub of the linkage table:
// add ip, pc, #a; add ip, ip, #b; ldr pc, [ip, #c]!
func (c *code) isStub(i int) bool {
	return i+12 <= len(c.old) && le.Uint32(c.old[i:])>>8 == 0xe28fc6 &&
		le.Uint32(c.old[i+4:])>>8 == 0xe28cca && le.Uint32(c.old[i+8:])>>12 == 0xe5bcf
}

// stub predicts a stub; its target is a slot of the global offset table.
func (c *code) stub(i int, pc uint32) bool {
	t := pc + 8 + le.Uint32(c.old[i:])&255<<20 + le.Uint32(c.old[i+4:])&255<<12 + le.Uint32(c.old[i+8:])&0xfff
	v, ok := c.address(t)
	if !ok {
		return false
	}
	d := v - (c.newPC + uint32(i) + 8)
	var b [12]byte
	le.PutUint32(b[:], 0xe28fc600|d>>20&255)
	le.PutUint32(b[4:], 0xe28cca00|d>>12&255)
	le.PutUint32(b[8:], 0xe5bcf000|d&0xfff)
	c.put(i, b[:])
	c.found(i, 12, kindPLT, t, 0)
	return true
}

// thumb is ARM's instruction set of half words.
func (c *code) thumb() {
	for i := c.start + (c.to+c.start)&1; i+2 <= c.size; i += 2 {
		pc := c.oldPC + uint32(i)
		if l, waiting := c.waits(pc); waiting && pc&3 == 0 && i+4 <= c.size {
			c.literal(i, l)
			i += 2
			continue
		}
		h := uint32(le.Uint16(c.old[i:]))
		if !isWide(h) {
			if h>>11 == 9 { // ldr Rd, [pc, #d]
				c.reg[h>>8&7] = (pc+4)&^3 + h&255*4
			} else if h&0xff78 == 0x4478 { // add Rd, pc
				c.uses(h&7|h>>4&8, i, 4)
			}
			continue
		}
		if i+4 > len(c.old) {
			break
		}
		g := uint32(le.Uint16(c.old[i+2:]))
		if h == 0xf8df { // ldr.w Rd, [pc, #d]
			c.reg[g>>12] = (pc+4)&^3 + g&0xfff
		} else if isThumbBranch(h, g) {
			t := thumbPC(pc, g) + thumbOffset(h, g)
			if v, ok := c.address(t); ok {
				var b [4]byte
				putThumbBranch(b[:], h, g, v-thumbPC(c.newPC+uint32(i), g))
				c.put(i, b[:])
				k := kindThumbBL
				if isBLX(g) {
					k = kindThumbBLX
				}
				c.found(i, 4, k, t, 0)
			}
		}
		i += 2
	}
}

// isWide reports whether an instruction that begins with h has two half words.
func isWide(h uint32) bool { return h>>11 >= 0x1d }

// isThumbBranch reports whether h and g are BL, BLX or B.W.
func isThumbBranch(h, g uint32) bool {
	return h&0xf800 == 0xf000 && (g&0xd000 == 0xd000 || isBLX(g) || g&0xd000 == 0x9000)
}

func isBLX(g uint32) bool { return g&0xd000 == 0xc000 }

// thumbPC returns what the branch at that address counts from.
func thumbPC(at, g uint32) uint32 {
	if isBLX(g) {
		return (at + 4) &^ 3
	}
	return at + 4
}

func thumbOffset(h, g uint32) uint32 {
	s := h >> 10 & 1
	i1, i2 := ^(g>>13^s)&1, ^(g>>11^s)&1
	return uint32(int32(s<<31|i1<<30|i2<<29|h&0x3ff<<19|g&0x7ff<<8) >> 7)
}

func putThumbBranch(b []byte, h, g, offset uint32) {
	s := offset >> 24 & 1
	j1, j2 := ^(offset>>23^s)&1, ^(offset>>22^s)&1
	if isBLX(g) {
		offset &^= 2
	}
	le.PutUint16(b, uint16(h&0xf800|s<<10|offset>>12&0x3ff))
	le.PutUint16(b[2:], uint16(g&0xd000|j1<<13|j2<<11|offset>>1&0x7ff))
}

// a64 is the instruction set of arm64.
func (c *code) a64() {
	for i := c.word(c.start); i+4 <= c.size; i += 4 {
		w := le.Uint32(c.old[i:])
		pc := c.oldPC + uint32(i)
		if isB26(w) {
			t := pc + b26Offset(w)
			if v, ok := c.address(t); ok {
				c.put32(i, w&0xfc000000|(v-(c.newPC+uint32(i)))>>2&0x3ffffff)
				c.found(i, 4, kindB26, t, 0)
			}
		} else if isADRP(w) {
			c.adrp(i, w, adrpPage(pc, w))
		}
	}
}

func isB26(w uint32) bool { return w>>26&0x1f == 5 }

func b26Offset(w uint32) uint32 { return uint32(int32(w<<6) >> 4) }

func isADRP(w uint32) bool { return w&0x9f000000 == 0x90000000 }

func adrpPage(pc, w uint32) uint32 {
	return pc&^0xfff + (w>>5&0x7ffff<<2|w>>29&3)<<12
}

// adrp predicts an ADRP at i by the instruction that adds the low bits.
func (c *code) adrp(i int, w, page uint32) {
	for j := i + 4; j <= i+16 && j+4 <= len(c.old) && j <= c.size+8; j += 4 {
		x := le.Uint32(c.old[j:])
		scale, ok := low12(x, w&31)
		if !ok {
			continue
		}
		t := page + low12Offset(x, scale)
		v, ok := c.address(t)
		if !ok {
			return
		}
		d := (v&^0xfff - (c.newPC+uint32(i))&^0xfff) >> 12
		c.put32(i, w&0x9f00001f|d&3<<29|d>>2&0x7ffff<<5)
		x = setLow12(x, v, scale)
		if j+4 <= c.size {
			c.put32(j, x)
			c.found(i, 4, kindADRP, t, uint32(j-i))
		} else if j == c.size && c.carried == 0 {
			le.PutUint32(c.carry[:], x)
			c.carried = 4
		}
		return
	}
}

// low12 reports whether x adds 12 bits to register rd, or loads or stores at
// such a place, and in units of which power of two.
func low12(x, rd uint32) (uint32, bool) {
	switch {
	case x>>5&31 != rd:
		return 0, false
	case x&0xffc00000 == 0x91000000: // add
		return 0, true
	case x&0x3b000000 != 0x39000000:
		return 0, false
	case x&0x04800000 == 0x04800000: // 16 bytes
		return 4, true
	}
	return x >> 30, true
}

func low12Offset(x, scale uint32) uint32 { return x >> 10 & 0xfff << scale }

func setLow12(x, v, scale uint32) uint32 { return x&^0x3ffc00 | v&0xfff>>scale<<10 }

// amd64 is the instruction set of amd64, of which only some ways are known to
// give an address relative to the next instruction.
func (c *code) amd64() {
	before := func(i int) byte {
		if i < 0 {
			return c.prev[2+i]
		}
		return c.old[i]
	}
	for i := c.start; i+4 <= len(c.old) && i < c.size; i++ {
		if !isAMD64Relative(before(i-2), before(i-1)) {
			continue
		}
		t := c.oldPC + uint32(i) + 4 + le.Uint32(c.old[i:])
		if v, ok := c.address(t); ok {
			var b [4]byte
			le.PutUint32(b[:], v-(c.newPC+uint32(i)+4))
			c.put(i, b[:])
			c.found(i, 4, kindAMD64, t, 0)
			i += 3
		}
	}
}

// isAMD64Relative reports whether four bytes of a relative address may come
// after bytes a and b: call, jmp, jcc, or what rip is in.
func isAMD64Relative(a, b byte) bool {
	return b == 0xe8 || b == 0xe9 || a == 0x0f && b&0xf0 == 0x80 || b&0xc7 == 5
}
