package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"tandem/internal/fsys"
	"tandem/versioning"
)

// The reasons to refuse a version.
var (
	ErrDowngrade = errors.New("not newer than what is installed")
	ErrRevoked   = errors.New("revoked")
	// ErrInstalled says that the version is installed already.
	ErrInstalled = errors.New("installed already")
)

// InstallOptions says what an operator at the device asked for by name.
type InstallOptions struct {
	AllowDowngrade bool
	AllowRevoked   bool
	Reinstall      bool      // the installed version again
	Now            time.Time // modification time of files whose manifest has none
	// Pending lets the version wait to be confirmed.
	Pending bool
	// InPlace allows to write over what runs where there is no room beside it.
	// The caller has read the whole bundle before and found it good.
	InPlace  bool
	UID, GID int // owner of all files where Tandem may not choose; below 0 means as the manifest says
}

// Install is a release on its way onto system. It ends with Commit or Discard.
type Install struct {
	r       *Reconciler
	st      *staging
	from    map[Path]*Entry      // a default of the release that is taken → the entry that its content becomes
	bad     []versioning.Version // revoked now
	before  []versioning.Version // to be revoked before the commit
	after   []versioning.Version // to be revoked after it
	release *Manifest
	pending *Pending  // to be written before the commit; nil if it need not be confirmed
	old     *Manifest // what system ran when the installation began
	New     []Path    // defaults put beside configuration that was edited here
}

// Admit says whether m may be installed, and gives the version that it
// follows: zero on a device without an application, or with nothing that could
// be saved. Only for a release that may be installed does it change anything:
// it finishes what was interrupted, and where system lacks what usr_data has,
// or will be written in place, it reconciles first, so that the release meets
// the device's configuration and none of that is on system alone.
//
// The error wraps ErrDowngrade, ErrInstalled or ErrRevoked for a release that may not.
func (r *Reconciler) Admit(ctx context.Context, m *Manifest, o InstallOptions) (versioning.Version, error) {
	res, err := r.Look(ctx, Options{})
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
	case o.InPlace, a == Restore, a == Repair, a == RestoreConfig:
		if _, err := r.Reconcile(ctx, Options{Running: true}); err != nil && !errors.Is(err, ErrDamage) && !errors.Is(err, ErrNoApplication) {
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
		return fmt.Errorf("%w: %s is %w", ErrDowngrade, m.Version, ErrInstalled)
	}
	return fmt.Errorf("%w: the bundle has %s, the device %s", ErrDowngrade, m.Version, installed)
}

// BeginInstall prepares the release m on system beside what runs: it works out
// what configuration to keep, checks the room, and stages all that is on the
// device already. Content that is not has to be given by Put.
//
// After an error or a power cut the sides are as they were.
func (r *Reconciler) BeginInstall(ctx context.Context, m *Manifest, o InstallOptions) (*Install, error) {
	for range rounds {
		in, err := r.beginInstall(ctx, m, o)
		var stale *staleError
		if errors.As(err, &stale) {
			r.Log.WithField("file", stale.path).Info("changed while it was copied; copying it again")
			continue
		}
		return in, err
	}
	return nil, fmt.Errorf("%s: files keep changing while they are copied: stop the application first", System)
}

func (r *Reconciler) beginInstall(ctx context.Context, m *Manifest, o InstallOptions) (*Install, error) {
	in := newInspector(r.now(), Options{})
	system, usrData, err := in.look(ctx, r.System, r.UsrData)
	if err != nil {
		return nil, err
	}
	if system.State == Unavailable {
		return nil, fmt.Errorf("%w: %s", ErrUnavailable, system.Detail)
	}
	i := &Install{r: r, release: m}
	if o.Pending {
		i.pending = &Pending{Version: m.Version, Previous: system.Version}
	}
	record, err := i.merge(ctx, in, system, o)
	if err != nil {
		return nil, err
	}
	record.Revision = max(system.Revision, usrData.Revision) + 1
	bad, err := r.Revoked()
	if err != nil {
		return nil, err
	}
	i.judge(bad, system, usrData)

	i.st, err = planStaging(ctx, r.System, system, record, in.buf)
	if err != nil {
		return nil, err
	}
	i.st.awaited = i.brings
	if err = i.st.begin(); errors.As(err, new(*SpaceError)) {
		err = r.beginTight(ctx, i.st, err, o)
	}
	if err == nil {
		err = i.st.fill(ctx, newSources(system, usrData))
	}
	if err != nil {
		_ = i.st.discard() // makes room; where it fails, recovery does it
		return nil, sideError(r.System, err)
	}
	return i, nil
}

// beginTight begins an installation for which there is not enough room beside
// what runs.
func (r *Reconciler) beginTight(ctx context.Context, st *staging, short error, o InstallOptions) error {
	var space *SpaceError
	errors.As(short, &space)
	return st.tight(ctx, space, r.Log, func() error {
		if !o.InPlace {
			return fmt.Errorf("%w: %w", ErrInPlace, short)
		}
		if err := r.whole(ctx, UsrData, nil); err != nil {
			return fmt.Errorf("%w; writing in place needs the other side whole: %v", short, err)
		}
		return nil
	})
}

// judge works out which versions are revoked before this one is installed, and
// after: itself is not, but all that an operator went back from are, or boot
// would return to them.
func (i *Install) judge(bad []versioning.Version, sides ...*Snapshot) {
	i.before = versioning.Without(bad, i.release.Version)
	i.after = slices.Clone(i.before)
	for _, s := range sides {
		if s.usable() && s.Version.Compare(i.release.Version) > 0 && !s.Version.In(i.after) {
			i.after = append(i.after, s.Version)
		}
	}
	i.bad = bad
}

// merge makes the record of the release on this device: its application files,
// and configuration merged three ways from the old default, what is here, and
// the new default.
func (i *Install) merge(ctx context.Context, in *inspector, system *Snapshot, o InstallOptions) (*Record, error) {
	r := &Record{Manifest: *i.release}
	r.Manifest.Files = make([]*Entry, len(i.release.Files))
	i.from = make(map[Path]*Entry)
	var old Manifest
	i.old = &old
	if system.basis != nil {
		old = system.basis.Manifest
	}
	config := map[Path]*Entry{}

	for k, shipped := range i.release.Files {
		e := shipped.recorded(o)
		if !matchAny(r.Manifest.Config, e.Path) {
			var err error
			if r.Manifest.Files[k], err = i.takeNew(ctx, in, system, e); err != nil {
				return nil, err
			}
			continue
		}
		r.Manifest.Files[k] = e
		here, err := in.local(ctx, system, e.Path)
		if err != nil {
			return nil, err
		}
		def := findEntry(old.Files, e.Path)
		switch {
		case here == nil, matchAny(r.Manifest.Replace, e.Path), here.Type == Dir && e.Type == Dir:
			config[e.Path] = e
			i.from[e.Path] = e
		case sameContent(here, e):
			config[e.Path] = here
		case def != nil && sameContent(here, def): // never edited here
			config[e.Path] = e
			i.from[e.Path] = e
		case def != nil && sameContent(def, e): // edited here, the same release after release
			config[e.Path] = here
		default:
			config[e.Path] = here
			beside := *e
			beside.Path += ".new"
			config[beside.Path] = &beside
			i.from[e.Path] = &beside
			i.New = append(i.New, beside.Path)
		}
	}

	var present []*found
	if system.tree != nil {
		present = system.tree.found
	}
	for _, f := range present {
		p := f.path
		if config[p] != nil || r.Manifest.isIgnored(p) || matchAny(r.Manifest.Remove, p) {
			continue
		}
		def := findEntry(old.Files, p)
		wasApp := def != nil && !matchAny(old.Config, p)
		if r.Manifest.knows(p) || wasApp {
			continue
		}
		here, err := in.local(ctx, system, p)
		if err != nil {
			return nil, err
		}
		if here == nil || def != nil && sameContent(here, def) && here.Type != Dir {
			continue // a default that is shipped no longer, and was never edited
		}
		config[p] = here
	}
	if err := in.addParents(ctx, system, config, &r.Manifest); err != nil {
		return nil, err
	}
	for _, e := range config {
		r.Config = append(r.Config, system.own.shares(in.captured(e)))
	}
	slices.SortFunc(r.Config, byPath)
	dropOrphans(r)
	return r, nil
}

// recorded is a release's entry as it is recorded on this device.
func (shipped *Entry) recorded(o InstallOptions) *Entry {
	if o.UID < 0 && shipped.Mtime != 0 {
		return shipped
	}
	e := *shipped
	if o.UID >= 0 {
		e.UID, e.GID = o.UID, o.GID
	}
	if e.Mtime == 0 {
		e.Mtime = o.Now.UnixNano()
	}
	return &e
}

// takeNew gives an application file as the release has it. Where the device
// has it unchanged, it stays as it is, its time included: only what changed is
// written.
func (i *Install) takeNew(ctx context.Context, in *inspector, system *Snapshot, e *Entry) (*Entry, error) {
	if e.Type != File || findEntry(i.old.Files, e.Path) == nil {
		return e, nil
	}
	m, err := system.holds(ctx, e, in.buf)
	if err != nil || m != matches {
		return e, err
	}
	stays := *e
	stays.Mtime = system.tree.get(e.Path).mtime
	return system.own.shares(&stays), nil
}

// local describes what lies at p on a side now; nil if there is nothing that
// could be kept. A hard link is described as a file of its own, since the file
// that it shares may not stay.
func (in *inspector) local(ctx context.Context, s *Snapshot, p Path) (*Entry, error) {
	f := s.tree.get(p)
	if f == nil || f.err() != nil || f.kind == kindOther {
		return nil, nil
	}
	e, err := s.tree.entry(ctx, f, true, in.buf)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &staleError{s.Side, p, err}
	}
	return e, nil
}

// addParents keeps the directories of what is kept.
func (in *inspector) addParents(ctx context.Context, s *Snapshot, config map[Path]*Entry, release *Manifest) error {
	for p := range config {
		for dir := path.Dir(string(p)); dir != "."; dir = path.Dir(dir) {
			d := Path(dir)
			if config[d] != nil || release.knows(d) {
				continue
			}
			here, err := in.local(ctx, s, d)
			if err != nil {
				return err
			}
			if here != nil && here.Type == Dir {
				config[d] = here
			}
		}
	}
	return nil
}

// brings says whether the content of a wanted file comes from the release.
func (i *Install) brings(e *Entry) bool {
	if !matchAny(i.release.Config, e.Path) && i.release.knows(e.Path) {
		return true
	}
	for _, p := range []Path{e.Path, Path(strings.TrimSuffix(string(e.Path), ".new"))} {
		if to := i.from[p]; to != nil && to.Path == e.Path {
			return true
		}
	}
	return false
}

// target gives the wanted file that the content of the release's file p
// becomes; nil if it is not needed.
func (i *Install) target(p Path) *Entry {
	to := p
	if e := i.from[p]; e != nil {
		to = e.Path
	}
	if w := i.st.wants(to); w != nil && i.brings(w.Entry) {
		return w.Entry
	}
	return nil
}

// Wants says whether the content of the release's file p is needed.
func (i *Install) Wants(p Path) bool { return i.target(p) != nil }

// Bytes says how much content has to be given.
func (i *Install) Bytes() int64 {
	var n int64
	for _, w := range i.st.wanted {
		if i.brings(w.Entry) {
			n += w.Size
		}
	}
	return n
}

// Put stages the content of the release's file p. Content that is Verified is
// not hashed once more.
func (i *Install) Put(ctx context.Context, p Path, content io.Reader) error {
	e := i.target(p)
	if e == nil {
		return fmt.Errorf("%w: %s: content that nobody asked for", ErrInvalid, p)
	}
	return sideError(i.r.System, i.st.give(ctx, e, content))
}

// refresh copies once more what the application wrote since the installation
// began: many save their configuration when they are stopped.
func (i *Install) refresh(ctx context.Context) error {
	if i.st.patch != nil || i.st.snap.tree == nil {
		return nil // written in place, where the application writes too
	}
	now, err := scan(ctx, i.st.side.FS, i.st.snap.tree.root, i.st.record)
	if err != nil {
		return err
	}
	for _, f := range now.found {
		p := f.path
		if !i.release.isConfig(p) || f.kind == kindOther || matchAny(i.release.Remove, p) || matchAny(i.release.Replace, p) {
			continue
		}
		if i.old.knows(p) && !matchAny(i.old.Config, p) {
			continue // an application file of the old release
		}
		if before := i.st.snap.tree.get(p); before != nil && (f.kind == kindDir || f.same(before)) {
			continue
		}
		e, err := now.entry(ctx, f, true, i.st.buf)
		if err != nil {
			return err
		}
		if err := i.replace(ctx, now, e); err != nil {
			return err
		}
	}
	return nil
}

// replace stages what now lies at the path of e instead of what was staged
// there. A default of the release that it displaces goes beside it.
func (i *Install) replace(ctx context.Context, now *tree, e *Entry) error {
	fs, name := i.st.side.FS, i.st.staged(e.Path)
	if _, err := fs.Lstat(name); err == nil {
		shipped := i.from[e.Path]
		if shipped != nil && shipped.Path == e.Path && shipped.Type == File && e.Type == File && !sameContent(shipped, e) && !i.sameDefault(e.Path, shipped) {
			beside := *shipped
			beside.Path += ".new"
			if err := fsys.RemoveAll(fs, i.st.staged(beside.Path)); err != nil {
				return err
			}
			if err := fs.Rename(name, i.st.staged(beside.Path)); err != nil {
				return err
			}
			i.setConfig(&beside)
			i.New = append(i.New, beside.Path)
		} else if err := fsys.RemoveAll(fs, name); err != nil {
			return err
		}
	}
	i.setConfig(e)
	switch e.Type {
	case Dir:
		return fs.Mkdir(name, 0o700)
	case Symlink:
		return i.st.symlink(e)
	}
	f, err := now.fs.Open(now.name(e.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	return i.st.give(ctx, e, f)
}

// sameDefault says whether the old release shipped the same default at p.
func (i *Install) sameDefault(p Path, shipped *Entry) bool {
	old := findEntry(i.old.Files, p)
	return old != nil && sameContent(old, shipped)
}

func (i *Install) setConfig(e *Entry) {
	c := *e
	c.Fresh = e.Type == File // it was written a moment ago
	i.st.record.Config = overlay(i.st.record.Config, map[Path]*Entry{c.Path: &c})
}

// Commit makes the release the version of system. Configuration that was
// written since the installation began is taken along.
//
// After success it is, also after a power cut; usr_data still has the old
// version until Reconcile. After an error or a power cut system holds either
// the old version or the new one, whole; a downgrade that was cut short is
// undone by the next Reconcile.
func (i *Install) Commit(ctx context.Context) error {
	if err := i.refresh(ctx); err != nil {
		return sideError(i.r.System, err)
	}
	if len(i.before) < len(i.bad) { // or boot would turn away from it at once
		if err := i.r.setRevoked(i.before); err != nil {
			return err
		}
	}
	if i.pending != nil { // before the version is there: it never runs unwatched
		if err := i.r.SetPending(*i.pending); err != nil {
			return err
		}
	}
	if _, err := i.st.seal(ctx); err != nil {
		return sideError(i.r.System, err)
	}
	// Not before: until here the device may still go back to what it had.
	if len(i.after) > len(i.before) {
		return i.r.setRevoked(i.after)
	}
	return nil
}

// Discard forgets what was staged. Nothing else was touched.
func (i *Install) Discard() error { return i.st.discard() }

// Bump makes what lies on system a new version: it writes the tag, the rest is
// Reconcile's. The error wraps ErrDowngrade if v is not higher than what
// either side has.
//
// After a power cut the tag is the old one or the new one; the next Reconcile
// takes it from there.
func (r *Reconciler) Bump(ctx context.Context, next func(versioning.Version) (versioning.Version, error)) (versioning.Version, error) {
	if _, err := r.Recover(); err != nil {
		return versioning.Version{}, err
	}
	in := newInspector(r.now(), Options{})
	system, usrData, err := in.look(ctx, r.System, r.UsrData)
	if err != nil {
		return versioning.Version{}, err
	}
	if system.tree.empty() {
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
	if v.Compare(highest) <= 0 {
		return versioning.Version{}, fmt.Errorf("%w: %s is not higher than %s", ErrDowngrade, v, highest)
	}
	if err := versioning.WriteTag(r.System.FS, tagFile, v); err != nil {
		return versioning.Version{}, sideError(r.System, err)
	}
	return v, nil
}
