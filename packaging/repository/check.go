package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/packaging/tuf"
)

// What a device reads at most of the small documents, in bytes.
const (
	maxTimestamp = 16_384
	maxSnapshot  = 256 << 10
)

// How long before its end metadata should be signed anew. Root and targets may
// need a journey to where their keys are; for the others a timer should be at work.
const (
	soonOffline = 90 * day
	soonOnline  = 2 * day
)

// Report is what Check found.
type Report struct {
	Roots    int   // in the chain that devices follow
	Releases int   // listed
	Bytes    int64 // of bundles that were read
	// Problems are what a device would refuse or stumble over.
	Problems []Finding
	// Notes are for the publisher's attention and keep no device from anything.
	Notes []Finding
}

// Finding is something that Check found, and in which file.
type Finding struct {
	File string
	Err  error
}

func (f Finding) String() string { return f.File + ": " + f.Err.Error() }

func (r *Repository) problem(rep *Report, name string, err error) {
	rep.Problems = append(rep.Problems, Finding{r.fs.Path(name), err})
}

func (r *Repository) note(rep *Report, name, format string, args ...any) {
	rep.Notes = append(rep.Notes, Finding{r.fs.Path(name), fmt.Errorf(format, args...)})
}

// Check verifies a whole repository as devices do: one that was provisioned
// with its first root follows the chain to the newest, takes timestamp,
// snapshot and targets metadata at the present time, delegated roles included, and
// accepts each bundle on offer. A yanked release's bundle may be missing, and may be signed by a
// key that is no longer trusted. Check changes nothing.
//
// The error says why it could not be done; what is wrong with the repository is
// in the report.
func (r *Repository) Check(ctx context.Context) (*Report, error) {
	rep := &Report{}
	s, err := r.load()
	if errors.Is(err, ErrNone) {
		return nil, err
	}
	if err != nil {
		rep.Problems = append(rep.Problems, Finding{r.fs.Path(metadataDir), err})
		return rep, nil
	}
	tm := r.workflow(rep, s)
	r.dates(rep, s)
	if s.badHalts != nil {
		r.problem(rep, snapshotName(s.snapshot.Signed.Version), s.badHalts)
	}
	targets, whole := s.listed(), false
	if tm != nil {
		targets, whole = r.delegated(rep, s, tm)
	}
	listed := make(map[string]bool)
	halted := maps.Clone(s.halts)
	for _, l := range targets {
		found, err := release.ParseListed(l)
		if err != nil {
			r.problem(rep, roleName(s, l.Role), err)
			continue
		}
		rel := &found
		listed[File(*rel)] = true
		if halted[rel.Release] {
			delete(halted, rel.Release)
			r.note(rep, snapshotName(s.snapshot.Signed.Version), "the rollout of %s %s for %s is halted", rel.App, rel.Version, strings.Join(rel.Compatible, ", "))
		}
		if rel.Recall != nil && l.Role != metadata.TARGETS {
			r.problem(rep, roleName(s, l.Role), fmt.Errorf("%s %s is recalled by a delegated role: devices leave that out", rel.App, rel.Version))
		}
		rep.Releases++
		n, err := r.checkBundle(ctx, s, rel)
		rep.Bytes += n
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
		case rel.TakenBack() && fsys.IsNotExist(err):
			r.note(rep, File(*rel), "is missing, and its release is yanked")
		case errors.Is(err, bundle.ErrBase):
			r.note(rep, File(*rel), "%w", err)
		case rel.TakenBack() && errors.Is(err, trust.ErrUntrusted):
			r.note(rep, File(*rel), "its release is yanked: %w", err)
		default:
			r.problem(rep, File(*rel), err)
		}
	}
	if !whole { // what is missing may lead to bundles
		return rep, nil
	}
	for _, sum := range slices.SortedFunc(maps.Keys(halted), func(a, b digest.SHA256) int { return slices.Compare(a[:], b[:]) }) {
		r.note(rep, snapshotName(s.snapshot.Signed.Version), "the release %s is halted, and not listed", sum)
	}
	return rep, r.strays(rep, listed)
}

// roleName returns the file of the metadata in force of a targets role.
func roleName(s *state, role string) string {
	var version int64
	if pin := s.snapshot.Signed.Meta[role+".json"]; pin != nil {
		version = pin.Version
	}
	return fmt.Sprintf("%s/%d.%s.json", metadataDir, version, role)
}

// listed returns the targets of the top level.
func (s *state) listed() (all []tuf.Listed) {
	for _, name := range slices.Sorted(maps.Keys(s.targets.Signed.Targets)) {
		all = append(all, tuf.Listed{Name: name, Role: metadata.TARGETS, Target: s.targets.Signed.Targets[name]})
	}
	return all
}

// delegated returns all targets that devices find, those of delegated roles
// included. whole says that every role could be read.
func (r *Repository) delegated(rep *Report, s *state, tm *trustedmetadata.TrustedMetadata) (targets []tuf.Listed, whole bool) {
	tree := r.tree(s, tm)
	targets, failed := tree.List()
	for _, err := range failed {
		r.problem(rep, targetsName(s.targets.Signed.Version), err)
	}
	for _, role := range tree.Roles() {
		r.date(rep, roleName(s, role), tree.Expires(role), soonOffline, "have it signed anew")
	}
	return targets, len(failed) == 0
}

// workflow follows the client workflow of TUF with the library that devices
// use, from the first root on. It gives nil where devices come to no end.
func (r *Repository) workflow(rep *Report, s *state) *trustedmetadata.TrustedMetadata {
	read := func(name string, limit int64) ([]byte, error) {
		raw, err := fsys.ReadFile(r.fs, name, limit)
		if err == nil {
			err = tuf.Check(raw)
		}
		if err != nil {
			r.problem(rep, name, err)
		}
		return raw, err
	}
	raw, err := read(rootName(1), trust.MaxRoot)
	if err != nil {
		return nil
	}
	if _, err := trust.ParseRoot(raw); err != nil {
		r.problem(rep, rootName(1), err)
		return nil
	}
	tm, err := trustedmetadata.New(raw)
	if err != nil {
		r.problem(rep, rootName(1), err)
		return nil
	}
	tm.RefTime = r.now()
	rep.Roots = 1
	for n := int64(2); n <= s.root.Version(); n++ {
		if raw, err = read(rootName(n), trust.MaxRoot); err != nil {
			return nil
		}
		if _, err := tm.UpdateRoot(raw); err != nil {
			r.problem(rep, rootName(n), err)
			return nil
		}
		rep.Roots++
	}
	if first, err := fsys.ReadFile(r.fs, RootFile, trust.MaxRoot); err != nil || !bytes.Equal(first, raw) {
		r.note(rep, RootFile, "is not the newest root, version %d: the next change of the repository corrects that", s.root.Version())
	}
	for _, d := range []struct {
		name  string
		limit int64
		take  func([]byte) error
	}{
		{timestamp, maxTimestamp, func(b []byte) error { _, err := tm.UpdateTimestamp(b); return err }},
		{snapshotName(s.snapshot.Signed.Version), maxSnapshot, func(b []byte) error { _, err := tm.UpdateSnapshot(b, false); return err }},
		{targetsName(s.targets.Signed.Version), MaxTargets, func(b []byte) error { _, err := tm.UpdateTargets(b); return err }},
	} {
		raw, err := read(d.name, d.limit)
		if err != nil {
			return nil
		}
		if err := d.take(raw); err != nil {
			r.problem(rep, d.name, err)
			return nil
		}
	}
	return tm
}

// dates notes what will end to be valid soon.
func (r *Repository) dates(rep *Report, s *state) {
	for _, d := range []struct {
		name string
		at   time.Time
		soon time.Duration
		how  string
	}{
		{rootName(s.root.Version()), s.root.Expires(), soonOffline, "rotate the root"},
		{targetsName(s.targets.Signed.Version), s.targets.Signed.Expires, soonOffline, "publish, or refresh with --targets"},
		{snapshotName(s.snapshot.Signed.Version), s.snapshot.Signed.Expires, soonOnline, "refresh"},
		{timestamp, s.timestamp.Signed.Expires, soonOnline, "refresh"},
	} {
		r.date(rep, d.name, d.at, d.soon, d.how)
	}
}

func (r *Repository) date(rep *Report, name string, at time.Time, soon time.Duration, how string) {
	if left := at.Sub(r.now()); left > 0 && left < soon {
		r.note(rep, name, "is valid for %d more hours: %s before that", int(left/time.Hour), how)
	}
}

// checkBundle reads a bundle as a device does, and says how much of it there was.
func (r *Repository) checkBundle(ctx context.Context, s *state, rel *release.Target) (int64, error) {
	f, err := r.fs.Open(File(*rel))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h := digest.New()
	n, err := io.Copy(h, fsys.InContext(ctx, io.LimitReader(f, rel.Length+1)))
	if err != nil {
		return n, err
	}
	if sum := digest.Sum(h); n != rel.Length || sum != rel.SHA256 {
		return n, fmt.Errorf("%w: it is not the %d bytes with the SHA-256 that targets metadata says", ErrDamaged, rel.Length)
	}
	v, err := trust.New(trust.Options{Root: s.root, Time: r.now()})
	if err != nil {
		return n, err
	}
	again, err := r.fs.Open(File(*rel))
	if err != nil {
		return n, err
	}
	defer again.Close()
	base, err := r.deltaBase(ctx, s, rel)
	if err != nil {
		return n, err
	}
	if base != nil {
		defer base.Close()
	}
	b, err := readBundle(fsys.InContext(ctx, again), v, base.archive())
	if err != nil {
		return n, err
	}
	if err := b.Finish(); err != nil {
		return n, err
	}
	m := b.Manifest()
	if b.Release() != rel.Release || rel.Head != 0 && b.Length() != rel.Head {
		return n, fmt.Errorf("%w: it carries the release %s after a head of %d bytes, and targets metadata says %s and %d", ErrDamaged, b.Release(), b.Length(), rel.Release, rel.Head)
	}
	if m.App != rel.App || m.Kind != rel.Kind || m.Version.String() != rel.Version.String() || !slices.Equal(m.Compatible, rel.Compatible) {
		return n, fmt.Errorf("%w: it carries %s %s for %s, and targets metadata says %s %s for %s", ErrDamaged,
			m.App, m.Version, strings.Join(m.Compatible, ", "), rel.App, rel.Version, strings.Join(rel.Compatible, ", "))
	}
	return n, nil
}

// A checkBase is the release that a delta bundle builds on.
type checkBase struct {
	*bundle.Archive
	io.Closer
}

func (c *checkBase) archive() bundle.Base {
	if c == nil {
		return nil
	}
	return c.Archive
}

// deltaBase opens what a delta bundle builds on; nil for one that is whole.
func (r *Repository) deltaBase(ctx context.Context, s *state, rel *release.Target) (*checkBase, error) {
	if rel.Base.IsZero() {
		return nil, nil
	}
	all, err := s.releases()
	if err != nil {
		return nil, err
	}
	for _, old := range all {
		if buildsOn(rel, &old) {
			a, f, err := r.Archive(ctx, old)
			if err != nil {
				return nil, err
			}
			return &checkBase{a, f}, nil
		}
	}
	return nil, fmt.Errorf("%w: version %s is off the list, so that it cannot be checked: take this bundle off it, too", bundle.ErrBase, rel.Base)
}

// strays notes bundles that nothing leads to.
func (r *Repository) strays(rep *Report, listed map[string]bool) error {
	entries, err := r.fs.ReadDir(targetsDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := targetsDir + "/" + e.Name; !listed[name] {
			r.note(rep, name, "no release leads here: it can be removed once no device fetches it any more")
		}
	}
	return nil
}
