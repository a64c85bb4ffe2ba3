package encode

import (
	"bytes"
	"debug/elf"
	"strconv"

	"tandem/packaging/delta/internal/codec"
)

// An entry is one of a table in a file; those of the same meaning have the
// same key in both.
type entry struct {
	key       string
	off, size int
}

// A pairing is a table in both files.
type pairing struct{ old, new []entry }

// pairTables returns the operations with those inside tables replaced by ones
// that pair entries of the same meaning: relocations and symbols by name,
// Go's functions, too, if that is wanted.
func pairTables(old, new program, l *codec.Layout, ops []codec.Op, functions bool) []codec.Op {
	tables := map[string]pairing{}
	var order []string
	if functions && l.Functions > 0 {
		tabs, structs := pairing{}, pairing{}
		tabs.old, structs.old = goFunctions(old)
		tabs.new, structs.new = goFunctions(new)
		tables["go functab"], tables["go funcs"] = tabs, structs
		order = append(order, "go functab", "go funcs")
	}
	moved := codec.NewMap(l, ops)
	oldSymbols, _ := old.DynamicSymbols()
	newSymbols, _ := new.DynamicSymbols()
	for _, s := range old.Sections {
		t := new.Section(s.Name)
		if t == nil || t.Type != s.Type {
			continue
		}
		switch s.Type {
		case elf.SHT_REL, elf.SHT_RELA:
			tables[s.Name] = pairing{
				relocations(old, s, oldSymbols, func(at uint32) uint32 { v, _ := moved.Address(at); return v }),
				relocations(new, t, newSymbols, func(at uint32) uint32 { return at }),
			}
		case elf.SHT_DYNSYM:
			tables[s.Name] = pairing{symbols(old, s, oldSymbols), symbols(new, t, newSymbols)}
		}
	}
	for _, name := range []string{".rel.plt", ".rela.plt"} {
		linked, ok := tables[name]
		if !ok {
			continue
		}
		got := ".got.plt"
		if new.Section(got) == nil {
			got = ".got"
		}
		tables[got] = pairing{slots(old, linked.old), slots(new, linked.new)}
		if s, t := old.Section(".plt"), new.Section(".plt"); s != nil && t != nil {
			tables[".plt"] = pairing{stubs(old, s, l.Arch, linked.old), stubs(new, t, l.Arch, linked.new)}
		}
	}
	for _, s := range new.Sections {
		order = append(order, s.Name)
	}
	for _, name := range order {
		t := tables[name]
		if len(t.old) == 0 || len(t.new) == 0 || !within(old, t.old) || !within(new, t.new) {
			continue
		}
		from, to := t.new[0].off, end(t.new)
		ops = replace(ops, from, to, t.operations())
	}
	return ops
}

func end(t []entry) int { return t[len(t)-1].off + t[len(t)-1].size }

// within reports whether the entries of a table lie in the file.
func within(p program, t []entry) bool {
	for _, e := range t {
		if e.off < 0 || e.off+e.size > len(p.raw) {
			return false
		}
	}
	return true
}

// operations copies each entry from its partner.
func (t pairing) operations() []codec.Op {
	var ops []codec.Op
	partner := t.partners()
	for j, e := range t.new {
		if partner[j] < 0 {
			if len(ops) == 0 {
				ops = append(ops, codec.Op{New: int32(e.off)})
			}
			ops[len(ops)-1].Extra += int32(e.size)
			continue
		}
		from := t.old[partner[j]].off
		if k := len(ops) - 1; k >= 0 && ops[k].Extra == 0 && int(ops[k].Old+ops[k].Copy) == from {
			ops[k].Copy += int32(e.size)
		} else {
			ops = append(ops, codec.Op{Old: int32(from), New: int32(e.off), Copy: int32(e.size)})
		}
	}
	return ops
}

// partners returns for each new entry the index of the old one that it is
// paired with, or none. A single entry that breaks a run follows the run.
func (t pairing) partners() []int {
	first := map[string]int{}
	for i, e := range t.old {
		if _, ok := first[e.key]; !ok {
			first[e.key] = i
		}
	}
	fits := func(i, j int) bool { return i < len(t.old) && t.old[i].size == t.new[j].size }
	p := make([]int, len(t.new))
	for j, e := range t.new {
		i, ok := first[e.key]
		if !ok || !fits(i, j) {
			i = none
		}
		p[j] = i
	}
	for j := 1; j < len(p); j++ {
		next := p[j-1] + 1
		if p[j-1] < 0 || p[j] == next {
			continue
		}
		begins := j+1 < len(p) && p[j] >= 0 && p[j+1] != next+1 && p[j+1] == p[j]+1 // another run
		if begins {
			continue
		}
		p[j] = none
		if fits(next, j) {
			p[j] = next
		}
	}
	return p
}

// relocations lists those of a section: by the symbol where it is for
// linking, else by the place that they mend, as moved has it.
func relocations(p program, s *elf.Section, symbols []elf.Symbol, moved func(uint32) uint32) []entry {
	b, ok := p.content(s)
	if !ok {
		return nil
	}
	size := 8
	if s.Type == elf.SHT_RELA {
		size = 12
	}
	if p.is64() {
		size *= 2
	}
	var r []entry
	for q := 0; q+size <= len(b); q += size {
		at, kind := le.Uint32(b[q:]), le.Uint32(b[q+4:])
		kind, symbol := kind&255, kind>>8
		if p.is64() {
			kind, symbol = le.Uint32(b[q+8:]), le.Uint32(b[q+12:])
		}
		e := entry{off: int(s.Offset) + q, size: size}
		if links(kind) && symbol > 0 && int64(symbol) <= int64(len(symbols)) {
			e.key = "N" + symbols[symbol-1].Name
		} else {
			e.key = string(le.AppendUint32(nil, moved(at)))
		}
		r = append(r, e)
	}
	return r
}

// links reports whether a relocation is one of the linkage table or the global
// offset table, on any of the machines: their numbers do not meet.
func links(kind uint32) bool {
	switch kind {
	case uint32(elf.R_ARM_JUMP_SLOT), uint32(elf.R_ARM_GLOB_DAT),
		uint32(elf.R_AARCH64_JUMP_SLOT), uint32(elf.R_AARCH64_GLOB_DAT),
		uint32(elf.R_X86_64_JMP_SLOT), uint32(elf.R_X86_64_GLOB_DAT):
		return true
	}
	return false
}

func symbols(p program, s *elf.Section, symbols []elf.Symbol) []entry {
	size := elf.Sym32Size
	if p.is64() {
		size = elf.Sym64Size
	}
	var r []entry
	for i, y := range symbols {
		r = append(r, entry{"S" + y.Name + y.Version, int(s.Offset) + size*(i+1), size})
	}
	return r
}

// slots lists the slots of the global offset table that relocations of the
// linkage table fill.
func slots(p program, linked []entry) []entry {
	size := 4
	if p.is64() {
		size = 8
	}
	var r []entry
	for _, e := range linked {
		at := uint64(le.Uint32(p.raw[e.off:]))
		for _, g := range p.Progs {
			if g.Type != elf.PT_LOAD || at < g.Vaddr || at-g.Vaddr >= g.Filesz {
				continue
			}
			off := int(at - g.Vaddr + g.Off)
			if len(r) > 0 && end(r) != off {
				return nil
			}
			r = append(r, entry{e.key, off, size})
		}
	}
	return r
}

// stubs lists the stubs of the linkage table, in the order of its relocations.
func stubs(p program, s *elf.Section, arch codec.Arch, linked []entry) []entry {
	b, ok := p.content(s)
	if !ok {
		return nil
	}
	header, size := 16, 16
	switch arch {
	case codec.ARM:
		header, size = 20, 12
	case codec.ARM64:
		header = 32
	}
	var r []entry
	q := header
	for _, e := range linked {
		n := size
		if arch == codec.ARM && q+4 <= len(b) && le.Uint32(b[q:]) == 0x46c04778 {
			n += 4 // bx pc and nop come first, for those who call it from Thumb
		}
		if q+n > len(b) {
			break
		}
		r = append(r, entry{e.key, int(s.Offset) + q, n})
		q += n
	}
	return r
}

// goFunctions lists the entries of Go's table of functions and the _func
// structures, by the functions' names; nothing if they are not one after the other.
func goFunctions(p program) (functab, funcs []entry) {
	t, ok := findGoTables(p)
	if !ok {
		return nil, nil
	}
	s := p.Section(".gopclntab")
	names := t.bases[codec.BaseNames] - int64(s.Addr) + int64(s.Offset)
	limit := int64(s.Offset + s.FileSize)
	count := map[string]int{}
	for i := range t.functions {
		at := t.functab + 8*i
		q := t.functab + int64(le.Uint32(p.raw[at+4:]))
		if q+44 > limit {
			return nil, nil
		}
		size := 44 + 4*int64(le.Uint32(p.raw[q+28:])) + 4*int64(p.raw[q+43])
		if t.pointer == 8 {
			size = (size + 7) &^ 7
		}
		if q+size > limit || len(funcs) > 0 && int64(end(funcs)) != q {
			return nil, nil
		}
		n := names + int64(le.Uint32(p.raw[q+4:]))
		if n < 0 || n >= limit {
			return nil, nil
		}
		name, _, _ := bytes.Cut(p.raw[n:limit], []byte{0})
		key := string(name)
		count[key]++
		key += "\x00" + strconv.Itoa(count[key])
		functab = append(functab, entry{key, int(at), 8})
		funcs = append(funcs, entry{key, int(q), int(size)})
	}
	return functab, funcs
}

// replace returns the operations with those for the new bytes from..to
// replaced by others.
func replace(ops []codec.Op, from, to int, by []codec.Op) []codec.Op {
	const end = codec.MaxLength
	return clip(append(clip(nil, ops, 0, from), by...), ops, to, end)
}

// clip appends what ops do for the new bytes from..to.
func clip(r, ops []codec.Op, from, to int) []codec.Op {
	for _, o := range ops {
		a, b := max(int(o.New), from), min(int(o.New+o.Copy), to)
		if a < b {
			r = append(r, codec.Op{Old: o.Old + int32(a) - o.New, New: int32(a), Copy: int32(b - a)})
		}
		a, b = max(int(o.New+o.Copy), from), min(int(o.New+o.Copy+o.Extra), to)
		if a < b {
			if len(r) == 0 {
				r = append(r, codec.Op{New: int32(a)})
			}
			r[len(r)-1].Extra += int32(b - a)
		}
	}
	return r
}
