package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"tandem/internal/digest"
	"tandem/versioning"
)

func sampleRecord(t testing.TB) *Record {
	v, err := versioning.Parse("1.2.0-rc.1")
	if err != nil {
		t.Fatal(err)
	}
	sum := digest.Of([]byte("x"))
	file := func(p Path) *Entry {
		return &Entry{Path: p, Type: File, Mode: 0o4755, UID: 7, Size: 1, Mtime: 5, SHA256: &sum, Xattrs: map[string][]byte{"user.a": {0, 255}}}
	}
	return &Record{
		Manifest: Manifest{App: "hello", Version: v, Config: []string{"etc/**"}, Ignore: []string{"log/*"}, Files: []*Entry{
			{Path: "bin", Type: Dir, Mode: 0o755}, file("bin/a"), {Path: "bin/b", Type: Hardlink, Link: "bin/a"},
			{Path: "bin/c", Type: Symlink, Target: "../x"}, {Path: "etc", Type: Dir, Mode: 0o700}, file("etc/d"),
		}},
		Config:   []*Entry{file("etc/d"), file("odd\xffname%\n")},
		Revision: 3,
	}
}

func TestRecordRoundTrip(t *testing.T) {
	r := sampleRecord(t)
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRecord(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := got.Encode()
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("read back as\n%s\nwant\n%s", again, data)
	}
	if got.Config[1].Path != r.Config[1].Path {
		t.Errorf("path %q came back as %q", r.Config[1].Path, got.Config[1].Path)
	}
	for i := range data {
		broken := bytes.Clone(data)
		broken[i] ^= 0x40
		if r, err := DecodeRecord(broken); err == nil {
			if a, _ := r.Encode(); !bytes.Equal(a, data) {
				t.Fatalf("a flipped bit in byte %d went unnoticed", i)
			}
		}
	}
}

// FuzzRecord holds that a record is refused with ErrInvalid, or obeys every
// rule and comes back the same.
func FuzzRecord(f *testing.F) {
	good, err := json.Marshal(sampleRecord(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"manifest":{"version":"1.0.0","files":[]},"config":[],"revision":0}`))
	f.Add([]byte(`{"manifest":{"version":"1","files":[{"path":"../x","type":"file"}]}}`))
	f.Add([]byte(`{"manifest":{"version":"1","files":[{"path":"a%2F..%2Fb","type":"dir"}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		// The digest is no obstacle for whoever writes the file.
		data := append([]byte(`{"tandem":"record","format":1,"sha256":"`+digest.Of(body).String()+`","body":`), body...)
		r, err := DecodeRecord(append(data, "}\n"...))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("not ErrInvalid: %v", err)
			}
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		r2, err := DecodeRecord(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if third, _ := r2.Encode(); !bytes.Equal(again, third) {
			t.Fatalf("not stable:\n%s\n%s", again, third)
		}
	})
}

// FuzzManifest holds that a manifest that passes Check names nothing outside
// its directory, and no path twice or through a link.
func FuzzManifest(f *testing.F) {
	good, err := json.Marshal(sampleRecord(f).Manifest)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, "etc/x/y")
	f.Add([]byte(`{"version":"1.0.0","config":["**/a/**"],"files":[{"path":"a","type":"symlink","target":"/"},{"path":"a/b","type":"dir"}]}`), "a/a/a")
	f.Add([]byte(`{"version":"1.0.0","config":["[","\\"],"files":[]}`), "b")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		var m Manifest
		if json.Unmarshal(data, &m) != nil || m.Check() != nil {
			return
		}
		seen := map[Path]EntryType{}
		for _, e := range m.Files {
			if CheckPath(e.Path) != nil || seen[e.Path] != "" {
				t.Fatalf("path %q was let through", e.Path)
			}
			for i := range e.Path {
				if e.Path[i] == '/' && seen[e.Path[:i]] != Dir {
					t.Fatalf("path %q goes through a %s", e.Path, seen[e.Path[:i]])
				}
			}
			seen[e.Path] = e.Type
		}
		matchAny(m.Config, Path(name))
	})
}

func FuzzCommit(f *testing.F) {
	c := commit{Version: sampleRecord(f).Manifest.Version, Remove: []Path{"a"}, Put: []place{{Entry: sampleRecord(f).Config[0], File: "0"}}}
	body, err := json.Marshal(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		data := append([]byte(`{"tandem":"commit","format":1,"sha256":"`+digest.Of(body).String()+`","body":`), body...)
		c, err := decodeCommit(append(data, "}\n"...))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("not ErrInvalid: %v", err)
			}
			return
		}
		for _, p := range c.Put {
			if CheckPath(p.Entry.Path) != nil || p.File == ".." || bytes.ContainsRune([]byte(p.File), '/') {
				t.Fatalf("%+v was let through", p)
			}
		}
	})
}

func TestMatchPattern(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		path    Path
		want    bool
	}{
		{"etc/*.conf", "etc/a.conf", true}, {"etc/*.conf", "etc/x/a.conf", false}, {"etc/*.conf", "x/etc/a.conf", false},
		{"log/**", "log/a", true}, {"log/**", "log/a/b", true}, {"log/**", "log", false}, {"log", "log/a/b", true},
		{"**/*.db", "a.db", true}, {"**/*.db", "x/y/a.db", true}, {"**/*.db", "x/y/a.dbx", false},
		{"a/**/b", "a/b", true}, {"a/**/b", "a/x/y/b/z", true}, {"a/**/b", "a/x", false},
		{"**", "a", true}, {"**/**/**/**/x", "a/b/c/d/e/f", false}, {"*", "a", true}, {"[ab]", "b", true},
	} {
		if got := matchPattern(tc.pattern, tc.path); got != tc.want {
			t.Errorf("matchPattern(%q, %q) = %v", tc.pattern, tc.path, got)
		}
	}
}
