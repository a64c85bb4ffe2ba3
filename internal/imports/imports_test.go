// Package imports holds the tests of the order in which packages may import
// each other, and of what the race detector is run on. It has no code of its own.
package imports

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "tandem"

// layers is the order of the design: each imports only those below it, or
// packages of its own layer.
var layers = []string{"cmd", "agent", "ota", "packaging", "backup", "versioning", "internal"}

// outside are directories that use the programs and that nothing may import.
var outside = []string{"test", "examples"}

// restricted are packages that only some may import, tests apart: what signs
// or publishes has no place on a device.
var restricted = map[string][]string{
	"packaging/delta/encode": {"cmd/tandem-release", "packaging/repository", "test/patches"},
	"packaging/fleet":        {"cmd/tandem-release"},
	"packaging/signing":      {"cmd/tandem-release", "packaging/repository", "packaging/signing"},
	"packaging/repository":   {"cmd/tandem-release", "packaging/repository", "test/device", "test/soak"},
}

// check returns what is wrong with one package's import of another, both named
// relative to the module; test says that only its tests do so. "" means nothing.
func check(importer, imported string, test bool) string {
	if importer == imported {
		return ""
	}
	breaks := func(why string) string { return fmt.Sprintf("%s imports %s: %s", importer, imported, why) }
	from, to := top(importer), top(imported)
	switch {
	case slices.Contains(outside, to) && from != to:
		return breaks(to + "/ is for nobody to import")
	case slices.Contains(outside, from):
		return restrict(importer, imported, test, breaks)
	case !slices.Contains(layers, from):
		return breaks(from + "/ has no place in the order")
	case !slices.Contains(layers, to):
		return breaks(to + "/ has no place in the order")
	case slices.Index(layers, from) > slices.Index(layers, to):
		return breaks(fmt.Sprintf("%s/ is above %s/", to, from))
	case from == "cmd" && to == "cmd":
		return breaks("a program is for nobody to import")
	}
	return restrict(importer, imported, test, breaks)
}

func restrict(importer, imported string, test bool, breaks func(string) string) string {
	who, ok := restricted[imported]
	if !ok || test || slices.Contains(who, importer) {
		return ""
	}
	return breaks("only " + strings.Join(who, ", ") + " and tests may")
}

// top returns the layer of a package.
func top(pkg string) string {
	first, _, _ := strings.Cut(pkg, "/")
	return first
}

// inModule returns the name of a package relative to the module.
func inModule(importPath string) (string, bool) {
	return strings.CutPrefix(importPath, module+"/")
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// list returns what go list says. It looks at all source files first: what a test has
// looked at decides whether its last result still stands.
func list(t *testing.T, args ...string) string {
	t.Helper()
	err := filepath.WalkDir("../..", func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && (strings.HasPrefix(e.Name(), ".") && len(e.Name()) > 2 || e.Name() == "testdata") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return string(out)
}

func TestImportOrder(t *testing.T) {
	t.Parallel()
	dec := json.NewDecoder(strings.NewReader(list(t, "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")))
	seen := map[string]bool{}
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		importer, ok := inModule(p.ImportPath)
		if !ok {
			t.Errorf("%s: a package at the top of the module: expected one in %s", p.ImportPath, strings.Join(layers, ", "))
			continue
		}
		seen[top(importer)] = true
		for _, i := range []struct {
			imports []string
			test    bool
		}{{p.Imports, false}, {p.TestImports, true}, {p.XTestImports, true}} {
			for _, imported := range i.imports {
				if imported, ok := inModule(imported); ok {
					if wrong := check(importer, imported, i.test); wrong != "" {
						t.Error(wrong)
					}
				}
			}
		}
	}
	for _, layer := range layers {
		if !seen[layer] {
			t.Errorf("there is no package in %s/: the order has changed, or nothing was listed", layer)
		}
	}
}

// publishing are packages that sign or publish, by their import path.
var publishing = []string{
	"github.com/youmark/pkcs8", module + "/packaging/delta/encode", module + "/packaging/fleet",
	module + "/packaging/repository", module + "/packaging/signing",
}

// What a device carries links nothing that signs or publishes, however far down. The
// publisher's program links all of it, so the list names what there is.
func TestDeviceSignsNothing(t *testing.T) {
	t.Parallel()
	for program, want := range map[string][]string{"tandem": nil, "tandem-release": publishing} {
		linked := strings.Fields(list(t, "-deps", module+"/cmd/"+program))
		if !slices.Contains(linked, module+"/packaging/trust") {
			t.Errorf("%s does not link packaging/trust: that list is not what it links", program)
		}
		linked = slices.DeleteFunc(linked, func(p string) bool { return !slices.Contains(publishing, p) })
		slices.Sort(linked)
		if !slices.Equal(linked, want) {
			t.Errorf("%s links %q of what signs or publishes, want %q", program, linked, want)
		}
	}
}

// The check finds what it is there to find.
func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		importer, imported string
		test               bool
		want               string // part of the message; "" means that it is allowed
	}{
		{"cmd/tandem", "agent", false, ""},
		{"cmd/tandem", "internal/config", false, ""},
		{"ota", "packaging/trust", false, ""},
		{"packaging/trust", "packaging/bundle", false, ""},
		{"internal/fsys/memfs", "internal/fsys", false, ""},
		{"test/bench", "backup", false, ""},

		{"agent", "cmd/tandem", false, "cmd/ is above agent/"},
		{"ota", "agent", false, "agent/ is above ota/"},
		{"packaging/bundle", "ota", false, "ota/ is above packaging/"},
		{"backup", "packaging/bundle", false, "packaging/ is above backup/"},
		{"backup", "packaging/bundle", true, "packaging/ is above backup/"},
		{"versioning", "backup", false, "backup/ is above versioning/"},
		{"internal/config", "versioning", false, "versioning/ is above internal/"},
		{"internal/config", "agent", true, "agent/ is above internal/"},
		{"cmd/tandem", "cmd/tandem-release", false, "a program is for nobody to import"},
		{"agent", "test/bench", false, "test/ is for nobody to import"},
		{"agent", "util", false, "util/ has no place in the order"},
		{"util", "agent", false, "util/ has no place in the order"},

		{"cmd/tandem-release", "packaging/signing", false, ""},
		{"packaging/repository", "packaging/signing", false, ""},
		{"cmd/tandem", "packaging/signing", true, ""},
		{"ota", "packaging/signing", true, ""},
		{"cmd/tandem", "packaging/signing", false, "only cmd/tandem-release, packaging/repository"},
		{"ota", "packaging/signing", false, "only cmd/tandem-release"},
		{"ota", "packaging/repository", false, "only cmd/tandem-release"},
		{"ota", "packaging/repository", true, ""},
		{"packaging/trust", "packaging/signing", false, "only cmd/tandem-release"},
		{"test/bench", "packaging/signing", false, "only cmd/tandem-release"},
		{"backup", "packaging/signing", true, "packaging/ is above backup/"},

		{"packaging/bundle", "packaging/delta", false, ""},
		{"packaging/repository", "packaging/delta/encode", false, ""},
		{"packaging/bundle", "packaging/delta/encode", false, "only cmd/tandem-release"},
		{"cmd/tandem", "packaging/delta/encode", false, "only cmd/tandem-release"},
		{"packaging/delta", "packaging/delta/encode", true, ""},
	} {
		got := check(c.importer, c.imported, c.test)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s imports %s (test: %t): %q, want %q", c.importer, c.imported, c.test, got, c.want)
		}
		if got != "" && !strings.HasPrefix(got, c.importer+" imports ") {
			t.Errorf("%q does not name the importer", got)
		}
	}
}
