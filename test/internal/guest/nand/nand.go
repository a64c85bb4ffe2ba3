//go:build linux

// Package nand is the flash of a lab's machine: one simulated NAND with 16 KiB
// erase blocks, one UBI device on it, and two volumes with UBIFS. One device,
// because the power fails for both partitions at once.
package nand

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

// Geometry is how a flash is divided. The fewer blocks, the sooner it is
// attached again.
type Geometry struct {
	Blocks int   // erase blocks of the UBI device
	Volume int64 // erase blocks of each volume
	Spare  int16 // erase blocks in 1024 of the chip held back for bad ones
}

const logicalBlock = 15 * 1024 // of an erase block, what UBI leaves

// Volume is a partition of it.
type Volume struct {
	id             int32
	Name, Dev, Dir string // Dir is where it is mounted
}

// Mount mounts it. An empty one gets a new file system.
func (v Volume) Mount() error {
	if err := unix.Mount("/dev/"+v.Dev, v.Dir, "ubifs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", v.Dir, err)
	}
	return nil
}

// Flash is the one of this machine.
type Flash struct {
	Geometry Geometry
	Volumes  []Volume
}

// New is a flash that is not there yet. The sides lie on its two volumes, which
// are mounted below root.
func New(root string) *Flash {
	return &Flash{Volumes: []Volume{{0, "system", "ubi0_0", root + guest.SystemDir}, {1, "usr_data", "ubi0_1", root + guest.UsrDataDir}}}
}

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

// Set makes a new flash, with two empty partitions, and mounts them.
func (f *Flash) Set(g Geometry) error {
	if f.Geometry != (Geometry{}) {
		if err := f.Detach(); err != nil {
			return err
		}
		if err := unix.DeleteModule("nandsim", 0); err != nil {
			return fmt.Errorf("remove nandsim: %w", err)
		}
	}
	f.Geometry = g
	if err := guest.LoadModule("nandsim", fmt.Sprintf("first_id_byte=0x20 second_id_byte=0x71 parts=%d", g.Blocks)); err != nil {
		return err
	}
	if err := f.Attach(); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	for _, v := range f.Volumes {
		r := mkvolReq{id: v.id, alignment: 1, bytes: g.Volume * logicalBlock, kind: 3, nameLen: int16(len(v.Name))}
		copy(r.name[:], v.Name)
		if err := request("ubi0", ubiMkvol, unsafe.Pointer(&r)); err != nil {
			return err
		}
		if err := guest.WaitFor("/dev/" + v.Dev); err != nil {
			return err
		}
		if err := v.Mount(); err != nil {
			return err
		}
	}
	return nil
}

// Attach attaches the UBI device. The volumes' devices may come a little later.
func (f *Flash) Attach() error {
	if err := guest.WaitFor("/dev/ubi_ctrl"); err != nil {
		return err
	}
	if err := request("ubi_ctrl", ubiAttach, unsafe.Pointer(&attachReq{maxBad: f.Geometry.Spare})); err != nil {
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
func (f *Flash) Erase(dir string) error {
	for _, v := range f.Volumes {
		if v.Dir != dir {
			continue
		}
		if err := guest.Unmount(v.Dir); err != nil {
			return err
		}
		var none int64
		if err := request(v.Dev, ubiUpdate, unsafe.Pointer(&none)); err != nil {
			return err
		}
		return v.Mount()
	}
	return fmt.Errorf("%s: no such volume", dir)
}

// Detach unmounts what is mounted and detaches the UBI device.
func (f *Flash) Detach() error {
	for _, v := range f.Volumes {
		if err := guest.Unmount(v.Dir); err != nil {
			return err
		}
	}
	return detach()
}

// Remount detaches the device, attaches it again and mounts both volumes, as a
// start of the machine does.
func (f *Flash) Remount() error {
	if err := f.Detach(); err != nil {
		return err
	}
	if err := f.Attach(); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	for _, v := range f.Volumes {
		if err := guest.WaitFor("/dev/" + v.Dev); err != nil {
			return err
		}
		if err := v.Mount(); err != nil {
			return err
		}
	}
	return nil
}

// Knob writes to a file below /sys/kernel/debug.
func Knob(value any, path ...string) error {
	name := filepath.Join(append([]string{"/sys/kernel/debug"}, path...)...)
	return os.WriteFile(name, []byte(fmt.Sprint(value)), 0)
}

// Pull stops all writing of both file systems, now.
func (f *Flash) Pull() {
	for _, v := range f.Volumes {
		_ = Knob(1, "ubifs", v.Dev, "ro_error")
	}
}

// Struck reports whether the power has failed for either volume.
func (f *Flash) Struck() bool {
	for _, v := range f.Volumes {
		if isOne(filepath.Join("/sys/kernel/debug/ubifs", v.Dev, "ro_error")) {
			return true
		}
	}
	return isOne("/sys/class/ubi/ubi0/ro_mode")
}

func isOne(name string) bool {
	data, err := os.ReadFile(name)
	return err == nil && strings.TrimSpace(string(data)) == "1"
}
