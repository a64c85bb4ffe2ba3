package codec

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// A coder is a binary arithmetic coder of 32 bits without carry, for both
// directions. When it decodes, the values that it is given are ignored and
// those that it returns count; when it encodes, they are the same.
//
// Its first error sticks: whoever decodes goes on with what is then of no
// worth, and looks at err before it loops, allocates or writes by it.
type coder struct {
	tables    *tables
	low, high uint32
	err       error
	work      int64 // contexts that were asked

	in    io.ByteReader // nil when it encodes
	value uint32
	past  int // bytes taken after the end of in

	out []byte
}

// maxPast is how many bytes a decoder takes after the end of a patch, as 0.
const maxPast = 4

func newEncoder() *coder {
	return &coder{tables: newTables(), high: 1<<32 - 1}
}

func newDecoder(in io.ByteReader) *coder {
	c := &coder{tables: newTables(), high: 1<<32 - 1, in: in}
	for range 4 {
		c.value = c.value<<8 | c.next()
	}
	return c
}

func (c *coder) encodes() bool { return c.in == nil }

func (c *coder) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

// next returns the next byte of the patch, 0 after its end.
func (c *coder) next() uint32 {
	if c.past == 0 {
		b, err := c.in.ReadByte()
		if err == nil {
			return uint32(b)
		}
		if !errors.Is(err, io.EOF) && c.err == nil {
			c.err = fmt.Errorf("read the patch: %w", err)
		}
	}
	if c.past++; c.past > maxPast {
		c.fail("it ends too early")
	}
	return 0
}

// finish ends the patch when it encodes, and otherwise sets err if the patch
// does not end where it should: what the encoder adds is one byte, of the four
// that the decoder reads ahead.
func (c *coder) finish() {
	switch {
	case c.encodes():
		c.out = append(c.out, byte(c.low>>24)+1)
	case c.past < maxPast-1:
		c.fail("it goes on after its end")
	case c.past > maxPast-1:
		c.fail("it ends too early")
	}
}

// bit codes a bit; p of 65536 is how likely it is a 1.
func (c *coder) bit(p uint32, bit int) int {
	span := c.high - c.low
	mid := c.low + (span>>16)*p + ((span&0xffff)*p)>>16
	if c.in != nil {
		bit = 0
		if c.value <= mid {
			bit = 1
		}
	}
	if bit == 1 {
		c.high = mid
	} else {
		c.low = mid + 1
	}
	for (c.low^c.high)>>24 == 0 {
		if c.in != nil {
			c.value = c.value<<8 | c.next()
		} else {
			c.out = append(c.out, byte(c.high>>24))
		}
		c.low <<= 8
		c.high = c.high<<8 | 0xff
	}
	return bit
}

// adaptive codes a bit by what was seen of its kind.
func (c *coder) adaptive(p *prob, bit int) int {
	bit = c.bit(max(1, p.value()>>16), bit)
	p.update(c.tables, bit, 400)
	return bit
}

// flag codes a truth.
func (c *coder) flag(p *prob, is bool) bool {
	return c.adaptive(p, toBit(is)) == 1
}

// bits codes the n low bits of v, high first, each by those before it.
func (c *coder) bits(tree []prob, n int, v int) int {
	k := 1
	for i := n - 1; i >= 0; i-- {
		k = k<<1 | c.adaptive(&tree[k], v>>i&1)
	}
	return k - 1<<n
}

// A numbers is the model of numbers of one kind: how many bits they have, and
// the first of these.
type numbers struct {
	length []prob
	top    []prob
}

// maxBits is how long a number may be, as its successor is written.
const maxBits = 40

func newNumbers() numbers { return numbers{make([]prob, 64), make([]prob, 64*16)} }

// number codes a number that is not negative and below 2^40-1. It returns 0 with err set
// if that is not so.
func (c *coder) number(m *numbers, v int64) int64 {
	if c.encodes() && (v < 0 || bits.Len64(uint64(v)+1) > maxBits) {
		c.fail("%d is out of range", v)
		return 0
	}
	n := c.bits(m.length, 6, bits.Len64(uint64(v)+1))
	if n == 0 || n > maxBits {
		c.fail("a number is out of range")
		return 0
	}
	next, k := int64(1), 1
	for i := n - 2; i >= 0; i-- {
		b := int((v + 1) >> i & 1)
		if k < 16 {
			b = c.adaptive(&m.top[n*16+k], b)
			k = k<<1 | b
		} else {
			b = c.bit(1<<15, b)
		}
		next = next<<1 | int64(b)
	}
	return next - 1
}

// signed codes a number of either sign.
func (c *coder) signed(m *numbers, v int64) int64 {
	u := c.number(m, int64(uint64(v)<<1^uint64(v>>63)))
	return int64(uint64(u)>>1) ^ -(u & 1)
}

func toBit(is bool) int {
	if is {
		return 1
	}
	return 0
}
