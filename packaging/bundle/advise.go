package bundle

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/packaging/release"
)

// maxAttributes is how much extended attributes a file can have, names and
// values together, in bytes: ext4 and UBIFS have a block for them.
const maxAttributes = 4000

// tellers gathers what is to be told of a tree, kind by kind.
type tellers struct {
	tell   func(string)
	kinds  []string // in the order in which they were met
	counts map[string]int
	first  map[string]string
}

func (t *tellers) add(kind string, p backup.Path) {
	if t.tell == nil {
		return
	}
	if t.counts == nil {
		t.counts, t.first = map[string]int{}, map[string]string{}
	}
	if t.counts[kind]++; t.counts[kind] == 1 {
		t.kinds = append(t.kinds, kind)
		t.first[kind] = p.String()
	}
}

// say tells each kind once. A kind has room for the number of entries and the
// name of the first.
func (t *tellers) say() {
	for _, kind := range t.kinds {
		entries := "1 entry,"
		if n := t.counts[kind]; n > 1 {
			entries = fmt.Sprintf("%d entries, such as", n)
		}
		t.tell(fmt.Sprintf(kind, fmt.Sprintf("%s %q", entries, t.first[kind])))
	}
}

// keepable returns why a device could not keep what m ships. The error wraps
// ErrTree.
func keepable(m *release.Manifest) error {
	for i := range m.Files {
		e := &m.Files[i]
		config := manifest.MatchAny(m.Config, e.Path)
		switch {
		case e.Type == manifest.Hardlink && config != manifest.MatchAny(m.Config, e.Link):
			a, b := e.Path, e.Link
			if config {
				a, b = b, a
			}
			return fmt.Errorf("%w: %q, which is not configuration, and %q, which is, are one file: expected two", ErrTree, a, b)
		}
		size := 0
		for name, value := range e.Xattrs {
			size += len(name) + len(value)
		}
		if size > maxAttributes {
			return fmt.Errorf("%w: %q has %d bytes of extended attributes, and devices have room for %d", ErrTree, e.Path, size, maxAttributes)
		}
	}
	return nil
}

// likeConfig are endings of the names of files that people or programs change
// on a device.
var likeConfig = []string{".conf", ".cfg", ".cnf", ".ini", ".toml", ".env", ".properties", ".db", ".sqlite", ".sqlite3", ".pem", ".key"}

// looksLikeConfig reports whether a file is probably meant to change on the
// device.
func looksLikeConfig(p backup.Path) bool {
	name := strings.ToLower(string(p))
	if slices.ContainsFunc(likeConfig, func(end string) bool { return strings.HasSuffix(name, end) }) {
		return true
	}
	dir := path.Dir(name)
	return dir != "." && slices.ContainsFunc(strings.Split(dir, "/"), func(el string) bool { return el == "etc" || el == "conf" || el == "config" })
}

// advise tells what a publisher may have forgotten.
func advise(m *release.Manifest, t *tellers) {
	if m.Kind != release.App {
		return
	}
	for i := range m.Files {
		e := &m.Files[i]
		if e.Type == manifest.File && looksLikeConfig(e.Path) && !manifest.MatchAny(m.Config, e.Path) && !manifest.MatchAny(m.Ignore, e.Path) {
			t.add("warning: no --config-pattern names %s, which looks like configuration: an edit on a device is taken back", e.Path)
		}
	}
	unused := map[string]bool{}
	for _, p := range m.Config {
		unused[p] = true
	}
	for i := range m.Files {
		maps.DeleteFunc(unused, func(p string, _ bool) bool { return manifest.MatchAny([]string{p}, m.Files[i].Path) })
	}
	for _, p := range slices.Sorted(maps.Keys(unused)) {
		if t.tell != nil {
			t.tell(fmt.Sprintf("note: --config-pattern %q names nothing that is shipped", p))
		}
	}
}
