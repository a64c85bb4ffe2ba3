package tree

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/fsys"
)

// nodes returns what may lie on a side: most of it alike.
func nodes(n int) []*Node {
	random := rand.New(rand.NewPCG(1, 2))
	var list []*Node
	now, ino := int64(1_700_000_000_123_456_789), uint64(5000)
	for i := range n {
		node := &Node{Path: manifest.Path(fmt.Sprintf("share/part%03d/file%04d.bin", i/20, i)), Mode: 0o644, Ino: ino, Ctime: now, Mtime: 1_704_067_200e9, Size: 20_000 + random.Int64N(20_000)}
		if i%20 == 0 {
			list = append(list, &Node{Path: manifest.Path(fmt.Sprintf("share/part%03d", i/20)), Mode: 0o755, kind: kindDir, Ino: ino + 7, Ctime: now, Mtime: now, Size: 4096})
		}
		ino, now = ino+1, now+random.Int64N(4_000_000)
		list = append(list, node)
	}
	return list
}

// An index that is stored reads back as it was, and takes little room.
func TestIndexRoundTrip(t *testing.T) {
	list := nodes(2000)
	size := len(list)
	list = append(list,
		&Node{Path: "t", kind: kindSymlink, Ino: 1, Ctime: -1 << 63, Mtime: 1<<63 - 1, Size: 3, UID: 1<<32 - 1, GID: 7, Mode: 0o7777},
		&Node{Path: "u"}, // known to be another by now
		&Node{Path: "v", Ino: 1 << 63},
		&Node{Path: "w", Mode: 0o600, Ino: 3, Ctime: 4, Mtime: 5},
	)
	x := &Index{Boot: "boot", Revision: 3, Whole: true}
	for i, n := range list {
		if x.add(n, uint64(i%3)); i == size-1 && len(x.entries.Bytes)/size > usualEntry {
			t.Errorf("%d bytes for each entry", len(x.entries.Bytes)/size)
		}
	}
	disk, err := fsys.OpenOS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := x.Store(disk, "index", record.Author{}); err != nil {
		t.Fatal(err)
	}
	y, err := LoadIndex(disk, "index")
	if err != nil || !x.Same(y) || x.Sum() != y.Sum() || y.Boot != "boot" || y.Revision != 3 || !y.Whole || y.Orderly {
		t.Fatalf("read back as %+v: %v", y, err)
	}
	r := y.read()
	for i, n := range list {
		if !r.next() || string(r.path) != string(n.Path) || r.was != stamps(n) || r.flags&(racy|bare) != uint64(i%3) {
			t.Fatalf("%q: read as %q %v %d, want %v", n.Path, r.path, r.was, r.flags, stamps(n))
		}
	}
	if r.next() || r.Err() != nil {
		t.Errorf("more than was written: %v", r.Err())
	}
}

// What every entry says is seen, without taking memory for each; one that is cut short
// says what it has.
func TestMark(t *testing.T) {
	list := nodes(2000)
	x := &Index{}
	seen := &Tree{}
	for _, n := range list {
		x.add(n, 0)
		seen.add(n)
	}
	if n := testing.AllocsPerRun(10, func() { x.Mark(seen, x.Record) }); n > 10 {
		t.Errorf("%v allocations for %d entries", n, len(list))
	}
	for c := seen.Nodes(); c.Next(); {
		if n := c.Node(); !n.Known() {
			t.Errorf("%q is not known", n.Path)
		}
	}
	list[5].Ctime++
	rest := &Tree{}
	for _, n := range list[1:] {
		rest.add(n)
	}
	if gone := x.Mark(rest, x.Record); len(gone) != 1 || !gone[list[0].Path] || rest.At(4).Known() || !rest.At(5).Known() {
		t.Errorf("gone: %v; %q is known: %v", gone, list[5].Path, rest.At(4).Known())
	}
	x.entries.Bytes = x.entries.Bytes[:len(x.entries.Bytes)-1]
	if gone := x.Mark(&Tree{}, x.Record); len(gone) != len(list)-1 {
		t.Errorf("cut short it tells of %d, want %d", len(gone), len(list)-1)
	}
}
