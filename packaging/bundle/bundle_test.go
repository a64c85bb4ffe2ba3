package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/packaging/internal/testkeys"
	"tandem/packaging/release"
	"tandem/versioning"
)

func openOS(t testing.TB, dir string) *fsys.OS {
	t.Helper()
	fs, err := fsys.OpenOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return fs
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write1(t testing.TB, dir, name, content string, mode os.FileMode) {
	t.Helper()
	p := filepath.Join(dir, name)
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(t, os.WriteFile(p, []byte(content), 0o600))
	must(t, os.Chmod(p, mode))
}

// smallTree makes a tree with one of each kind.
func smallTree(t testing.TB, dir string) {
	t.Helper()
	write1(t, dir, "bin/hello", "#!/bin/sh\necho hello\n", 0o755)
	write1(t, dir, "etc/hello.conf", "greeting = hello\n", 0o640)
	must(t, os.Symlink("bin/hello", filepath.Join(dir, "start")))
	must(t, os.Link(filepath.Join(dir, "bin/hello"), filepath.Join(dir, "bin/hallo")))
	must(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	for _, d := range []string{"bin", "etc"} { // whatever the umask
		must(t, os.Chmod(filepath.Join(dir, d), 0o755))
	}
}

func options() Options {
	v, _ := versioning.Parse("1.1.0")
	return Options{App: "hello", Version: v, Compatible: []string{"demo"}, Config: []string{"etc/*.conf"}, Ignore: []string{"log/**"}}
}

func signedBy(t testing.TB, names ...string) Signing {
	return Signing{Sign: func(m *Targets) error { testkeys.Sign(t, m, names...); return nil }}
}

func create(t testing.TB, app string, o Options) []byte {
	t.Helper()
	out := t.TempDir()
	_, err := Create(context.Background(), openOS(t, app), openOS(t, out), "x.tandem", o)
	must(t, err)
	names, _ := os.ReadDir(out)
	if len(names) != 1 {
		t.Fatalf("Create leaves %v, want only the bundle", names)
	}
	raw, err := os.ReadFile(filepath.Join(out, "x.tandem"))
	must(t, err)
	return raw
}

// small gives a signed small bundle.
func small(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	smallTree(t, dir)
	o := options()
	o.Signing = signedBy(t, "targets")
	return create(t, dir, o)
}

// readAll reads a bundle the way an installer does.
func readAll(src io.Reader, v Verifier) (*release.Manifest, map[string]string, error) {
	r, err := NewReader(src, v)
	if err != nil {
		return nil, nil, err
	}
	contents := map[string]string{}
	for {
		f, content, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		data, err := io.ReadAll(content)
		if err != nil {
			return nil, nil, err
		}
		contents[string(f.Path)] = string(data)
	}
	return r.Manifest(), contents, r.Finish()
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	smallTree(t, dir)
	long := strings.Repeat("d23456789/", 30) + strings.Repeat("n", 200)
	rnd := make([]byte, 3<<20)
	for i := range rnd {
		rnd[i] = byte(rand.Uint32())
	}
	want := map[string]string{
		"bin/hallo":        "#!/bin/sh\necho hello\n",
		"etc/hello.conf":   "greeting = hello\n",
		"empty.txt":        "",
		"grüße/ß":          "non-ASCII name",
		"bad\xff\xfename":  "a name that is not UTF-8",
		"with\nnewline %=": "an odd name",
		long:               "a long name",
		"random":           string(rnd),
		"zeros":            strings.Repeat("\x00", 20<<20),
		"z.setuid":         "s",
	}
	for name, content := range want {
		if name != "bin/hallo" && name != "etc/hello.conf" {
			write1(t, dir, name, content, 0o644)
		}
	}
	must(t, os.Chmod(filepath.Join(dir, "z.setuid"), 0o755|os.ModeSetuid))
	hasXattr := syscall.Setxattr(filepath.Join(dir, "random"), "user.note", []byte("\x00kept"), 0) == nil

	o := options()
	o.Time = 1700000000
	o.Signing = signedBy(t, "targets")
	raw := create(t, dir, o)
	m, got, err := readAll(iotest.HalfReader(bytes.NewReader(raw)), Inspect{})
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("contents (-want +got):\n%.2000s", diff)
	}
	entries := map[string]manifest.Entry{}
	for _, e := range m.Files {
		entries[string(e.Path)] = e
		if e.UID != 0 || e.GID != 0 {
			t.Errorf("%q belongs to %d:%d, want root", e.Path, e.UID, e.GID)
		}
		if e.Type != manifest.Hardlink && e.Mtime != 1700000000e9 {
			t.Errorf("%q has mtime %d, want that of SOURCE_DATE_EPOCH", e.Path, e.Mtime)
		}
	}
	if e := entries["bin/hello"]; e.Type != manifest.Hardlink || e.Link != "bin/hallo" {
		t.Errorf("bin/hello is %+v, want a hard link to bin/hallo", e)
	}
	if e := entries["start"]; e.Type != manifest.Symlink || e.Target != "bin/hello" {
		t.Errorf("start is %+v, want a symbolic link", e)
	}
	if e := entries["empty"]; e.Type != manifest.Dir || e.Mode != 0o700 {
		t.Errorf("empty is %+v, want a directory of mode 0700", e)
	}
	if e := entries["z.setuid"]; e.Mode != 0o4755 {
		t.Errorf("z.setuid has mode %o, want 4755", e.Mode)
	}
	if e := entries["random"]; hasXattr && string(e.Xattrs["user.note"]) != "\x00kept" {
		t.Errorf("random has attributes %q, want user.note", e.Xattrs)
	}
	if len(raw) > 3<<20+64<<10 {
		t.Errorf("the bundle has %d bytes, want 20 MiB of zeros compressed away", len(raw))
	}
	b := m.Backup()
	if err := b.Check(); err != nil || len(b.Files) != len(m.Files) || b.App != "hello" {
		t.Errorf("Backup() gives %d files of %q, error %v", len(b.Files), b.App, err)
	}

	// What was not asked for is verified all the same.
	r, err := NewReader(bytes.NewReader(raw), Inspect{})
	must(t, err)
	if _, _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	must(t, r.Finish())
}

// A bundle of what was extracted is the bundle it was extracted from.
func TestExtract(t *testing.T) {
	dir := t.TempDir()
	smallTree(t, dir)
	write1(t, dir, "sealed/file", "x", 0o4555)
	must(t, os.Chmod(filepath.Join(dir, "sealed"), 0o555))
	raw := create(t, dir, options())
	x := t.TempDir()
	root, err := os.OpenRoot(x)
	must(t, err)
	defer root.Close()
	r, err := NewReader(bytes.NewReader(raw), Inspect{})
	must(t, err)
	must(t, Extract(r, root))
	if !bytes.Equal(create(t, x, options()), raw) {
		t.Error("what was extracted gives another bundle")
	}
	r, err = NewReader(bytes.NewReader(raw), Inspect{})
	must(t, err)
	if err := Extract(r, root); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("extracting twice: error %v", err)
	}
	must(t, os.Chmod(filepath.Join(x, "sealed"), 0o755)) // so that it can be removed
	must(t, os.Chmod(filepath.Join(dir, "sealed"), 0o755))
}

// The same input gives the same bytes, wherever and whenever.
func TestSameBytes(t *testing.T) {
	var first []byte
	for i := range 3 {
		dir := filepath.Join(t.TempDir(), strings.Repeat("x", i+1))
		must(t, os.MkdirAll(dir, 0o755))
		if i == 1 { // other order of creation
			write1(t, dir, "etc/hello.conf", "greeting = hello\n", 0o640)
		}
		smallTree(t, dir)
		must(t, os.Chtimes(filepath.Join(dir, "bin/hello"), time.Now(), time.Unix(int64(i)*1e6, 0)))
		o := options()
		o.Signing = signedBy(t, "targets")
		raw := create(t, dir, o)
		if first == nil {
			first = raw
		}
		if !bytes.Equal(raw, first) {
			t.Fatalf("attempt %d gives other bytes", i)
		}
	}
	// The format itself: an accidental change of it must be noticed.
	if got, want := digest.Of(first).String(), golden; got != want {
		t.Errorf("the bundle of the small tree has SHA-256 %s, want %s: did the format or the compression change?", got, want)
	}
}

const golden = "f898cc33628094a262ef8e3795395b82bdca7523bfea53b5ba43edc2ed070784"

// strict trusts the key "targets" only. It stands for packaging/trust, which
// cannot be imported from here.
type strict struct{ t testing.TB }

var errStrict = errors.New("strict: not signed")

func (s strict) VerifyBundle(_ [][]byte, targets []byte) (Signed, error) {
	m, signed, err := ParseTargets(targets)
	if err != nil {
		return signed, err
	}
	want := newTargets(signed, m.Signed.Expires)
	want.Signed = m.Signed
	testkeys.Sign(s.t, want, "targets")
	if len(m.Signatures) != 1 || !bytes.Equal(m.Signatures[0].Signature, want.Signatures[0].Signature) || m.Signatures[0].KeyID != want.Signatures[0].KeyID {
		return Signed{}, errStrict
	}
	return signed, nil
}

func TestEveryByteCounts(t *testing.T) {
	if testing.Short() {
		t.Skip("a search in memory, with one thing after the other")
	}
	dir := t.TempDir()
	smallTree(t, dir)
	for name, c := range map[string]struct {
		s Signing
		v Verifier
	}{
		"signed":   {signedBy(t, "targets"), strict{t}},
		"unsigned": {Signing{}, Inspect{}},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			o.Signing = c.s
			raw := create(t, dir, o)
			_, want, err := readAll(bytes.NewReader(raw), c.v)
			must(t, err)
			// A bit of a frame may count for nothing: what is accepted is what was
			// signed all the same.
			check := func(what string, data []byte, mayPass bool) {
				t.Helper()
				_, got, err := readAll(bytes.NewReader(data), c.v)
				switch {
				case err == nil && mayPass && cmp.Equal(got, want):
				case err == nil:
					t.Errorf("%s: accepted", what)
				case !errors.Is(err, ErrMalformed) && !errors.Is(err, errStrict):
					t.Errorf("%s: error %q is not ErrMalformed", what, err)
				}
			}
			h, err := ReadHead(bytes.NewReader(raw), c.v)
			must(t, err)
			inPayload := func(i int) bool { return int64(i) >= h.Length() && int64(i) < h.Length()+h.Parts().Payload() }
			bad := bytes.Clone(raw)
			for i := range raw {
				for _, bit := range []byte{1 << (i % 8), 0x20} {
					bad[i] ^= bit
					check(fmt.Sprintf("byte %d xor %#x", i, bit), bad, inPayload(i))
					bad[i] = raw[i]
				}
				if i%7 == 0 || i%block == 0 {
					check(fmt.Sprintf("cut at %d", i), raw[:i], false)
				}
			}
			for _, tail := range []string{"\x00", "x", strings.Repeat("\x00", 512), strings.Repeat("\x00", 10240)} {
				check(fmt.Sprintf("%d bytes more", len(tail)), append(bytes.Clone(raw), tail...), false)
			}
			check("twice", append(bytes.Clone(raw), raw...), false)
		})
	}
}

// A source that fails is not a malformed bundle.
func TestSourceFails(t *testing.T) {
	raw := small(t)
	gone := errors.New("connection reset")
	for i := 0; i < len(raw); i += 97 {
		_, _, err := readAll(io.MultiReader(bytes.NewReader(raw[:i]), iotest.ErrReader(gone)), Inspect{})
		if !errors.Is(err, gone) || errors.Is(err, ErrMalformed) {
			t.Fatalf("source fails at byte %d: error %v, want the source's", i, err)
		}
	}
	_, _, err := readAll(iotest.OneByteReader(iotest.DataErrReader(bytes.NewReader(raw))), Inspect{})
	must(t, err)
}

// bigTree makes a tree with many small files and some large ones, and gives
// what is in it.
func bigTree(t testing.TB, dir string) map[string]string {
	t.Helper()
	rnd := rand.New(rand.NewPCG(7, 7))
	want := map[string]string{"zero/empty": "", strings.Repeat("n", 101): "a name for an extended header"}
	for i := range 60 {
		b := make([]byte, rnd.IntN(3000))
		for k := range b {
			b[k] = byte(rnd.IntN(40))
		}
		want[fmt.Sprintf("small/%03d", i)] = string(b)
	}
	for i, n := range []int{5 << 10, 64 << 10, 64<<10 - 512, 1<<20 - 1024, 2<<20 + 17} {
		b := make([]byte, n)
		for k := range b {
			b[k] = byte(rnd.IntN(40))
		}
		want[fmt.Sprintf("large/%d", i)] = string(b)
	}
	for name, content := range want {
		write1(t, dir, name, content, 0o644)
	}
	return want
}

// touched tells which bytes of a source were read.
type touched struct {
	*bytes.Reader
	read int64
}

func (c *touched) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.read += int64(n)
	return n, err
}

// Only the frames of files that are wanted are read, and what is in the others
// does not matter; and a source that cannot seek gives the same.
func TestWant(t *testing.T) {
	dir := t.TempDir()
	all := bigTree(t, dir)
	o := options()
	o.Frame = 16 << 10
	raw := create(t, dir, o)
	names := slices.Sorted(maps.Keys(all))
	rnd := rand.New(rand.NewPCG(1, 1))
	for round := range 30 {
		wanted := map[string]string{}
		for range rnd.IntN(4) {
			name := names[rnd.IntN(len(names))]
			wanted[name] = all[name]
		}
		want := func(p backup.Path) bool { _, ok := wanted[string(p)]; return ok }
		h, err := ReadHead(bytes.NewReader(raw), Inspect{})
		must(t, err)
		if h.Size() != int64(len(raw)) {
			t.Fatalf("Size() gives %d, the bundle has %d bytes", h.Size(), len(raw))
		}
		// Nothing but the head and those frames is there.
		sparse := make([]byte, len(raw))
		copy(sparse, raw[:h.Length()])
		needed := h.Length() + pad(h.Parts().Payload()) + 2*block
		h.Frames(want, func(at int64, f Frame) {
			must(t, checkFrame(raw[at:at+f.Length], f.Size))
			copy(sparse[at:], raw[at:at+f.Length])
			needed += f.Length
		})
		seeks := &touched{Reader: bytes.NewReader(sparse)}
		for name, src := range map[string]io.Reader{"seeks": seeks, "streams": iotest.HalfReader(bytes.NewReader(sparse))} {
			r, err := NewReader(src, Inspect{})
			must(t, err)
			r.Want(want)
			got := map[string]string{}
			for {
				e, content, err := r.Next()
				if err == io.EOF {
					break
				}
				must(t, err)
				if round%3 == 2 { // left unread, it is verified all the same
					got[string(e.Path)] = all[string(e.Path)]
					continue
				}
				data, err := io.ReadAll(content)
				must(t, err)
				got[string(e.Path)] = string(data)
			}
			must(t, r.Finish())
			if !cmp.Equal(got, wanted) {
				t.Errorf("%s: got other files than were wanted: %v, want %v", name, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(wanted)))
			}
		}
		if seeks.read != needed {
			t.Errorf("%d files: %d bytes were read, %d are needed", len(wanted), seeks.read, needed)
		}
	}
	// Without what is wanted it does not pass.
	h, err := ReadHead(bytes.NewReader(raw), Inspect{})
	must(t, err)
	bad := bytes.Clone(raw)
	h.Frames(func(p backup.Path) bool { return p == "large/4" }, func(at int64, f Frame) { clear(bad[at : at+f.Length]) })
	r, err := NewReader(bytes.NewReader(bad), Inspect{})
	must(t, err)
	r.Want(func(p backup.Path) bool { return p == "large/4" })
	if err := r.Finish(); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "large/4") {
		t.Errorf("a wanted frame that is missing: error %v", err)
	}
	r, err = NewReader(bytes.NewReader(bad[:len(bad)-600]), Inspect{})
	must(t, err)
	r.Want(func(backup.Path) bool { return false })
	if err := r.Finish(); !errors.Is(err, ErrMalformed) {
		t.Errorf("a bundle that is cut where nobody looks: error %v", err)
	}
}

// Any program that knows tar and zstd reads the payload, and the whole.
func TestOrdinaryTools(t *testing.T) {
	dir := t.TempDir()
	want := bigTree(t, dir)
	o := options()
	o.Time, o.Frame = 1700000000, 16<<10
	raw := create(t, dir, o)
	outer := tar.NewReader(bytes.NewReader(raw))
	var members []string
	for {
		h, err := outer.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		if members = append(members, h.Name); h.Name != payloadName {
			continue
		}
		z, err := zstd.NewReader(outer)
		must(t, err)
		defer z.Close()
		inner := tar.NewReader(z)
		for {
			h, err := inner.Next()
			if err == io.EOF {
				break
			}
			must(t, err)
			data, err := io.ReadAll(inner)
			must(t, err)
			if want[h.Name] != string(data) || h.Mode != 0o644 || h.ModTime.Unix() != o.Time || h.Typeflag != tar.TypeReg {
				t.Errorf("the payload's %q is not what was packed: %+v", h.Name, h)
			}
			delete(want, h.Name)
		}
		rest, err := io.ReadAll(z)
		must(t, err)
		if len(rest) > 0 {
			t.Errorf("%d bytes follow the payload's tar", len(rest))
		}
	}
	if len(want) > 0 {
		t.Errorf("the payload lacks %v", slices.Sorted(maps.Keys(want)))
	}
	if diff := cmp.Diff([]string{formatName, targetsName, releaseName, partsName, payloadName}, members); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

// The extended header of a file whose length no ustar header can say.
func TestHugeFile(t *testing.T) {
	e := fileEntry(strings.Repeat("d/", 60)+"huge", "")
	e.Size = 1 << 40
	raw := header(&e, 5)
	if n := headerSize(&e); n != int64(len(raw)) {
		t.Errorf("headerSize gives %d, the header has %d bytes", n, len(raw))
	}
	h, err := tar.NewReader(bytes.NewReader(raw)).Next()
	must(t, err)
	if h.Size != e.Size || h.Name != string(e.Path) {
		t.Errorf("read back: %q with %d bytes", h.Name, h.Size)
	}
}

// An error stays, and nothing is accepted after it.
func TestErrorStays(t *testing.T) {
	raw := small(t)
	h, err := ReadHead(bytes.NewReader(raw), Inspect{})
	must(t, err)
	raw[h.Length()+h.Parts().Payload()-1] ^= 1 // of a checksum
	r, err := NewReader(bytes.NewReader(raw), Inspect{})
	must(t, err)
	first := r.Finish()
	if first == nil {
		t.Fatal("accepted")
	}
	if _, _, err := r.Next(); err != first {
		t.Errorf("Next after an error gives %v, want %v", err, first)
	}
	if err := r.Finish(); err != first {
		t.Errorf("Finish after an error gives %v, want %v", err, first)
	}
}

// --- crafted bundles -------------------------------------------------------

type tarFile struct {
	header tar.Header
	body   string
}

func regular(name, body string) tarFile {
	return tarFile{tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(body)), Mode: 0o644}, body}
}

func tarOf(t testing.TB, files ...tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		must(t, w.WriteHeader(&f.header))
		_, err := w.Write([]byte(f.body))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func compress(t testing.TB, data []byte) []byte {
	t.Helper()
	enc, err := newEncoder()
	must(t, err)
	return enc.encode(data)
}

// framed is a frame as it stands in a bundle, and how long it is said to be decoded.
type framed struct {
	data []byte
	size int
}

// frameOf makes a frame of a part of a tar.
func frameOf(t testing.TB, plain []byte) framed { return framed{compress(t, plain), len(plain)} }

// frameWith makes one with other options.
func frameWith(t testing.TB, plain []byte, o ...zstd.EOption) framed {
	t.Helper()
	z, err := zstd.NewWriter(nil, o...)
	must(t, err)
	defer z.Close()
	return framed{z.EncodeAll(plain, nil), len(plain)}
}

func fileEntry(name, body string) manifest.Entry {
	sum := digest.Of([]byte(body))
	return manifest.Entry{Path: backup.Path(name), Type: manifest.File, Mode: 0o644, Size: int64(len(body)), SHA256: &sum}
}

// craft gives a well-signed bundle with any manifest and payload.
func craft(t testing.TB, manifest []byte, frames ...framed) []byte {
	t.Helper()
	p := Parts{Release: Whole{Length: int64(len(manifest)), SHA256: digest.Of(manifest)}}
	for _, f := range frames {
		p.Frames = append(p.Frames, Frame{Length: int64(len(f.data)), Size: int64(f.size)})
	}
	parts, err := p.Encode()
	must(t, err)
	return craftParts(t, compress(t, manifest), parts, frames...)
}

func craftParts(t testing.TB, packed, parts []byte, frames ...framed) []byte {
	t.Helper()
	s := signedBy(t, "targets")
	targets, err := s.targets(Signed{Release: describe(packed), Parts: describe(parts)}, nil)
	must(t, err)
	var payload bytes.Buffer
	for _, f := range frames {
		payload.Write(f.data)
	}
	c := &content{targets: targets, release: packed, parts: parts, payload: &payload, length: int64(payload.Len())}
	var b bytes.Buffer
	must(t, writeTo(&b, &s, c))
	return b.Bytes()
}

func base() *release.Manifest {
	o := options()
	m := o.manifest()
	m.Files = release.Files{fileEntry("a", "alpha"), fileEntry("b", "beta")}
	return m
}

// ours is a tar as the layout has it.
func ours(t testing.TB, m *release.Manifest, contents ...string) []byte {
	t.Helper()
	l := newLayout(m)
	var b bytes.Buffer
	for i, e := range l.files {
		b.Write(header(e, l.mtime))
		b.WriteString(contents[i])
		b.Write(make([]byte, pad(int64(len(contents[i])))))
	}
	b.Write(make([]byte, 2*block))
	return b.Bytes()
}

func baseTar(t testing.TB) []byte { return ours(t, base(), "alpha", "beta") }

func TestBadManifest(t *testing.T) {
	if testing.Short() {
		t.Skip("one thing after the other, in memory")
	}
	payload := frameOf(t, baseTar(t))
	text := func(m *release.Manifest) string {
		raw, err := m.Encode()
		must(t, err)
		return string(raw)
	}
	if _, _, err := readAll(bytes.NewReader(craft(t, []byte(text(base())), payload)), strict{t}); err != nil {
		t.Fatalf("the good bundle: %v", err)
	}
	rename := func(from, to string) func(*release.Manifest) {
		return func(m *release.Manifest) {
			for i := range m.Files {
				if string(m.Files[i].Path) == from {
					m.Files[i].Path = backup.Path(to)
				}
			}
		}
	}
	add := func(e ...manifest.Entry) func(*release.Manifest) {
		return func(m *release.Manifest) { m.Files = append(m.Files, e...) }
	}
	for _, c := range []struct {
		name   string
		change func(*release.Manifest)
		want   string
	}{
		{"climbs out", rename("a", "../a"), "climbs out"},
		{"climbs out later", rename("b", "b/../../b"), "climbs out"},
		{"absolute", rename("a", "/a"), "absolute"},
		{"empty path", rename("a", ""), "empty path"},
		{"not clean", rename("b", "b//c"), "not clean"},
		{"zero byte", rename("b", "b\x00c"), "zero byte"},
		{"path too long", rename("b", strings.Repeat("b/", 3000)), "at most 4095"},
		{"element too long", rename("b", strings.Repeat("b", 64<<10)), "at most"},
		{"repeats", rename("b", "a"), "listed twice"},
		{"not sorted", rename("a", "c"), "sorted by path"},
		{"device node", add(manifest.Entry{Path: "dev", Type: manifest.Other}), "unknown type"},
		{"no type", add(manifest.Entry{Path: "dev", Type: 0}), "unknown type"},
		{"parent missing", rename("b", "dir/b"), "not listed before it"},
		{"through a symlink", func(m *release.Manifest) {
			m.Files = release.Files{m.Files[0], {Path: "l", Type: manifest.Symlink, Target: "/etc"}, fileEntry("l/passwd", "beta")}
		}, "goes through"},
		{"through a file", rename("b", "a/b"), "goes through"},
		{"symlink without target", add(manifest.Entry{Path: "l", Type: manifest.Symlink}), "target"},
		{"hard link to nothing", add(manifest.Entry{Path: "l", Type: manifest.Hardlink, Link: "../../etc/passwd"}), "no file listed before it"},
		{"owner that nobody can be", func(m *release.Manifest) { m.Files[0].UID = 1<<32 - 1 }, "owner"},
		{"negative size", func(m *release.Manifest) { m.Files[0].Size = -1 }, "size -1"},
		{"sizes overflow", func(m *release.Manifest) { m.Files[0].Size, m.Files[1].Size = 1<<62, 1<<62 }, "together"},
		{"no hash", func(m *release.Manifest) { m.Files[0].SHA256 = nil }, "sha256"},
		{"mtime before 1970", func(m *release.Manifest) { m.Files[0].Mtime = -1 }, "before 1970"},
		{"unknown kind", func(m *release.Manifest) { m.Kind = "kernel" }, "unknown kind"},
		{"no version", func(m *release.Manifest) { m.Version = versioning.Version{} }, "no version"},
		{"no app", func(m *release.Manifest) { m.App = "" }, "app"},
		{"app is a path", func(m *release.Manifest) { m.App = "../hello" }, "app"},
		{"no hardware", func(m *release.Manifest) { m.Compatible = nil }, "compatible"},
		{"hardware is empty", func(m *release.Manifest) { m.Compatible = []string{""} }, "compatible"},
		{"time too late", func(m *release.Manifest) { m.Time = 1 << 60 }, "seconds since 1970"},
		{"bad pattern", func(m *release.Manifest) { m.Ignore = []string{"log/["} }, "open bracket"},
		{"too many patterns", func(m *release.Manifest) { m.Ignore = slices.Repeat([]string{"x"}, 60000) }, "at most 256"},
		{"patterns too long", func(m *release.Manifest) { m.Ignore = slices.Repeat([]string{strings.Repeat("x", 200)}, 100) }, "at most 16384"},
		{"pattern climbs out", func(m *release.Manifest) { m.Config = []string{"../*"} }, "climbs out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := base()
			c.change(m)
			_, err := NewReader(bytes.NewReader(craft(t, []byte(text(m)), payload)), strict{t})
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), releaseName) {
				t.Errorf("error %v, want ErrMalformed about %s with %q", err, releaseName, c.want)
			}
		})
	}
	for name, c := range map[string]struct{ json, want string }{
		"empty":             {" ", "unexpected end"},
		"not JSON":          {"hello", "invalid character"},
		"two documents":     {text(base()) + "{}", "after top-level value"},
		"a list":            {"[]", "array"},
		"null":              {"null", "app"},
		"files no list":     {`{"files":{}}`, "expected a list"},
		"entry of null":     {`{"app":"a","version":"1.0.0","compatible":["d"],"files":[null]}`, "empty path"},
		"version no semver": {`{"version":"v1"}`, "not a version"},
		"mode decimal":      {strings.Replace(text(base()), `"0644"`, `"0999"`, 1), "octal"},
		"a million entries": {`{"files":[` + strings.Repeat("{},", 1000000) + `{}]}`, "more than 131072 entries"},
		"deep":              {strings.Repeat(`{"files":[`, 20000), "depth"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewReader(bytes.NewReader(craft(t, []byte(c.json), payload)), strict{t})
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrMalformed with %q", err, c.want)
			}
		})
	}
	// What later versions may add is no reason to refuse.
	later := strings.Replace(text(base()), `{"kind":"app",`, `{"hooks":{"stop":["x"]},`, 1)
	if _, _, err := readAll(bytes.NewReader(craft(t, []byte(later), payload)), strict{t}); err != nil {
		t.Errorf("a manifest with a field of later versions: %v", err)
	}
}

func TestBadParts(t *testing.T) {
	manifest, err := base().Encode()
	must(t, err)
	packed, whole := compress(t, manifest), frameOf(t, baseTar(t))
	text := func(change func(*Parts)) []byte {
		p := &Parts{Release: Whole{int64(len(manifest)), digest.Of(manifest)}, Frames: []Frame{{int64(len(whole.data)), int64(whole.size)}}}
		change(p)
		raw, err := p.Encode()
		must(t, err)
		return raw
	}
	frames := func(f ...Frame) func(*Parts) { return func(p *Parts) { p.Frames = f } }
	for name, c := range map[string]struct {
		parts []byte
		want  string
	}{
		"good":                {text(func(*Parts) {}), ""},
		"not JSON":            {[]byte("x"), "invalid character"},
		"null":                {[]byte("null"), "has 0 bytes unpacked"},
		"needs more":          {text(func(p *Parts) { p.Needs = []string{"xyz"} }), `needs "xyz"`},
		"needs very much":     {text(func(p *Parts) { p.Needs = slices.Repeat([]string{"x"}, 100) }), "at most 16"},
		"a release of 1 GiB":  {text(func(p *Parts) { p.Release.Length = 1 << 30 }), "expected 1 to 33554432"},
		"a release too short": {text(func(p *Parts) { p.Release.Length-- }), "does not say that it has"},
		"another release":     {text(func(p *Parts) { p.Release.SHA256[0]++ }), "the SHA-256 of what it holds"},
		"no frames":           {text(frames()), "end before the last file"},
		"one number":          {[]byte(`{"release":{"length":1},"frames":[[1]]}`), "expected 2"},
		"a frame of nothing":  {text(frames(Frame{10, 0})), "decodes to 0 bytes"},
		"a frame of 1 GiB":    {text(frames(Frame{10, 1 << 30})), "decodes to 1073741824"},
		"a frame too long":    {text(frames(Frame{10000, 3072})), "has 10000 bytes"},
		"no length":           {text(frames(Frame{-1, 3072})), "has -1 bytes"},
		"cut in a file":       {text(frames(Frame{100, 1500}, Frame{100, 1572})), "does not end where a file does"},
		"beyond a file":       {text(frames(Frame{100, 100}, Frame{100, 2972})), `goes beyond "a"`},
		"beyond the end":      {text(frames(Frame{100, 3073})), "does not end where a file does"},
		"after the end":       {text(frames(Frame{100, 3072}, Frame{100, 512})), "after the last file"},
		"half of the end":     {text(frames(Frame{100, 2560})), "does not end where a file does"},
		"other sum":           {text(frames(Frame{100, 3072})), "the sum of the frames"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := readAll(bytes.NewReader(craftParts(t, packed, c.parts, whole)), strict{t})
			switch {
			case c.want == "" && err != nil:
				t.Errorf("error %v", err)
			case c.want != "" && (!errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want ErrMalformed with %q", err, c.want)
			case errors.Is(err, ErrCodec) != (name == "needs more"):
				t.Errorf("error %v: is ErrCodec: %v", err, errors.Is(err, ErrCodec))
			}
		})
	}
}

func TestBadPayload(t *testing.T) {
	if testing.Short() {
		t.Skip("one thing after the other, in memory")
	}
	good := baseTar(t)
	change := func(at int, b byte) []byte {
		bad := bytes.Clone(good)
		bad[at] = b
		return bad
	}
	enough := func(f framed) framed { f.size = len(good); return f }
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "skip"...)
	empty := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x24, 0, 1, 0, 0, 0x99, 0xe9, 0xd8, 0x51}
	whole := frameOf(t, good)
	for name, c := range map[string]struct {
		frames []framed
		want   string
	}{
		"good":                 {[]framed{whole}, ""},
		"good in two":          {[]framed{frameOf(t, good[:1024]), frameOf(t, good[1024:])}, ""},
		"good in pieces":       {[]framed{frameOf(t, good[:100]), frameOf(t, good[100:514]), frameOf(t, good[514:1024]), frameOf(t, good[1024:])}, ""},
		"other name":           {[]framed{frameOf(t, change(0, 'A'))}, `"a": its header in the tar`},
		"other mode":           {[]framed{frameOf(t, change(104, '7'))}, `"a": its header in the tar`},
		"a link":               {[]framed{frameOf(t, change(156, '2'))}, `"a": its header in the tar`},
		"other content":        {[]framed{frameOf(t, change(512, 'A'))}, `"a": its SHA-256`},
		"last file differs":    {[]framed{frameOf(t, change(1536, 'B'))}, `"b": its SHA-256`},
		"padding":              {[]framed{frameOf(t, change(600, 1))}, `"a": the padding`},
		"the end":              {[]framed{frameOf(t, change(len(good)-1, 1))}, `"b": the padding`},
		"an ordinary tar":      {[]framed{enough(frameOf(t, tarOf(t, regular("a", "alpha"), regular("b", "beta"))))}, ""},
		"climbs out":           {[]framed{enough(frameOf(t, tarOf(t, regular("../a", "alpha"), regular("b", "beta"))))}, `"a": its header`},
		"no end":               {[]framed{enough(frameOf(t, good[:2048]))}, "does not say that it has 3072 bytes"},
		"a bomb":               {[]framed{enough(frameOf(t, make([]byte, 64<<20)))}, "does not say that it has 3072 bytes"},
		"no checksum":          {[]framed{frameWith(t, good, zstd.WithEncoderCRC(false))}, "without a checksum"},
		"not the length":       {[]framed{enough(framed{data: streamed(t, good)})}, "does not say that it has"},
		"a dictionary":         {[]framed{frameWith(t, good, zstd.WithEncoderDictRaw(7, good[:64]))}, "needs the dictionary 7"},
		"a skippable frame":    {[]framed{enough(framed{data: append(bytes.Clone(skippable), whole.data...)})}, "meant to be skipped"},
		"and one after it":     {[]framed{enough(framed{data: append(bytes.Clone(whole.data), skippable...)})}, "after the frame's blocks"},
		"an empty frame after": {[]framed{enough(framed{data: append(bytes.Clone(whole.data), empty...)})}, "after the frame's blocks"},
		"garbage after it":     {[]framed{enough(framed{data: append(bytes.Clone(whole.data), 0)})}, "after the frame's blocks"},
		"not compressed":       {[]framed{{good, len(good)}}, "payload.tar.zst"},
		"cut":                  {[]framed{enough(framed{data: whole.data[:40]})}, "payload.tar.zst"},
		"window of 64 MiB":     {[]framed{enough(framed{data: append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x04, 16 << 3}, make([]byte, 512)...)})}, "payload.tar.zst"},
	} {
		t.Run(name, func(t *testing.T) {
			manifest, err := base().Encode()
			must(t, err)
			_, _, err = readAll(bytes.NewReader(craft(t, manifest, c.frames...)), strict{t})
			if c.want == "" {
				must(t, err)
				return
			}
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), payloadName) {
				t.Errorf("error %v, want ErrMalformed about %s with %q", err, payloadName, c.want)
			}
		})
	}
}

// streamed gives a frame that does not say how long it is decoded.
func streamed(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	must(t, err)
	_, err = z.Write(data)
	must(t, err)
	must(t, z.Flush())
	must(t, z.Close())
	return b.Bytes()
}

func TestBadMembers(t *testing.T) {
	manifest, err := base().Encode()
	must(t, err)
	packed, whole := compress(t, manifest), frameOf(t, baseTar(t))
	parts, err := (&Parts{Release: Whole{int64(len(manifest)), digest.Of(manifest)}, Frames: []Frame{{int64(len(whole.data)), int64(whole.size)}}}).Encode()
	must(t, err)
	s := signedBy(t, "targets")
	targets, err := s.targets(Signed{Release: describe(packed), Parts: describe(parts)}, nil)
	must(t, err)
	swapped, err := s.targets(Signed{Release: describe(parts), Parts: describe(packed)}, nil)
	must(t, err)
	extra := newTargets(Signed{Release: describe(packed), Parts: describe(parts)}, Never())
	extra.Signed.Targets["hello.tandem"] = extra.Signed.Targets[releaseName]
	less := newTargets(Signed{Release: describe(packed), Parts: describe(parts)}, Never())
	delete(less.Signed.Targets, partsName)
	null := newTargets(Signed{Release: describe(packed), Parts: describe(parts)}, Never())
	null.Signed.Targets[partsName] = nil
	encode := func(m *Targets) []byte {
		testkeys.Sign(t, m, "targets")
		raw, err := m.ToBytes(false)
		must(t, err)
		return raw
	}
	type m struct {
		name string
		data []byte
	}
	version := m{formatName, []byte(formatVersion)}
	tail := []m{{releaseName, packed}, {partsName, parts}, {payloadName, whole.data}}
	with := func(before []m, after ...m) []m { return append(before, after...) }
	signed := []m{version, {targetsName, targets}}
	for name, c := range map[string]struct {
		members []m
		want    string
	}{
		"no bundle":             {[]m{{"README", []byte("hello")}}, "expected a bundle"},
		"an earlier format":     {with([]m{{formatName, []byte("1\n")}}, tail...), `format "1\n"`},
		"a later format":        {with([]m{{formatName, []byte("3\n")}}, tail...), `format "3\n"`},
		"format too long":       {with([]m{{formatName, make([]byte, 1<<20)}}, tail...), "at most 64"},
		"no targets":            {with([]m{version}, tail...), `found "release.json.zst" in its place`},
		"no release":            {with(slices.Clone(signed), tail[1], tail[2]), `found "parts.json" in its place`},
		"no parts":              {with(slices.Clone(signed), tail[0], tail[2]), `found "payload.tar.zst" in its place`},
		"no payload":            {with(slices.Clone(signed), tail[0], tail[1]), "ends before it"},
		"only the version":      {[]m{version}, "ends before it"},
		"other order":           {with(slices.Clone(signed), tail[1], tail[0], tail[2]), "found"},
		"a stranger":            {with([]m{version, {"metadata/evil", nil}, {targetsName, targets}}, tail...), "found"},
		"a stranger at the end": {with(slices.Clone(signed), append(tail, m{"more", nil})...), "two empty blocks"},
		"roots not in order":    {with([]m{version, {"metadata/3.root.json", nil}, {"metadata/5.root.json", nil}, {targetsName, targets}}, tail...), "expected root 4"},
		"root 0":                {with([]m{version, {"metadata/0.root.json", nil}, {targetsName, targets}}, tail...), "found"},
		"root 07":               {with([]m{version, {"metadata/07.root.json", nil}, {targetsName, targets}}, tail...), "found"},
		"a root too long":       {with([]m{version, {"metadata/2.root.json", make([]byte, 1<<20)}, {targetsName, targets}}, tail...), "at most"},
		"targets too long":      {with([]m{version, {targetsName, make([]byte, 1<<20)}}, tail...), "at most"},
		"targets empty":         {with([]m{version, {targetsName, nil}}, tail...), targetsName},
		"targets null":          {with([]m{version, {targetsName, []byte("null")}}, tail...), targetsName},
		"targets a root":        {with([]m{version, {targetsName, testkeys.Root(t, testkeys.RootSpec{})}}, tail...), "expected metadata type targets"},
		"lengths swapped":       {with([]m{version, {targetsName, swapped}}, tail...), "as metadata/targets.json says"},
		"signs more":            {with([]m{version, {targetsName, encode(extra)}}, tail...), "signs 3 files"},
		"signs less":            {with([]m{version, {targetsName, encode(less)}}, tail...), "does not sign parts.json"},
		"signs null":            {with([]m{version, {targetsName, encode(null)}}, tail...), "null"},
		"other release":         {with(slices.Clone(signed), m{releaseName, flipped(packed)}, tail[1], tail[2]), "its SHA-256"},
		"other parts":           {with(slices.Clone(signed), tail[0], m{partsName, flipped(parts)}, tail[2]), "its SHA-256"},
		"other payload":         {with(slices.Clone(signed), tail[0], tail[1], m{payloadName, flipped(whole.data)}), payloadName},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			for _, x := range c.members {
				must(t, member(&b, x.name, int64(len(x.data)), 0, bytes.NewReader(x.data)))
			}
			b.Write(make([]byte, 1024))
			_, _, err := readAll(&b, strict{t})
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrMalformed with %q", err, c.want)
			}
		})
	}
}

// flipped gives data with its last byte changed.
func flipped(data []byte) []byte {
	bad := bytes.Clone(data)
	bad[len(bad)-1] ^= 1
	return bad
}

// What a header claims costs nothing until the bytes are there.
func TestClaimsCostNothing(t *testing.T) {
	packed, parts := make([]byte, 15<<20), []byte("x")
	s := Signing{}
	targets, err := s.targets(Signed{Release: describe(packed), Parts: describe(parts)}, nil)
	must(t, err)
	var b bytes.Buffer
	must(t, member(&b, formatName, 2, 0, strings.NewReader(formatVersion)))
	must(t, member(&b, targetsName, int64(len(targets)), 0, bytes.NewReader(targets)))
	h := tarHeader(releaseName, int64(len(packed)), 0)
	b.Write(h[:])
	b.WriteString("short")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = NewReader(&b, Inspect{})
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrMalformed) {
		t.Errorf("error %v, want ErrMalformed", err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("a claim of 15 MiB cost %d bytes", n)
	}
}

// Memory does not grow with the bundle.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector takes memory of its own")
	}
	dir := t.TempDir()
	chunk := make([]byte, 1<<20)
	for i := range chunk {
		chunk[i] = byte(rand.Uint32())
	}
	f, err := os.Create(filepath.Join(dir, "big"))
	must(t, err)
	for range 48 {
		_, err := f.Write(chunk)
		must(t, err)
	}
	must(t, f.Close())
	raw := create(t, dir, options())
	r, err := NewReader(bytes.NewReader(raw), Inspect{})
	must(t, err)
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	_, content, err := r.Next()
	must(t, err)
	buf := make([]byte, 64<<10)
	for i := 0; ; i++ {
		_, err := content.Read(buf)
		if err == io.EOF {
			break
		}
		must(t, err)
		if i%512 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			if n := int64(now.HeapAlloc) - int64(before.HeapAlloc); n > 6<<20 {
				t.Fatalf("%d bytes of memory are held while 48 MiB are read", n)
			}
		}
	}
	must(t, r.Finish())
}

func TestCreateRefuses(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		tree func(dir string)
		o    func(*Options)
		err  error
		want string
	}{
		"a FIFO": {tree: func(d string) { must(t, syscall.Mkfifo(filepath.Join(d, "pipe"), 0o600)) }, err: ErrTree, want: "pipe"},
		"a socket": {tree: func(d string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(d, "sock"), Net: "unix"})
			must(t, err)
			l.SetUnlinkOnClose(false)
			l.Close()
		}, err: ErrTree, want: "sock"},
		"an empty tree": {tree: func(d string) { must(t, os.RemoveAll(filepath.Join(d, "file"))) }, err: ErrTree, want: "is empty"},
		"no version":    {o: func(o *Options) { o.Version = versioning.Version{} }, err: ErrOptions, want: "no version"},
		"no hardware":   {o: func(o *Options) { o.Compatible = nil }, err: ErrOptions, want: "compatible"},
		"app a path":    {o: func(o *Options) { o.App = "a/b" }, err: ErrOptions, want: "app"},
		"unknown kind":  {o: func(o *Options) { o.Kind = "x" }, err: ErrOptions, want: "kind"},
		"frames of 1":   {o: func(o *Options) { o.Frame = 1 }, err: ErrOptions, want: "frames of 1 bytes"},
		"bad pattern":   {o: func(o *Options) { o.Config = []string{"/etc/*"} }, err: ErrOptions, want: "absolute"},
		"signing fails": {o: func(o *Options) { o.Sign = func(*Targets) error { return io.ErrClosedPipe } },
			err: io.ErrClosedPipe, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, out := t.TempDir(), t.TempDir()
			write1(t, dir, "file", "x", 0o644)
			write1(t, out, "x.tandem", "the old one", 0o644)
			if c.tree != nil {
				c.tree(dir)
			}
			o := options()
			if c.o != nil {
				c.o(&o)
			}
			_, err := Create(ctx, openOS(t, dir), openOS(t, out), "x.tandem", o)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %v with %q", err, c.err, c.want)
			}
			old, _ := os.ReadFile(filepath.Join(out, "x.tandem"))
			names, _ := os.ReadDir(out)
			if string(old) != "the old one" || len(names) != 1 {
				t.Errorf("output is changed: %q, %v", old, names)
			}
		})
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	dir := t.TempDir()
	smallTree(t, dir)
	if _, err := Create(done, openOS(t, dir), openOS(t, t.TempDir()), "x", options()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
}

// growing is a tree whose files are longer when read than when listed.
type growing struct{ fsys.FS }

func (g growing) ReadDir(name string) ([]fsys.Info, error) {
	infos, err := g.FS.ReadDir(name)
	for i := range infos {
		infos[i].Size--
	}
	return infos, err
}

func TestCreateNoticesChange(t *testing.T) {
	dir := t.TempDir()
	write1(t, dir, "file", "content", 0o644)
	_, err := Create(context.Background(), growing{openOS(t, dir)}, openOS(t, t.TempDir()), "x", options())
	if err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("error %v, want that the file changed", err)
	}
}

func TestSign(t *testing.T) {
	ctx := context.Background()
	tree, out := t.TempDir(), t.TempDir()
	smallTree(t, tree)
	fs := openOS(t, out)
	_, err := Create(ctx, openOS(t, tree), fs, "x", options())
	must(t, err)
	read := func() []byte {
		raw, err := os.ReadFile(filepath.Join(out, "x"))
		must(t, err)
		return raw
	}
	if _, _, err := readAll(bytes.NewReader(read()), strict{t}); !errors.Is(err, errStrict) {
		t.Fatalf("an unsigned bundle: error %v", err)
	}
	must(t, Sign(ctx, fs, "x", signedBy(t, "targets")))
	once := read()
	if _, _, err := readAll(bytes.NewReader(once), strict{t}); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Signing = signedBy(t, "targets")
	if !bytes.Equal(once, create(t, tree, o)) {
		t.Error("signed later, a bundle has other bytes than signed at once")
	}
	must(t, Sign(ctx, fs, "x", signedBy(t, "targets")))
	if !bytes.Equal(read(), once) {
		t.Error("signing again changes the bundle")
	}
	second := signedBy(t, "other")
	second.Roots, second.FirstRoot = [][]byte{testkeys.Root(t, testkeys.RootSpec{Version: 2})}, 2
	must(t, Sign(ctx, fs, "x", second))
	r, err := NewReader(bytes.NewReader(read()), Inspect{})
	must(t, err)
	must(t, r.Finish())
	if m, _, _ := ParseTargets(r.TargetsMetadata()); len(m.Signatures) != 2 {
		t.Errorf("signed by a second key there are %d signatures, want 2", len(m.Signatures))
	}
	if len(r.roots) != 1 || !bytes.Equal(r.roots[0], second.Roots[0]) {
		t.Error("the root is not carried along")
	}

	bad := read()
	bad[len(bad)-1024-int(pad(r.Parts().Payload()))-1] ^= 1
	must(t, os.WriteFile(filepath.Join(out, "x"), bad, 0o644))
	if err := Sign(ctx, fs, "x", signedBy(t, "targets")); !errors.Is(err, ErrMalformed) {
		t.Errorf("signing a damaged bundle: error %v", err)
	}
	if !bytes.Equal(read(), bad) {
		t.Error("a damaged bundle was changed")
	}
}

// A power cut at any operation leaves the old bundle or the new one, whole.
func TestPowerCut(t *testing.T) {
	ctx := context.Background()
	tree := t.TempDir()
	smallTree(t, tree)
	app := openOS(t, tree)
	o := options()
	unsigned := create(t, tree, o)
	o.Signing = signedBy(t, "targets")
	signed := create(t, tree, o)
	for name, do := range map[string]func(fsys.FS) error{
		"create": func(fs fsys.FS) error { _, err := Create(ctx, app, fs, "x", o); return err },
		"sign":   func(fs fsys.FS) error { return Sign(ctx, fs, "x", o.Signing) },
	} {
		t.Run(name, func(t *testing.T) {
			m := memfs.NewMachine()
			disk := m.NewDisk("d", memfs.Options{})
			must(t, fsys.WriteFile(disk.FS(), "x", unsigned, 0o644))
			var err error
			for n, cut := range m.Cuts(func(m *memfs.Machine) { err = do(m.Disk("d").FS()) }) {
				if testing.Short() && n > 20 {
					break // the race detector has seen it often enough
				}
				for _, choice := range memfs.Choices(uint64(n), 2) {
					c := cut.Clone()
					c.Restart(choice)
					fs := c.Disk("d").FS()
					raw, e := fsys.ReadFile(fs, "x", 1<<20)
					must(t, e)
					switch {
					case !bytes.Equal(raw, unsigned) && !bytes.Equal(raw, signed):
						t.Fatalf("cut at operation %d, %s: the bundle is neither the old nor the new one", n, choice)
					case err == nil && !bytes.Equal(raw, signed):
						t.Fatalf("cut at operation %d, %s: success, but the old bundle is there", n, choice)
					}
					must(t, do(fs)) // and it can be tried again
				}
			}
		})
	}
}

func FuzzReader(f *testing.F) {
	signed := small(f)
	f.Add(signed)
	dir := f.TempDir()
	smallTree(f, dir)
	f.Add(create(f, dir, options()))
	o := options()
	o.Signing = signedBy(f, "targets")
	o.Roots, o.FirstRoot = [][]byte{testkeys.Root(f, testkeys.RootSpec{Version: 2})}, 2
	f.Add(create(f, dir, o))
	encoded, err := base().Encode()
	must(f, err)
	f.Add(craft(f, encoded, frameOf(f, baseTar(f))))
	f.Add(craft(f, encoded, frameOf(f, baseTar(f)[:1024]), frameOf(f, baseTar(f)[1024:])))
	f.Add(signed[:700])
	f.Fuzz(func(t *testing.T, data []byte) {
		m, contents, err := readAll(bytes.NewReader(data), Inspect{})
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %q is not ErrMalformed", err)
			}
			return
		}
		for _, e := range m.Files {
			if e.Type == manifest.File {
				if got := digest.Of([]byte(contents[string(e.Path)])); got != *e.SHA256 {
					t.Fatalf("%q: accepted with another content", e.Path)
				}
			}
		}
		// The outer form is canonical: what was accepted is what we would write.
		r, err := NewReader(bytes.NewReader(data), Inspect{})
		must(t, err)
		must(t, r.Finish())
		if r.in.off != int64(len(data)) {
			t.Fatalf("%d of %d bytes were looked at", r.in.off, len(data))
		}
	})
}

// FuzzPayload gets past the hashes of the head: it crafts a bundle around a
// fuzzed manifest and a fuzzed tar, cut in two somewhere.
func FuzzPayload(f *testing.F) {
	manifest, err := base().Encode()
	must(f, err)
	f.Add(manifest, baseTar(f), 3072, true)
	f.Add(manifest, baseTar(f), 1024, true)
	f.Add(manifest, baseTar(f), 700, true)
	f.Add(manifest, compress(f, baseTar(f)), 0, false)
	long := strings.Repeat("l", 200)
	m := base()
	m.Files = release.Files{fileEntry("a", ""), fileEntry(long, "long")}
	manifest, err = m.Encode()
	must(f, err)
	f.Add(manifest, ours(f, m, "", "long"), 512, true)
	f.Fuzz(func(t *testing.T, manifest, payload []byte, cutAt int, pack bool) {
		var frames []framed
		cutAt = min(max(cutAt, 0), len(payload))
		for _, part := range [][]byte{payload[:cutAt], payload[cutAt:]} {
			switch {
			case len(part) == 0:
			case pack:
				frames = append(frames, frameOf(t, part))
			default:
				var h zstd.Header
				_ = h.Decode(part) // what it says is what parts.json says
				frames = append(frames, framed{part, int(min(h.FrameContentSize, 1<<30))})
			}
		}
		got, contents, err := readAll(bytes.NewReader(craft(t, manifest, frames...)), Inspect{})
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %q is not ErrMalformed", err)
			}
			return
		}
		files, size := got.Content()
		var n int64
		for _, c := range contents {
			n += int64(len(c))
		}
		if n != size || files != len(contents) {
			t.Fatalf("%d bytes of %d files came, expected %d of %d", n, len(contents), size, files)
		}
		if _, err := got.Encode(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzFrame holds the check of a frame against what the decoder makes of it.
func FuzzFrame(f *testing.F) {
	f.Add(compress(f, baseTar(f)), int64(3072))
	f.Add(compress(f, make([]byte, 300<<10)), int64(300<<10))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		if size <= 0 || size > maxDecoded || checkFrame(data, size) != nil {
			return
		}
		dec, err := newDecoder()
		must(t, err)
		defer dec.close()
		out, err := dec.decode(data, size, nil)
		if err == nil && int64(len(out)) != size {
			t.Fatalf("decodes to %d bytes, not %d", len(out), size)
		}
		again, errAgain := dec.zstd.DecodeAll(append(bytes.Clone(data), data...), make([]byte, 0, 2*size))
		if err == nil && (errAgain != nil || !bytes.Equal(again, append(bytes.Clone(out), out...))) {
			t.Fatalf("it is not one whole frame: twice it decodes to %d bytes, error %v", len(again), errAgain)
		}
	})
}

// What is left out or forgotten is told, and what a device could not keep is
// refused.
func TestCreateTells(t *testing.T) {
	tell := func(t *testing.T, dir string, o Options) (told []string, err error) {
		t.Helper()
		o.Tell = func(s string) { told = append(told, s) }
		_, err = Create(context.Background(), openOS(t, dir), openOS(t, t.TempDir()), "x", o)
		return told, err
	}
	dir := t.TempDir()
	smallTree(t, dir)
	o := options()
	o.Builder = os.Geteuid()
	told, err := tell(t, dir, o)
	must(t, err)
	if len(told) > 0 {
		t.Errorf("nothing is wrong, and this is told: %q", told)
	}
	write1(t, dir, "share/settings.ini", "x", 0o644)
	write1(t, dir, "conf/a", "x", 0o644)
	write1(t, dir, "log/kept.conf", "x", 0o644)
	o.Config = []string{"etc/*.conf", "var/**"}
	o.Builder++
	if told, err = tell(t, dir, o); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`note: --config-pattern "var/**" names nothing that is shipped`,
		`warning: no --config-pattern names 2 entries, such as "conf/a", which looks like configuration: an edit on a device is taken back`,
	}
	if os.Geteuid() != 0 {
		want = append(want, `left out: the owner of 12 entries, such as "bin": on devices all belongs to root`)
	}
	slices.Sort(told)
	slices.Sort(want)
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}

	must(t, os.Link(filepath.Join(dir, "bin/hello"), filepath.Join(dir, "etc/linked.conf")))
	if _, err := tell(t, dir, o); !errors.Is(err, ErrTree) || !strings.Contains(err.Error(), `"bin/hallo", which is not configuration, and "etc/linked.conf", which is, are one file`) {
		t.Errorf("a hard link into configuration: error %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "etc/linked.conf")))
	long := strings.Repeat("n", 242) + ".conf"
	write1(t, dir, "share/"+long, "x", 0o644)
	if _, err := tell(t, dir, o); err != nil {
		t.Errorf("a long name that is not configuration: %v", err)
	}
	write1(t, dir, "etc/"+long, "x", 0o644)
	if _, err := tell(t, dir, o); err != nil { // a device shortens what it puts beside it
		t.Errorf("a long name of configuration: error %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "etc", long)))
	for attribute, want := range map[string]string{
		"security.ima":     "bin/hello has the attribute security.ima",
		"security.selinux": "",
		"trusted.note":     "",
	} {
		o.Attributes = func(name string) ([]string, error) {
			if name == "bin/hello" {
				return []string{attribute}, nil
			}
			return nil, nil
		}
		told, err = tell(t, dir, o)
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrTree) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v", attribute, err)
		}
		if slices.Contains(told, `left out: the attribute trusted.note of 1 entry, "bin/hello"`) != (attribute == "trusted.note") {
			t.Errorf("%s: told %q", attribute, told)
		}
	}
	o.Attributes = nil
	for name, size := range map[string]int{"user.large": 3995} {
		if syscall.Setxattr(filepath.Join(dir, "bin/hello"), name, make([]byte, size), 0) != nil {
			t.Logf("%s cannot be set here", name)
			continue
		}
		if _, err := tell(t, dir, o); !errors.Is(err, ErrTree) {
			t.Errorf("%s: error %v", name, err)
		}
		must(t, syscall.Removexattr(filepath.Join(dir, "bin/hello"), name))
	}
}
