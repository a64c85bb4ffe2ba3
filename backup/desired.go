package backup

import (
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
	config := make(map[Path]Entry)
	for _, e := range winner.basis.Config {
		config[e.Path] = e
	}
	changed := false
	set := func(e Entry) {
		if old, ok := config[e.Path]; !ok || !equalEntries([]Entry{old}, []Entry{e}) {
			changed = true
		}
		config[e.Path] = e
	}

	edits, err := in.entriesOf(ctx, winner, winner.Edited)
	if err != nil {
		return nil, err
	}
	var others []Entry
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
		if !d.src.lacks(winner, &e) {
			continue
		}
		d.lost = append(d.lost, e.Path)
		changed = true
		now, err := in.entriesOf(ctx, winner, []Path{e.Path})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil && len(now) > 0 {
			config[e.Path] = now[0]
		} else {
			delete(config, e.Path)
		}
	}

	if len(d.lost) > 0 {
		d.src = newSources(system, usrData) // what is left of them counts now
	}

	known := make(map[Path]*Entry, len(winner.basis.Manifest.Files))
	for i := range winner.basis.Manifest.Files {
		known[winner.basis.Manifest.Files[i].Path] = &winner.basis.Manifest.Files[i]
	}
	for _, e := range others {
		now, clash := config[e.Path]
		shipped := known[e.Path]
		switch {
		case !clash && shipped != nil && !matchAny(winner.basis.Manifest.Config, e.Path):
			// an application file of the version that won
		case !clash:
			set(e)
		case sameContent(&now, &e) || e.Type == Dir || e.Type == Hardlink:
		case shipped != nil && sameContent(shipped, &e):
			// the release's own default, not an edit
		case loser == system:
			e.Path += ".conflict"
			d.kept = append(d.kept, e.Path)
			set(e)
		}
	}

	d.record = &Record{Manifest: winner.basis.Manifest, Revision: winner.Revision}
	for _, e := range config {
		d.record.Config = append(d.record.Config, e)
	}
	slices.SortFunc(d.record.Config, byPath)
	d.record.Config = dropOrphans(d.record)
	switch {
	case changed:
		for i := range d.record.Config { // what was fresh then may have come of age
			if e := &d.record.Config[i]; e.Fresh {
				*e = in.captured(*e)
			}
		}
		d.record.Revision = max(system.Revision, usrData.Revision) + 1
	case d.record.Revision == 0:
		d.record.Revision = 1
	}
	return d, nil
}

// dropOrphans leaves out configuration whose directory is gone, or is no
// directory any more, and hard links to what is gone.
func dropOrphans(r *Record) []Entry {
	types := make(map[Path]EntryType)
	for _, e := range r.Manifest.Files {
		if !matchAny(r.Manifest.Config, e.Path) {
			types[e.Path] = e.Type
		}
	}
	for _, e := range r.Config {
		types[e.Path] = e.Type
	}
	return slices.DeleteFunc(r.Config, func(e Entry) bool {
		dir := path.Dir(string(e.Path))
		gone := dir != "." && types[Path(dir)] != Dir || e.Type == Hardlink && types[e.Link] != File
		if gone {
			delete(types, e.Path)
		}
		return gone
	})
}

// entriesOf describes paths of a side as they are now.
func (in *inspector) entriesOf(ctx context.Context, s *Snapshot, paths []Path) ([]Entry, error) {
	var entries []Entry
	for _, p := range paths {
		if s.tree.get(p) == nil {
			continue
		}
		e, err := s.tree.entry(ctx, p, in.buf)
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
	offers []map[digest.SHA256]Path // as snaps; made when they are first asked for
}

// newSources makes sources of the two sides, and of other trees that may have
// what these lack.
func newSources(snaps ...*Snapshot) *sources { return &sources{snaps: snaps} }

// find gives a place that is believed to hold the content of e, on side near
// if that has one.
func (s *sources) find(near SideName, e *Entry) (source, bool) {
	if s.offers == nil {
		for _, snap := range s.snaps {
			s.offers = append(s.offers, snap.offers())
		}
	}
	for _, n := range []SideName{near, near.Other()} {
		for i, snap := range s.snaps {
			if p, ok := s.offers[i][*e.SHA256]; ok && snap.Side == n {
				return source{fs: snap.tree.fs, name: snap.tree.name(p), snap: snap, side: n, path: p, alloc: snap.tree.byPath[p].info.Alloc}, true
			}
		}
	}
	return source{}, false
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
	config := make(map[Path]bool, len(snap.basis.Config))
	for _, e := range snap.basis.Config {
		config[e.Path] = true
	}
	for _, e := range snap.basis.Tree() {
		if !config[e.Path] && s.lacks(snap, &e) {
			return false
		}
	}
	return true
}
