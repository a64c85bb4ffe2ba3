package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/internal/testkeys"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/versioning"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func clock() time.Time { return start }

func openOS(t testing.TB, dir string) *fsys.OS {
	t.Helper()
	o, err := fsys.OpenOS(dir)
	must(t, err)
	t.Cleanup(func() { o.Close() })
	return o
}

func version(t testing.TB, s string) versioning.Version {
	t.Helper()
	v, err := versioning.Parse(s)
	must(t, err)
	return v
}

// pack gives a bundle.
func pack(t testing.TB, v, hardware string, by ...string) []byte {
	t.Helper()
	app, out := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(app, "run"), []byte(v+hardware), 0o755))
	o := bundle.Options{App: "hello", Version: version(t, v), Compatible: []string{hardware}}
	if by != nil {
		o.Sign = func(m *bundle.Targets) error { testkeys.Sign(t, m, by...); return nil }
	}
	_, err := bundle.Create(context.Background(), openOS(t, app), openOS(t, out), "x", o)
	must(t, err)
	raw, err := os.ReadFile(filepath.Join(out, "x"))
	must(t, err)
	return raw
}

func initialised(t testing.TB) (string, *Repository) {
	t.Helper()
	dir := t.TempDir()
	r := New(openOS(t, dir), clock, Expiry{})
	root, err := r.Init(testkeys.Keys{})
	must(t, err)
	if root != filepath.Join(dir, "root.json") {
		t.Errorf("Init gives %s, want the root.json", root)
	}
	return dir, r
}

// device updates from a repository as a device does, with go-tuf's client
// workflow over HTTP, and gives what is on offer.
func device(dir string, at time.Time) (map[string]*metadata.TargetFiles, error) {
	osRoot, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer osRoot.Close()
	h := NewHandler(osRoot)
	get := func(name string) ([]byte, error) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/"+name, nil))
		if w.Code != 200 {
			return nil, fmt.Errorf("%s: %d", name, w.Code)
		}
		return w.Body.Bytes(), nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, "root.json"))
	if err != nil {
		return nil, err
	}
	tm, err := trustedmetadata.New(raw)
	if err != nil {
		return nil, err
	}
	tm.RefTime = at
	for {
		raw, err := get(fmt.Sprintf("metadata/%d.root.json", tm.Root.Signed.Version+1))
		if err != nil {
			break
		}
		if _, err := tm.UpdateRoot(raw); err != nil {
			return nil, err
		}
	}
	if raw, err = get("metadata/timestamp.json"); err != nil {
		return nil, err
	}
	ts, err := tm.UpdateTimestamp(raw)
	if err != nil {
		return nil, err
	}
	if raw, err = get(fmt.Sprintf("metadata/%d.snapshot.json", ts.Signed.Meta["snapshot.json"].Version)); err != nil {
		return nil, err
	}
	snap, err := tm.UpdateSnapshot(raw, false)
	if err != nil {
		return nil, err
	}
	pin := snap.Signed.Meta["targets.json"]
	if pin.Length == 0 || len(pin.Hashes) == 0 {
		return nil, errors.New("the snapshot does not pin the targets by length and hash")
	}
	if raw, err = get(fmt.Sprintf("metadata/%d.targets.json", pin.Version)); err != nil {
		return nil, err
	}
	targets, err := tm.UpdateTargets(raw)
	if err != nil {
		return nil, err
	}
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

func TestInit(t *testing.T) {
	dir, r := initialised(t)
	offer, err := device(dir, start)
	if err != nil || len(offer) != 0 {
		t.Errorf("a device sees %v, %v; want an empty repository", offer, err)
	}
	a, _ := os.ReadFile(filepath.Join(dir, "root.json"))
	b, _ := os.ReadFile(filepath.Join(dir, "metadata/1.root.json"))
	if !bytes.Equal(a, b) {
		t.Error("root.json and metadata/1.root.json differ")
	}
	if _, err := r.Init(testkeys.Keys{}); !errors.Is(err, ErrExists) {
		t.Errorf("a second Init: error %v, want ErrExists", err)
	}
	for days, want := range map[int]string{364: "", 366: "timestamp.json is expired", 3651: "root.json is expired"} {
		_, err := device(dir, start.Add(time.Duration(days)*day))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("after %d days: error %v, want %q", days, err, want)
		}
	}
	root, err := trust.ParseRoot(a)
	must(t, err)
	if got := root.Expires(); !got.Equal(start.Add(3650 * day)) {
		t.Errorf("the root expires at %v", got)
	}
}

func TestAdd(t *testing.T) {
	ctx := context.Background()
	dir, r := initialised(t)
	raw := pack(t, "1.0.0", "demo", "targets")
	rel, err := r.Add(ctx, bytes.NewReader(raw), testkeys.Keys{}, AddOptions{})
	must(t, err)
	head, err := bundle.ReadHead(bytes.NewReader(raw), bundle.Inspect{})
	must(t, err)
	want := release.Target{
		Release: head.Release(), Head: head.Length(),
		Name: "hello-1.0.0.tandem", Length: int64(len(raw)), SHA256: digest.Of(raw), Kind: release.App,
		App: "hello", Version: version(t, "1.0.0"), Compatible: []string{"demo"}, Channels: map[string]release.Offering{"stable": {Rollout: 100}}, Unpacked: 9,
	}
	same := cmp.Comparer(func(a, b versioning.Version) bool { return a.String() == b.String() })
	if diff := cmp.Diff(want, rel, same); diff != "" {
		t.Errorf("Add (-want +got):\n%s", diff)
	}
	if got := File(rel); got != "targets/"+digest.Of(raw).String()+".hello-1.0.0.tandem" {
		t.Errorf("the bundle lies at %s", got)
	}
	stored, err := os.ReadFile(filepath.Join(dir, File(rel)))
	if err != nil || !bytes.Equal(stored, raw) {
		t.Errorf("the stored bundle differs: %v", err)
	}
	offer, err := device(dir, start)
	must(t, err)
	got, err := release.ParseTarget("hello-1.0.0.tandem", offer["hello-1.0.0.tandem"])
	must(t, err)
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("a device sees (-want +got):\n%s", diff)
	}

	ten := 10
	_, err = r.Add(ctx, bytes.NewReader(pack(t, "1.1.0-rc.1", "demo", "targets")), testkeys.Keys{}, AddOptions{Channel: "beta", Rollout: &ten})
	must(t, err)
	// The same version for other hardware has a name of its own.
	other, err := r.Add(ctx, bytes.NewReader(pack(t, "1.0.0", "quectel,ec25", "targets")), testkeys.Keys{}, AddOptions{})
	must(t, err)
	if other.Name != "hello-1.0.0-for-quectel_ec25.tandem" {
		t.Errorf("other hardware: target %s", other.Name)
	}
	list, err := r.Releases()
	must(t, err)
	var names []string
	for _, rel := range list {
		names = append(names, fmt.Sprintf("%s %v", rel.Name, rel.Channels))
	}
	if diff := cmp.Diff([]string{"hello-1.0.0-for-quectel_ec25.tandem map[stable:{100 false}]", "hello-1.0.0.tandem map[stable:{100 false}]", "hello-1.1.0-rc.1.tandem map[beta:{10 false}]"}, names); diff != "" {
		t.Errorf("Releases (-want +got):\n%s", diff)
	}
	if _, err := device(dir, start); err != nil {
		t.Error(err)
	}
}

func TestAddRefuses(t *testing.T) {
	ctx := context.Background()
	dir, r := initialised(t)
	good := pack(t, "1.0.0", "demo", "targets")
	_, err := r.Add(ctx, bytes.NewReader(good), testkeys.Keys{}, AddOptions{})
	must(t, err)
	next := pack(t, "2.0.0", "demo", "targets")
	flipped := bytes.Clone(next)
	flipped[len(flipped)-1200] ^= 4
	before := listing(t, dir)
	over := 101
	for name, c := range map[string]struct {
		raw  []byte
		keys testkeys.Keys
		o    AddOptions
		err  error
		want string
	}{
		"the same bundle":     {raw: good, err: ErrExists, want: "hello 1.0.0 for demo"},
		"the same version":    {raw: pack(t, "1.0.0+build.7", "demo", "targets"), err: ErrExists, want: "raise the version"},
		"not signed":          {raw: pack(t, "2.0.0", "demo"), err: trust.ErrUntrusted, want: "no signature"},
		"another key":         {raw: pack(t, "2.0.0", "demo", "stranger"), err: trust.ErrUntrusted, want: "which is not one"},
		"damaged":             {raw: flipped, err: bundle.ErrMalformed, want: "payload.tar.zst"},
		"truncated":           {raw: next[:len(next)-1], err: bundle.ErrMalformed, want: "ends at byte"},
		"more at the end":     {raw: append(bytes.Clone(next), 0), err: bundle.ErrMalformed, want: "nothing more"},
		"empty":               {raw: nil, err: bundle.ErrMalformed, want: "ends"},
		"wrong targets key":   {raw: next, keys: testkeys.Keys{"targets": "stranger"}, err: ErrKeys, want: "targets key"},
		"wrong snapshot key":  {raw: next, keys: testkeys.Keys{"snapshot": "stranger"}, err: ErrKeys, want: "snapshot key"},
		"wrong timestamp key": {raw: next, keys: testkeys.Keys{"timestamp": "stranger"}, err: ErrKeys, want: "timestamp key"},
		"rollout of 101":      {raw: next, o: AddOptions{Rollout: &over}, want: "per cent"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Add(ctx, bytes.NewReader(c.raw), c.keys, c.o)
			if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %v with %q", err, c.err, c.want)
			}
			after := listing(t, dir)
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("the repository is changed:\n%s", diff)
			}
			if offer, err := device(dir, start); err != nil || len(offer) != 1 {
				t.Errorf("a device sees %v, %v", offer, err)
			}
		})
	}
	for name, c := range map[string]struct {
		damage func(dir string)
		err    error
	}{
		"no repository":     {func(d string) { must(t, os.Remove(filepath.Join(d, "root.json"))) }, ErrNone},
		"root damaged":      {func(d string) { must(t, os.WriteFile(filepath.Join(d, "root.json"), []byte("{}"), 0o644)) }, trust.ErrRoot},
		"timestamp missing": {func(d string) { must(t, os.Remove(filepath.Join(d, "metadata/timestamp.json"))) }, ErrDamaged},
		"timestamp torn":    {func(d string) { must(t, os.Truncate(filepath.Join(d, "metadata/timestamp.json"), 100)) }, ErrDamaged},
		"snapshot torn":     {func(d string) { must(t, os.Truncate(filepath.Join(d, "metadata/1.snapshot.json"), 100)) }, ErrDamaged},
		"targets empty":     {func(d string) { must(t, os.Truncate(filepath.Join(d, "metadata/1.targets.json"), 0)) }, ErrDamaged},
		"a root of strangers": {func(d string) {
			must(t, os.WriteFile(filepath.Join(d, "metadata/2.root.json"), testkeys.Root(t, testkeys.RootSpec{Version: 2, SignedBy: []string{"stranger"}}), 0o644))
		}, ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			dir, r := initialised(t)
			c.damage(dir)
			if _, err := r.Add(ctx, bytes.NewReader(good), testkeys.Keys{}, AddOptions{}); !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
		})
	}
}

func listing(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	must(t, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		names = append(names, rel)
		return err
	}))
	return names
}

// Bundles and metadata follow a change of keys.
func TestRotatedRoot(t *testing.T) {
	ctx := context.Background()
	dir, r := initialised(t)
	two := testkeys.Root(t, testkeys.RootSpec{Version: 2, Keys: map[string][]string{"root": {"r2"}}, SignedBy: []string{"root", "r2"}})
	three := testkeys.Root(t, testkeys.RootSpec{Version: 3, Keys: map[string][]string{"root": {"r2"}}, SignedBy: []string{"r2"}})
	must(t, os.WriteFile(filepath.Join(dir, "metadata/2.root.json"), two, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "metadata/3.root.json"), three, 0o644))
	root, err := r.Root()
	must(t, err)
	if root.Version() != 3 {
		t.Fatalf("the newest root is %d, want 3", root.Version())
	}
	roots, first, err := Carried(openOS(t, dir), root)
	must(t, err)
	if first != 2 || len(roots) != 2 || !bytes.Equal(roots[0], two) || !bytes.Equal(roots[1], three) {
		t.Errorf("a bundle carries %d roots from %d, want 2 and 3", len(roots), first)
	}
	if _, err := r.Add(ctx, bytes.NewReader(pack(t, "1.0.0", "demo", "targets")), testkeys.Keys{}, AddOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := device(dir, start); err != nil {
		t.Error(err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "metadata/2.root.json"), testkeys.Root(t, testkeys.RootSpec{Version: 2}), 0o644))
	if _, _, err := Carried(openOS(t, dir), root); !errors.Is(err, ErrDamaged) {
		t.Errorf("a chain that does not hold: error %v, want ErrDamaged", err)
	}
	firstRoot, err := trust.ParseRoot(testkeys.Root(t, testkeys.RootSpec{}))
	must(t, err)
	if roots, _, err := Carried(openOS(t, dir), firstRoot); err != nil || roots != nil {
		t.Errorf("the first root: carries %d, %v", len(roots), err)
	}
}

func TestServe(t *testing.T) {
	dir, r := initialised(t)
	rel, err := r.Add(context.Background(), bytes.NewReader(pack(t, "1.0.0", "demo", "targets")), testkeys.Keys{}, AddOptions{})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "metadata/9.targets.json.tmp"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "targets/.incoming.tmp"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "secret.pem"), []byte("x"), 0o644))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "targets", strings.Repeat("a", 64)+".passwd")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "targets", strings.Repeat("b", 64)+".fifo"), 0o644))
	must(t, os.Mkdir(filepath.Join(dir, "metadata/7.root.json"), 0o755))
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	server := httptest.NewServer(NewHandler(root))
	defer server.Close()
	do := func(method, p string, header ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(method, server.URL, nil)
		must(t, err)
		req.URL.Opaque = p // as it is, not cleaned
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := server.Client().Do(req)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp, string(body)
	}
	for p, want := range map[string]string{
		"/metadata/timestamp.json":  "no-cache",
		"/metadata/1.root.json":     "public, max-age=31536000, immutable",
		"/metadata/2.snapshot.json": "public, max-age=31536000, immutable",
		"/metadata/2.targets.json":  "public, max-age=31536000, immutable",
		"/" + File(rel):             "public, max-age=31536000, immutable",
	} {
		resp, body := do("GET", p)
		file, err := os.ReadFile(filepath.Join(dir, p))
		must(t, err)
		if resp.StatusCode != 200 || body != string(file) || resp.Header.Get("Cache-Control") != want {
			t.Errorf("%s: %s, Cache-Control %q, %d bytes; want it with %q", p, resp.Status, resp.Header.Get("Cache-Control"), len(body), want)
		}
		tag := resp.Header.Get("ETag")
		if tag != `"`+digest.Of(file).String()+`"` {
			t.Errorf("%s: ETag %s", p, tag)
		}
		if resp, body := do("GET", p, "If-None-Match", tag); resp.StatusCode != 304 || body != "" {
			t.Errorf("%s: asked again: %s, %d bytes; want 304", p, resp.Status, len(body))
		}
		if resp, _ := do("HEAD", p); resp.StatusCode != 200 || resp.ContentLength != int64(len(file)) {
			t.Errorf("%s: HEAD: %s, length %d", p, resp.Status, resp.ContentLength)
		}
		if resp, body := do("GET", p, "Range", "bytes=10-19", "If-Range", tag); resp.StatusCode != 206 || body != string(file[10:20]) {
			t.Errorf("%s: range: %s, %q", p, resp.Status, body)
		}
		if resp, body := do("GET", p, "Range", "bytes=10-19", "If-Range", `"other"`); resp.StatusCode != 200 || body != string(file) {
			t.Errorf("%s: range of another version: %s, %d bytes; want all", p, resp.Status, len(body))
		}
		if resp, _ := do("GET", p, "Range", fmt.Sprintf("bytes=%d-", len(file))); resp.StatusCode != 416 {
			t.Errorf("%s: range after the end: %s", p, resp.Status)
		}
	}
	for _, p := range []string{
		"/", "/metadata", "/metadata/", "/targets/", "/root.json", "/secret.pem", "/metadata/../secret.pem", "/metadata/%2e%2e/secret.pem",
		"/targets/..%2fsecret.pem", "/../../etc/passwd", "/targets/.incoming.tmp", "/metadata/9.targets.json.tmp", "/metadata/2.root.json",
		"/metadata/7.root.json", "/targets/" + strings.Repeat("a", 64) + ".passwd", "/targets/" + strings.Repeat("b", 64) + ".fifo", "//metadata/timestamp.json",
	} {
		if resp, _ := do("GET", p); resp.StatusCode != 404 || resp.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %s, Cache-Control %q; want 404 that is not kept", p, resp.Status, resp.Header.Get("Cache-Control"))
		}
	}
	if resp, _ := do("POST", "/metadata/timestamp.json"); resp.StatusCode != 405 {
		t.Errorf("POST: %s", resp.Status)
	}
}
