package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"

	"github.com/sirupsen/logrus"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// work is a side on its way to what is desired.
type work struct {
	side   *Side
	snap   *Snapshot
	plan   *change.Plan
	change *change.Change // nil where there is no room to stage
	// placed tells the inodes of what was staged; nil before the commit, and where that
	// changed nothing.
	placed func(Path) (ino uint64, ok bool)
}

// bring makes both sides hold what is desired, and reports whether that took any
// change. The side that won is committed first: what the other one needs is
// staged by then.
func (j *job) bring(ctx context.Context, res *Result, d *desired, src *sources) (bool, error) {
	if err := j.settle(ctx, res.System, d); err != nil {
		return false, err
	}
	jobs := make([]*work, 0, 2)
	defer func() {
		for _, w := range jobs {
			if w.change != nil {
				_ = w.change.Discard() // makes room; where it fails, the next change does it
			}
		}
	}()
	for _, n := range []SideName{res.Decision.From, res.Decision.From.Other()} {
		w, err := j.plan(j.r.side(n), res.of(n), d, res.Decision.From)
		if err != nil {
			return false, sideError(j.r.side(n), err)
		}
		w.plan.Copy = n != res.Decision.From
		jobs = append(jobs, w)
	}
	order := jobs
	if short, err := change.Shortage(jobs[1].side.FS, jobs[1].plan); err != nil || short != nil {
		order = []*work{jobs[1], jobs[0]} // it tells before anything is touched
	}
	mends := res.Decision.From == System
	for _, w := range order {
		if w.side.Name == j.frozen {
			continue
		}
		if err := sideError(w.side, j.stage(ctx, w, src)); err != nil {
			if res.Decision.From == System && j.spares(w, err) || !res.System.Adopted && j.freezes(w, mends, err) {
				return true, nil // once more, without what stands in the way
			}
			return false, err
		}
	}
	if err := j.moment(res.System, d); err != nil {
		return false, err
	}
	// The index comes last: what was placed has stamps by then that are old enough to tell.
	defer func() { j.after(ctx, d, jobs...) }()
	changed, froze := false, false
	commit := func(w *work) error {
		if w.side.Name == j.frozen {
			return nil
		}
		wrote, err := j.commit(ctx, w, d, src)
		err = sideError(w.side, err)
		changed, froze = changed || wrote, err != nil && j.freezes(w, false, err)
		return err
	}
	// What the second side gets may be made durable beside the commit of the first.
	err := j.r.each(2, func(i int) error {
		switch w := jobs[i]; {
		case i == 0:
			return commit(w)
		case w.change != nil: // else there is no room to stage, or it cannot be written
			return sideError(w.side, w.change.Prepare())
		}
		return nil
	})
	if err == nil {
		if changed && res.Decision.Action == Capture {
			ctx = context.WithoutCancel(ctx) // until the other side has it, too, one partition has all there is
		}
		err = commit(jobs[1])
	}
	if froze {
		return true, nil // once more, without what would have to be noted on system
	}
	return err == nil && changed, err
}

func lostError(lost []Path) error {
	return fmt.Errorf("%w: configuration %s was lost on both sides", ErrDamage, lost[0])
}

// plan works out what a side lacks of what is desired.
func (j *job) plan(side *Side, snap *Snapshot, d *desired, from SideName) (*work, error) {
	t := change.Target{
		Record: d.record, Body: d.body, Facts: snap.facts, Live: side.live(), By: j.r.By, Whole: snap.Nested,
		Tag:   !snap.usable() || snap.Nested || snap.Version.String() != d.record.Manifest.Version.String(),
		Known: names(d.record), Leave: maps.Clone(j.left[side.Name]),
		Times:    from != side.Name,
		AsideAll: snap.State == Damaged && snap.Version.Compare(d.record.Manifest.Version) > 0,
	}
	if snap.noApps {
		t.Facts = nil
	}
	if t.Aside = d.loses; !side.live() {
		t.Aside = d.aside
	}
	if side.live() && from == System && snap.facts != nil {
		for p := range d.out {
			t.Leave[p] = true
		}
		for _, o := range snap.facts.Odd { // what is not captured this time stays
			if (o.Finding == tree.Edited || o.Finding == tree.Deleted) && !d.take[o.Path] && !d.forgotten[o.Path] {
				t.Leave[o.Path] = true
			}
		}
	}
	p, err := change.NewPlan(t)
	if err != nil {
		return nil, err
	}
	d.body = p.Body
	if snap.mounted && !p.Idle() {
		return nil, fmt.Errorf("%w: %s: another file system is mounted there, and all of a side has to lie on one: mount it at the side's path instead", ErrBlocked, side.FS.Path(change.AppsDir))
	}
	return &work{side: side, snap: snap, plan: p}, nil
}

// names returns what tells whether a record names a content.
func names(r *record.Record) func(digest.SHA256) bool {
	sorted := sync.OnceValue(func() []*digest.SHA256 { // few changes ask
		all := make([]*digest.SHA256, 0, r.Len())
		for e := range r.Entries() {
			if e.SHA256 != nil {
				all = append(all, e.SHA256)
			}
		}
		sort.Slice(all, func(i, k int) bool { return string(all[i][:]) < string(all[k][:]) })
		return all
	})
	return func(sum digest.SHA256) bool {
		all := sorted()
		i := sort.Search(len(all), func(i int) bool { return string(all[i][:]) >= string(sum[:]) })
		return i < len(all) && *all[i] == sum
	}
}

// stage stages all that a side lacks. Where there is no room for it, what was
// kept for a rollback goes first; where that does not help, it is left to commit.
func (j *job) stage(ctx context.Context, w *work, src *sources) error {
	j.drop(w, src)
	c, err := change.Begin(w.side.FS, w.plan)
	var short *SpaceError
	if errors.As(err, &short) && w.plan.Holes == 0 {
		if w.plan.Holes = src.holes(w.side.Name, w.plan); w.plan.Holes > 0 {
			c, err = change.Begin(w.side.FS, w.plan)
		}
	}
	if errors.As(err, &short) {
		if c, err = j.givePrevious(w, src, err); errors.As(err, &short) {
			if fits, err := change.Fits(w.side.FS, w.plan, true); err != nil {
				return err
			} else if !fits || w.plan.Facts == nil || w.plan.Whole {
				return short // before anything is changed
			}
			return nil
		}
	}
	if fsys.IsNoSpace(err) && w.plan.Idle() { // not even for the record
		if freed, dropped := j.r.giveUp(w.side, src); freed && dropped == nil {
			c, err = change.Begin(w.side.FS, w.plan)
		}
	}
	if err != nil {
		return err
	}
	w.change = c
	if err = j.fill(ctx, w, src); fsys.IsNoSpace(err) {
		return unforeseen(w, err)
	}
	return err
}

func (j *job) fill(ctx context.Context, w *work, src *sources) error {
	content := w.plan.Content()
	var done, all int64
	for _, f := range content {
		all += f.Size
	}
	j.announce(w)
	var mu sync.Mutex
	return j.r.each(len(content), func(i int) error {
		if err := src.copy(ctx, w.side.Name, w.change, content[i]); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		done += content[i].Size
		if j.r.Progress != nil {
			j.r.Progress("copying to "+string(w.side.Name), done, all)
		}
		return nil
	})
}

// announce logs what a change is going to write.
func (j *job) announce(w *work) {
	if w.plan.Idle() {
		return
	}
	content := w.plan.Content()
	var all int64
	for _, f := range content {
		all += f.Size
	}
	j.r.Log.WithFields(logrus.Fields{"side": w.side.Name, "version": w.plan.Record.Manifest.Version, "files": len(content), "bytes": all}).Info("writing")
}

// commit makes the change of a side, and reports whether there was one.
func (j *job) commit(ctx context.Context, w *work, d *desired, src *sources) (bool, error) {
	if w.change == nil {
		if err := j.inPlace(ctx, w, src, d.record); err != nil {
			return false, err
		}
		j.total.InPlace = append(j.total.InPlace, w.side.Name)
	}
	var written []Path
	if w.side.live() {
		written = d.written
	}
	if w.side.live() && w.snap.Adopted && w.snap.facts != nil || w.snap.mounted && len(written) > 0 {
		if err := w.snap.facts.Tree.FS.Sync(); err != nil { // the record takes all as it is, or lies elsewhere
			return false, err
		}
		written = nil
	}
	out, err := w.change.Commit(written)
	if out != nil {
		j.r.tell(w.side, out)
	}
	if err != nil {
		w.change = nil // recovery finishes it, or takes it back
		return false, err
	}
	if out.Wrote {
		if !slices.Contains(j.total.Changed, w.side.Name) {
			j.total.Changed = append(j.total.Changed, w.side.Name)
		}
		for _, f := range w.plan.Content() {
			j.total.Files++
			j.total.Bytes += f.Size
		}
	}
	for _, p := range out.Aside {
		j.total.Aside = append(j.total.Aside, Left{w.side.Name, p, w.side.FS.Path(change.AsideDir)})
	}
	cannot := append(w.change.Cannot(), out.Cannot...)
	few(j.r.Log, w.side.Name, cannot, func(log logrus.FieldLogger, l change.Left) {
		log.WithField("file", l.Path).Warn("not kept as it is: " + l.Why)
	})
	for _, l := range cannot {
		j.weak[w.side.Name][l.Path] = true
	}
	for _, l := range out.Left {
		j.left[w.side.Name][l.Path] = true
	}
	if out.Wrote {
		w.placed = w.change.Placed
	}
	w.change = nil
	return out.Wrote, nil
}

// whole reports as an error that a side does not hold all of a record, every
// byte read. nil for rec means its own version.
func (r *Reconciler) whole(ctx context.Context, n SideName, rec *record.Record) error {
	j := newJob(r, Options{Full: true})
	system, usrData, err := j.snapshots(ctx)
	if err != nil {
		return err
	}
	snap := system
	if n == UsrData {
		snap = usrData
	}
	if !snap.usable() || snap.Nested {
		return fmt.Errorf("%s is %s", n, snap.State)
	}
	if rec == nil {
		rec = snap.facts.Basis
	}
	for e := range rec.Entries() {
		if has := snap.facts.Has(e.Path); has == nil || !manifest.SameContent(has, e) {
			return &staleError{n, e.Path, change.ErrContent} // decide once more, knowing that
		}
	}
	return nil
}
