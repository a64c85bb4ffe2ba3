package codec

import (
	"context"
	"io"
	"slices"
)

// A codec is the state of both directions.
type codec struct {
	*coder
	old    io.ReaderAt
	oldLen int
	layout *Layout
	ops    []Op

	predictor *predictor
	residuals *residuals
	literals  *literals
	mode      Mode
	sameMode  prob
	modes     []prob
	last      uint64 // the last eight new bytes

	// How the encoder says what it knows; nil and unused when decoding.
	src    []byte
	choose Chooser

	// emit takes the new bytes, in order.
	emit func([]byte) error
}

// Decode takes the rest of a patch from in, after the two lengths, and writes
// the new file to w. Its memory does not depend on what the patch says, but
// for 20 bytes for each operation, and its work is bounded by newLen.
//
// An error is ErrMalformed, the context's, or one of reading or writing.
func Decode(ctx context.Context, w io.Writer, in io.ByteReader, old io.ReaderAt, oldLen, newLen int) error {
	buf := make([]byte, 0, 32<<10)
	c := &codec{coder: newDecoder(in), old: old, oldLen: oldLen, layout: &Layout{}}
	c.emit = func(b []byte) error {
		if len(buf)+len(b) > cap(buf) {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
		buf = append(buf, b...)
		return nil
	}
	if err := c.run(ctx, newLen); err != nil {
		return err
	}
	if len(buf) == 0 {
		return nil
	}
	_, err := w.Write(buf)
	return err
}

// A Chooser says how the next piece is predicted: in the present mode or in
// another.
type Chooser func(t *Trial, present Mode) Mode

// Coded is the coded part of a patch.
type Coded struct {
	Bytes []byte
	// Work is how many contexts are asked on the way, which is what takes time.
	Work int64
}

// Encode returns what Decode takes to make src of old by the operations, which
// have to cover it. An error is the context's, or says that the layout or the
// operations are not what the format allows.
func Encode(ctx context.Context, src, old []byte, l Layout, ops []Op, choose Chooser) (*Coded, error) {
	l.Old, l.New, l.Bases = slices.Clone(l.Old), slices.Clone(l.New), slices.Clone(l.Bases)
	c := &codec{
		coder: newEncoder(), old: sliceReader(old), oldLen: len(old), layout: &l, ops: slices.Clone(ops),
		src: src, choose: choose, emit: func([]byte) error { return nil },
	}
	if err := c.run(ctx, len(src)); err != nil {
		return nil, err
	}
	return &Coded{c.out, c.work}, nil
}

// sliceReader reads what is in memory.
type sliceReader []byte

func (s sliceReader) ReadAt(p []byte, off int64) (int, error) {
	if n := copy(p, s[off:]); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

func (c *codec) run(ctx context.Context, newLen int) error {
	h := newHeader(c.coder, c.oldLen, newLen)
	h.layout(c.layout)
	if c.err != nil {
		return c.err
	}
	if c.ops = h.operations(c.ops); c.err != nil {
		return c.err
	}
	functab := newWindow(c.old, c.oldLen, 512)
	c.predictor = newPredictor(c.layout, c.ops, functab)
	c.residuals = newResiduals(c.coder)
	c.literals = newLiterals(c.coder)
	c.modes = make([]prob, 128)

	copies := newWindow(c.old, c.oldLen, 16<<10)
	after, ahead := newWindow(c.old, c.oldLen, 4<<10), newWindow(c.old, c.oldLen, 4<<10)
	for i, o := range c.ops {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.copied(ctx, o, copies); err != nil {
			return err
		}
		next := -1
		if i+1 < len(c.ops) {
			next = int(c.ops[i+1].Old) - int(o.Extra)
		}
		if err := c.extra(ctx, o, next, after, ahead); err != nil {
			return err
		}
		for _, w := range []*window{copies, after, ahead, functab} {
			if w.err != nil {
				return w.err
			}
		}
	}
	c.finish()
	return c.err
}

// copied codes the copy of an operation, piece by piece.
func (c *codec) copied(ctx context.Context, o Op, old *window) error {
	var dst [block]byte
	var sites []site
	for done := 0; done < int(o.Copy); {
		to := int(o.New) + done
		n := min(block-to%block, int(o.Copy)-done)
		p := &piece{
			old:  old.bytes(int(o.Old)+done, min(n+ahead, int(o.Copy)-done)),
			size: n, from: int(o.Old) + done, to: to, first: done == 0,
		}
		var src []byte
		if c.encodes() {
			src = c.src[to : to+n]
		}
		if c.layout.Arch != NoArch {
			c.codeMode(p, src)
		}
		sites = c.predictor.predict(c.mode, p, dst[:], sites[:0])
		c.residuals.code(p, c.mode, dst[:n], src, sites, byte(c.last))
		c.predictor.after(p, dst[:], sites)
		for _, b := range dst[max(0, n-8):n] {
			c.last = c.last<<8 | uint64(b)
		}
		if err := c.flush(ctx, dst[:n], old); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// flush gives new bytes away, if they are of any worth.
func (c *codec) flush(ctx context.Context, b []byte, from ...*window) error {
	if c.err != nil {
		return c.err
	}
	for _, w := range from {
		if w.err != nil {
			return w.err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.emit(b)
}

// codeMode codes how the piece is predicted.
func (c *codec) codeMode(p *piece, src []byte) {
	if p.first {
		c.predictor.prev = [2]byte{}
	}
	mode := c.mode
	if c.encodes() {
		mode = c.choose(&Trial{c.predictor, p, src, c.layout}, mode)
	}
	if !c.flag(&c.sameMode, mode == c.mode) {
		c.mode = Mode(c.bits(c.modes, 7, int(mode)))
	}
}

// extra codes the new bytes of an operation; next is as far before the next
// copy as they are long, or -1.
func (c *codec) extra(ctx context.Context, o Op, next int, after, ahead *window) error {
	if o.Extra == 0 {
		return nil
	}
	c.predictor.carried = 0
	var dst [block]byte
	at := int(o.New) + int(o.Copy)
	for done := 0; done < int(o.Extra); {
		n := min(block, int(o.Extra)-done)
		for i := range dst[:n] {
			j := done + i
			v := byte(0)
			if c.encodes() {
				v = c.src[at+j]
			}
			v = c.literals.code(v, at+j, c.last, c.neighbour(after, o.oldEnd()+j), c.neighbour(ahead, next+j))
			c.last = c.last<<8 | uint64(v)
			dst[i] = v
		}
		if err := c.flush(ctx, dst[:n], after, ahead); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// neighbour returns the two old bytes at an offset.
func (c *codec) neighbour(w *window, off int) neighbour {
	if off < 0 || off+1 >= c.oldLen {
		return neighbour{256, 0}
	}
	b := w.bytes(off, 2)
	return neighbour{uint32(b[0]), uint32(b[1])}
}

// A Trial lets the encoder try how a piece is predicted.
type Trial struct {
	predictor *predictor
	piece     *piece
	src       []byte
	// Layout is that of the patch.
	Layout *Layout
}

// Wrong returns how many bytes a mode would foretell wrong, in even and odd
// words. Nothing is changed.
func (t *Trial) Wrong(mode Mode) (wrong [2]int) {
	var dst [block]byte
	t.predictor.trial(mode, t.piece, dst[:])
	for i, b := range t.src {
		if dst[i] != b {
			wrong[(t.piece.to+i)>>2&1]++
		}
	}
	return wrong
}
