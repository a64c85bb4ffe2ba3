package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// node is all that a file system knows of a file.
type node struct {
	mode   fs.FileMode
	owner  [2]uint32
	size   int64 // of a directory it says nothing
	mtime  int64
	sum    [sha256.Size]byte
	target string
	xattrs string
	// What is different in a copy, even a perfect one:
	ino   uint64
	ctime int64
	// first is the first path of those that share an inode: hard links.
	first string
}

// tree is what lies below some directories, by path.
type tree map[string]node

// readTree reads the directories of that name in base. A missing one is empty.
func readTree(base string, names ...string) (tree, error) {
	t := tree{}
	inodes := map[[2]uint64]string{}
	for _, name := range names {
		err := filepath.WalkDir(filepath.Join(base, name), func(p string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(base, p)
			if err != nil {
				return err
			}
			n, err := readNode(p, rel, inodes)
			t[rel] = n
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

func readNode(p, rel string, inodes map[[2]uint64]string) (node, error) {
	info, err := os.Lstat(p)
	if err != nil {
		return node{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	n := node{
		mode: info.Mode(), owner: [2]uint32{st.Uid, st.Gid}, mtime: info.ModTime().UnixNano(),
		ino: st.Ino, ctime: st.Ctim.Nano(), first: rel,
	}
	switch {
	case info.Mode().IsRegular():
		data, err := os.ReadFile(p)
		if err != nil {
			return n, err
		}
		n.size, n.sum = info.Size(), sha256.Sum256(data)
		id := [2]uint64{st.Dev, st.Ino}
		if first, ok := inodes[id]; ok {
			n.first = first
		} else {
			inodes[id] = rel
		}
	case info.Mode()&fs.ModeSymlink != 0:
		if n.target, err = os.Readlink(p); err != nil {
			return n, err
		}
		return n, nil
	}
	n.xattrs, err = readXattrs(p)
	return n, err
}

// readXattrs gives the user's attributes of a file, sorted.
func readXattrs(p string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var all []string
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return "", err
		}
		all = append(all, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, " "), nil
}

// The ways to compare.
type strictness int

const (
	asCopy    strictness = iota // one is a copy of the other
	unchanged                   // nothing that a program could see has changed
	untouched                   // nothing was written, not even the same again
)

// differences lists what is different in b, sorted by path.
func (a tree) differences(b tree, how strictness) []string {
	var out []string
	paths := slices.Sorted(maps.Keys(a))
	for p := range b {
		if _, ok := a[p]; !ok {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	for _, p := range paths {
		x, inA := a[p]
		y, inB := b[p]
		switch {
		case !inB:
			out = append(out, p+": gone")
		case !inA:
			out = append(out, p+": new")
		default:
			out = append(out, x.differences(p, y, how)...)
		}
	}
	return out
}

func (n node) differences(p string, o node, how strictness) []string {
	var out []string
	differs := func(what string, x, y any) {
		if x != y {
			out = append(out, fmt.Sprintf("%s: %s was %v, is %v", p, what, x, y))
		}
	}
	differs("mode", n.mode, o.mode)
	differs("owner", n.owner, o.owner)
	differs("size", n.size, o.size)
	differs("target", n.target, o.target)
	differs("xattrs", n.xattrs, o.xattrs)
	differs("first name", n.first, o.first)
	if n.sum != o.sum {
		out = append(out, p+": content changed")
	}
	if n.keepsTime(p, how) {
		differs("mtime", n.mtime, o.mtime)
	}
	if how == untouched {
		differs("inode", n.ino, o.ino)
		differs("ctime", n.ctime, o.ctime)
	}
	return out
}

// keepsTime reports whether the time of the file p counts.
func (n node) keepsTime(p string, how strictness) bool {
	switch {
	case how == untouched:
		return true
	case how == unchanged:
		// Recovery looks for leftovers in Tandem's own directory, and may touch it.
		return filepath.Base(p) != ".tandem"
	}
	// Each side has a tag and a record of its own; the application's files are copies.
	return n.mode.IsRegular() && strings.HasPrefix(p, "apps/")
}
