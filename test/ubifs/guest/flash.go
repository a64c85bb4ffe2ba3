//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tandem/test/internal/guest"
)

// geometry is a flash: one simulated NAND with 16 KiB erase blocks, one UBI
// device on it, and two volumes. One device, because the power fails for both
// partitions at once.
type geometry struct {
	blocks int   // erase blocks of the UBI device
	volume int64 // erase blocks of each volume
	spare  int16 // erase blocks in 1024 of the chip held back for bad ones
	faults bool  // bits flip, and writes and erasures fail
}

// The fewer blocks, the sooner it is attached again.
var (
	usual  = geometry{blocks: 2048, volume: 900, spare: 1}
	small  = geometry{blocks: 512, volume: 230, spare: 1}
	faulty = geometry{blocks: 1024, volume: 230, spare: 20, faults: true}
	tight  = geometry{blocks: 256, volume: 90, spare: 1}
)

const logicalBlock = 15 * 1024 // of an erase block, what UBI leaves

type volume struct {
	id             int32
	name, dev, dir string
}

var volumes = []volume{{0, "system", "ubi0_0", guest.SystemDir}, {1, "usr_data", "ubi0_1", guest.UsrDataDir}}

// UBI's requests, of the kernel's mtd/ubi-user.h.
const (
	ubiAttach = 0x40186f40
	ubiDetach = 0x40046f41
	ubiMkvol  = 0x40986f00
	ubiUpdate = 0x40084f00
)

type attachReq struct {
	ubi, mtd, header int32
	maxBad           int16
	_                [10]byte
}

type mkvolReq struct {
	id, alignment int32
	bytes         int64
	kind, flags   uint8
	nameLen       int16
	_             [4]byte
	name          [128]byte
}

func request(dev string, what uint, arg unsafe.Pointer) error {
	f, err := os.OpenFile("/dev/"+dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(what), uintptr(arg)); e != 0 {
		return &os.PathError{Op: "ioctl", Path: f.Name(), Err: e}
	}
	return nil
}

// set makes a new flash, with two empty partitions.
func (f *flash) set(g geometry) error {
	if f.geometry != (geometry{}) {
		if err := unmountAll(); err != nil {
			return err
		}
		if err := unix.DeleteModule("nandsim", 0); err != nil {
			return fmt.Errorf("remove nandsim: %w", err)
		}
	}
	f.geometry = g
	if err := guest.LoadModule("nandsim", fmt.Sprintf("first_id_byte=0x20 second_id_byte=0x71 parts=%d", g.blocks)); err != nil {
		return err
	}
	if err := f.attach(); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	for _, v := range volumes {
		r := mkvolReq{id: v.id, alignment: 1, bytes: g.volume * logicalBlock, kind: 3, nameLen: int16(len(v.name))}
		copy(r.name[:], v.name)
		if err := request("ubi0", ubiMkvol, unsafe.Pointer(&r)); err != nil {
			return err
		}
		if err := guest.WaitFor("/dev/" + v.dev); err != nil {
			return err
		}
		if err := v.mount(); err != nil {
			return err
		}
	}
	return nil
}

func (f *flash) attach() error {
	if err := guest.WaitFor("/dev/ubi_ctrl"); err != nil {
		return err
	}
	if err := request("ubi_ctrl", ubiAttach, unsafe.Pointer(&attachReq{maxBad: f.spare})); err != nil {
		return err
	}
	return guest.WaitFor("/dev/ubi0")
}

// detach waits while something still holds the device. One that is not attached
// is no error.
func detach() (err error) {
	for range 200 {
		var n int32
		if err = request("ubi_ctrl", ubiDetach, unsafe.Pointer(&n)); err == nil || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// Erase empties a volume as a flashing tool does; the mount then makes a new
// file system.
func (f *flash) Erase(dir string) error {
	for _, v := range volumes {
		if v.dir != dir {
			continue
		}
		if err := guest.Unmount(v.dir); err != nil {
			return err
		}
		var none int64
		if err := request(v.dev, ubiUpdate, unsafe.Pointer(&none)); err != nil {
			return err
		}
		return v.mount()
	}
	return fmt.Errorf("%s: no such volume", dir)
}

func (v volume) mount() error {
	if err := unix.Mount("/dev/"+v.dev, v.dir, "ubifs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", v.dir, err)
	}
	return nil
}

func unmountAll() error {
	for _, v := range volumes {
		if err := guest.Unmount(v.dir); err != nil {
			return err
		}
	}
	return detach()
}

func (f *flash) Remount() error {
	if err := unmountAll(); err != nil {
		return err
	}
	if err := f.attach(); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	for _, v := range volumes {
		if err := guest.WaitFor("/dev/" + v.dev); err != nil {
			return err
		}
		if err := v.mount(); err != nil {
			return err
		}
	}
	return nil
}

func knob(value any, path ...string) error {
	name := filepath.Join(append([]string{"/sys/kernel/debug"}, path...)...)
	return os.WriteFile(name, []byte(fmt.Sprint(value)), 0)
}

// pull stops all writing of both file systems, now.
func pull() {
	for _, v := range volumes {
		_ = knob(1, "ubifs", v.dev, "ro_error")
	}
}

// struck says whether the power has failed for either volume.
func struck() bool {
	for _, v := range volumes {
		if isOne(filepath.Join("/sys/kernel/debug/ubifs", v.dev, "ro_error")) {
			return true
		}
	}
	return isOne("/sys/class/ubi/ubi0/ro_mode")
}

func isOne(name string) bool {
	data, err := os.ReadFile(name)
	return err == nil && strings.TrimSpace(string(data)) == "1"
}
