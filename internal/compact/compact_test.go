package compact

import (
	"bytes"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRoundTrip(t *testing.T) {
	numbers := []uint64{0, 1, 127, 128, 1 << 32, math.MaxUint64}
	signed := []int64{0, -1, 1, -64, 64, math.MinInt64, math.MaxInt64}
	paths := []string{"a", "a/b", "a/b", "a/bc", "b", strings.Repeat("x", MaxPath)}
	texts := []string{"", "x", "\x00\n", strings.Repeat("long", 10_000)}
	w := &Writer{Bytes: []byte("a line\n")}
	for _, v := range numbers {
		w.Uint(v)
	}
	for _, v := range signed {
		w.Int(v)
	}
	for _, p := range paths {
		w.Path(p)
	}
	for _, s := range texts {
		w.Text(s)
	}
	r := NewReader(iotest.OneByteReader(bytes.NewReader(w.Bytes)))
	if line := string(r.Line()); line != "a line\n" {
		t.Errorf("read %q", line)
	}
	for _, want := range numbers {
		if v := r.Uint(); v != want {
			t.Errorf("read %d, want %d", v, want)
		}
	}
	for _, want := range signed {
		if v := r.Int(); v != want {
			t.Errorf("read %d, want %d", v, want)
		}
	}
	for _, want := range paths {
		if p := string(r.Path()); p != want {
			t.Errorf("read %.40q, want %.40q", p, want)
		}
	}
	for _, want := range texts {
		if s := r.Text(len(want)); s != want {
			t.Errorf("read %.40q, want %.40q", s, want)
		}
	}
	if r.More() || r.Err() != nil {
		t.Errorf("at the end: more %v, %v", r.More(), r.Err())
	}
	if r.Uint(); r.Err() != io.ErrUnexpectedEOF {
		t.Errorf("after the end: %v", r.Err())
	}
}

// FuzzReader holds that whatever it reads, a Reader neither panics nor goes past an error,
// and that what it gives is within its limits.
func FuzzReader(f *testing.F) {
	w := &Writer{}
	w.Path("a")
	w.Path("a/b")
	w.Text("text")
	w.Int(-5)
	f.Add([]byte{3, 3, 2, 1}, w.Bytes)
	f.Add([]byte{3, 2}, bytes.Repeat([]byte{0xff}, 30))
	f.Fuzz(func(t *testing.T, calls, data []byte) {
		r := NewReader(bytes.NewReader(data))
		for _, c := range calls {
			failed := r.Err()
			switch c % 5 {
			case 0:
				r.Fill(make([]byte, c/5))
			case 1:
				r.Int()
			case 2:
				if s := r.Text(100); len(s) > 100 {
					t.Fatalf("a text of %d bytes", len(s))
				}
			case 3:
				if p := r.Path(); len(p) > MaxPath {
					t.Fatalf("a path of %d bytes", len(p))
				}
			case 4:
				if v := r.UpTo(9); v > 9 {
					t.Fatalf("%d", v)
				}
			}
			if failed != nil && r.Err() != failed {
				t.Fatalf("%v, then %v", failed, r.Err())
			}
		}
	})
}

// Reading entries takes no memory for each.
func TestAllocates(t *testing.T) {
	w := &Writer{}
	for _, p := range slices.Repeat([]string{"share/part1/set1/file0001.bin", "share/part1/set1/file0002.bin"}, 1000) {
		w.Path(p)
		w.Int(-1)
	}
	n := testing.AllocsPerRun(10, func() {
		for r := NewReader(bytes.NewReader(w.Bytes)); r.More(); {
			r.Path()
			r.Int()
		}
	})
	if n > 10 {
		t.Errorf("%v allocations for 2,000 entries", n)
	}
}
