package release

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/versioning"
)

func some(t testing.TB) *Manifest {
	v, err := versioning.Parse("1.2.0")
	if err != nil {
		t.Fatal(err)
	}
	sum := digest.Of([]byte("x"))
	return &Manifest{
		Kind: App, App: "hello", Version: v, Compatible: []string{"demo"}, Time: 5, Config: []string{"etc/<&>*"},
		Files: Files{
			{Path: "bin", Type: manifest.Dir, Mode: 0o755},
			{Path: "bin/a\xff\n", Type: manifest.File, Mode: 0o4755, Size: 1, SHA256: &sum, Xattrs: map[string][]byte{"user.b": {0}, "user.a": {1}}},
			{Path: "bin/b", Type: manifest.Hardlink, Link: "bin/a\xff\n"},
			{Path: "l", Type: manifest.Symlink, Target: "bin/b"},
		},
	}
}

// The hash of release.json is the release: an accidental change of how it is
// written must be noticed.
func TestCanonical(t *testing.T) {
	raw, err := some(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"kind":"app","app":"hello","version":"1.2.0","compatible":["demo"],"time":5,"config":["etc/\u003c\u0026\u003e*"],"files":[` +
		`{"path":"bin","type":"dir","mode":"0755"},` +
		`{"path":"bin/a%FF%0A","type":"file","mode":"4755","size":1,"sha256":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881","xattrs":{"user.a":"AQ==","user.b":"AA=="}},` +
		`{"path":"bin/b","type":"hardlink","link":"bin/a%FF%0A"},` +
		`{"path":"l","type":"symlink","target":"bin/b"}]}` + "\n"
	if string(raw) != want {
		t.Errorf("release.json is\n%swant\n%s", raw, want)
	}
}

// FuzzManifest reads what anybody may have written. What is accepted can be
// written again, and means the same then.
func FuzzManifest(f *testing.F) {
	raw, err := some(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"app":"a","version":"7","compatible":["d"],"files":null}`))
	f.Add([]byte(strings.Replace(string(raw), `"size":1`, fmt.Sprintf(`"size":%d`, int64(maxContent)), 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeManifest(data)
		if err != nil {
			return
		}
		once, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeManifest(once)
		if err != nil {
			t.Fatalf("%v: %s", err, once)
		}
		twice, err := again.Encode()
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("written twice it differs: %v\n%s%s", err, once, twice)
		}
		files, size := m.Content()
		if files < 0 || size < 0 || size > maxContent {
			t.Fatalf("%d files with %d bytes", files, size)
		}
		b := m.Backup()
		if err := b.Check(); err != nil || errors.Is(err, manifest.ErrInvalid) {
			t.Fatalf("a side could not record it: %v", err)
		}
	})
}
