package tuf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"tandem/internal/digest"
	"tandem/packaging/internal/testkeys"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// grove makes the targets metadata of a repository, and remembers what was read.
type grove struct {
	t      testing.TB
	roles  map[string]*metadata.Metadata[metadata.TargetsType]
	signed map[string][]byte
	snap   *metadata.Metadata[metadata.SnapshotType]
	asked  []string
	// by are the keys that sign for a role; absent means its own.
	by map[string][]string
}

func newGrove(t testing.TB) *grove {
	g := &grove{t: t, roles: map[string]*metadata.Metadata[metadata.TargetsType]{}, by: map[string][]string{}}
	g.role(metadata.TARGETS)
	return g
}

// key gives the public key of that name, and its id.
func (g *grove) key(name string) (*metadata.Key, string) {
	key, err := metadata.KeyFromPublicKey(testkeys.Key(name).Public())
	if err != nil {
		g.t.Fatal(err)
	}
	id, err := key.ID()
	if err != nil {
		g.t.Fatal(err)
	}
	return key, id
}

func (g *grove) role(name string) *metadata.Metadata[metadata.TargetsType] {
	if g.roles[name] == nil {
		g.roles[name] = metadata.Targets(now.Add(time.Hour))
	}
	return g.roles[name]
}

// list lets a role list targets.
func (g *grove) list(role string, names ...string) {
	for _, name := range names {
		g.role(role).Signed.Targets[name] = &metadata.TargetFiles{Length: 1, Hashes: metadata.Hashes{"sha256": make([]byte, 32)}, Path: name}
	}
}

// delegate lets one role delegate to another, signed with its own key unless
// change says otherwise.
func (g *grove) delegate(by, role string, change ...func(*metadata.DelegatedRole)) {
	g.role(role)
	d := g.role(by).Signed.Delegations
	if d == nil {
		d = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
		g.role(by).Signed.Delegations = d
	}
	key, id := g.key(role)
	d.Keys[id] = key
	r := metadata.DelegatedRole{Name: role, KeyIDs: []string{id}, Threshold: 1, Paths: []string{"*"}}
	for _, f := range change {
		f(&r)
	}
	d.Roles = append(d.Roles, r)
}

func paths(p ...string) func(*metadata.DelegatedRole) {
	return func(r *metadata.DelegatedRole) { r.Paths = p }
}

func prefixes(p ...string) func(*metadata.DelegatedRole) {
	return func(r *metadata.DelegatedRole) { r.Paths, r.PathHashPrefixes = nil, p }
}

func terminating(r *metadata.DelegatedRole) { r.Terminating = true }

// signedBy lets a delegation ask for n signatures by keys.
func (g *grove) signedBy(by string, n int, keys ...string) func(*metadata.DelegatedRole) {
	return func(r *metadata.DelegatedRole) {
		r.KeyIDs, r.Threshold = nil, n
		for _, k := range keys {
			key, id := g.key(k)
			g.role(by).Signed.Delegations.Keys[id] = key
			r.KeyIDs = append(r.KeyIDs, id)
		}
	}
}

// tree signs everything, lets change spoil it, and gives a Tree of it.
func (g *grove) tree(room int64, change ...func()) *Tree {
	g.signed, g.snap = map[string][]byte{}, metadata.Snapshot(now.Add(time.Hour))
	for name, meta := range g.roles {
		by := g.by[name]
		if by == nil {
			by = []string{name}
		}
		meta.ClearSignatures()
		testkeys.Sign(g.t, meta, by...)
		raw, err := meta.ToBytes(false)
		if err != nil {
			g.t.Fatal(err)
		}
		sum := digest.Of(raw)
		g.signed[name] = raw
		g.snap.Signed.Meta[name+".json"] = &metadata.MetaFiles{Version: meta.Signed.Version, Length: int64(len(raw)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	}
	for _, f := range change {
		f()
	}
	// What a device has is what it reads.
	top, err := Decode[metadata.TargetsType](g.signed[metadata.TARGETS])
	if err != nil {
		g.t.Fatal(err)
	}
	return NewTree(&trustedmetadata.TrustedMetadata{
		Snapshot: g.snap, RefTime: now,
		Targets: map[string]*metadata.Metadata[metadata.TargetsType]{metadata.TARGETS: top},
	}, room, func(role string, meta *metadata.MetaFiles, limit int64, accept func([]byte) error) error {
		g.asked = append(g.asked, role)
		if int64(len(g.signed[role])) > limit {
			return errors.New("too long")
		}
		return accept(g.signed[role])
	})
}

const plenty = 1 << 20

// The search takes the way that the specification says.
func TestFindOrder(t *testing.T) {
	hex := digest.Of([]byte("x")).String()
	for _, tt := range []struct {
		name   string
		grow   func(*grove)
		find   string
		in     string // the role that lists it; "" is none
		visits string
	}{
		{"top level first", func(g *grove) { g.delegate("targets", "A"); g.list("A", "x"); g.list("targets", "x") }, "x", "targets", ""},
		{"nothing delegated", func(*grove) {}, "x", "", ""},
		{"depth first", func(g *grove) {
			g.delegate("targets", "A")
			g.delegate("targets", "B")
			g.delegate("A", "C")
			g.delegate("A", "D")
			g.list("B", "x")
		}, "x", "B", "A C D B"},
		{"the first one that lists it", func(g *grove) {
			g.delegate("targets", "A")
			g.delegate("targets", "B")
			g.delegate("A", "C")
			g.list("B", "x")
			g.list("C", "x")
		}, "x", "C", "A C"},
		{"terminating", func(g *grove) {
			g.delegate("targets", "A")
			g.delegate("targets", "B")
			g.delegate("A", "C", terminating)
			g.delegate("A", "D")
			g.delegate("C", "E")
			g.list("B", "x")
			g.list("D", "x")
		}, "x", "", "A C E"},
		{"terminating for other paths", func(g *grove) {
			g.delegate("targets", "A", terminating, paths("y"))
			g.delegate("targets", "B")
			g.list("B", "x")
		}, "x", "B", "B"},
		{"cycle", func(g *grove) {
			g.delegate("targets", "A")
			g.delegate("A", "B")
			g.delegate("B", "A")
			g.delegate("B", "C")
		}, "x", "", "A B C"},
		{"not by all in the chain", func(g *grove) {
			g.delegate("targets", "A", paths("a-*"))
			g.delegate("A", "B")
			g.list("B", "x")
		}, "x", "", ""},
		{"wildcards do not match a slash", func(g *grove) {
			g.delegate("targets", "A", paths("*", "?", "[^a]", "*/*/*"))
			g.list("A", "a/b")
		}, "a/b", "", ""},
		{"a wildcard for each element", func(g *grove) {
			g.delegate("targets", "A", paths("a/?.z*"))
			g.list("A", "a/b.zip")
		}, "a/b.zip", "A", "A"},
		{"case counts", func(g *grove) { g.delegate("targets", "A", paths("*.md")); g.list("A", "x.MD") }, "x.MD", "", ""},
		{"a pattern that is none", func(g *grove) { g.delegate("targets", "A", paths("[", "x")); g.list("A", "x") }, "x", "A", "A"},
		{"hash prefix", func(g *grove) {
			g.delegate("targets", "A", prefixes("00", hex[1:], hex[:3]+"z"))
			g.delegate("targets", "B", prefixes("ff", hex[:2]))
			g.list("A", "x")
			g.list("B", "x")
		}, "x", "B", "B"},
		{"a delegation of nothing", func(g *grove) { g.delegate("targets", "A", paths()); g.list("A", "x") }, "x", "", ""},
		{"two ways to one role", func(g *grove) {
			g.delegate("targets", "A")
			g.delegate("targets", "B")
			g.delegate("A", "C", paths("y"))
			g.delegate("B", "C")
			g.list("C", "x")
		}, "x", "C", "A B C"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGrove(t)
			tt.grow(g)
			tree := g.tree(plenty)
			for range 2 { // the second time from memory
				found, err := tree.Find(tt.find)
				if found.Role != tt.in || (tt.in == "") != errors.Is(err, ErrNotListed) {
					t.Errorf("found in %q, %v; want %q", found.Role, err, tt.in)
				}
			}
			if got := strings.Join(g.asked, " "); got != tt.visits {
				t.Errorf("read %q, want %q", got, tt.visits)
			}
			// The whole list says the same.
			listed, failed := g.tree(plenty).List()
			i := slices.IndexFunc(listed, func(l Listed) bool { return l.Name == tt.find })
			if len(failed) > 0 || (i >= 0) != (tt.in != "") || i >= 0 && listed[i].Role != tt.in {
				t.Errorf("listed %v, %v; want it in %q", listed, failed, tt.in)
			}
		})
	}
}

// A role that cannot be trusted keeps what it is in charge of from being found,
// and nothing else.
func TestBadRole(t *testing.T) {
	for _, tt := range []struct {
		name   string
		grow   func(*grove)
		spoil  func(*grove)
		want   error
		visits string
	}{
		{"good", nil, nil, nil, "A B"},
		{"not in the snapshot", nil, func(g *grove) { delete(g.snap.Signed.Meta, "A.json") }, ErrNotPinned, "B"},
		{"other bytes", nil, func(g *grove) { g.signed["A"] = append(g.signed["A"], ' ') }, &metadata.ErrLengthOrHashMismatch{}, "A B"},
		{"another version", nil, func(g *grove) { g.snap.Signed.Meta["A.json"].Version = 2 }, &metadata.ErrBadVersionNumber{}, "A B"},
		{"expired", func(g *grove) { g.role("A").Signed.Expires = now.Add(-time.Second) }, nil, &metadata.ErrExpiredMetadata{}, "A B"},
		{"signed by another", func(g *grove) { g.by["A"] = []string{"B"} }, nil, &metadata.ErrUnsignedMetadata{}, "A B"},
		{"not signed", func(g *grove) { g.by["A"] = []string{} }, nil, &metadata.ErrUnsignedMetadata{}, "A B"},
		{"one signature of two", func(g *grove) { g.signedBy("targets", 2, "A", "A2")(&g.role("targets").Signed.Delegations.Roles[0]) }, nil, &metadata.ErrUnsignedMetadata{}, "A B"},
		{"two signatures of two", func(g *grove) {
			g.signedBy("targets", 2, "A", "A2")(&g.role("targets").Signed.Delegations.Roles[0])
			g.by["A"] = []string{"A", "A2"}
		}, nil, nil, "A B"},
		{"one key named twice", func(g *grove) {
			g.signedBy("targets", 2, "A", "A")(&g.role("targets").Signed.Delegations.Roles[0])
		}, nil, &metadata.ErrUnsignedMetadata{}, "A B"},
		{"a threshold of zero", func(g *grove) { g.role("targets").Signed.Delegations.Roles[0].Threshold = 0 }, nil, &metadata.ErrValue{}, "A B"},
		{"not targets metadata", nil, func(g *grove) {
			g.signed["A"] = []byte(`{"signed":{"_type":"snapshot"},"signatures":[]}`)
			g.snap.Signed.Meta["A.json"] = &metadata.MetaFiles{Version: 1}
		}, ErrMalformed, "A B"},
		{"null", nil, func(g *grove) {
			g.signed["A"] = []byte(`{"signed":{"_type":"targets","targets":{"a":null}},"signatures":[]}`)
			g.snap.Signed.Meta["A.json"] = &metadata.MetaFiles{Version: 1}
		}, ErrMalformed, "A B"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGrove(t)
			g.list("targets", "top")
			g.list("A", "a-1")
			g.list("B", "a-2", "b-1")
			g.delegate("targets", "A", paths("a-*"))
			g.delegate("targets", "B")
			if tt.grow != nil {
				tt.grow(g)
			}
			tree := g.tree(plenty, func() {
				if tt.spoil != nil {
					tt.spoil(g)
				}
			})
			listed, failed := tree.List()
			var names []string
			for _, l := range listed {
				names = append(names, l.Name)
			}
			want := []string{"b-1", "top"}
			if tt.want == nil {
				want = []string{"a-1", "a-2", "b-1", "top"}
			}
			if diff := cmp.Diff(want, names); diff != "" {
				t.Errorf("listed (-want +got):\n%s", diff)
			}
			if tt.want == nil && len(failed) > 0 || tt.want != nil && (len(failed) != 1 || !errors.Is(failed[0], tt.want) && !sameType(failed[0], tt.want)) {
				t.Errorf("failed: %v, want %T", failed, tt.want)
			}
			if got := strings.Join(g.asked, " "); got != tt.visits {
				t.Errorf("read %q, want %q", got, tt.visits)
			}
			if _, err := tree.Find("a-1"); (err == nil) != (tt.want == nil) {
				t.Errorf("a-1: %v", err)
			}
		})
	}
}

// sameType looks for an error of the type of want: go-tuf compares some by text.
func sameType(err, want error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if fmt.Sprintf("%T", err) == fmt.Sprintf("%T", want) {
			return true
		}
	}
	return false
}

// Each way to a role must be good itself: what one role vouches for, another
// need not.
func TestTwoWaysToOneRole(t *testing.T) {
	for _, signedFor := range []string{"A", "B"} {
		t.Run(signedFor, func(t *testing.T) {
			g := newGrove(t)
			g.delegate("targets", "A", paths("a-*"))
			g.delegate("targets", "B", paths("b-*"))
			for _, by := range []string{"A", "B"} {
				g.delegate(by, "C")
				g.signedBy(by, 1, "C for "+by)(&g.role(by).Signed.Delegations.Roles[0])
			}
			g.by["C"] = []string{"C for " + signedFor}
			g.list("C", "a-1", "b-1")
			listed, failed := g.tree(plenty).List()
			good := strings.ToLower(signedFor) + "-1"
			if len(listed) != 1 || listed[0].Name != good || len(failed) == 0 && signedFor == "B" {
				t.Errorf("listed %v, failed %v; want %s alone", listed, failed, good)
			}
			tree := g.tree(plenty)
			for _, name := range []string{"b-1", "a-1", "b-1"} {
				if _, err := tree.Find(name); (err == nil) != (name == good) {
					t.Errorf("find %s: %v", name, err)
				}
			}
		})
	}
}

// What delegations may not look like.
func TestBadDelegations(t *testing.T) {
	for name, spoil := range map[string]func(*metadata.Delegations){
		"to targets":  func(d *metadata.Delegations) { d.Roles[0].Name = "targets" },
		"to snapshot": func(d *metadata.Delegations) { d.Roles[0].Name = "snapshot" },
		"to nobody":   func(d *metadata.Delegations) { d.Roles[0].Name = "" },
		"twice":       func(d *metadata.Delegations) { d.Roles = append(d.Roles, d.Roles[0]) },
		"a short key": func(d *metadata.Delegations) {
			d.Keys["x"] = &metadata.Key{Type: "ed25519", Value: metadata.KeyVal{PublicKey: "00"}}
		},
		"a strange key": func(d *metadata.Delegations) { d.Keys["x"] = &metadata.Key{Type: "dsa"} },
		"far too many": func(d *metadata.Delegations) {
			for i := range maxDelegations {
				d.Roles = append(d.Roles, metadata.DelegatedRole{Name: fmt.Sprint(i), KeyIDs: []string{}, Paths: []string{"*"}})
			}
		},
		"paths and bins": nil,
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrove(t)
			g.delegate("targets", "A")
			g.list("A", "x")
			g.list("targets", "top")
			if spoil != nil {
				spoil(g.role("targets").Signed.Delegations)
			}
			tree := g.tree(plenty, func() {
				if spoil == nil { // go-tuf does not write it
					g.signed["targets"] = []byte(strings.Replace(string(g.signed["targets"]), `"paths":["*"]`, `"paths":["*"],"path_hash_prefixes":["a"]`, 1))
				}
			})
			listed, failed := tree.List()
			if len(listed) != 1 || listed[0].Name != "top" || len(failed) != 1 || !errors.Is(failed[0], ErrMalformed) && !errors.Is(failed[0], ErrTooMuch) {
				t.Errorf("listed %v, failed %v", listed, failed)
			}
			if _, err := tree.Find("x"); err == nil || errors.Is(err, ErrNotListed) {
				t.Errorf("found: %v", err)
			}
		})
	}
}

// However much is delegated, what is read is bounded.
func TestBounds(t *testing.T) {
	t.Run("roles", func(t *testing.T) {
		g := newGrove(t)
		for i := range MaxRoles + 5 {
			name := fmt.Sprintf("r%02d", i)
			g.delegate("targets", name, paths(name+"-*"))
			g.list(name, name+"-1")
		}
		listed, failed := g.tree(plenty).List()
		if len(g.asked) != MaxRoles || len(listed) != MaxRoles || len(failed) != 1 || !errors.Is(failed[0], ErrTooMuch) {
			t.Errorf("%d read, %d listed, failed %v", len(g.asked), len(listed), failed)
		}
	})
	t.Run("a chain", func(t *testing.T) {
		g := newGrove(t)
		by := "targets"
		for i := range MaxRoles + 5 {
			name := fmt.Sprintf("r%02d", i)
			g.delegate(by, name)
			by = name
		}
		g.list(by, "x")
		if _, err := g.tree(plenty).Find("x"); !errors.Is(err, ErrTooMuch) || len(g.asked) != MaxRoles {
			t.Errorf("%d read, %v", len(g.asked), err)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		g := newGrove(t)
		for i := range 5 {
			g.delegate("targets", fmt.Sprint("r", i))
		}
		g.tree(plenty)
		room := int64(len(g.signed["r0"]) + len(g.signed["r1"]))
		listed, failed := g.tree(room).List()
		if len(g.asked) != 2 || len(listed) != 0 || len(failed) != 1 || !errors.Is(failed[0], ErrTooMuch) {
			t.Errorf("%v read, failed %v", g.asked, failed)
		}
	})
}

// FuzzTree gives a device targets metadata that holds anything, as a publisher
// with a broken tool could sign it: nothing panics, and what is listed is what
// a search finds.
func FuzzTree(f *testing.F) {
	g := newGrove(f)
	g.list("targets", "top")
	g.list("A", "a-1")
	g.delegate("targets", "A", paths("a-*"))
	g.delegate("targets", "B", prefixes("0", "a"), terminating)
	g.delegate("A", "B")
	g.tree(plenty)
	f.Add(g.signed["targets"], g.signed["A"])
	f.Add(g.signed["targets"], []byte("{}"))
	f.Fuzz(func(t *testing.T, top, below []byte) {
		meta, err := Decode[metadata.TargetsType](top)
		if err != nil {
			return
		}
		snap := metadata.Snapshot(now.Add(time.Hour))
		for _, role := range []string{"A", "B"} {
			snap.Signed.Meta[role+".json"] = &metadata.MetaFiles{Version: 1}
		}
		tree := NewTree(&trustedmetadata.TrustedMetadata{
			Snapshot: snap, RefTime: now, Targets: map[string]*metadata.Metadata[metadata.TargetsType]{metadata.TARGETS: meta},
		}, plenty, func(_ string, _ *metadata.MetaFiles, _ int64, accept func([]byte) error) error { return accept(below) })
		listed, failed := tree.List()
		for _, l := range listed {
			if found, err := tree.Find(l.Name); err != nil || found != l {
				t.Fatalf("%q is listed by %q; found in %q, %v", l.Name, l.Role, found.Role, err)
			}
		}
		if len(failed) > MaxRoles {
			t.Fatalf("%d failed", len(failed))
		}
	})
}
