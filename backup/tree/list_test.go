package tree

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"tandem/backup/manifest"
)

// What a list gives back is what was added, by place, by path and in order.
func TestList(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var want []*Node
	for i := range 50 * inBlock {
		n := &Node{
			Path: manifest.Path(fmt.Sprintf("d%d/f%d%s", i/20, i, []string{"", ".a", "/b"}[i%3])),
			Size: random.Int64(), Alloc: random.Int64N(1 << 20), Mtime: -random.Int64(), Ctime: random.Int64(), Ino: random.Uint64(),
			Dev: uint64(i / 30), UID: uint32(i / 40), GID: uint32(i / 50), Nlink: uint32(i / 60), Mode: uint16(i / 70), kind: kind(i / 80 % 4), flags: flagFixed * uint8(i/90%2),
		}
		want = append(want, n)
	}
	slices.SortFunc(want, byPath)
	var l list
	for i, n := range want {
		if l.add(n); i%7 == 0 {
			l.seldom(n.Path).err = errors.New("rare")
		}
	}
	for i, n := range want {
		if n.rare = l.rare[n.Path]; i%5 == 0 {
			l.note(i, flagTold)
			n.flags |= flagTold
		}
	}
	i := 0
	for c := l.Nodes(); c.Next(); {
		if n := c.Node(); c.Place() != i || *n != *want[i] {
			t.Fatalf("node %d: %+v, want %d, %+v", c.Place(), n, i, want[i])
		}
		i++
	}
	if i != len(want) || i != l.Len() {
		t.Errorf("%d nodes of %d, want %d", i, l.Len(), len(want))
	}
	forward := l.Nodes()
	for i, n := range want {
		missing := n.Path + "!"
		if got := l.At(i); *got != *n {
			t.Errorf("node %d: %+v, want %+v", i, got, n)
		}
		if got := l.get(n.Path); got == nil || *got != *n || !l.Has(n.Path) {
			t.Errorf("%s: %+v, want %+v", n.Path, got, n)
		}
		if got := forward.On(n.Path); i%3 > 0 && (got == nil || *got != *n) || forward.On(missing) != nil {
			t.Errorf("%s, going forward: %+v, want %+v", n.Path, got, n)
		}
		if l.get(missing) != nil || l.Has(missing) {
			t.Errorf("something lies at %s", missing)
		}
	}
	c := l.Nodes()
	for i, n := range want {
		if got := c.Node; i%2 == 0 && (c.Before(n.Path) || *c.On(n.Path) != *n) || i%2 == 1 && (!c.Before(n.Path+"!") || *got() != *n) {
			t.Errorf("beside %s: %+v", n.Path, got())
		}
	}
	if c.Next() || c.Before("~") || c.On("~") != nil {
		t.Error("something comes after the last")
	}
	below := 0
	for c := l.Below("d7"); c.Next() && c.Node().Path < "d70"; below++ {
		if n := c.Node(); n.Path[:3] != "d7/" {
			t.Errorf("%s lies below d7", n.Path)
		}
	}
	if i != len(want) || below != 20 {
		t.Errorf("%d nodes, %d below d7; want %d and 20", i, below, len(want))
	}
	if (&list{}).Nodes().Next() || (&list{}).Has("x") {
		t.Error("an empty list has a node")
	}
}
