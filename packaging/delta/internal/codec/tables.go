package codec

// knots are points of the logistic function: knots[i] is
// 65536/(1+exp((48-i)/4)), rounded, within 1 and 65535. They are written out,
// as exp is not the same on every machine.
var knots = [97]uint16{
	1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 8, 10, 13, 17,
	22, 28, 36, 47, 60, 77, 98, 126, 162, 208, 267, 342, 439, 562, 720, 922,
	1179, 1506, 1921, 2446, 3108, 3938, 4971, 6249, 7812, 9702, 11955, 14595, 17625, 21025, 24743, 28693,
	32768, 36843, 40793, 44511, 47911, 50941, 53581, 55834, 57724, 59287, 60565, 61598, 62428, 63090, 63615, 64030,
	64357, 64614, 64816, 64974, 65097, 65194, 65269, 65328, 65374, 65410, 65438, 65459, 65476, 65489, 65500, 65508,
	65514, 65519, 65523, 65526, 65528, 65530, 65531, 65532, 65533, 65534, 65534, 65535, 65535, 65535, 65535, 65535,
	65535,
}

// edge is the largest strength of an opinion: stretch returns none beyond it.
const edge = 3071

// tables are made for each codec rather than when the program starts: most
// commands have no use for them.
type tables struct {
	squash  [2*(edge+1) + 1]uint16 // by strength + edge + 1: the probability of a 1, of 65536
	stretch [4096]int16            // by probability, of 4096: the strength
	rate    [1024]int32            // by how often a bit was seen: how far it moves, of 65536
}

func newTables() *tables {
	t := new(tables)
	for i := range t.squash {
		k, f := i>>6, uint32(i&63)
		v := uint32(knots[k])
		if f != 0 {
			v = (v*(64-f) + uint32(knots[k+1])*f) >> 6
		}
		t.squash[i] = uint16(v)
	}
	x := -edge
	for i := range t.stretch {
		for x < edge && int(t.squash[x+edge+1]) < i<<4+8 {
			x++
		}
		t.stretch[i] = int16(x)
	}
	for n := range t.rate {
		t.rate[n] = int32(655360 / (10*n + 15))
	}
	return t
}

// A prob is an adaptive bit: how likely it is a 1 in the 22 bits above, how often it
// was seen in the 10 below, with the top bit turned over. So one that is zero is as
// likely a 1 as a 0, and a table of them takes no memory where it is not used.
type prob uint32

const (
	even  = 1 << 31
	seen  = 1<<10 - 1
	most  = 1<<22 - 1
	least = 24    // of 65536: a mixed bit is never less likely
	upper = 65512 // nor more
)

// value returns the two as the format has them.
func (p prob) value() uint32 { return uint32(p) ^ even }

// update moves the probability towards bit, less far the more often the bit
// was seen, up to limit.
func (p *prob) update(t *tables, bit int, limit uint32) {
	v := p.value()
	n, q := v&seen, int64(v>>10)
	q += (most*int64(bit) - q) * int64(t.rate[n]) >> 16
	if n < limit {
		n++
	}
	*p = prob((uint32(q)<<10 | n) ^ even)
}
