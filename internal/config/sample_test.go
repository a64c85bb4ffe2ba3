package config

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sample is the configuration that the packages install.
func sample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../packaging/linux/tandem.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var unmade = regexp.MustCompile(`(?m)^#(\[|[a-z_]+ = )`)

// made is the sample with each of its settings made.
func made(t *testing.T) string { return unmade.ReplaceAllString(sample(t), "$1") }

// The sample changes nothing as it comes.
func TestSampleIsTheDefaults(t *testing.T) {
	l := loader(t, "0123abcd\n")
	got, err := l.Load(write(t, sample(t)))
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.Load(write(t, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	want.File = got.File
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the sample as it comes (-defaults +sample):\n%s", diff)
	}
}

// The sample names every key there is, and no other.
func TestSampleHasEveryKey(t *testing.T) {
	want := []string{"firmware.handler", "firmware.name"}
	r := &reader{}
	for name, sec := range r.sections(&Source{}, &Report{}, &Page{}) {
		for key := range sec {
			want = append(want, name+"."+key)
		}
	}
	var values map[string]any
	md, err := toml.Decode(made(t), &values)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, key := range md.Keys() {
		if len(key) == 2 {
			got[key.String()] = true
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("keys (-known +in the sample):\n%s", diff)
	}
}

// Where a key has a default, the sample shows that one.
func TestSampleShowsTheDefaults(t *testing.T) {
	l := loader(t, "0123abcd\n")
	got, err := l.Load(write(t, made(t)))
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.Load(write(t, "[source]\nurl = \"https://updates.example.com/hello\"\n[report]\nurl = \"https://reports.example.com/devices\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	want.File = got.File
	examples := Source{ClientCert: "/etc/tandem/client.pem", ClientKey: "/etc/tandem/client.key", User: "gate-17", PasswordFile: "/etc/tandem/password"}
	want.Source.ClientCert, want.Source.ClientKey = examples.ClientCert, examples.ClientKey
	want.Source.User, want.Source.PasswordFile = examples.User, examples.PasswordFile
	ignore := cmp.Options{
		cmpopts.IgnoreFields(Config{}, "Device", "Firmware"),
		cmpopts.IgnoreFields(Hooks{}, "PreInstall", "Stop", "Start", "Health", "Capture"),
		cmpopts.EquateEmpty(),
	}
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("values (-defaults +sample):\n%s", diff)
	}
}

// Each setting of the sample has an explanation above it, its own or that of
// its neighbours.
func TestSampleExplains(t *testing.T) {
	explained := false
	for i, l := range strings.Split(sample(t), "\n") {
		switch {
		case l == "":
			explained = false
		case strings.HasPrefix(l, "# "):
			explained = true
		case unmade.MatchString(l) && !strings.HasPrefix(l, "#[") && !explained:
			t.Errorf("%s:%d: no explanation of %s", "tandem.toml", i+1, l)
		}
	}
}

// Each setting works by itself: somebody takes away one "#" and that of its section, and
// those of the keys without which there is no such section, or no such pair.
func TestSampleSettingsAlone(t *testing.T) {
	needs := map[string][]string{
		"[source]": {"url"}, "[report]": {"url"}, "[[firmware]]": {"name", "handler"}, "[page]": {"listen"},
		"client_cert": {"client_key"}, "client_key": {"client_cert"}, "user": {"password_file"}, "password_file": {"user"},
	}
	l := loader(t, "0123abcd\n")
	lines := strings.Split(sample(t), "\n")
	key := func(line string) string {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "#"), " = ")
		return name
	}
	header, alone := 0, 0
	for i, line := range lines {
		if strings.HasPrefix(strings.TrimPrefix(line, "#"), "[") {
			header = i
			continue
		}
		if !unmade.MatchString(line) {
			continue
		}
		text := slices.Clone(lines)
		text[header] = strings.TrimPrefix(lines[header], "#")
		with := append([]string{key(line)}, append(needs[text[header]], needs[key(line)]...)...)
		for k := header + 1; k < len(lines) && !strings.HasPrefix(strings.TrimPrefix(lines[k], "#"), "["); k++ {
			if slices.Contains(with, key(lines[k])) {
				text[k] = strings.TrimPrefix(lines[k], "#")
			}
		}
		alone++
		if _, err := l.Load(write(t, strings.Join(text, "\n"))); err != nil {
			t.Errorf("%s alone: %v", line, err)
		}
	}
	if alone < 60 {
		t.Errorf("only %d settings", alone)
	}
}
