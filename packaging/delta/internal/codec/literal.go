package codec

// literals codes bytes that are copied from nowhere.
type literals struct {
	coder *coder
	mixer *mixer

	// The last of them, in a ring, and where the same four bytes were last.
	ring   []byte
	n      int
	recent []uint32
	// The byte after a place that agrees with the last length bytes is
	// foretold.
	ptr, length int
}

const (
	ringSize  = 1 << 18
	minRepeat = 4
	maxFind   = 16 // how far back a new repetition is looked at
	maxRepeat = 40
)

func newLiterals(c *coder) *literals {
	return &literals{
		coder: c, mixer: newMixer(c.tables, 12, 19, 16, 400, 60),
		ring: make([]byte, ringSize), recent: make([]uint32, 1<<16),
	}
}

// A neighbour is two bytes of the old file that may be like what comes next,
// or 256 and 0.
type neighbour struct{ byte, next uint32 }

// code codes the byte at an offset of the new file. last are the eight bytes
// before it; a follows the copy before, b precedes the next one.
func (l *literals) code(v byte, at int, last uint64, a, b neighbour) byte {
	align, o1, o4 := uint32(at&3), uint32(last&0xff), uint32(last)
	foretold, length := uint32(256), uint32(0)
	if l.length > 0 {
		foretold, length = uint32(l.ring[l.ptr%ringSize]), uint32(min(l.length, 15))
	}
	l.mixer.ctx = [maxInputs]uint32{
		hash3(1, align, 0),
		hash3(2, o1, align&1),
		hash3(3, o4&0xffff, 0),
		hash3(4, o4&0xffffff, 0),
		hash3(5, o4, 0),
		hash3(6, o4>>24, align),
		hash3(7, a.byte, b.byte),
		hash3(8, a.byte, o1<<8|a.next),
		hash3(9, b.byte, o1<<8|b.next),
		hash3(10, uint32(last>>16), o4&0xffff),
		hash3(11, o4>>24, o1<<8|align),
		hash3(12, foretold, length),
	}
	v = l.mixer.byte(l.coder, int(length), v)
	l.add(v)
	return v
}

// add notes a byte, and looks for what it repeats.
func (l *literals) add(v byte) {
	l.ring[l.n%ringSize] = v
	l.n++
	if l.length > 0 && l.ring[l.ptr%ringSize] == v {
		l.ptr++
		l.length = min(l.length+1, maxRepeat)
	} else {
		l.length = 0
	}
	if l.n <= minRepeat {
		return
	}
	h := uint32(0)
	for k := 1; k <= minRepeat; k++ {
		h = (h + uint32(l.ring[(l.n-k)%ringSize]) + 1) * 0x2F0B4C47
	}
	h >>= 16
	if at := int(l.recent[h]); l.length == 0 && at > 0 && l.n-at < ringSize {
		n := 0
		for n < maxFind && n < at && l.ring[(at-1-n)%ringSize] == l.ring[(l.n-1-n)%ringSize] {
			n++
		}
		if n >= minRepeat {
			l.ptr, l.length = at, n
		}
	}
	l.recent[h] = uint32(l.n)
}
