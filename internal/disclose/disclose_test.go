package disclose

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":            "",
		"no URL at a": "no URL at a",
		"https://me:secret@host/x?key=secret#secret: no answer: expected 200": "https://host/x: no answer: expected 200",
		"GET https://me@host:8443/x: 503":                                     "GET https://host:8443/x: 503",
		`Get "http://me:se%20cret@[::1]:80/a?b=secret": refused`:              `Get "http://[::1]:80/a": refused`,
		"see (https://host/?a=secret), or https://host/b?secret.":             "see (https://host/), or https://host/b.",
		"ftp://me:secret@host //me:secret@host/share":                         "ftp://host //host/share",
		"https://me:sec@ret@host/a@b/c":                                       "https://host/a@b/c",
		"https://host/a@b?secret@x":                                           "https://host/a@b",
		"https://host#secret and 1//2":                                        "https://host and 1//2",
		`app_ver.txt: not a version: "hunter2 \"x\" \\": expected one line`:   `app_ver.txt: not a version: "…": expected one line`,
		`not a version: "hunter2"… has 200 characters`:                        `not a version: "…"… has 200 characters`,
		"/usr//lib/x: no such file":                                           "/usr//lib/x: no such file",
	} {
		if got := Text(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Whatever stands around it: what a URL shows of a user and of a query does not pass.
func FuzzText(f *testing.F) {
	f.Add("a", "me:secret", "host/x", "q", "b")
	f.Add("(", "@", "h@h", "?", ")")
	f.Fuzz(func(t *testing.T, before, user, place, query, after string) {
		plain := regexp.MustCompile(`^[a-z0-9.]*$`)
		if !plain.MatchString(before) || !plain.MatchString(after) || !plain.MatchString(place) ||
			strings.ContainsAny(user+query, " \t\r\n\v\f\"'<>`/?#") {
			return
		}
		for _, s := range []string{before + " https://" + user + "@" + place + "?" + query + " " + after, before + "//" + user + "@" + place + "#" + query} {
			got := Text(s)
			if Text(got) != got {
				t.Errorf("%q: %q, and again %q", s, got, Text(got))
			}
			want := before + " https://" + place
			if strings.HasPrefix(s, before+"//") {
				want = before + "//" + place
			}
			if rest, ok := strings.CutPrefix(got, want); !ok || strings.Trim(strings.TrimSuffix(rest, after), " .,:;)]}") != "" {
				t.Errorf("%q: %q, want %q", s, got, want)
			}
		}
	})
}

// Only what is listed leaves, and without secrets.
func TestCopy(t *testing.T) {
	t.Parallel()
	type problem struct {
		Side   string `json:"side"`
		Detail string `json:"detail"`
		Bytes  []byte `json:"content"`
	}
	type event struct {
		ID       string         `json:"id"`
		Time     time.Time      `json:"time"`
		Error    string         `json:"error"`
		Repaired []problem      `json:"repaired"`
		Command  map[string]int `json:"command"` // listed, but of no form that can be looked through
		New      string         `json:"new"`
		NewTime  time.Time      `json:"new_time"`
		At       struct {
			ID string `json:"id"`
		} `json:"at"`
	}
	e := event{
		ID: "a-1", Time: time.Unix(1, 0), Error: "https://me@host: hunter2 hunter22", New: "x", NewTime: time.Unix(2, 0), Command: map[string]int{"hunter2": 1},
		Repaired: []problem{{"system", "http://x/?hunter", []byte("hunter2")}},
	}
	e.At.ID = "x"
	want := event{ID: "a-1", Time: time.Unix(1, 0), Error: "https://host: *** ***", Repaired: []problem{{"system", "http://x/", nil}}}
	got := Copy(New([]string{"hunter2", "hunter22", "x", ""}), "report.events", e)
	a, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Errorf("%s, want %s", a, b)
	}
	if e.Repaired[0].Bytes == nil || e.Error == got.Error {
		t.Error("the original was changed")
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	f := New([]string{"hunter2"})
	if v, ok := f.Value("resource.tandem.compatible", []string{"a", "hunter2"}); !ok || !slices.Equal(v.([]string), []string{"a", "***"}) {
		t.Errorf("a listed one: %q, %t", v, ok)
	}
	for _, name := range []string{"resource.host.name", "report.events", ""} {
		if v, ok := f.Value(name, "x"); ok {
			t.Errorf("%s: %q leaves", name, v)
		}
	}
}

// The page on security names what leaves, and nothing else.
func TestPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "\n## What leaves the device\n")
	if !ok {
		t.Fatal("the page has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var told []string
	for line := range strings.Lines(section) {
		cells := strings.Split(line, " | ")
		if len(cells) < 2 || !strings.HasPrefix(line, "| `") {
			continue
		}
		document := strings.Trim(cells[0], "| `")
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			told = append(told, document+"."+m[1])
		}
	}
	slices.Sort(told)
	if want := names(); !slices.Equal(told, want) {
		t.Errorf("the page has\n%q, the list\n%q", told, want)
	}
}

// names returns the names of all values that leave, in order: the document's, then
// the field's as it stands in JSON.
func names() []string {
	var all []string
	for name := range leaves {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
