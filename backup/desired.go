package backup

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/digest"
)

// desired is the version that both sides shall hold.
type desired struct {
	record  *record.Record
	body    record.Body // of the record, once it is known
	kept    []Path      // configuration that was kept beside the one that won
	lost    []Path      // captured configuration that neither side has any more
	written []Path      // configuration of system that the record takes, or leaves out, as it is
	take    map[Path]bool
	aside   map[Path]bool // what usr_data has of these may be missed by somebody
	loses   map[Path]bool // what system has of these
	out     map[Path]bool // usr_data does not get what system has of these
	// forgotten is configuration that goes because a person said so.
	forgotten map[Path]bool
}

// aiming is what is desired while it is worked out.
type aiming struct {
	*desired
	basis   *record.Record           // what the side that won is to hold
	changes map[Path]*manifest.Entry // of its captured configuration; nil goes
	changed bool                     // so that this is another revision
}

// aim works out what both sides shall hold once the side from has won. It is
// pure: the facts say all. keeps tells which configuration keeps its last capture,
// and large of which usr_data cannot hold more; forget is configuration that goes, "" for
// none.
func aim(from SideName, system, usrData *Snapshot, src *sources, keeps, large func(Path) bool, forget Path) *desired {
	winner, loser := system, usrData
	if from == UsrData {
		winner, loser = usrData, system
	}
	a := &aiming{
		desired: &desired{take: map[Path]bool{}, aside: map[Path]bool{}, forgotten: map[Path]bool{}, out: map[Path]bool{}},
		basis:   winner.basis(), changes: map[Path]*manifest.Entry{},
	}
	a.capture(winner, src, keeps)
	a.dropLost(winner, src, keeps)
	if from == System {
		a.spare(usrData, large)
	}
	if loser == system && loser.usable() && (!loser.Adopted || loser.lowered()) {
		a.merge(loser)
	}
	if loser.usable() && winner.Version.Compare(loser.Version) == 0 && (winner.ownSum != loser.ownSum || loser.Adopted) && (from == UsrData || winner.Revision == loser.Revision) {
		a.part(loser)
	}
	if forget != "" {
		a.without(forget)
	}
	a.record = &record.Record{Manifest: a.basis.Manifest, Revision: max(winner.Revision, 1), Config: overlay(a.basis.Config, a.changes)}
	if a.changed {
		a.record.Revision = max(system.Revision, usrData.Revision) + 1
	}
	dropOrphans(a.record)
	return a.desired
}

// now returns the configuration at p as it is desired so far; nil for none.
func (a *aiming) now(p Path) *manifest.Entry {
	if e, ok := a.changes[p]; ok {
		return e
	}
	return manifest.Find(a.basis.Config, p)
}

// set takes e into the configuration.
func (a *aiming) set(e *manifest.Entry) {
	if old := a.now(e.Path); old == nil || !manifest.Equal(old, e) || old.Adopted {
		a.changed = true
	}
	a.changes[e.Path] = e
	a.take[e.Path] = true
	a.written = append(a.written, e.Path)
}

// drop leaves p out of the configuration.
func (a *aiming) drop(p Path) { a.changes[p], a.changed = nil, true }

// capture takes what was edited and deleted on the side that won, and notes what is lost.
func (a *aiming) capture(winner *Snapshot, src *sources, keeps func(Path) bool) {
	for i := range winner.facts.Odd {
		o := &winner.facts.Odd[i]
		switch {
		case keeps(o.Path):
		case o.Finding == tree.Edited:
			a.set(captured(winner.facts, o))
		case o.Finding == tree.Deleted:
			a.drop(o.Path)
			a.aside[o.Path] = o.Aside
			a.take[o.Path] = true
			a.written = append(a.written, o.Path)
		case o.Entry != nil && a.basis.Writable(o.Entry) && src.lost(winner, o):
			a.lost = append(a.lost, o.Path)
			a.take[o.Path] = true
			a.drop(o.Path)
			if o.Now != nil && o.Now.Type == manifest.File {
				a.changes[o.Path] = o.Now
			}
		}
	}
}

// dropLost leaves out captures that nobody has, so that they keep nothing else waiting. Where
// what is there instead is kept for later that makes no revision.
func (a *aiming) dropLost(winner *Snapshot, src *sources, keeps func(Path) bool) {
	for i := range winner.facts.Odd {
		o := &winner.facts.Odd[i]
		if o.Entry == nil || o.Entry.Type != manifest.File || !a.basis.Writable(o.Entry) || a.take[o.Path] {
			continue
		}
		if e := a.now(o.Path); e != nil && !src.has(winner.Side, e) {
			a.changes[o.Path], a.changed = nil, a.changed || !keeps(o.Path)
		}
	}
}

// spare leaves usr_data with the capture that it has of what it has no room for.
func (a *aiming) spare(usrData *Snapshot, large func(Path) bool) {
	for _, e := range a.basis.Config {
		if !large(e.Path) || e.Type != manifest.File || a.now(e.Path) != e {
			continue
		}
		has := usrData.facts.Has(e.Path)
		if has != nil && manifest.SameContent(has, e) {
			continue
		}
		a.drop(e.Path)
		a.out[e.Path] = true
		if was := usrData.basis(); was != nil && has != nil && was.Captures(has) && manifest.SameContent(has, was.Find(e.Path)) {
			a.changes[e.Path] = was.Find(e.Path)
		}
	}
}

// lowered reports whether somebody lowered the tag by hand: that asks for a restore, and
// makes no version of what lies there, as a higher tag does.
func (s *Snapshot) lowered() bool {
	return s.own != nil && s.Version.Compare(s.own.Manifest.Version) < 0
}

// merge keeps what was edited on system and not captured, where usr_data has won.
func (a *aiming) merge(system *Snapshot) {
	f, was := system.facts, system.facts.Basis
	edit := func(e *manifest.Entry) {
		wins, shipped := a.now(e.Path), manifest.Find(a.basis.Manifest.Files, e.Path)
		switch {
		case wins == nil && shipped != nil && !a.basis.Manifest.IsConfig(e.Path):
			// an application file of the version that won
		case wins == nil && was.Captures(e):
			// it was removed since, where the newer configuration comes from
		case wins == nil && !otherDatabase(a.basis, f, e.Path):
			a.set(e)
		case wins != nil && manifest.SameContent(wins, e) || e.Type == manifest.Dir || e.Type == manifest.Hardlink:
		case shipped != nil && manifest.SameContent(shipped, e):
			// the release's own default, not an edit
		default:
			beside := *e
			beside.Path = besides(e.Path, ".conflict", e, func(p Path) *manifest.Entry {
				if there := a.now(p); there != nil {
					return there
				}
				return taken(f, p, f.Has(p))
			})
			a.kept = append(a.kept, beside.Path)
			a.set(&beside)
		}
	}
	if system.Adopted { // what was written since the record is an edit all the same
		was = system.own
		for _, e := range f.Basis.Config {
			if old := was.Find(e.Path); (old == nil || !manifest.SameContent(old, e)) && !a.basis.Manifest.IsIgnored(e.Path) {
				edit(e)
			}
		}
	}
	for i := range f.Odd {
		o := &f.Odd[i]
		if o.Finding == tree.Edited && o.Now != nil && !a.basis.Manifest.IsIgnored(o.Path) {
			edit(captured(f, o))
		}
	}
}

// part has put aside what was captured on a side whose configuration is not what the other
// one has come from, as where two devices changed partitions: it is nowhere else.
func (a *aiming) part(loser *Snapshot) {
	parts := map[Path]bool{}
	for _, e := range loser.facts.Basis.Config {
		def, wins := manifest.Find(loser.facts.Basis.Manifest.Files, e.Path), a.now(e.Path)
		if loser.facts.At(e.Path) == nil && e.Type != manifest.Dir && (def == nil || !manifest.SameContent(def, e)) && (wins == nil || !manifest.SameContent(wins, e)) {
			parts[e.Path] = true
		}
	}
	if loser.Side == System {
		a.loses = parts
	} else {
		maps.Copy(a.aside, parts)
	}
}

// maxName bounds the name of a file in bytes, as Linux does.
const maxName = 255

// besides returns the path, beside p and with suffix, at which e can be put
// without replacing what somebody else made: there is nothing, or the same. A
// name that would be too long is shortened.
func besides(p Path, suffix string, e *manifest.Entry, there func(Path) *manifest.Entry) Path {
	dir, base := path.Split(string(p))
	for n := 0; ; n++ {
		end := suffix
		if n > 0 {
			end = fmt.Sprintf("%s.%d", suffix, n)
		}
		name := base
		if len(name)+len(end) > maxName {
			sum := digest.Of([]byte(base)).String()[:8]
			name = strings.ToValidUTF8(name[:maxName-len(end)-len(sum)-1], "") + "~" + sum
		}
		to := Path(dir + name + end)
		if has := there(to); has == nil || manifest.SameContent(has, e) {
			return to
		}
	}
}

// taken is what lies at p, has as far as that is known: a FIFO takes a name, too.
func taken(f *tree.Facts, p Path, has *manifest.Entry) *manifest.Entry {
	if has == nil && f != nil && f.Tree.Get(p) != nil {
		return &manifest.Entry{Path: p}
	}
	return has
}

// overlay returns a sorted list of entries with changes made to it; the list
// itself stays as it is. A path that changes to nil goes.
func overlay(list []*manifest.Entry, changes map[Path]*manifest.Entry) []*manifest.Entry {
	if len(changes) == 0 {
		return list
	}
	merged := make([]*manifest.Entry, 0, len(list)+len(changes))
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
	slices.SortFunc(merged, manifest.ByPath)
	return merged
}

// dropOrphans leaves out configuration whose directory is gone, or is no
// directory any more, and hard links to what is gone.
func dropOrphans(r *record.Record) {
	gone := map[Path]*manifest.Entry{}
	typeAt := func(p Path) manifest.EntryType {
		if _, ok := gone[p]; ok {
			return 0
		}
		return r.TypeAt(p)
	}
	parent := "." // of the entry before, which has one
	for _, e := range r.Config {
		if dir := path.Dir(string(e.Path)); dir != "." && dir != parent {
			if typeAt(Path(dir)) != manifest.Dir {
				gone[e.Path] = nil
				continue
			}
			parent = dir
		}
		if e.Type == manifest.Hardlink && typeAt(e.Link) != manifest.File {
			gone[e.Path] = nil
		}
	}
	r.Config = overlay(r.Config, gone)
}
