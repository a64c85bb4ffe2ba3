package backup

import (
	"context"
	"path"

	"tandem/backup/change"
	"tandem/backup/record"
	"tandem/backup/tree"
)

// straighten finds the application where the vendor's script nested it.
func straighten(ctx context.Context, a, b *found) error {
	da, db := nesting(a, b)
	for _, s := range []struct {
		snap  *found
		depth int
	}{{a, da}, {b, db}} {
		for range s.depth {
			s.snap.Nested = true
			t, err := tree.Scan(ctx, s.snap.tree.FS, path.Join(s.snap.tree.Root, change.AppsDir))
			if err != nil {
				return err
			}
			s.snap.tree = t
		}
	}
	return nil
}

// nesting returns how many directories too deep the application lies on each
// side. The vendor's script copies apps into an apps directory it has just
// made, so each of its copies lies one deeper than what it was made from. A
// record, where there is one, knows better than any guess.
func nesting(system, usrData *found) (int, int) {
	ds, du := depth(system), depth(usrData)
	for _, r := range []*record.Record{system.own, usrData.own} {
		if r == nil {
			continue
		}
		if r.Manifest.Knows(change.AppsDir) || r.Find(change.AppsDir) != nil {
			return 0, 0
		}
		if system.own != nil {
			ds = 0
		}
		if usrData.own != nil {
			du = 0
		}
		return max(ds, 0), max(du, 0)
	}
	switch {
	case ds < 0 && du < 0:
		return 0, 0
	case ds < 0: // only the backup is left, and the script nested it
		return 0, du
	case du < 0: // nothing was ever copied
		return 0, 0
	case du > ds:
		return 0, du - ds
	case ds > du: // restored by the script from a backup that it had nested
		base := max(du-1, 0)
		return ds - base, du - base
	}
	return 0, 0
}

// depth counts the directories that hold nothing but a directory "apps"; -1
// without an application.
func depth(s *found) int {
	if s.tree.Empty() {
		return -1
	}
	n, at := 0, Path("")
	for {
		next := Path(path.Join(string(at), change.AppsDir))
		f := s.tree.Get(next)
		if f == nil || !f.IsDir() {
			return n
		}
		for c := s.tree.Nodes(); c.Next(); {
			f := c.Node()
			if dir := path.Dir(string(f.Path)); f.Path != next && (dir == string(at) || dir == "." && at == "") {
				return n
			}
		}
		n, at = n+1, next
	}
}
