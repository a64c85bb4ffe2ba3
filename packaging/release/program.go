package release

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// What a program runs on is named as Go names it, with the version of the ARM
// architecture where there are several. A release of the kind Agent has that name as
// its compatible hardware.

// machines are the words of an ELF header by which programs are told apart: class,
// byte order and e_machine (System V ABI, chapter 4).
var machines = map[string][3]uint16{
	"386": {1, 1, 3}, "amd64": {2, 1, 62}, "armv5": {1, 1, 40}, "armv6": {1, 1, 40}, "armv7": {1, 1, 40}, "arm64": {2, 1, 183},
	"riscv64": {2, 1, 243}, "loong64": {2, 1, 258}, "mips": {1, 2, 8}, "mipsle": {1, 1, 8}, "mips64": {2, 2, 8}, "mips64le": {2, 1, 8},
	"ppc64le": {2, 1, 21}, "s390x": {2, 2, 22},
}

// architectures returns the names of what a program can run on, sorted.
func architectures() []string {
	var all []string
	for a := range machines {
		all = append(all, a)
	}
	slices.Sort(all)
	return all
}

// Architecture returns what this program runs on.
func Architecture() string {
	if runtime.GOARCH != "arm" {
		return runtime.GOARCH
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "GOARM" {
				v, _, _ := strings.Cut(s.Value, ",")
				return "armv" + v
			}
		}
	}
	return "armv7"
}

// ElfHeader is how many bytes of a program CheckProgram looks at.
const ElfHeader = 20

// CheckProgram returns why a program that begins with head cannot run on arch.
func CheckProgram(head []byte, arch string) error {
	want, ok := machines[arch]
	if !ok {
		return fmt.Errorf("architecture %.40q: expected one of %s", arch, strings.Join(architectures(), ", "))
	}
	if len(head) < ElfHeader || !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return errors.New("not a program: it has no ELF header")
	}
	machine := binary.LittleEndian.Uint16(head[18:])
	if head[5] == 2 {
		machine = binary.BigEndian.Uint16(head[18:])
	}
	if found := [3]uint16{uint16(head[4]), uint16(head[5]), machine}; found != want {
		for name, m := range machines {
			if m == found {
				return fmt.Errorf("a program for %s: expected one for %s", name, arch)
			}
		}
		return fmt.Errorf("a program for the machine %d: expected one for %s", machine, arch)
	}
	return nil
}

// ProgramMark is what a tandem program has in it before its version, and a colon
// after it, so that a build machine can tell it without running the program.
const ProgramMark = "tandem program, version:"

// FindVersion returns the version that the maker of a program put into it; "" if
// none did.
func FindVersion(program []byte) string {
	m := regexp.MustCompile(regexp.QuoteMeta(ProgramMark) + `([0-9A-Za-z.+-]+):`).FindSubmatch(program)
	if m == nil {
		return ""
	}
	return string(m[1])
}
