package delta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"tandem/packaging/delta"
	"tandem/packaging/delta/encode"
	"tandem/packaging/delta/internal/sample"
)

// A vector is a patch of testdata with what it is for and what it makes.
type vector struct {
	name            string
	old, new, patch []byte
}

func (v vector) lengths() delta.Lengths {
	return delta.Lengths{Old: int64(len(v.old)), New: int64(len(v.new))}
}

func vectors(t testing.TB) []vector {
	t.Helper()
	patches, err := filepath.Glob("testdata/*.patch")
	if err != nil || len(patches) < 10 {
		t.Fatalf("%d patches in testdata, %v", len(patches), err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var all []vector
	for _, p := range patches {
		base := strings.TrimSuffix(p, ".patch")
		all = append(all, vector{filepath.Base(base), read(base + ".old"), read(base + ".new"), read(p)})
	}
	return all
}

func apply(v vector, patch []byte) ([]byte, error) {
	var w bytes.Buffer
	err := delta.Apply(context.Background(), &w, bytes.NewReader(patch), bytes.NewReader(v.old), v.lengths())
	return w.Bytes(), err
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			got, err := apply(v, v.patch)
			if err != nil || !bytes.Equal(got, v.new) {
				t.Errorf("%d bytes, %v: not what the patch was made from", len(got), err)
			}
			// A patch and a file may come in any portions.
			var w bytes.Buffer
			in := iotest.OneByteReader(bytes.NewReader(v.patch))
			err = delta.Apply(context.Background(), &w, iotest.DataErrReader(in), bytes.NewReader(v.old), v.lengths())
			if err != nil || !bytes.Equal(w.Bytes(), v.new) {
				t.Errorf("byte by byte: %d bytes, %v", w.Len(), err)
			}
		})
	}
}

// A patch has one end: what is shorter or longer does not make the file.
func TestEnds(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		for n := 0; n < len(v.patch); n += 1 + n/40 {
			if got, err := apply(v, v.patch[:n]); err == nil && bytes.Equal(got, v.new) || err != nil && !errors.Is(err, delta.ErrMalformed) {
				t.Errorf("%s: %d of %d bytes: %v, want ErrMalformed or another file", v.name, n, len(v.patch), err)
			}
		}
		if _, err := apply(v, append(bytes.Clone(v.patch), 0)); !errors.Is(err, delta.ErrMalformed) {
			t.Errorf("%s: a byte more: %v, want ErrMalformed", v.name, err)
		}
	}
}

// untouched is an old file that nobody may read.
type untouched struct{ t *testing.T }

func (u untouched) ReadAt([]byte, int64) (int, error) {
	u.t.Error("the old file is read")
	return 0, io.EOF
}

// What a patch says of lengths is compared before anything else.
func TestLengths(t *testing.T) {
	t.Parallel()
	const before = "TDP1"
	for _, c := range []struct {
		patch string
		want  delta.Lengths
		error string
	}{
		{"", delta.Lengths{}, "ends in its header"},
		{"TDP", delta.Lengths{}, "ends in its header"},
		{"TDP2\x01\x01", delta.Lengths{Old: 1, New: 1}, `begins with "TDP2"`},
		{before, delta.Lengths{}, "ends in its header"},
		{before + "\x05", delta.Lengths{Old: 5}, "ends in its header"},
		{before + "\x05\x06rest", delta.Lengths{Old: 5, New: 7}, "it is for 5 bytes and makes 6: expected 5 and 7"},
		{before + "\x05\x06rest", delta.Lengths{Old: 4, New: 6}, "expected 4 and 6"},
		{before + "\x80\x80\x80\x80\x02\x01rest", delta.Lengths{Old: 512 << 20, New: 1}, "too early"},
		{before + "\x81\x80\x80\x80\x02\x01rest", delta.Lengths{Old: 512<<20 + 1, New: 1}, "more than 536870912 bytes"},
		{before + strings.Repeat("\x80", 20), delta.Lengths{}, "more than 536870912 bytes"},
		{before + strings.Repeat("\xff", 20), delta.Lengths{}, "more than 536870912 bytes"},
	} {
		err := delta.Apply(context.Background(), io.Discard, strings.NewReader(c.patch), untouched{t}, c.want)
		if c.error == "too early" { // it got as far as the coded part
			if !errors.Is(err, delta.ErrMalformed) {
				t.Errorf("%q: %v, want ErrMalformed", c.patch, err)
			}
			continue
		}
		if !errors.Is(err, delta.ErrMalformed) || !strings.Contains(err.Error(), c.error) {
			t.Errorf("%q: %v, want ErrMalformed with %q", c.patch, err, c.error)
		}
	}
}

// budget counts what an application costs and makes: the writer and the old file in one.
type budget struct {
	old            []byte
	written, reads int
}

func (b *budget) Write(p []byte) (int, error) {
	b.written += len(p)
	return len(p), nil
}

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	b.reads++
	return bytes.NewReader(b.old).ReadAt(p, off)
}

// A damaged patch is an error or makes some file of the right length; it
// costs no more than a good one may.
func TestDamagedPatches(t *testing.T) {
	t.Parallel()
	const seed = 20261126
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	all := vectors(t)
	const rounds = 1500
	refused := 0
	for round := range rounds {
		v := all[r.IntN(len(all))]
		patch := damage(r, v.patch, all[r.IntN(len(all))].patch)
		b := &budget{old: v.old}
		err := delta.Apply(context.Background(), b, bytes.NewReader(patch), b, v.lengths())
		switch {
		case errors.Is(err, delta.ErrMalformed):
			refused++
		case err != nil:
			t.Errorf("round %d, %s: %v", round, v.name, err)
		case b.written != len(v.new):
			t.Errorf("round %d, %s: %d bytes written, want %d", round, v.name, b.written, len(v.new))
		}
		if b.written > len(v.new) {
			t.Errorf("round %d, %s: %d bytes written, at most %d are expected", round, v.name, b.written, len(v.new))
		}
		if most := 64 * (len(v.new) + 64); b.reads > most {
			t.Errorf("round %d, %s: %d reads, at most %d are expected", round, v.name, b.reads, most)
		}
	}
	if refused < rounds/2 {
		t.Errorf("%d of %d damaged patches were refused", refused, rounds)
	}
}

// damage returns a patch with some bits, bytes or parts changed.
func damage(r *rand.Rand, patch, other []byte) []byte {
	p := bytes.Clone(patch)
	at := func() int { return min(6, len(p)-1) + r.IntN(max(1, len(p)-6)) }
	for range 1 + r.IntN(3) {
		switch r.IntN(5) {
		case 0, 1:
			p[at()] ^= 1 << r.IntN(8)
		case 2:
			p[at()] = byte(r.Uint32())
		case 3:
			i := at()
			copy(p[i:], other[min(len(other), r.IntN(len(other)+1)):])
		case 4:
			p = append(p, make([]byte, 4096)...)
			for i := len(p) - 4096; i < len(p); i++ {
				p[i] = byte(r.Uint32())
			}
			p[at()] ^= 0x80
		}
	}
	return p
}

// What goes wrong outside the patch is told as it is.
func TestOtherErrors(t *testing.T) {
	t.Parallel()
	v := vectors(t)[0]
	for _, x := range vectors(t) {
		if x.name == "arm64" {
			v = x
		}
	}
	boom := errors.New("boom")
	read := func(w io.Writer, patch io.Reader, old io.ReaderAt) error {
		return delta.Apply(context.Background(), w, patch, old, v.lengths())
	}
	half := func() io.Reader { return bytes.NewReader(v.patch[:len(v.patch)/2]) }
	for name, err := range map[string]error{
		"patch":  read(io.Discard, io.MultiReader(half(), iotest.ErrReader(boom)), bytes.NewReader(v.old)),
		"header": read(io.Discard, iotest.ErrReader(boom), bytes.NewReader(v.old)),
		"old":    read(io.Discard, bytes.NewReader(v.patch), failing{boom}),
		"write":  read(failing{boom}, bytes.NewReader(v.patch), bytes.NewReader(v.old)),
	} {
		if !errors.Is(err, boom) || errors.Is(err, delta.ErrMalformed) {
			t.Errorf("%s: %v, want boom", name, err)
		}
	}
	if err := read(io.Discard, bytes.NewReader(v.patch), bytes.NewReader(v.old[:len(v.old)/2])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an old file that became shorter: %v, want ErrUnexpectedEOF", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
	old := sample.Pairs(1, 500)[9]
	patch, err := encode.Make(context.Background(), old.Old, old.New, encode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = delta.Apply(ctx, w, bytes.NewReader(patch.Bytes), bytes.NewReader(old.Old), delta.Lengths{Old: int64(len(old.Old)), New: int64(len(old.New))})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled at the first write: %v, want Canceled", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error)         { return 0, f.err }
func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Memory does not grow with the files.
func TestMemoryIsBounded(t *testing.T) {
	for _, functions := range []int{100, 1200} {
		p := sample.Pairs(1, functions)[9]
		patch, err := encode.Make(context.Background(), p.Old, p.New, encode.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err = delta.Apply(context.Background(), io.Discard, bytes.NewReader(patch.Bytes), bytes.NewReader(p.Old), delta.Lengths{Old: int64(len(p.Old)), New: int64(len(p.New))})
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 13<<19 {
			t.Errorf("%d functions: %d bytes of memory were taken, at most 6.5 MiB are expected", functions, n)
		}
	}
}

func FuzzApply(f *testing.F) {
	all := vectors(f)
	for i, v := range all {
		f.Add(i, v.patch)
	}
	f.Fuzz(func(t *testing.T, i int, patch []byte) {
		v := all[uint(i)%uint(len(all))]
		b := &budget{old: v.old}
		err := delta.Apply(context.Background(), b, bytes.NewReader(patch), b, v.lengths())
		if err == nil && b.written != len(v.new) || b.written > len(v.new) {
			t.Errorf("%s: %d bytes written, %v; want %d", v.name, b.written, err, len(v.new))
		}
		if err != nil && !errors.Is(err, delta.ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", v.name, err)
		}
	})
}

// BenchmarkApply tells what a megabyte of the new file costs.
func BenchmarkApply(b *testing.B) {
	for _, p := range sample.Pairs(1, 5000)[6:] {
		patch, err := encode.Make(context.Background(), p.Old, p.New, encode.Options{Workers: 2})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(p.Name, func(b *testing.B) {
			b.SetBytes(int64(len(p.New)))
			before := cpu(b)
			for b.Loop() {
				err := delta.Apply(context.Background(), io.Discard, bytes.NewReader(patch.Bytes), bytes.NewReader(p.Old), delta.Lengths{Old: int64(len(p.Old)), New: int64(len(p.New))})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpu(b)-before).Seconds()/float64(b.N)/float64(len(p.New))*1e6, "cpu-s/MB")
			b.ReportMetric(float64(len(patch.Bytes)), "patch-bytes")
			b.ReportMetric(float64(patch.Work)*float64(b.N)/(cpu(b)-before).Seconds()/1e6, "Mctx/cpu-s")
		})
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func Example() {
	old, new := []byte("the door is open, the fan is on\n"), []byte("the door is closed, the fan is on\n")
	patch, err := encode.Make(context.Background(), old, new, encode.Options{})
	if err != nil {
		fmt.Println(err)
	}
	err = delta.Apply(context.Background(), os.Stdout, bytes.NewReader(patch.Bytes), bytes.NewReader(old), delta.Lengths{Old: int64(len(old)), New: int64(len(new))})
	if err != nil {
		fmt.Println(err)
	}
	// Output: the door is closed, the fan is on
}
