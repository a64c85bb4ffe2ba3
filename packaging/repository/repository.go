// Package repository publishes releases: a TUF repository with consistent
// snapshots, made of plain files that any web server can serve.
//
//	root.json                       the root that goes on devices
//	metadata/<N>.root.json          each root there was
//	metadata/<N>.targets.json       the releases
//	metadata/<N>.snapshot.json      which targets metadata is current, by length and hash
//	metadata/timestamp.json         which snapshot is current; the only file that changes
//	targets/<SHA-256>.<name>        the bundles
//
// Files are written in such an order, each durably and in one step, that a
// power cut at any instant leaves either the old or the new state: what
// timestamp.json leads to is always there.
package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
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
	// DefaultChannel is the channel of a release that names none.
	DefaultChannel = "stable"
)

func rootName(n int64) string     { return fmt.Sprintf("metadata/%d.root.json", n) }
func targetsName(n int64) string  { return fmt.Sprintf("metadata/%d.targets.json", n) }
func snapshotName(n int64) string { return fmt.Sprintf("metadata/%d.snapshot.json", n) }

// Keys gives what signs for a role.
type Keys interface {
	Signer(role string) (signature.Signer, error)
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

// New gives the repository in the directory of fs, which need not be one yet.
// now is the clock that expiry is counted from.
func New(fs fsys.FS, now func() time.Time, expiry Expiry) *Repository {
	return &Repository{fs: fs, now: now, expiry: expiry.withDefaults()}
}

func (r *Repository) expires(d time.Duration) time.Time {
	return r.now().Add(d).UTC().Truncate(time.Second)
}

// Init makes an empty repository, signed by keys. It returns the path of the
// root.json that goes on devices.
//
// If there is one already nothing is changed and the error wraps ErrExists.
// After success the repository is durable. After another error or a power cut
// there is no repository yet, and Init can be tried again.
func (r *Repository) Init(keys Keys) (string, error) {
	switch _, err := r.fs.Lstat(RootFile); {
	case err == nil:
		return "", fmt.Errorf("%s: a repository %w", r.fs.Path(RootFile), ErrExists)
	case !fsys.IsNotExist(err):
		return "", err
	}
	root := metadata.Root(r.expires(r.expiry.Root))
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		key, err := publicKey(keys, role)
		if err != nil {
			return "", err
		}
		if err := root.Signed.AddKey(key, role); err != nil {
			return "", fmt.Errorf("%s key: %w", role, err)
		}
	}
	raw, err := sign(keys, metadata.ROOT, root)
	if err != nil {
		return "", err
	}
	trusted, err := trust.ParseRoot(raw)
	if err != nil {
		return "", err
	}
	for _, dir := range []string{metadataDir, targetsDir} {
		if err := fsys.MkdirAll(r.fs, dir, 0o755); err != nil {
			return "", err
		}
	}
	if err := fsys.WriteFile(r.fs, rootName(1), raw, 0o644); err != nil {
		return "", err
	}
	s := &state{root: trusted, targets: metadata.Targets()}
	s.targets.Signed.Version = 0
	if err := r.publish(keys, s); err != nil {
		return "", err
	}
	if err := fsys.WriteFile(r.fs, RootFile, raw, 0o644); err != nil {
		return "", err
	}
	return r.fs.Path(RootFile), nil
}

func publicKey(keys Keys, role string) (*metadata.Key, error) {
	signer, err := keys.Signer(role)
	if err != nil {
		return nil, err
	}
	public, err := signer.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("%s key: %w", role, err)
	}
	return metadata.KeyFromPublicKey(public)
}

func sign[T metadata.Roles](keys Keys, role string, meta *metadata.Metadata[T]) ([]byte, error) {
	signer, err := keys.Signer(role)
	if err != nil {
		return nil, err
	}
	meta.ClearSignatures()
	if _, err := meta.Sign(signer); err != nil {
		return nil, fmt.Errorf("sign %s metadata: %w", role, err)
	}
	return meta.ToBytes(false)
}

// signChecked is sign for a role whose key must be one that root names: what a
// device would refuse is not written.
func signChecked[T metadata.Roles](root *trust.Root, keys Keys, role string, meta *metadata.Metadata[T]) ([]byte, error) {
	raw, err := sign(keys, role, meta)
	if err != nil {
		return nil, err
	}
	if err := trust.Verify(root, role, meta); err != nil {
		return nil, fmt.Errorf("%s key: %w: %w", role, ErrKeys, err)
	}
	return raw, nil
}

// state is a repository's current metadata, verified.
type state struct {
	root      *trust.Root
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]
}

// Root gives the newest root of the repository, which follows from root.json.
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

// publish signs s.targets as a new version, and a snapshot and a timestamp for
// it, and writes them in this order. Only the timestamp replaces a file that
// devices ask for, so a cut before it leaves the old state, whole.
func (r *Repository) publish(keys Keys, s *state) error {
	snapshotVersion, timestampVersion := int64(1), int64(1)
	if s.snapshot != nil {
		snapshotVersion = s.snapshot.Signed.Version + 1
		timestampVersion = s.timestamp.Signed.Version + 1
	}
	s.targets.Signed.Version++
	s.targets.Signed.Expires = r.expires(r.expiry.Targets)
	targets, err := signChecked(s.root, keys, metadata.TARGETS, s.targets)
	if err != nil {
		return err
	}
	snap := metadata.Snapshot(r.expires(r.expiry.Snapshot))
	snap.Signed.Version = snapshotVersion
	snap.Signed.Meta["targets.json"] = pinned(s.targets.Signed.Version, targets)
	snapshot, err := signChecked(s.root, keys, metadata.SNAPSHOT, snap)
	if err != nil {
		return err
	}
	ts := metadata.Timestamp(r.expires(r.expiry.Timestamp))
	ts.Signed.Version = timestampVersion
	ts.Signed.Meta["snapshot.json"] = pinned(snapshotVersion, snapshot)
	stamped, err := signChecked(s.root, keys, metadata.TIMESTAMP, ts)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		raw  []byte
	}{
		{targetsName(s.targets.Signed.Version), targets},
		{snapshotName(snapshotVersion), snapshot},
		{timestamp, stamped},
	} {
		if err := fsys.WriteFile(r.fs, f.name, f.raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Releases gives what the repository offers, by application and version.
func (r *Repository) Releases() ([]Release, error) {
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	return s.releases()
}

func (s *state) releases() ([]Release, error) {
	list := make([]Release, 0, len(s.targets.Signed.Targets))
	for name, t := range s.targets.Signed.Targets {
		rel, err := ParseRelease(name, t)
		if err != nil {
			return nil, err
		}
		list = append(list, rel)
	}
	slices.SortFunc(list, func(a, b Release) int {
		if c := strings.Compare(a.App, b.App); c != 0 {
			return c
		}
		if c := a.Version.Compare(b.Version); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list, nil
}

// AddOptions say how a release is offered.
type AddOptions struct {
	Channel string // "" means DefaultChannel
	// Rollout is how many per cent of the devices are offered it; nil means all.
	Rollout *int
}

// Add verifies a bundle as a device would, copies it into the repository and
// publishes it.
//
// Nothing that devices see changes before the bundle was verified whole.
// After success the release is published and durable. After an error or a
// power cut it is either published or not, and devices accept the repository
// in either case; files that nothing leads to may be left, which a later Add
// of the same bundle takes over.
func (r *Repository) Add(ctx context.Context, src io.Reader, keys Keys, o AddOptions) (Release, error) {
	s, err := r.load()
	if err != nil {
		return Release{}, err
	}
	rel := Release{Channel: o.Channel, Rollout: 100}
	if rel.Channel == "" {
		rel.Channel = DefaultChannel
	}
	if o.Rollout != nil {
		rel.Rollout = *o.Rollout
	}
	if rel.Rollout < 0 || rel.Rollout > 100 {
		return Release{}, fmt.Errorf("rollout %d: expected 0 to 100 per cent", rel.Rollout)
	}
	if err := checkKeys(s.root, keys); err != nil {
		return Release{}, err
	}
	if err := r.take(ctx, src, s, &rel); err != nil {
		_ = r.fs.Remove(incoming) // the first error is the one to report
		return Release{}, err
	}
	if err := r.fs.Rename(incoming, rel.File()); err != nil {
		return Release{}, err
	}
	if err := r.fs.SyncDir(targetsDir); err != nil {
		return Release{}, err
	}
	target, err := rel.target()
	if err != nil {
		return Release{}, err
	}
	s.targets.Signed.Targets[rel.Name] = target
	return rel, r.publish(keys, s)
}

// checkKeys says whether keys are those that root names for publishing, before
// anything is copied.
func checkKeys(root *trust.Root, keys Keys) error {
	for _, role := range []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		key, err := publicKey(keys, role)
		if err != nil {
			return err
		}
		id, err := key.ID()
		if err != nil {
			return err
		}
		if !root.HasKey(role, id) {
			return fmt.Errorf("%s key: %w: version %d of the root does not name it", role, ErrKeys, root.Version())
		}
	}
	return nil
}

// take copies a bundle to incoming, durably, and verifies it on the way.
func (r *Repository) take(ctx context.Context, src io.Reader, s *state, rel *Release) error {
	if err := r.fs.Remove(incoming); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	f, err := r.fs.Create(incoming, 0o644)
	if err != nil {
		return err
	}
	err = r.copyVerified(ctx, f, src, s, rel)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func (r *Repository) copyVerified(ctx context.Context, dst io.Writer, src io.Reader, s *state, rel *Release) error {
	v, err := trust.New(trust.Options{Root: s.root, Time: r.now()})
	if err != nil {
		return err
	}
	h := digest.New()
	out := &counter{w: io.MultiWriter(dst, h)}
	b, err := bundle.NewReader(io.TeeReader(bundle.InContext(ctx, src), out), v)
	if err != nil {
		return err
	}
	if v.Root().Version() != s.root.Version() {
		return fmt.Errorf("%w: the bundle is signed for version %d of the root, the repository has %d", trust.ErrUntrusted, v.Root().Version(), s.root.Version())
	}
	m := b.Manifest()
	rel.Kind, rel.App, rel.Version, rel.Compatible, rel.Base = m.Kind, m.App, m.Version, m.Compatible, m.Base
	if err := s.choose(rel); err != nil {
		return err
	}
	if err := b.Finish(); err != nil {
		return err
	}
	rel.Length, rel.SHA256 = out.n, digest.Sum(h)
	return nil
}

// choose names a release's target, or says that the repository has one for
// the same devices already.
func (s *state) choose(rel *Release) error {
	all, err := s.releases()
	if err != nil {
		return err
	}
	for _, old := range all {
		if old.App != rel.App || old.Version.Compare(rel.Version) != 0 || old.Base.Compare(rel.Base) != 0 || old.Kind != rel.Kind {
			continue
		}
		for _, c := range rel.Compatible {
			if slices.Contains(old.Compatible, c) {
				return fmt.Errorf("%s %s for %s %w in the repository: raise the version to publish a change", rel.App, rel.Version, c, ErrExists)
			}
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
	if !validTargetName(rel.Name) || s.targets.Signed.Targets[rel.Name] != nil {
		return fmt.Errorf("target %.200q %w or is too long a name", rel.Name, ErrExists)
	}
	return nil
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

// Carried gives the roots that a bundle signed for root should carry, so that
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

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
