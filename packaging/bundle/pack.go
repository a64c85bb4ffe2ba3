package bundle

import (
	"context"
	"fmt"
	"hash"
	"io"
	"runtime"

	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// Frames cut smaller cost more bytes in all, and fewer where little changed. Of
// 2,000 source files, 36 MB, a line in 20 costs 1.0 MB with frames of 256 KiB,
// 0.28 with 64, 0.20 with 32 and 0.17 with 16, and the bundle has 5.1, 5.6, 5.8
// and 6.1 MB.
const (
	// DefaultFrame is how much small files that share a frame have together at
	// most, in bytes.
	DefaultFrame = 32 << 10
	minFrame     = 4 << 10
	maxFrame     = 1 << 20
	// maxPiece is how much of one large file a frame has at most: a device resumes
	// within it, and holds it twice.
	maxPiece = 1 << 20
)

// cuts say where frames are cut.
type cuts struct {
	group int64 // small files together, at most
	alone int64 // a file with more than this shares no frame
	piece int64 // of such a file, at most
}

func newCuts(frame int64) (cuts, error) {
	if frame == 0 {
		frame = DefaultFrame
	}
	if frame < minFrame || frame > maxFrame {
		return cuts{}, fmt.Errorf("%w: frames of %d bytes: expected %d to %d", ErrOptions, frame, minFrame, maxFrame)
	}
	return cuts{group: frame, alone: frame / 4, piece: maxPiece}, nil
}

// An opener opens the content that a payload has of an entry, and names it for
// messages.
type opener interface {
	open(e *manifest.Entry) (io.ReadCloser, error)
	name(e *manifest.Entry) string
}

// treeOpener opens files of a tree.
type treeOpener struct{ fsys.FS }

func (t treeOpener) open(e *manifest.Entry) (io.ReadCloser, error) { return t.FS.Open(string(e.Path)) }

func (t treeOpener) name(e *manifest.Entry) string { return t.FS.Path(string(e.Path)) }

// writePayload writes the files of l to name, in frames, and completes their
// entries with their hashes.
func writePayload(ctx context.Context, app opener, out fsys.FS, name string, l *layout, c cuts, enc *encoder) ([]Frame, error) {
	if err := out.Remove(name); err != nil && !fsys.IsNotExist(err) {
		return nil, err
	}
	f, err := out.Create(name, 0o600)
	if err != nil {
		return nil, err
	}
	p := &packer{ctx: ctx, app: app, l: l, cuts: c, enc: enc, out: f, pending: make(chan *job, runtime.GOMAXPROCS(0))}
	frames, err := p.run()
	if e := f.Close(); err == nil {
		err = e
	}
	return frames, err
}

// packer cuts the tar into frames. They are compressed side by side, and
// written in their order.
type packer struct {
	ctx     context.Context
	app     opener
	l       *layout
	cuts    cuts
	enc     *encoder
	out     io.Writer
	pending chan *job // in the order of the frames
	plain   []byte    // of the frame that is being filled
}

// job is a frame on its way.
type job struct {
	plain  []byte
	packed chan []byte
}

func (p *packer) run() ([]Frame, error) {
	ctx, cancel := context.WithCancelCause(p.ctx)
	defer cancel(nil)
	p.ctx = ctx
	var frames []Frame
	written := make(chan error, 1)
	go func() {
		var err error
		for j := range p.pending {
			packed := <-j.packed
			if err != nil {
				continue
			}
			if _, err = p.out.Write(packed); err != nil {
				cancel(err)
			}
			frames = append(frames, Frame{Length: int64(len(packed)), Size: int64(len(j.plain))})
		}
		written <- err
	}()
	err := p.fill()
	close(p.pending)
	if e := <-written; e != nil {
		return nil, e
	}
	return frames, err
}

// fill reads the files and gives away a frame whenever it is full.
func (p *packer) fill() error {
	for i := range p.l.len() {
		size := p.l.size(i)
		alone := size > p.cuts.alone
		limit := p.cuts.group
		if alone || int64(len(p.plain))+size > limit {
			if err := p.flush(); err != nil {
				return err
			}
		}
		if alone { // in pieces of one length, none longer than it may be
			n := (size + p.cuts.piece - 1) / p.cuts.piece
			limit = (size + n - 1) / n
		}
		if err := p.file(i, limit); err != nil {
			return err
		}
		if alone {
			if err := p.flush(); err != nil {
				return err
			}
		}
	}
	return p.flush()
}

// flush gives the frame that is filled to be compressed.
func (p *packer) flush() error {
	if len(p.plain) == 0 {
		return nil
	}
	j := &job{plain: p.plain, packed: make(chan []byte, 1)}
	p.plain = nil
	select {
	case p.pending <- j:
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
	go func() { j.packed <- p.enc.encode(j.plain) }()
	return nil
}

// add appends to the tar; a frame that has limit bytes is full.
func (p *packer) add(data []byte, limit int64) error {
	for len(data) > 0 {
		n := min(int64(len(data)), limit-int64(len(p.plain)))
		p.plain = append(p.plain, data[:n]...)
		data = data[n:]
		if int64(len(p.plain)) == limit {
			if err := p.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// file appends part i of the layout.
func (p *packer) file(i int, limit int64) error {
	after := int64(0)
	if i < len(p.l.files) {
		e := p.l.files[i]
		if err := p.content(e, limit); err != nil {
			return err
		}
		after = pad(e.Size)
	}
	if i == p.l.len()-1 {
		after += 2 * block
	}
	return p.add(make([]byte, after), limit)
}

func (p *packer) content(e *manifest.Entry, limit int64) error {
	f, err := p.app.open(e)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.add(header(e, p.l.mtime), limit); err != nil {
		return err
	}
	w := &addHashed{p: p, limit: limit, hash: digest.New()}
	// One byte more than expected is asked for, so that a file that grew is noticed.
	n, err := io.Copy(w, io.LimitReader(fsys.InContext(p.ctx, struct{ io.Reader }{f}), e.Size))
	if err != nil {
		return err
	}
	if more, _ := f.Read(make([]byte, 1)); n != e.Size || more > 0 {
		return fmt.Errorf("%s: changed while it was read", p.app.name(e))
	}
	sum := digest.Sum(w.hash)
	e.SHA256 = &sum
	return nil
}

type addHashed struct {
	p     *packer
	limit int64
	hash  hash.Hash
}

func (a *addHashed) Write(data []byte) (int, error) {
	a.hash.Write(data)
	return len(data), a.p.add(data, a.limit)
}
