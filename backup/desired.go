package backup

import (
	"bytes"
	"context"
	"path"
	"slices"

	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// desired is the version that both sides shall hold.
type desired struct {
	record *Record
	kept   []Path // configuration that was kept beside the one that won
	lost   []Path // captured configuration that neither side has any more
	src    *sources
}

// aim works out what both sides shall hold once the side from has won. It
// reads configuration that was edited, and changes nothing.
func (in *inspector) aim(ctx context.Context, from SideName, system, usrData *Snapshot) (*desired, error) {
	winner, loser := system, usrData
	if from == UsrData {
		winner, loser = usrData, system
	}
	changes := map[Path]*Entry{} // of the captured configuration; nil goes
	captured := func(p Path) *Entry {
		if e, ok := changes[p]; ok {
			return e
		}
		return findEntry(winner.basis.Config, p)
	}
	changed := false
	set := func(e *Entry) {
		if old := captured(e.Path); old == nil || !equalEntries(old, e) {
			changed = true
		}
		changes[e.Path] = e
	}

	edits, err := in.entriesOf(ctx, winner, winner.Edited)
	if err != nil {
		return nil, err
	}
	var others []*Entry
	if loser.usable() && loser.Version.Compare(winner.Version) == 0 {
		if others, err = in.entriesOf(ctx, loser, loser.Edited); err != nil {
			return nil, err
		}
	}
	// The edits are hashed now: what one side lost may be what the other has.
	d := &desired{src: newSources(system, usrData)}
	for _, e := range edits {
		set(e)
	}
	for _, e := range winner.basis.Config {
		if !d.src.lacks(winner, e) {
			continue
		}
		d.lost = append(d.lost, e.Path)
		changed = true
		now, err := in.entriesOf(ctx, winner, []Path{e.Path})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil && len(now) > 0 {
			changes[e.Path] = now[0]
		} else {
			changes[e.Path] = nil
		}
	}

	if len(d.lost) > 0 {
		d.src = newSources(system, usrData) // what is left of them counts now
	}

	for _, e := range others {
		now := captured(e.Path)
		shipped := findEntry(winner.basis.Manifest.Files, e.Path)
		switch {
		case now == nil && shipped != nil && !matchAny(winner.basis.Manifest.Config, e.Path):
			// an application file of the version that won
		case now == nil:
			set(e)
		case sameContent(now, e) || e.Type == Dir || e.Type == Hardlink:
		case shipped != nil && sameContent(shipped, e):
			// the release's own default, not an edit
		case loser == system:
			beside := *e
			beside.Path += ".conflict"
			d.kept = append(d.kept, beside.Path)
			set(&beside)
		}
	}

	d.record = &Record{Manifest: winner.basis.Manifest, Revision: winner.Revision, Config: overlay(winner.basis.Config, changes)}
	dropOrphans(d.record)
	switch {
	case changed:
		d.record.Config = slices.Clone(d.record.Config)
		for i, e := range d.record.Config { // what was fresh then may have come of age
			if e.Fresh {
				d.record.Config[i] = in.captured(e)
			}
		}
		d.record.Revision = max(system.Revision, usrData.Revision) + 1
	case d.record.Revision == 0:
		d.record.Revision = 1
	}
	return d, nil
}

// overlay gives a sorted list of entries with changes made to it; the list
// itself stays as it is. A path that changes to nil goes.
func overlay(list []*Entry, changes map[Path]*Entry) []*Entry {
	if len(changes) == 0 {
		return list
	}
	merged := make([]*Entry, 0, len(list)+len(changes))
	for _, e := range list {
		if _, ok := changes[e.Path]; !ok {
			merged = append(merged, e)
		}
	}
	for _, e := range changes {
		if e != nil {
			merged = append(merged, e)
		}
	}
	slices.SortFunc(merged, byPath)
	return merged
}

// dropOrphans leaves out configuration whose directory is gone, or is no
// directory any more, and hard links to what is gone.
func dropOrphans(r *Record) {
	gone := map[Path]*Entry{}
	typeAt := func(p Path) EntryType {
		if _, ok := gone[p]; ok {
			return ""
		}
		return r.typeAt(p)
	}
	for _, e := range r.Config {
		dir := path.Dir(string(e.Path))
		if dir != "." && typeAt(Path(dir)) != Dir || e.Type == Hardlink && typeAt(e.Link) != File {
			gone[e.Path] = nil
		}
	}
	r.Config = overlay(r.Config, gone)
}

// entriesOf describes paths of a side as they are now.
func (in *inspector) entriesOf(ctx context.Context, s *Snapshot, paths []Path) ([]*Entry, error) {
	var entries []*Entry
	for _, p := range paths {
		f := s.tree.get(p)
		if f == nil {
			continue
		}
		e, err := s.tree.entry(ctx, f, false, in.buf)
		if err != nil {
			return nil, err
		}
		entries = append(entries, in.captured(e))
	}
	return entries, nil
}

// source is where the content of an entry can be read.
type source struct {
	fs    fsys.FS
	name  string
	side  SideName
	path  Path
	alloc int64 // bytes on the disk
	snap  *Snapshot
	live  bool // configuration that the application may be writing at this moment
}

// sources finds content by digest.
type sources struct {
	snaps  []*Snapshot
	offers [][]offer // as snaps; made when they are first asked for
}

// newSources makes sources of the two sides, and of other trees that may have
// what these lack.
func newSources(snaps ...*Snapshot) *sources { return &sources{snaps: snaps} }

// find gives a place that is believed to hold the content of e: the path of e
// or else any other one, each on side near if that has it.
func (s *sources) find(near SideName, e *Entry) (source, bool) {
	for _, n := range []SideName{near, near.Other()} {
		for _, snap := range s.snaps {
			if snap.Side != n {
				continue
			}
			if sum := snap.has(e.Path); sum != nil && *sum == *e.SHA256 {
				return snap.source(e.Path), true
			}
		}
	}
	if s.offers == nil {
		for _, snap := range s.snaps {
			s.offers = append(s.offers, snap.offers())
		}
	}
	for _, n := range []SideName{near, near.Other()} {
		for i, snap := range s.snaps {
			if snap.Side != n {
				continue
			}
			k, ok := slices.BinarySearchFunc(s.offers[i], e.SHA256, func(o offer, sum *digest.SHA256) int { return bytes.Compare(o.sum[:], sum[:]) })
			if ok {
				return snap.source(s.offers[i][k].path), true
			}
		}
	}
	return source{}, false
}

func (s *Snapshot) source(p Path) source {
	src := source{fs: s.tree.fs, name: s.tree.name(p), snap: s, side: s.Side, path: p}
	if f := s.tree.get(p); f != nil {
		src.alloc = f.alloc
	} else {
		src.alloc = s.basis.find(p).Size
	}
	return src
}

// usable says whether side n holds a version.
func (s *sources) usable(n SideName) bool {
	return slices.ContainsFunc(s.snaps, func(snap *Snapshot) bool { return snap.Side == n && snap.usable() })
}

// lacks says whether the content of e is damaged on snap and found nowhere.
func (s *sources) lacks(snap *Snapshot, e *Entry) bool {
	kind := snap.bad[e.Path]
	if kind == "" || kind == ProblemAttributes || e.Type != File {
		return false
	}
	_, ok := s.find(snap.Side, e)
	return !ok
}

// mendable says whether all application files that snap lacks can be had from
// somewhere. Configuration that is lost on both sides is a loss to report, but
// no reason to give up a version.
func (s *sources) mendable(snap *Snapshot) bool {
	if snap.bad["."] != "" && !s.usable(snap.Side.Other()) {
		return false
	}
	for e := range snap.basis.entries() {
		if s.lacks(snap, e) && !snap.basis.captures(e) {
			return false
		}
	}
	return true
}
