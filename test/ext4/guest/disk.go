//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"tandem/test/internal/guest"
)

// disk is one disk with both partitions, because the power fails for both at
// once: in memory, behind dm-log-writes.
type disk struct {
	rand    *rand.Rand
	options string // of the mounts
	blank   []byte // an empty file system
	image   []byte // what the disk held when it was last started

	lasts   map[string]time.Duration // of each operation
	entries int                      // that all records had
}

const (
	diskDev   = "/dev/ram0"
	recordDev = "/dev/ram1"
)

// partition is a part of the disk; its number is that of its device as well.
type partition struct {
	name, dir, dev string
}

var partitions = []partition{{"system", guest.SystemDir, "/dev/dm-1"}, {"usr_data", guest.UsrDataDir, "/dev/dm-2"}}

func newDisk(seed uint64) (*disk, error) {
	blank, err := os.ReadFile("/ext4.img")
	if err != nil {
		return nil, err
	}
	d := &disk{rand: rand.New(rand.NewPCG(seed, 1)), blank: blank, lasts: map[string]time.Duration{}}
	d.image = bytes.Repeat(blank, len(partitions))
	return d, d.write(extent{0, int64(len(d.image))})
}

// use mounts with other options from now on.
func (d *disk) use(options string) error {
	if d.options != "" {
		if err := d.stopWhole(); err != nil {
			return err
		}
	}
	d.options = options
	return d.start()
}

// extent is a part of the disk, in bytes.
type extent struct{ at, size int64 }

// write copies extents of the image to the disk, while that is stopped.
func (d *disk) write(extents ...extent) error {
	f, err := os.OpenFile(diskDev, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for _, e := range extents {
		if _, err := f.WriteAt(d.image[e.at:e.at+e.size], e.at); err != nil {
			f.Close()
			return err
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// start begins a new record and mounts the partitions.
func (d *disk) start() error {
	sectors := int64(len(d.image)) / sector
	if err := dmAdd("record", sectors, "log-writes", diskDev+" "+recordDev); err != nil {
		return err
	}
	for i, p := range partitions {
		size := int64(len(d.blank)) / sector
		if err := dmAdd(p.name, size, "linear", fmt.Sprintf("/dev/dm-0 %d", int64(i)*size)); err != nil {
			return err
		}
		if err := guest.WaitFor(p.dev); err != nil {
			return err
		}
		if err := unix.Mount(p.dev, p.dir, "ext4", 0, d.options); err != nil {
			return fmt.Errorf("mount %s: %w", p.dir, err)
		}
	}
	return nil
}

// stop unmounts the partitions and gives the record. The disk holds all of it
// now, the image nothing. What a failed start has left out is no error.
func (d *disk) stop() ([]entry, error) {
	for _, p := range partitions {
		if err := guest.Unmount(p.dir); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{partitions[0].name, partitions[1].name, "record"} {
		if err := dm(dmRemove, name, 0, nil); err != nil && !errors.Is(err, unix.ENXIO) {
			return nil, err
		}
	}
	entries, err := readRecord(recordDev)
	d.entries += len(entries)
	return entries, err
}

// stopWhole stops in order: nothing is lost.
func (d *disk) stopWhole() error {
	entries, err := d.stop()
	if err != nil {
		return err
	}
	for _, e := range entries {
		copy(d.image[e.at:], e.data)
	}
	return nil
}

func (d *disk) Remount() error {
	if err := d.stopWhole(); err != nil {
		return err
	}
	return d.start()
}

func (d *disk) Erase(dir string) error {
	if err := d.stopWhole(); err != nil {
		return err
	}
	for i, p := range partitions {
		if p.dir != dir {
			continue
		}
		var touched []extent
		for b := 0; b < len(d.blank); b += block {
			if blank, there := d.blank[b:b+block], d.image[i*len(d.blank)+b:][:block]; !bytes.Equal(blank, there) {
				copy(there, blank)
				touched = append(touched, extent{int64(i*len(d.blank) + b), block})
			}
		}
		if err := d.write(touched...); err != nil {
			return err
		}
		return d.start()
	}
	return fmt.Errorf("%s: no such partition", dir)
}

// How the power fails.
const (
	atFlush = "at a flush" // what was not flushed is lost
	partly  = "partly"     // some of what was not flushed is lost
	torn    = "torn"       // of what was not flushed, each write is lost from some block on
	killed  = "killed"     // the program alone ends; nothing is lost
)

var kinds = []string{atFlush, partly, torn, killed}

func (d *disk) Cut(operation string, args []string) (guest.Cut, error) {
	kind := []string{atFlush, partly, partly, torn, torn, killed}[d.rand.IntN(6)]
	c := guest.Cut{Kind: kind, At: kind}
	if err := dmSay("record", "mark start"); err != nil {
		return c, err
	}
	if err := d.run(&c, operation, args); err != nil {
		return c, err
	}
	if kind == killed { // what it wrote is still in the kernel's memory
		c.Log = guest.KernelLog()
		return c, nil
	}
	if err := dmSay("record", "mark end"); err != nil {
		return c, err
	}
	entries, err := d.stop()
	if err != nil {
		return c, err
	}
	list, end, err := points(entries)
	if err != nil {
		return c, err
	}
	n := list[d.rand.IntN(len(list))]
	if d.rand.IntN(8) == 0 { // what was said to be done has to be
		n = list[len(list)-1]
	}
	how := nothing
	switch kind {
	case partly:
		how = some(d.rand)
	case torn:
		how = tearing(d.rand)
	}
	c.At = fmt.Sprintf("%s, at point %d of %d", kind, n-list[0]+1, len(list))
	if c.Done = c.Code == 0 && n > end; n > end {
		c.Kind = guest.Outlasted
	}
	replay(d.image, entries, n, how)
	var touched []extent
	for _, e := range entries {
		touched = append(touched, extent{e.at, int64(len(e.data))})
	}
	if err := d.write(touched...); err != nil {
		return c, err
	}
	if err = guest.NewRun(); err == nil {
		err = d.start()
	}
	c.Log = guest.KernelLog()
	return c, err
}

// run runs the program to its end, or kills it at a random moment.
func (d *disk) run(c *guest.Cut, operation string, args []string) error {
	var said bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	if c.Kind == killed {
		after := time.Duration(d.rand.Int64N(int64(max(d.lasts[operation], 100*time.Millisecond))))
		c.At = fmt.Sprintf("killed after %v", after)
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	_ = cmd.Wait()
	c.Code, c.Out = cmd.ProcessState.ExitCode(), said.String()
	c.Done = c.Code == 0
	switch {
	case c.Kind != killed:
		d.lasts[operation] = time.Since(start)
	case c.Code >= 0: // it ended by itself
		c.Kind = guest.Outlasted
	}
	return nil
}
