package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/delta"
	"tandem/packaging/release"
)

// A Maker makes patches.
type Maker interface {
	// Make returns a patch that makes the new file of the old one, and how much
	// work it is to apply; no patch where that takes more than there is. load
	// reads the two, once there is room for them.
	Make(ctx context.Context, oldLen, newLen int64, load func() (old, new []byte, err error)) (patch []byte, work int64, err error)
}

// DeltaOptions say how a delta bundle is to be made.
type DeltaOptions struct {
	Maker Maker
	// Workers is how many files are looked at at once; below 1 means one.
	Workers int
	// Progress is told how many bytes of files are done, out of how many. It may
	// be nil, and is called by one at a time.
	Progress func(done, total int64)
	Signing
}

// What a patch has to save. A device's slow core asks some millions of contexts
// a second, and a link of 2 Mbit/s brings a quarter of a megabyte.
const (
	slowCore = 6_000_000     // contexts a second
	slowLink = 250_000       // bytes a second
	anyCore  = slowCore / 10 // contexts that no patch is too much work for
)

// pays reports whether a patch that costs so many bytes, and so much work, is
// worth it against full bytes: on the air by a tenth at least, and on a slow core no
// longer to apply than what it saves takes to fetch, a tenth of a second aside.
func pays(cost, work, full int64) bool {
	return 10*cost <= 9*full && (work-anyCore)*slowLink <= (full-cost)*slowCore
}

// MakeDelta writes a bundle that makes the release of new out of that of old to
// the file name of out. The same two give the same bytes, wherever and
// whenever. What was written was read once more, and makes the release.
//
// After success the bundle is durable. After an error or a power cut name is
// what it was before, or a bundle; name+".tmp" and name+".payload.tmp" may be
// left, which the next call replaces. The error wraps ErrOptions if there is no
// such bundle.
func MakeDelta(ctx context.Context, old, new *Archive, out fsys.FS, name string, o DeltaOptions) (err error) {
	from, to := old.Manifest(), new.Manifest()
	if from.Kind == release.Firmware || to.Kind != from.Kind || from.App != to.App {
		return fmt.Errorf("%w: from %s %s to %s %s: expected one application, or Tandem itself", ErrOptions, from.App, from.Version, to.App, to.Version)
	}
	if old.Head.Release() == new.Head.Release() {
		return fmt.Errorf("%w: both are release %s", ErrOptions, new.Head.Release())
	}
	enc, err := newEncoder()
	if err != nil {
		return err
	}
	cut, err := newCuts(0)
	if err != nil {
		return err
	}
	m := &deltaMaker{ctx: ctx, old: old, new: new, enc: enc, cuts: cut, o: &o}
	patches, contents, err := m.patches()
	if err != nil {
		return err
	}
	l, err := deltaLayout(to, from, patches)
	if err != nil {
		return err
	}
	payload := name + ".payload.tmp"
	defer func() {
		if e := out.Remove(payload); e != nil && !fsys.IsNotExist(e) && err == nil {
			err = e
		}
	}()
	frames, err := writePayload(ctx, &deltaOpener{new, contents}, out, payload, l, cut, enc)
	if err != nil {
		return err
	}
	b, err := m.head(patches, frames)
	if err != nil {
		return err
	}
	if b.targets, err = o.targets(*b.signed(), nil); err != nil {
		return err
	}
	f, err := out.Open(payload)
	if err != nil {
		return err
	}
	defer f.Close()
	b.payload = fsys.InContext(ctx, f)
	if err := write(out, name, &o.Signing, b); err != nil {
		return err
	}
	if err := verifyDelta(ctx, out, name, old); err != nil {
		_ = out.Remove(name) // the first error is the one to report
		return fmt.Errorf("%s: it was made and does not make the release: %w", out.Path(name), err)
	}
	return nil
}

// verifyDelta reads a delta bundle as a device does that has the base.
func verifyDelta(ctx context.Context, out fsys.FS, name string, old *Archive) error {
	f, err := out.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := NewReaderOn(fsys.InContext(ctx, f), Inspect{}, old)
	if err != nil {
		return err
	}
	return r.Finish()
}

// deltaOpener opens what a delta bundle carries.
type deltaOpener struct {
	new     *Archive
	patches map[backup.Path][]byte
}

func (d *deltaOpener) open(e *manifest.Entry) (io.ReadCloser, error) {
	if p, ok := d.patches[e.Path]; ok {
		return io.NopCloser(bytes.NewReader(p)), nil
	}
	b, err := d.new.content(*e.SHA256)
	return io.NopCloser(bytes.NewReader(b)), err
}

func (d *deltaOpener) name(e *manifest.Entry) string { return e.Path.String() }

type deltaMaker struct {
	ctx      context.Context
	old, new *Archive
	enc      *encoder
	cuts     cuts
	o        *DeltaOptions

	sketches func() ([]sketch, error) // of bases
	bases    []*manifest.Entry        // files that devices have as they were
}

// patches makes the patches that pay.
func (m *deltaMaker) patches() ([]Patch, map[backup.Path][]byte, error) {
	c := newCarried(m.old.Manifest())
	samePath := map[backup.Path]*manifest.Entry{}
	for _, e := range newLayout(m.old.Manifest()).files {
		if !m.old.Manifest().IsConfig(e.Path) && e.Size <= delta.MaxFile {
			samePath[e.Path] = e
			m.bases = append(m.bases, e)
		}
	}
	m.sketches = sync.OnceValues(m.sketchBases)
	var todo []*manifest.Entry
	var done, total int64
	for _, e := range newLayout(m.new.Manifest()).files {
		if c.lacks(e) {
			total += e.Size
			todo = append(todo, e)
		}
	}
	type result struct {
		patch *Patch
		raw   []byte
		err   error
	}
	results := make([]result, len(todo))
	ctx, cancel := context.WithCancelCause(m.ctx)
	defer cancel(nil)
	var (
		all  sync.WaitGroup
		busy = make(chan struct{}, max(m.o.Workers, 1))
		mu   sync.Mutex
	)
	for i, e := range todo {
		busy <- struct{}{}
		all.Go(func() {
			defer func() { <-busy }()
			r := &results[i]
			if r.patch, r.raw, r.err = m.patch(ctx, e, samePath[e.Path]); r.err != nil {
				cancel(r.err)
			}
			mu.Lock()
			defer mu.Unlock()
			if done += e.Size; m.o.Progress != nil {
				m.o.Progress(done, total)
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	var patches []Patch
	contents := map[backup.Path][]byte{}
	for _, r := range results {
		if r.patch != nil {
			patches = append(patches, *r.patch)
			contents[r.patch.Path] = r.raw
		}
	}
	return patches, contents, nil
}

// patch makes the patch of e, from the old file at its path or, where there is
// none, the one that is most like it; nil if none pays.
func (m *deltaMaker) patch(ctx context.Context, e, from *manifest.Entry) (*Patch, []byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if m.new.Manifest().IsConfig(e.Path) || e.Size > delta.MaxFile || e.Size == 0 {
		return nil, nil, nil
	}
	var err error
	if from == nil {
		if from, err = m.alike(e); from == nil || err != nil {
			return nil, nil, err
		}
	}
	full, err := m.full(e)
	if err != nil {
		return nil, nil, err
	}
	raw, work, err := m.o.Maker.Make(ctx, from.Size, e.Size, func() (old, new []byte, err error) {
		if old, err = m.old.content(*from.SHA256); err != nil {
			return nil, nil, err
		}
		new, err = m.new.content(*e.SHA256)
		return old, new, err
	})
	if raw == nil || err != nil {
		return nil, nil, err
	}
	p := &Patch{Path: e.Path, Base: *from.SHA256, Size: from.Size, Length: int64(len(raw)), SHA256: digest.Of(raw)}
	described, err := json.Marshal(p)
	if err != nil {
		return nil, nil, err
	}
	if p.Length > maxPatch || !pays(p.Length+int64(len(described)), work, full) {
		return nil, nil, nil
	}
	return p, raw, nil
}

// full returns how long the file is in frames of its own.
func (m *deltaMaker) full(e *manifest.Entry) (int64, error) {
	b, err := m.new.content(*e.SHA256)
	var n int64
	for piece := range slices.Chunk(b, int(m.cuts.piece)) {
		n += int64(len(m.enc.encode(piece)))
	}
	return n, err
}

func (m *deltaMaker) sketchBases() ([]sketch, error) {
	s := make([]sketch, len(m.bases))
	for i, e := range m.bases {
		if err := m.ctx.Err(); err != nil {
			return nil, err
		}
		b, err := m.old.content(*e.SHA256)
		if err != nil {
			return nil, err
		}
		s[i] = newSketch(b)
	}
	return s, nil
}

// alike returns the old file that has most in common with e, of several the
// first; nil if none has much.
func (m *deltaMaker) alike(e *manifest.Entry) (*manifest.Entry, error) {
	all, err := m.sketches()
	if err != nil {
		return nil, err
	}
	b, err := m.new.content(*e.SHA256)
	if err != nil {
		return nil, err
	}
	s := newSketch(b)
	best, most := (*manifest.Entry)(nil), minAlike-1
	for i, old := range m.bases {
		if n := s.alike(all[i]); n > most {
			best, most = old, n
		}
	}
	return best, nil
}

// head makes the part of the head that is signed.
func (m *deltaMaker) head(patches []Patch, frames []Frame) (*content, error) {
	to := m.new.Manifest()
	parts := &Parts{
		Release: m.new.Parts().Release,
		Needs:   []string{delta.Magic},
		Delta:   &Delta{App: to.App, Version: to.Version, Base: m.old.describe(), Patches: slices.Concat([]Patch{}, patches)},
		Frames:  slices.Concat([]Frame{}, frames),
	}
	b := &content{release: m.new.packed, mtime: to.Time, length: parts.Payload()}
	if m.old.canRebuild() {
		raw, work, err := m.o.Maker.Make(m.ctx, int64(len(m.old.raw)), int64(len(m.new.raw)), func() (old, new []byte, err error) {
			return m.old.raw, m.new.raw, nil
		})
		if err != nil {
			return nil, err
		}
		if raw != nil && len(raw) <= maxPatch && pays(int64(len(raw)), work, int64(len(b.release))) {
			b.release, b.patch = raw, true
		}
	}
	var err error
	if b.parts, err = parts.Encode(); err != nil {
		return nil, err
	}
	if len(b.parts) > maxParts {
		return nil, fmt.Errorf("%w: the description of its patches has %d bytes, at most %d are allowed", ErrOptions, len(b.parts), maxParts)
	}
	return b, nil
}
