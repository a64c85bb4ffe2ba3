package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Each planted bug fits the sources, and is for a step that there is.
func TestPlanted(t *testing.T) {
	names := map[string]bool{}
	for _, one := range series {
		for _, s := range one.all {
			if names[s.name] || s.name == "" || s.do == nil {
				t.Errorf("%q: a step needs a name of its own, and something to do", s.name)
			}
			names[s.name] = true
		}
		if len(one.standsOn()) == 0 || !one.all[0].always {
			t.Errorf("%s: nobody starts the machine", one.name)
		}
	}
	for _, b := range bugs {
		if !names[b.step] {
			t.Errorf("%s: there is no step %q", b.name, b.step)
		}
		if (b.script == "") == (b.edit.file == "") {
			t.Errorf("%s: expected a script or an edit", b.name)
		}
		if b.edit.file == "" {
			continue
		}
		text, err := os.ReadFile(filepath.Join("../..", b.edit.file))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.edit.apply(string(text)); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
	}
}

// What is left out in the short form, or by a name, leaves what the rest stands on.
func TestChosen(t *testing.T) {
	s := steps{all: []step{{name: "start", always: true}, {name: "one"}, {name: "two", long: true}}}
	for _, c := range []struct {
		match string
		short bool
		want  int
	}{{"", false, 3}, {"", true, 2}, {"one", false, 2}, {"two", false, 2}, {"two", true, 0}, {"none", false, 0}, {"start", false, 1}} {
		if got := s.chosen(regexp.MustCompile(c.match), c.short); len(got) != c.want {
			t.Errorf("%+v: %d steps", c, len(got))
		}
	}
}
