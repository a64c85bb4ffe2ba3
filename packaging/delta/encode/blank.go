package encode

import (
	"bytes"
	"debug/elf"

	"tandem/packaging/delta/internal/codec"
)

// blanked returns a copy of a program in which the operands that change when
// code moves are zeros. Only the search for similar parts looks at it.
func blanked(p program) []byte {
	r := program{p.File, bytes.Clone(p.raw)}
	for _, s := range p.Sections {
		b, ok := r.content(s)
		if !ok || s.Type != elf.SHT_PROGBITS || s.Flags&elf.SHF_EXECINSTR == 0 {
			continue
		}
		switch p.Machine {
		case elf.EM_ARM:
			if p.Section(".gopclntab") != nil || s.Name == ".plt" {
				codec.BlankA32(b)
			} else {
				codec.BlankThumb(b, uint32(s.Offset))
			}
		case elf.EM_AARCH64:
			codec.BlankA64(b)
		case elf.EM_X86_64:
			codec.BlankAMD64(b)
		}
	}
	return r.raw
}
