// Package encode makes the patches that package delta applies. It holds both
// files and more in memory: it is for machines that publish, not for devices.
package encode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"tandem/packaging/delta"
	"tandem/packaging/delta/internal/codec"
)

var (
	// ErrTooLarge means that a file is longer than a patch can be for.
	ErrTooLarge = fmt.Errorf("a file of more than %d bytes", delta.MaxFile)
	// ErrMemory means that a patch would need more memory than is allowed.
	ErrMemory = errors.New("not enough memory allowed")
)

// Options say what making a patch may cost. The patch does not depend on them.
type Options struct {
	// Workers is how many processors it may use; below 1 means one.
	Workers int
	// Memory is how many bytes it may need; 0 means as many as it takes.
	Memory int64
}

// Memory returns how much memory a patch takes at most, in bytes, besides the
// files themselves.
func Memory(oldLen, newLen int64, workers int) int64 {
	return 24*oldLen + 4*newLen + int64(max(workers, 1))*(16<<20)
}

// A Patch is a patch, and what it takes to apply.
type Patch struct {
	Bytes []byte
	// Work is how many contexts a decoder asks, which is what takes it time: tens
	// of millions a second on a computer, some millions on the core of a small device.
	Work int64
}

// Make returns a patch that makes new of old. The same files give the same patch on every
// machine. It was decoded and compared. Errors are ErrTooLarge, ErrMemory and the context's.
func Make(ctx context.Context, old, new []byte, o Options) (*Patch, error) {
	if max(len(old), len(new)) > delta.MaxFile {
		return nil, ErrTooLarge
	}
	workers := max(o.Workers, 1)
	if need := Memory(int64(len(old)), int64(len(new)), workers); o.Memory > 0 && need > o.Memory {
		workers = 1
		if need = Memory(int64(len(old)), int64(len(new)), 1); need > o.Memory {
			return nil, fmt.Errorf("%w: %d bytes are needed, %d may be used", ErrMemory, need, o.Memory)
		}
	}
	coded, err := newJob(old, new).smallest(ctx, workers)
	if err != nil {
		return nil, err
	}
	patch := append(header(len(old), len(new)), coded.Bytes...)
	if err := verify(ctx, patch, old, new); err != nil {
		return nil, err
	}
	return &Patch{patch, coded.Work}, nil
}

// header returns what comes before the coded part of a patch.
func header(oldLen, newLen int) []byte {
	h := binary.AppendUvarint([]byte(delta.Magic), uint64(oldLen))
	return binary.AppendUvarint(h, uint64(newLen))
}

// slacks are by how much another alignment has to be better, each a way to
// match that is best for some files.
var slacks = [...]int{8, 12, 16}

// small is below which size, in bytes, the tables of a patch may cost more than they save.
const small = 8192

// A job is what is tried: the two files, and what the patch tells of them.
type job struct {
	old, new         []byte
	oldProg, newProg program
	layout           codec.Layout // none unless both are programs for one machine
	isProgram        bool         // that layout is one
}

func newJob(old, new []byte) *job {
	j := &job{old: old, new: new}
	var ok1, ok2 bool
	j.oldProg, ok1 = parse(old)
	j.newProg, ok2 = parse(new)
	if ok1 && ok2 && j.oldProg.Machine == j.newProg.Machine {
		j.isProgram, j.layout = true, layoutOf(j.oldProg, j.newProg)
	}
	return j
}

// smallest returns the coded part of the smallest patch.
func (j *job) smallest(ctx context.Context, workers int) (*codec.Coded, error) {
	best, err := j.try(ctx, j.old, j.new, workers)
	if err != nil || j.oldProg.File == nil {
		return best, err
	}
	// What moves with the code hides that code is alike.
	blank := j.new
	if j.newProg.File != nil {
		blank = blanked(j.newProg)
	}
	other, err := j.try(ctx, blanked(j.oldProg), blank, workers)
	return shorter(best, other), err
}

// try matches two forms of the files in each way, and returns the smallest
// coded part. Nothing in it depends on which is ready first.
func (j *job) try(ctx context.Context, old, new []byte, workers int) (*codec.Coded, error) {
	m := newMatcher(old)
	var (
		parts [len(slacks)]*codec.Coded
		errs  [len(slacks)]error
		busy  = make(chan struct{}, workers)
		all   sync.WaitGroup
	)
	for i, slack := range slacks {
		busy <- struct{}{}
		all.Go(func() {
			defer func() { <-busy }()
			parts[i], errs[i] = j.match(ctx, m, new, slack)
		})
	}
	all.Wait()
	var best *codec.Coded
	for _, p := range parts {
		best = shorter(best, p)
	}
	return best, errors.Join(errs[:]...)
}

// match finds the operations in one way, and codes them in up to three.
func (j *job) match(ctx context.Context, m *matcher, new []byte, slack int) (*codec.Coded, error) {
	ops, err := m.operations(ctx, new, slack)
	for ; err == nil && len(ops) > codec.MaxOperations; slack *= 2 {
		ops, err = m.operations(ctx, new, 2*slack)
	}
	if err != nil {
		return nil, err
	}
	if !j.isProgram || j.layout.Arch == codec.NoArch {
		return j.encode(ctx, j.layout, ops)
	}
	best, err := j.encode(ctx, j.layout, j.pair(ops, true))
	if err != nil || len(header(len(j.old), len(j.new)))+len(best.Bytes) >= small {
		return best, err
	}
	for _, way := range []struct {
		layout codec.Layout
		ops    []codec.Op
	}{{j.layout, j.pair(ops, false)}, {codec.Layout{}, ops}} {
		part, err := j.encode(ctx, way.layout, way.ops)
		if err != nil {
			return nil, err
		}
		best = shorter(best, part)
	}
	return best, nil
}

// pair returns the operations with those in tables paired by meaning, unless
// they are too many.
func (j *job) pair(ops []codec.Op, functions bool) []codec.Op {
	if paired := pairTables(j.oldProg, j.newProg, &j.layout, ops, functions); len(paired) <= codec.MaxOperations {
		return paired
	}
	return ops
}

func (j *job) encode(ctx context.Context, l codec.Layout, ops []codec.Op) (*codec.Coded, error) {
	return codec.Encode(ctx, j.new, j.old, l, ops, choose)
}

// shorter returns the shorter of two, a if they are as long or there is no b.
func shorter(a, b *codec.Coded) *codec.Coded {
	if a == nil || b != nil && len(b.Bytes) < len(a.Bytes) {
		return b
	}
	return a
}

// verify reports an error if the patch does not make new of old.
func verify(ctx context.Context, patch, old, new []byte) error {
	w := &comparer{want: new}
	err := delta.Apply(ctx, w, bytes.NewReader(patch), bytes.NewReader(old), delta.Lengths{Old: int64(len(old)), New: int64(len(new))})
	if err == nil && len(w.want) > 0 {
		err = errDiffers
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("a patch that was made does not apply: %w", err)
	}
	return err
}

var errDiffers = errors.New("it makes another file")

// A comparer refuses what is not what it wants.
type comparer struct{ want []byte }

func (c *comparer) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(c.want, p) {
		return 0, errDiffers
	}
	c.want = c.want[len(p):]
	return len(p), nil
}
