package main

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent"
	"tandem/agent/device"
	"tandem/internal/config"
)

// faster is how fast the agent's time passes: an hour in ten milliseconds.
const faster = 360_000

// fast runs the agent in this process until it has polled so many times. It
// gives what it saw, in lines.
func fast(ctx context.Context, p *published, cycles int, seed uint64) (string, error) {
	n, end, err := newNetwork(p.repo, seed)
	if err != nil {
		return "", err
	}
	defer end()
	file, err := p.device("fast", n.url, "")
	if err != nil {
		return "", err
	}
	cfg, err := config.Load(file)
	if err != nil {
		return "", err
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	began := time.Now()
	random := rand.New(rand.NewPCG(seed, 2)) // the agent's owner asks, one at a time
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, err := agent.New(agent.Options{
		Config: cfg, Zone: time.UTC,
		Environment: device.Environment{
			Log: log, Version: "0", Random: crand.Reader, EUID: os.Geteuid(), EGID: os.Getegid(),
			Now: func() time.Time { return began.Add(time.Since(began) * faster) },
		},
		After: func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTimer(d / faster)
			return t.C, func() { t.Stop() }
		},
		Random: random.Float64,
	})
	if err != nil {
		return "", err
	}
	over := make(chan error, 1)
	go func() { over <- a.Run(ctx) }()
	first, last, edits, err := watch(ctx, p, n, cycles, filepath.Dir(file), seed)
	cancel()
	err = errors.Join(err, <-over)
	n.mu.Lock()
	defer n.mu.Unlock()
	text := fmt.Sprintf("fast: %d polls in %s, %d reports, %d edits; faults: %v\n", n.polls, time.Since(began).Round(time.Second), n.posts, edits, n.faults)
	text += fmt.Sprintf("fast: at first %s\nfast: at last  %s\n", first, last)
	switch {
	case err != nil:
	case first == (sample{}) || last == (sample{}):
		err = errors.New("there was no time to look at what the agent holds: take more polls")
	default:
		err = last.grown(first)
	}
	return text, err
}

func (s sample) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, heap of %d KiB", s.Goroutines, s.Descriptors, s.Memory>>10)
}

// watch edits configuration and publishes releases until the agent has polled
// so many times. It gives what the process held in the second and in the last
// tenth of them; the first is to warm up. What has grown by then may be work
// that is going on: only what is still there after as many polls again was left behind.
func watch(ctx context.Context, p *published, n *network, cycles int, dir string, seed uint64) (first, last sample, edits int, err error) {
	random := rand.New(rand.NewPCG(seed, 3))
	published := 0
	for ctx.Err() == nil {
		n.mu.Lock()
		polls := n.polls
		n.mu.Unlock()
		if polls >= cycles && (last != (sample{}) && last.grown(first) == nil || polls >= 2*cycles) {
			return first, last, edits, nil
		}
		if tenth := polls * 10 / cycles; (tenth == 1 || tenth >= 9) && random.IntN(5) == 0 {
			now, err := held()
			if err != nil {
				return first, last, edits, err
			}
			if tenth == 1 {
				first = first.least(now)
			} else {
				last = last.least(now)
			}
		}
		if random.IntN(20) == 0 {
			name := filepath.Join(dir, "system/apps/etc", fmt.Sprintf("%d.conf", random.IntN(3)))
			if os.WriteFile(name, fmt.Appendf(nil, "edit = %d\n", random.Uint64()), 0o644) == nil { // else no version is there yet
				edits++
			}
		}
		if due := min(polls*5/cycles, 4); due > published {
			published = due
			if err := p.add(ctx); err != nil {
				return first, last, edits, err
			}
		}
		pause(ctx, time.Duration(random.IntN(20))*time.Millisecond)
	}
	return first, last, edits, ctx.Err()
}

// held is what this process holds.
func held() (sample, error) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	open, err := descriptors("self")
	return sample{runtime.NumGoroutine(), open, int64(m.HeapAlloc)}, err
}
