//go:build linux

package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// tree is all that matters of an application: what lies at each path, and the
// tag under the name "tag".
type tree map[string]string

// readTree reads what lies below apps, and the tag beside it. A tree that is
// not there is empty.
func readTree(apps, tag string) (tree, error) {
	t := tree{}
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
			what += fmt.Sprintf(" %d %x", len(data), sha256.Sum256(data))
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

func side(dir string) (tree, error) { return readTree(dir+"/apps", dir+"/app_ver.txt") }

func (t tree) with(name, what string) tree {
	t = maps.Clone(t)
	t[name] = what
	return t
}

func oneOf(t tree, legal []tree) bool {
	return slices.ContainsFunc(legal, func(l tree) bool { return maps.Equal(t, l) })
}

// differences lists up to ten places where b is not as a.
func differences(a, b tree) string {
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

// afterInstall is what an installed release leads to: its application files,
// and the configuration that was there.
func afterInstall(release, now tree) tree {
	t := maps.Clone(release)
	for name, what := range now {
		if strings.HasPrefix(name, "etc/") || name == "data" || strings.HasPrefix(name, "data/") {
			t[name] = what
		}
	}
	return t
}
