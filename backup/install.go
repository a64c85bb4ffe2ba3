package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/tree"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// The reasons to refuse a version.
var (
	ErrDowngrade = errors.New("not newer than what is installed")
	ErrRevoked   = errors.New("revoked")
	// ErrInstalled says that the version is installed already.
	ErrInstalled = errors.New("installed already")
	// ErrInPlace says that a release fits only when it is written over what is
	// there. It wraps ErrNoSpace.
	ErrInPlace = fmt.Errorf("%w for two versions", ErrNoSpace)
)

// Install is a release on its way onto system, and onto usr_data in the same
// pass where that is asked for. It ends with Commit or Discard.
type Install struct {
	r       *Reconciler
	job     *job
	o       InstallOptions
	release *Manifest
	from    versioning.Version // that runs
	system  *work
	usrData *work // nil where usr_data follows later
	merged  *merged
	src     *sources
	bad     []versioning.Version // revoked now
	before  []versioning.Version // to be revoked before the commit
	after   []versioning.Version // to be revoked after it
	pending *Pending             // to be written before the commit; nil if it need not be confirmed
	New     []Path               // defaults put beside configuration that was edited here
	Kept    []Path               // configuration that had to make way, and lies beside now
}

// Admit finds out whether m may be installed, and returns the version that it
// follows: zero on a device without an application, or with nothing that could
// be saved. Only for a release that may be installed does it change anything:
// it finishes what was interrupted, and where the sides are not in step, or system
// will be written in place, it reconciles first, so that the release meets the
// device's configuration, and a rollback finds it as it was.
//
// The error wraps ErrDowngrade, ErrInstalled or ErrRevoked for a release that may not.
func (r *Reconciler) Admit(ctx context.Context, m *Manifest, o InstallOptions) (versioning.Version, error) {
	res, err := r.inspect(ctx)
	var installed versioning.Version
	switch {
	case err == nil:
		installed = res.Version
	case !errors.Is(err, ErrNoApplication) && !errors.Is(err, ErrDamage):
		return installed, err
	}
	if err := r.permits(m, installed, o); err != nil {
		return installed, err
	}
	if _, err := r.Recover(); err != nil {
		return installed, err
	}
	switch a := res.Decision.Action; {
	case o.InPlace, a == Restore, a == Repair, a == RestoreConfig, a == Capture:
		if _, err := r.Reconcile(ctx, Options{}); err != nil && !errors.Is(err, ErrDamage) && !errors.Is(err, ErrNoApplication) && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrTooLarge) {
			return installed, err
		}
	}
	return installed, nil
}

func (r *Reconciler) permits(m *Manifest, installed versioning.Version, o InstallOptions) error {
	bad, err := r.Revoked()
	if err != nil {
		return err
	}
	if m.Version.In(bad) && !o.AllowRevoked {
		return fmt.Errorf("%w: %s failed here or was taken back", ErrRevoked, m.Version)
	}
	switch c := m.Version.Compare(installed); {
	case installed.IsZero(), c > 0, o.AllowDowngrade, c == 0 && (installed.In(bad) || o.Reinstall):
		return nil
	case c == 0:
		return fmt.Errorf("%w: %s is %w", ErrDowngrade, installed, ErrInstalled)
	}
	return fmt.Errorf("%w: the bundle has %s, the device %s", ErrDowngrade, m.Version, installed)
}

// BeginInstall prepares the release m on system beside what runs: it works out
// what configuration to keep, checks the room, and stages all that is on the
// device already. Content that is not has to be given by Put.
//
// After an error or a power cut the sides are as they were. The error wraps
// ErrBlocked where something stands in the way, and ErrInPlace or ErrNoSpace
// where there is too little room.
func (r *Reconciler) BeginInstall(ctx context.Context, m *Manifest, o InstallOptions) (*Install, error) {
	j := newJob(r, Options{})
	for {
		i, err := r.beginInstall(ctx, j, m, o, j.tries+1 == moments)
		if again, err := j.again(ctx, err); !again {
			return i, err
		}
	}
}

// beginInstall is one try of BeginInstall. The last one does not wait for what is
// being written.
func (r *Reconciler) beginInstall(ctx context.Context, j *job, m *Manifest, o InstallOptions, last bool) (*Install, error) {
	system, usrData, err := j.snapshots(ctx)
	if err != nil {
		return nil, err
	}
	if err := available(system, usrData); err != nil {
		return nil, err
	}
	if len(system.Busy) > 0 && !last {
		return nil, &staleError{System, system.Busy[0], errors.New("is being written")}
	}
	bad, err := r.Revoked()
	if err != nil {
		return nil, err
	}
	i := &Install{r: r, job: j, o: o, release: m, from: system.Version, bad: bad, src: j.sources(system, usrData)}
	i.verdicts(system, usrData)
	if o.Pending {
		i.pending = &Pending{Version: m.Version, Previous: system.Version}
	}
	if err := i.plan(system, usrData, nil); err != nil {
		return nil, err
	}
	if err := i.stage(ctx, last); err != nil {
		return nil, errors.Join(err, i.Discard())
	}
	return i, nil
}

// plan works out what both sides lack. can tells which defaults of the release can
// be had; nil is all.
func (i *Install) plan(system, usrData *Snapshot, can func(*manifest.Entry) bool) error {
	i.merged = merge(i.release, system, i.o, can)
	i.merged.record.Revision = max(system.Revision, usrData.Revision) + 1
	i.New, i.Kept = i.merged.beside, i.merged.kept
	d := &desired{record: i.merged.record}
	var err error
	if i.system, err = i.job.plan(i.r.System, system, d, UsrData); err != nil {
		return sideError(i.r.System, err)
	}
	i.usrData = nil
	if i.o.Both && !i.o.InPlace && usrData.usable() && !usrData.Nested {
		if i.usrData, err = i.job.plan(i.r.UsrData, usrData, d, System); err != nil {
			i.usrData = nil // it follows later, and tells
		}
	}
	return nil
}

// stage stages what is on the device already. The last try leaves usr_data for later
// where that copies what does not come to rest.
func (i *Install) stage(ctx context.Context, last bool) error {
	if err := i.begin(ctx, i.system, last); err != nil {
		return sideError(i.r.System, err)
	}
	if i.usrData == nil {
		return nil
	}
	if err := i.begin(ctx, i.usrData, last); err != nil {
		var stale *staleError
		if errors.As(err, &stale) && !last || ctx.Err() != nil {
			return err
		}
		i.r.Log.WithError(err).Info("usr_data follows once system is done")
		i.dropUsrData()
	}
	return nil
}

func (i *Install) dropUsrData() {
	if i.usrData != nil && i.usrData.change != nil {
		_ = i.usrData.change.Discard() // makes room; where it fails, the next change does it
	}
	i.usrData = nil
}

func (i *Install) begin(ctx context.Context, w *work, last bool) error {
	if ctx.Err() != nil { // to plan takes a while where there are many files and patterns
		return ctx.Err()
	}
	c, err := change.Begin(w.side.FS, w.plan)
	var short *SpaceError
	if errors.As(err, &short) && w.side.live() {
		c, err = i.beginTight(ctx, w, short)
	}
	if err != nil {
		return err
	}
	w.change = c
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return i.fill(ctx, w, last)
}

// fill stages what is on the device already, under whatever name: of the release
// that is what Lacks leaves out. The last try leaves all of that to the release.
func (i *Install) fill(ctx context.Context, w *work, last bool) error {
	for _, f := range w.change.Wanted() {
		if i.brings(f.Entry) && (last || !i.src.has(w.side.Name, f.Entry)) {
			continue
		}
		if err := i.src.copy(ctx, w.side.Name, w.change, f); err != nil {
			return err
		}
	}
	return nil
}

// beginTight begins an installation for which there is not enough room beside
// what runs.
func (i *Install) beginTight(ctx context.Context, w *work, short *SpaceError) (*change.Change, error) {
	fs := w.side.FS
	c, err := i.job.givePrevious(w, i.src, short)
	if !errors.As(err, &short) {
		return c, err
	}
	if fits, err := change.Fits(fs, w.plan, true); err != nil {
		return nil, err
	} else if !fits || w.snap.facts == nil || w.snap.Nested {
		return nil, short
	}
	if !i.o.InPlace {
		return nil, fmt.Errorf("%w: %w", ErrInPlace, short)
	}
	if err := i.r.whole(ctx, UsrData, nil); err != nil {
		return nil, fmt.Errorf("%w; writing in place needs the other side whole: %v", short, err)
	}
	i.r.Log.WithField("side", w.side.Name).Warn("not enough space for two versions: writing in place; until that is done only the other side has the application")
	i.src = i.job.sources(slices.DeleteFunc(slices.Clone(i.src.snaps), func(s *Snapshot) bool { return s.Side == System })...)
	return change.BeginInPlace(fs, w.plan)
}

// verdicts works out which versions are revoked before this one is installed,
// and after: itself is not, but all that an operator went back from are, or boot
// would return to them.
func (i *Install) verdicts(sides ...*Snapshot) {
	i.before = versioning.Without(i.bad, i.release.Version)
	i.after = slices.Clone(i.before)
	for _, s := range sides {
		if s.usable() && s.Version.Compare(i.release.Version) > 0 && !s.Version.In(i.after) {
			i.after = append(i.after, s.Version)
		}
	}
}

// brings reports whether the content of an entry comes from the release.
func (i *Install) brings(e *manifest.Entry) bool { return i.merged.brings(e.Path) }

// Wants reports whether the content of the release's file p is needed.
func (i *Install) Wants(p Path) bool {
	to := i.merged.to(p)
	if to == nil {
		return false
	}
	for _, w := range i.works() {
		if w.change.Wants(to.Path) {
			return true
		}
	}
	return false
}

func (i *Install) works() []*work {
	if i.usrData == nil {
		return []*work{i.system}
	}
	return []*work{i.system, i.usrData}
}

// Bytes returns how much content has to be given.
func (i *Install) Bytes() int64 {
	var all []change.Content
	for _, w := range i.works() {
		all = append(all, w.plan.Content()...)
	}
	sort.Slice(all, func(a, b int) bool { return all[a].Path < all[b].Path })
	var n int64
	for k, f := range all {
		if i.brings(f.Entry) && (k == 0 || all[k-1].Path != f.Path) {
			n += f.Size
		}
	}
	return n
}

// Put stages the content of the release's file p, on both sides in one pass.
// Content that is Verified is not hashed once more.
func (i *Install) Put(ctx context.Context, p Path, content io.Reader) error {
	to := i.merged.to(p)
	if to == nil || !i.Wants(p) {
		return fmt.Errorf("%w: %s: content that nobody asked for", manifest.ErrInvalid, p)
	}
	var targets []*change.Change
	for _, w := range i.works() {
		if w.change.Wants(to.Path) {
			targets = append(targets, w.change)
		}
	}
	err := change.PutAll(ctx, targets, to.Path, content, func(c *change.Change, err error) error {
		if i.usrData == nil || c != i.usrData.change {
			return err
		}
		i.r.Log.WithError(err).Info("usr_data follows once system is done")
		i.dropUsrData()
		return nil
	})
	return sideError(i.r.System, err)
}

// refresh takes along what was written since the installation began: many
// applications save their configuration when they are stopped. Content that is
// staged already is kept.
func (i *Install) refresh(ctx context.Context) error {
	if i.o.InPlace || i.system.snap.facts == nil {
		return nil
	}
	for n := range moments {
		now, err := tree.Scan(ctx, i.system.snap.facts.Tree.FS, i.system.snap.facts.Tree.Root)
		if err != nil {
			return err
		}
		if n == 0 && i.system.snap.facts.Moved(now, nil) == "" {
			return nil
		}
		err = i.restage(ctx)
		var stale *staleError
		if !errors.As(err, &stale) {
			return err // what is written from now on is found by the commit
		}
		i.job.suspects[stale.side][stale.path] = true
		if err := i.r.wait(ctx, rest); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: files keep changing while they are copied: stop the application first", ErrBusy)
}

// restage looks again, merges again, and stages what that adds.
func (i *Install) restage(ctx context.Context) error {
	system, usrData, err := i.job.snapshots(ctx)
	if err != nil {
		return err
	}
	if system.err != nil || usrData.err != nil {
		return errors.Join(system.err, usrData.err)
	}
	was := map[SideName]*change.Change{}
	for _, w := range i.works() {
		was[w.side.Name] = w.change
	}
	staged := map[digest.SHA256]bool{} // of the bundle, which is read already
	i.system.change.Staged(func(sum digest.SHA256) { staged[sum] = true })
	both := i.usrData != nil
	i.src = i.job.sources(system, usrData)
	can := func(e *manifest.Entry) bool { return staged[*e.SHA256] || i.src.has(System, e) }
	if err := i.plan(system, usrData, can); err != nil {
		return err
	}
	if !both {
		i.usrData = nil
	}
	for _, w := range i.works() { // all of them, since the loop may end early and be run again
		w.change = was[w.side.Name]
	}
	for _, w := range i.works() {
		if w.change, err = w.change.Restage(w.plan); err != nil {
			return sideError(w.side, err)
		}
		for _, f := range w.change.Wanted() {
			err := i.src.copy(ctx, w.side.Name, w.change, f)
			if err != nil && w == i.usrData && ctx.Err() == nil {
				i.dropUsrData() // it follows once system is done
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Commit makes the release the version of system, and then of usr_data if it was
// staged there, too. Configuration that was written since the installation began
// is taken along.
//
// After success it is, also after a power cut; where usr_data was not staged it
// has the old version until Reconcile. After an error or a power cut each side
// holds either the old version or the new one, whole; a downgrade that was cut
// short is undone by the next Reconcile.
func (i *Install) Commit(ctx context.Context) error {
	if err := i.refresh(ctx); err != nil {
		return errors.Join(sideError(i.r.System, err), i.Discard())
	}
	if v, err := versioning.ReadTag(i.r.System.FS, change.TagFile); err == nil && v.String() != i.from.String() {
		err = fmt.Errorf("the tag was changed from %s to %s while %s was on its way: nothing is installed", i.from, v, i.release.Version)
		return errors.Join(sideError(i.r.System, err), i.Discard())
	}
	stands, err := i.stands()
	if err != nil {
		return errors.Join(err, i.Discard())
	}
	if len(i.before) < len(i.bad) || len(stands) > 0 { // or boot would turn away from it at once
		if err := i.note(func() error { return i.r.setRevoked(i.before, stands...) }); err != nil {
			return err
		}
	}
	if i.pending != nil { // before the version is there: it never runs unwatched
		if err := i.note(func() error { return i.r.SetPending(*i.pending) }); err != nil {
			return err
		}
	}
	d := &desired{record: i.merged.record}
	defer func() { i.job.after(ctx, d, i.system, i.usrData) }()
	if _, err := i.job.commit(ctx, i.system, d, i.src); err != nil {
		i.dropUsrData()
		return sideError(i.r.System, err)
	}
	if i.usrData != nil {
		i.job.announce(i.usrData)
		if _, err := i.job.commit(ctx, i.usrData, d, i.src); err != nil {
			i.r.Log.WithError(sideError(i.r.UsrData, err)).Warn("usr_data does not have the release yet") // Reconcile says what came of it
		}
	}
	// Not before: until here the device may still go back to what it had.
	if len(i.after) > len(i.before) {
		return i.r.setRevoked(i.after)
	}
	return nil
}

// note writes a file of ours on both sides. Where usr_data is so full that it cannot take
// even that, what it kept for a rollback goes: system keeps that, too.
func (i *Install) note(write func() error) error {
	err := write()
	if i.usrData != nil || !errors.Is(err, ErrNoSpace) {
		return err
	}
	if freed, dropped := i.r.giveUp(i.r.UsrData, i.src); !freed || dropped != nil {
		return err
	}
	return write()
}

// stands returns the release, where a person wants it though it may be revoked and
// that is not noted yet: no recall takes it from the device then.
func (i *Install) stands() ([]digest.SHA256, error) {
	if !i.o.AllowRevoked || i.release.Release.IsZero() {
		return nil, nil
	}
	noted, err := i.r.Returned(i.release.Release)
	if noted || err != nil {
		return nil, err
	}
	return []digest.SHA256{i.release.Release}, nil
}

// Discard forgets what was staged. Nothing else was touched.
func (i *Install) Discard() error {
	i.dropUsrData()
	if i.system == nil || i.system.change == nil {
		return nil
	}
	err := i.system.change.Discard()
	i.system.change = nil
	return err
}

// Bump makes what lies on system a new version: it writes the tag, the rest is
// Reconcile's. The error wraps ErrDowngrade if v is not higher than what
// either side has, and ErrRevoked if it is revoked: the next boot would turn
// away from it.
//
// After a power cut the tag is the old one or the new one; the next Reconcile
// takes it from there.
func (r *Reconciler) Bump(ctx context.Context, next func(versioning.Version) (versioning.Version, error)) (versioning.Version, error) {
	if _, err := r.Recover(); err != nil {
		return versioning.Version{}, err
	}
	system, usrData, err := newJob(r, Options{}).snapshots(ctx)
	if err != nil {
		return versioning.Version{}, err
	}
	if err := available(system, usrData); err != nil {
		return versioning.Version{}, err
	}
	if system.facts == nil || system.facts.Tree.Empty() {
		return versioning.Version{}, fmt.Errorf("%w: nothing lies on %s that could become a version", ErrNoApplication, System)
	}
	highest := system.Version
	if usrData.usable() && usrData.Version.Compare(highest) > 0 {
		highest = usrData.Version
	}
	v, err := next(highest)
	if err != nil {
		return versioning.Version{}, err
	}
	bad, err := r.Revoked()
	switch {
	case err != nil:
		return versioning.Version{}, err
	case v.Compare(highest) <= 0:
		return versioning.Version{}, fmt.Errorf("%w: %s is not higher than %s", ErrDowngrade, v, highest)
	case v.In(bad):
		return versioning.Version{}, fmt.Errorf("%w: %s failed here or was taken back: choose another version, or unrevoke it", ErrRevoked, v)
	}
	err = r.System.FS.Sync() // the tag names what lies there
	if err == nil {
		err = versioning.WriteTag(r.System.FS, change.TagFile, v)
	}
	if err != nil {
		return versioning.Version{}, sideError(r.System, err)
	}
	return v, nil
}

// CouldHold reports as an error that a side could not hold a version of so many
// bytes at all, were it written over what is there: what is not worth downloading
// is not downloaded. The error wraps ErrNoSpace.
func (r *Reconciler) CouldHold(name SideName, bytes int64) error {
	side := r.side(name)
	if side.ready() != nil {
		return nil // that is told elsewhere
	}
	space, err := side.FS.Space()
	if err != nil {
		return sideError(side, err)
	}
	have := space.Free
	for _, dir := range []string{change.AppsDir, change.OwnDir} {
		n, err := change.Allocated(side.FS, dir)
		if err != nil && !errors.Is(err, fsys.ErrElsewhere) {
			return sideError(side, err)
		}
		have += n
	}
	if bytes > have {
		return sideError(side, &SpaceError{Path: side.FS.Path("."), NeedBytes: bytes, FreeBytes: have, FreeEntries: -1})
	}
	return nil
}
