package codec

// maxInputs is how many contexts a mixer has at most.
const maxInputs = 12

// A mixer codes bits that many contexts have an opinion on: it weighs them by
// how well they did before. Contexts share one table and are not told apart
// where they meet in it.
type mixer struct {
	tables  *tables
	slots   []prob
	shift   uint
	inputs  int
	weights []int32 // those of one set after those of another
	rate    int32   // how fast the weights learn
	limit   uint32

	// ctx is set by the user before each bit or byte.
	ctx [maxInputs]uint32

	slot    [maxInputs]*prob
	opinion [maxInputs]int32
}

// newMixer returns a mixer of that many contexts with a table of 1<<bits slots.
func newMixer(t *tables, inputs, bits, sets int, rate int32, limit uint32) *mixer {
	m := &mixer{
		tables: t, slots: make([]prob, 1<<bits), shift: uint(32 - bits), inputs: inputs,
		weights: make([]int32, sets*inputs), rate: rate, limit: limit,
	}
	for i := range m.weights {
		m.weights[i] = 14417
	}
	return m
}

// bit codes a bit with the weights of the set; c0 are the bits of the same
// byte before it, below a 1.
func (m *mixer) bit(c *coder, c0 uint32, set int, bit int) int {
	w := m.weights[set*m.inputs : (set+1)*m.inputs]
	c.work += int64(len(w))
	var sum int64
	for i := range w {
		h := (m.ctx[i] + c0*0x9E3779B1) * 0x85EBCA6B
		h ^= h >> 15
		h *= 0xC2B2AE35
		s := &m.slots[h>>m.shift]
		x := int32(0)
		if v := s.value(); v&seen != 0 {
			x = int32(m.tables.stretch[v>>20])
		}
		m.slot[i], m.opinion[i] = s, x
		sum += int64(x) * int64(w[i])
	}
	strength := min(max(sum>>16, -edge), edge)
	p := min(max(uint32(m.tables.squash[strength+edge+1]), least), upper)
	bit = c.bit(p, bit)
	e := (int32(bit<<16) - int32(p)) * m.rate >> 10
	for i := range w {
		w[i] += (m.opinion[i]*e + 1<<13) >> 14
		m.slot[i].update(m.tables, bit, m.limit)
	}
	return bit
}

// byte codes a byte, high bit first.
func (m *mixer) byte(c *coder, set int, v byte) byte {
	c0 := uint32(1)
	for i := 7; i >= 0; i-- {
		c0 = c0<<1 | uint32(m.bit(c, c0, set, int(v>>i&1)))
	}
	return byte(c0)
}

// hash2 and hash3 make contexts out of what they depend on.
func hash2(a, b uint32) uint32 { return (a*0x2C1B3C6D + b + 1) * 0x297A2D39 }

func hash3(a, b, c uint32) uint32 { return hash2(hash2(a, b), c) }
