package sample

import "encoding/binary"

var le = binary.LittleEndian

// A machine is how instructions are written. Each takes a size that does not
// depend on addresses.
type machine interface {
	name() string
	elf() (number uint16, is64, isGo bool)
	size(op) int
	// emit appends the instruction that is at pc; to is what it goes with,
	// pool the address of a literal that it may use: that word is returned.
	emit(b []byte, i instruction, pc, to, pool uint32) ([]byte, uint32)
}

type arm struct{}

func (arm) name() string              { return "arm" }
func (arm) elf() (uint16, bool, bool) { return 40, false, true }
func (arm) size(o op) int {
	if o == load {
		return 8
	}
	return 4
}

func (arm) emit(b []byte, i instruction, pc, to, pool uint32) ([]byte, uint32) {
	switch i.op {
	case call, outside:
		return le.AppendUint32(b, 0xeb000000|(to-pc-8)>>2&0xffffff), 0
	case load:
		b = le.AppendUint32(b, 0xe59f1000|(pool-pc-8)&0xfff)
		return le.AppendUint32(b, 0xe08f1001), to - pc - 12
	case absolute:
		return le.AppendUint32(b, to), 0
	}
	return le.AppendUint32(b, 0xe0800000|i.plain&0xfff), 0
}

type thumb struct{}

func (thumb) name() string              { return "thumb" }
func (thumb) elf() (uint16, bool, bool) { return 40, false, false }
func (thumb) size(o op) int {
	if o == plain {
		return 2
	}
	return 4
}

func (thumb) emit(b []byte, i instruction, pc, to, pool uint32) ([]byte, uint32) {
	switch i.op {
	case call:
		return branch(b, to-pc-4, 0xd000), 0
	case outside: // stubs are code of the other kind
		return branch(b, to-(pc+4)&^3, 0xc000), 0
	case load:
		b = le.AppendUint16(b, uint16(0x4900|(pool-(pc+4)&^3)/4))
		return le.AppendUint16(b, 0x4479), to - pc - 6
	case absolute: // ldr.w, and the literal counts from nothing
		b = le.AppendUint16(b, 0xf8df)
		return le.AppendUint16(b, uint16(0x2000|(pool-(pc+4)&^3))), to | 1
	}
	return le.AppendUint16(b, uint16(0x1800|i.plain&0x1ff)), 0
}

func branch(b []byte, d, kind uint32) []byte {
	s := d >> 24 & 1
	j1, j2 := ^(d>>23^s)&1, ^(d>>22^s)&1
	b = le.AppendUint16(b, uint16(0xf000|s<<10|d>>12&0x3ff))
	return le.AppendUint16(b, uint16(kind|j1<<13|j2<<11|d>>1&0x7ff))
}

type arm64 struct{}

func (arm64) name() string              { return "arm64" }
func (arm64) elf() (uint16, bool, bool) { return 183, true, true }
func (arm64) size(o op) int {
	if o == load {
		return 8
	}
	return 4
}

func (arm64) emit(b []byte, i instruction, pc, to, pool uint32) ([]byte, uint32) {
	switch i.op {
	case call, outside:
		return le.AppendUint32(b, 0x94000000|(to-pc)>>2&0x3ffffff), 0
	case load:
		d := to>>12 - pc>>12
		b = le.AppendUint32(b, 0x90000000|d&3<<29|d>>2&0x7ffff<<5|i.plain&31)
		if i.plain&32 == 0 {
			return le.AppendUint32(b, 0x91000000|to&0xfff<<10|i.plain&31*33), 0
		}
		return le.AppendUint32(b, 0xb9400000|to&0xfff>>2<<10|i.plain&31*33), 0
	}
	return le.AppendUint32(b, 0x8b000000|i.plain&0xfffff), 0
}

type amd64 struct{}

func (amd64) name() string              { return "amd64" }
func (amd64) elf() (uint16, bool, bool) { return 62, true, true }
func (amd64) size(o op) int {
	switch o {
	case call, outside:
		return 5
	case load:
		return 7
	case absolute:
		return 8
	}
	return 4
}

func (amd64) emit(b []byte, i instruction, pc, to, pool uint32) ([]byte, uint32) {
	switch i.op {
	case call, outside:
		return le.AppendUint32(append(b, 0xe8), to-pc-5), 0
	case load:
		return le.AppendUint32(append(b, 0x48, 0x8d, 0x05), to-pc-7), 0
	case absolute:
		return le.AppendUint64(b, uint64(to)), 0
	}
	return append(b, 0x48, 0x83, byte(i.plain), byte(i.plain>>8)), 0
}
