//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The flash: one simulated NAND with 16 KiB erase blocks, one UBI device on
// it, and two volumes. One device, because the power fails for both partitions
// at once.
const (
	nandParams = "first_id_byte=0x20 second_id_byte=0x71 parts=2048"
	volumeSize = 900 * 15 * 1024
)

type volume struct{ name, dev, dir string }

var (
	system  = volume{"system", "ubi0_0", "/usrapp"}
	usrData = volume{"usr_data", "ubi0_1", "/usrdata"}
	volumes = []volume{system, usrData}
)

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

func attach() error {
	// Little is held back for bad blocks: the simulated flash has none.
	if err := request("ubi_ctrl", ubiAttach, unsafe.Pointer(&attachReq{maxBad: 1})); err != nil {
		return err
	}
	return waitFor("/dev/ubi0")
}

// detach waits while something still holds the device.
func detach() (err error) {
	for range 100 {
		var n int32
		if err = request("ubi_ctrl", ubiDetach, unsafe.Pointer(&n)); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func makeVolumes() error {
	for i, v := range volumes {
		r := mkvolReq{id: int32(i), alignment: 1, bytes: volumeSize, kind: 3, nameLen: int16(len(v.name))}
		copy(r.name[:], v.name)
		if err := request("ubi0", ubiMkvol, unsafe.Pointer(&r)); err != nil {
			return err
		}
		if err := waitFor("/dev/" + v.dev); err != nil {
			return err
		}
	}
	return nil
}

// erase empties a volume as a flashing tool does; the next mount makes a new
// file system.
func (v volume) erase() error {
	if err := v.unmount(); err != nil {
		return err
	}
	var none int64
	if err := request(v.dev, ubiUpdate, unsafe.Pointer(&none)); err != nil {
		return err
	}
	return v.mount()
}

func (v volume) mount() error {
	if err := unix.Mount("/dev/"+v.dev, v.dir, "ubifs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", v.dir, err)
	}
	return nil
}

// unmount waits for a killed process to let go.
func (v volume) unmount() (err error) {
	for range 100 {
		if err = unix.Unmount(v.dir, 0); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("unmount %s: %w", v.dir, err)
}

func mountAll() error {
	if err := attach(); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	for _, v := range volumes {
		if err := waitFor("/dev/" + v.dev); err != nil {
			return err
		}
		if err := v.mount(); err != nil {
			return err
		}
	}
	return nil
}

func unmountAll() error {
	for _, v := range volumes {
		if err := v.unmount(); err != nil {
			return err
		}
	}
	return detach()
}

func remount() error {
	if err := unmountAll(); err != nil {
		return err
	}
	return mountAll()
}

// loadModules loads them in the order of their names.
func loadModules() error {
	files, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		params := ""
		if strings.HasSuffix(name, "-nandsim.ko") {
			params = nandParams
		}
		err = unix.FinitModule(int(f.Fd()), params, 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return waitFor("/dev/ubi_ctrl")
}

func waitFor(name string) error {
	for range 500 {
		if _, err := os.Stat(name); err == nil {
			return nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("%s does not appear", name)
}

func knob(value any, path ...string) error {
	name := filepath.Join(append([]string{"/sys/kernel/debug"}, path...)...)
	return os.WriteFile(name, []byte(fmt.Sprint(value)), 0)
}

// cut is one way to lose power.
type cut struct {
	kind  string
	n     int           // header: at the n-th mapping of an erase block
	after time.Duration // plug: at that time
}

const (
	header  = "header"  // UBI stops when it writes the header of an erase block
	plug    = "plug"    // UBIFS stops at some moment, between any two of its writes
	torn    = "torn"    // UBIFS stops in the middle of a write and leaves garbage; when it does is left to UBIFS
	noneHit = "outlast" // the operation was over first; the cut comes after it
)

func (c cut) String() string {
	switch c.kind {
	case header:
		return fmt.Sprintf("at erase block %d", c.n)
	case plug, torn:
		return fmt.Sprintf("%s after %v", c.kind, c.after)
	}
	return c.kind
}

// arm gets the cut ready.
func (c cut) arm() error {
	switch c.kind {
	case header:
		for _, k := range []string{"tst_emulate_power_cut_min", "tst_emulate_power_cut_max"} {
			if err := knob(c.n, "ubi/ubi0", k); err != nil {
				return err
			}
		}
		return knob(2, "ubi/ubi0/tst_emulate_power_cut")
	case torn:
		for _, v := range volumes {
			if err := knob(1, "ubifs", v.dev, "tst_recovery"); err != nil {
				return err
			}
		}
	}
	return nil
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
		data, err := os.ReadFile(filepath.Join("/sys/kernel/debug/ubifs", v.dev, "ro_error"))
		if err == nil && strings.TrimSpace(string(data)) == "1" {
			return true
		}
	}
	data, err := os.ReadFile("/sys/class/ubi/ubi0/ro_mode")
	on, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return err == nil && on == 1
}
