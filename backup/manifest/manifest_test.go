package manifest

import (
	"encoding/json"
	"testing"
)

// FuzzManifest holds that a manifest that passes Check names nothing outside
// its directory, and no path twice or through a link.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":"1.0.0","config":["etc/**"],"files":[{"path":"etc","type":"dir"},{"path":"etc/a","type":"file","sha256":"0000000000000000000000000000000000000000000000000000000000000001"}]}`), "etc/x/y")
	f.Add([]byte(`{"version":"1.0.0","config":["**/a/**"],"files":[{"path":"a","type":"symlink","target":"/"},{"path":"a/b","type":"dir"}]}`), "a/a/a")
	f.Add([]byte(`{"version":"1.0.0","config":["[","\\"],"files":[]}`), "b")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		var m Manifest
		if json.Unmarshal(data, &m) != nil || m.Check() != nil {
			return
		}
		seen := map[Path]EntryType{}
		for _, e := range m.Files {
			if CheckPath(e.Path) != nil || seen[e.Path] != 0 {
				t.Fatalf("path %q was let through", e.Path)
			}
			for i := range e.Path {
				if e.Path[i] == '/' && seen[e.Path[:i]] != Dir {
					t.Fatalf("path %q goes through a %s", e.Path, seen[e.Path[:i]])
				}
			}
			seen[e.Path] = e.Type
		}
		if p := Path(name); m.IsConfig(p) && m.IsIgnored(p) {
			t.Fatalf("%q is configuration and ignored", p)
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
		if got := match(tc.pattern, tc.path); got != tc.want {
			t.Errorf("match(%q, %q) = %v", tc.pattern, tc.path, got)
		}
	}
}

// What programs leave about while they run is ignored, unless the release ships
// it or a config pattern means it by name.
func TestPassingFiles(t *testing.T) {
	m := Manifest{Config: []string{"etc/**", "data/*.lock"}, Ignore: []string{"log/**"}, Files: []*Entry{{Path: "bin/x.lock", Type: Dir}}}
	for p, want := range map[Path]bool{
		"etc/app.pid": true, "etc/app.conf": false, "data/app.lock": false, "run/app.sock": true, "bin/x.lock": false,
		"log/a": true, ".app.swp": true, "db-shm": true, "db-wal": false,
	} {
		if got := m.IsIgnored(p); got != want {
			t.Errorf("IsIgnored(%q) = %v", p, got)
		}
		if p != "bin/x.lock" && m.IsConfig(p) == want {
			t.Errorf("IsConfig(%q) = %v", p, !want)
		}
	}
}

func TestLiteral(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"etc/*.conf":   ".conf",
		"*":            "",
		"**/a?bcd*e":   "bcd",
		"log/**":       "log",
		`ab/c\*defghi`: "ab",
		"a[bcd]efghij": "a",
		"[ab]cdef":     "",
		"größe/x":      "größe",
		"a":            "a",
	} {
		if got := literal(pattern); got != want {
			t.Errorf("%q: %q, want %q", pattern, got, want)
		}
	}
}
