package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// bug is a mistake that Tandem does not make, written as edits of its sources.
type bug struct {
	name  string
	about string
	where string // the scenarios of the model that are enough to find it, as a regular expression
	real  string // the operations that are enough on real UBIFS and ext4; "" is that these cannot find it
	ext4  bool   // whether ext4 can, where each fsync makes durable all that went before
	edits []edit
}

// edit replaces text that a file has exactly once.
type edit struct {
	file, old, new string
}

// bugs are the planted ones. Their edits are checked against the sources each
// time: one that no longer fits is an error, not a bug that was not found.
var bugs = []bug{
	{
		name: "no-fsync-before-rename", about: "a file is renamed into place before its data is on flash",
		where: "^(bump|boot, first backup)/", real: "bump", ext4: true,
		edits: []edit{{"internal/fsys/fsys.go", "	if err := f.Sync(); err != nil {\n", "	if err := error(nil); err != nil {\n"}},
	},
	{
		name: "no-directory-fsync", about: "a rename counts as done before its directory is on flash",
		where: "^(bump|backup, configuration edited|rollback)/", real: "revoke",
		edits: []edit{
			{"internal/fsys/fsys.go", "	return fsys.SyncDir(path.Dir(name))\n", "	return nil\n"},
			{"backup/commit.go", "		if err := fs.SyncDir(n); err != nil {\n", "		if err := error(nil); n == \"\" || err != nil {\n"},
		},
	},
	{
		name: "tag-before-files", about: "the tag is written when the files are staged, not when they are in place",
		where: "^install/", real: "install", ext4: true,
		edits: []edit{{
			"backup/stage.go", "	c.Version = st.record.Manifest.Version\n",
			"	c.Version = st.record.Manifest.Version\n	if err := versioning.WriteTag(fs, tagFile, c.Version); err != nil {\n		return err\n	}\n",
		}},
	},
	{
		name: "commit-removed-early", about: "commit.json is removed before the staged version is in place",
		where: "^install/", real: "install", ext4: true,
		edits: []edit{
			{"backup/commit.go", "	if err := fs.Remove(commitFile); err != nil {\n", "	if err := fs.Remove(commitFile); err != nil && !fsys.IsNotExist(err) {\n"},
			{
				"backup/commit.go", "func (c *commit) finish(fs fsys.FS) error {\n",
				"func (c *commit) finish(fs fsys.FS) error {\n	if err := fs.Remove(commitFile); err != nil {\n		return err\n	}\n",
			},
		},
	},
	{
		name: "configuration-hard-linked", about: "configuration of system is linked into the next version instead of copied",
		where: "^rollback, there and back/", real: "there and back", ext4: true,
		edits: []edit{{"backup/stage.go", "st.side.Name == System && st.record.Manifest.isConfig(", "false && st.record.Manifest.isConfig("}},
	},
	{
		name: "hash-not-checked", about: "a copy is taken for good without comparing its SHA-256",
		where: "bits flipped",
		edits: []edit{{"backup/stage.go", "	if n != e.Size || h != nil && digest.Sum(h) != *e.SHA256 {\n", "	if n != e.Size || h != nil && digest.Sum(h) == (digest.SHA256{}) {\n"}},
	},
	{
		name: "revoke-after-rollback", about: "the bad version is revoked after system went back, not before",
		where: "^rollback/", real: "^rollback$", ext4: true,
		edits: []edit{{
			"backup/rollback.go",
			"	if err := r.setRevoked(append(rest, system.Version)); err != nil {\n		return system.Version, now, err\n	}\n	return system.Version, kept.Version, r.returnTo(ctx, in, system, usrData, kept)\n",
			"	if err := r.returnTo(ctx, in, system, usrData, kept); err != nil {\n		return system.Version, now, err\n	}\n	return system.Version, kept.Version, r.setRevoked(append(rest, system.Version))\n",
		}},
	},
	{
		name: "recovery-not-idempotent", about: "recovery swaps the trees without looking whether they are swapped already",
		where: "^install/", real: "install", ext4: true,
		edits: []edit{
			{"backup/commit.go", "	if !exists || now.Ino != c.Apps {\n", "	if true || now.Ino == 0 {\n"},
			{"backup/commit.go", "		if next.Ino != c.Apps {\n", "		if false && next.Ino == 0 {\n"},
		},
	},
}

// sources gives the files that the bug changes, as they are with it.
func (b *bug) sources(root string) (map[string]string, error) {
	files := map[string]string{}
	for _, e := range b.edits {
		text, ok := files[e.file]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s: %s has %d times, expected once: %q: the code has changed, and the edit in test/planted/bugs.go must follow", b.name, e.file, n, e.old)
		}
		files[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return files, nil
}

// overlay writes what go build and go test take to build with the bug, into
// dir, and gives the name of the file for their -overlay.
func (b *bug) overlay(root, dir string) (string, error) {
	files, err := b.sources(root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for name, text := range files {
		to := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(root, name)] = to
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, data, 0o644)
}
