package repository

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/fsys"
	"tandem/internal/text"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/packaging/tuf"
)

// Sentinels of changes.
var (
	// ErrChange says that a file holds no change that can be signed or applied.
	ErrChange = errors.New("not a change of a repository")
	// ErrStale says that a repository has changed since a change of it was staged.
	ErrStale = errors.New("the repository has changed since")
)

const (
	changeFormat = 1
	// MaxChange is how long a change may be, in bytes.
	MaxChange = 4 * MaxTargets
)

// Change is a change of a repository: what root and targets keys sign. It can
// be applied at once where these keys are, or go as a file to the machines that
// hold them and back.
type Change struct {
	chain   []*trust.Root // the repository's, oldest first
	before  *metadata.Metadata[metadata.TargetsType]
	roots   []*metadata.Metadata[metadata.RootType]  // to be added
	targets *metadata.Metadata[metadata.TargetsType] // to be published; nil: none
}

// changeFile is a Change as it is written.
type changeFile struct {
	Format  int               `json:"tandem_change"`
	Chain   []json.RawMessage `json:"chain"`
	Before  json.RawMessage   `json:"before"`
	Roots   []json.RawMessage `json:"roots,omitempty"`
	Targets json.RawMessage   `json:"targets,omitempty"`
}

// change returns the change of s that adds roots and publishes targets.
func (r *Repository) change(s *state, roots []*metadata.Metadata[metadata.RootType], targets *metadata.Metadata[metadata.TargetsType]) (*Change, error) {
	c := &Change{chain: []*trust.Root{s.root}, before: s.targets, roots: roots, targets: targets}
	for n := s.root.Version() - 1; n > 0; n-- {
		raw, err := fsys.ReadFile(r.fs, rootName(n), trust.MaxRoot)
		if fsys.IsNotExist(err) {
			break
		}
		if err != nil {
			return nil, err
		}
		older, err := trust.ParseRoot(raw)
		if err == nil {
			_, err = older.Follow(c.chain[0].Bytes())
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", r.fs.Path(rootName(n)), ErrDamaged, err)
		}
		c.chain = slices.Insert(c.chain, 0, older)
	}
	if targets != nil {
		raw, err := targets.ToBytes(false)
		if err != nil {
			return nil, err
		}
		if len(raw) > MaxTargets {
			return nil, fmt.Errorf("%w: their list would have %d bytes, and devices read at most %d", ErrTooLarge, len(raw), MaxTargets)
		}
	}
	return c, nil
}

// Encode returns the change as a file's content.
func (c *Change) Encode() ([]byte, error) {
	f := changeFile{Format: changeFormat}
	for _, r := range c.chain {
		f.Chain = append(f.Chain, r.Bytes())
	}
	var err error
	if f.Before, err = c.before.ToBytes(false); err != nil {
		return nil, err
	}
	for _, r := range c.roots {
		raw, err := r.ToBytes(false)
		if err != nil {
			return nil, err
		}
		f.Roots = append(f.Roots, raw)
	}
	if c.targets != nil {
		if f.Targets, err = c.targets.ToBytes(false); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(f)
	return append(raw, '\n'), err
}

// ParseChange reads what Encode gave, and checks that it holds together: its
// roots follow from each other, the list of releases that it starts from is
// signed, and what it would publish comes next. Whether it is about the right
// repository Check says. The error wraps ErrChange.
func ParseChange(data []byte) (*Change, error) {
	c, err := parseChange(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChange, err)
	}
	return c, nil
}

func parseChange(data []byte) (*Change, error) {
	if err := tuf.Check(data); err != nil {
		return nil, err
	}
	var f changeFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Format != changeFormat {
		return nil, fmt.Errorf("format %d: expected %d; a newer tandem-release may know it", f.Format, changeFormat)
	}
	if len(f.Chain) == 0 || len(f.Roots) > 2 || len(f.Roots) == 0 && f.Targets == nil {
		return nil, errors.New("expected the roots of a repository and something to sign")
	}
	c := &Change{}
	root, err := trust.ParseRoot(f.Chain[0])
	if err != nil {
		return nil, err
	}
	c.chain = append(c.chain, root)
	for _, raw := range f.Chain[1:] {
		if root, err = root.Follow(raw); err != nil {
			return nil, err
		}
		c.chain = append(c.chain, root)
	}
	if c.before, err = tuf.Decode[metadata.TargetsType](f.Before); err != nil {
		return nil, fmt.Errorf("targets metadata before: %w", err)
	}
	if err := trust.Verify(root, metadata.TARGETS, c.before); err != nil {
		return nil, err
	}
	for i, raw := range f.Roots {
		next, err := trust.DecodeRoot(raw)
		if err != nil {
			return nil, err
		}
		if want := root.Version() + 1 + int64(i); next.Signed.Version != want || !next.Signed.ConsistentSnapshot {
			return nil, fmt.Errorf("a root with version %d: expected version %d, with consistent snapshots", next.Signed.Version, want)
		}
		c.roots = append(c.roots, next)
	}
	if f.Targets == nil {
		return c, nil
	}
	if c.targets, err = tuf.Decode[metadata.TargetsType](f.Targets); err != nil {
		return nil, fmt.Errorf("targets metadata: %w", err)
	}
	if want := c.before.Signed.Version + 1; c.targets.Signed.Version != want || !tuf.SameDelegations(c.before, c.targets) {
		return nil, fmt.Errorf("targets metadata with version %d: expected version %d, with the delegations as they are", c.targets.Signed.Version, want)
	}
	for name, t := range c.targets.Signed.Targets {
		// A bundle's own targets metadata, signed by the same key, would pass
		// for a list of releases otherwise, and the other way round.
		if _, err := release.ParseTarget(name, t); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Check reports whether the change is about the repository that trusted is a root
// of. The error wraps trust.ErrUntrusted.
func (c *Change) Check(trusted *trust.Root) error {
	for _, r := range c.chain {
		var err error
		switch {
		case r.Version() < trusted.Version():
			continue
		case r.Version() > trusted.Version():
			trusted, err = trusted.Follow(r.Bytes())
		case !bytes.Equal(r.Bytes(), trusted.Bytes()):
			err = fmt.Errorf("%w: the change is about a repository with another root", trust.ErrUntrusted)
		}
		if err != nil {
			return err
		}
	}
	if last := c.chain[len(c.chain)-1]; last.Version() < trusted.Version() {
		return fmt.Errorf("%w: the change is about version %d of the root, and version %d is trusted here", trust.ErrUntrusted, last.Version(), trusted.Version())
	}
	return nil
}

// Sign lets those of keys sign that are asked for, and says how many
// signatures that gave. Roles that keys have no key of are left out.
func (c *Change) Sign(keys Keys) (int, error) {
	present := c.chain[len(c.chain)-1].Metadata()
	total, before := 0, present
	for _, root := range c.roots {
		n, err := addSignatures(root, keys, metadata.ROOT, before, root)
		if err != nil && !fsys.IsNotExist(err) {
			return total, err
		}
		total, before = total+n, root
	}
	if c.targets == nil {
		return total, nil
	}
	n, err := addSignatures(c.targets, keys, metadata.TARGETS, append([]*metadata.Metadata[metadata.RootType]{present}, c.roots...)...)
	if err != nil && !fsys.IsNotExist(err) {
		return total, err
	}
	return total + n, nil
}

// Missing lists the signatures of root and targets keys that the change still
// lacks, for people. It counts signatures and does not verify them.
func (c *Change) Missing() []string {
	var lacks []string
	count := func(what string, signatures []metadata.Signature, root *metadata.Metadata[metadata.RootType], role string) {
		have := 0
		for _, s := range signatures {
			if names(root, role, s.KeyID) {
				have++
			}
		}
		if need := root.Signed.Roles[role].Threshold; have < need {
			lacks = append(lacks, fmt.Sprintf("%s has %d of the %d signatures of %s keys that version %d of the root asks for", what, have, need, role, root.Signed.Version))
		}
	}
	before := c.chain[len(c.chain)-1].Metadata()
	for _, root := range c.roots {
		what := fmt.Sprintf("version %d of the root", root.Signed.Version)
		count(what, root.Signatures, before, metadata.ROOT)
		if !sameKeys(before.Signed.Roles[metadata.ROOT], root.Signed.Roles[metadata.ROOT]) {
			count(what, root.Signatures, root, metadata.ROOT)
		}
		before = root
	}
	if c.targets != nil {
		count("the list of releases", c.targets.Signatures, before, metadata.TARGETS)
	}
	return lacks
}

// Describe says what the change does, line by line, from what is signed and
// nothing else.
func (c *Change) Describe() []string {
	var lines []string
	before := c.chain[len(c.chain)-1].Metadata()
	for _, root := range c.roots {
		lines = append(lines, describeRoot(before, root)...)
		before = root
	}
	if c.targets == nil {
		return lines
	}
	lines = append(lines, fmt.Sprintf("list of releases: version %d, %s, valid until %s", c.targets.Signed.Version, text.Count(len(c.targets.Signed.Targets), "release"), c.targets.Signed.Expires.Format("2006-01-02")))
	names := maps.Clone(c.before.Signed.Targets)
	maps.Copy(names, c.targets.Signed.Targets)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		old, now := describeTarget(name, c.before.Signed.Targets[name]), describeTarget(name, c.targets.Signed.Targets[name])
		switch {
		case old == now:
		case old == "":
			lines = append(lines, "  adds     "+now)
		case now == "":
			lines = append(lines, "  removes  "+old)
		default:
			lines = append(lines, "  replaces "+old, "  by       "+now)
		}
	}
	return lines
}

func describeTarget(name string, t *metadata.TargetFiles) string {
	if t == nil {
		return ""
	}
	r, err := release.ParseTarget(name, t)
	if err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("%s %s (%s) for %s", r.App, r.Version, r.Kind, strings.Join(r.Compatible, ", "))
	for _, name := range r.ChannelNames() {
		o := r.Channels[name]
		text += fmt.Sprintf(", channel %s %d %%", name, o.Rollout)
		if o.Yanked {
			text += " (yanked)"
		}
	}
	if r.Urgent {
		text += ", urgent"
	}
	if r.Yanked {
		text += ", yanked"
	}
	if c := r.Recall; c != nil {
		text += fmt.Sprintf(", recalled from %d %% of devices", c.Rollout)
		if !c.To.IsZero() {
			text += " to " + c.To.String()
		}
	}
	return fmt.Sprintf("%s, %d bytes, SHA-256 %s", text, r.Length, r.SHA256)
}

func describeRoot(old, now *metadata.Metadata[metadata.RootType]) []string {
	lines := []string{fmt.Sprintf("root: version %d, valid until %s", now.Signed.Version, now.Signed.Expires.Format("2006-01-02"))}
	for _, role := range roles() {
		a, b := old.Signed.Roles[role], now.Signed.Roles[role]
		for _, id := range a.KeyIDs {
			if !slices.Contains(b.KeyIDs, id) {
				lines = append(lines, fmt.Sprintf("  removes  %s key %s", role, id))
			}
		}
		for _, id := range b.KeyIDs {
			if !slices.Contains(a.KeyIDs, id) {
				lines = append(lines, fmt.Sprintf("  adds     %s key %s", role, id))
			}
		}
		if a.Threshold != b.Threshold {
			lines = append(lines, fmt.Sprintf("  asks for %d signatures of %s keys, not %d", b.Threshold, role, a.Threshold))
		}
	}
	return lines
}

// Apply publishes a change: it lets keys sign what is not signed yet, and
// signs snapshot and timestamp.
//
// Nothing is written before all signatures are there; without them the error
// wraps ErrKeys. If the repository has changed since the change was staged it
// wraps ErrStale. After success everything is durable. After another error or
// a power cut devices accept the repository, at the state before, after, or
// between two steps of the change, and Apply of the same change goes on.
func (r *Repository) Apply(c *Change, keys Keys) error {
	s, err := r.load()
	if err != nil {
		return err
	}
	return r.apply(s, c, keys)
}

func (r *Repository) apply(s *state, c *Change, keys Keys) error {
	roots, targets, err := r.outstanding(s, c)
	if err != nil {
		return err
	}
	files, err := r.plan(s, keys, roots, targets)
	if err != nil {
		return err
	}
	return r.publish(s, files)
}

// outstanding returns the part of a change that s does not have yet.
func (r *Repository) outstanding(s *state, c *Change) ([]*metadata.Metadata[metadata.RootType], *metadata.Metadata[metadata.TargetsType], error) {
	present := c.chain[len(c.chain)-1].Metadata()
	if s.root.Version() == present.Signed.Version && !sameSigned(s.root.Metadata(), present) {
		return nil, nil, fmt.Errorf("%w: it has another version %d of the root", ErrStale, s.root.Version())
	}
	roots := c.roots
	for len(roots) > 0 && roots[0].Signed.Version <= s.root.Version() {
		raw, err := fsys.ReadFile(r.fs, rootName(roots[0].Signed.Version), trust.MaxRoot)
		if err != nil {
			return nil, nil, err
		}
		if have, err := trust.DecodeRoot(raw); err != nil || !sameSigned(have, roots[0]) {
			return nil, nil, fmt.Errorf("%w: it has another version %d of the root", ErrStale, roots[0].Signed.Version)
		}
		roots, present = roots[1:], roots[0]
	}
	if s.root.Version() != present.Signed.Version {
		return nil, nil, fmt.Errorf("%w: it has version %d of the root, the change is for version %d", ErrStale, s.root.Version(), present.Signed.Version)
	}
	switch {
	case c.targets == nil || c.targets.Signed.Version == s.targets.Signed.Version && sameSigned(c.targets, s.targets):
		return roots, nil, nil
	case c.before != s.targets && !sameSigned(c.before, s.targets):
		return nil, nil, fmt.Errorf("%w: it has version %d of the list of releases, the change is for version %d", ErrStale, s.targets.Signed.Version, c.before.Signed.Version)
	}
	return roots, c.targets, nil
}

// sameSigned reports whether two documents are the same but for signatures.
func sameSigned[T metadata.Roles](a, b *metadata.Metadata[T]) bool {
	x, errA := json.Marshal(a.Signed)
	y, errB := json.Marshal(b.Signed)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

// plan returns the files that take s to the last of roots and to targets, in an
// order in which devices accept every state between them, and brings s up to date.
func (r *Repository) plan(s *state, keys Keys, roots []*metadata.Metadata[metadata.RootType], targets *metadata.Metadata[metadata.TargetsType]) ([]file, error) {
	var files []file
	for _, meta := range roots {
		raw, err := meta.ToBytes(false)
		if err != nil {
			return nil, err
		}
		next, err := s.root.Follow(raw)
		if err != nil {
			if err := signRoot(meta, keys, s.root.Metadata()); err != nil {
				return nil, err
			}
			if raw, err = meta.ToBytes(false); err != nil {
				return nil, err
			}
			if next, err = s.root.Follow(raw); err != nil {
				return nil, fmt.Errorf("root key: %w: %w", ErrKeys, err)
			}
		}
		if !s.verifies(next) {
			if targets == nil && trust.Verify(next, metadata.TARGETS, s.targets) != nil {
				targets = r.next(s)
			}
			more, err := r.documents(s, keys, targets, s.root, next)
			if err != nil {
				return nil, err
			}
			files, targets = append(files, more...), nil
		}
		files = append(files, file{rootName(next.Version()), next.Bytes()})
		s.root = next
	}
	if targets != nil {
		more, err := r.documents(s, keys, targets, s.root)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}
