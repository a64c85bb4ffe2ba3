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

const page = "../../docs/configuration.md"

// row is what the page says of a key.
type row struct {
	line        int
	section     string
	key         string
	def, values string
}

func (r row) name() string { return r.section + "." + r.key }

// rows are the rows of all tables of the page.
func rows(t *testing.T) []row {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []row
	section := ""
	for i, l := range strings.Split(string(text), "\n") {
		if name, ok := strings.CutPrefix(l, "## ["); ok {
			section = strings.Trim(name, "[]")
		}
		cells := strings.Split(l, " | ")
		if !strings.HasPrefix(l, "| `") || len(cells) != 4 {
			continue
		}
		all = append(all, row{i + 1, section, strings.Trim(cells[0], "| `"), strings.Trim(cells[1], "`"), cells[2]})
	}
	return all
}

// setters are the keys that there are. Each reads into a configuration of its own.
func setters() map[string]setter {
	all := make(map[string]setter)
	r := &reader{file: "/etc/tandem.toml"}
	for name, sec := range r.sections(&Source{}, &Report{}, &Page{}) {
		for key, set := range sec {
			all[name+"."+key] = set
		}
	}
	var f Firmware
	all["firmware.name"], all["firmware.handler"] = name(&f.Name), r.command(&f.Handler, false)
	return all
}

// The page has each key, once, and no other.
func TestPageHasEveryKey(t *testing.T) {
	var got []string
	for _, r := range rows(t) {
		got = append(got, r.name())
	}
	slices.Sort(got)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(setters())), got); diff != "" {
		t.Errorf("keys (-known +on the page):\n%s", diff)
	}
}

// The defaults that the page tells are those that hold.
func TestPageTellsTheDefaults(t *testing.T) {
	needed := map[string]string{"source": "url = \"https://u.example/\"\n", "report": "url = \"https://r.example/\"\n"}
	text, section, untold := "", "", []string{}
	for _, r := range rows(t) {
		if r.def == "-" {
			untold = append(untold, r.name())
			continue
		}
		if r.section != section {
			section = r.section
			text += "[" + section + "]\n" + needed[section]
		}
		text += r.key + " = " + r.def + "\n"
	}
	l := loader(t, "0123abcd\n")
	got, err := l.Load(write(t, text))
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.Load(write(t, "[source]\n"+needed["source"]+"[report]\n"+needed["report"]))
	if err != nil {
		t.Fatal(err)
	}
	want.File = got.File
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("values (-defaults +page):\n%s", diff)
	}
	if want := []string{"device.id", "device.app", "source.url", "report.url", "firmware.name", "firmware.handler"}; !slices.Equal(untold, want) {
		t.Errorf("keys without a default: %q, want %q", untold, want)
	}
}

var quoted = regexp.MustCompile("`([^`]+)`")

// Each value that the page gives for a key is one that the key takes, and where a
// key takes certain words only, the page gives all of them.
func TestPageTellsTheValues(t *testing.T) {
	for _, r := range rows(t) {
		given := quoted.FindAllStringSubmatch(r.values, -1)
		for _, m := range given {
			var values map[string]any
			if _, err := toml.Decode("v = "+m[1], &values); err != nil {
				t.Errorf("%s:%d: %s is no value: %v", page, r.line, m[1], err)
				continue
			}
			if err := setters()[r.name()](values["v"]); err != nil {
				t.Errorf("%s:%d: %s = %s: %v", page, r.line, r.name(), m[1], err)
			}
		}
		err := setters()[r.name()]("no such word!")
		if err == nil || !strings.Contains(err.Error(), " is unknown: expected ") {
			continue
		}
		_, words, _ := strings.Cut(err.Error(), " is unknown: expected ")
		for word := range strings.SplitSeq(words, " or ") {
			if !strings.Contains(r.values, "`"+word+"`") {
				t.Errorf("%s:%d: %s may be %s, too", page, r.line, r.name(), word)
			}
		}
	}
}
