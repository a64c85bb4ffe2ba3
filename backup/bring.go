package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

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
func (r *Reconciler) bring(ctx context.Context, in *inspector, res *Result, d *desired, src *sources, total *Result) (bool, error) {
	if err := in.settle(ctx, res.System, d); err != nil {
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
		w, err := in.plan(r.side(n), res.of(n), d, res.Decision.From)
		if err != nil {
			return false, sideError(r.side(n), err)
		}
		w.plan.Copy = n != res.Decision.From
		jobs = append(jobs, w)
	}
	order := jobs
	if short, err := change.Shortage(jobs[1].side.FS, jobs[1].plan); err != nil || short != nil {
		order = []*work{jobs[1], jobs[0]} // it tells before anything is touched
	}
	for _, w := range order {
		if err := sideError(w.side, r.stage(ctx, in, w, src)); err != nil {
			if in.freezes(w, err) || res.Decision.From == System && in.spares(w, err) {
				return true, nil // once more, without what stands in the way
			}
			return false, err
		}
	}
	if err := in.moment(res.System, d); err != nil {
		return false, err
	}
	// The index comes last: what was placed has stamps by then that are old enough to tell.
	defer func() { in.after(ctx, d, jobs...) }()
	changed, froze := false, false
	commit := func(w *work) error {
		wrote, err := r.commit(ctx, in, w, d, src, total)
		err = sideError(w.side, err)
		changed, froze = changed || wrote, err != nil && in.freezes(w, err)
		return err
	}
	// What the second side gets may be made durable beside the commit of the first.
	err := r.each(2, func(i int) error {
		switch w := jobs[i]; {
		case i == 0:
			return commit(w)
		case w.change != nil: // else there is no room to stage
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

// freezes reports whether system cannot take even a record, and what has nothing to do with
// that is to be done without it.
func (in *inspector) freezes(w *work, err error) bool {
	if in.stuck != nil || !w.side.live() || !w.plan.Idle() || !fsys.IsNotWritable(err) && !errors.Is(err, ErrNoSpace) {
		return false
	}
	in.stuck, in.frozen = err, true
	return true
}

// Foresee is Look, and finds out besides what would keep Reconcile from success: files that
// are damaged everywhere, or too little room. The error is of the kind that it would end with.
func (r *Reconciler) Foresee(ctx context.Context, o Options) (*Result, error) {
	in := newInspector(r, o)
	res, err := r.look(ctx, in, o)
	if err != nil {
		return res, err
	}
	switch res.Decision.Action {
	case Nothing, Hold:
		return res, nil
	}
	if !res.System.Commit.IsZero() || !res.UsrData.Commit.IsZero() { // what is staged is to be told from what lacks
		return res, nil
	}
	if res.Decision.Action == Return {
		kept, err := r.kept(ctx, in, res.System, res.UsrData, wish{to: res.Decision.To})
		if err != nil {
			return res, err
		}
		return res, r.wayFree(in, res.System, res.UsrData, kept)
	}
	src := in.sources(res.System, res.UsrData)
	var damage error
	for n := res.Decision.From; r.side(n).FS != nil; { // else it is not made yet
		d := aim(res.Decision.From, res.System, res.UsrData, src, in.keepsCapture, in.tooLarge, "")
		w, err := in.plan(r.side(n), res.of(n), d, res.Decision.From)
		if err == nil {
			if in.drop(w, src) {
				damage = fmt.Errorf("%w: application files are damaged on both sides", ErrDamage)
			} else if left := w.plan.Left; n == UsrData && len(left) > 0 {
				damage = fmt.Errorf("%w: %s: %s: %s", ErrDamage, n, left[0].Path, left[0].Why)
			}
			err = in.foresee(w, src)
		}
		switch {
		case err != nil && (n != UsrData || res.Decision.From != System || !in.spares(w, err)):
			return res, sideError(r.side(n), err)
		case err != nil:
		case n == res.Decision.From:
			n = n.Other()
		case damage != nil:
			return res, damage
		case len(d.lost) > 0:
			return res, lostError(d.lost)
		default:
			return res, in.spared(slices.Sorted(maps.Keys(in.large)))
		}
	}
	return res, nil
}

func lostError(lost []Path) error {
	return fmt.Errorf("%w: configuration %s was lost on both sides", ErrDamage, lost[0])
}

// foresee returns the error of a change that there is no room for, as stage does.
func (in *inspector) foresee(w *work, src *sources) error {
	w.plan.Holes = src.holes(w.side.Name, w.plan)
	short, err := change.Shortage(w.side.FS, w.plan)
	if short == nil || err != nil {
		return err
	}
	if fits, err := change.Fits(w.side.FS, w.plan, true); fits || err != nil {
		return err
	}
	return short
}

// plan works out what a side lacks of what is desired.
func (in *inspector) plan(side *Side, snap *Snapshot, d *desired, from SideName) (*work, error) {
	t := change.Target{
		Record: d.record, Body: d.body, Facts: snap.facts, Live: side.live(), By: in.r.By, Whole: snap.Nested,
		Tag:   !snap.usable() || snap.Nested || snap.Version.String() != d.record.Manifest.Version.String(),
		Known: names(d.record), Leave: maps.Clone(in.left[side.Name]),
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
	all := make([]*digest.SHA256, 0, r.Len())
	for e := range r.Entries() {
		if e.SHA256 != nil {
			all = append(all, e.SHA256)
		}
	}
	sort.Slice(all, func(i, k int) bool { return string(all[i][:]) < string(all[k][:]) })
	return func(sum digest.SHA256) bool {
		i := sort.Search(len(all), func(i int) bool { return string(all[i][:]) >= string(sum[:]) })
		return i < len(all) && *all[i] == sum
	}
}

// stage stages all that a side lacks. Where there is no room for it, what was
// kept for a rollback goes first; where that does not help, it is left to commit.
func (r *Reconciler) stage(ctx context.Context, in *inspector, w *work, src *sources) error {
	in.drop(w, src)
	c, err := change.Begin(w.side.FS, w.plan)
	var short *SpaceError
	if errors.As(err, &short) && w.plan.Holes == 0 {
		if w.plan.Holes = src.holes(w.side.Name, w.plan); w.plan.Holes > 0 {
			c, err = change.Begin(w.side.FS, w.plan)
		}
	}
	if errors.As(err, &short) {
		if c, err = r.givePrevious(in, w, src, err); errors.As(err, &short) {
			if fits, err := change.Fits(w.side.FS, w.plan, true); err != nil {
				return err
			} else if !fits || w.plan.Facts == nil || w.plan.Whole {
				return short // before anything is changed
			}
			return nil
		}
	}
	if fsys.IsNoSpace(err) && w.plan.Idle() { // not even for the record
		if freed, dropped := r.giveUp(w.side, src); freed && dropped == nil {
			c, err = change.Begin(w.side.FS, w.plan)
		}
	}
	if err != nil {
		return err
	}
	w.change = c
	return r.fill(ctx, w, src)
}

// givePrevious begins a change once more without what is kept for a rollback, if
// there is room for it then; else the error stays what it was.
func (r *Reconciler) givePrevious(in *inspector, w *work, src *sources, short error) (*change.Change, error) {
	fits, err := change.Fits(w.side.FS, w.plan, false)
	if err != nil {
		return nil, err
	}
	if !fits {
		return nil, short
	}
	if _, err := r.giveUp(w.side, src); err != nil {
		return nil, err
	}
	return change.Begin(w.side.FS, w.plan)
}

// giveUp drops what a side keeps for a rollback, and reports whether that made room.
func (r *Reconciler) giveUp(side *Side, src *sources) (freed bool, err error) {
	n, err := change.DropPrevious(side.FS)
	if n > 0 {
		src.known = nil
		r.Log.WithField("side", side.Name).Warn("not enough space: the previous version is given up")
	}
	return n > 0, err
}

// drop leaves files alone that are damaged everywhere, so that the others of the
// same version can be mended all the same. It reports whether there are any.
func (in *inspector) drop(w *work, src *sources) bool {
	return !w.plan.Tag && w.plan.Drop(func(e *manifest.Entry) bool { return !src.has(w.side.Name, e) })
}

func (r *Reconciler) fill(ctx context.Context, w *work, src *sources) error {
	content := w.plan.Content()
	var done, all int64
	for _, f := range content {
		all += f.Size
	}
	r.announce(w)
	var mu sync.Mutex
	return r.each(len(content), func(i int) error {
		if err := src.copy(ctx, w.side.Name, w.change, content[i]); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		done += content[i].Size
		if r.Progress != nil {
			r.Progress("copying to "+string(w.side.Name), done, all)
		}
		return nil
	})
}

// announce logs what a change is going to write.
func (r *Reconciler) announce(w *work) {
	if w.plan.Idle() {
		return
	}
	content := w.plan.Content()
	var all int64
	for _, f := range content {
		all += f.Size
	}
	r.Log.WithFields(logrus.Fields{"side": w.side.Name, "version": w.plan.Record.Manifest.Version, "files": len(content), "bytes": all}).Info("writing")
}

// commit makes the change of a side, and reports whether there was one.
func (r *Reconciler) commit(ctx context.Context, in *inspector, w *work, d *desired, src *sources, total *Result) (bool, error) {
	if w.change == nil {
		if err := r.inPlace(ctx, in, w, src, d.record); err != nil {
			return false, err
		}
		total.InPlace = append(total.InPlace, w.side.Name)
	}
	var written []Path
	if w.side.live() {
		written = d.written
	}
	if w.snap.mounted && len(written) > 0 {
		if err := w.snap.facts.Tree.FS.Sync(); err != nil {
			return false, err
		}
		written = nil
	}
	out, err := w.change.Commit(written)
	if out != nil {
		r.tell(w.side, out)
	}
	if err != nil {
		w.change = nil // recovery finishes it, or takes it back
		return false, err
	}
	if out.Wrote {
		if !slices.Contains(total.Changed, w.side.Name) {
			total.Changed = append(total.Changed, w.side.Name)
		}
		for _, f := range w.plan.Content() {
			total.Files++
			total.Bytes += f.Size
		}
	}
	for _, p := range out.Aside {
		total.Aside = append(total.Aside, Left{w.side.Name, p, w.side.FS.Path(change.AsideDir)})
	}
	for _, l := range append(w.change.Cannot(), out.Cannot...) {
		r.Log.WithFields(logrus.Fields{"side": w.side.Name, "file": l.Path}).Warn("not kept as it is: " + l.Why)
		in.weak[w.side.Name][l.Path] = true
	}
	for _, l := range out.Left {
		in.left[w.side.Name][l.Path] = true
	}
	if out.Wrote {
		w.placed = w.change.Placed
	}
	w.change = nil
	return out.Wrote, nil
}

// after notes what the sides hold now whose change was committed: what did not
// change, and what was placed. Where that fails the next look reads what it has to.
func (in *inspector) after(ctx context.Context, d *desired, jobs ...*work) {
	made, errs := make([]*tree.Index, len(jobs)), make([]error, len(jobs))
	_ = in.r.each(len(jobs), func(i int) error {
		if errs[i] = errUnseen; jobs[i] != nil && jobs[i].placed != nil {
			made[i], errs[i] = in.afterOn(ctx, d, jobs[i])
		}
		return nil // the other one is done all the same
	})
	in.seen = errors.Join(errs...) == nil
	for i, x := range made {
		if x != nil {
			in.made[jobs[i].side.Name] = x.Sum()
		}
	}
}

// errUnseen says that the next look has to tell what lies there.
var errUnseen = errors.New("not all of it is known")

// afterOn makes and stores the index of a side. The error says why there is none, or that it
// does not tell of all that lies there.
func (in *inspector) afterOn(ctx context.Context, d *desired, w *work) (*tree.Index, error) {
	before := w.snap.facts
	if w.plan.Whole {
		before = nil
	}
	again := map[Path]bool{}
	for _, o := range w.plan.Ops {
		again[o.Path] = true
	}
	look := func() (*tree.Tree, error) {
		if before == nil {
			return tree.Scan(ctx, w.side.FS, change.AppsDir, w.plan.Record)
		}
		return before.Tree.Again(ctx, again, w.plan.Record)
	}
	if w.side.live() && before != nil {
		for p := range d.take { // it may have been written since it was first read
			again[p] = true
		}
		for _, n := range before.Tree.Nodes {
			if w.snap.young(n) {
				again[n.Path] = true
			}
		}
	}
	now := in.at(w.side)
	t, err := look()
	if err == nil && w.side.live() && slices.ContainsFunc(t.Nodes, func(n *tree.Node) bool { return now.Young(n) }) {
		if err := in.r.wait(ctx, tree.Tick); err != nil {
			return nil, err // the change is made
		}
		now = in.at(w.side)
		t, err = look()
	}
	if err != nil {
		return nil, err
	}
	x, all := tree.After(t, before, w.plan.Record, w.plan.Body.Sum, w.placed, now)
	err = x.Store(w.side.FS, change.IndexFile, in.r.By)
	if err == nil && w.side.live() {
		// From here on the application writes in place, maybe under the stamps that were
		// captured: after a power cut only the index tells that from damage.
		err = change.SyncOwn(w.side.FS, change.IndexFile)
	}
	if err != nil {
		in.r.Log.WithField("side", w.side.Name).WithError(err).Debug("the index could not be written: files are read again next time")
	} else if !all {
		err = errUnseen
	}
	return x, err
}

// inPlace writes a side over what is there, for want of room: only while the
// other side is verified whole.
func (r *Reconciler) inPlace(ctx context.Context, in *inspector, w *work, src *sources, rec *record.Record) error {
	short, err := change.Shortage(w.side.FS, w.plan)
	if err != nil {
		return err
	}
	if err := r.whole(ctx, w.side.Name.Other(), rec); err != nil {
		return fmt.Errorf("%w; writing in place needs the other side whole: %w", short, err)
	}
	r.Log.WithField("side", w.side.Name).Warn("not enough space for two versions: writing in place; until that is done only the other side has the application")
	if w.change, err = change.BeginInPlace(w.side.FS, w.plan); err != nil {
		return err
	}
	rest := in.sources(slices.DeleteFunc(slices.Clone(src.snaps), func(s *Snapshot) bool { return s.Side == w.side.Name })...)
	return r.fill(ctx, w, rest)
}

// whole reports as an error that a side does not hold all of a record, every
// byte read. nil for rec means its own version.
func (r *Reconciler) whole(ctx context.Context, n SideName, rec *record.Record) error {
	in := newInspector(r, Options{Full: true})
	system, usrData, err := in.look(ctx, r.System, r.UsrData)
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

// The patience with an application that writes while it is captured.
const (
	moments   = 8                      // times that a capture is tried
	rest      = 50 * time.Millisecond  // between two tries; the later, the longer
	afterGone = 250 * time.Millisecond // how old the removal or emptying of a file has to be
)

// settle lets the stamps of what is captured grow so old that a further write
// gives another one.
func (in *inspector) settle(ctx context.Context, system *Snapshot, d *desired) error {
	if len(d.take) == 0 || system.facts == nil {
		return nil
	}
	now := in.r.Now().UnixNano()
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
	return in.r.wait(ctx, wait)
}

// moment makes sure that all that was captured was as it is from the first read
// to the last: files that belong together fit together.
func (in *inspector) moment(system *Snapshot, d *desired) error {
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
func (in *inspector) unrest(ctx context.Context, n int, p Path) error {
	if n+1 >= moments {
		in.restless[Path(path.Dir(string(p)))] = true
		return nil
	}
	return in.r.wait(ctx, rest*time.Duration(n+1))
}

// keepsCapture reports whether p keeps its last capture, because something beside it
// does not come to rest, because it does not fit, or because system cannot be written.
func (in *inspector) keepsCapture(p Path) bool {
	return in.frozen || in.restless[Path(path.Dir(string(p)))] || in.tooLarge(p)
}

// spares finds the largest configuration that usr_data has no room for, where err
// says that there is too little for all, and reports whether to try without it.
func (in *inspector) spares(w *work, err error) bool {
	var short *SpaceError
	if w.side.live() || !errors.As(err, &short) {
		return false
	}
	content := w.plan.Content()
	sort.Slice(content, func(i, j int) bool {
		a, b := content[i].Entry, content[j].Entry
		return a.Size > b.Size || a.Size == b.Size && a.Path < b.Path
	})
	bytes, entries := short.NeedBytes, short.NeedEntries
	fits := func() bool {
		return bytes <= short.FreeBytes && (short.FreeEntries < 0 || entries <= short.FreeEntries)
	}
	var spared []Path
	for _, f := range content {
		if fits() {
			break
		}
		if w.plan.Record.Captures(f.Entry) && !in.large[f.Path] {
			spared = append(spared, f.Path)
			bytes, entries = bytes-f.Size, entries-1
		}
	}
	if len(spared) == 0 || !fits() && w.plan.Tag { // a new version has to fit; else what is on system need not wait
		return false
	}
	for _, p := range spared {
		in.large[p] = true
	}
	in.short = short
	return true
}

// spared is the error of a reconciliation that left out configuration.
func (in *inspector) spared(large []Path) error {
	if len(large) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w: %s keeps the capture that it had, if any (%s in all); with it: %v", UsrData, ErrTooLarge, large[0], files(len(large)), in.short)
}

// tooLarge reports whether usr_data has no room for p, or for what it belongs to: a
// database that does not fit takes its journal with it.
func (in *inspector) tooLarge(p Path) bool {
	if in.large[p] || len(in.large) == 0 {
		return in.large[p]
	}
	for q := range in.large {
		a, b := string(p), string(q)
		if len(a) > len(b) {
			a, b = b, a
		}
		if rest, ok := strings.CutPrefix(b, a); ok && strings.IndexByte("-._~", rest[0]) >= 0 {
			return true
		}
	}
	return false
}
