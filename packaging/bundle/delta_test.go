package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/packaging/delta/encode"
	"tandem/versioning"
)

// words gives text that compresses as text does.
func words(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 0))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%c%d ", 'a'+r.IntN(26), r.IntN(5000))
	}
	return b.String()
}

// twoReleases makes the bundles of a release and of the next.
func twoReleases(t testing.TB) (old, new []byte) {
	t.Helper()
	a, b := t.TempDir(), t.TempDir()
	smallTree(t, a)
	smallTree(t, b)
	main, lib := words(1, 60000), words(2, 40000)
	write1(t, a, "bin/main", main, 0o755)
	write1(t, b, "bin/main", main[:20000]+"a change "+main[20100:], 0o755)
	write1(t, a, "lib/one", lib, 0o644)
	write1(t, b, "lib/renamed", lib[300:]+"more", 0o644)
	write1(t, a, "same", words(3, 3000), 0o644)
	write1(t, b, "same", words(3, 3000), 0o600) // another mode is no other content
	write1(t, b, "moved", words(3, 3000), 0o644)
	write1(t, b, "new", words(4, 2000), 0o644)
	write1(t, a, "small", "one\n", 0o644)
	write1(t, b, "small", "two\n", 0o644)
	conf := words(5, 5000)
	write1(t, a, "etc/big.conf", conf, 0o644)
	write1(t, b, "etc/big.conf", conf+"changed", 0o644)
	o := options()
	o.Time = 1700000000
	old = create(t, a, o)
	o.Version, _ = versioning.Parse("1.2.0")
	o.Signing = signedBy(t, "targets")
	return old, create(t, b, o)
}

func open(t testing.TB, raw []byte) *Archive {
	t.Helper()
	a, err := OpenArchive(context.Background(), bytes.NewReader(raw), int64(len(raw)), Inspect{})
	must(t, err)
	return a
}

func makeDelta(t testing.TB, old, new *Archive, workers int) []byte {
	t.Helper()
	dir := t.TempDir()
	must(t, MakeDelta(context.Background(), old, new, openOS(t, dir), "x.tandem", DeltaOptions{
		Maker: encode.NewPool(workers, 0), Workers: workers, Signing: signedBy(t, "targets"),
	}))
	names, _ := os.ReadDir(dir)
	if len(names) != 1 {
		t.Fatalf("MakeDelta leaves %v, want only the bundle", names)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "x.tandem"))
	must(t, err)
	return raw
}

// readDelta reads a delta bundle. Files that cannot be made are told by their error.
func readDelta(t testing.TB, src io.Reader, base Base) (map[backup.Path]digest.SHA256, map[backup.Path]error, error) {
	t.Helper()
	r, err := NewReaderOn(src, strict{t}, base)
	if err != nil {
		return nil, nil, err
	}
	got, failed := map[backup.Path]digest.SHA256{}, map[backup.Path]error{}
	for {
		e, content, err := r.Next()
		var bad *PatchError
		if errors.As(err, &bad) {
			failed[bad.Path] = err
			continue
		}
		if err == io.EOF {
			return got, failed, r.Finish()
		}
		if err != nil {
			return nil, nil, err
		}
		h := digest.New()
		if _, err := io.Copy(h, content); errors.As(err, &bad) {
			failed[bad.Path] = err
			continue
		} else if err != nil {
			return nil, nil, err
		}
		if got[e.Path] = digest.Sum(h); got[e.Path] != *e.SHA256 {
			t.Errorf("%s: the reader ended with other content", e.Path)
		}
	}
}

func TestDelta(t *testing.T) {
	t.Parallel()
	a, b := twoReleases(t)
	old, new := open(t, a), open(t, b)
	raw := makeDelta(t, old, new, 1)
	if again := makeDelta(t, old, new, 4); !bytes.Equal(raw, again) {
		t.Error("four workers make another bundle than one")
	}
	got, failed, err := readDelta(t, bytes.NewReader(raw), old)
	if err != nil || len(failed) > 0 {
		t.Fatalf("errors %v, %v", err, failed)
	}
	want := map[backup.Path]digest.SHA256{}
	for _, e := range new.layout.files {
		switch e.Path {
		case "bin/main", "etc/big.conf", "lib/renamed", "new", "small":
			want[e.Path] = *e.SHA256
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files that it gives (-want +got):\n%s", diff)
	}

	h, err := Look(bytes.NewReader(raw), strict{t}, nil)
	must(t, err)
	d := h.Parts().Delta
	var patched []string
	for _, p := range d.Patches {
		patched = append(patched, string(p.Path))
	}
	if !slices.Equal(patched, []string{"bin/main", "lib/renamed"}) {
		t.Errorf("patches of %s: expected those of what changed a little, configuration never", patched)
	}
	if d.App != "hello" || d.Version.String() != "1.2.0" || d.Base.Version.String() != "1.1.0" || d.Base.Release != old.Head.Release() || h.Manifest() != nil {
		t.Errorf("looked at without a base: %+v, manifest %v", d, h.Manifest())
	}
	if h, err := Look(bytes.NewReader(raw), strict{t}, old); err != nil || h.Manifest().Version.String() != "1.2.0" || h.Release() != new.Head.Release() || !h.signed.Patch {
		t.Errorf("looked at with its base: %+v, %v", h, err)
	}
	if len(raw) > len(b)/4 {
		t.Errorf("%d bytes where the whole bundle has %d", len(raw), len(b))
	}

	// What is wanted of it alone is read.
	r, err := NewReaderOn(bytes.NewReader(raw), strict{t}, old)
	must(t, err)
	r.Want(func(p backup.Path) bool { return p == "lib/renamed" })
	e, content, err := r.Next()
	must(t, err)
	if _, err := io.CopyN(io.Discard, content, 10); err != nil || e.Path != "lib/renamed" {
		t.Errorf("%v, %v", e, err)
	}
	must(t, r.Finish())
}

// A base that is not here is an error before anything is read of the payload.
func TestDeltaWithoutBase(t *testing.T) {
	t.Parallel()
	a, b := twoReleases(t)
	old, new := open(t, a), open(t, b)
	raw := makeDelta(t, old, new, 2)
	_, err := NewReader(bytes.NewReader(raw), strict{t})
	if want := "this bundle makes hello 1.2.0 of 1.1.0, release " + old.Head.Release().String(); !errors.Is(err, ErrBase) || !strings.Contains(err.Error(), want) {
		t.Errorf("no base: error %v, want ErrBase with %q", err, want)
	}
	_, err = NewReaderOn(bytes.NewReader(raw), strict{t}, new)
	if want := "here is hello 1.2.0, release " + new.Head.Release().String(); !errors.Is(err, ErrBase) || !strings.Contains(err.Error(), want) {
		t.Errorf("another base: error %v, want ErrBase with %q", err, want)
	}

	// A single file that is missing, or turns out to be another, costs only what is made of it.
	const lost = "lib/one"
	var sum digest.SHA256
	var size int64
	for _, e := range old.layout.files {
		if e.Path == lost {
			sum, size = *e.SHA256, e.Size
		}
	}
	for name, c := range map[string]struct {
		file BaseFile
		want error
	}{
		"missing": {nil, ErrBase},
		"changed": {memory{bytes.NewReader([]byte(words(9, 50000)[:size]))}, ErrMalformed},
		"shorter": {memory{bytes.NewReader(make([]byte, 100))}, io.ErrUnexpectedEOF},
	} {
		got, failed, err := readDelta(t, bytes.NewReader(raw), without{old, sum, c.file})
		if err != nil || len(got) != 4 || len(failed) != 1 || !errors.Is(failed["lib/renamed"], c.want) {
			t.Errorf("%s: %d files, failed %v, %v; want 4 files, and %v", name, len(got), failed, err, c.want)
		}
	}
}

// without is a base that has another file in one's place, or none.
type without struct {
	Base
	sum  digest.SHA256
	file BaseFile
}

func (w without) Open(sum digest.SHA256, size int64) (BaseFile, error) {
	switch {
	case sum != w.sum:
		return w.Base.Open(sum, size)
	case w.file == nil:
		return nil, NotHere("it is gone")
	}
	return w.file, nil
}

// A flipped bit of a delta bundle is never believed.
func TestEveryByteOfADeltaCounts(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() {
		step = 100
	}
	a, b := twoReleases(t)
	old := open(t, a)
	raw := makeDelta(t, old, open(t, b), 2)
	want, _, err := readDelta(t, bytes.NewReader(raw), old)
	must(t, err)
	h, err := Look(bytes.NewReader(raw), strict{t}, old)
	must(t, err)
	for i := 0; i < len(raw); i += step * (1 + i%29) {
		bad := bytes.Clone(raw)
		bad[i] ^= 1 << (i % 8)
		got, failed, err := readDelta(t, bytes.NewReader(bad), old)
		// A bit of a frame may count for nothing.
		inPayload := int64(i) >= h.Length() && int64(i) < h.Length()+h.Parts().Payload()
		if err == nil && !(inPayload && len(failed) == 0 && len(got) == len(want)) {
			t.Fatalf("byte %d of %d: a flipped bit is not noticed", i, len(raw))
		}
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, errStrict) {
			t.Fatalf("byte %d: error %v, want ErrMalformed", i, err)
		}
	}
}

func TestBadDelta(t *testing.T) {
	t.Parallel()
	a, b := twoReleases(t)
	old, new := open(t, a), open(t, b)
	good := makeDelta(t, old, new, 2)
	r, err := NewReaderOn(bytes.NewReader(good), strict{t}, old)
	must(t, err)
	payload, err := io.ReadAll(r.in)
	must(t, err)
	craft := func(release []byte, patch bool, edit func(*Parts)) []byte {
		var p Parts
		must(t, json.Unmarshal(r.rawParts, &p))
		edit(&p)
		parts, err := p.Encode()
		must(t, err)
		c := &content{release: release, patch: patch, parts: parts, payload: bytes.NewReader(payload), length: int64(len(payload)), mtime: r.manifest.Time}
		s := signedBy(t, "targets")
		c.targets, err = s.targets(*c.signed(), nil)
		must(t, err)
		var w bytes.Buffer
		must(t, writeTo(&w, &s, c))
		return w.Bytes()
	}
	if _, failed, err := readDelta(t, bytes.NewReader(craft(r.packed, true, func(*Parts) {})), old); err != nil || len(failed) > 0 {
		t.Fatalf("unchanged: %v, %v", err, failed)
	}
	for name, c := range map[string]struct {
		edit func(*Parts)
		want string
	}{
		"needs more":          {func(p *Parts) { p.Needs = append(p.Needs, "TDP2") }, `needs "TDP2"`},
		"needs nothing":       {func(p *Parts) { p.Needs = nil }, "needs TDP1"},
		"no delta":            {func(p *Parts) { p.Delta = nil }, "needs TDP1"},
		"a patch, no delta":   {func(p *Parts) { p.Delta, p.Needs = nil, nil }, "only a delta bundle"},
		"no base":             {func(p *Parts) { p.Delta.Base = BaseRelease{} }, "of its base"},
		"another app":         {func(p *Parts) { p.Delta.App = "other" }, "expected other 1.2.0"},
		"another version":     {func(p *Parts) { p.Delta.Version = p.Delta.Base.Version }, "expected hello 1.1.0"},
		"another time":        {func(p *Parts) { p.Delta.Base.Release[0]++ }, "builds on another release"},
		"not sorted":          {func(p *Parts) { slices.Reverse(p.Delta.Patches) }, "sorted by path"},
		"twice":               {func(p *Parts) { p.Delta.Patches[1] = p.Delta.Patches[0] }, "sorted by path"},
		"of nothing":          {func(p *Parts) { p.Delta.Patches[0].Path = "bin/nothing" }, "no file of the release"},
		"of what is the same": {func(p *Parts) { p.Delta.Patches[1].Path = "same" }, "no file of the release"},
		"of configuration":    {func(p *Parts) { p.Delta.Patches[1].Path = "etc/big.conf" }, "may have been changed"},
		"too long":            {func(p *Parts) { p.Delta.Patches[0].Length = maxPatch + 1 }, "at most"},
		"length 0":            {func(p *Parts) { p.Delta.Patches[0].Length = 0 }, "at most"},
		"huge base":           {func(p *Parts) { p.Delta.Patches[0].Size = 1 << 40 }, "at most"},
		"another length":      {func(p *Parts) { p.Delta.Patches[0].Length += 512 }, partsName},
		"another hash":        {func(p *Parts) { p.Delta.Patches[0].SHA256[3]++ }, "its SHA-256"},
	} {
		_, _, err := readDelta(t, bytes.NewReader(craft(r.packed, true, c.edit)), old)
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrBase) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	// release.json may come whole, and is no patch then.
	if _, failed, err := readDelta(t, bytes.NewReader(craft(new.packed, false, func(*Parts) {})), old); err != nil || len(failed) > 0 {
		t.Errorf("with release.json.zst: %v, %v", err, failed)
	}
	if _, _, err := readDelta(t, bytes.NewReader(craft(new.packed, true, func(*Parts) {})), old); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), patchName) {
		t.Errorf("a frame that says to be a patch: %v, want ErrMalformed about %s", err, patchName)
	}
}

func TestMakeDeltaRefuses(t *testing.T) {
	t.Parallel()
	a, _ := twoReleases(t)
	old := open(t, a)
	o := DeltaOptions{Maker: encode.NewPool(1, 0)}
	if err := MakeDelta(context.Background(), old, old, openOS(t, t.TempDir()), "x", o); !errors.Is(err, ErrOptions) {
		t.Errorf("of itself: %v, want ErrOptions", err)
	}
	dir := t.TempDir()
	smallTree(t, dir)
	p := options()
	p.App = "other"
	if err := MakeDelta(context.Background(), old, open(t, create(t, dir, p)), openOS(t, t.TempDir()), "x", o); !errors.Is(err, ErrOptions) {
		t.Errorf("of another application: %v, want ErrOptions", err)
	}
}

// A patch has to pay on the air and on a slow core.
func TestPays(t *testing.T) {
	for _, c := range []struct {
		cost, work, full int64
		want             bool
	}{
		{900, 0, 1000, true},
		{901, 0, 1000, false},
		{1000, 0, 0, false},
		{1000, 10e6, 1e6, true},
		{1000, 23e6, 1e6, true},
		{1000, 25e6, 1e6, false}, // four seconds of work for four of the link
		{500e3, 1e6, 1e6, true},
		{500e3, 13e6, 1e6, false},
		{100, 600e3, 200, true}, // a tenth of a second is not worth a byte
		{100, 610e3, 200, false},
	} {
		if got := pays(c.cost, c.work, c.full); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

func TestSketch(t *testing.T) {
	a := words(1, 50000)
	s := newSketch([]byte(a))
	for _, c := range []struct {
		name     string
		text     string
		low, top int
	}{
		{"itself", a, sketchSize, sketchSize},
		{"a half", a[:25000], 30, 100},
		{"changed", a[:10000] + "x" + a[10000:], 120, sketchSize},
		{"another", words(2, 50000), 0, 1},
		{"short", "short", 0, 0},
	} {
		if n := s.alike(newSketch([]byte(c.text))); n < c.low || n > c.top {
			t.Errorf("%s: %d of %d hashes in common, want %d to %d", c.name, n, sketchSize, c.low, c.top)
		}
	}
}
