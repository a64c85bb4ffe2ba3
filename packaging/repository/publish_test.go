package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/packaging/internal/testkeys"
	"tandem/packaging/release"
	"tandem/packaging/trust"
)

// client is a device that keeps what it trusted, and polls a repository with
// go-tuf's client workflow.
type client struct {
	roots                        []string // as it followed them
	timestamp, snapshot, targets []byte
}

func newClient(t testing.TB, fs fsys.FS, at time.Time) *client {
	t.Helper()
	raw, err := fsys.ReadFile(fs, "metadata/1.root.json", trust.MaxRoot)
	must(t, err)
	c := &client{roots: []string{string(raw)}}
	_, err = c.poll(fs, at)
	must(t, err)
	return c
}

func (c client) clone() *client {
	c.roots = slices.Clone(c.roots)
	return &c
}

// poll gives the releases on offer, each of whose bundles has the right bytes.
func (c *client) poll(fs fsys.FS, at time.Time) (map[string]*metadata.TargetFiles, error) {
	get := func(name string) ([]byte, error) { return fsys.ReadFile(fs, name, MaxTargets) }
	tm, err := trustedmetadata.New([]byte(c.roots[0]))
	if err != nil {
		return nil, err
	}
	tm.RefTime = at
	for _, raw := range c.roots[1:] {
		if _, err := tm.UpdateRoot([]byte(raw)); err != nil {
			return nil, err
		}
	}
	for {
		raw, err := get(rootName(tm.Root.Signed.Version + 1))
		if fsys.IsNotExist(err) {
			break
		}
		if err != nil {
			return nil, err
		}
		if _, err := tm.UpdateRoot(raw); err != nil {
			return nil, err
		}
		c.roots = append(c.roots, string(raw))
	}
	// What is stored comes first, so that nothing older is taken.
	if c.timestamp != nil {
		_, _ = tm.UpdateTimestamp(c.timestamp) // after a change of keys it may not be in force
	}
	raw, err := get("metadata/timestamp.json")
	if err != nil {
		return nil, err
	}
	if _, err := tm.UpdateTimestamp(raw); err != nil && !errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
		return nil, err
	}
	c.timestamp = raw
	if c.snapshot != nil {
		_, _ = tm.UpdateSnapshot(c.snapshot, true)
	}
	if raw, err = get(snapshotName(tm.Timestamp.Signed.Meta["snapshot.json"].Version)); err != nil {
		return nil, err
	}
	snap, err := tm.UpdateSnapshot(raw, false)
	if err != nil {
		return nil, err
	}
	c.snapshot = raw
	if raw, err = get(targetsName(snap.Signed.Meta["targets.json"].Version)); err != nil {
		return nil, err
	}
	targets, err := tm.UpdateTargets(raw)
	if err != nil {
		return nil, err
	}
	c.targets = raw
	for name, f := range targets.Signed.Targets {
		rel, err := release.ParseTarget(name, f)
		if err != nil {
			return nil, err
		}
		raw, err := get(File(rel))
		if err != nil {
			return nil, err
		}
		if err := f.VerifyLengthHashes(raw); err != nil {
			return nil, err
		}
	}
	return targets.Signed.Targets, nil
}

// all has each key that the tests use.
func all() testkeys.Keys {
	return testkeys.Keys{"root": "root r2 r3", "targets": "targets t2 t3", "snapshot": "snapshot s2", "timestamp": "timestamp ts2"}
}

func public(t testing.TB, names ...string) []*metadata.Key {
	t.Helper()
	var keys []*metadata.Key
	for _, n := range names {
		keys = append(keys, testkeys.Public(t, n))
	}
	return keys
}

// A power cut at any operation of any change of a repository leaves one that
// devices accept: those that never saw it, those that know its last state, and
// those that polled it in the middle. Done again, the change goes on.
func TestEveryPowerCut(t *testing.T) {
	ctx := context.Background()
	one, two := pack(t, "1.0.0", "demo", "targets"), pack(t, "2.0.0", "demo", "targets")
	resigned := pack(t, "1.0.0", "demo", "targets", "t2")
	apply := func(r *Repository, keys Keys, c *Change, err error) error {
		if err != nil || c == nil {
			return err
		}
		return r.Apply(c, keys)
	}
	rotate := func(role string, keys Keys, threshold int, names ...string) func(*Repository) error {
		return func(r *Repository) error {
			c, err := r.StageRotate(role, public(t, names...), threshold)
			if errors.Is(err, ErrSame) {
				return nil
			}
			return apply(r, keys, c, err)
		}
	}
	without := func(role, names string) testkeys.Keys {
		k := all()
		k[role] = names
		return k
	}
	step := 1
	if testing.Short() {
		step = 17
	}
	for name, change := range map[string]func(*Repository) error{
		"init": nil,
		"add": func(r *Repository) error {
			_, err := r.Add(ctx, bytes.NewReader(two), testkeys.Keys{}, AddOptions{})
			return err
		},
		"add, signed anew": func(r *Repository) error {
			_, err := r.Add(ctx, bytes.NewReader(resigned), testkeys.Keys{}, AddOptions{})
			return err
		},
		"rollout": func(r *Repository) error {
			_, c, err := r.StageRollout("1.0.0", "", 50, true)
			return apply(r, testkeys.Keys{}, c, err)
		},
		"yank": func(r *Repository) error {
			_, c, err := r.StageYank("1.0.0", Yanking{})
			return apply(r, testkeys.Keys{}, c, err)
		},
		"remove": func(r *Repository) error {
			_, c, err := r.StageRemove("1.0.0", "")
			return apply(r, testkeys.Keys{}, c, err)
		},
		"refresh": func(r *Repository) error { return r.Refresh(testkeys.Keys{}) },
		"targets anew": func(r *Repository) error {
			c, err := r.StageTargets()
			return apply(r, testkeys.Keys{}, c, err)
		},
		"rotate root":                   rotate("root", all(), 2, "r2", "r3"),
		"rotate targets":                rotate("targets", all(), 1, "t2"),
		"rotate targets, old key lost":  rotate("targets", without("targets", "t2 t3"), 2, "t2", "t3"),
		"rotate snapshot, old key lost": rotate("snapshot", without("snapshot", "s2"), 1, "s2"),
		"rotate timestamp":              rotate("timestamp", all(), 1, "ts2"),
		"a key more":                    rotate("timestamp", all(), 1, "timestamp", "ts2"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := memfs.NewMachine()
			m.NewDisk("d", memfs.Options{})
			at := m.Now()
			open := func(m *memfs.Machine) *Repository {
				return New(m.Disk("d").FS(), func() time.Time { return at.Add(48 * time.Hour) }, Expiry{})
			}
			if change == nil {
				for n, cut := range m.Cuts(func(m *memfs.Machine) { _, _ = open(m).Init(testkeys.Keys{}) }) {
					if n%step != 0 {
						continue
					}
					for _, choice := range memfs.Choices(uint64(n), 2) {
						c := cut.Clone()
						c.Restart(choice)
						if _, err := open(c).Init(testkeys.Keys{}); err != nil && !errors.Is(err, ErrExists) {
							t.Fatalf("cut at operation %d, %s: again: %v", n, choice, err)
						}
						newClient(t, c.Disk("d").FS(), at)
					}
				}
				return
			}
			r := open(m)
			_, err := r.Init(testkeys.Keys{})
			must(t, err)
			_, err = r.Add(ctx, bytes.NewReader(one), testkeys.Keys{}, AddOptions{})
			must(t, err)
			// Enough history that old metadata is removed.
			for range keepVersions + 2 {
				c, err := r.StageTargets()
				must(t, err)
				must(t, r.Apply(c, testkeys.Keys{}))
			}
			must(t, m.Disk("d").FS().Sync())
			known := newClient(t, m.Disk("d").FS(), at)
			cuts, seen := 0, make(map[string]bool)
			for n, cut := range m.Cuts(func(m *memfs.Machine) { err = change(open(m)) }) {
				finished := err
				if n%step != 0 && cut.Off() {
					continue
				}
				for _, choice := range memfs.Choices(uint64(n), 2) {
					c := cut.Clone()
					if !cut.Off() {
						must(t, finished)
					} else {
						c.Restart(choice)
					}
					fs := c.Disk("d").FS()
					if state := fingerprint(t, fs); seen[state] {
						continue
					} else {
						seen[state] = true
					}
					cuts++
					during := known.clone()
					if _, err := during.poll(fs, at); err != nil {
						t.Fatalf("cut at operation %d, %s: a device that knows the repository: %v\n%s", n, choice, err, strings.Join(c.Trace(), "\n"))
					}
					newClient(t, fs, at)
					if err := change(open(c)); err != nil && !errors.Is(err, ErrExists) && !errors.Is(err, ErrNoRelease) {
						t.Fatalf("cut at operation %d, %s: again: %v", n, choice, err)
					}
					if _, err := during.poll(fs, at); err != nil {
						t.Fatalf("cut at operation %d, %s, done again: a device that polled between: %v", n, choice, err)
					}
					after := known.clone()
					if _, err := after.poll(fs, at); err != nil {
						t.Fatalf("cut at operation %d, %s, done again: %v", n, choice, err)
					}
					newest, err := open(c).Root()
					must(t, err)
					if provisioned, err := fsys.ReadFile(fs, RootFile, trust.MaxRoot); err != nil || !bytes.Equal(provisioned, newest.Bytes()) {
						// A rotation that was cut short before its last write has
						// nothing left to change; the next publishing mends it.
						must(t, open(c).Refresh(all()))
						if provisioned, _ = fsys.ReadFile(fs, RootFile, trust.MaxRoot); !bytes.Equal(provisioned, newest.Bytes()) {
							t.Fatalf("cut at operation %d, %s: root.json is not the newest root", n, choice)
						}
					}
				}
			}
			t.Logf("%d different states", cuts)
		})
	}
}

// fingerprint tells states of a repository apart, but not by what unfinished
// files hold: those are never read.
func fingerprint(t testing.TB, fs fsys.FS) string {
	var b strings.Builder
	for _, dir := range []string{".", metadataDir, targetsDir} {
		entries, err := fs.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			fmt.Fprintln(&b, dir, e.Name)
			if e.Type == fsys.TypeFile && !strings.HasSuffix(e.Name, ".tmp") {
				raw, err := fsys.ReadFile(fs, path.Join(dir, e.Name), MaxTargets)
				must(t, err)
				fmt.Fprintln(&b, digest.Of(raw))
			}
		}
	}
	return b.String()
}

// A change that was staged survives a power cut in Apply, and goes on from there.
func TestApplyGoesOn(t *testing.T) {
	m := memfs.NewMachine()
	m.NewDisk("d", memfs.Options{})
	at := m.Now()
	open := func(m *memfs.Machine) *Repository {
		return New(m.Disk("d").FS(), func() time.Time { return at }, Expiry{})
	}
	_, err := open(m).Init(testkeys.Keys{})
	must(t, err)
	c, err := open(m).StageRotate("targets", public(t, "t2"), 0)
	must(t, err)
	_, err = c.Sign(testkeys.Keys{"root": "root", "targets": "t2"})
	must(t, err)
	raw, err := c.Encode()
	must(t, err)
	online := testkeys.Keys{"root": "", "targets": ""}
	seen := make(map[string]bool)
	for n, cut := range m.Cuts(func(m *memfs.Machine) {
		c, err := ParseChange(raw)
		must(t, err)
		_ = open(m).Apply(c, online)
	}) {
		for _, choice := range memfs.Choices(uint64(n), 2) {
			s := cut.Clone()
			s.Restart(choice)
			if state := fingerprint(t, s.Disk("d").FS()); seen[state] {
				continue
			} else {
				seen[state] = true
			}
			c, err := ParseChange(raw)
			must(t, err)
			if err := open(s).Apply(c, online); err != nil {
				t.Fatalf("cut at operation %d, %s: again: %v", n, choice, err)
			}
			root, err := open(s).Root()
			must(t, err)
			if root.Version() != 3 || !root.HasKey("targets", keyID(t, "t2")) || root.HasKey("targets", keyID(t, "targets")) {
				t.Fatalf("cut at operation %d, %s: root version %d does not name the new key alone", n, choice, root.Version())
			}
			newClient(t, s.Disk("d").FS(), at)
		}
	}
}

func keyID(t testing.TB, name string) string {
	t.Helper()
	id, err := testkeys.Public(t, name).ID()
	must(t, err)
	return id
}

func TestRotateRefuses(t *testing.T) {
	_, r := initialised(t)
	for name, c := range map[string]struct {
		role      string
		keys      []*metadata.Key
		threshold int
		err       error
		want      string
	}{
		"unknown role":   {"boss", public(t, "r2"), 0, nil, "expected root, targets"},
		"no key":         {"root", nil, 0, nil, "no new key"},
		"threshold high": {"root", public(t, "r2"), 2, nil, "expected 1 to 1"},
		"threshold low":  {"root", public(t, "r2"), -1, nil, "expected 1 to 1"},
		"a key twice":    {"root", public(t, "r2", "r2"), 2, nil, "expected 1 to 1"},
		"the same":       {"timestamp", public(t, "timestamp"), 0, ErrSame, "these keys"},
	} {
		if _, err := r.StageRotate(c.role, c.keys, c.threshold); err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %v with %q", name, err, c.err, c.want)
		}
	}
	for name, keys := range map[string]testkeys.Keys{
		"no root key":      {"root": "", "targets": "t2"},
		"another root key": {"root": "r2", "targets": "t2"},
		"no new key":       {"targets": "targets"},
		"neither":          {"targets": "t3"},
	} {
		c, err := r.StageRotate("targets", public(t, "t2"), 0)
		must(t, err)
		if err := r.Apply(c, keys); err == nil {
			t.Errorf("%s: applied", name)
		}
		if root, err := r.Root(); err != nil || root.Version() != 1 {
			t.Errorf("%s: something was written: root %v, %v", name, root, err)
		}
	}
}

func TestFind(t *testing.T) {
	rel := func(name, app, v string) release.Target {
		return release.Target{Name: name, App: app, Version: version(t, v)}
	}
	list := []release.Target{
		rel("a-1.0.0.tandem", "a", "1.0.0"), rel("a-1.1.0.tandem", "a", "1.1.0"), rel("a-1.1.0-for-x.tandem", "a", "1.1.0+x"),
		rel("b-1.0.0.tandem", "b", "1.0.0"), rel("b-7.tandem", "b", "7"),
	}
	for name, want := range map[string]string{
		"a/1.0.0":              "a-1.0.0.tandem",
		"b/1.0.0":              "b-1.0.0.tandem",
		"1.1.0":                "a-1.1.0.tandem",
		"1.1.0+x":              "a-1.1.0-for-x.tandem",
		"1.1.0+y":              "a-1.1.0.tandem a-1.1.0-for-x.tandem",
		"7":                    "b-7.tandem",
		"a-1.1.0-for-x.tandem": "a-1.1.0-for-x.tandem",
	} {
		got, err := Find(list, name)
		var names []string
		for _, r := range got {
			names = append(names, r.Name)
		}
		if err != nil || strings.Join(names, " ") != want {
			t.Errorf("%s: %v, %v; want %s", name, names, err, want)
		}
	}
	for name, want := range map[string]error{
		"1.0.0": ErrAmbiguous, "2.0.0": ErrNoRelease, "c/1.0.0": ErrNoRelease, "a/7": ErrNoRelease, "v1": ErrNoRelease, "": ErrNoRelease, "a/": ErrNoRelease,
	} {
		if _, err := Find(list, name); !errors.Is(err, want) {
			t.Errorf("%q: error %v, want %v", name, err, want)
		}
	}
}

// What a later publisher says of a release survives a change by this one.
func TestEditKeepsUnknownFields(t *testing.T) {
	_, r := initialised(t)
	_, err := r.Add(context.Background(), bytes.NewReader(pack(t, "1.0.0", "demo", "targets")), testkeys.Keys{}, AddOptions{})
	must(t, err)
	s, err := r.load()
	must(t, err)
	targets := r.next(s)
	must(t, custom(targets.Signed.Targets, "hello-1.0.0.tandem", func(f map[string]json.RawMessage) {
		f["later"] = json.RawMessage(`{"x":1}`)
		f["channels"] = json.RawMessage(`{"stable":{"later":[1]}}`)
	}))
	c, err := r.change(s, nil, targets)
	must(t, err)
	must(t, r.Apply(c, testkeys.Keys{}))
	_, c, err = r.StageRollout("1.0.0", "", 30, true)
	must(t, err)
	must(t, r.Apply(c, testkeys.Keys{}))
	_, c, err = r.StageYank("1.0.0", Yanking{})
	must(t, err)
	must(t, r.Apply(c, testkeys.Keys{}))
	s, err = r.load()
	must(t, err)
	got := string(*s.targets.Signed.Targets["hello-1.0.0.tandem"].Custom)
	got = regexp.MustCompile(`"head":[0-9]+,`).ReplaceAllString(regexp.MustCompile(`"release":"[0-9a-f]{64}",`).ReplaceAllString(got, ""), "")
	if want := `{"app":"hello","channels":{"stable":{"later":[1],"rollout":30}},"compatible":["demo"],"later":{"x":1},"unpacked":9,"version":"1.0.0","yanked":true}`; got != want {
		t.Errorf("custom field\n%s\nwant\n%s", got, want)
	}
}

// Old metadata goes, what devices may be about to ask for stays.
func TestPrune(t *testing.T) {
	dir, _ := initialised(t)
	now := time.Now()
	r := New(openOS(t, dir), func() time.Time { return now }, Expiry{})
	publish := func() {
		c, err := r.StageTargets()
		must(t, err)
		must(t, r.Apply(c, testkeys.Keys{}))
	}
	for range 29 {
		publish()
	}
	count := func(kind string) int {
		names, err := filepath.Glob(filepath.Join(dir, "metadata", "*."+kind+".json"))
		must(t, err)
		return len(names)
	}
	if count("targets") != 30 || count("snapshot") != 30 {
		t.Errorf("published within a day: %d targets, %d snapshots; want all 30", count("targets"), count("snapshot"))
	}
	now = now.Add(25 * time.Hour)
	publish()
	if count("targets") != keepVersions || count("snapshot") != keepVersions || count("root") != 1 {
		t.Errorf("a day later: %d targets, %d snapshots, %d roots; want %d, %d and 1", count("targets"), count("snapshot"), count("root"), keepVersions, keepVersions)
	}
	if _, err := os.Stat(filepath.Join(dir, targetsName(31))); err != nil {
		t.Error(err)
	}
	if _, err := device(dir, now); err != nil {
		t.Error(err)
	}
}

// filled gives a repository whose list has n releases, as the publishing of
// each would have left it; the bundles themselves are not there.
func filled(t testing.TB, n int) (string, *Repository) {
	t.Helper()
	dir, r := initialised(t)
	s, err := r.load()
	must(t, err)
	targets := r.next(s)
	for i := range n {
		v := fmt.Sprintf("1.%d.%d", i/100, i%100)
		rel := release.Target{
			Name: "hello-" + v + ".tandem", Length: 12_345_678, SHA256: digest.Of([]byte(v)), Kind: release.App, App: "hello",
			Version: version(t, v), Compatible: []string{"quectel-ec25"}, Channels: map[string]release.Offering{"stable": {Rollout: 100}}, Release: digest.Of([]byte("release " + v)), Head: 4096,
		}
		target, err := targetOf(&rel)
		must(t, err)
		targets.Signed.Targets[rel.Name] = target
	}
	files, err := r.documents(s, testkeys.Keys{}, targets, s.root)
	must(t, err)
	must(t, r.write(files))
	return dir, r
}

// Adding to 1,000 releases reads no bundle, as theirs are not there; their list stays short.
// BenchmarkAddToThousand tells how long it takes.
func TestThousandReleases(t *testing.T) {
	dir, r := filled(t, 1000)
	_, err := r.Add(context.Background(), bytes.NewReader(pack(t, "2.0.0", "quectel-ec25", "targets")), testkeys.Keys{}, AddOptions{})
	must(t, err)
	s, err := r.Status()
	must(t, err)
	t.Logf("the list has %d bytes, %d for each release", s.TargetsLength, s.TargetsLength/int64(len(s.Releases)))
	if len(s.Releases) != 1001 || s.TargetsLength > 400_000 {
		t.Errorf("%d releases in %d bytes, want 1001 in at most 400000", len(s.Releases), s.TargetsLength)
	}
	if _, err := os.Stat(filepath.Join(dir, targetsName(3))); err != nil {
		t.Error(err)
	}
}

func BenchmarkAddToThousand(b *testing.B) {
	_, r := filled(b, 1000)
	raw := make([][]byte, b.N)
	for i := range raw {
		raw[i] = pack(b, fmt.Sprintf("2.0.%d", i), "quectel-ec25", "targets")
	}
	for i := range b.N {
		_, err := r.Add(context.Background(), bytes.NewReader(raw[i]), testkeys.Keys{}, AddOptions{})
		must(b, err)
	}
}

// More than devices read is refused before anything is written.
func TestTooManyReleases(t *testing.T) {
	dir, r := initialised(t)
	s, err := r.load()
	must(t, err)
	targets := r.next(s)
	long := json.RawMessage(`{"app":"a","version":"1.0.0","channel":"stable","note":"` + strings.Repeat("x", 200_000) + `"}`)
	for i := range MaxTargets/200_000 + 1 {
		sum := digest.Of([]byte{byte(i)})
		targets.Signed.Targets[fmt.Sprint("t", i)] = &metadata.TargetFiles{Length: 1, Hashes: metadata.Hashes{"sha256": sum[:]}, Custom: &long}
	}
	before := listing(t, dir)
	if _, err := r.change(s, nil, targets); !errors.Is(err, ErrTooLarge) {
		t.Errorf("staged: error %v, want ErrTooLarge", err)
	}
	if err := r.Apply(&Change{chain: []*trust.Root{s.root}, before: s.targets, targets: targets}, testkeys.Keys{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("applied: error %v, want ErrTooLarge", err)
	}
	if after := listing(t, dir); !slices.Equal(before, after) {
		t.Errorf("the repository is changed: %v", after)
	}
}

// A file from elsewhere is believed only as far as it holds together.
func TestParseChangeRefuses(t *testing.T) {
	_, r := initialised(t)
	_, err := r.Add(context.Background(), bytes.NewReader(pack(t, "1.0.0", "demo", "targets")), testkeys.Keys{}, AddOptions{})
	must(t, err)
	_, c, err := r.StageYank("1.0.0", Yanking{})
	must(t, err)
	good, err := c.Encode()
	must(t, err)
	if _, err := ParseChange(good); err != nil {
		t.Fatal(err)
	}
	edit := func(f func(m map[string]any)) []byte {
		var m map[string]any
		must(t, json.Unmarshal(good, &m))
		f(m)
		raw, err := json.Marshal(m)
		must(t, err)
		return raw
	}
	signedPart := func(m map[string]any, name string) map[string]any {
		return m[name].(map[string]any)["signed"].(map[string]any)
	}
	stranger := testkeys.Root(t, testkeys.RootSpec{Keys: map[string][]string{"targets": {"stranger"}}})
	for name, raw := range map[string][]byte{
		"empty":             nil,
		"garbage":           []byte("garbage"),
		"another format":    edit(func(m map[string]any) { m["tandem_change"] = 2 }),
		"no chain":          edit(func(m map[string]any) { delete(m, "chain") }),
		"nothing to sign":   edit(func(m map[string]any) { delete(m, "targets") }),
		"a stranger's root": edit(func(m map[string]any) { m["chain"] = []any{json.RawMessage(stranger)} }),
		"another list":      edit(func(m map[string]any) { signedPart(m, "before")["version"] = 7 }),
		"version skipped":   edit(func(m map[string]any) { signedPart(m, "targets")["version"] = 9 }),
		"delegations": edit(func(m map[string]any) {
			signedPart(m, "targets")["delegations"] = map[string]any{"keys": map[string]any{}, "roles": []any{}}
		}),
		"a bundle's targets": edit(func(m map[string]any) {
			signedPart(m, "targets")["targets"] = map[string]any{"release.json.zst": map[string]any{"length": 5, "hashes": map[string]any{"sha256": strings.Repeat("00", 32)}}}
		}),
		"null":             edit(func(m map[string]any) { m["targets"] = nil }),
		"three roots":      edit(func(m map[string]any) { m["roots"] = []any{1, 2, 3} }),
		"a root of no use": edit(func(m map[string]any) { m["roots"] = []any{json.RawMessage(stranger)} }),
	} {
		if _, err := ParseChange(raw); !errors.Is(err, ErrChange) {
			t.Errorf("%s: error %v, want ErrChange", name, err)
		}
	}
	// Whose repository it is only a root that was kept can tell.
	mine, err := r.Root()
	must(t, err)
	must(t, c.Check(mine))
	other, err := trust.ParseRoot(stranger)
	must(t, err)
	if err := c.Check(other); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("another repository: error %v, want ErrUntrusted", err)
	}
}

func FuzzChange(f *testing.F) {
	_, r := initialised(f)
	c, err := r.StageTargets()
	must(f, err)
	raw, err := c.Encode()
	must(f, err)
	f.Add(raw)
	c, err = r.StageRotate("targets", public(f, "t2"), 0)
	must(f, err)
	raw, err = c.Encode()
	must(f, err)
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseChange(raw)
		if err != nil {
			return
		}
		c.Describe()
		c.Missing()
		if _, err := c.Sign(all()); err != nil {
			t.Fatal(err)
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseChange(again); err != nil {
			t.Fatalf("what was signed cannot be read: %v", err)
		}
	})
}
