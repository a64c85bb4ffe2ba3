package versioning

import (
	"errors"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// precedence is in order: the examples of semver.org, item 11, and the cases
// that go-version gets wrong or leaves open.
var precedence = []string{
	"0", "0.0.1-0", "0.0.1", "1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-99999999999999999999", "1.0.0--1",
	"1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-alpha.beta.0", "1.0.0-beta",
	"1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.1.0", "1.10.0", "2.0.0-0",
	"2", "2.0.1", "7", "10", "10.0.1",
	"20240115123000", "202401151230001", "9223372036854775807", "9223372036854775808",
	"18446744073709551616", "18446744073709551617", "20240310162427027000.0.0-rc.1", "20240310162427027000",
	"20240310162427027000.0.1", "20240310162427027000.18446744073709551616.0",
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
		"1.2.3+a+b", " 1.2.3", "1.2.3\n", "-1", "1.2.x", "latest", "1.2.3-ä", "007", "8.0", "v8", "8 # x", "\ufeff8",
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
		{"9223372036854775807", Major, "9223372036854775808.0.0"}, {"1.99999999999999999999.0", Minor, "1.100000000000000000000.0"},
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

// Tags as people and their editors write them.
func TestTagByHand(t *testing.T) {
	for content, want := range map[string]string{
		"8\r\n": "8", "\ufeff8\r\n": "8", "v8\n": "8", "V8": "8", "08\n": "8", "0\n": "0", "000": "0",
		"8.1\n": "8.1.0", "8.0": "8.0.0", "v08.01": "8.1.0", "01.02.03": "1.2.3", "v1.2.3-rc.1+b5": "1.2.3-rc.1+b5",
		"8 \n": "8", "\t8\n\n": "8", "8 # build 5\n": "8", "1.0.0 (stable)\n": "1.0.0", "8 9": "8",
		"8\n# what it is: 9\n": "8", "8\n\nbuilt on Monday\n": "8",
		"202401151230001\n": "202401151230001", "0018446744073709551617": "18446744073709551617",
		"1.18446744073709551617":        "1.18446744073709551617.0",
		strings.Repeat("0", 1000) + "8": "8",
	} {
		if v, err := parseTag([]byte(content)); err != nil || v.String() != want {
			t.Errorf("%.40q is taken for %q, %v, want %q", content, v, err, want)
		}
	}
	for _, content := range []string{
		"garbage", "1.2.3.4\n", "8.\n", ".8", "v", "vv8", "v 8", "-8", "8-rc1", "8.1-2", "1.2.3-", "8\x00", "\x00\x00", "\xff\xfe8\x00\n\x00",
		"1.0.0\n1.0.1\n", "8\nv9 too\n", "# 8\n8\n", "8#9", strings.Repeat("1", 200), "1.2.3-01",
	} {
		if v, err := parseTag([]byte(content)); !errors.Is(err, ErrMalformed) || errors.Is(err, ErrNoTag) {
			t.Errorf("%.40q is taken for %q, %v, want ErrMalformed", content, v, err)
		}
	}
	for _, content := range []string{"", "\n", " \r\n\t", "\ufeff", "\ufeff\r\n"} {
		if _, err := parseTag([]byte(content)); !errors.Is(err, ErrNoTag) || errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v, want ErrNoTag", content, err)
		}
	}
}

func TestTagFile(t *testing.T) {
	m := memfs.NewMachine()
	fs := m.NewDisk("d", memfs.Options{}).FS()
	if _, err := ReadTag(fs, "tag"); err != ErrNoTag {
		t.Errorf("missing: %v", err)
	}
	for _, text := range []string{"7", "1.4.2", "2.0.0-rc.1+5", "20240310162427027000"} {
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
	for name, content := range map[string]string{"empty": "", "blank": " \n", "garbage": "\x00\xff?", "two": "1.0.0\n1.0.1\n", "huge": strings.Repeat("1", 10000)} {
		if err := fsys.WriteFile(fs, name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var te *TagError
	for _, name := range []string{"dir", "link", "garbage", "two", "huge"} {
		_, err := ReadTag(fs, name)
		if !errors.As(err, &te) || errors.Is(err, ErrNoTag) || !strings.Contains(err.Error(), fs.Path(name)) {
			t.Errorf("%s: %v, want a TagError that names the path", name, err)
		}
	}
	for _, name := range []string{"empty", "blank"} {
		_, err := ReadTag(fs, name)
		if errors.As(err, &te) || !errors.Is(err, ErrNoTag) || !strings.Contains(err.Error(), fs.Path(name)) {
			t.Errorf("%s: %v, want an ErrNoTag that names the path", name, err)
		}
	}
	for errno, damage := range map[error]bool{
		syscall.EIO: true, syscall.EUCLEAN: true, syscall.EACCES: true,
		syscall.ENOMEM: false, syscall.EMFILE: false, syscall.ENFILE: false, syscall.EINTR: false,
	} {
		for _, at := range []string{"lstat", "open", "read"} {
			m.FailLooks(func(op, _ string) error {
				if op == at {
					return errno
				}
				return nil
			})
			_, err := ReadTag(fs, "tag")
			if errors.As(err, &te) != damage || !errors.Is(err, errno) || errors.Is(err, ErrNoTag) {
				t.Errorf("%s gives %v: %v", at, errno, err)
			}
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

// FuzzTag holds that what is taken for a tag is a version as Parse wants it and
// survives being written and read again, whatever white space is around it, and
// that comparing is an order. What Parse takes is what semver.org's own pattern takes,
// and whole numbers.
func FuzzTag(f *testing.F) {
	for _, s := range precedence {
		f.Add([]byte(s+"\n"), "1.0.0-alpha.1")
	}
	f.Add([]byte(""), "")
	f.Add([]byte("v1.2.3"), "1.2.3+x")
	f.Add([]byte("\ufeff08.1 # x\r\n"), "18446744073709551616")
	f.Add([]byte("1.2.3-0a.-.1+01.-"), "1.2.3-01")
	grammar := regexp.MustCompile(`^(?:0|[1-9]\d*|(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)` +
		`(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?)$`)
	f.Fuzz(func(t *testing.T, content []byte, other string) {
		if _, err := Parse(other); (err == nil) != (len(other) <= maxLength && grammar.MatchString(other)) {
			t.Fatalf("Parse(%q): %v", other, err)
		}
		v, err := parseTag(content)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNoTag) {
				t.Fatalf("parseTag(%q): %v", content, err)
			}
			return
		}
		if _, err := Parse(v.String()); err != nil {
			t.Fatalf("parseTag(%q) = %q: %v", content, v, err)
		}
		again, err := parseTag(append([]byte("\ufeff\r\n "), EncodeTag(v)...))
		if err != nil || again.String() != v.String() || v.Compare(again) != 0 {
			t.Fatalf("%q came back as %q, %v", v, again, err)
		}
		if w, err := Parse(other); err == nil && v.Compare(w) != -w.Compare(v) {
			t.Fatalf("%s and %s: %d and %d", v, w, v.Compare(w), w.Compare(v))
		}
	})
}
