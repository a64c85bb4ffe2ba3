package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// treeSpec describes an application whose every byte follows from the seed.
type treeSpec struct {
	Files       int   `json:"files"`
	Bytes       int64 `json:"bytes"`
	Words       bool  `json:"words,omitempty"` // content that compresses, instead of random bytes
	seed        uint64
	installOnly bool // a tree for the install jobs alone
	once        bool // one run is enough
	many        bool // a tree for the memory of Tandem's own jobs alone
}

func (t treeSpec) String() string {
	s := fmt.Sprintf("%d files, %d MiB", t.Files, t.Bytes>>20)
	if t.Words {
		s += " of words"
	}
	return s
}

// isConfig makes one file in twenty a configuration file.
func isConfig(i int) bool { return i%20 == 7 }

// name spreads the files over directories of twenty, three levels deep.
func name(i int) string {
	top, ext := "share", "bin"
	if isConfig(i) {
		top, ext = "etc", "conf"
	}
	return fmt.Sprintf("%s/part%d/set%d/file%04d.%s", top, i/200, i/20%10, i, ext)
}

// onePercent picks 1 % of the files, spread over the tree: of the
// configuration, or of everything else.
func (t treeSpec) onePercent(config bool) map[int]bool {
	var candidates []int
	for i := range t.Files {
		if isConfig(i) == config {
			candidates = append(candidates, i)
		}
	}
	n, picked := max(1, t.Files/100), map[int]bool{}
	for k := range n {
		picked[candidates[k*len(candidates)/n]] = true
	}
	return picked
}

// released is the time of all files as shipped, as release tools set it.
const released = 1_704_067_200

// later is the time of the files that the next release changes.
const later = released + 24*60*60

// write makes the tree in dir, with new content and a later time for changed
// files. Content is random, so that no compression helps anyone, unless the
// tree is one of words.
func (t treeSpec) write(dir string, changed map[int]bool) error {
	sizes := rand.New(rand.NewPCG(t.seed, uint64(t.Files)))
	mean, done := t.Bytes/int64(t.Files), int64(0)
	for i := range t.Files {
		size := mean/2 + sizes.Int64N(mean)
		if i%2 == 1 { // two files together have twice the mean
			size = t.Bytes*int64(i+1)/int64(t.Files) - done
		}
		done += size
		when, key := time.Unix(released, 0), [32]byte{}
		binary.LittleEndian.PutUint64(key[:], t.seed)
		binary.LittleEndian.PutUint64(key[8:], uint64(i))
		if changed[i] {
			key[31], when = 1, time.Unix(later, 0)
		}
		content := make([]byte, size)
		random := rand.NewChaCha8(key)
		random.Read(content)
		if t.Words {
			words(random, content)
		}
		path, mode := filepath.Join(dir, name(i)), os.FileMode(0o644)
		if i%10 == 0 {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(path, content, mode), os.Chtimes(path, time.Time{}, when)); err != nil {
			return err
		}
	}
	return nil
}

// words replaces random content by a sequence of 4,096 words, drawn at random:
// zstd makes it less than half, as it does with programs.
func words(from *rand.ChaCha8, content []byte) {
	var dictionary [4096][]byte
	all := rand.NewChaCha8([32]byte{}) // one dictionary for all files
	for i := range dictionary {
		dictionary[i] = make([]byte, 2+all.Uint64()%13)
		all.Read(dictionary[i])
	}
	for len(content) > 0 {
		content = content[copy(content, dictionary[from.Uint64()%uint64(len(dictionary))]):]
	}
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
	if want.IsDir() {
		if err := os.MkdirAll(to, want.Mode()); err != nil {
			return err
		}
		return both(from, to, mirror)
	}
	if have, err := os.Lstat(to); err == nil && sameStat(want, have) {
		return nil
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	// Never in place: it may be a hard link to what was there before.
	return errors.Join(os.RemoveAll(to), os.WriteFile(to, content, want.Mode()), os.Chtimes(to, time.Time{}, want.ModTime()))
}

// same says where got is not the same tree as want, content included. The times
// of files need not be those of want if anyTime is set.
func same(want, got string, anyTime bool) error {
	a, err := os.Lstat(want)
	if err != nil {
		return err
	}
	b, err := os.Lstat(got)
	if err != nil {
		return err
	}
	if a.IsDir() && b.IsDir() {
		return both(want, got, func(a, b string) error { return same(a, b, anyTime) })
	}
	if !sameStat(a, b) && !(anyTime && a.Mode() == b.Mode() && a.Size() == b.Size()) {
		return fmt.Errorf("%s: %s of %d bytes and time %s, expected %s, %d, %s",
			got, b.Mode(), b.Size(), b.ModTime(), a.Mode(), a.Size(), a.ModTime())
	}
	x, errA := os.ReadFile(want)
	y, errB := os.ReadFile(got)
	if errA == nil && errB == nil && !bytes.Equal(x, y) {
		errB = fmt.Errorf("%s: content differs from what was to be copied", got)
	}
	return errors.Join(errA, errB)
}

func sameStat(a, b os.FileInfo) bool {
	return a.Mode() == b.Mode() && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// both calls f for every name that one of two directories has.
func both(a, b string, f func(a, b string) error) error {
	var names []string
	for _, d := range []string{a, b} {
		entries, err := os.ReadDir(d)
		if err != nil {
			return err
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		if err := f(filepath.Join(a, n), filepath.Join(b, n)); err != nil {
			return err
		}
	}
	return nil
}

// flip inverts a file's first byte and keeps its time, as a flash cell that
// went bad would. A second flip undoes it.
func flip(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	content[0] ^= 0xff
	return errors.Join(os.WriteFile(path, content, info.Mode()), os.Chtimes(path, time.Time{}, info.ModTime()))
}
