package encode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"tandem/packaging/delta"
	"tandem/packaging/delta/internal/codec"
	"tandem/packaging/delta/internal/sample"
)

var write = flag.Bool("write", false, "write the vectors of testdata anew")

const vectors = "../testdata"

// The vectors are the samples, and what the encoder makes of them.
func TestVectors(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestPinned does the same with several workers")
	}
	for _, p := range sample.Pairs(1, 100) {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			patch, err := Make(t.Context(), p.Old, p.New, Options{})
			if err != nil {
				t.Fatal(err)
			}
			for ext, content := range map[string][]byte{"old": p.Old, "new": p.New, "patch": patch.Bytes} {
				name := filepath.Join(vectors, p.Name+"."+ext)
				if *write {
					if err := os.WriteFile(name, content, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if want, err := os.ReadFile(name); err != nil || !bytes.Equal(content, want) {
					t.Errorf("%s: %d bytes, want %d (%v)", name, len(content), len(want), err)
				}
			}
		})
	}
}

// The bytes of patches stay what they are, on every machine and with any
// number of workers.
func TestPinned(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"text":  "27960f8aaedc1c39",
		"table": "292a530949ae390a",
		"noise": "441cfb02bf7b9ca0",
		"arm":   "8485e6a66328e2e4",
		"thumb": "8838746bb4002a32",
		"arm64": "808c2761df31fb97",
		"amd64": "3252e9449b593c3b",
	}
	for _, p := range sample.Pairs(2, 400)[6:] {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && p.Name != "text" {
				t.Skip("the workers do the same for each kind")
			}
			for _, workers := range []int{1, 3} {
				patch, err := Make(t.Context(), p.Old, p.New, Options{Workers: workers})
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprintf("%x", sha256.Sum256(patch.Bytes))[:16]; got != want[p.Name] {
					t.Errorf("%d workers: %d bytes, SHA-256 begins with %s, want %s", workers, len(patch.Bytes), got, want[p.Name])
				}
			}
		})
	}
}

func TestSuffixArray(t *testing.T) {
	t.Parallel()
	const seed = 7
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	texts := [][]byte{nil, []byte("a"), []byte("mississippi"), make([]byte, 300), []byte(strings.Repeat("abcabd", 60)), bytes.Repeat([]byte{255}, 100)}
	for range 3000 {
		letters := []int{1, 2, 3, 8, 256}[r.IntN(5)]
		b := make([]byte, r.IntN(200))
		for i := range b {
			b[i] = byte(r.IntN(letters))
		}
		texts = append(texts, b)
	}
	for _, s := range texts {
		want := make([]int32, len(s))
		for i := range want {
			want[i] = int32(i)
		}
		slices.SortFunc(want, func(a, b int32) int { return bytes.Compare(s[a:], s[b:]) })
		if got := suffixArray(s); !slices.Equal(got, want) {
			t.Fatalf("%q: %d, want %d", s, got, want)
		}
	}
}

// The longest match is the longest.
func TestLongest(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(8, 0))
	for range 300 {
		letters := 2 + r.IntN(4)
		random := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(r.IntN(letters))
			}
			return b
		}
		old := random(2 + r.IntN(60))
		m := newMatcher(old)
		for range 30 {
			text := random(1 + r.IntN(20))
			best := 0
			for i := range old {
				best = max(best, common(old[i:], text))
			}
			if n, at := m.longest(text); n != best || common(old[at:], text) != n {
				t.Fatalf("%d in %d: %d bytes at %d, want %d", text, old, n, at, best)
			}
		}
	}
}

// Operations cover the new file in order, whatever is replaced in them.
func TestReplace(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(9, 0))
	for range 500 {
		var ops []codec.Op
		at := int32(0)
		for range 1 + r.IntN(6) {
			o := codec.Op{Old: int32(r.IntN(1000)), New: at, Copy: int32(r.IntN(20)), Extra: int32(r.IntN(3) * r.IntN(10))}
			at += o.Copy + o.Extra
			ops = append(ops, o)
		}
		from := r.IntN(int(at) + 1)
		to := from + r.IntN(int(at)+1-from)
		source := func(ops []codec.Op) []int32 { // where each byte comes from
			var s []int32
			for _, o := range ops {
				if int(o.New) != len(s) {
					t.Fatalf("%v: an operation at %d, want %d", ops, o.New, len(s))
				}
				for i := range o.Copy {
					s = append(s, o.Old+i)
				}
				for range o.Extra {
					s = append(s, -1)
				}
			}
			return s
		}
		want := source(ops)
		by := []codec.Op{{Old: 5000, New: int32(from), Copy: int32(to - from)}}
		for i := from; i < to; i++ {
			want[i] = int32(5000 + i - from)
		}
		if got := source(replace(ops, from, to, by)); !slices.Equal(got, want) {
			t.Fatalf("%v with %d..%d replaced: %d, want %d", ops, from, to, got, want)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	old, new := make([]byte, 1<<20), []byte("x")
	_, err := Make(t.Context(), old, new, Options{Memory: 1 << 20})
	if !errors.Is(err, ErrMemory) || !strings.Contains(err.Error(), "1048576 may be used") {
		t.Errorf("error %v, want ErrMemory", err)
	}
	if _, err := Make(t.Context(), make([]byte, delta.MaxFile+1), new, Options{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Make(ctx, old, new, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
}

// As many operations as a shuffled file takes are more than there may be.
func TestManyOperations(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("one worker, for seconds: the race detector has TestPinned with several")
	}
	r := rand.New(rand.NewPCG(10, 0))
	const chunk, chunks = 20, codec.MaxOperations + 4000
	old := make([]byte, chunk*chunks)
	for i := range old {
		old[i] = byte(r.Uint32())
	}
	var new []byte
	for _, i := range r.Perm(chunks) {
		new = append(new, old[i*chunk:(i+1)*chunk]...)
	}
	m := newMatcher(old)
	ops, err := m.operations(t.Context(), new, slacks[0])
	if err != nil || len(ops) <= codec.MaxOperations {
		t.Fatalf("%d operations, %v: expected more than %d", len(ops), err, codec.MaxOperations)
	}
	if _, err := Make(t.Context(), old[:chunk*1000], new[:chunk*1000], Options{}); err != nil {
		t.Error(err)
	}
	j := newJob(old, new)
	part, err := j.match(t.Context(), m, new, slacks[0])
	if err != nil || len(part.Bytes) == 0 {
		t.Errorf("%v, %v", part, err)
	}
}

// Files that only begin like programs, or lie about their parts, are files.
func TestBrokenPrograms(t *testing.T) {
	t.Parallel()
	rounds := 60
	if testing.Short() {
		rounds = 3
	}
	const seed = 11
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pairs := sample.Pairs(3, 30)[9:]
	for round := range rounds {
		p := pairs[round%len(pairs)]
		old, new := bytes.Clone(p.Old), bytes.Clone(p.New)
		for _, b := range [][]byte{old, new} {
			for range 1 + r.IntN(12) {
				// Headers are at both ends, Go's tables between.
				i := []int{r.IntN(200), len(b) - 1 - r.IntN(700), r.IntN(len(b))}[r.IntN(3)]
				b[i] = []byte{0, 1, 0x7f, 0x80, 0xff, byte(r.Uint32())}[r.IntN(6)]
			}
		}
		if r.IntN(4) == 0 {
			old = old[:r.IntN(len(old))]
		}
		if _, err := Make(t.Context(), old, new, Options{}); err != nil {
			t.Errorf("round %d, %s: %v", round, p.Name, err)
		}
	}
}

// What is taken at most is what Memory says.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("-short is for the race detector, which has memory of its own")
	}
	p := sample.Pairs(1, 1500)[9]
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := Make(t.Context(), p.Old, p.New, Options{}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got, want := int64(after.HeapSys-before.HeapSys), Memory(int64(len(p.Old)), int64(len(p.New)), 1); got > want {
		t.Errorf("%d bytes were taken for %d: Memory says %d", got, len(p.Old), want)
	}
}

func FuzzMake(f *testing.F) {
	for _, p := range sample.Pairs(4, 12) {
		f.Add(p.Old, p.New)
	}
	f.Fuzz(func(t *testing.T, old, new []byte) {
		if _, err := Make(t.Context(), old, new, Options{}); err != nil { // it decodes and compares
			t.Error(err)
		}
	})
}

func BenchmarkMake(b *testing.B) {
	for _, p := range sample.Pairs(1, 3000)[9:] {
		b.Run(p.Name, func(b *testing.B) {
			b.SetBytes(int64(len(p.New)))
			for b.Loop() {
				if _, err := Make(b.Context(), p.Old, p.New, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
