package child

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"syscall"
)

// kin are the machines whose programs run on the same processor, as ELF numbers them:
// 386 and amd64, arm and arm64.
var kin = [][]uint16{{3, 62}, {40, 183}}

// checkBinary looks at the head of a program that is no script: whether it is one for
// this processor, and the loader that it names is there. A kernel that was told of
// other kinds of programs may know better.
func checkBinary(name string, data []byte) error {
	own, err := head("/proc/self/exe")
	if err != nil {
		return nil
	}
	machine, ours := machineOf(data), machineOf(own)
	runs := machine == ours || slices.ContainsFunc(kin, func(k []uint16) bool { return slices.Contains(k, machine) && slices.Contains(k, ours) })
	if !runs || machine == 0 {
		if knowsMore() {
			return nil
		}
		return fmt.Errorf("%s: it is no program for this processor: %w", name, syscall.ENOEXEC)
	}
	if loader := loaderOf(data); loader != "" {
		if _, err := os.Stat(loader); err != nil {
			return fmt.Errorf("%s: its loader: %w", name, err)
		}
	}
	return nil
}

// knowsMore reports whether the kernel was told how to run other kinds of programs.
func knowsMore() bool {
	known, err := os.ReadDir("/proc/sys/fs/binfmt_misc")
	return err == nil && len(known) > 2 // register, status
}

// machineOf returns what an ELF file was built for; 0 if it is none.
func machineOf(data []byte) uint16 {
	if len(data) < 64 || !bytes.HasPrefix(data, []byte("\x7fELF")) {
		return 0
	}
	return order(data).Uint16(data[18:])
}

func order(data []byte) binary.ByteOrder {
	if data[5] == 2 {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// loaderOf returns the loader that an ELF file names; "" if it names none, or not in
// its head.
func loaderOf(data []byte) string {
	o := order(data)
	at := func(pos int, wide bool) int { // a number; past the end where there is none
		switch {
		case pos < 0 || pos+8 > len(data):
			return len(data)
		case wide:
			return int(min(o.Uint64(data[pos:]), uint64(len(data))))
		}
		return int(min(o.Uint32(data[pos:]), uint32(len(data))))
	}
	wide := data[4] == 2 // the class of 64 bits
	table, entries := at(28, false), 42
	offset, length := 4, 16
	if wide {
		table, entries = at(32, true), 54
		offset, length = 8, 32
	}
	size, n := int(o.Uint16(data[entries:])), int(o.Uint16(data[entries+2:]))
	for i := range n {
		entry := table + i*size
		if at(entry, false) != 3 { // PT_INTERP
			continue
		}
		begin := at(entry+offset, wide)
		end := min(begin+at(entry+length, wide), len(data))
		loader, _, ended := bytes.Cut(data[begin:end], []byte{0})
		if ended {
			return string(loader)
		}
	}
	return ""
}
