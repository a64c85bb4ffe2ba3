package trust

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/packaging/bundle"
	"tandem/packaging/internal/testkeys"
)

var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

type spec = testkeys.RootSpec

func root(t testing.TB, s spec) *Root {
	t.Helper()
	r, err := ParseRoot(testkeys.Root(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// targets gives a bundle's targets metadata, changed and signed as asked.
func targets(t testing.TB, change func(*bundle.Targets), by ...string) []byte {
	t.Helper()
	m := metadata.Targets(bundle.Never())
	m.Signed.SpecVersion = "1.0.31"
	for _, name := range []string{"release.json.zst", "parts.json"} {
		m.Signed.Targets[name] = &metadata.TargetFiles{Length: 7, Hashes: metadata.Hashes{"sha256": bytes.Repeat([]byte{9}, 32)}}
	}
	if change != nil {
		change(m)
	}
	testkeys.Sign(t, m, by...)
	raw, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestVerifyBundle(t *testing.T) {
	two := map[string][]string{"targets": {"t1", "t2", "t3"}}
	half := map[string]int{"targets": 2}
	flip := func(raw []byte, old, new string) []byte {
		out := bytes.Replace(raw, []byte(old), []byte(new), 1)
		if bytes.Equal(out, raw) {
			t.Fatalf("%q is not in the metadata", old)
		}
		return out
	}
	next := func(s spec) []byte { return testkeys.Root(t, s) }
	for _, c := range []struct {
		name    string
		root    spec
		roots   [][]byte
		targets []byte
		at      time.Time
		err     error
		want    string // in the error
		version int64  // of the root trusted afterwards
	}{
		{name: "signed", targets: targets(t, nil, "targets"), version: 1},
		{name: "a signature more", targets: targets(t, nil, "stranger", "targets"), version: 1},
		{name: "no signature", targets: targets(t, nil), err: ErrUntrusted, want: "carries no signature"},
		{name: "another key", targets: targets(t, nil, "stranger"), err: ErrUntrusted, want: "which is not one that version 1 of the root names for targets"},
		{name: "the key of another role", targets: targets(t, nil, "timestamp"), err: ErrUntrusted, want: "which is not one"},
		{name: "the root key", targets: targets(t, nil, "root"), err: ErrUntrusted, want: "which is not one"},
		{name: "changed after signing", targets: flip(targets(t, nil, "targets"), `"length":7`, `"length":8`), err: ErrUntrusted, want: "does not match its content"},
		{name: "two of three", root: spec{Keys: two, Threshold: half}, targets: targets(t, nil, "t1", "t3"), version: 1},
		{name: "one of three", root: spec{Keys: two, Threshold: half}, targets: targets(t, nil, "t2"), err: ErrUntrusted, want: "1 of the 2 signatures"},
		{name: "one of three and a stranger", root: spec{Keys: two, Threshold: half}, targets: targets(t, nil, "t2", "stranger"), err: ErrUntrusted, want: "1 of the 2 signatures"},
		{name: "one of three twice", root: spec{Keys: two, Threshold: half}, targets: targets(t, nil, "t2", "t2"), err: bundle.ErrMalformed, want: "multiple signatures"},
		{name: "expired", targets: targets(t, func(m *bundle.Targets) { m.Signed.Expires = now.Add(-time.Second) }, "targets"), err: ErrUntrusted, want: "expired at 2029-12-31T23:59:59Z; the reference time is 2030-01-01T00:00:00Z"},
		{name: "not expired yet", targets: targets(t, func(m *bundle.Targets) { m.Signed.Expires = now }, "targets"), version: 1},
		{name: "expired root", root: spec{Expires: now.Add(-time.Hour)}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "version 1 of the root expired"},
		{name: "a clock that stands at 1970", root: spec{Expires: now}, targets: targets(t, nil, "targets"), at: time.Unix(1, 0), version: 1},

		{name: "an older root", root: spec{Version: 3}, roots: [][]byte{next(spec{Version: 2})}, targets: targets(t, nil, "targets"), version: 3},
		{name: "keys changed", roots: [][]byte{next(spec{Version: 2, Keys: map[string][]string{"targets": {"new"}}})}, targets: targets(t, nil, "new"), version: 2},
		{name: "keys changed, old key", roots: [][]byte{next(spec{Version: 2, Keys: map[string][]string{"targets": {"new"}}})}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "version 2 of the root"},
		{name: "root key changed twice", roots: [][]byte{
			next(spec{Version: 2, Keys: map[string][]string{"root": {"r2"}}, SignedBy: []string{"root", "r2"}}),
			next(spec{Version: 3, Keys: map[string][]string{"root": {"r3"}, "targets": {"t3"}}, SignedBy: []string{"r2", "r3"}}),
		}, targets: targets(t, nil, "t3"), version: 3},
		{name: "expired in between", roots: [][]byte{
			next(spec{Version: 2, Expires: now.Add(-time.Hour)}), next(spec{Version: 3}),
		}, targets: targets(t, nil, "targets"), version: 3},
		{name: "expired at the end", roots: [][]byte{next(spec{Version: 2, Expires: now.Add(-time.Hour)})}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "version 2 of the root expired"},
		{name: "a root left out", roots: [][]byte{next(spec{Version: 3})}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "root has version 3: expected 2"},
		{name: "root without the old key", roots: [][]byte{next(spec{Version: 2, Keys: map[string][]string{"root": {"r2"}}, SignedBy: []string{"r2"}})}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "version 1 of the root names for root"},
		{name: "root without the new key", roots: [][]byte{next(spec{Version: 2, Keys: map[string][]string{"root": {"r2"}}})}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "not signed by its own keys"},
		{name: "root by half of the old keys", root: spec{Keys: map[string][]string{"root": {"a", "b"}}, Threshold: map[string]int{"root": 2}, SignedBy: []string{"a", "b"}},
			roots: [][]byte{next(spec{Version: 2, Keys: map[string][]string{"root": {"a"}}, SignedBy: []string{"a"}})}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "1 of the 2 signatures"},
		{name: "unsigned root", roots: [][]byte{next(spec{Version: 2, SignedBy: []string{}})}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "no signature"},
		{name: "garbage for a root", roots: [][]byte{[]byte("{}")}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "a root that the bundle carries"},
		{name: "targets for a root", roots: [][]byte{targets(t, nil, "root")}, targets: targets(t, nil, "targets"), err: ErrUntrusted, want: "expected metadata type root"},

		{name: "a repository's targets", targets: targets(t, func(m *bundle.Targets) {
			m.Signed.Targets = map[string]*metadata.TargetFiles{"hello-1.0.0.tandem": m.Signed.Targets["release.json.zst"]}
		}, "targets"), err: bundle.ErrMalformed, want: "does not sign"},
		{name: "more than the two", targets: targets(t, func(m *bundle.Targets) {
			m.Signed.Targets["more"] = m.Signed.Targets["release.json.zst"]
		}, "targets"), err: bundle.ErrMalformed, want: "signs 3 files"},
		{name: "only a sha512", targets: targets(t, func(m *bundle.Targets) {
			m.Signed.Targets["release.json.zst"].Hashes = metadata.Hashes{"sha512": make([]byte, 64)}
		}, "targets"), err: bundle.ErrMalformed, want: "sha256"},
		{name: "a later TUF", targets: targets(t, func(m *bundle.Targets) { m.Signed.SpecVersion = "2.0.0" }, "targets"), err: bundle.ErrMalformed, want: "expected 1.x"},
		{name: "garbage", targets: []byte("garbage"), err: bundle.ErrMalformed, want: "invalid character"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := c.at
			if at.IsZero() {
				at = now
			}
			v, err := New(Options{Root: root(t, c.root), Time: at})
			if err != nil {
				t.Fatal(err)
			}
			s, err := v.VerifyBundle(c.roots, c.targets)
			if c.err == nil {
				if err != nil {
					t.Fatal(err)
				}
				if s.Unsigned || s.Release.Length != 7 || s.Parts.SHA256[0] != 9 {
					t.Errorf("gives %+v", s)
				}
				if got := v.Root().Version(); got != c.version {
					t.Errorf("trusts version %d of the root, want %d", got, c.version)
				}
				if got, want := len(v.Followed()), int(c.version-max(c.root.Version, 1)); got != want {
					t.Errorf("followed %d roots, want %d", got, want)
				}
				for _, f := range v.Followed() { // what is kept can be loaded again
					if _, err := ParseRoot(f.Bytes()); err != nil {
						t.Error(err)
					}
				}
				return
			}
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %v with %q", err, c.err, c.want)
			}
			if s != (bundle.Signed{}) {
				t.Errorf("gives %+v along with an error", s)
			}
		})
	}
}

func TestAllowUnsigned(t *testing.T) {
	for _, c := range []struct {
		name     string
		root     bool
		targets  []byte
		err      error
		unsigned bool
	}{
		{"no signature", true, targets(t, nil), nil, true},
		{"signed all the same", true, targets(t, nil, "targets"), nil, false},
		{"a wrong signature", true, targets(t, nil, "stranger"), ErrUntrusted, false},
		{"no root, no signature", false, targets(t, nil), nil, true},
		{"no root to check with", false, targets(t, nil, "stranger"), nil, true},
		{"garbage", false, []byte("garbage"), bundle.ErrMalformed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{Time: now, AllowUnsigned: true}
			if c.root {
				o.Root = root(t, spec{})
			}
			v, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			s, err := v.VerifyBundle(nil, c.targets)
			if !errors.Is(err, c.err) || s.Unsigned != c.unsigned {
				t.Errorf("gives %+v, %v; want unsigned %v, error %v", s, err, c.unsigned, c.err)
			}
		})
	}
	if _, err := New(Options{Time: now}); !errors.Is(err, ErrRoot) {
		t.Errorf("no root and signatures needed: error %v, want ErrRoot", err)
	}
}

func TestParseRoot(t *testing.T) {
	good := string(testkeys.Root(t, spec{}))
	replace := func(old, new string) string {
		out := strings.Replace(good, old, new, 1)
		if out == good {
			t.Fatalf("%q is not in the root", old)
		}
		return out
	}
	r, err := ParseRoot([]byte(good))
	if err != nil || r.Version() != 1 || !r.Expires().Equal(testkeys.Far) || string(r.Bytes()) != good {
		t.Fatalf("the good root: %v", err)
	}
	key := good[strings.Index(good, `"public":"`)+10:][:64]
	for name, c := range map[string]struct{ in, want string }{
		"empty":              {"", "ends too early"},
		"garbage":            {"\x00\x01", "invalid character"},
		"targets":            {string(targets(t, nil, "root")), "expected metadata type root"},
		"changed":            {replace(`"version":1`, `"version":2`), "does not match"},
		"version 0":          {replace(`"version":1`, `"version":0`), "expected 1 or more"},
		"a later TUF":        {replace(`"spec_version":"1`, `"spec_version":"2`), "expected 1.x"},
		"threshold 0":        {replace(`"threshold":1`, `"threshold":0`), "threshold"},
		"threshold too high": {replace(`"threshold":1`, `"threshold":2`), "1 of the 2 signatures"},
		"key too short":      {replace(key, key[:62]), "32 bytes"},
		"key no hex":         {replace(key, "zz"+key[2:]), "invalid byte"},
		"key null":           {replace(`"scheme":"ed25519"`, `"scheme":null`), "null"},
		"unknown key type":   {replace(`"keytype":"ed25519"`, `"keytype":"morse"`), "unsupported"},
		"not signed":         {string(testkeys.Root(t, spec{SignedBy: []string{}})), "no signature"},
		"signed by another":  {string(testkeys.Root(t, spec{SignedBy: []string{"targets"}})), "which is not one"},
		"too long":           {good + strings.Repeat(" ", MaxRoot), "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseRoot([]byte(c.in))
			if !errors.Is(err, ErrRoot) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrRoot with %q", err, c.want)
			}
		})
	}
}

func TestReferenceTime(t *testing.T) {
	clock, built, seen := time.Unix(1, 0), now, now.Add(time.Hour)
	if got := ReferenceTime(clock, built, seen); !got.Equal(seen) {
		t.Errorf("gives %v, want the latest", got)
	}
	if got := ReferenceTime(); !got.IsZero() {
		t.Errorf("of nothing: %v", got)
	}
}

func FuzzVerifyBundle(f *testing.F) {
	f.Add(testkeys.Root(f, spec{Version: 2}), targets(f, nil, "targets"))
	f.Add(testkeys.Root(f, spec{Version: 2, Keys: map[string][]string{"root": {"r2"}}, SignedBy: []string{"root", "r2"}}), targets(f, nil))
	f.Add([]byte("{}"), targets(f, nil, "stranger"))
	f.Fuzz(func(t *testing.T, next, raw []byte) {
		v, err := New(Options{Root: root(t, spec{}), Time: now})
		if err != nil {
			t.Fatal(err)
		}
		s, err := v.VerifyBundle([][]byte{next}, raw)
		if err == nil && (s.Unsigned || s.Release.Length != 7) {
			t.Fatalf("accepted what nobody signed: %+v", s)
		}
		if err != nil && !errors.Is(err, ErrUntrusted) && !errors.Is(err, bundle.ErrMalformed) {
			t.Fatalf("error %v has no class", err)
		}
		_, _ = ParseRoot(next)
	})
}
