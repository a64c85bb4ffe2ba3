package versioning

import (
	"errors"
	"strings"
	"testing"

	"tandem/internal/fsys/memfs"
)

// precedence is in order: the examples of semver.org, item 11, and the cases
// that go-version gets wrong or leaves open.
var precedence = []string{
	"0", "0.0.1-0", "0.0.1", "1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-99999999999999999999", "1.0.0--1",
	"1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-alpha.beta.0", "1.0.0-beta",
	"1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.1.0", "1.10.0", "2.0.0-0",
	"2", "2.0.1", "7", "10", "10.0.1",
}

func TestPrecedence(t *testing.T) {
	for i, a := range precedence {
		for j, b := range precedence {
			want := 0
			if i != j {
				want = 1
				if i < j {
					want = -1
				}
			}
			if got := must(t, a).Compare(must(t, b)); got != want {
				t.Errorf("Compare(%s, %s) = %d, want %d", a, b, got, want)
			}
		}
	}
	if must(t, "1.0.0+a").Compare(must(t, "1.0.0+b")) != 0 || must(t, "7").Compare(must(t, "7.0.0")) != 0 {
		t.Error("build metadata and spelling must not count")
	}
	if (Version{}).Compare(must(t, "0")) >= 0 {
		t.Error("no version must precede all others")
	}
}

func must(t testing.TB, s string) Version {
	t.Helper()
	v, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", "v1.2.3", "1.2", "1.2.3.4", "01.2.3", "1.02.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+",
		"1.2.3+a+b", " 1.2.3", "1.2.3\n", "-1", "1.2.x", "latest", "1.2.3-ä", "007", "99999999999999999999.0.0",
		strings.Repeat("1", 200), "1.2.3-" + strings.Repeat("a", 200),
	} {
		if v, err := Parse(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("Parse(%.40q) = %v, %v, want ErrMalformed", s, v, err)
		}
	}
}

func TestBump(t *testing.T) {
	for _, tc := range []struct {
		from string
		part Part
		want string
	}{
		{"1.2.3", Patch, "1.2.4"}, {"1.2.3", Minor, "1.3.0"}, {"1.2.3", Major, "2.0.0"},
		{"7", Patch, "7.0.1"}, {"7", Major, "8.0.0"},
		{"1.2.0-rc.1", Patch, "1.2.0"}, {"1.2.0-rc.1", Minor, "1.2.0"}, {"1.2.1-rc.1", Minor, "1.3.0"},
		{"2.0.0-rc.1", Major, "2.0.0"}, {"1.2.3+build.5", Patch, "1.2.4"}, {"", Patch, "0.0.1"},
	} {
		var v Version
		if tc.from != "" {
			v = must(t, tc.from)
		}
		got, err := v.Bump(tc.part)
		if err != nil || got.String() != tc.want {
			t.Errorf("%q bumped by %s = %s, %v, want %s", tc.from, tc.part, got, err, tc.want)
		}
		if got.Compare(v) <= 0 {
			t.Errorf("%q bumped by %s = %s, which is not higher", tc.from, tc.part, got)
		}
	}
	if _, err := must(t, "1.2.3").Bump("micro"); err == nil {
		t.Error("an unknown part was taken")
	}
}

func TestTagFile(t *testing.T) {
	fs := memfs.NewMachine().NewDisk("d", memfs.Options{}).FS()
	if _, err := ReadTag(fs, "tag"); err != ErrNoTag {
		t.Errorf("missing: %v", err)
	}
	for _, text := range []string{"7", "1.4.2", "2.0.0-rc.1+5"} {
		if err := WriteTag(fs, "tag", must(t, text)); err != nil {
			t.Fatal(err)
		}
		if v, err := ReadTag(fs, "tag"); err != nil || v.String() != text {
			t.Errorf("read back %q, %v, want %q", v, err, text)
		}
	}
	if err := fs.Mkdir("dir", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fs.Symlink("tag", "link"); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"empty": "", "garbage": "\x00\xff?", "two": "1.0.0\n1.0.1\n", "huge": strings.Repeat("1", 10000)} {
		f, err := fs.Create(name, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dir", "link", "empty", "garbage", "two", "huge"} {
		_, err := ReadTag(fs, name)
		var te *TagError
		if !errors.As(err, &te) || !errors.Is(err, ErrNoTag) || !strings.Contains(err.Error(), fs.Path(name)) {
			t.Errorf("%s: %v, want a TagError that names the path", name, err)
		}
	}
}

func TestInAndWithout(t *testing.T) {
	parse := func(text string) Version {
		v, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	list := []Version{parse("1.2.0"), parse("2.0.0+b1"), parse("7"), parse("1.0.0-rc.1")}
	for text, want := range map[string]int{"1.2.0": 3, "1.2.0+x": 3, "2.0.0": 3, "2.0.0+b2": 3, "7.0.0": 3, "1.0.0": 4, "1.0.0-rc.2": 4, "1.2.1": 4} {
		v := parse(text)
		if in, left := v.In(list), len(Without(list, v)); in != (want == 3) || left != want {
			t.Errorf("%s: in %t, %d left without it; want %t, %d", text, in, left, want == 3, want)
		}
	}
	if len(list) != 4 || (Version{}).In(list) {
		t.Error("the list was changed, or has no version in it")
	}
}

// FuzzTag holds that what is taken for a tag survives being written and read
// again, and that comparing is an order.
func FuzzTag(f *testing.F) {
	for _, s := range precedence {
		f.Add([]byte(s+"\n"), "1.0.0-alpha.1")
	}
	f.Add([]byte(""), "")
	f.Add([]byte("v1.2.3"), "1.2.3+x")
	f.Fuzz(func(t *testing.T, content []byte, other string) {
		v, err := ParseTag(content)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNoTag) {
				t.Fatalf("ParseTag(%q): %v", content, err)
			}
			return
		}
		again, err := ParseTag(EncodeTag(v))
		if err != nil || again.String() != v.String() || v.Compare(again) != 0 {
			t.Fatalf("%q came back as %q, %v", v, again, err)
		}
		if w, err := Parse(other); err == nil && v.Compare(w) != -w.Compare(v) {
			t.Fatalf("%s and %s: %d and %d", v, w, v.Compare(w), w.Compare(v))
		}
	})
}
