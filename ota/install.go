package ota

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/versioning"
)

// ErrIncompatible says that a bundle is for other hardware or another application.
var ErrIncompatible = errors.New("for another device")

// Installer installs bundles on system.
type Installer struct {
	Reconciler *backup.Reconciler
	Trust      trust.Options
	App        string
	Compatible []string
	// Firmware takes the bundles of that kind, by the app that they name. It
	// reads r to its end and keeps what it holds for the device's handler,
	// durably, and gives the version that is installed.
	Firmware map[string]func(ctx context.Context, r *bundle.Reader) (from versioning.Version, err error)
	// Program takes the bundles that carry Tandem itself, as Firmware does those of
	// a firmware; nil where Tandem does not keep itself. They are for Arch. Own is
	// what a delta bundle of them may build on; it may be nil.
	Program  func(ctx context.Context, r *bundle.Reader) (from versioning.Version, err error)
	Arch     string
	Own      bundle.Base
	Log      logrus.FieldLogger
	Progress backup.Progress // may be nil
	// PreInstall is asked once the bundle's manifest was checked, Stop when all
	// that is left is the commit. Their errors end the installation; nothing
	// is changed then. Both may be nil.
	PreInstall func(ctx context.Context, from, to versioning.Version) error
	Stop       func(ctx context.Context, from, to versioning.Version) error
	// Complete gets, of a bundle that is here in part, those frames that hold the
	// files which want names. nil: what is not here cannot be had.
	Complete func(ctx context.Context, want func(backup.Path) bool) error
	// Lacks tells what such a bundle has; it goes with Complete.
	Lacks Lacks
	// Rest gets the whole bundle of the release that a delta bundle makes, or
	// those frames of it that hold what want names; nil stands for what the device
	// lacks. It may be nil: then a delta bundle that does not apply is an error.
	Rest func(ctx context.Context, want func(backup.Path) bool) (open func() (io.ReadCloser, error), err error)
	// Release is what the bundle must be; zero: whatever it is.
	Release digest.SHA256
	// KeepRoot durably remembers a newer root that a bundle brought along.
	KeepRoot func(root []byte) error
}

// Installed says what an installation did.
type Installed struct {
	Kind    release.Kind // of others than App only App, From and Version are told: its handler has yet to run
	App     string
	From    versioning.Version // zero on a device without an application
	Version versioning.Version
	Bytes   int64         // of new content that was written
	InPlace bool          // there was no room for old and new at once
	New     []backup.Path // defaults put beside configuration that was edited here
	Kept    []backup.Path // configuration that had to make way, and lies beside now
}

// Install reads a bundle, checks it, and makes it the version of system. The
// backup is the caller's: it runs the reconciler next.
//
// open returns the bundle from its beginning. It is asked a second time only
// where there is no room for the new version beside the old one: then the whole
// bundle is read and checked before anything is written over. A source that can
// be read only once gives an error then.
//
// After success system is the new version, also after a power cut. After an
// error or a power cut it is the old one or the new one, whole; or, written in
// place, an unfinished copy, which the reconciler replaces from usr_data. Errors
// wrap trust.ErrUntrusted, bundle.ErrMalformed, ErrIncompatible,
// backup.ErrDowngrade, backup.ErrRevoked, backup.ErrNoSpace or
// backup.ErrUnavailable where that is the reason, and bundle.ErrBase where a
// delta bundle builds on what is not here; with one that wraps
// backup.ErrInstalled it says what is installed already.
func (in *Installer) Install(ctx context.Context, open func() (io.ReadCloser, error), o backup.InstallOptions) (*Installed, error) {
	first := *in
	asked := false
	first.PreInstall = func(ctx context.Context, from, to versioning.Version) error {
		asked = true
		if in.PreInstall == nil {
			return nil
		}
		return in.PreInstall(ctx, from, to)
	}
	done, err := first.inAnyRoom(ctx, open, o)
	if in.Rest == nil || !inapplicable(err) || ctx.Err() != nil {
		return done, err
	}
	in.Log.WithError(err).Warn("the delta bundle does not apply: fetching the release without it")
	open, more := in.Rest(ctx, nil)
	if more != nil {
		return nil, errors.Join(err, more)
	}
	again := *in
	again.Rest, again.Complete = nil, nil
	if asked {
		again.PreInstall = nil // it has agreed
	}
	return again.inAnyRoom(ctx, open, o)
}

// inapplicable reports whether an error is about a delta bundle that does not
// apply here.
func inapplicable(err error) bool {
	return errors.Is(err, bundle.ErrBase) || errors.As(err, new(*bundle.PatchError))
}

// inAnyRoom installs beside what runs or, where there is no room for that, over it.
func (in *Installer) inAnyRoom(ctx context.Context, open func() (io.ReadCloser, error), o backup.InstallOptions) (*Installed, error) {
	done, err := in.attempt(ctx, open, o)
	if !errors.Is(err, backup.ErrInPlace) {
		return done, err
	}
	tight := err
	if err := in.check(ctx, open); err != nil {
		return nil, errors.Join(tight, err)
	}
	o.InPlace = true
	over := *in
	over.Rest = nil // while system is written over nothing waits for a network
	return over.attempt(ctx, open, o)
}

// attempt installs what is here. Where a file is needed that was not thought to
// be, because it was damaged since, the frame that holds it is fetched, and all
// is done again.
func (in *Installer) attempt(ctx context.Context, open func() (io.ReadCloser, error), o backup.InstallOptions) (*Installed, error) {
	done, err := in.once(ctx, open, o)
	var lacking *lackingError
	if in.Complete == nil || !errors.As(err, &lacking) {
		return done, err
	}
	in.Log.WithError(err).Info("fetching what the bundle lacks")
	if more := in.Complete(ctx, lacking.want); more != nil {
		return nil, fmt.Errorf("a file that is needed is not in what was fetched: %w", more)
	}
	again := *in
	again.PreInstall = nil // it has agreed
	return again.once(ctx, open, o)
}

// lackingError says that a bundle could not be read for what is wanted of it.
type lackingError struct {
	error
	want func(backup.Path) bool
}

func (e *lackingError) Unwrap() error { return e.error }

// check reads a whole bundle, or what is here of one.
func (in *Installer) check(ctx context.Context, open func() (io.ReadCloser, error)) error {
	src, err := open()
	if err != nil {
		return err
	}
	defer src.Close()
	verifier, err := trust.New(in.Trust)
	if err != nil {
		return err
	}
	r, err := bundle.NewReaderOn(fsys.InContext(ctx, src), verifier, BaseOf(ctx, in.Reconciler, in.Own))
	if err != nil {
		return err
	}
	if in.Complete != nil && in.Lacks != nil {
		want, err := in.Lacks(ctx, r.Manifest())
		if err != nil {
			return err
		}
		r.Want(want)
	}
	return r.Finish()
}

func (in *Installer) once(ctx context.Context, open func() (io.ReadCloser, error), o backup.InstallOptions) (*Installed, error) {
	src, err := open()
	if err != nil {
		return nil, err
	}
	defer src.Close()
	verifier, err := trust.New(in.Trust)
	if err != nil {
		return nil, err
	}
	r, err := bundle.NewReaderOn(fsys.InContext(ctx, src), verifier, BaseOf(ctx, in.Reconciler, in.Own))
	if err != nil {
		return nil, err
	}
	m := r.Manifest()
	if err := in.suits(m); err != nil {
		return nil, err
	}
	if !in.Release.IsZero() && r.Release() != in.Release {
		return nil, fmt.Errorf("%w: the bundle carries the release %s: expected %s, which was chosen", bundle.ErrMalformed, r.Release(), in.Release)
	}
	if m.Kind != release.App {
		take := in.Program
		if m.Kind == release.Firmware {
			take = in.Firmware[m.App]
		}
		from, err := take(ctx, r)
		if errors.Is(err, backup.ErrInstalled) {
			return &Installed{Kind: m.Kind, App: m.App, From: from, Version: from}, err
		}
		if err != nil {
			return nil, err
		}
		in.keepRoots(verifier)
		return &Installed{Kind: m.Kind, App: m.App, From: from, Version: m.Version}, nil
	}
	for k := range m.Files { // here, since an entry of its own for each would take much memory
		if e := &m.Files[k]; e.Mtime == 0 {
			e.Mtime = o.Now.UnixNano()
		}
	}
	recorded := m.Backup()
	recorded.Release = r.Release()
	installed, err := in.Reconciler.Admit(ctx, &recorded, o)
	if err == nil && in.PreInstall != nil {
		if err := in.PreInstall(ctx, installed, m.Version); err != nil {
			return nil, err
		}
		installed, err = in.Reconciler.Admit(ctx, &recorded, o) // it may have changed what runs
	}
	if errors.Is(err, backup.ErrInstalled) {
		return &Installed{Kind: m.Kind, App: m.App, From: installed, Version: installed}, err
	}
	if err != nil {
		return nil, err
	}
	in.Log.WithFields(logrus.Fields{"app": m.App, "from": installed, "version": m.Version}).Info("installing")
	i, err := in.Reconciler.BeginInstall(ctx, &recorded, o)
	if err != nil {
		return nil, err
	}
	if err := in.unpack(ctx, r, i); err != nil {
		if errors.Is(err, bundle.ErrMalformed) && r.Parts().Delta == nil {
			err = &lackingError{err, wanted(m, i)}
		}
		return nil, errors.Join(err, i.Discard())
	}
	in.keepRoots(verifier)
	if in.Stop != nil {
		if err := in.Stop(ctx, installed, m.Version); err != nil {
			return nil, errors.Join(err, i.Discard())
		}
	}
	if err := i.Commit(ctx); err != nil {
		return nil, err
	}
	return &Installed{Kind: m.Kind, App: m.App, From: installed, Version: m.Version, Bytes: i.Bytes(), New: i.New, Kept: i.Kept, InPlace: o.InPlace}, nil
}

// wanted remembers what an installation wants of a release.
func wanted(m *release.Manifest, i *backup.Install) func(backup.Path) bool {
	all := map[backup.Path]bool{}
	for k := range m.Files {
		if e := &m.Files[k]; e.Type == manifest.File && i.Wants(e.Path) {
			all[e.Path] = true
		}
	}
	return func(p backup.Path) bool { return all[p] }
}

// keepRoots remembers the newer roots that a bundle brought along.
func (in *Installer) keepRoots(verifier *trust.Verifier) {
	for _, root := range verifier.Followed() {
		if err := in.KeepRoot(root.Bytes()); err != nil {
			in.Log.WithError(err).Warn("the bundle's newer root of trust could not be kept; the next bundle or poll brings it again")
			return
		}
	}
}

// suits reports whether the device runs what the bundle carries.
func (in *Installer) suits(m *release.Manifest) error {
	switch {
	case m.Kind == release.Firmware && in.Firmware[m.App] == nil:
		return fmt.Errorf("%w: the bundle carries the firmware %q, this device has handlers for %s",
			ErrIncompatible, m.App, list(slices.Sorted(maps.Keys(in.Firmware))))
	case m.Kind == release.Agent && in.Program == nil:
		return fmt.Errorf("%w: the bundle carries Tandem itself, and this one is of no release: it is replaced by hand", ErrIncompatible)
	case m.Kind == release.Agent:
		if !slices.Contains(m.Compatible, in.Arch) {
			return fmt.Errorf("%w: the bundle carries a Tandem for %s, this one is for %s", ErrIncompatible, list(m.Compatible), in.Arch)
		}
		return nil
	case m.Kind == release.App && m.App != in.App:
		return fmt.Errorf("%w: the bundle carries application %q, this device runs %q", ErrIncompatible, m.App, in.App)
	case !slices.ContainsFunc(m.Compatible, func(c string) bool { return slices.Contains(in.Compatible, c) }):
		return fmt.Errorf("%w: the bundle is for %s, this device is %s", ErrIncompatible, list(m.Compatible), list(in.Compatible))
	}
	return nil
}

// unpack stages what is new. The bundle is accepted once it was read to its end.
func (in *Installer) unpack(ctx context.Context, r *bundle.Reader, i *backup.Install) error {
	u := &unpacking{in: in, i: i, total: i.Bytes(), lacks: in.lacks(r, i)}
	r.Want(i.Wants)
	if err := u.all(ctx, r); err != nil {
		return err
	}
	if len(u.lacks) == 0 {
		return nil
	}
	why := u.failed
	if why == nil {
		why = fmt.Errorf("%w: %s is needed, is not on this device as version %s has it, and the bundle does not carry it",
			bundle.ErrBase, slices.Sorted(maps.Keys(u.lacks))[0], r.Parts().Delta.Base.Version)
	}
	if in.Rest == nil {
		return why
	}
	in.Log.WithError(why).Warnf("%d files cannot be made of the delta bundle: fetching them", len(u.lacks))
	if err := u.rest(ctx, r.Release()); err != nil {
		return errors.Join(why, err)
	}
	return nil
}

// unpacking stages files.
type unpacking struct {
	in          *Installer
	i           *backup.Install
	done, total int64
	lacks       map[backup.Path]bool // of a delta bundle: what is still needed
	failed      error                // why one of them is
}

// all stages the files that a bundle gives. Those that cannot be made of their
// patches are left.
func (u *unpacking) all(ctx context.Context, r *bundle.Reader) error {
	for {
		f, content, err := r.Next()
		if err == io.EOF {
			return r.Finish()
		}
		if u.leave(ctx, err) {
			continue
		}
		if err != nil {
			return err
		}
		counted := &counter{r: content, sum: *f.SHA256, report: func(n int) {
			u.done += int64(n)
			if u.in.Progress != nil {
				u.in.Progress("installing", u.done, u.total)
			}
		}}
		err = u.i.Put(ctx, f.Path, counted)
		if u.leave(ctx, err) {
			continue
		}
		if err != nil {
			return err
		}
		delete(u.lacks, f.Path)
	}
}

// leave reports whether an error is that of a patch, and the file can be had
// otherwise.
func (u *unpacking) leave(ctx context.Context, err error) bool {
	if ctx.Err() != nil || !errors.As(err, new(*bundle.PatchError)) {
		return false
	}
	if u.failed == nil {
		u.failed = err
	}
	return true
}

// rest stages what a delta bundle could not bring, from the whole one.
func (u *unpacking) rest(ctx context.Context, want digest.SHA256) error {
	lacks := maps.Clone(u.lacks)
	needed := func(p backup.Path) bool { return lacks[p] }
	open, err := u.in.Rest(ctx, needed)
	if err != nil {
		return err
	}
	src, err := open()
	if err != nil {
		return err
	}
	defer src.Close()
	verifier, err := trust.New(u.in.Trust)
	if err != nil {
		return err
	}
	r, err := bundle.NewReader(fsys.InContext(ctx, src), verifier)
	if err != nil {
		return err
	}
	if r.Release() != want {
		return fmt.Errorf("%w: the bundle carries the release %s: expected %s", bundle.ErrMalformed, r.Release(), want)
	}
	r.Want(needed)
	return u.all(ctx, r)
}

// lacks lists what a delta bundle may be needed for, and may not carry.
func (in *Installer) lacks(r *bundle.Reader, i *backup.Install) map[backup.Path]bool {
	if r.Parts().Delta == nil {
		return nil
	}
	lacks := map[backup.Path]bool{}
	for _, e := range r.Manifest().Files {
		if e.Type == manifest.File && i.Wants(e.Path) {
			lacks[e.Path] = true
		}
	}
	return lacks
}

// counter counts what is read of a bundle's file, which the bundle's reader
// ends only if it has the digest sum.
type counter struct {
	r      io.Reader
	sum    digest.SHA256
	report func(int)
}

// Verified implements change.Verified.
func (c *counter) Verified() digest.SHA256 { return c.sum }

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.report(n)
	return n, err
}

// Owner returns the install options of this process: without the right to give
// files away they belong to whoever runs it.
func Owner(euid, egid int, now time.Time) backup.InstallOptions {
	o := backup.InstallOptions{Now: now}
	if euid != 0 {
		o.Owner = &backup.Owner{UID: uint32(euid), GID: uint32(egid)}
	}
	return o
}
