//go:build linux

package guest

import (
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Tree is all that matters of an application: what lies at each path, and the
// tag under the name "tag".
type Tree map[string]string

var hashSeed = maphash.MakeSeed()

// ReadTree reads what lies below apps, and the tag beside it. A tree that is
// not there is empty.
func ReadTree(apps, tag string) (Tree, error) {
	t := Tree{}
	if data, err := os.ReadFile(tag); err == nil {
		t["tag"] = strings.TrimSpace(string(data))
	}
	err := filepath.WalkDir(apps, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(apps, p)
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		what := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		switch info.Mode().Type() {
		case 0:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %d %016x", len(data), maphash.Bytes(hashSeed, data))
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			what += " -> " + target
		}
		t[name] = what
		return nil
	})
	if os.IsNotExist(err) {
		err = nil
	}
	return t, err
}

// ReadSide reads a side.
func ReadSide(dir string) (Tree, error) { return ReadTree(dir+"/apps", dir+"/app_ver.txt") }

// With is t with one entry changed.
func (t Tree) With(name, what string) Tree {
	t = maps.Clone(t)
	t[name] = what
	return t
}

func oneOf(t Tree, legal []Tree) bool {
	return slices.ContainsFunc(legal, func(l Tree) bool { return maps.Equal(t, l) })
}

// sameApplication leaves out the configuration, which the application may have
// written without care.
func sameApplication(a, b Tree) bool {
	without := func(t Tree) Tree {
		t = maps.Clone(t)
		maps.DeleteFunc(t, func(name, _ string) bool { return name == "etc/app.conf" })
		return t
	}
	return maps.Equal(without(a), without(b))
}

// Differences lists up to ten places where b is not as a.
func Differences(a, b Tree) string {
	var lines []string
	names := maps.Clone(a)
	maps.Copy(names, b)
	for _, n := range slices.Sorted(maps.Keys(names)) {
		if a[n] != b[n] {
			lines = append(lines, fmt.Sprintf("    %s: %q, %q", n, a[n], b[n]))
		}
	}
	if len(lines) > 10 {
		lines = append(lines[:10], "    …")
	}
	return strings.Join(lines, "\n")
}

// AfterInstall is what an installed release leads to: its application files,
// and the configuration that was there.
func AfterInstall(release, now Tree) Tree {
	t := maps.Clone(release)
	for name, what := range now {
		if strings.HasPrefix(name, "etc/") || name == "data" || strings.HasPrefix(name, "data/") {
			t[name] = what
		}
	}
	return t
}
