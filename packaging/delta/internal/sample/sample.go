// Package sample makes pairs of files for the tests of patches: text, tables,
// and programs that were linked again after a change, so that addresses have
// moved in them in every form that the format knows. The same bytes come out
// on every machine. The programs look like ones to a linker; nobody could run them.
package sample

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// A Pair is an old file and a new one.
type Pair struct {
	Name     string
	Old, New []byte
}

// Pairs returns one of each kind. functions is how large the programs are.
func Pairs(seed uint64, functions int) []Pair {
	pairs := []Pair{
		{"empty", nil, nil},
		{"from-empty", nil, []byte(strings.Repeat("hello ", 20))},
		{"to-empty", []byte(strings.Repeat("hello ", 20)), nil},
		{"one-byte", []byte("a"), []byte("b")},
		{"two-bytes", []byte("ab"), []byte("ba")},
		{"zeros", make([]byte, 5000), append(make([]byte, 3000), "x"...)},
		text(rand.New(rand.NewPCG(seed, 1))),
		table(rand.New(rand.NewPCG(seed, 2))),
		noise(rand.New(rand.NewPCG(seed, 3))),
	}
	for i, m := range []machine{arm{}, thumb{}, arm64{}, amd64{}} {
		r := rand.New(rand.NewPCG(seed, 10+uint64(i)))
		old := newSource(r, functions)
		changed := old.change(r)
		pairs = append(pairs, Pair{m.name(), link(m, old), link(m, changed)})
	}
	return pairs
}

// text is a log, of which lines were taken out, put in and changed.
func text(r *rand.Rand) Pair {
	words := strings.Fields("oven door open closed fan on off heat celsius error timeout tray recipe start stop sensor")
	var lines []string
	for i := range 200 {
		var b strings.Builder
		fmt.Fprintf(&b, "%05d", i)
		for range 3 + r.IntN(6) {
			b.WriteString(" " + words[r.IntN(len(words))])
		}
		lines = append(lines, b.String())
	}
	changed := slices.Clone(lines)
	changed = slices.Delete(changed, 20, 25)
	changed = slices.Insert(changed, 90, "a line that was not there", lines[3]+" again", lines[4]+" again")
	for range 20 {
		i := r.IntN(len(changed))
		changed[i] = strings.Replace(changed[i], " on", " off", 1)
	}
	return Pair{"text", []byte(strings.Join(lines, "\n")), []byte(strings.Join(changed, "\n"))}
}

// table has records of 24 bytes, of which some counters went up.
func table(r *rand.Rand) Pair {
	var b []byte
	for i := range 300 {
		b = fmt.Appendf(b, "%08x%08x%08d", i*7919, r.Uint32(), i)
	}
	c := bytes.Clone(b)
	for i := range 300 {
		if r.IntN(4) == 0 {
			copy(c[i*24+16:], fmt.Sprintf("%08d", i+r.IntN(50)))
		}
	}
	return Pair{"table", b, append(c[:4800:4800], c[4848:]...)}
}

// noise has nothing to say, but for bits that flipped.
func noise(r *rand.Rand) Pair {
	b := make([]byte, 4000)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	c := append(bytes.Clone(b[1000:]), b[:500]...)
	for range 40 {
		c[r.IntN(len(c))] ^= 1 << r.IntN(8)
	}
	return Pair{"noise", b, c}
}

// A source is what a program is linked from.
type source struct {
	functions []function
	data      []string // names of functions, whose addresses are in the data
	imports   []string // functions of other programs
}

type function struct {
	name string
	body []instruction
}

// An instruction has a word of its own, or goes with what it names.
type instruction struct {
	op    op
	plain uint32
	to    string
}

type op int

const (
	plain    op = iota
	call        // a function
	outside     // an imported function
	load        // the address of a function
	absolute    // likewise, as a word in the code
)

func newSource(r *rand.Rand, functions int) *source {
	s := &source{imports: strings.Fields("malloc free memcpy printf open close read write")}
	for i := range functions {
		s.functions = append(s.functions, function{name: fmt.Sprintf("main.f%d", i)})
	}
	for i := range s.functions {
		s.functions[i].body = s.body(r)
	}
	for range functions {
		s.data = append(s.data, s.any(r))
	}
	return s
}

func (s *source) any(r *rand.Rand) string { return s.functions[r.IntN(len(s.functions))].name }

func (s *source) body(r *rand.Rand) []instruction {
	var b []instruction
	for range 6 + r.IntN(14) {
		i := instruction{op: op(max(0, r.IntN(10)-5)), plain: r.Uint32() & 0xfffff, to: s.any(r)}
		if i.op == outside {
			i.to = s.imports[r.IntN(len(s.imports))]
		}
		b = append(b, i)
	}
	return b
}

// change returns the source with a new function, a changed and a removed one,
// another import and more data.
func (s *source) change(r *rand.Rand) *source {
	n := &source{slices.Clone(s.functions), slices.Clone(s.data), slices.Insert(slices.Clone(s.imports), 3, "rename")}
	k := len(n.functions)
	n.functions = slices.Insert(n.functions, k/3, function{"main.added", s.body(r)})
	n.functions[k/2].body = append(slices.Clone(n.functions[k/2].body), s.body(r)...)
	n.functions[k-2].body = n.functions[k-2].body[2:]
	n.data = slices.Insert(n.data, k/4, "main.added", "main.f1")
	return n
}
