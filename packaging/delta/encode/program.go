package encode

import (
	"bytes"
	"debug/elf"
	"slices"

	"tandem/packaging/delta/internal/codec"
)

// A program is an ELF file.
type program struct {
	*elf.File
	raw []byte
}

// parse returns the program that a file is.
func parse(raw []byte) (program, bool) {
	f, err := elf.NewFile(bytes.NewReader(raw))
	return program{f, raw}, err == nil
}

// content returns what the file holds of a section; false if it does not hold all.
func (p program) content(s *elf.Section) ([]byte, bool) {
	if s == nil || s.Type == elf.SHT_NOBITS || s.Offset > uint64(len(p.raw)) || s.FileSize > uint64(len(p.raw))-s.Offset {
		return nil, false
	}
	return p.raw[s.Offset : s.Offset+s.FileSize], true
}

// is64 reports whether the program's words have eight bytes.
func (p program) is64() bool { return p.Class == elf.ELFCLASS64 }

// layoutOf returns what a patch tells of two files: nothing, unless both are
// programs for the same machine.
func layoutOf(old, new program) codec.Layout {
	l := codec.Layout{Old: segments(old), New: segments(new)}
	switch old.Machine {
	case elf.EM_ARM:
		l.Arch = codec.ARM
	case elf.EM_AARCH64:
		l.Arch = codec.ARM64
	case elf.EM_X86_64:
		l.Arch = codec.AMD64
	}
	a, ok1 := findGoTables(old)
	b, ok2 := findGoTables(new)
	if ok1 && ok2 {
		for i := range a.bases {
			l.Bases = append(l.Bases, codec.Base{Old: a.bases[i], New: b.bases[i]})
		}
		l.Functab, l.Functions, l.Pointer = a.functab, a.functions, a.pointer
	}
	return l
}

func segments(p program) []codec.Segment {
	var s []codec.Segment
	for _, g := range p.Progs {
		if g.Type == elf.PT_LOAD && len(s) < codec.MaxSegments && g.Vaddr < limit && g.Memsz < limit-g.Vaddr && g.Off < limit && g.Filesz < limit {
			s = append(s, codec.Segment{Addr: int64(g.Vaddr), Offset: int64(g.Off), FileSize: int64(g.Filesz), MemSize: int64(g.Memsz)})
		}
	}
	return s
}

// limit is what the addresses that are predicted are below.
const limit = 1 << 32

// goTables are where the tables of a Go program are.
type goTables struct {
	bases                       []int64 // as in codec.Layout
	functab, functions, pointer int64
}

// The header of Go's line table: eight bytes, then words of the size that the
// last of them says.
const (
	lineMagic120 = 0xfffffff1
	lineMagic118 = 0xfffffff0
)

// findGoTables returns the tables of a Go program of the last versions.
func findGoTables(p program) (goTables, bool) {
	lines := p.Section(".gopclntab")
	h, ok := p.content(lines)
	if !ok || len(h) < 128 || le.Uint32(h) != lineMagic120 && le.Uint32(h) != lineMagic118 {
		return goTables{}, false
	}
	size := int(h[7])
	if size != 4 && size != 8 {
		return goTables{}, false
	}
	word := func(b []byte) uint64 {
		if size == 4 {
			return uint64(le.Uint32(b))
		}
		return le.Uint64(b)
	}
	header := func(k int) uint64 { return word(h[8+size*k:]) }
	address := func(section string) uint64 {
		if s := p.Section(section); s != nil {
			return s.Addr
		}
		return 0
	}
	text, types := address(".text"), address(".rodata")
	gofunc := types
	// The data of the module begins with the addresses of the header and of
	// the names.
	for b := p.raw; len(b) >= 42*size; b = b[size:] {
		if word(b) == lines.Addr && word(b[size:]) == lines.Addr+header(3) {
			text, types, gofunc = word(b[22*size:]), word(b[37*size:]), word(b[40*size:])
			break
		}
	}
	functab, functions := lines.Offset+header(7), header(0)
	bases := []uint64{
		codec.BaseText: text, codec.BaseTypes: types, codec.BaseFunctab: lines.Addr + header(7),
		codec.BasePctab: lines.Addr + header(6), codec.BaseNames: lines.Addr + header(3),
		codec.BaseGofunc: gofunc, codec.BaseCutab: lines.Addr + header(4),
	}
	n := uint64(len(p.raw))
	if functab > n || functions > (n-functab)/8 || slices.Max(bases) >= limit {
		return goTables{}, false
	}
	t := goTables{functab: int64(functab), functions: int64(functions), pointer: int64(size)}
	for _, b := range bases {
		t.bases = append(t.bases, int64(b))
	}
	return t, true
}
