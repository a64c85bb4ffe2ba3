//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
)

const (
	sector = 512
	block  = 1024
)

// What the record says of an entry, of the kernel's drivers/md/dm-log-writes.c.
const (
	isFlush   = 1
	isFUA     = 2
	isDiscard = 4
	isMark    = 8

	recordMagic = 0x6a736677736872
)

// entry is one entry of the record: a write, a flush of the disk's cache, or a
// mark of ours. Writes come in the order in which they were completed, before
// the flush that makes them durable.
type entry struct {
	flags uint64
	at    int64 // in bytes
	data  []byte
	mark  string
}

// readRecord reads what dm-log-writes has put on its own disk.
func readRecord(disk string) ([]entry, error) {
	f, err := os.Open(disk)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, sector)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, err
	}
	number := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	if number(0) != recordMagic || number(1) != 1 || binary.LittleEndian.Uint32(b[24:]) != sector {
		return nil, fmt.Errorf("%s: not a record that this lab can read: % x", disk, b[:28])
	}
	entries := make([]entry, number(2))
	pos := int64(sector)
	for i := range entries {
		if _, err := f.ReadAt(b, pos); err != nil {
			return nil, err
		}
		pos += sector
		e := entry{flags: number(2), at: int64(number(0)) * sector}
		size := int64(number(1)) * sector
		switch {
		case e.flags&isMark != 0:
			e.mark = string(b[32 : 32+number(3)])
		case e.flags&isDiscard != 0:
			return nil, fmt.Errorf("%s: a discard, which nobody asked for", disk)
		case size > 0:
			e.data = make([]byte, size)
			if _, err := f.ReadAt(e.data, pos); err != nil {
				return nil, err
			}
			pos += size
		}
		entries[i] = e
	}
	return entries, nil
}

// points are the places of the record at which the power may fail: between
// the marks, after each write and each flush, and once after the end.
func points(entries []entry) (list []int, end int, err error) {
	start := -1
	end = -1
	for i, e := range entries {
		switch e.mark {
		case "start":
			start = i
		case "end":
			end = i
		}
	}
	if start < 0 || end < start {
		return nil, 0, fmt.Errorf("the record has no marks: %d entries", len(entries))
	}
	for i := start; i < end; i++ {
		list = append(list, i+1)
	}
	return append(list, end+1), end, nil
}

// replay puts on the image what of the first n entries has reached the disk:
// all before the last flush and each forced write, and what unflushed says of
// each other write.
func replay(image []byte, entries []entry, n int, unflushed func(data []byte) []byte) {
	flushed := 0
	for i, e := range entries[:n] {
		if e.flags&isFlush != 0 {
			flushed = i
		}
	}
	for i, e := range entries[:n] {
		data := e.data
		if i > flushed && e.flags&isFUA == 0 {
			data = unflushed(data)
		}
		copy(image[e.at:], data)
	}
}

// Three ways for a disk to treat what it was not told to flush.
func nothing([]byte) []byte { return nil }

func some(r *rand.Rand) func([]byte) []byte {
	return func(data []byte) []byte {
		if r.IntN(2) == 0 {
			return nil
		}
		return data
	}
}

// tearing leaves whole blocks of the file system, which it takes for granted.
func tearing(r *rand.Rand) func([]byte) []byte {
	return func(data []byte) []byte { return data[:block*r.IntN(len(data)/block+1)] }
}
