package backup

import (
	"context"
	"errors"
	"path"
	"time"

	"tandem/backup/tree"
)

// The patience with an application that writes while it is captured.
const (
	moments   = 8                      // times that a capture is tried
	rest      = 50 * time.Millisecond  // between two tries; the later, the longer
	afterGone = 250 * time.Millisecond // how old the removal or emptying of a file has to be
)

// settle lets the stamps of what is captured grow so old that a further write
// gives another one.
func (j *job) settle(ctx context.Context, system *Snapshot, d *desired) error {
	if len(d.take) == 0 || system.facts == nil {
		return nil
	}
	now := j.r.Now().UnixNano()
	var wait time.Duration
	until := func(stamp int64, age time.Duration) {
		if left := time.Duration(stamp-now) + age; left > wait && left <= age {
			wait = left
		}
	}
	for p := range d.take {
		o := system.facts.At(p)
		if o == nil {
			continue
		}
		if o.Node != nil {
			until(max(o.Node.Ctime, o.Node.Mtime), time.Duration(tree.Granule(o.Node.Ctime)))
			if o.Node.Size > 0 || o.Entry == nil || o.Entry.Size == 0 {
				continue
			}
			until(o.Node.Mtime, afterGone)
		} else if above := system.facts.Tree.Get(Path(path.Dir(string(p)))); above != nil {
			until(above.Mtime, afterGone)
		}
	}
	if wait <= 0 {
		return nil
	}
	return j.r.wait(ctx, wait)
}

// moment makes sure that all that was captured was as it is from the first read
// to the last: files that belong together fit together.
func (j *job) moment(system *Snapshot, d *desired) error {
	if len(d.take) == 0 || system.facts == nil {
		return nil
	}
	dirs := map[Path]bool{}
	for p := range d.take {
		dirs[Path(path.Dir(string(p)))] = true
	}
	now, err := system.facts.Tree.Listing(dirs)
	if err != nil {
		return err
	}
	if p := system.facts.Moved(now, dirs); p != "" {
		return &staleError{System, p, errors.New("was written while it was captured")}
	}
	return nil
}

// unrest waits until an application may have come to rest that wrote p during
// round n. In the end the directory keeps the capture that it has.
func (j *job) unrest(ctx context.Context, n int, p Path) error {
	if n+1 >= moments {
		j.restless[Path(path.Dir(string(p)))] = true
		return nil
	}
	return j.r.wait(ctx, rest*time.Duration(n+1))
}

// keepsCapture reports whether p keeps its last capture, because something beside it
// does not come to rest, because it does not fit, or because a side cannot be written.
func (j *job) keepsCapture(p Path) bool {
	return j.frozen != "" || j.restless[Path(path.Dir(string(p)))] || j.tooLarge(p)
}
