//go:build linux

package main

import (
	"bytes"
	"testing"
)

func TestReplay(t *testing.T) {
	write := func(at int64, c byte, flags uint64) entry {
		return entry{flags: flags, at: at * block, data: bytes.Repeat([]byte{c}, block)}
	}
	entries := []entry{
		{flags: isMark, mark: "start"},
		write(0, 'a', 0),
		{flags: isFlush},
		write(1, 'b', isFUA),
		write(2, 'c', 0),
		{flags: isFlush},
		{flags: isMark, mark: "end"},
	}
	list, end, err := points(entries)
	if err != nil || len(list) != 7 || list[0] != 1 || end != 6 {
		t.Fatalf("points: %v, end %d, %v", list, end, err)
	}
	for _, c := range []struct {
		n    int
		want string // the first byte of each block
	}{
		{1, "..."},
		{2, "..."}, // written, not flushed
		{3, "a.."},
		{4, "ab."}, // forced
		{5, "ab."},
		{6, "abc"},
		{7, "abc"},
	} {
		image := bytes.Repeat([]byte{'.'}, 3*block)
		replay(image, entries, c.n, nothing)
		got := string([]byte{image[0], image[block], image[2*block]})
		if got != c.want {
			t.Errorf("%d entries, unflushed lost: %s, expected %s", c.n, got, c.want)
		}
	}
	if _, _, err := points(entries[1:]); err == nil {
		t.Error("a record without a start has points")
	}
}
