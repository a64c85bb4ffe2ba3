//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The device mapper's requests, of the kernel's linux/dm-ioctl.h.
const (
	dmCreate  = 3
	dmRemove  = 4
	dmSuspend = 6 // without a flag: resume
	dmLoad    = 9
	dmMessage = 14

	dmHeader = 312 // bytes before a request's data
	dmTarget = 40  // bytes before a target's parameters
)

// dm sends one request about a device.
func dm(what uintptr, name string, targets int, data []byte) error {
	b := make([]byte, dmHeader+(len(data)+7)/8*8)
	for i, v := range []uint32{4, 0, 0, uint32(len(b)), dmHeader, uint32(targets)} {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	copy(b[48:48+127], name)
	copy(b[dmHeader:], data)
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xc000fd00|dmHeader<<16|what, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return fmt.Errorf("device mapper, request %d for %s: %w", what, name, e)
	}
	return nil
}

// dmAdd makes a device of one target.
func dmAdd(name string, sectors int64, kind, params string) error {
	if err := dm(dmCreate, name, 0, nil); err != nil {
		return err
	}
	return dmSwap(name, sectors, kind, params)
}

// dmSwap gives a device another target, also while it is in use.
func dmSwap(name string, sectors int64, kind, params string) error {
	spec := make([]byte, dmTarget+len(params)+1)
	binary.NativeEndian.PutUint64(spec[8:], uint64(sectors))
	copy(spec[24:39], kind)
	copy(spec[dmTarget:], params)
	if err := dm(dmLoad, name, 1, spec); err != nil {
		return err
	}
	return dm(dmSuspend, name, 0, nil)
}

func dmSay(name, message string) error {
	return dm(dmMessage, name, 0, append(make([]byte, 8), message+"\x00"...))
}
