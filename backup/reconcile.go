package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/backup/change"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/text"
	"tandem/versioning"
)

// Progress tells how far a copy has come, in bytes.
type Progress func(what string, done, total int64)

// Session remembers a few bytes for as long as the machine runs.
type Session interface {
	Load() []byte
	Store(data []byte) error
}

// Reconciler keeps two sides in step. One at a time may work on a pair of
// sides; the caller holds a lock.
type Reconciler struct {
	System, UsrData *Side
	Log             logrus.FieldLogger
	Progress        Progress // may be nil
	Now             func() time.Time
	// Wait waits that long, or until the context ends: for stamps to grow old,
	// and for an application to come to rest.
	Wait func(context.Context, time.Duration) error
	// Boot tells this run of the machine from others, and Started when it began,
	// in nanoseconds since 1970-01-01 UTC. Where Boot is not known, "", whatever
	// was seen before this look may have gone through a power cut.
	Boot    string
	Started int64
	Session Session // may be nil
	// AtOnce says that two sides may be worked on, or two files described and copied, at
	// once: there are processors for it.
	AtOnce bool
	By     record.Author
	// App and Compatible say what this device is. A version that is not for it counts only
	// where there is no other; without an App each is, as is one that came with no release.
	App        string
	Compatible []string
	// Still asks the application to hold still while its configuration is
	// captured, and returns what lets it go on. It may be nil. It is called once,
	// and the sides are looked at again after it: what the application wrote for it
	// is part of the capture.
	Still func(context.Context) (release func(), err error)
}

// Options of a reconciliation.
type Options struct {
	Full bool // hash every file instead of trusting the index
	// Hold is a version that is not to replace another one on usr_data yet,
	// while that is whole: it is what a rollback returns to.
	Hold versioning.Version
	// Forget is configuration, a file or a directory, that is removed on both
	// sides. The error wraps ErrApplicationFile or ErrNoSuchPath where there is no
	// such configuration.
	Forget Path
	// Shutdown says that the machine is about to stop, in order: once the sides are
	// in step all of them is made durable, and noted as such. What differs from it
	// at the next start was done on purpose.
	Shutdown bool
}

// Result is what a reconciliation found and did.
type Result struct {
	Decision  Decision
	Returned  bool       // the version on system was given up: it returned to the one before
	Held      bool       // the backup is held back until the version is confirmed
	Finished  []Finished // interrupted changes that were finished first
	System    *Snapshot  // as found, before anything was done
	UsrData   *Snapshot
	Version   versioning.Version // of both sides afterwards
	Revision  int
	Changed   []SideName // sides that were written
	InPlace   []SideName // of those, where there was no room for old and new at once
	Files     int        // files that were copied
	Bytes     int64      // that were copied
	Conflicts []Path     // configuration kept beside the one that won
	Lost      []Path     // captured configuration that neither side has any more
	Busy      []Path     // configuration that was left alone, because it is being written
	Left      []Left     // what should be otherwise, and could not be changed
	Aside     []Left     // what was put aside: why says where
}

// Left is a path that is left as it is, and why.
type Left struct {
	Side SideName `json:"side"`
	Path Path     `json:"path"`
	Why  string   `json:"why"`
}

// Finished is a change that recovery rolled forward or took back.
type Finished struct {
	Side    SideName           `json:"side"`
	Version versioning.Version `json:"version"`
	Undone  bool               `json:"undone,omitempty"`
}

func (r *Reconciler) sides() []*Side { return []*Side{r.System, r.UsrData} }

func (r *Reconciler) side(n SideName) *Side {
	if n == System {
		return r.System
	}
	return r.UsrData
}

// Recover finishes or undoes what a power cut interrupted on either side. It
// is the first step of all that changes a side.
//
// After success nothing is pending. After an error or a power cut it can be
// run again; a side that could not be used does not keep the other one waiting.
func (r *Reconciler) Recover() ([]Finished, error) {
	var done []Finished
	var errs []error
	for _, s := range r.sides() {
		if err := s.ready(); err != nil {
			errs = append(errs, err) // the other one may be all that there is to start from
			continue
		}
		f, err := change.Recover(s.FS, s.live(), r.By)
		if err != nil {
			errs = append(errs, sideError(s, fmt.Errorf("finish the interrupted change: %w", err)))
			continue
		}
		r.tell(s, &f.Outcome)
		if f.Version.IsZero() {
			continue
		}
		log := r.Log.WithFields(logrus.Fields{"side": s.Name, "version": f.Version})
		if f.Undone {
			log.Warn("took back an interrupted change that cannot be finished")
		} else {
			log.Info("finished an interrupted change")
		}
		done = append(done, Finished{s.Name, f.Version, f.Undone})
	}
	return done, errors.Join(errs...)
}

// tell logs what people should know of a change.
func (r *Reconciler) tell(s *Side, out *change.Outcome) {
	few(r.Log, s.Name, out.Newer, func(log logrus.FieldLogger, p Path) {
		log.WithField("file", p).Info("was written meanwhile: it stays as it is now")
	})
	few(r.Log, s.Name, out.Left, func(log logrus.FieldLogger, l change.Left) {
		log.WithField("file", l.Path).Warn("left as it is: " + l.Why)
	})
	few(r.Log, s.Name, out.Aside, func(log logrus.FieldLogger, p Path) {
		log.WithField("file", p).Warnf("what was there lies in %s now: \"tandem recall\" brings it back, with --bump if it is part of the application", s.FS.Path(change.AsideDir))
	})
}

// maxTold is how many files of a kind are told one by one: where a whole tree went aside
// the console would have no other word.
const maxTold = 20

// few calls say for the first files of a list, and logs how many more there are.
func few[T any](log logrus.FieldLogger, side SideName, list []T, say func(logrus.FieldLogger, T)) {
	log = log.WithField("side", side)
	for _, t := range list[:min(len(list), maxTold)] {
		say(log, t)
	}
	if more := len(list) - maxTold; more > 0 {
		log.Warnf("and %s more, of which the same is to be said", text.Count(more, "file"))
	}
}

// Look takes a snapshot of both sides and decides. It changes nothing. An
// error that Decide gives comes with the snapshots.
func (r *Reconciler) Look(ctx context.Context, o Options) (*Result, error) {
	return newJob(r, o).look(ctx, o)
}

// inspect is Look for those who need the facts, also where there is nothing to do.
func (r *Reconciler) inspect(ctx context.Context) (*Result, error) {
	j := newJob(r, Options{})
	j.fresh = false
	return j.look(ctx, Options{})
}

// look looks at both sides and decides. Where there is nothing to do the first look of
// a job may have no facts.
func (j *job) look(ctx context.Context, o Options) (*Result, error) {
	if j.fresh {
		j.fresh = false
		if system, usrData := j.rest(ctx); system != nil {
			if res, err := j.decide(ctx, system, usrData, o); err == nil && res.Decision.Action == Nothing {
				return res, nil
			}
		}
	}
	system, usrData, err := j.snapshots(ctx)
	if err != nil {
		return nil, err
	}
	return j.decide(ctx, system, usrData, o)
}

func (j *job) decide(ctx context.Context, system, usrData *Snapshot, o Options) (*Result, error) {
	res := &Result{System: system, UsrData: usrData}
	if err := available(system, usrData); err != nil {
		return res, err
	}
	bad, err := j.r.Revoked()
	if err != nil {
		return nil, err
	}
	src := j.sources(system, usrData)
	src.uncover(system)
	src.uncover(usrData)
	a, b := j.r.candidate(system, src, bad), j.r.candidate(usrData, src, bad)
	choice := Choice{Hold: o.Hold}
	res.Decision, err = Decide(a, b, choice)
	if to := res.Decision.To; err == nil && j.stuck == nil && system.usable() && (a.Revoked || to.In(bad)) {
		want := wish{bad: bad}
		if !to.In(bad) {
			want.to = to
		}
		kept, kerr := j.kept(ctx, system, usrData, want)
		switch {
		case kerr == nil:
			if to.In(bad) || kept != usrData.basis() { // that may lack configuration which is kept with the version
				choice.Kept = kept.Manifest.Version
				res.Decision, err = Decide(a, b, choice)
			}
		case !errors.Is(kerr, ErrNothingToReturnTo): // a revoked version is better than none
			return nil, kerr
		}
	}
	if err == nil {
		res.Version = res.Decision.To
		if w := res.winner(); w.Version.String() == res.Version.String() {
			res.Revision = w.Revision
		}
	}
	return res, err
}

// available returns the error of a side that cannot be used.
func available(snaps ...*Snapshot) error {
	for _, s := range snaps {
		switch {
		case s.err == nil:
		case errors.Is(s.err, ErrUnavailable), errors.Is(s.err, ErrNewer):
			return s.err
		default:
			return fmt.Errorf("%w: %w", ErrUnavailable, s.err)
		}
	}
	return nil
}

func (res *Result) winner() *Snapshot {
	if res.Decision.From == UsrData {
		return res.UsrData
	}
	return res.System
}

func (res *Result) of(n SideName) *Snapshot {
	if n == System {
		return res.System
	}
	return res.UsrData
}

// fits reports whether a version is for this device.
func (r *Reconciler) fits(m *Manifest) bool {
	if r.App == "" || m.App == "" {
		return true
	}
	for _, c := range m.Compatible {
		if slices.Contains(r.Compatible, c) {
			return m.App == r.App
		}
	}
	return false
}

func (r *Reconciler) candidate(s *Snapshot, src *sources, bad []versioning.Version) Candidate {
	c := Candidate{
		State: s.State, Version: s.Version, Revision: s.Revision,
		Revoked: s.Version.In(bad), Edited: len(s.Edited) > 0, Adopted: s.Adopted, Nested: s.Nested, Record: s.ownSum,
	}
	if s.State == Damaged {
		c.Mendable = src.mendable(s)
	}
	if basis := s.basis(); basis != nil {
		c.Unfit = !r.fits(&basis.Manifest)
	}
	return c
}

// rounds bounds how often the sides are looked at again: each round finds
// damage that the one before could not know of, or an application that writes.
const rounds = 24

// Reconcile finishes what was interrupted, decides, and brings both sides to
// the version and configuration that won.
//
// After success both sides are identical and complete. After an error or a
// power cut each side that was complete still is, as its old or its new
// version, and Reconcile can be run again. The error wraps ErrNoApplication,
// ErrDamage, ErrBusy, ErrTooLarge, ErrUnavailable, ErrBlocked, ErrNewer or ErrNoSpace where
// that is the reason.
func (r *Reconciler) Reconcile(ctx context.Context, o Options) (_ *Result, err error) {
	j := newJob(r, o)
	defer j.useUp()
	defer func() {
		if err != nil && j.shutdown && !errors.Is(err, ErrNewer) {
			j.noteLive(ctx)
		}
	}()
	if j.total.Finished, err = r.Recover(); err != nil {
		return j.total, err
	}
	defer func() { j.release() }()
	for n := range rounds {
		if done, err := j.round(ctx, n, o); done || err != nil {
			return j.total, err
		}
	}
	return j.total, fmt.Errorf("%w: the sides did not settle within %d rounds: is something writing to them?", ErrDamage, rounds)
}

// round looks at both sides, decides, and carries that out. It is done when nothing is left
// to do; the error says then what is not as it should be.
func (j *job) round(ctx context.Context, n int, o Options) (done bool, err error) {
	if n > 0 { // what was found first is told, but not used any more
		j.total.System.forget()
		j.total.UsrData.forget()
	}
	res, err := j.look(ctx, o)
	if n == 0 && res != nil {
		res.Finished = j.total.Finished
		j.total = res
	}
	if err != nil {
		return false, err
	}
	if res.System.facts == nil && res.Decision.Action == Nothing { // both sides rest
		return true, errors.Join(j.stuck, j.r.shareRevoked())
	}
	j.full = false // what was found damaged is a suspect from here on
	for _, s := range []*Snapshot{res.System, res.UsrData} {
		for _, p := range s.Problems {
			j.suspects[s.Side][p.Path] = true
		}
	}
	forgetting, err := j.forgets(res)
	if err != nil {
		return false, err
	}
	if still, err := j.still(ctx, n, res); !still || err != nil {
		return false, err
	}
	lost, written := res.unreadable(), j.total.Files
	if lost != "" && lost == j.mended { // it does not give it now, either
		return true, errors.Join(j.stuck, j.remaining(res))
	}
	done, err = j.carryOut(ctx, res, forgetting)
	if j.mended = ""; err == nil && j.total.Files > written {
		j.mended = lost
	}
	j.fresh = err == nil && !done && j.total.clear() && j.clear() // then it may be seen quickly that all is done
	if j.fresh && j.seen && j.r.follows(res) {
		return true, errors.Join(j.stuck, j.r.shareRevoked())
	}
	if forgetting && err == nil {
		j.forgot, j.forget = j.forget, ""
	}
	var stale *staleError
	switch {
	case errors.As(err, &stale):
		j.r.Log.WithFields(logrus.Fields{"side": stale.side, "file": stale.path}).Debug("changed or damaged since it was looked at; looking again")
		j.suspects[stale.side][stale.path] = true
		if stale.side == System && stale.path != "" {
			return false, j.unrest(ctx, n, stale.path)
		}
		return false, nil
	case err != nil || !done:
		return false, err
	case j.forget != "":
		return true, errors.Join(fmt.Errorf("%s is not forgotten: the sides are not in step", j.forget), j.remaining(res))
	}
	return true, errors.Join(j.stuck, j.remaining(res))
}

// still reports whether the configuration of system may be captured as it was found: the
// application was asked to hold still for it, once, and rests or is not waited for any more.
func (j *job) still(ctx context.Context, n int, res *Result) (bool, error) {
	busy := res.System.Busy
	if !j.asked && j.r.Still != nil && res.Decision.Action != Hold && len(res.System.Edited)+len(busy) > 0 {
		j.asked = true
		release, err := j.r.Still(ctx)
		if err == nil {
			j.release = release
		}
		return false, err
	}
	if len(busy) > 0 && n+1 < moments {
		return false, j.unrest(ctx, n, busy[0])
	}
	for _, p := range busy {
		if res.System.facts.Basis.Manifest.IsConfig(p) {
			j.restless[Path(path.Dir(string(p)))] = true
		}
	}
	return true, nil
}

// unreadable names what the disk does not give.
func (res *Result) unreadable() string {
	var all strings.Builder
	for _, s := range []*Snapshot{res.System, res.UsrData} {
		for _, p := range s.Problems {
			if p.Kind == tree.Unreadable {
				all.WriteString(string(p.Side) + "/" + string(p.Path) + "\n")
			}
		}
	}
	return all.String()
}

// follows reports whether usr_data alone was to be changed, into what lies on system: what
// is written there from then on is for the next time. A tag that somebody wrote is still to be
// spelled as that of usr_data.
func (r *Reconciler) follows(res *Result) bool {
	return (res.Decision.Action == BackUp || res.Decision.Action == Capture) && res.Decision.From == System &&
		res.System.State == Intact && versioning.IsTag(r.System.FS, change.TagFile, res.System.Version)
}

// clear reports whether nothing is to be told at the end but what was done.
func (res *Result) clear() bool {
	return len(res.Changed) > 0 && len(res.InPlace)+len(res.Left)+len(res.Lost) == 0
}

// carryOut carries out one decision. It is done when there was nothing to change.
func (j *job) carryOut(ctx context.Context, res *Result, forgetting bool) (done bool, err error) {
	j.total.Version, j.total.Revision = res.Version, res.Revision
	switch res.Decision.Action {
	case Nothing:
		if j.young(res.System) {
			j.waited = true
			return false, j.r.wait(ctx, tree.Tick)
		}
		for _, s := range j.r.sides() {
			// Where the tag cannot be read the record says what it is; one that a person wrote is
			// spelled as that of the other side.
			if snap := res.of(s.Name); snap.strange || !versioning.IsTag(s.FS, change.TagFile, snap.Version) {
				if err := change.WriteTag(s.FS, snap.Version); err != nil && (snap.strange || !fsys.IsNotWritable(err)) {
					return false, sideError(s, err)
				} else if err == nil && snap.strange {
					j.r.Log.WithField("side", s.Name).Warnf("the tag, which could not be read, is %s again, as the record says", snap.Version)
				}
			}
			if err := j.remember(s, res.of(s.Name)); err != nil {
				return false, err
			}
		}
		return true, j.r.shareRevoked()
	case Hold:
		j.total.Held = true
		return true, j.remember(j.r.System, res.System)
	case Return:
		kept, err := j.kept(ctx, res.System, res.UsrData, wish{to: res.Decision.To})
		if err != nil {
			return false, err
		}
		j.r.Log.WithField("version", kept.Manifest.Version).Warn("the installed version is revoked; returning to the one before")
		j.total.Returned = true
		err = j.returnTo(ctx, res.System, res.UsrData, kept)
		if j.stuck != nil { // all else is done all the same
			j.total.Returned, err = false, nil
		}
		return false, err
	}
	src := j.sources(res.System, res.UsrData)
	forget := j.forget
	if !forgetting {
		forget = ""
	}
	d := aim(res.Decision.From, res.System, res.UsrData, src, j.keepsCapture, j.tooLarge, forget)
	changed, err := j.bring(ctx, res, d, src)
	if err != nil {
		return false, err
	}
	j.total.Version, j.total.Revision = d.record.Manifest.Version, d.record.Revision
	j.total.add(d)
	return !changed, nil
}

// add notes what became of configuration; the round after an interrupted one
// notes it again.
func (res *Result) add(d *desired) {
	for _, p := range d.kept {
		if !slices.Contains(res.Conflicts, p) {
			res.Conflicts = append(res.Conflicts, p)
		}
	}
	for _, p := range d.lost {
		if !slices.Contains(res.Lost, p) {
			res.Lost = append(res.Lost, p)
		}
	}
}

// remaining returns what is not as it should be after all was done.
func (j *job) remaining(res *Result) error {
	unknown := 0
	for _, s := range []*Snapshot{res.System, res.UsrData} {
		var untold []*tree.Fact
		for _, p := range s.Skipped {
			o := s.facts.At(p)
			if o.Finding == tree.Unknown {
				unknown++
			}
			j.total.Left = append(j.total.Left, Left{s.Side, p, o.Detail})
			if !j.left[s.Side][p] { // else the change told it
				untold = append(untold, o)
			}
		}
		few(j.r.Log, s.Side, untold, func(log logrus.FieldLogger, o *tree.Fact) {
			log.WithField("file", o.Path).Warn("left as it is: " + o.Detail)
		})
	}
	j.total.Busy = res.System.Busy
	var large []Path
	for _, p := range res.System.Edited {
		if j.tooLarge(p) {
			large = append(large, p)
		} else if j.frozen == "" && j.keepsCapture(p) {
			j.total.Busy = append(j.total.Busy, p)
		}
	}
	slices.Sort(j.total.Busy)
	if n := len(res.System.Problems) + len(res.UsrData.Problems); n > 0 {
		p := slices.Concat(res.System.Problems, res.UsrData.Problems)[0]
		return fmt.Errorf("%w: %s, the first on %s: %s: %s: %s", ErrDamage, text.Count(n, "file"), p.Side, p.Path, p.Kind, p.Detail)
	}
	if len(j.total.Lost) > 0 {
		return lostError(j.total.Lost)
	}
	if unknown > 0 {
		l := j.total.Left[0]
		return fmt.Errorf("%w: of %s nothing can be said, the first on %s: %s: %s", ErrDamage, text.Count(unknown, "file"), l.Side, l.Path, l.Why)
	}
	if err := j.spared(large); err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(j.left[System])) {
		if j.forgot != "" && within(j.forgot, p) {
			return fmt.Errorf("%s: %s: %w, and is not forgotten", System, p, ErrBlocked)
		}
	}
	if len(j.total.Busy) > 0 {
		return fmt.Errorf("%w: %s and what lies beside it is being written, and keeps the capture that it had (%s in all)", ErrBusy, j.total.Busy[0], text.Count(len(j.total.Busy), "file"))
	}
	return nil
}

// seen returns the index of a side that was found good since the machine started.
func (r *Reconciler) seen(n SideName) digest.SHA256 { return r.session()[n] }

// see remembers that the index of a side was found good since the machine started.
func (r *Reconciler) see(n SideName, sum digest.SHA256) error {
	if r.Session == nil {
		return nil
	}
	all := r.session()
	all[n] = sum
	return r.Session.Store(fmt.Appendf(nil, "%s %s %s\n", r.Boot, all[System], all[UsrData]))
}

func (r *Reconciler) session() map[SideName]digest.SHA256 {
	all := map[SideName]digest.SHA256{}
	if r.Session == nil || r.Boot == "" {
		return all
	}
	f := strings.Fields(string(r.Session.Load()))
	if len(f) < 3 || f[0] != r.Boot {
		return all
	}
	all[System], _ = digest.Parse(f[1]) // what is none knows nothing
	all[UsrData], _ = digest.Parse(f[2])
	return all
}

// wait waits for d, or until ctx ends.
func (r *Reconciler) wait(ctx context.Context, d time.Duration) error {
	if r.Wait == nil {
		return ctx.Err()
	}
	return r.Wait(ctx, d)
}
