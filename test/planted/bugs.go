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
			{"backup/change/durable.go", "		if err := fs.SyncDir(n); err != nil {\n", "		if err := error(nil); n == \"\" || err != nil {\n"},
		},
	},
	{
		name: "barrier-left-out", about: "commit.json is written before what is staged is on flash",
		where: "^install/", real: "^install$", ext4: true,
		edits: []edit{
			{"backup/change/complete.go", "	if !c.each {\n		return c.barrier.Sync()\n	}\n", "	if !c.each || c.Tag {\n		return nil\n	}\n"},
			{"backup/change/put.go", "	if s.c.each {\n		if err := s.out.Sync(); err != nil {\n", "	if s.c.each && !s.c.Tag {\n		if err := s.out.Sync(); err != nil {\n"},
		},
	},
	{
		name: "tag-before-files", about: "the tag is written when the files are staged, not when they are in place",
		where: "^install/", real: "^install$", ext4: true,
		edits: []edit{{
			"backup/change/complete.go", "		if err := c.fs.Rename(commitTmp, CommitFile); err != nil {\n",
			"		if err := versioning.WriteTag(c.fs, TagFile, c.ready.Version); err != nil {\n			return nil, err\n		}\n		if err := c.fs.Rename(commitTmp, CommitFile); err != nil {\n",
		}},
	},
	{
		name: "empty-side-tagged-early", about: "a side that was empty has its tag before its files are in place on flash",
		where: "^boot, first backup/",
		edits: []edit{{
			"backup/change/apply.go", "	if err := a.sync(); err != nil {\n		return err\n	}\n	return a.finish()\n",
			"	if !a.unwritten {\n		if err := a.sync(); err != nil {\n			return err\n		}\n	}\n	return a.finish()\n",
		}},
	},
	{
		name: "commit-removed-early", about: "commit.json is removed before what is staged is in place",
		where: "^install/", real: "^install$", ext4: true,
		edits: []edit{{
			"backup/change/apply.go", "	if !a.commit.Undo {\n		err := a.apply()\n",
			"	if !a.commit.Undo {\n		if !a.unwritten {\n			if err := a.fs.Remove(CommitFile); err != nil {\n				return &a.out, err\n			}\n		}\n		err := a.apply()\n",
		}},
	},
	{
		name: "undo-log-left-out", about: "what a change displaces is dropped instead of kept",
		where: "^rollback/", real: "^rollback$", ext4: true,
		edits: []edit{{"backup/change/apply.go", "			return a.rename(from, slot)\n", "			return a.fs.Remove(from)\n"}},
	},
	{
		name: "hash-not-checked", about: "a copy is taken for good without comparing its SHA-256",
		where: "bits flipped",
		edits: []edit{{"backup/change/put.go", "	if n != e.Size || h != nil && digest.Sum(h) != *e.SHA256 {\n", "	if n != e.Size || h != nil && digest.Sum(h) == (digest.SHA256{}) {\n"}},
	},
	{
		name: "revoke-after-rollback", about: "the bad version is revoked after system went back, not before",
		where: "^rollback/", real: "^rollback$", ext4: true,
		edits: []edit{{
			"backup/rollback.go",
			"	if err := l.revoke(); err != nil {\n		return l.from(), now, err\n	}\n	return l.from(), l.back(), l.commit(ctx)\n",
			"	if err := l.commit(ctx); err != nil {\n		return l.from(), now, err\n	}\n	return l.from(), l.back(), l.revoke()\n",
		}},
	},
	{
		name: "recovery-not-idempotent", about: "recovery places what is staged without looking whether it is what was displaced",
		where: "^install/", real: "^install$", ext4: true,
		edits: []edit{{"backup/change/apply.go", "	if err != nil || !isNew {\n		return err == nil, err\n	}\n", "	if err != nil || !isNew {\n		return false, err\n	}\n"}},
	},
	{
		name: "patch-not-checked", about: "a patch is applied to whatever lies there, and what it makes is taken",
		where: "^install, by a delta bundle, a file of its base is damaged/", real: "^update by a delta bundle with a damaged base$", ext4: true,
		edits: []edit{
			{"backup/base.go", "	if err == nil && digest.Sum(h) == sum {\n", "	if err == nil {\n"},
			{"packaging/bundle/patch.go", "r.left != 0 || sum != *r.p.file.SHA256 {\n", "sum.IsZero() {\n"},
		},
	},
	{
		name: "error-taken-for-damage", about: "a look that fails for want of memory or descriptors is taken for damage",
		where: "^backup, configuration edited/",
		edits: []edit{{"backup/tree/errors.go", "	case fsys.IsTransient(err), errors.Is(", "	case false, errors.Is("}, {"backup/tree/errors.go", "	case fsys.IsUnreadable(err):\n", "	case fsys.IsUnreadable(err), fsys.IsTransient(err):\n"}},
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
