package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

var versions = []string{"1.0.0", "1.1.0", "1.2.0"}

// makeReleases makes three versions of an application and a signed bundle of
// each: dir/releases/VERSION, dir/releases/VERSION.tandem, dir/root.json.
func makeReleases(ctx context.Context, dir string) error {
	release := filepath.Join(dir, "bin", "tandem-release")
	for _, args := range [][]string{{"keygen", "--out", "keys"}, {"repo", "init", "repo", "--keys", "keys"}} {
		if _, err := output(ctx, dir, nil, release, args...); err != nil {
			return err
		}
	}
	for i, v := range versions {
		if err := writeRelease(filepath.Join(dir, "releases", v), v, i); err != nil {
			return err
		}
		if _, err := output(ctx, dir, nil, release, "bundle", "create", "releases/"+v, "--app", "lab", "--version", v, "--compatible", "qemu",
			"--config-pattern", "etc/*.conf", "--keys", "keys", "--root", "repo/root.json", "--out", "releases/"+v+".tandem"); err != nil {
			return err
		}
	}
	return nil
}

// writeRelease writes some 200 KB: a program that always changes,
// libraries of which some change, a few odds and ends.
func writeRelease(dir, version string, i int) error {
	files := map[string]string{
		"bin/app":               noise("app "+version, 60_000),
		"etc/app.conf":          "name=World\n",
		"etc/empty.conf":        "",
		"share/text":            strings.Repeat("compresses well\n", 2000),
		"share/only-" + version: version + "\n",
	}
	for n := range 10 {
		seed := fmt.Sprint("lib ", n)
		if n%4 == i {
			seed += version
		}
		files[fmt.Sprintf("lib/%d.so", n)] = noise(seed, 10_000)
	}
	for name, data := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if filepath.Base(name) == "app" {
			mode = 0o755
		}
		if err := os.WriteFile(name, []byte(data), mode); err != nil {
			return err
		}
	}
	return os.Symlink("../lib/0.so", filepath.Join(dir, "bin", "link"))
}

// noise is text that does not compress, the same for the same seed.
func noise(seed string, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return string(b)
}

// makeInitrd packs the machine's first file system.
func makeInitrd(name, dir string, k kernel) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	c := &cpio{w: w}
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "etc", "bin", "modules", "usrapp", "usrdata"} {
		c.add(d, fs.ModeDir|0o755, nil)
	}
	// The console has to be there before the first program runs.
	c.device("dev/console", 5, 1)
	c.copy("init", filepath.Join(dir, "bin", "guest"), 0o755)
	c.copy("bin/tandem", filepath.Join(dir, "bin", "tandem"), 0o755)
	c.copy("bin/busybox", k.busybox, 0o755)
	c.copy("etc/root.json", filepath.Join(dir, "repo", "root.json"), 0o644)
	for i, m := range k.modules {
		c.copy(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(m)), m, 0o644)
	}
	c.tree("releases", filepath.Join(dir, "releases"))
	c.add("TRAILER!!!", 0, nil)
	if c.err == nil {
		c.err = w.Flush()
	}
	return c.err
}

// cpio writes the archive format of an initrd ("newc"). After an error it does
// nothing more.
type cpio struct {
	w     io.Writer
	inode int
	err   error
}

func (c *cpio) entry(name string, mode uint32, major, minor int, data []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(head), data} {
		part = append(part, make([]byte, (4-len(part)%4)%4)...)
		if _, err := c.w.Write(part); err != nil {
			c.err = err
		}
	}
}

func (c *cpio) add(name string, mode fs.FileMode, data []byte) {
	kind := uint32(0o100000)
	switch mode.Type() {
	case fs.ModeDir:
		kind = 0o040000
	case fs.ModeSymlink:
		kind = 0o120000
	}
	c.entry(name, kind|uint32(mode.Perm()), 0, 0, data)
}

func (c *cpio) device(name string, major, minor int) {
	c.entry(name, 0o020600, major, minor, nil)
}

func (c *cpio) copy(name, from string, mode fs.FileMode) {
	data, err := os.ReadFile(from)
	if err != nil && c.err == nil {
		c.err = err
	}
	c.add(name, mode, data)
}

func (c *cpio) tree(name, from string) {
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		to := filepath.Join(name, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch info.Mode().Type() {
		case fs.ModeDir:
			c.add(to, info.Mode(), nil)
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			c.add(to, fs.ModeSymlink|0o777, []byte(target))
		default:
			c.copy(to, p, info.Mode())
		}
		return nil
	})
	if err != nil && c.err == nil {
		c.err = err
	}
}
