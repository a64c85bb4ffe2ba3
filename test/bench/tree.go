package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// treeSpec describes an application whose every byte follows from the seed.
type treeSpec struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	seed  uint64
}

func (t treeSpec) String() string {
	return fmt.Sprintf("%d files, %d MiB", t.Files, t.Bytes>>20)
}

// onePercent is how many files a change touches.
func (t treeSpec) onePercent() int { return max(1, t.Files/100) }

// isConfig makes one file in twenty a configuration file.
func isConfig(i int) bool { return i%20 == 7 }

// name spreads the files over directories of twenty, three levels deep.
func name(i int) string {
	dir := i / 20
	top, ext := "share", "bin"
	if isConfig(i) {
		top, ext = "etc", "conf"
	}
	return fmt.Sprintf("%s/part%d/set%d/file%04d.%s", top, dir/10, dir%10, i, ext)
}

// generation says which content each file has: 0 as first shipped.
type generation func(i int) uint64

// changed gives the next generation of 1 % of the files, spread over the tree:
// of the configuration, or of everything else.
func (t treeSpec) changed(config bool) generation {
	var candidates []int
	for i := range t.Files {
		if isConfig(i) == config {
			candidates = append(candidates, i)
		}
	}
	next := map[int]bool{}
	for k := range t.onePercent() {
		next[candidates[k*len(candidates)/t.onePercent()]] = true
	}
	return func(i int) uint64 {
		if next[i] {
			return 1
		}
		return 0
	}
}

// sizes gives the length of each file: between a quarter and seven quarters of
// the mean, and Bytes in all.
func (t treeSpec) sizes() []int64 {
	r := rand.New(rand.NewPCG(t.seed, uint64(t.Files)))
	mean := t.Bytes / int64(t.Files)
	sizes := make([]int64, t.Files)
	left := t.Bytes
	for i := range sizes {
		sizes[i] = mean/4 + r.Int64N(mean*3/2)
		left -= sizes[i]
	}
	for i := 0; left != 0; i = (i + 1) % t.Files { // spread what is left over or missing
		d := min(max(left, -mean/8), mean/8)
		if sizes[i]+d > 0 {
			sizes[i], left = sizes[i]+d, left-d
		}
	}
	return sizes
}

// write makes the tree in dir. Content is random, so that no compression helps
// anyone; times follow from the file and its generation, as release tools set them.
func (t treeSpec) write(dir string, g generation) error {
	start := time.Date(2024, 1, 1, 0, 0, 0, 123456789, time.UTC)
	buf := make([]byte, 64<<10)
	for i, size := range t.sizes() {
		path := filepath.Join(dir, name(i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if i%10 == 0 {
			mode = 0o755
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		var key [32]byte
		for k, v := range []uint64{t.seed, uint64(t.Files), uint64(i), g(i)} {
			binary.LittleEndian.PutUint64(key[8*k:], v)
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(rand.NewChaCha8(key), size), buf)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		mtime := start.Add(time.Duration(i)*time.Minute + time.Duration(g(i))*24*time.Hour)
		if err := os.Chtimes(path, time.Time{}, mtime); err != nil {
			return err
		}
	}
	return nil
}

// mirror makes to the same as from; without a from, to goes. A file that has
// the size, mode and time of the original stays as it is: what every run left
// was compared byte by byte before.
func mirror(from, to string) error {
	want, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return os.RemoveAll(to)
	}
	if err != nil {
		return err
	}
	have, err := os.Lstat(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there := err == nil
	switch {
	case !want.IsDir() && !want.Mode().IsRegular():
		return fmt.Errorf("%s: neither file nor directory", from)
	case there && sameStat(want, have):
		if !want.IsDir() {
			return nil
		}
	case there && !(want.IsDir() && have.IsDir()):
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		there = false
	}
	if want.IsDir() {
		err = mirrorDir(from, to, there)
	} else {
		err = copyFile(from, to)
	}
	if err != nil {
		return err
	}
	if have, err = os.Lstat(to); err != nil || sameStat(want, have) {
		return err
	}
	return errors.Join(os.Chmod(to, want.Mode()), os.Chtimes(to, time.Time{}, want.ModTime()))
}

func mirrorDir(from, to string, there bool) error {
	if !there {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
	}
	names, err := union(from, to)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := mirror(filepath.Join(from, n), filepath.Join(to, n)); err != nil {
			return err
		}
	}
	return nil
}

func sameStat(a, b os.FileInfo) bool {
	return a.Mode() == b.Mode() && a.ModTime().Equal(b.ModTime()) && (a.IsDir() || a.Size() == b.Size())
}

// union gives the names in both directories, sorted.
func union(a, b string) ([]string, error) {
	var names []string
	for _, d := range []string{a, b} {
		entries, err := os.ReadDir(d)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// same says where got is not the same tree as want, content included.
func same(want, got string) error {
	a, err := os.Lstat(want)
	if err != nil {
		return err
	}
	b, err := os.Lstat(got)
	if err != nil {
		return err
	}
	if a.IsDir() && b.IsDir() {
		names, err := union(want, got)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := same(filepath.Join(want, n), filepath.Join(got, n)); err != nil {
				return err
			}
		}
		return nil
	}
	if !sameStat(a, b) {
		return fmt.Errorf("%s: %s of %d bytes and time %s, expected %s, %d, %s",
			got, b.Mode(), b.Size(), b.ModTime(), a.Mode(), a.Size(), a.ModTime())
	}
	return sameContent(want, got)
}

func sameContent(want, got string) error {
	a, err := os.Open(want)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return err
	}
	defer b.Close()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return err
			}
		}
		if !bytes.Equal(x[:n], y[:m]) {
			return fmt.Errorf("%s: content differs from what was to be copied", got)
		}
		if n < len(x) {
			return nil
		}
	}
}

// flip inverts the first byte of a file and keeps its time, as a flash cell
// that went bad would. A second flip undoes it.
func flip(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], 0)
	if err == nil {
		b[0] ^= 0xff
		_, err = f.WriteAt(b[:], 0)
	}
	return errors.Join(err, f.Close(), os.Chtimes(path, time.Time{}, info.ModTime()))
}

// tag gives the content of the tag file of a version.
func tag(version int) string { return strconv.Itoa(version) + "\n" }
