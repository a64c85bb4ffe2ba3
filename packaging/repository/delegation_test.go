package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/packaging/internal/testkeys"
	"tandem/packaging/release"
)

// delegated makes a repository whose targets role delegates hello-2* to a role
// with a key of its own, as another TUF tool would. change may spoil it.
func delegated(t *testing.T, change func(*metadata.Metadata[metadata.TargetsType])) (string, *Repository) {
	t.Helper()
	dir, r := initialised(t)
	_, err := r.Add(t.Context(), bytes.NewReader(pack(t, "1.0.0", "demo", "targets")), testkeys.Keys{}, AddOptions{})
	must(t, err)
	s, err := r.load()
	must(t, err)
	rel := release.Target{Channels: map[string]release.Offering{"stable": {Rollout: 100}}}
	must(t, r.receive(t.Context(), bytes.NewReader(pack(t, "2.0.0", "demo", "targets")), s, &rel, nil))
	must(t, r.fs.Rename(incoming, File(rel)))
	target, err := targetOf(&rel)
	must(t, err)
	role := metadata.Targets(start.Add(1000 * day))
	role.Signed.Targets[rel.Name] = target
	key, err := metadata.KeyFromPublicKey(testkeys.Key("team").Public())
	must(t, err)
	id, err := key.ID()
	must(t, err)
	targets := r.next(s)
	targets.Signed.Delegations = &metadata.Delegations{
		Keys:  map[string]*metadata.Key{id: key},
		Roles: []metadata.DelegatedRole{{Name: "team", KeyIDs: []string{id}, Threshold: 1, Paths: []string{"hello-2*"}}},
	}
	change(role)
	if len(role.Signatures) == 0 {
		testkeys.Sign(t, role, "team")
	}
	raw, err := role.ToBytes(false)
	must(t, err)
	s.snapshot.Signed.Meta["team.json"] = pinned(1, raw)
	files, err := r.documents(s, testkeys.Keys{}, targets, s.root)
	must(t, err)
	must(t, r.write(append([]file{{"metadata/1.team.json", raw}}, files...)))
	return dir, r
}

func findings(t *testing.T, r *Repository) (*Report, string) {
	t.Helper()
	rep, err := r.Check(context.Background())
	must(t, err)
	return rep, fmt.Sprint(rep.Problems, rep.Notes)
}

// Check follows delegations as devices do, bundles included.
func TestCheckFollowsDelegations(t *testing.T) {
	for _, tt := range []struct {
		name     string
		change   func(*metadata.Metadata[metadata.TargetsType])
		releases int
		want     string
	}{
		{"good", func(*metadata.Metadata[metadata.TargetsType]) {}, 2, "[] []"},
		{"expired", func(m *metadata.Metadata[metadata.TargetsType]) { m.Signed.Expires = start.Add(-time.Hour) }, 1, "expired on 2029-12-31"},
		{"soon", func(m *metadata.Metadata[metadata.TargetsType]) { m.Signed.Expires = start.Add(2 * day) }, 2, "1.team.json: is valid for 48 more hours"},
		{"another key", func(m *metadata.Metadata[metadata.TargetsType]) { testkeys.Sign(t, m, "thief") }, 1, "not enough signatures"},
		{"another application", func(m *metadata.Metadata[metadata.TargetsType]) {
			m.Signed.Targets["hello-2.x"] = m.Signed.Targets["hello-2.0.0.tandem"]
			must(t, editCustom(m.Signed.Targets["hello-2.x"], func(f map[string]json.RawMessage) { f["app"] = []byte(`"world"`) }))
		}, 1, "begins with world-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, r := delegated(t, tt.change)
			rep, got := findings(t, r)
			if rep.Releases != tt.releases || !strings.Contains(got, tt.want) {
				t.Errorf("%d releases, %s; want %d, %s", rep.Releases, got, tt.releases, tt.want)
			}
		})
	}
	t.Run("its bundle is damaged", func(t *testing.T) {
		dir, r := delegated(t, func(*metadata.Metadata[metadata.TargetsType]) {})
		files, err := filepath.Glob(filepath.Join(dir, "targets", "*.hello-2.0.0.tandem"))
		must(t, err)
		must(t, os.Truncate(files[0], 1000))
		if rep, got := findings(t, r); len(rep.Problems) != 1 {
			t.Errorf("found %s", got)
		}
	})
}

// Publishing leaves delegations as they are, also where the change is signed
// elsewhere; a change that would alter them is refused.
func TestPublishingKeepsDelegations(t *testing.T) {
	_, r := delegated(t, func(*metadata.Metadata[metadata.TargetsType]) {})
	_, c, err := r.StageAdd(t.Context(), bytes.NewReader(pack(t, "1.1.0", "demo", "targets")), AddOptions{})
	must(t, err)
	raw, err := c.Encode()
	must(t, err)
	c, err = ParseChange(raw)
	must(t, err)
	must(t, r.Apply(c, testkeys.Keys{}))
	must(t, r.Refresh(testkeys.Keys{}))
	if rep, got := findings(t, r); rep.Releases != 3 || got != "[] []" {
		t.Errorf("%d releases, %s", rep.Releases, got)
	}
	_, c, err = r.StageAdd(t.Context(), bytes.NewReader(pack(t, "1.2.0", "demo", "targets")), AddOptions{})
	must(t, err)
	c.targets.Signed.Delegations = &metadata.Delegations{Keys: c.before.Signed.Delegations.Keys, Roles: []metadata.DelegatedRole{{Name: "thief", KeyIDs: []string{}, Paths: []string{"*"}}}}
	raw, err = c.Encode()
	must(t, err)
	if _, err := ParseChange(raw); err == nil || !strings.Contains(err.Error(), "with the delegations as they are") {
		t.Errorf("a change that delegates to another: %v", err)
	}
}

// A release that goes off the list stays halted where a delegated role lists it, too, or
// one that cannot be read might.
func TestHaltOfDelegated(t *testing.T) {
	dir, r := delegated(t, func(*metadata.Metadata[metadata.TargetsType]) {})
	s, err := r.load()
	must(t, err)
	all, roles, unread, err := r.all(s, s.targets)
	must(t, err)
	if len(all) != 2 || len(unread) != 0 || roles[all[1].Name] != "team" || roles[all[0].Name] != "" {
		t.Fatalf("%d releases, roles %v, unread %v", len(all), roles, unread)
	}
	target, err := targetOf(&all[1])
	must(t, err)
	s.targets.Signed.Targets[all[1].Name] = target
	next := r.next(s)
	clear(next.Signed.Targets)
	halts := release.Halts{all[0].Release: true, all[1].Release: true}
	s.halts = halts
	must(t, r.dropHalts(s, next))
	if len(s.halts) != 1 || !s.halts[all[1].Release] {
		t.Errorf("halts: %v", s.halts)
	}
	must(t, os.WriteFile(filepath.Join(dir, "metadata", "1.team.json"), []byte("{}"), 0o644))
	s.halts = halts
	must(t, r.dropHalts(s, next))
	if len(s.halts) != 2 {
		t.Errorf("with a list that cannot be read, halts: %v", s.halts)
	}
}
