// Package repository publishes releases: a TUF repository with consistent
// snapshots, made of plain files that any web server can serve.
//
//	root.json                       the root that goes on devices
//	metadata/<N>.root.json          each root there was
//	metadata/<N>.targets.json       the releases
//	metadata/<N>.<role>.json        those of a role that the targets role delegates to
//	metadata/<N>.snapshot.json      which targets metadata is current, by length and hash
//	metadata/timestamp.json         which snapshot is current; the only file that changes
//	targets/<SHA-256>.<name>        the bundles
//
// Files are written in such an order, each durably and in one step, that a
// power cut at any instant leaves a state that devices accept: what
// timestamp.json leads to is always there, and a root is written only once
// everything in force carries the signatures that it asks for.
//
// Metadata that is no longer in force is kept for a while, so that a device in
// the middle of a poll can finish: the last 10 versions of targets and
// snapshot, and all that is younger than a day. Roots and bundles are never removed.
//
// Delegations are made with other TUF tools. They, and the metadata of delegated
// roles, are left as they are by each change, and Check follows them.
package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/packaging/tuf"
)

// Sentinels of this package.
var (
	// ErrExists says that what was to be made is there already.
	ErrExists = errors.New("exists already")
	// ErrNone says that there is no repository.
	ErrNone = errors.New("not a repository")
	// ErrDamaged says that a repository's own metadata does not verify.
	ErrDamaged = errors.New("damaged repository")
	// ErrKeys says that a key is not the one that the repository's root names.
	ErrKeys = errors.New("not a key of this repository")
	// ErrTooLarge says that there are more releases than devices would read.
	ErrTooLarge = errors.New("too many releases")
)

// The layout of a repository.
const (
	// RootFile is the root that goes on devices, relative to the repository.
	RootFile    = "root.json"
	metadataDir = "metadata"
	targetsDir  = "targets"
	timestamp   = "metadata/timestamp.json"
	incoming    = "targets/.incoming.tmp" // a bundle while it is copied and verified

	maxMetadata = 64 << 20
	// MaxTargets is how long the list of releases may be, in bytes: a device
	// reads no longer one.
	MaxTargets = 5_000_000

	keepVersions = 10
	keepFor      = 24 * time.Hour
	// DefaultChannel is the channel of a release that names none.
	DefaultChannel = "stable"
)

func rootName(n int64) string     { return fmt.Sprintf("metadata/%d.root.json", n) }
func targetsName(n int64) string  { return fmt.Sprintf("metadata/%d.targets.json", n) }
func snapshotName(n int64) string { return fmt.Sprintf("metadata/%d.snapshot.json", n) }

// Keys gives what signs for a role: one or several, or an error that wraps
// fs.ErrNotExist.
type Keys interface {
	Signers(role string) ([]signature.Signer, error)
}

// Expiry says for how long metadata is valid once it was signed; a zero field
// means its default. Root and targets are signed by keys that may be offline,
// so they last ten years. Nothing signs snapshot and timestamp anew by itself,
// so they last one year: a publisher that publishes or refreshes more often
// should have them shorter.
type Expiry struct {
	Root, Targets, Snapshot, Timestamp time.Duration
}

const day = 24 * time.Hour

func (e Expiry) withDefaults() Expiry {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&e.Root, 3650*day)
	set(&e.Targets, 3650*day)
	set(&e.Snapshot, 365*day)
	set(&e.Timestamp, 365*day)
	return e
}

// Repository is a repository in a directory. One process at a time may change it.
type Repository struct {
	fs     fsys.FS
	now    func() time.Time
	expiry Expiry
}

// New returns the repository in the directory of fs, which need not be one yet.
// now is the clock that expiry is counted from.
func New(fs fsys.FS, now func() time.Time, expiry Expiry) *Repository {
	return &Repository{fs: fs, now: now, expiry: expiry.withDefaults()}
}

func (r *Repository) expires(d time.Duration) time.Time {
	return r.now().Add(d).UTC().Truncate(time.Second)
}

// Threshold says how many of its keys must sign for a role.
type Threshold struct {
	Role  string
	Count int
}

// roles are those that each repository has.
func roles() []string {
	return []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}
}

// Init makes an empty repository, signed by keys: all of them, for each role,
// of which thresholds says how many must sign; one, where it does not say. It
// returns the path of the root.json that goes on devices.
//
// If there is one already nothing is changed and the error wraps ErrExists.
// After success the repository is durable. After another error or a power cut
// there is no repository yet, and Init can be tried again.
func (r *Repository) Init(keys Keys, thresholds ...Threshold) (string, error) {
	switch _, err := r.fs.Lstat(RootFile); {
	case err == nil:
		return "", fmt.Errorf("%s: a repository %w", r.fs.Path(RootFile), ErrExists)
	case !fsys.IsNotExist(err):
		return "", err
	}
	root := metadata.Root(r.expires(r.expiry.Root))
	for _, role := range roles() {
		public, err := publicKeys(keys, role)
		if err != nil {
			return "", err
		}
		for _, key := range public {
			if err := root.Signed.AddKey(key, role); err != nil {
				return "", fmt.Errorf("%s key: %w", role, err)
			}
		}
	}
	for _, t := range thresholds {
		if err := setThreshold(root, t); err != nil {
			return "", err
		}
	}
	if err := signRoot(root, keys, root); err != nil {
		return "", err
	}
	raw, err := root.ToBytes(false)
	if err != nil {
		return "", err
	}
	trusted, err := trust.ParseRoot(raw)
	if err != nil {
		return "", err
	}
	s := &state{root: trusted, targets: metadata.Targets(r.expires(r.expiry.Targets))}
	files, err := r.documents(s, keys, s.targets, trusted)
	if err != nil {
		return "", err
	}
	for _, dir := range []string{metadataDir, targetsDir} {
		if err := fsys.MkdirAll(r.fs, dir, 0o755); err != nil {
			return "", err
		}
	}
	files = append([]file{{rootName(1), raw}}, files...)
	if err := r.write(append(files, file{RootFile, raw})); err != nil {
		return "", err
	}
	return r.fs.Path(RootFile), nil
}

// setThreshold says how many keys must sign for a role.
func setThreshold(root *metadata.Metadata[metadata.RootType], t Threshold) error {
	role := root.Signed.Roles[t.Role]
	if role == nil {
		return fmt.Errorf("role %.40q: expected root, targets, snapshot or timestamp", t.Role)
	}
	if n := len(role.KeyIDs); t.Count < 1 || t.Count > n {
		return fmt.Errorf("threshold %d for %s: expected 1 to %d, the number of its keys", t.Count, t.Role, n)
	}
	role.Threshold = t.Count
	return nil
}

func publicKey(s signature.Signer, role string) (*metadata.Key, error) {
	public, err := s.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("%s key: %w", role, err)
	}
	return metadata.KeyFromPublicKey(public)
}

func publicKeys(keys Keys, role string) ([]*metadata.Key, error) {
	signers, err := keys.Signers(role)
	if err != nil {
		return nil, err
	}
	var public []*metadata.Key
	for _, s := range signers {
		key, err := publicKey(s, role)
		if err != nil {
			return nil, err
		}
		public = append(public, key)
	}
	return public, nil
}

// names reports whether a root names the key of that id for a role.
func names(root *metadata.Metadata[metadata.RootType], role, id string) bool {
	r := root.Signed.Roles[role]
	return r != nil && slices.Contains(r.KeyIDs, id)
}

// addSignatures lets those of keys sign meta that one of roots names for role.
// Signatures of other keys stay. It says how many signed.
func addSignatures[T metadata.Roles](meta *metadata.Metadata[T], keys Keys, role string, roots ...*metadata.Metadata[metadata.RootType]) (int, error) {
	signers, err := keys.Signers(role)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range signers {
		key, err := publicKey(s, role)
		if err != nil {
			return n, err
		}
		id, err := key.ID()
		if err != nil {
			return n, err
		}
		if !slices.ContainsFunc(roots, func(r *metadata.Metadata[metadata.RootType]) bool { return names(r, role, id) }) {
			continue
		}
		meta.Signatures = slices.DeleteFunc(meta.Signatures, func(s metadata.Signature) bool { return s.KeyID == id })
		if _, err := meta.Sign(s); err != nil {
			return n, fmt.Errorf("sign %s metadata: %w", role, err)
		}
		n++
	}
	return n, nil
}

// signRoot lets the root keys of before and of root itself sign root.
func signRoot(root *metadata.Metadata[metadata.RootType], keys Keys, before *metadata.Metadata[metadata.RootType]) error {
	n, err := addSignatures(root, keys, metadata.ROOT, before, root)
	if fsys.IsNotExist(err) && len(root.Signatures) > 0 {
		return nil // some signed elsewhere; whether that is enough is checked next
	}
	if err == nil && n == 0 {
		err = fmt.Errorf("root key: %w: version %d of the root does not name it", ErrKeys, before.Signed.Version)
	}
	return err
}

// signed signs meta with those of keys that one of roots names, and gives it
// once it carries the signatures that each of roots asks for: what a device
// would refuse is not written.
func signed[T metadata.Roles](meta *metadata.Metadata[T], keys Keys, role string, roots ...*trust.Root) ([]byte, error) {
	var metas []*metadata.Metadata[metadata.RootType]
	for _, r := range roots {
		metas = append(metas, r.Metadata())
	}
	enough := func() error {
		for _, r := range roots {
			if err := trust.Verify(r, role, meta); err != nil {
				return fmt.Errorf("%s key: %w: %w", role, ErrKeys, err)
			}
		}
		return nil
	}
	if len(meta.Signatures) == 0 || enough() != nil { // signed on another machine it needs no key here
		n, err := addSignatures(meta, keys, role, metas...)
		if err != nil && !(fsys.IsNotExist(err) && len(meta.Signatures) > 0) {
			return nil, err
		}
		if n == 0 && len(meta.Signatures) == 0 {
			return nil, fmt.Errorf("%s key: %w: version %d of the root does not name it", role, ErrKeys, roots[len(roots)-1].Version())
		}
		if err := enough(); err != nil {
			return nil, err
		}
	}
	return meta.ToBytes(false)
}

// state is a repository's current metadata, verified.
type state struct {
	root      *trust.Root
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]
	halts     release.Halts // what the snapshot withholds, or the next one shall
	badHalts  error         // what cannot be read of that
}

// Root returns the newest root of the repository, which follows from root.json.
func (r *Repository) Root() (*trust.Root, error) {
	raw, err := fsys.ReadFile(r.fs, RootFile, trust.MaxRoot)
	if fsys.IsNotExist(err) {
		return nil, fmt.Errorf("%s: %w: it has no %s", r.fs.Path("."), ErrNone, RootFile)
	}
	if err != nil {
		return nil, err
	}
	root, err := trust.ParseRoot(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.fs.Path(RootFile), err)
	}
	for {
		name := rootName(root.Version() + 1)
		raw, err := fsys.ReadFile(r.fs, name, trust.MaxRoot)
		if fsys.IsNotExist(err) {
			return root, nil
		}
		if err != nil {
			return nil, err
		}
		if root, err = root.Follow(raw); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", r.fs.Path(name), ErrDamaged, err)
		}
	}
}

// load reads and verifies the current metadata as a device does, but for
// expiry: a repository that lay still for long can be published to again.
func (r *Repository) load() (*state, error) {
	root, err := r.Root()
	if err != nil {
		return nil, err
	}
	s := &state{root: root}
	if s.timestamp, err = read[metadata.TimestampType](r, root, metadata.TIMESTAMP, timestamp, nil); err != nil {
		return nil, err
	}
	pin := s.timestamp.Signed.Meta["snapshot.json"]
	if pin == nil {
		return nil, fmt.Errorf("%s: %w: names no snapshot", r.fs.Path(timestamp), ErrDamaged)
	}
	if s.snapshot, err = read[metadata.SnapshotType](r, root, metadata.SNAPSHOT, snapshotName(pin.Version), pin); err != nil {
		return nil, err
	}
	pin = s.snapshot.Signed.Meta["targets.json"]
	if pin == nil {
		return nil, fmt.Errorf("%s: %w: names no targets", r.fs.Path(snapshotName(s.snapshot.Signed.Version)), ErrDamaged)
	}
	s.halts, s.badHalts = release.HaltsIn(&s.snapshot.Signed)
	s.targets, err = read[metadata.TargetsType](r, root, metadata.TARGETS, targetsName(pin.Version), pin)
	return s, err
}

func read[T metadata.Roles](r *Repository, root *trust.Root, role, name string, pin *metadata.MetaFiles) (*metadata.Metadata[T], error) {
	raw, err := fsys.ReadFile(r.fs, name, maxMetadata)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	damaged := func(err error) error { return fmt.Errorf("%s: %w: %w", r.fs.Path(name), ErrDamaged, err) }
	if pin != nil {
		if err := pin.VerifyLengthHashes(raw); err != nil {
			return nil, damaged(err)
		}
	}
	meta, err := tuf.Decode[T](raw)
	if err != nil {
		return nil, damaged(err)
	}
	if err := trust.Verify(root, role, meta); err != nil {
		return nil, damaged(err)
	}
	return meta, nil
}

func pinned(version int64, raw []byte) *metadata.MetaFiles {
	sum := digest.Of(raw)
	return &metadata.MetaFiles{
		Version: version,
		Length:  int64(len(raw)),
		Hashes:  metadata.Hashes{"sha256": metadata.HexBytes(sum[:])},
	}
}

// verifies reports whether everything in force carries the signatures that root asks for.
func (s *state) verifies(root *trust.Root) bool {
	return s.timestamp != nil &&
		trust.Verify(root, metadata.TIMESTAMP, s.timestamp) == nil &&
		trust.Verify(root, metadata.SNAPSHOT, s.snapshot) == nil &&
		trust.Verify(root, metadata.TARGETS, s.targets) == nil
}

// file is what is to be written.
type file struct {
	name string
	raw  []byte
}

// write writes files in their order, each durably and in one step.
func (r *Repository) write(files []file) error {
	for _, f := range files {
		if err := fsys.WriteFile(r.fs, f.name, f.raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// documents signs a snapshot and a timestamp as new versions, before them
// targets if that is not nil, for devices that trust any of roots, and brings s
// up to date. Of the files that it gives only the timestamp, the last, replaces
// one that devices ask for, so a cut before it leaves the old state, whole.
func (r *Repository) documents(s *state, keys Keys, targets *metadata.Metadata[metadata.TargetsType], roots ...*trust.Root) ([]file, error) {
	var files []file
	snap := metadata.Snapshot(r.expires(r.expiry.Snapshot))
	ts := metadata.Timestamp(r.expires(r.expiry.Timestamp))
	if targets != nil && s.snapshot != nil {
		if err := r.dropHalts(s, targets); err != nil {
			return nil, err
		}
	}
	if s.snapshot != nil {
		snap.Signed.Version = s.snapshot.Signed.Version + 1
		snap.Signed.Meta = maps.Clone(s.snapshot.Signed.Meta) // delegated roles, too
		snap.Signed.UnrecognizedFields = s.snapshot.Signed.UnrecognizedFields
		s.halts.Write(&snap.Signed)
		ts.Signed.Version = s.timestamp.Signed.Version + 1
		ts.Signed.UnrecognizedFields = s.timestamp.Signed.UnrecognizedFields
	}
	if targets != nil {
		raw, err := signed(targets, keys, metadata.TARGETS, roots...)
		if err != nil {
			return nil, err
		}
		if len(raw) > MaxTargets {
			return nil, fmt.Errorf("%w: their list would have %d bytes, and devices read at most %d", ErrTooLarge, len(raw), MaxTargets)
		}
		files = append(files, file{targetsName(targets.Signed.Version), raw})
		snap.Signed.Meta["targets.json"] = pinned(targets.Signed.Version, raw)
		s.targets = targets
	}
	raw, err := signed(snap, keys, metadata.SNAPSHOT, roots...)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxSnapshot {
		return nil, fmt.Errorf("%w: the snapshot would have %d bytes, with what is halted, and devices read at most %d", ErrTooLarge, len(raw), maxSnapshot)
	}
	files = append(files, file{snapshotName(snap.Signed.Version), raw})
	ts.Signed.Meta["snapshot.json"] = pinned(snap.Signed.Version, raw)
	if raw, err = signed(ts, keys, metadata.TIMESTAMP, roots...); err != nil {
		return nil, err
	}
	s.snapshot, s.timestamp = snap, ts
	return append(files, file{timestamp, raw}), nil
}

// next returns targets metadata with the content of s.targets as the next
// version, without a signature. The targets can be changed without changing s.
func (r *Repository) next(s *state) *metadata.Metadata[metadata.TargetsType] {
	t := *s.targets
	t.ClearSignatures()
	t.Signed.Targets = maps.Clone(s.targets.Signed.Targets)
	t.Signed.Version++
	t.Signed.Expires = r.expires(r.expiry.Targets)
	return &t
}

// prune removes metadata that no device can be about to ask for any more. It
// is no error if that fails: the next publishing tries again.
func (r *Repository) prune(s *state) {
	entries, err := r.fs.ReadDir(metadataDir)
	if err != nil {
		return
	}
	now := r.now()
	for _, e := range entries {
		m := versioned.FindStringSubmatch(e.Name)
		if m == nil || e.Type != fsys.TypeFile {
			continue
		}
		current, ok := map[string]int64{metadata.TARGETS: s.targets.Signed.Version, metadata.SNAPSHOT: s.snapshot.Signed.Version}[m[2]]
		n, err := strconv.ParseInt(m[1], 10, 64)
		if !ok || err != nil || n > current-keepVersions || now.Sub(time.Unix(0, e.Mtime)) < keepFor {
			continue
		}
		_ = r.fs.Remove(path.Join(metadataDir, e.Name))
	}
}

// Releases returns what the repository offers, by application and version.
func (r *Repository) Releases() ([]release.Target, error) {
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	return s.releases()
}

func (s *state) releases() ([]release.Target, error) { return releases(s.targets) }

// releases lists what targets metadata has, by application and version.
func releases(targets *metadata.Metadata[metadata.TargetsType]) ([]release.Target, error) {
	list := make([]release.Target, 0, len(targets.Signed.Targets))
	for name, t := range targets.Signed.Targets {
		rel, err := release.ParseTarget(name, t)
		if err != nil {
			return nil, err
		}
		list = append(list, rel)
	}
	sortReleases(list)
	return list, nil
}

func sortReleases(list []release.Target) {
	slices.SortFunc(list, func(a, b release.Target) int {
		if c := strings.Compare(a.App, b.App); c != 0 {
			return c
		}
		if c := a.Version.Compare(b.Version); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
}

// AddOptions say how a release is offered.
type AddOptions struct {
	Channel string // "" means DefaultChannel
	// Rollout is how many per cent of the devices are offered it; nil means all.
	Rollout *int
	// Urgent releases do not wait for a device's maintenance window.
	Urgent bool
	// Deltas are delta bundles of the release, offered as it is to devices that
	// have their base.
	Deltas []Delta
}

// Delta is a delta bundle, and what it builds on.
type Delta struct {
	Src  io.Reader
	Base bundle.Base
}

// Add verifies a bundle as a device would, copies it into the repository and
// publishes it. A bundle of a release that the repository has already, signed or
// cut into frames anew, takes the place of that one and is offered as that was.
// Delta bundles of lower versions in the channel are not offered there any more: a
// device goes to the newest at once. Nor are those of a release whose bundle is replaced,
// as the key that signed them may be of no worth.
//
// Nothing that devices see changes before the bundle was verified whole.
// After success the release is published and durable. After an error or a
// power cut it is either published or not, and devices accept the repository
// in either case; files that nothing leads to may be left, which a later Add
// of the same bundle takes over.
func (r *Repository) Add(ctx context.Context, src io.Reader, keys Keys, o AddOptions) (release.Target, error) {
	s, err := r.load()
	if err != nil {
		return release.Target{}, err
	}
	if err := checkKeys(s.root, keys); err != nil {
		return release.Target{}, err
	}
	rel, c, err := r.stageAdd(ctx, s, src, o)
	if err != nil {
		return release.Target{}, err
	}
	return rel, r.apply(s, c, keys)
}

// StageAdd is Add up to where keys are needed: it gives the change that Apply
// publishes once it is signed. What it copies is durable, and no device is led
// to it before that.
func (r *Repository) StageAdd(ctx context.Context, src io.Reader, o AddOptions) (release.Target, *Change, error) {
	s, err := r.load()
	if err != nil {
		return release.Target{}, nil, err
	}
	return r.stageAdd(ctx, s, src, o)
}

func (r *Repository) stageAdd(ctx context.Context, s *state, src io.Reader, o AddOptions) (release.Target, *Change, error) {
	channel, offering := cmp.Or(o.Channel, DefaultChannel), release.Offering{Rollout: 100}
	if o.Rollout != nil {
		offering.Rollout = *o.Rollout
	}
	if err := errors.Join(checkPercent(offering.Rollout), checkChannel(channel)); err != nil {
		return release.Target{}, nil, err
	}
	rel := release.Target{Channels: map[string]release.Offering{channel: offering}, Urgent: o.Urgent}
	targets := r.next(s)
	if err := r.list(ctx, s, targets, src, &rel, nil); err != nil {
		return release.Target{}, nil, err
	}
	if err := s.dropDeltas(targets, &rel); err != nil {
		return release.Target{}, nil, err
	}
	if err := r.listDeltas(ctx, s, targets, &rel, o.Deltas); err != nil {
		return release.Target{}, nil, err
	}
	if err := tidyDeltas(targets); err != nil {
		return release.Target{}, nil, err
	}
	c, err := r.change(s, nil, targets)
	if err != nil {
		return release.Target{}, nil, err
	}
	return rel, c, r.fs.SyncDir(targetsDir)
}

// list copies a bundle into the repository, durably but for the directory, and puts
// it on the list.
func (r *Repository) list(ctx context.Context, s *state, targets *metadata.Metadata[metadata.TargetsType], src io.Reader, rel *release.Target, base bundle.Base) error {
	err := r.receive(ctx, src, s, rel, base)
	if err == nil {
		targets.Signed.Targets[rel.Name], err = targetOf(rel)
	}
	if err == nil {
		err = r.fs.Rename(incoming, File(*rel))
	}
	if err != nil {
		_ = r.fs.Remove(incoming) // the first error is the one to report
	}
	return err
}

// listDeltas is list for delta bundles of rel, which are offered as it is.
func (r *Repository) listDeltas(ctx context.Context, s *state, targets *metadata.Metadata[metadata.TargetsType], rel *release.Target, deltas []Delta) error {
	for _, d := range deltas {
		delta := release.Target{Channels: rel.Channels, Urgent: rel.Urgent, Yanked: rel.Yanked, Recall: rel.Recall}
		if err := r.list(ctx, s, targets, d.Src, &delta, d.Base); err != nil {
			return fmt.Errorf("delta bundle: %w", err)
		}
		if delta.Release != rel.Release {
			return fmt.Errorf("%w: the delta bundle from %s makes the release %s: expected %s", ErrChange, delta.Base, delta.Release, rel.Release)
		}
	}
	return nil
}

// dropDeltas takes the delta bundles off the list that make rel, whose bundle is
// being replaced.
func (s *state) dropDeltas(targets *metadata.Metadata[metadata.TargetsType], rel *release.Target) error {
	all, err := s.releases()
	if err != nil {
		return err
	}
	for _, old := range all {
		if !old.Base.IsZero() && old.Release == rel.Release {
			delete(targets.Signed.Targets, old.Name)
		}
	}
	return nil
}

// tidyDeltas takes each delta bundle out of the channels that offer a higher
// version to the same devices, and off the list where none is left: a device goes to
// the newest at once.
func tidyDeltas(targets *metadata.Metadata[metadata.TargetsType]) error {
	all, err := releases(targets)
	if err != nil {
		return err
	}
	for i := range all {
		delta := &all[i]
		if delta.Base.IsZero() {
			continue
		}
		left := len(delta.Channels)
		for _, channel := range delta.ChannelNames() {
			if !slices.ContainsFunc(all, func(by release.Target) bool { return outdates(&by, delta, channel) }) {
				continue
			}
			if left--; left == 0 {
				delete(targets.Signed.Targets, delta.Name)
				break
			}
			if err := customChannel(targets.Signed.Targets, delta.Name, channel, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// outdates reports whether a channel offers a higher version to devices that a
// delta bundle is for.
func outdates(by, delta *release.Target, channel string) bool {
	o, ok := by.Channels[channel]
	return ok && !o.Yanked && !by.Yanked && by.Base.IsZero() && by.App == delta.App && by.Kind == delta.Kind &&
		by.Version.Compare(delta.Version) > 0 && shareHardware(by, delta)
}

func shareHardware(a, b *release.Target) bool {
	return slices.ContainsFunc(a.Compatible, func(c string) bool { return slices.Contains(b.Compatible, c) })
}

// DeltaBases returns the last n releases on a channel that are lower than the one that
// m describes, the highest first, those that devices are likely to have; but not
// those that a delta bundle of it builds on already.
func (r *Repository) DeltaBases(m *release.Manifest, channel string, n int) ([]release.Target, error) {
	all, err := r.Releases()
	if err != nil {
		return nil, err
	}
	channel = cmp.Or(channel, DefaultChannel)
	want := release.Target{Compatible: m.Compatible}
	has := func(old *release.Target) bool {
		return slices.ContainsFunc(all, func(d release.Target) bool {
			return d.App == m.App && d.Version.String() == m.Version.String() && d.Base.String() == old.Version.String() && shareHardware(&d, &want)
		})
	}
	var list []release.Target
	left := n
	for _, old := range slices.Backward(all) {
		o, ok := old.Channels[channel]
		if left > 0 && ok && !o.Yanked && !old.Yanked && old.Base.IsZero() && old.Kind != release.Firmware && old.Kind == m.Kind && old.App == m.App &&
			old.Version.Compare(m.Version) < 0 && shareHardware(&old, &want) {
			left--
			if !has(&old) {
				list = append(list, old)
			}
		}
	}
	return list, nil
}

// Archive opens the whole bundle of a release. Whoever takes it closes it.
func (r *Repository) Archive(ctx context.Context, rel release.Target) (*bundle.Archive, io.Closer, error) {
	f, err := r.fs.Open(File(rel))
	if err != nil {
		return nil, nil, err
	}
	a, err := bundle.OpenArchive(ctx, f, rel.Length, bundle.Inspect{})
	if err == nil && a.Head.Release() != rel.Release {
		err = fmt.Errorf("%w: it carries the release %s, and targets metadata says %s", ErrDamaged, a.Head.Release(), rel.Release)
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", r.fs.Path(File(rel)), err)
	}
	return a, f, nil
}

func checkPercent(n int) error {
	if n < 0 || n > 100 {
		return fmt.Errorf("rollout %d: expected 0 to 100 per cent", n)
	}
	return nil
}

func checkChannel(name string) error {
	if !release.ValidChannel(name) {
		return fmt.Errorf("channel %.80q: expected up to 128 characters without spaces", name)
	}
	return nil
}

// checkKeys reports whether keys are those that root asks for to publish, before
// anything is copied.
func checkKeys(root *trust.Root, keys Keys) error {
	for _, role := range []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		public, err := publicKeys(keys, role)
		if err != nil {
			return err
		}
		named := map[string]bool{}
		for _, key := range public {
			id, err := key.ID()
			if err != nil {
				return err
			}
			if root.HasKey(role, id) {
				named[id] = true
			}
		}
		need := root.Metadata().Signed.Roles[role].Threshold
		switch {
		case len(named) == 0:
			return fmt.Errorf("%s key: %w: version %d of the root does not name it", role, ErrKeys, root.Version())
		case len(named) < need:
			return fmt.Errorf("%s key: %w: %d of the %d that version %d of the root asks for are here", role, ErrKeys, len(named), need, root.Version())
		}
	}
	return nil
}

// receive copies a bundle to incoming, durably, and verifies it on the way. base is
// what a delta bundle builds on, nil for one that is whole.
func (r *Repository) receive(ctx context.Context, src io.Reader, s *state, rel *release.Target, base bundle.Base) error {
	if err := r.fs.Remove(incoming); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	f, err := r.fs.Create(incoming, 0o644)
	if err != nil {
		return err
	}
	err = r.copyVerified(ctx, f, src, s, rel, base)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func (r *Repository) copyVerified(ctx context.Context, dst io.Writer, src io.Reader, s *state, rel *release.Target, base bundle.Base) error {
	v, err := trust.New(trust.Options{Root: s.root, Time: r.now()})
	if err != nil {
		return err
	}
	h := digest.New()
	b, err := readBundle(io.TeeReader(fsys.InContext(ctx, src), io.MultiWriter(dst, h)), v, base)
	if err != nil {
		return err
	}
	if v.Root().Version() != s.root.Version() {
		return fmt.Errorf("%w: the bundle is signed for version %d of the root, the repository has %d", trust.ErrUntrusted, v.Root().Version(), s.root.Version())
	}
	m := b.Manifest()
	rel.Kind, rel.App, rel.Version, rel.Compatible = m.Kind, m.App, m.Version, m.Compatible
	rel.Release, rel.Head = b.Release(), b.Length()
	if d := b.Parts().Delta; d != nil {
		rel.Base, rel.Head = d.Base.Version, 0 // it is fetched whole
	}
	_, rel.Unpacked = m.Content()
	old, err := s.choose(rel)
	if err != nil {
		return err
	}
	again := old != nil && old.Release == rel.Release
	if old != nil && !again {
		return published(rel, old)
	}
	if err := b.Finish(); err != nil {
		return err
	}
	rel.Length, rel.SHA256 = b.Size(), digest.Sum(h)
	if again {
		if rel.SHA256 == old.SHA256 {
			return published(rel, old)
		}
		rel.Name, rel.Channels, rel.Yanked, rel.Recall, rel.Urgent = old.Name, old.Channels, old.Yanked, old.Recall, old.Urgent
	}
	return nil
}

// readBundle reads a bundle up to its payload; a delta bundle if there is a base.
func readBundle(src io.Reader, v bundle.Verifier, base bundle.Base) (*bundle.Reader, error) {
	if base == nil {
		return bundle.NewReader(src, v)
	}
	return bundle.NewReaderOn(src, v, base)
}

func published(rel, old *release.Target) error {
	if old.Release == rel.Release {
		for name := range rel.Channels {
			if _, ok := old.Channels[name]; !ok {
				return fmt.Errorf("%s %s %w in the repository: promote it, to have it in the channel %s, too", rel.App, rel.Version, ErrExists, name)
			}
		}
	}
	common := slices.IndexFunc(rel.Compatible, func(c string) bool { return slices.Contains(old.Compatible, c) })
	return fmt.Errorf("%s %s for %s %w in the repository: raise the version to publish a change", rel.App, rel.Version, rel.Compatible[common], ErrExists)
}

// choose names a release's target, or gives the release that the repository
// has for the same devices already.
func (s *state) choose(rel *release.Target) (*release.Target, error) {
	all, err := s.releases()
	if err != nil {
		return nil, err
	}
	for _, old := range all {
		if old.App != rel.App || old.Version.Compare(rel.Version) != 0 || old.Base.Compare(rel.Base) != 0 || old.Kind != rel.Kind {
			continue
		}
		if shareHardware(&old, rel) {
			return &old, nil
		}
	}
	name := rel.App + "-" + rel.Version.String()
	if !rel.Base.IsZero() {
		name += "-from-" + rel.Base.String()
	}
	if s.targets.Signed.Targets[name+extension] != nil { // the same version for other hardware
		name += "-for-" + plain(rel.Compatible[0])
	}
	rel.Name = name + extension
	if !release.ValidName(rel.Name) || s.targets.Signed.Targets[rel.Name] != nil {
		return nil, fmt.Errorf("target %.200q %w or is too long a name", rel.Name, ErrExists)
	}
	return nil, nil
}

const extension = ".tandem"

// plain keeps the characters of a hardware name that suit a file's name.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("._-", r):
			return r
		}
		return '_'
	}, s)
}

// Carried returns the roots that a bundle signed for root should carry, so that
// a device with an older one can follow: root and those before it, down to
// version 2, as far as they lie in dir or in dir's metadata/. No device needs
// version 1 from a bundle.
func Carried(dir fsys.FS, root *trust.Root) (roots [][]byte, first int64, err error) {
	if root.Version() < 2 {
		return nil, 0, nil
	}
	roots, first = [][]byte{root.Bytes()}, root.Version()
	for first > 2 {
		raw, name, err := readRoot(dir, first-1)
		if err != nil {
			return nil, 0, err
		}
		if raw == nil {
			break
		}
		older, err := trust.ParseRoot(raw)
		if err == nil {
			_, err = older.Follow(roots[0])
		}
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w: %w", dir.Path(name), ErrDamaged, err)
		}
		roots, first = slices.Insert(roots, 0, raw), first-1
	}
	return roots, first, nil
}

func readRoot(dir fsys.FS, n int64) (raw []byte, name string, err error) {
	for _, name := range []string{rootName(n), path.Base(rootName(n))} {
		raw, err := fsys.ReadFile(dir, name, trust.MaxRoot)
		if !fsys.IsNotExist(err) {
			return raw, name, err
		}
	}
	return nil, "", nil
}
