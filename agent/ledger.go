package agent

import (
	"sync"
	"tandem/agent/device"
	"time"
)

// ledger is what the jobs tell while they run: how far they have come, and what
// happened. It is the one thing that jobs, the owner and the local interface
// share, so it has a lock.
type ledger struct {
	now func() time.Time

	mu       sync.Mutex
	at       device.Progress
	counts   counts
	watchers map[chan device.Event]bool
}

// counts are since the start of the agent.
type counts struct {
	polls, failedPolls           int
	installed, failed, rollbacks int
	captures, repairs, restores  int
	received, written            int64 // bytes
	reports, failedReports       int
}

func newLedger(now func() time.Time) *ledger {
	return &ledger{now: now, watchers: map[chan device.Event]bool{}}
}

// progress takes what Environment.Progress is told.
func (l *ledger) progress(what string, done, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = device.Progress{What: what, Done: done, Total: total}
}

// received takes what Environment.Received is told.
func (l *ledger) received(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.received += int64(n)
}

func (l *ledger) polled(ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.polls++
	if !ok {
		l.counts.failedPolls++
	}
}

// happened counts an event and passes it on to those who watch. One who does
// not keep up misses it: the history has it all the same.
func (l *ledger) happened(e device.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.counts
	c.written += e.Bytes
	c.repairs += len(e.Repaired)
	switch {
	case e.Command == "rollback" && e.Action != "":
		c.rollbacks++
	case e.Error != "":
		c.failed++
	case e.Action == "installed", e.Action == "pending":
		c.installed++
	case e.Action == "capture":
		c.captures++
	case e.Action == "restore":
		c.restores++
	}
	for w := range l.watchers {
		select {
		case w <- e:
		default:
		}
	}
}

// watchEvents returns a channel of events from now on, until stop.
func (l *ledger) watchEvents() (events <-chan device.Event, stop func()) {
	w := make(chan device.Event, 64)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[w] = true
	return w, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, w)
	}
}

// snapshot returns all of it.
func (l *ledger) snapshot() (device.Progress, counts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at, l.counts
}

// reported counts reports.
func (l *ledger) reported(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.counts.failedReports++
	} else {
		l.counts.reports++
	}
}
