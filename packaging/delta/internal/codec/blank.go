package codec

// BlankA32 has the branches of A32 code go nowhere.
func BlankA32(b []byte) {
	for i := 0; i+4 <= len(b); i += 4 {
		if w := le.Uint32(b[i:]); isA32Branch(w) {
			le.PutUint32(b[i:], w&0xff000000)
		}
	}
}

// BlankThumb has the branches and loads of Thumb code go nowhere, and the
// literals be zero that count from an instruction. base is the code's offset.
func BlankThumb(b []byte, base uint32) {
	var reg [16]uint32
	waiting := map[uint32]bool{}
	for i := 0; i+2 <= len(b); i += 2 {
		at := base + uint32(i)
		if at&3 == 0 && waiting[at] && i+4 <= len(b) {
			le.PutUint32(b[i:], 0)
			i += 2
			continue
		}
		h := uint32(le.Uint16(b[i:]))
		if !isWide(h) {
			if h>>11 == 9 {
				reg[h>>8&7] = (at+4)&^3 + h&255*4
				b[i] = 0
			} else if h&0xff78 == 0x4478 {
				r := h&7 | h>>4&8
				if l := reg[r]; l != 0 && l-at < reach {
					waiting[l] = true
					reg[r] = 0
				}
			}
			continue
		}
		if i+4 > len(b) {
			break
		}
		g := uint32(le.Uint16(b[i+2:]))
		if h == 0xf8df {
			reg[g>>12] = (at+4)&^3 + g&0xfff
			le.PutUint16(b[i+2:], uint16(g&0xf000))
		} else if isThumbBranch(h, g) {
			le.PutUint16(b[i:], uint16(h&0xf800))
			le.PutUint16(b[i+2:], uint16(g&0xd000))
		}
		i += 2
	}
}

// BlankA64 has the branches of A64 code go nowhere, and ADRP and what it goes
// with have no address.
func BlankA64(b []byte) {
	for i := 0; i+4 <= len(b); i += 4 {
		w := le.Uint32(b[i:])
		if isB26(w) {
			le.PutUint32(b[i:], w&0xfc000000)
		} else if isADRP(w) {
			le.PutUint32(b[i:], w&0x9f00001f)
			for j := i + 4; j <= i+16 && j+4 <= len(b); j += 4 {
				x := le.Uint32(b[j:])
				if scale, ok := low12(x, w&31); ok {
					le.PutUint32(b[j:], setLow12(x, 0, scale))
					break
				}
			}
		}
	}
}

// BlankAMD64 has the relative addresses of amd64 code be zero, if they are
// near enough to be ones.
func BlankAMD64(b []byte) {
	far := 2 * len(b)
	for i := 2; i+4 <= len(b); i++ {
		if !isAMD64Relative(b[i-2], b[i-1]) {
			continue
		}
		if t := int(int32(le.Uint32(b[i:]))); -far < t && t < far {
			le.PutUint32(b[i:], 0)
			i += 3
		}
	}
}
