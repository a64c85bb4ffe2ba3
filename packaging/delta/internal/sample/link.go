package sample

import "math"

// A section is a part of the program.
type section struct {
	name        string
	kind, flags uint32
	link        int
	align       int
	size        int
	content     func() []byte // once all addresses are known

	addr, off uint32
}

const (
	progbits, strtab, rel, dynsym = 1, 3, 9, 11
	alloc, exec                   = 2, 4
	firstAddr, dataGap            = 0x10000, 0x10000
)

// A linker has the sections of a program, and the addresses of what has a
// name.
type linker struct {
	machine
	source   *source
	is64     bool
	word     int
	sections []*section
	names    map[string]uint32 // offsets in .text, later addresses
	text     *section
}

// link returns a program. Its parts are: code, for a C program a linkage table with
// its relocations, symbols and slots, for a Go program the table of functions,
// and data that points at the code.
func link(m machine, s *source) []byte {
	l := &linker{machine: m, source: s, names: map[string]uint32{}}
	_, is64, isGo := m.elf()
	l.is64, l.word = is64, 4
	if is64 {
		l.word = 8
	}
	l.text = l.add(&section{name: ".text", kind: progbits, flags: alloc | exec, align: 16, size: l.layoutCode()})
	l.text.content = l.code
	if isGo {
		l.goTables()
	} else {
		l.linkage()
	}
	l.add(&section{name: ".data", kind: progbits, flags: alloc, align: 16, size: l.word * len(s.data), content: func() []byte {
		var b []byte
		for _, f := range s.data {
			b = l.appendWord(b, l.names[f])
		}
		return b
	}})
	return l.write()
}

func (l *linker) add(s *section) *section {
	l.sections = append(l.sections, s)
	return s
}

func (l *linker) appendWord(b []byte, v uint32) []byte {
	if l.is64 {
		return le.AppendUint64(b, uint64(v))
	}
	return le.AppendUint32(b, v)
}

// bodySize returns the size of a function's code, without and with the
// literals after it.
func (l *linker) bodySize(f function) (code, all int) {
	pool := 0
	for _, i := range f.body {
		code += l.size(i.op)
		if i.op == load || i.op == absolute {
			pool += 4
		}
	}
	code = (code + 3) &^ 3
	return code, (code + pool + 15) &^ 15
}

func (l *linker) layoutCode() int {
	at := 0
	for _, f := range l.source.functions {
		l.names[f.name] = uint32(at)
		_, all := l.bodySize(f)
		at += all
	}
	for _, i := range l.source.imports { // without a linkage table they are at the end
		l.names[i] = uint32(at)
		at += 16
	}
	return at
}

func (l *linker) code() []byte {
	var b []byte
	for _, f := range l.source.functions {
		code, all := l.bodySize(f)
		begin := len(b)
		var pool []uint32
		for _, i := range f.body {
			pc := l.text.addr + uint32(len(b))
			var w uint32
			b, w = l.emit(b, i, pc, l.names[i.to], l.text.addr+uint32(begin+code+4*len(pool)))
			if i.op == load || i.op == absolute {
				pool = append(pool, w)
			}
		}
		b = append(b, make([]byte, begin+code-len(b))...)
		for _, w := range pool {
			b = le.AppendUint32(b, w)
		}
		b = append(b, make([]byte, begin+all-len(b))...)
	}
	return append(b, make([]byte, l.text.size-len(b))...)
}

// goTables adds the tables that the runtime of Go has of functions.
func (l *linker) goTables() {
	s, n := l.source, len(l.source.functions)
	structSize := func(i int) int { return (44 + 4*(i%3) + 4*(i%4) + l.word - 1) &^ (l.word - 1) }
	header := 8 + 8*l.word
	var names []byte
	nameOf := make([]uint32, n)
	for i, f := range s.functions {
		nameOf[i] = uint32(len(names))
		names = append(append(names, f.name...), 0)
	}
	cutab, pctab := (header+len(names)+7)&^7, 0
	pctab = cutab + 64
	functab := pctab + 8*n
	size := functab + 8*n + 8
	for i := range n {
		size += structSize(i)
	}
	lines := l.add(&section{name: ".gopclntab", kind: progbits, flags: alloc, align: 32, size: size})
	rodata := l.add(&section{name: ".rodata", kind: progbits, flags: alloc, align: 32, size: 16 * n, content: func() []byte { return make([]byte, 16*n) }})
	lines.content = func() []byte {
		b := append(le.AppendUint32(nil, 0xfffffff1), 0, 0, 4, byte(l.word))
		for _, v := range []int{n, 1, int(l.text.addr), header, cutab, cutab, pctab, functab} {
			b = l.appendWord(b, uint32(v))
		}
		b = append(b, names...)
		b = append(b, make([]byte, functab-len(b))...)
		at := 8*n + 8
		for i, f := range s.functions {
			b = le.AppendUint32(b, l.names[f.name]-l.text.addr)
			b = le.AppendUint32(b, uint32(at))
			at += structSize(i)
		}
		b = le.AppendUint64(b, uint64(l.text.size))
		for i, f := range s.functions {
			begin := len(b)
			pc := uint32(8 * i)
			for _, w := range []uint32{l.names[f.name] - l.text.addr, nameOf[i], 8, 0, pc + 1, pc + 2, pc + 3, uint32(i % 3), uint32(i % 8), uint32(10 + i), uint32(i%4) << 24} {
				b = le.AppendUint32(b, w)
			}
			for range i % 3 {
				b = le.AppendUint32(b, pc+4)
			}
			for k := range i % 4 {
				w := uint32(16*i + 4*k)
				if k == 2 {
					w = math.MaxUint32
				}
				b = le.AppendUint32(b, w)
			}
			b = append(b, make([]byte, begin+structSize(i)-len(b))...)
		}
		return b
	}
	l.add(&section{name: ".noptrdata", kind: progbits, flags: alloc, align: 32, size: 44 * l.word, content: func() []byte {
		var b []byte
		for i := range 44 {
			v := uint32(0)
			switch i {
			case 0:
				v = lines.addr
			case 1:
				v = lines.addr + uint32(header)
			case 22:
				v = l.text.addr
			case 37, 40:
				v = rodata.addr
			}
			b = l.appendWord(b, v)
		}
		return b
	}})
}

// linkage adds what calls of other programs go through, for ARM.
func (l *linker) linkage() {
	imports := l.source.imports
	plt := l.add(&section{name: ".plt", kind: progbits, flags: alloc | exec, align: 4, size: 20 + 12*len(imports)})
	got := l.add(&section{name: ".got", kind: progbits, flags: alloc, align: 4, size: 12 + 4*len(imports)})
	got.content = func() []byte {
		b := make([]byte, 12)
		for range imports {
			b = le.AppendUint32(b, plt.addr)
		}
		return b
	}
	plt.content = func() []byte {
		b := make([]byte, 20)
		for i, name := range imports {
			at := plt.addr + uint32(len(b))
			l.names[name] = at
			d := got.addr + uint32(12+4*i) - at - 8
			b = le.AppendUint32(b, 0xe28fc600|d>>20&255)
			b = le.AppendUint32(b, 0xe28cca00|d>>12&255)
			b = le.AppendUint32(b, 0xe5bcf000|d&0xfff)
		}
		return b
	}
	for i, name := range imports { // as offsets from the code, until addresses are known
		l.names[name] = uint32(l.text.size + 20 + 12*i)
	}
	symbols := []byte{0}
	offs := []uint32{}
	for _, name := range imports {
		offs = append(offs, uint32(len(symbols)))
		symbols = append(append(symbols, name...), 0)
	}
	l.add(&section{name: ".dynstr", kind: strtab, flags: alloc, align: 1, size: len(symbols), content: func() []byte { return symbols }})
	l.add(&section{name: ".dynsym", kind: dynsym, flags: alloc, align: 4, link: len(l.sections), size: 16 * (len(imports) + 1), content: func() []byte {
		b := make([]byte, 16)
		for _, o := range offs {
			b = append(le.AppendUint32(b, o), 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0, 0, 0)
		}
		return b
	}})
	l.add(&section{name: ".rel.plt", kind: rel, flags: alloc, align: 4, link: len(l.sections), size: 8 * len(imports), content: func() []byte {
		var b []byte
		for i := range imports {
			b = le.AppendUint32(b, got.addr+uint32(12+4*i))
			b = le.AppendUint32(b, uint32(i+1)<<8|22)
		}
		return b
	}})
}

// write gives everything its address, and returns the file.
func (l *linker) write() []byte {
	number, _, _ := l.elf()
	header, program, entry := 52, 32, 40
	if l.is64 {
		header, program, entry = 64, 56, 64
	}
	// Code and what only is read is loaded with the headers; data elsewhere.
	off := header + 2*program
	data := 0
	for i, s := range l.sections {
		if s.name == ".data" {
			data = i
		}
		off = (off + s.align - 1) &^ (s.align - 1)
		s.off, s.addr = uint32(off), uint32(firstAddr+off)
		if data > 0 {
			s.addr += dataGap
		}
		off += s.size
	}
	end := off
	for name, at := range l.names {
		l.names[name] = l.text.addr + at
	}
	for _, s := range l.sections {
		if s.name == ".plt" {
			s.content() // gives the imports their addresses
		}
	}
	strings := []byte{0}
	names := make([]uint32, len(l.sections)+1)
	for i, s := range l.sections {
		names[i] = uint32(len(strings))
		strings = append(append(strings, s.name...), 0)
	}
	names[len(l.sections)] = uint32(len(strings))
	strings = append(strings, ".shstrtab\x00"...)
	table := (end + len(strings) + 7) &^ 7

	class := byte(1)
	if l.is64 {
		class = 2
	}
	b := append([]byte{0x7f, 'E', 'L', 'F', class, 1, 1}, make([]byte, 9)...)
	half := func(v ...uint16) {
		for _, v := range v {
			b = le.AppendUint16(b, v)
		}
	}
	half(2, number)
	b = le.AppendUint32(b, 1)
	b = l.appendWord(b, l.text.addr)
	b = l.appendWord(b, uint32(header))
	b = l.appendWord(b, uint32(table))
	b = le.AppendUint32(b, 0)
	half(uint16(header), uint16(program), 2, uint16(entry), uint16(len(l.sections)+2), uint16(len(l.sections)+1))
	d := l.sections[data]
	l.segment(&b, 0, firstAddr, d.off, d.off)
	l.segment(&b, d.off, d.addr, uint32(end)-d.off, uint32(end)-d.off+256)
	for _, s := range l.sections {
		b = append(b, make([]byte, int(s.off)-len(b))...)
		b = append(b, s.content()...)
	}
	b = append(b, strings...)
	b = append(b, make([]byte, table+entry-len(b))...)
	for i, s := range l.sections {
		l.sectionHeader(&b, names[i], s.kind, s.flags, s.addr, s.off, s.size, s.link)
	}
	l.sectionHeader(&b, names[len(l.sections)], strtab, 0, 0, uint32(end), len(strings), 0)
	return b
}

func (l *linker) segment(b *[]byte, off, addr, fileSize, memSize uint32) {
	*b = le.AppendUint32(*b, 1)
	if l.is64 {
		*b = le.AppendUint32(*b, 5)
		for _, v := range []uint32{off, addr, addr, fileSize, memSize, 0x1000} {
			*b = l.appendWord(*b, v)
		}
		return
	}
	for _, v := range []uint32{off, addr, addr, fileSize, memSize, 5, 0x1000} {
		*b = le.AppendUint32(*b, v)
	}
}

func (l *linker) sectionHeader(b *[]byte, name, kind, flags, addr, off uint32, size, link int) {
	*b = le.AppendUint32(*b, name)
	*b = le.AppendUint32(*b, kind)
	for _, v := range []uint32{flags, addr, off, uint32(size)} {
		*b = l.appendWord(*b, v)
	}
	*b = le.AppendUint32(*b, uint32(link))
	*b = le.AppendUint32(*b, 0)
	*b = l.appendWord(*b, 4)
	*b = l.appendWord(*b, 0)
}
