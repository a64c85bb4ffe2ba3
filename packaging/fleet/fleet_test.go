package fleet

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/internal/digest"
	"tandem/packaging/release"
	"tandem/versioning"
)

func target(t testing.TB, version string) *release.Target {
	t.Helper()
	v, err := versioning.Parse(version)
	if err != nil {
		t.Fatal(err)
	}
	return &release.Target{App: "hello", Version: v, Compatible: []string{"demo", "other"}, Release: digest.Of([]byte(version))}
}

// report writes events as "COMMAND ACTION FROM VERSION", "-" for none.
func report(runs string, first int, events ...string) string {
	var list []string
	for i, e := range events {
		f := strings.Split(e, " ")
		for k := range f {
			f[k] = strings.ReplaceAll(strings.TrimPrefix(f[k], "-"), "_", " ")
		}
		list = append(list, fmt.Sprintf(`{"id":"0000000a-%d","time":"2026-01-01T00:00:00Z","command":%q,"action":%q,"from":%q,"version":%q,"reason":"why"}`, first+i, f[0], f[1], f[2], f[3]))
	}
	return fmt.Sprintf(`{"device":"x","app":"hello","compatible":["demo"],"agent":"1","time":"2026-01-01T00:00:00Z","version":%q,"in_step":true,"events":[%s]}`, runs, strings.Join(list, ","))
}

// The last word of a device about a release counts, whatever came how often and in
// which order.
func TestCount(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		reports []string
		want    Count // of 1.1.0
	}{
		{"another version", []string{report("1.0.0", 1, "update installed - 1.0.0")}, Count{}},
		{"it runs, and nothing else is known", []string{report("1.1.0", 1, "boot nothing - 1.1.0")}, Count{Took: 1, Have: 1}},
		{"pending", []string{report("1.1.0", 1, "update pending 1.0.0 1.1.0")}, Count{Took: 1, Have: 1}},
		{"confirmed", []string{report("1.1.0", 1, "update pending 1.0.0 1.1.0", "confirm confirmed - 1.1.0")}, Count{Took: 1, Have: 1, Confirmed: 1}},
		{"fell back", []string{report("1.0.0", 1, "update pending 1.0.0 1.1.0", "rollback rolled_back 1.1.0 1.0.0")}, Count{Took: 1, FellBack: 1}},
		{"failed, with nothing to return to", []string{report("1.1.0", 1, "update pending 1.0.0 1.1.0", "rollback - 1.1.0 -")}, Count{Took: 1, Have: 1, FellBack: 1}},
		{"returned at a recall", []string{report("1.0.0", 1, "update installed 1.0.0 1.1.0", "rollback recalled 1.1.0 1.0.0")}, Count{Took: 1, Returned: 1}},
		{"it came back, because the one before was not well", []string{report("1.1.0", 1, "rollback pending 1.1.0 1.0.0", "rollback rolled_back 1.0.0 1.1.0")}, Count{Took: 1, Have: 1, Returned: 1}},
		{"a recall that could not be followed", []string{report("1.1.0", 1, "rollback - - 1.1.0")}, Count{Took: 1, Have: 1}},
		{"taken again", []string{report("1.1.0", 1, "rollback rolled_back 1.1.0 1.0.0", "install pending 1.0.0 1.1.0", "confirm confirmed - 1.1.0")}, Count{Took: 1, Have: 1, Confirmed: 1}},
		{"the same twice, and late", []string{report("1.0.0", 2, "rollback rolled_back 1.1.0 1.0.0"), report("1.1.0", 1, "update pending 1.0.0 1.1.0"), report("1.0.0", 2, "rollback rolled_back 1.1.0 1.0.0")}, Count{Took: 1, FellBack: 1}},
		{"no versions", []string{report("v 1", 1, "update pending 1.0.0 latest", "rollback rolled_back .. 1.0.0")}, Count{}},
	} {
		var f Fleet
		for _, r := range c.reports {
			if err := f.add("gate-1", []byte(r)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if got := f.Of(target(t, "1.1.0")); got != c.want || f.Devices() != 1 || f.Reports() != len(c.reports) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if got := f.Of(&release.Target{App: "goodbye", Version: target(t, "1.1.0").Version, Compatible: []string{"demo"}}); got != (Count{}) {
			t.Errorf("%s: another application: %+v", c.name, got)
		}
		if got := f.Of(&release.Target{App: "hello", Version: target(t, "1.1.0").Version, Compatible: []string{"ec25"}}); got != (Count{}) {
			t.Errorf("%s: other hardware: %+v", c.name, got)
		}
	}
}

// A device that names the release that it runs is not counted for another build.
func TestAnotherBuild(t *testing.T) {
	t.Parallel()
	var f Fleet
	for i, sum := range []digest.SHA256{digest.Of([]byte("1.1.0")), digest.Of([]byte("another"))} {
		r := strings.Replace(report("1.1.0", 1, "update installed - 1.1.0"), `"in_step"`, fmt.Sprintf(`"release":%q,"in_step"`, sum), 1)
		if err := f.add(fmt.Sprint("gate-", i), []byte(r)); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.Of(target(t, "1.1.0")); got != (Count{Took: 1, Have: 1}) {
		t.Errorf("%+v", got)
	}
}

// What is no report is refused, and takes no room.
func TestHostile(t *testing.T) {
	t.Parallel()
	good := report("1.1.0", 1, "update installed - 1.1.0")
	for name, c := range map[string]struct{ from, raw string }{
		"nobody":        {"", good},
		"a long name":   {strings.Repeat("x", 300), good},
		"nothing":       {"gate-1", ""},
		"null":          {"gate-1", "null"},
		"a list":        {"gate-1", "[" + good + "]"},
		"a number":      {"gate-1", "7"},
		"half":          {"gate-1", good[:len(good)/2]},
		"no app":        {"gate-1", `{"time":"2026-01-01T00:00:00Z"}`},
		"no time":       {"gate-1", `{"app":"hello"}`},
		"a wrong time":  {"gate-1", `{"app":"hello","time":"yesterday"}`},
		"a wrong event": {"gate-1", strings.Replace(good, `"action":"installed"`, `"action":[[["installed"]]]`, 1)},
		"huge":          {"gate-1", strings.Replace(good, `"x"`, `"`+strings.Repeat("x", maxReport)+`"`, 1)},
		"deep":          {"gate-1", strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)},
	} {
		var f Fleet
		if err := f.add(c.from, []byte(c.raw)); !errors.Is(err, ErrReport) || f.Devices() != 0 || f.Reports() != 0 {
			t.Errorf("%s: %v, %d devices", name, err, f.Devices())
		}
	}
	// One device's tale of many versions takes bounded room.
	var f Fleet
	for i := range 10 * maxVersions {
		if err := f.add("gate-1", []byte(report("1.1.0", i, fmt.Sprintf("update installed - 1.%d.0", i)))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.devices["gate-1"].said); n != maxVersions {
		t.Errorf("%d versions are kept", n)
	}
}

// A directory may hold anything, and is read all the same.
func TestReadDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := report("1.1.0", 1, "update installed - 1.1.0")
	for name, text := range map[string]string{
		"gate-1/1.json": good, "gate-1/2.json": good + "\n" + good, "gate-1/.x.json": "half", "gate-2/1.json": good + "garbage", "gate-3/1.txt": good,
		"loose.json": good, ".hidden": "", "gate-4/huge.json": strings.Repeat(" ", maxFile) + good, "gate-5/zero.json": "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "1.json")
	if err := errors.Join(os.WriteFile(outside, []byte(good), 0o644), os.Mkdir(filepath.Join(dir, "gate-6"), 0o755), os.Mkdir(filepath.Join(dir, "gate-6", "d.json"), 0o755),
		os.Symlink(outside, filepath.Join(dir, "gate-6", "link.json")), os.Symlink(filepath.Dir(outside), filepath.Join(dir, "gate-7")), unix.Mkfifo(filepath.Join(dir, "gate-6", "fifo.json"), 0o644)); err != nil {
		t.Fatal(err)
	}
	var f Fleet
	left, err := f.ReadDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if f.Devices() != 2 || f.Reports() != 4 || left.Count != 8 || len(left.Why) != 8 {
		t.Errorf("%d devices, %d reports, left out: %v", f.Devices(), f.Reports(), left.Why)
	}
	if _, err := f.ReadDir(t.Context(), filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing directory is no error")
	}
}

// A server names the device beside each report; what it says may be anything.
func TestGet(t *testing.T) {
	t.Parallel()
	good := report("1.1.0", 1, "update installed - 1.1.0")
	line := func(from string) string { return fmt.Sprintf(`{"from":%q,"report":%s}`, from, good) }
	body := strings.Join([]string{line("gate-1"), "", line("gate-1"), line(""), good, "garbage", `{"from":"gate-2"}`, strings.Repeat("x", 3*maxReport), `["a"]`, line("gate-3")}, "\n")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/reports" || r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, body)
	}))
	defer server.Close()
	var f Fleet
	left, err := f.Get(t.Context(), server.Client(), server.URL+"/reports", "secret")
	if err != nil || f.Devices() != 2 || f.Reports() != 3 || left.Count != 6 {
		t.Errorf("%d devices, %d reports, %v, left out: %v", f.Devices(), f.Reports(), err, left.Why)
	}
	if _, err := f.Get(t.Context(), server.Client(), server.URL+"/reports", "guess"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("without the token: %v", err)
	}
	server.Close()
	address := strings.Replace(server.URL, "://", "://user:password@", 1)
	if _, err := f.Get(t.Context(), server.Client(), address, ""); err == nil || strings.Contains(err.Error(), "password") {
		t.Errorf("a server that is not there: %v", err)
	}
}

func FuzzAdd(f *testing.F) {
	f.Add([]byte(report("1.1.0", 1, "update pending 1.0.0 1.1.0", "rollback rolled_back 1.1.0 1.0.0")))
	f.Add([]byte(`{"app":"hello","time":"2026-01-01T00:00:00Z","events":[{"id":"-"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var fleet Fleet
		before := fleet.Devices()
		if err := fleet.add("gate-1", raw); err != nil {
			if !errors.Is(err, ErrReport) || fleet.Devices() != before {
				t.Fatalf("%v, %d devices", err, fleet.Devices())
			}
			return
		}
		first := fleet.Of(target(t, "1.1.0"))
		if err := fleet.add("gate-1", raw); err != nil {
			t.Fatal(err)
		}
		again := fleet.Of(target(t, "1.1.0"))
		if again.Took != first.Took || again.Have != first.Have || again.Took > 1 || again.Have > again.Took || again.Confirmed+again.FellBack+again.Returned > again.Took {
			t.Fatalf("%+v, then %+v", first, again)
		}
	})
}
