//go:build linux && amd64

// Command oldkernel runs a program as if the kernel were an old one, such as
// the Linux 3.18 of small devices:
//
//	oldkernel PROGRAM ARGS...
//
// The program, and whatever it starts, finds that
//
//   - each system call that came after Linux 3.18 is unknown (ENOSYS),
//   - renameat2 knows no flags (EINVAL), as on UBIFS before Linux 4.9,
//   - there is no multipath TCP (EPROTONOSUPPORT),
//   - uname tells of a Linux 2.6, so that what asks for the version takes the
//     old way too.
//
// It makes sure of that before the program starts. It shows which calls have a
// fall-back, not how an old kernel does those that it has. It exits with 125 if
// such a kernel cannot be played.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lastCall is the newest system call of Linux 3.18 on amd64. Those after it
// are newer: there they were numbered in the order in which they came.
const lastCall = unix.SYS_BPF

const mptcp = 262 // IPPROTO_MPTCP

// uname26 is the personality under which uname gives a version of 2.6.
const uname26 = 0x0020000

const failed = 125

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: oldkernel PROGRAM ARGS...")
		os.Exit(failed)
	}
	err := run(os.Args[1], os.Args[1:])
	fmt.Fprintln(os.Stderr, "oldkernel:", err)
	os.Exit(failed)
}

// run comes back only with an error.
func run(name string, argv []string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the filter is the thread's, and then that of what it becomes
	if err := growOld(); err != nil {
		return err
	}
	if err := check(); err != nil {
		return err
	}
	return unix.Exec(file, argv, os.Environ())
}

func growOld() error {
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, uname26, 0, 0); errno != 0 {
		return os.NewSyscallError("personality", errno)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	f := filter()
	p := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&p)), 0, 0)
	runtime.KeepAlive(f)
	return os.NewSyscallError("seccomp", err)
}

// Offsets in the kernel's struct seccomp_data, of the low halves where a field
// has 64 bits.
const (
	callNumber = 0
	callArch   = 4
	argument2  = 16 + 2*8
	argument4  = 16 + 4*8
)

func filter() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(how uint16, value uint32, then, otherwise uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | how, K: value, Jt: then, Jf: otherwise}
	}
	answer := func(errno unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
	}
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	return []unix.SockFilter{
		load(callArch),
		jump(unix.BPF_JEQ, unix.AUDIT_ARCH_X86_64, 0, 2), // 32-bit programs number them differently: they get none
		load(callNumber),
		jump(unix.BPF_JGT, lastCall, 0, 1),
		answer(unix.ENOSYS),
		jump(unix.BPF_JEQ, unix.SYS_RENAMEAT2, 0, 3),
		load(argument4),
		jump(unix.BPF_JEQ, 0, 5, 0),
		answer(unix.EINVAL),
		jump(unix.BPF_JEQ, unix.SYS_SOCKET, 0, 3),
		load(argument2),
		jump(unix.BPF_JEQ, mptcp, 0, 1),
		answer(unix.EPROTONOSUPPORT),
		allow,
	}
}

// check makes sure that the kernel looks old from here.
func check() error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, "/", 0, 0, &st); !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("statx: %v: want %v", err, unix.ENOSYS)
	}
	if _, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH}); !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("openat2: %v: want %v", err, unix.ENOSYS)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, "/", unix.AT_FDCWD, "/", unix.RENAME_EXCHANGE); !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("renameat2 with a flag: %v: want %v", err, unix.EINVAL)
	}
	if _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, mptcp); !errors.Is(err, unix.EPROTONOSUPPORT) {
		return fmt.Errorf("multipath TCP: %v: want %v", err, unix.EPROTONOSUPPORT)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	if release := unix.ByteSliceToString(u.Release[:]); !strings.HasPrefix(release, "2.6.") {
		return fmt.Errorf("uname says %s: want 2.6", release)
	}
	return nil
}
