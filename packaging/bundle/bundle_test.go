package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/internal/cut"
	"tandem/packaging/internal/testkeys"
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
func readAll(src io.Reader, v Verifier) (*Manifest, map[string]string, error) {
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
	entries := map[string]File{}
	for _, e := range m.Files {
		entries[string(e.Path)] = e
		if e.UID != 0 || e.GID != 0 {
			t.Errorf("%q belongs to %d:%d, want root", e.Path, e.UID, e.GID)
		}
		if e.Type != backup.Hardlink && e.Mtime != 1700000000e9 {
			t.Errorf("%q has mtime %d, want that of SOURCE_DATE_EPOCH", e.Path, e.Mtime)
		}
	}
	if e := entries["bin/hello"]; e.Type != backup.Hardlink || e.Link != "bin/hallo" {
		t.Errorf("bin/hello is %+v, want a hard link to bin/hallo", e)
	}
	if e := entries["start"]; e.Type != backup.Symlink || e.Target != "bin/hello" {
		t.Errorf("start is %+v, want a symbolic link", e)
	}
	if e := entries["empty"]; e.Type != backup.Dir || e.Mode != 0o700 {
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

const golden = "f41e857c15c6549e4565dcb307806cb96c77725f63981acf3b5ca5adae101a79"

// strict trusts the key "targets" only. It stands for packaging/trust, which
// cannot be imported from here.
type strict struct{ t testing.TB }

var errStrict = errors.New("strict: not signed")

func (s strict) VerifyBundle(_ [][]byte, targets []byte) (Signed, error) {
	m, signed, err := ParseTargets(targets)
	if err != nil {
		return signed, err
	}
	want := newTargets(signed.Manifest, signed.Payload, m.Signed.Expires)
	want.Signed = m.Signed
	testkeys.Sign(s.t, want, "targets")
	if len(m.Signatures) != 1 || !bytes.Equal(m.Signatures[0].Signature, want.Signatures[0].Signature) || m.Signatures[0].KeyID != want.Signatures[0].KeyID {
		return Signed{}, errStrict
	}
	return signed, nil
}

func TestEveryByteCounts(t *testing.T) {
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
			if _, _, err := readAll(bytes.NewReader(raw), c.v); err != nil {
				t.Fatal(err)
			}
			check := func(what string, data []byte) {
				t.Helper()
				_, _, err := readAll(bytes.NewReader(data), c.v)
				if err == nil {
					t.Errorf("%s: accepted", what)
				} else if !errors.Is(err, ErrMalformed) && !errors.Is(err, errStrict) {
					t.Errorf("%s: error %q is not ErrMalformed", what, err)
				}
			}
			bad := bytes.Clone(raw)
			for i := range raw {
				for _, bit := range []byte{1 << (i % 8), 0x20} {
					bad[i] ^= bit
					check(fmt.Sprintf("byte %d xor %#x", i, bit), bad)
					bad[i] = raw[i]
				}
				if i%7 == 0 || i%block == 0 {
					check(fmt.Sprintf("cut at %d", i), raw[:i])
				}
			}
			for _, tail := range []string{"\x00", "x", strings.Repeat("\x00", 512), strings.Repeat("\x00", 10240)} {
				check(fmt.Sprintf("%d bytes more", len(tail)), append(bytes.Clone(raw), tail...))
			}
			check("twice", append(bytes.Clone(raw), raw...))
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

// An error stays, and nothing is accepted after it.
func TestErrorStays(t *testing.T) {
	raw := small(t)
	raw[bytes.LastIndex(raw, []byte("ustar"))+512] ^= 1 // in the payload
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

func compress(t testing.TB, data []byte, o ...zstd.EOption) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil, o...)
	must(t, err)
	defer z.Close()
	return z.EncodeAll(data, nil)
}

func fileEntry(name, body string) File {
	sum := digest.Of([]byte(body))
	return File{Entry: backup.Entry{Path: backup.Path(name), Type: backup.File, Mode: 0o644, Size: int64(len(body)), SHA256: &sum}, From: Full}
}

// craft gives a well-signed bundle with any manifest and payload.
func craft(t testing.TB, manifest, payload []byte) []byte {
	t.Helper()
	s := signedBy(t, "targets")
	targets, err := s.targets(describe(manifest), describe(payload), nil)
	must(t, err)
	var b bytes.Buffer
	must(t, writeTo(&b, &s, targets, manifest, 0, describe(payload), bytes.NewReader(payload)))
	return b.Bytes()
}

func base() *Manifest {
	o := options()
	m := o.manifest()
	m.Files = Files{fileEntry("a", "alpha"), fileEntry("b", "beta")}
	m.Payload.Files = 2
	m.Payload.Size = 4 * 512 * 1
	m.Payload.Size += 1024
	return m
}

func TestBadManifest(t *testing.T) {
	payload := compress(t, tarOf(t, regular("a", "alpha"), regular("b", "beta")))
	text := func(m *Manifest) string {
		raw, err := m.Encode()
		must(t, err)
		return string(raw)
	}
	if _, _, err := readAll(bytes.NewReader(craft(t, []byte(text(base())), payload)), strict{t}); err != nil {
		t.Fatalf("the good bundle: %v", err)
	}
	rename := func(from, to string) func(*Manifest) {
		return func(m *Manifest) {
			for i := range m.Files {
				if string(m.Files[i].Path) == from {
					m.Files[i].Path = backup.Path(to)
				}
			}
		}
	}
	add := func(e ...File) func(*Manifest) {
		return func(m *Manifest) { m.Files = append(m.Files, e...) }
	}
	for _, c := range []struct {
		name   string
		change func(*Manifest)
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
		{"device node", add(File{Entry: backup.Entry{Path: "dev", Type: "char"}}), "unknown type"},
		{"block device", add(File{Entry: backup.Entry{Path: "dev", Type: "block"}}), "unknown type"},
		{"parent missing", rename("b", "dir/b"), "not listed before it"},
		{"through a symlink", func(m *Manifest) {
			m.Files = Files{m.Files[0], {Entry: backup.Entry{Path: "l", Type: backup.Symlink, Target: "/etc"}}, fileEntry("l/passwd", "beta")}
		}, "goes through"},
		{"through a file", rename("b", "a/b"), "goes through"},
		{"symlink without target", add(File{Entry: backup.Entry{Path: "l", Type: backup.Symlink}}), "target"},
		{"hard link to nothing", add(File{Entry: backup.Entry{Path: "l", Type: backup.Hardlink, Link: "../../etc/passwd"}}), "no file listed before it"},
		{"owner below zero", func(m *Manifest) { m.Files[0].UID = -1 }, "owner"},
		{"negative size", func(m *Manifest) { m.Files[0].Size = -1 }, "size -1"},
		{"sizes overflow", func(m *Manifest) { m.Files[0].Size, m.Files[1].Size = 1<<62, 1<<62 }, "together"},
		{"no hash", func(m *Manifest) { m.Files[0].SHA256 = nil }, "sha256"},
		{"mtime before 1970", func(m *Manifest) { m.Files[0].Mtime = -1 }, "before 1970"},
		{"directory from the payload", add(File{Entry: backup.Entry{Path: "d", Type: backup.Dir}, From: Full}), "of files only"},
		{"unknown codec", func(m *Manifest) { m.Files[0].From = "zstd-patch" }, "unknown codec"},
		{"unknown compression", func(m *Manifest) { m.Payload.Compression = "xz" }, "unknown codec"},
		{"unknown kind", func(m *Manifest) { m.Kind = "kernel" }, "unknown kind"},
		{"no version", func(m *Manifest) { m.Version = versioning.Version{} }, "no version"},
		{"no app", func(m *Manifest) { m.App = "" }, "app"},
		{"app is a path", func(m *Manifest) { m.App = "../hello" }, "app"},
		{"no hardware", func(m *Manifest) { m.Compatible = nil }, "compatible"},
		{"hardware is empty", func(m *Manifest) { m.Compatible = []string{""} }, "compatible"},
		{"time too late", func(m *Manifest) { m.Time = 1 << 60 }, "seconds since 1970"},
		{"bad pattern", func(m *Manifest) { m.Ignore = []string{"log/["} }, "open bracket"},
		{"pattern climbs out", func(m *Manifest) { m.Config = []string{"../*"} }, "climbs out"},
		{"fewer payload files", func(m *Manifest) { m.Payload.Files = 1 }, "payload has 1 files"},
		{"payload too small", func(m *Manifest) { m.Payload.Size = 1024 }, "expected 3072"},
		{"payload too large", func(m *Manifest) { m.Payload.Size = 1 << 40 }, "expected 3072"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := base()
			c.change(m)
			_, err := NewReader(bytes.NewReader(craft(t, []byte(text(m)), payload)), strict{t})
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), manifestName) {
				t.Errorf("error %v, want ErrMalformed about %s with %q", err, manifestName, c.want)
			}
			if got, want := errors.Is(err, ErrCodec), strings.Contains(c.name, "unknown co"); got != want {
				t.Errorf("error %v: is ErrCodec: %v, want %v", err, got, want)
			}
		})
	}
	for name, c := range map[string]struct{ json, want string }{
		"empty":             {"", "unexpected end"},
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

func TestBadPayload(t *testing.T) {
	good := tarOf(t, regular("a", "alpha"), regular("b", "beta"))
	sparse := regular("a", "alpha")
	sparse.header.PAXRecords = map[string]string{"comment": "x"}
	sparse.header.Format = tar.FormatPAX
	window := bytes.Repeat([]byte{7}, 512)
	for name, c := range map[string]struct {
		payload []byte
		want    string
	}{
		"other name":         {compress(t, tarOf(t, regular("A", "alpha"), regular("b", "beta"))), `has "A" where`},
		"other order":        {compress(t, tarOf(t, regular("b", "beta"), regular("a", "alpha"))), `has "b" where`},
		"climbs out":         {compress(t, tarOf(t, regular("../a", "alpha"), regular("b", "beta"))), `has "../a" where`},
		"other content":      {compress(t, tarOf(t, regular("a", "ALPHA"), regular("b", "beta"))), `"a": its SHA-256`},
		"last file differs":  {compress(t, tarOf(t, regular("a", "alpha"), regular("b", "BETA"))), `"b": its SHA-256`},
		"other size":         {compress(t, tarOf(t, regular("a", "alpha+"), regular("b", "beta"))), `has 6 bytes in its tar`},
		"a symlink":          {compress(t, tarOf(t, tarFile{tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "b"}, ""}, regular("b", "beta"))), "expected a regular file"},
		"a device":           {compress(t, tarOf(t, tarFile{tar.Header{Typeflag: tar.TypeChar, Name: "a"}, ""}, regular("b", "beta"))), "expected a regular file"},
		"extended header":    {compress(t, tarOf(t, sparse, regular("b", "beta"))), "extended header"},
		"a file more":        {compress(t, tarOf(t, regular("a", "alpha"), regular("b", "beta"), regular("c", ""))), `"c" after the last file`},
		"a file less":        {compress(t, tarOf(t, regular("a", "alpha"))), `ends before "b"`},
		"no end":             {compress(t, good[:len(good)-1024]), "decompresses to 2048 bytes"},
		"cut in a file":      {compress(t, good[:514]), "ends too early"},
		"more after the end": {compress(t, append(bytes.Clone(good), make([]byte, 512)...)), "more than the 3072 bytes"},
		"a second frame":     {append(compress(t, good), compress(t, []byte("more"))...), "more than the 3072 bytes"},
		"a bomb":             {compress(t, append(bytes.Clone(good), make([]byte, 64<<20)...)), "more than the 3072 bytes"},
		"a bomb at once":     {compress(t, make([]byte, 64<<20)), "ends before"},
		"garbage after end":  {compress(t, append(append(bytes.Clone(good[:len(good)-512]), 1), good[len(good)-511:]...)), "payload.tar.zst"},
		"not compressed":     {good, "payload.tar.zst"},
		"empty":              {nil, "payload.tar.zst"},
		"compression cut":    {compress(t, good)[:40], "ends too early"},
		"garbage after zstd": {append(compress(t, good), "garbage"...), "payload.tar.zst"},
		"window of 64 MiB":   {append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 16 << 3}, window...), "window size"},
	} {
		t.Run(name, func(t *testing.T) {
			manifest, err := base().Encode()
			must(t, err)
			_, _, err = readAll(bytes.NewReader(craft(t, manifest, c.payload)), strict{t})
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), payloadName) {
				t.Errorf("error %v, want ErrMalformed about %s with %q", err, payloadName, c.want)
			}
		})
	}
}

func TestBadMembers(t *testing.T) {
	manifest, err := base().Encode()
	must(t, err)
	payload := compress(t, tarOf(t, regular("a", "alpha"), regular("b", "beta")))
	s := signedBy(t, "targets")
	targets, err := s.targets(describe(manifest), describe(payload), nil)
	must(t, err)
	swapped, err := s.targets(describe(payload), describe(manifest), nil)
	must(t, err)
	extra := newTargets(describe(manifest), describe(payload), Never())
	extra.Signed.Targets["hello.tandem"] = extra.Signed.Targets[manifestName]
	less := newTargets(describe(manifest), describe(payload), Never())
	delete(less.Signed.Targets, payloadName)
	null := newTargets(describe(manifest), describe(payload), Never())
	null.Signed.Targets[payloadName] = nil
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
	tail := []m{{manifestName, manifest}, {payloadName, payload}}
	for name, c := range map[string]struct {
		members []m
		want    string
	}{
		"no bundle":             {[]m{{"README", []byte("hello")}}, "expected a bundle"},
		"a later format":        {append([]m{{formatName, []byte("2\n")}}, tail...), `format "2\n"`},
		"format too long":       {append([]m{{formatName, make([]byte, 1<<20)}}, tail...), "at most 64"},
		"no targets":            {append([]m{version}, tail...), `found "manifest.json" in its place`},
		"no manifest":           {[]m{version, {targetsName, targets}, tail[1]}, `found "payload.tar.zst" in its place`},
		"no payload":            {[]m{version, {targetsName, targets}, tail[0]}, "ends before it"},
		"only the version":      {[]m{version}, "ends before it"},
		"other order":           {[]m{version, {targetsName, targets}, tail[1], tail[0]}, "found"},
		"a stranger":            {append([]m{version, {"metadata/evil", nil}, {targetsName, targets}}, tail...), "found"},
		"a stranger at the end": {append(append([]m{version, {targetsName, targets}}, tail...), m{"more", nil}), "two empty blocks"},
		"roots not in order":    {append([]m{version, {"metadata/3.root.json", nil}, {"metadata/5.root.json", nil}, {targetsName, targets}}, tail...), "expected root 4"},
		"root 0":                {append([]m{version, {"metadata/0.root.json", nil}, {targetsName, targets}}, tail...), "found"},
		"root 07":               {append([]m{version, {"metadata/07.root.json", nil}, {targetsName, targets}}, tail...), "found"},
		"a root too long":       {append([]m{version, {"metadata/2.root.json", make([]byte, 1<<20)}, {targetsName, targets}}, tail...), "at most"},
		"targets too long":      {append([]m{version, {targetsName, make([]byte, 1<<20)}}, tail...), "at most"},
		"targets empty":         {append([]m{version, {targetsName, nil}}, tail...), targetsName},
		"targets null":          {append([]m{version, {targetsName, []byte("null")}}, tail...), targetsName},
		"targets a root":        {append([]m{version, {targetsName, testkeys.Root(t, testkeys.RootSpec{})}}, tail...), "expected metadata type targets"},
		"lengths swapped":       {append([]m{version, {targetsName, swapped}}, tail...), "as metadata/targets.json says"},
		"signs more":            {append([]m{version, {targetsName, encode(extra)}}, tail...), "signs 3 files"},
		"signs less":            {append([]m{version, {targetsName, encode(less)}}, tail...), "does not sign payload.tar.zst"},
		"signs null":            {append([]m{version, {targetsName, encode(null)}}, tail...), "null"},
		"other manifest":        {[]m{version, {targetsName, targets}, {manifestName, bytes.ToUpper(manifest)}, tail[1]}, "its SHA-256"},
		"other payload":         {[]m{version, {targetsName, targets}, tail[0], {payloadName, bytes.ToUpper(payload)}}, payloadName},
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

// What a header claims costs nothing until the bytes are there.
func TestClaimsCostNothing(t *testing.T) {
	manifest, payload := make([]byte, 31<<20), []byte("x")
	s := Signing{}
	targets, err := s.targets(describe(manifest), describe(payload), nil)
	must(t, err)
	var b bytes.Buffer
	must(t, member(&b, formatName, 2, 0, strings.NewReader(formatVersion)))
	must(t, member(&b, targetsName, int64(len(targets)), 0, bytes.NewReader(targets)))
	h := tarHeader(manifestName, int64(len(manifest)), 0)
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
		t.Errorf("a claim of 31 MiB cost %d bytes", n)
	}
}

// Memory does not grow with the bundle.
func TestMemoryIsBounded(t *testing.T) {
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
	if len(r.Roots()) != 1 || !bytes.Equal(r.Roots()[0], second.Roots[0]) {
		t.Error("the root is not carried along")
	}

	bad := read()
	bad[len(bad)-1500] ^= 1
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
			for at := 1; ; at++ {
				dir := t.TempDir()
				must(t, os.WriteFile(filepath.Join(dir, "x"), unsigned, 0o644))
				fs := &cut.FS{FS: openOS(t, dir), At: at, Empty: func(name string) error { return os.Truncate(filepath.Join(dir, name), 0) }}
				err := do(fs)
				raw, e := os.ReadFile(filepath.Join(dir, "x"))
				must(t, e)
				if !bytes.Equal(raw, unsigned) && !bytes.Equal(raw, signed) {
					t.Fatalf("cut at operation %d: the bundle is neither the old nor the new one", at)
				}
				if err == nil {
					if !bytes.Equal(raw, signed) {
						t.Errorf("cut at operation %d: success, but the old bundle is there", at)
					}
					if fs.Ops() < at {
						t.Logf("%d operations", fs.Ops())
						return
					}
				}
				must(t, do(openOS(t, dir))) // and it can be tried again
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
	manifest, err := base().Encode()
	must(f, err)
	f.Add(craft(f, manifest, compress(f, tarOf(f, regular("a", "alpha"), regular("b", "beta")))))
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
			if e.From == Full {
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

// FuzzPayload gets past the hashes: it crafts a bundle around a fuzzed
// manifest and a fuzzed tar.
func FuzzPayload(f *testing.F) {
	manifest, err := base().Encode()
	must(f, err)
	f.Add(manifest, tarOf(f, regular("a", "alpha"), regular("b", "beta")), true)
	f.Add(manifest, compress(f, tarOf(f, regular("a", "alpha"), regular("b", "beta"))), false)
	long := strings.Repeat("l", 200)
	m := base()
	m.Files = Files{fileEntry("a", ""), fileEntry(long, "long")}
	m.Payload.Size = 512*6 + 1024
	manifest, err = m.Encode()
	must(f, err)
	f.Add(manifest, tarOf(f, regular("a", ""), regular(long, "long")), true)
	f.Fuzz(func(t *testing.T, manifest, payload []byte, pack bool) {
		if pack {
			payload = compress(t, payload)
		}
		s := Signing{}
		targets, err := s.targets(describe(manifest), describe(payload), nil)
		must(t, err)
		var b bytes.Buffer
		must(t, writeTo(&b, &s, targets, manifest, 0, describe(payload), bytes.NewReader(payload)))
		got, contents, err := readAll(&b, Inspect{})
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %q is not ErrMalformed", err)
			}
			return
		}
		all, carried := got.Content()
		var n int64
		for _, c := range contents {
			n += int64(len(c))
		}
		if n != carried || carried > all {
			t.Fatalf("%d bytes of content, %d carried, %d in all", n, carried, all)
		}
		if _, err := got.Encode(); err != nil {
			t.Fatal(err)
		}
	})
}
