package hawkbit

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"tandem/internal/digest"
	"tandem/packaging/release"
	"tandem/versioning"
)

func version(t *testing.T, s string) versioning.Version {
	t.Helper()
	if s == "" {
		return versioning.Version{}
	}
	v, err := versioning.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// facts are those of a device with hello at a version, another that waits to be
// confirmed, and the modem at 1.0.0.
func facts(t *testing.T, installed, pending string) *Facts {
	t.Helper()
	return &Facts{Units: []Unit{
		{Kind: release.Firmware, Name: "modem", Installed: version(t, "1.0.0")},
		{
			Kind: release.App, Name: "hello", Installed: version(t, installed), Pending: version(t, pending),
			Failed: map[string]string{"6.6.6": "rolled back: the health check failed"},
		},
	}}
}

func app(t *testing.T, v string) Part {
	return Part{Artifact: "hello.tandem", Kind: release.App, App: "hello", Version: version(t, v), Size: 100, SHA256: digest.Of([]byte(v))}
}

func modem(t *testing.T, v string) Part {
	return Part{Artifact: "modem.tandem", Kind: release.Firmware, App: "modem", Version: version(t, v), Size: 50, SHA256: digest.Of([]byte("m" + v))}
}

func TestJudge(t *testing.T) {
	refused := app(t, "2.0.0")
	refused.Failed, refused.Code = "refused: not signed by this device's root", 20
	written, broken := facts(t, "1.0.0", ""), facts(t, "1.0.0", "")
	written.Units[0].Begun = version(t, "2.0.0")
	broken.Units[0].Broken = "its handler does not tell its version"
	for _, c := range []struct {
		name    string
		parts   []Part
		facts   *Facts
		outcome string // "", success, failure
		says    string
		todo    int
	}{
		{"not yet", []Part{app(t, "2.0.0")}, facts(t, "1.0.0", ""), "", "", 1},
		{"on a new device", []Part{app(t, "2.0.0")}, facts(t, "", ""), "", "", 1},
		{"installed, not healthy yet", []Part{app(t, "2.0.0")}, facts(t, "2.0.0", "2.0.0"), "", "", 0},
		{"installed", []Part{app(t, "2.0.0")}, facts(t, "2.0.0", ""), "success", "hello 2.0.0: installed", 0},
		{"rolled back", []Part{app(t, "6.6.6")}, facts(t, "1.0.0", ""), "failure", "hello 6.6.6: rolled back: the health check failed", 0},
		{"revoked, and there is nothing to return to", []Part{app(t, "6.6.6")}, facts(t, "6.6.6", ""), "failure", "rolled back", 0},
		{"something newer came by stick", []Part{app(t, "2.0.0")}, facts(t, "3.0.0", ""), "failure", "older than 3.0.0", 0},
		{"refused", []Part{refused}, facts(t, "1.0.0", ""), "failure", "not signed", 0},
		{"two, one to do", []Part{modem(t, "1.0.0"), app(t, "2.0.0")}, facts(t, "1.0.0", ""), "", "", 1},
		{"one failed beside one to do", []Part{modem(t, "2.0.0"), app(t, "6.6.6")}, facts(t, "1.0.0", ""), "", "", 1},
		{"one failed beside one done", []Part{modem(t, "1.0.0"), app(t, "6.6.6")}, facts(t, "1.0.0", ""), "failure", "modem 1.0.0: installed", 0},
		{"a firmware waits for a restart", []Part{modem(t, "2.0.0")}, written, "", "", 0},
		{"a firmware that does not tell", []Part{modem(t, "2.0.0")}, broken, "failure", "does not tell its version", 0},
		{"nothing at all", nil, facts(t, "1.0.0", ""), "failure", "no artifact", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := judge(&Action{Number: 1, Step: Open, Looked: true, Parts: c.parts}, c.facts)
			got, says := "", ""
			if o := j.outcome; o != nil {
				got, says = "failure", strings.Join(o.Details, "; ")
				if o.Success {
					got = "success"
				}
				if o.Success != (o.Code == 0) {
					t.Errorf("success %v with code %d", o.Success, o.Code)
				}
			}
			if got != c.outcome || !strings.Contains(says, c.says) || len(j.todo) != c.todo {
				t.Errorf("%q %q, %d to do: expected %q %q, %d", got, says, len(j.todo), c.outcome, c.says, c.todo)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	open := func(parts ...Part) *Action {
		return &Action{Number: 7, Query: "c=1", Step: Open, Looked: true, Parts: parts}
	}
	success := &Action{Number: 7, Step: Ended, Outcome: &Outcome{Success: true}}
	dropped := &Action{Number: 7, Step: Ended}
	deploy := func(n int64, q string) wanted { return wanted{deploy: offered{n, q}} }
	cancel := func(n int64) wanted { return wanted{cancel: offered{number: n}} }
	installing := facts(t, "1.0.0", "")
	installing.Installing = "hello"
	begun := facts(t, "1.0.0", "")
	begun.Units[0].Begun = version(t, "2.0.0")
	had := modem(t, "1.0.0")
	had.Had = true
	late := "its installation has begun"
	for _, c := range []struct {
		name  string
		kept  *Action
		wants wanted
		facts *Facts
		move  move
	}{
		{"nothing to do", nil, wanted{}, facts(t, "1.0.0", ""), move{}},
		{"nothing new after the end", success, wanted{}, facts(t, "2.0.0", ""), move{}},
		{"a first action", nil, deploy(7, "c=1"), facts(t, "1.0.0", ""), move{Read: offered{7, "c=1"}}},
		{"the next action", success, deploy(8, "c=1"), facts(t, "2.0.0", ""), move{Read: offered{8, "c=1"}}},
		{"the same action", open(app(t, "2.0.0")), deploy(7, "c=1"), facts(t, "1.0.0", ""), move{}},
		{"the same with other wishes", open(app(t, "2.0.0")), deploy(7, "c=2"), facts(t, "1.0.0", ""), move{Read: offered{7, "c=2"}}},
		{"the same, not looked at", &Action{Number: 7, Step: Open}, deploy(7, ""), facts(t, "1.0.0", ""), move{Read: offered{7, ""}}},
		{"another in its place", open(app(t, "2.0.0")), deploy(8, "c=1"), facts(t, "1.0.0", ""), move{Read: offered{8, "c=1"}, Gone: true}},
		{"vanished", open(app(t, "2.0.0")), wanted{}, facts(t, "1.0.0", ""), move{Gone: true}},
		{"over, and offered all the same", success, deploy(7, "c=1"), facts(t, "2.0.0", ""), move{Read: offered{7, "c=1"}}},
		{"dropped, and back", dropped, deploy(7, "c=1"), facts(t, "1.0.0", ""), move{Read: offered{7, "c=1"}}},
		{"to confirm", nil, wanted{confirm: offered{7, "c=1"}}, facts(t, "1.0.0", ""), move{Confirm: offered{7, "c=1"}}},
		{"cancel of one never heard of", nil, cancel(7), facts(t, "1.0.0", ""), move{Cancel: 7, Accept: true}},
		{"cancel of another", open(app(t, "2.0.0")), cancel(6), facts(t, "1.0.0", ""), move{Cancel: 6, Accept: true}},
		{"cancel before it has begun", open(app(t, "2.0.0")), cancel(7), facts(t, "1.0.0", ""), move{Cancel: 7, Accept: true}},
		{"cancel while installing", open(app(t, "2.0.0")), cancel(7), installing, move{Cancel: 7, Why: late}},
		{"cancel before it is healthy", open(app(t, "2.0.0")), cancel(7), facts(t, "2.0.0", "2.0.0"), move{Cancel: 7, Why: late}},
		{"cancel while a handler writes", open(modem(t, "2.0.0")), cancel(7), begun, move{Cancel: 7, Why: late}},
		{"cancel between two parts", open(modem(t, "1.0.0"), app(t, "2.0.0")), cancel(7), facts(t, "1.0.0", ""), move{Cancel: 7, Why: late}},
		{"cancel where one was there before", open(had, app(t, "2.0.0")), cancel(7), facts(t, "1.0.0", ""), move{Cancel: 7, Accept: true}},
		{"cancel of what is over", success, cancel(7), facts(t, "2.0.0", ""), move{Cancel: 7, Accept: true}},
		{"cancel of what was dropped", dropped, cancel(7), facts(t, "1.0.0", ""), move{Cancel: 7, Accept: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := decide(c.kept, c.wants, c.facts)
			if diff := cmp.Diff(c.move, got, cmp.AllowUnexported(offered{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestChooseParts(t *testing.T) {
	x := func(name string, kind release.Kind, app, v, base string, size int64) found {
		h := &Head{
			Kind: kind, App: app, Version: version(t, v), Base: version(t, base), Size: size, Cost: size, Compatible: []string{"board"},
			Release: digest.Of([]byte(app + v)),
		}
		if base != "" && base != "1.0.0" {
			h.Compatible, h.Lacks = nil, "it builds on version "+base+": here is 1.0.0"
		}
		return found{artifact: name, url: "http://h/" + name, sha256: digest.Of([]byte(name)), head: h}
	}
	whole := x("whole", release.App, "hello", "2.0.0", "", 100)
	delta := x("delta", release.App, "hello", "2.0.0", "1.0.0", 10)
	wrong := x("wrong-delta", release.App, "hello", "2.0.0", "1.5.0", 5)
	near := x("near", release.App, "hello", "2.0.0", "", 100)
	near.head.Cost = 9 // most of it is here
	anew := x("anew", release.App, "hello", "2.0.0", "", 100)
	anew.head.Release = digest.Of([]byte("made anew"))
	firmware := x("fw", release.Firmware, "modem", "2.0.0", "", 50)
	text := found{artifact: "README.txt", failed: "malformed bundle", code: 24}
	other := x("other", release.App, "hello", "2.0.0", "", 100)
	other.head.Compatible = []string{"toaster"}
	for _, c := range []struct {
		name   string
		found  []found
		taken  string // artifacts that are to be taken, in order
		failed string // of which something failed
		says   string
	}{
		{"one", []found{whole}, "whole", "", ""},
		{"the smallest that applies", []found{whole, delta, wrong}, "delta", "", ""},
		{"a delta for another base goes first", []found{wrong, delta, whole}, "delta", "", ""},
		{"a delta for another base alone", []found{wrong}, "", "wrong-delta", "builds on version 1.5.0: here is 1.0.0"},
		{"a delta for another base of what does not run here", []found{x("a", release.App, "elsewhere", "2.0.0", "1.5.0", 9)}, "", "a", "does not run"},
		{"a delta of an older one for another base", []found{x("old", release.App, "hello", "0.9.0", "0.8.0", 9)}, "", "old", "older than 1.0.0"},
		{"a delta of what is installed", []found{x("same", release.App, "hello", "1.0.0", "0.9.0", 9)}, "same", "", ""},
		{"frames that cost less than the delta", []found{delta, near}, "near", "", ""},
		{"one version, two releases", []found{whole, anew}, "", "anew", "expected one release"},
		{"firmware goes first", []found{whole, firmware}, "fw whole", "", ""},
		{"no bundle holds all back", []found{whole, text}, "", "README.txt whole", "malformed bundle"},
		{"two versions of one app", []found{whole, x("newer", release.App, "hello", "2.1.0", "", 100)}, "", "newer", "expected one release"},
		{"other hardware", []found{other}, "", "other", "it is for toaster, this device is board"},
		{"an app that does not run here", []found{x("a", release.App, "elsewhere", "2.0.0", "", 9)}, "", "a", "does not run"},
		{"older", []found{x("old", release.App, "hello", "0.9.0", "", 9)}, "", "old", "older than 1.0.0"},
		{"none", nil, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var taken, failed []string
			says := ""
			for _, p := range chooseParts(c.found, facts(t, "1.0.0", ""), []string{"board"}) {
				if p.Failed == "" {
					taken = append(taken, p.Artifact)
					if whole := p.Whole != nil && p.Whole.Artifact == "whole"; whole != (p.Artifact == "delta") {
						t.Errorf("%s is to be completed from %+v", p.Artifact, p.Whole)
					}
					continue
				}
				failed = append(failed, p.Artifact)
				says += p.Failed + "\n"
				if p.Code == 0 {
					t.Errorf("%s failed without a code", p.Artifact)
				}
			}
			if got := strings.Join(taken, " "); got != c.taken {
				t.Errorf("takes %q: expected %q", got, c.taken)
			}
			if got := strings.Join(failed, " "); got != c.failed || !strings.Contains(says, c.says) {
				t.Errorf("failed: %q, %q: expected %q, %q", got, says, c.failed, c.says)
			}
		})
	}
}

func TestArtifactURL(t *testing.T) {
	link := func(rel, href string) links {
		l := links{}
		l[rel] = struct {
			Href string `json:"href"`
		}{href}
		return l
	}
	for _, c := range []struct{ origin, rel, href, want string }{
		{"http://ota:8080", "download-http", "http://ota:8080/D/a", "http://ota:8080/D/a"},
		{"https://ota.example.com", "download-http", "http://ota.example.com:8080/D/a?x=1", "https://ota.example.com/D/a?x=1"},
		{"https://ota.example.com", "download", "https://OTA.example.com/D/a", "https://ota.example.com/D/a"},
		{"https://ota.example.com", "https", "https://cdn.example.com/a", "https://cdn.example.com/a"},
		{"https://ota.example.com", "http", "http://cdn.example.com/a", ""},
		{"http://ota", "http", "http://cdn/a", "http://cdn/a"},
		{"http://ota", "download", "file:///etc/shadow", ""},
		{"http://ota", "download", "http://u:p@other/a", ""},
		{"http://ota", "download", "http:///a", ""},
		{"http://ota", "download", "://", ""},
		{"http://ota", "md5sum", "http://ota/a.MD5SUM", ""},
		{"http://ota", "download", "/relative/a", "http://ota/relative/a"},
	} {
		got, err := artifactURL(c.origin, link(c.rel, c.href))
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %s %s: %q, %v: expected %q", c.origin, c.rel, c.href, got, err, c.want)
		}
	}
	if got := spaced("http://ota/a+b%2Bc?d=e+f"); got != "http://ota/a%20b%2Bc?d=e+f" {
		t.Error(got)
	}
}

func TestSleep(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"00:05:00": 5 * time.Minute, "23:59:59": 24*time.Hour - time.Second, "99:00:00": 24 * time.Hour,
		"": 0, "later": 0, "-1:00:00": 0, "00:00:01": time.Second, "999999999:00:00": 0,
	} {
		var b base
		b.Config.Polling.Sleep = text
		if got := b.sleep(); got != want {
			t.Errorf("%q: %v, expected %v", text, got, want)
		}
	}
}

func TestAttributesFit(t *testing.T) {
	own := map[string]string{"tandem": "1.0.0", "long": strings.Repeat("é", 300)}
	more := map[string]string{"tandem": "of the operator", "": "no name", strings.Repeat("k", 200): "x"}
	for i := range 200 {
		more["k"+string(rune('a'+i%26))+strings.Repeat("x", i/26)] = "v"
	}
	got := cleanAttributes(own, more)
	if len(got) != maxAttributes || got["tandem"] != "1.0.0" {
		t.Errorf("%d attributes, tandem is %q", len(got), got["tandem"])
	}
	for k, v := range got {
		if k == "" || utf8.RuneCountInString(k) > maxAttribute || utf8.RuneCountInString(v) > maxAttribute {
			t.Errorf("%q: %q is too long", k, v)
		}
	}
}

// FuzzDetails holds what is reported to what a server was seen to take.
func FuzzDetails(f *testing.F) {
	for _, s := range []string{"plain", "<new>", "if (a<b && c>d)", "<!-- x -->", "\x00\x07\u202e", strings.Repeat("😀", 400), "\xff\xfe", ""} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		var all []string
		for range n & 127 {
			all = append(all, s)
		}
		got := cleanDetails(append(all, "the last"))
		if len(got) == 0 || len(got) > maxDetails || got[len(got)-1] != "the last" {
			t.Fatalf("%d details", len(got))
		}
		for _, d := range got {
			if d == "" || !utf8.ValidString(d) || len(utf16.Encode([]rune(d))) > maxDetail || strings.ContainsAny(d, "<>") ||
				strings.ContainsFunc(d, unicode.IsControl) {
				t.Fatalf("%q", d)
			}
		}
	})
}
