package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

type bench struct {
	ctx   context.Context
	dir   string
	self  string // this program
	tools tools

	missed []string // aims
}

var columns = []string{full, bsdiff, xdelta, zstdPatch, detools, hdiff, ours}

func (b *bench) header(w io.Writer) {
	fmt.Fprintf(w, "\n%-22s %9s", "pair", "files")
	for _, c := range columns {
		fmt.Fprintf(w, " %10s", c)
	}
	fmt.Fprintf(w, " %7s %7s %7s   %s\n", "/bsdiff", "/best", "aim", "TDP1: make s/MB, MB; apply s/MB, MB")
}

// sums are what the peers have over the files of a pair.
type sums struct {
	size        map[string]int64
	make, apply map[string]*cost
	failed      map[string]error
	files       int
	bytes       int64 // of the new files
}

// compare prints the row of a pair: all files that both folders have and that
// are not the same.
func (b *bench) compare(w io.Writer, p pair, old, new string) error {
	s := &sums{size: map[string]int64{}, make: map[string]*cost{}, apply: map[string]*cost{}, failed: map[string]error{}}
	tmp, err := os.MkdirTemp(b.dir, "run-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	err = filepath.WalkDir(new, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(new, name)
		if err != nil {
			return err
		}
		before, err := os.ReadFile(filepath.Join(old, rel))
		if err != nil {
			return nil // it is new
		}
		after, err := os.ReadFile(name)
		if err != nil || bytes.Equal(before, after) || len(before) == 0 || len(after) == 0 {
			return err
		}
		s.files++
		s.bytes += int64(len(after))
		return b.file(s, tmp, filepath.Join(old, rel), name, after)
	})
	if err != nil {
		return err
	}
	if s.files == 0 {
		return fmt.Errorf("nothing differs")
	}
	b.row(w, p, s)
	return nil
}

// file has each peer make and apply a patch of one file.
func (b *bench) file(s *sums, tmp, old, new string, want []byte) error {
	for _, p := range b.tools.peers() {
		patch, out := filepath.Join(tmp, "patch"), filepath.Join(tmp, "out")
		_, _ = os.Remove(patch), os.Remove(out)
		made, err := p.make(b, old, new, patch)
		if err == nil {
			var applied cost
			if applied, err = p.apply(b, old, patch, out); err == nil {
				err = same(out, want)
			}
			add(s.make, p.name, made)
			add(s.apply, p.name, applied)
		}
		if b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		var n int64
		if err == nil && p.size != nil {
			n, err = p.size(b, patch)
		} else if err == nil {
			var info os.FileInfo
			if info, err = os.Stat(patch); err == nil {
				n = info.Size()
			}
		}
		if err != nil {
			if p.name == ours {
				return err
			}
			s.failed[p.name] = err
			continue
		}
		s.size[p.name] += n
	}
	return nil
}

func add(m map[string]*cost, name string, c cost) {
	if m[name] == nil {
		m[name] = &cost{}
	}
	m[name].add(c)
}

func same(file string, want []byte) error {
	got, err := os.ReadFile(file)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("it makes another file")
	}
	return err
}

func (b *bench) row(w io.Writer, p pair, s *sums) {
	fmt.Fprintf(w, "%-22s %9d", p.name, s.files)
	for _, c := range columns {
		if _, ok := s.size[c]; !ok || s.failed[c] != nil {
			fmt.Fprintf(w, " %10s", "-")
			continue
		}
		fmt.Fprintf(w, " %10d", s.size[c])
	}
	against := []string{detools, hdiff}
	if p.kind == data {
		against = []string{xdelta, zstdPatch}
	}
	toBsdiff, toBest := b.ratio(s, bsdiff), b.ratio(s, against...)
	mb := float64(s.bytes) / 1e6
	m, a := s.make[ours], s.apply[ours]
	fmt.Fprintf(w, " %7s %7s %7.2f   %.2f, %d; %.3f, %d\n", text(toBsdiff), text(toBest), p.kind.most(),
		m.cpu.Seconds()/mb, m.rss>>20, a.cpu.Seconds()/mb, a.rss>>20)
	for _, r := range []float64{toBsdiff, toBest} {
		if r > p.kind.most() && s.size[ours] > 1024 {
			b.missed = append(b.missed, fmt.Sprintf("%s: %.2f, at most %.2f is the aim", p.name, r, p.kind.most()))
		}
	}
	for name, err := range s.failed {
		fmt.Fprintf(w, "%24s%s: %v\n", "", name, err)
	}
}

// ratio returns what ours has against the best of others; 0 if there are none.
func (b *bench) ratio(s *sums, others ...string) float64 {
	best := int64(0)
	for _, o := range others {
		if n := s.size[o]; n > 0 && s.failed[o] == nil && (best == 0 || n < best) {
			best = n
		}
	}
	if best == 0 {
		return 0
	}
	return float64(s.size[ours]) / float64(best)
}

func text(ratio float64) string {
	if ratio == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", ratio)
}

func (b *bench) footer(w io.Writer) {
	fmt.Fprintln(w, "\nbytes, summed over the files that changed; /best: of detools and hdiffpatch, for data of xdelta3 and zstd")
	if len(b.missed) > 0 {
		fmt.Fprintln(w, "missed: "+strings.Join(b.missed, "; "))
	} else {
		fmt.Fprintln(w, "every aim is met")
	}
}
