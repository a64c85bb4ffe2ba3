package codec

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"testing"
)

// The constants are those of the format: a patch made with others is another.
func TestTables(t *testing.T) {
	tables := newTables()
	for _, c := range []struct {
		name  string
		table any
		want  string
	}{
		{"knots", knots, "89d3cca6dfae6699"},
		{"squash", tables.squash, "87e6e48d6f288fb9"},
		{"stretch", tables.stretch, "86c8470b28344179"},
	} {
		var b bytes.Buffer
		if err := binary.Write(&b, binary.LittleEndian, c.table); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(b.Bytes())); got[:16] != c.want {
			t.Errorf("%s: SHA-256 %s, want it to begin with %s", c.name, got, c.want)
		}
	}
	for i, k := range knots {
		want := min(max(math.Round(65536/(1+math.Exp(float64(48-i)/4))), 1), 65535)
		if float64(k) != want {
			t.Errorf("knot %d is %d, want %v", i, k, want)
		}
	}
}

// What was coded comes back, at the ends of each range, too.
func TestNumbers(t *testing.T) {
	values := []int64{0, 1, 2, 3, 62, 63, 64, 65535, 1<<29 + 7, 1<<39 - 1, 1<<40 - 2}
	signs := []int64{0, -1, 1, 1<<38 - 1, -1 << 38, 1<<39 - 1, -(1<<39 - 1)}
	e := newEncoder()
	code := func(c *coder) (got []int64) {
		plain, signed := newNumbers(), newNumbers()
		for range 3 {
			for _, v := range values {
				got = append(got, c.number(&plain, v))
			}
			for _, v := range signs {
				got = append(got, c.signed(&signed, v))
			}
		}
		c.finish()
		return got
	}
	want := code(e)
	if e.err != nil {
		t.Fatal(e.err)
	}
	d := newDecoder(bytes.NewReader(e.out))
	if got := code(d); d.err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("decoded %d, %v; want %d", got, d.err, want)
	}
	for _, v := range []int64{-1, 1<<40 - 1, math.MaxInt64, math.MinInt64} {
		e := newEncoder()
		m := newNumbers()
		if e.number(&m, v); e.err == nil {
			t.Errorf("number %d was coded", v)
		}
	}
}
