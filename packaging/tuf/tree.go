package tuf

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"tandem/internal/digest"
)

const (
	// MaxRoles is how many delegated roles are looked at, at most.
	MaxRoles = 32
	// maxDelegations is how many roles one role may delegate to: each is held
	// against the name of each target.
	maxDelegations = 1024
)

// Sentinels of this package.
var (
	// ErrMalformed says that metadata lacks what every document of its role has.
	ErrMalformed = errors.New("malformed metadata")
	// ErrNotListed says that no role in charge of a target lists it.
	ErrNotListed = errors.New("not in the repository")
	// ErrTooMuch says that there are more delegated roles, or that they list
	// more, than is read.
	ErrTooMuch = errors.New("too much is delegated")
	// ErrNotPinned says that the snapshot does not name a delegated role.
	ErrNotPinned = errors.New("delegated, but the snapshot does not name it")
)

// Loader gets the metadata of a delegated role. meta is what the snapshot says
// of it, and limit how many bytes may be read. It returns nil once accept has
// taken a document, and the error of accept, or its own, if there is none.
type Loader func(role string, meta *metadata.MetaFiles, limit int64, accept func([]byte) error) error

// Tree is the targets metadata of a repository: that of the top level, and that
// of the roles that it delegates to, each read when it is first needed. What it
// gives is what the search of the TUF specification (5.6.7) finds: pre-order,
// depth first, terminating delegations heeded, each role once.
//
// Each role must be named by the snapshot and be signed as the role that
// delegates to it asks for, whichever way leads there. What was read, or could
// not be, is remembered: a Tree asks for each role at most once for each way
// that leads to it, for MaxRoles at most. Succinct delegations (TAP 15) are not
// followed.
type Tree struct {
	trusted *trustedmetadata.TrustedMetadata
	load    Loader
	room    int64 // bytes that may still be read
	loads   int
	docs    map[string]*document // by role
	edges   map[edge]error
}

// document is the metadata of a targets role.
type document struct {
	meta *metadata.Metadata[metadata.TargetsType]
	bad  error // why its delegations cannot be followed
}

// edge is a delegation.
type edge struct{ role, by string }

// NewTree makes the Tree below trusted, whose targets metadata must be loaded.
// Of the delegated roles at most room bytes are read.
func NewTree(trusted *trustedmetadata.TrustedMetadata, room int64, load Loader) *Tree {
	top := trusted.Targets[metadata.TARGETS]
	return &Tree{
		trusted: trusted, load: load, room: room, edges: map[edge]error{},
		docs: map[string]*document{metadata.TARGETS: {top, checkDelegations(top.Signed.Delegations)}},
	}
}

// Listed is a target that a repository lists.
type Listed struct {
	Name   string
	Role   string // that lists it
	Target *metadata.TargetFiles
}

// Find returns the target of that name. The error wraps ErrNotListed if there is
// none, and is that of a role which had to be looked at otherwise.
func (t *Tree) Find(name string) (Listed, error) {
	todo := []edge{{metadata.TARGETS, metadata.ROOT}}
	seen := map[string]bool{}
	for len(todo) > 0 {
		e := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[e.role] {
			continue
		}
		seen[e.role] = true
		doc, err := t.follow(e)
		if err != nil {
			return Listed{}, err
		}
		if target := doc.meta.Signed.Targets[name]; target != nil {
			return Listed{name, e.role, target}, nil
		}
		if doc.bad != nil {
			return Listed{}, doc.bad
		}
		var below []edge
		for _, d := range roles(doc) {
			if !covers(&d, name) {
				continue
			}
			below = append(below, edge{d.Name, e.role})
			if d.Terminating {
				todo = nil
				break
			}
		}
		slices.Reverse(below)
		todo = append(todo, below...)
	}
	return Listed{}, fmt.Errorf("%.200q: %w", name, ErrNotListed)
}

// List returns all targets, each as Find gives it, sorted by name. failed says
// why some may be missing: roles that could not be read, in the order in which
// they were come to.
func (t *Tree) List() (targets []Listed, failed []error) {
	var names []string
	todo := []edge{{metadata.TARGETS, metadata.ROOT}}
	seen := map[string]bool{}
	for len(todo) > 0 {
		e := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[e.role] {
			continue
		}
		doc, err := t.follow(e)
		if err != nil { // another way may lead there
			failed = append(failed, err)
			if errors.Is(err, ErrTooMuch) || len(failed) == MaxRoles {
				break
			}
			continue
		}
		seen[e.role] = true
		for name := range doc.meta.Signed.Targets {
			names = append(names, name)
		}
		if doc.bad != nil {
			failed = append(failed, doc.bad)
			continue
		}
		for _, d := range slices.Backward(roles(doc)) {
			todo = append(todo, edge{d.Name, e.role})
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if found, err := t.Find(name); err == nil {
			targets = append(targets, found)
		}
	}
	return targets, failed
}

// Roles returns the delegated roles that were read, sorted.
func (t *Tree) Roles() []string {
	all := slices.Sorted(maps.Keys(t.docs))
	return slices.DeleteFunc(all, func(role string) bool { return role == metadata.TARGETS })
}

// Expires says until when a role that was read is valid.
func (t *Tree) Expires(role string) time.Time { return t.docs[role].meta.Signed.Expires }

// follow returns the metadata that a delegation leads to.
func (t *Tree) follow(e edge) (*document, error) {
	if e.role == metadata.TARGETS { // checked already; nothing delegates to it
		return t.docs[e.role], nil
	}
	err, known := t.edges[e]
	if !known {
		err = t.read(e)
		if err != nil {
			err = fmt.Errorf("delegated role %.200q: %w", e.role, err)
		}
		t.edges[e] = err
	}
	return t.docs[e.role], err
}

// read verifies the metadata that a delegation leads to, and gets it first if
// it is not here.
func (t *Tree) read(e edge) error {
	by := t.docs[e.by].meta
	if doc := t.docs[e.role]; doc != nil { // another delegation led here
		return by.VerifyDelegate(e.role, doc.meta)
	}
	meta := t.trusted.Snapshot.Signed.Meta[e.role+".json"]
	switch {
	case meta == nil:
		return ErrNotPinned
	case t.loads == MaxRoles:
		return fmt.Errorf("%w: more than %d roles", ErrTooMuch, MaxRoles)
	case t.room <= 0:
		return fmt.Errorf("%w: more bytes of metadata than are read", ErrTooMuch)
	}
	t.loads++
	return t.load(e.role, meta, t.room, func(data []byte) error {
		doc, err := t.accept(e.role, by, meta, data)
		if err != nil {
			return err
		}
		t.docs[e.role] = doc
		t.room -= int64(len(data))
		return nil
	})
}

// accept checks the metadata of a role as the client workflow does (5.6.2 to 5.6.6).
func (t *Tree) accept(role string, by *metadata.Metadata[metadata.TargetsType], pin *metadata.MetaFiles, data []byte) (*document, error) {
	if err := pin.VerifyLengthHashes(data); err != nil {
		return nil, err
	}
	meta, err := Decode[metadata.TargetsType](data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := by.VerifyDelegate(role, meta); err != nil {
		return nil, err
	}
	if meta.Signed.Version != pin.Version {
		return nil, &metadata.ErrBadVersionNumber{Msg: fmt.Sprintf("expected version %d, got %d", pin.Version, meta.Signed.Version)}
	}
	if meta.Signed.IsExpired(t.trusted.RefTime) {
		return nil, &metadata.ErrExpiredMetadata{Msg: "expired on " + meta.Signed.Expires.UTC().Format("2006-01-02T15:04:05Z07:00")}
	}
	return &document{meta, checkDelegations(meta.Signed.Delegations)}, nil
}

func roles(d *document) []metadata.DelegatedRole {
	if d.meta.Signed.Delegations == nil {
		return nil
	}
	return d.meta.Signed.Delegations.Roles
}

// checkDelegations says what keeps delegations from being followed. go-tuf
// relies on the keys.
func checkDelegations(d *metadata.Delegations) error {
	if d == nil {
		return nil
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("delegations: %w: %w", ErrMalformed, fmt.Errorf(format, args...))
	}
	for id, key := range d.Keys {
		if err := CheckKey(key); err != nil {
			return fail("key %.12s: %w", id, err)
		}
	}
	if len(d.Roles) > maxDelegations {
		return fmt.Errorf("delegations: %w: %d roles, more than %d", ErrTooMuch, len(d.Roles), maxDelegations)
	}
	names := map[string]bool{}
	for _, r := range d.Roles {
		switch {
		case r.Name == "" || slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], r.Name):
			return fail("a role cannot be named %q", r.Name)
		case names[r.Name]:
			return fail("role %.200q comes twice", r.Name)
		case len(r.Paths) > 0 && len(r.PathHashPrefixes) > 0:
			return fail("role %.200q has both paths and path_hash_prefixes", r.Name)
		}
		names[r.Name] = true
	}
	return nil
}

// CheckKey reports whether go-tuf can verify with a key. It panics on some that
// it reads.
func CheckKey(key *metadata.Key) error {
	if key == nil {
		return errors.New("is missing")
	}
	if _, err := key.ToPublicKey(); err != nil {
		return err
	}
	if key.Type == metadata.KeyTypeEd25519 && hex.DecodedLen(len(key.Value.PublicKey)) != 32 {
		return errors.New("an ed25519 key has 32 bytes")
	}
	return nil
}

// covers reports whether a delegation is about a target. go-tuf 2.4.2 compares
// path_hash_prefixes with another encoding than the specification's.
func covers(d *metadata.DelegatedRole, name string) bool {
	if len(d.Paths) > 0 {
		return slices.ContainsFunc(d.Paths, func(pattern string) bool { return matches(pattern, name) })
	}
	if len(d.PathHashPrefixes) == 0 {
		return false
	}
	digits := digest.Of([]byte(name)).String()
	return slices.ContainsFunc(d.PathHashPrefixes, func(p string) bool { return strings.HasPrefix(digits, strings.ToLower(p)) })
}

// matches compares element by element: no wildcard stands for a slash.
func matches(pattern, name string) bool {
	patterns, elements := strings.Split(pattern, "/"), strings.Split(name, "/")
	if len(patterns) != len(elements) {
		return false
	}
	for i := range patterns {
		if ok, err := path.Match(patterns[i], elements[i]); !ok || err != nil {
			return false
		}
	}
	return true
}

// SameDelegations reports whether two documents delegate the same to the same.
func SameDelegations(a, b *metadata.Metadata[metadata.TargetsType]) bool {
	x, errA := json.Marshal(a.Signed.Delegations)
	y, errB := json.Marshal(b.Signed.Delegations)
	return errA == nil && errB == nil && string(x) == string(y)
}
