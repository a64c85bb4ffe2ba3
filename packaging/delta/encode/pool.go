package encode

import (
	"context"
	"errors"
	"sync"
)

// A Pool makes patches for many at once, within bounds.
type Pool struct {
	workers int
	memory  int64 // 0: as much as it takes

	mu    sync.Mutex
	busy  int
	taken int64
	freed chan struct{} // closed whenever something was given back
}

// NewPool returns a pool that makes that many patches at once at most, below 1
// means one, and needs no more memory, in bytes, than is given; 0 means as
// much as it takes.
func NewPool(workers int, memory int64) *Pool {
	return &Pool{workers: max(workers, 1), memory: memory, freed: make(chan struct{})}
}

// Make makes a patch as soon as there is room for it; load reads the files
// then. It returns no patch of files that are too large, and an error if the context
// ends or load fails.
func (p *Pool) Make(ctx context.Context, oldLen, newLen int64, load func() (old, new []byte, err error)) (patch []byte, work int64, err error) {
	need := oldLen + newLen + Memory(oldLen, newLen, 1)
	if p.memory > 0 && need > p.memory {
		return nil, 0, nil
	}
	if err := p.take(ctx, need); err != nil {
		return nil, 0, err
	}
	defer p.give(need)
	old, new, err := load()
	if err != nil {
		return nil, 0, err
	}
	made, err := Make(ctx, old, new, Options{})
	switch {
	case errors.Is(err, ErrTooLarge):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	}
	return made.Bytes, made.Work, nil
}

func (p *Pool) take(ctx context.Context, need int64) error {
	for {
		p.mu.Lock()
		if p.busy < p.workers && (p.memory == 0 || p.taken+need <= p.memory) {
			p.busy++
			p.taken += need
			p.mu.Unlock()
			return nil
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *Pool) give(need int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	p.taken -= need
	close(p.freed)
	p.freed = make(chan struct{})
}
