package backup

import (
	"path"
	"slices"
	"time"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/backup/tree"
)

// InstallOptions says what an operator at the device asked for by name.
type InstallOptions struct {
	AllowDowngrade bool
	AllowRevoked   bool
	Tight          bool      // of Tandem itself: without room for two, and without keeping the one before
	Reinstall      bool      // the installed version again
	Now            time.Time // modification time of files whose manifest has none
	// Pending lets the version wait to be confirmed.
	Pending bool
	// InPlace allows to write over what runs where there is no room beside it.
	// The caller has read the whole bundle before and found it good.
	InPlace bool
	// Both stages usr_data in the same pass.
	Both  bool
	Owner *Owner // of all files where Tandem may not choose; nil is as the manifest says
}

// Owner is who files belong to.
type Owner struct{ UID, GID uint32 }

// merged is a release on this device: its application files, and configuration
// merged three ways from the old default, what is here, and the new default.
type merged struct {
	record *record.Record
	// brought has the entries whose content comes from the release, each in the
	// place that it has in the release's list.
	brought   []*manifest.Entry
	shipped   []*manifest.Entry // that list
	elsewhere map[Path]bool     // paths of entries of brought that are not those in the release
	beside    []Path            // defaults put beside configuration that was edited here
	kept      []Path            // configuration that had to make way, and lies beside now
}

// bring notes that the content of the release's file p comes to e; nil is nowhere.
func (m *merged) bring(p Path, e *manifest.Entry) {
	if i, ok := manifest.Search(m.shipped, p); ok {
		m.brought[i] = e
	}
	if e.Path != p {
		m.elsewhere[e.Path] = true
	}
}

// to returns where the content of the release's file p comes to; nil for nowhere.
func (m *merged) to(p Path) *manifest.Entry {
	if i, ok := manifest.Search(m.shipped, p); ok {
		return m.brought[i]
	}
	return nil
}

// brings reports whether the content of what lies at p comes from the release.
func (m *merged) brings(p Path) bool {
	if m.elsewhere[p] {
		return true
	}
	e := m.to(p)
	return e != nil && e.Path == p
}

type merger struct {
	*merged
	release *Manifest
	old     Manifest                   // what system ran
	facts   *tree.Facts                // nil without an application
	can     func(*manifest.Entry) bool // whether the content of a default can be had; nil for all
	config  map[Path]*manifest.Entry
	moved   map[Path]Path // directories that had to make way → where they are now
}

// merge is pure: the facts say what is here, and can which defaults can be had;
// nil is all of them.
func merge(release *Manifest, system *Snapshot, o InstallOptions, can func(*manifest.Entry) bool) *merged {
	m := &merger{
		merged: &merged{
			record: &record.Record{Manifest: *release}, shipped: release.Files,
			brought: make([]*manifest.Entry, len(release.Files)), elsewhere: map[Path]bool{},
		},
		release: release, facts: system.facts, can: can, config: map[Path]*manifest.Entry{}, moved: map[Path]Path{},
	}
	if b := system.basis(); b != nil {
		m.old = b.Manifest
	}
	m.record.Manifest.Files = make([]*manifest.Entry, len(release.Files))
	for k, shipped := range release.Files {
		e := recorded(shipped, o)
		if release.IsConfig(e.Path) {
			m.record.Manifest.Files[k] = e
			m.shipped(e)
		} else {
			e = m.unchanged(e)
			m.record.Manifest.Files[k] = e
			m.brought[k] = e
		}
	}
	if m.facts != nil {
		for p := range m.facts.Paths() {
			m.local(p)
		}
		m.parents()
		m.links()
	}
	for _, e := range m.config {
		m.record.Config = append(m.record.Config, system.own.Shares(e))
	}
	slices.SortFunc(m.record.Config, manifest.ByPath)
	dropOrphans(m.record)
	return m.merged
}

// recorded is a release's entry as it is recorded on this device.
func recorded(shipped *manifest.Entry, o InstallOptions) *manifest.Entry {
	if o.Owner == nil && shipped.Mtime != 0 {
		return shipped
	}
	e := *shipped
	if o.Owner != nil {
		e.UID, e.GID = o.Owner.UID, o.Owner.GID
	}
	if e.Mtime == 0 {
		e.Mtime = o.Now.UnixNano()
	}
	return &e
}

// unchanged returns an application file as the release has it. Where the device
// has it unchanged, it stays as it is, its time included: only what changed is
// written.
func (m *merger) unchanged(e *manifest.Entry) *manifest.Entry {
	if e.Type != manifest.File {
		return e
	}
	if was := manifest.Find(m.old.Files, e.Path); was != nil && manifest.Equal(was, e) {
		return was
	}
	return e
}

// here returns what lies at p, as far as it is known. A hard link is told as a
// file of its own, since the file that it shares may not stay.
func (m *merger) here(p Path) *manifest.Entry {
	e := m.facts.Holds(p)
	if e == nil || e.Type != manifest.Hardlink {
		return e
	}
	to := m.facts.Holds(e.Link)
	if to == nil {
		return nil
	}
	own := *to
	own.Path = p
	return &own
}

// fixed reports whether what lies at p cannot be replaced.
func (m *merger) fixed(p Path) bool {
	if m.facts == nil {
		return false
	}
	n := m.facts.Tree.Get(p)
	return n != nil && n.Fixed()
}

func (m *merger) set(e *manifest.Entry) {
	m.config[e.Path] = e
	m.bring(e.Path, e)
}

// shipped merges a default of the release.
func (m *merger) shipped(e *manifest.Entry) {
	here := m.here(e.Path)
	def := manifest.Find(m.old.Files, e.Path)
	edited := here != nil && !m.asShipped(here, def)
	switch {
	case here == nil && m.deleted(e.Path):
	case m.can != nil && e.Type == manifest.File && !m.can(e): // it was not wanted when the bundle was read
		if here != nil {
			m.config[e.Path] = here
		}
	case here == nil:
		m.set(e)
	case here.Type == manifest.Dir && e.Type == manifest.Dir:
		m.set(m.attributes(e, here, def, e))
	case manifest.SameContent(here, e):
		m.config[e.Path] = m.attributes(here, here, def, e)
	case here.Type == manifest.Dir && (def == nil || def.Type != e.Type):
		m.set(e) // what is in it finds its place beside
	case e.Type == manifest.Dir && def != nil && def.Type == e.Type && !m.fills(e.Path):
		m.config[e.Path] = here // it was put there on purpose, and is in the way of nothing
	case here.Type != e.Type && (e.Type == manifest.Dir || e.Type == manifest.Symlink && !edited):
		m.set(e)
		if edited {
			m.moveBeside(e.Path, here)
		}
	case manifest.MatchAny(m.release.Replace, e.Path) && !m.fixed(e.Path):
		m.set(e)
	case !edited && !m.fixed(e.Path): // never edited here
		m.set(m.attributes(e, here, def, e))
	case def != nil && manifest.SameContent(def, e): // edited here, the same release after release
		m.config[e.Path] = m.attributes(here, here, def, e)
	default:
		m.config[e.Path] = m.attributes(here, here, def, e)
		m.putBeside(e, def)
	}
}

// attributes returns to, which is here or the new default, with attributes merged three ways, too:
// one that is other here than the old default had it stays.
func (m *merger) attributes(to, here, old, fresh *manifest.Entry) *manifest.Entry {
	if manifest.MatchAny(m.release.Replace, here.Path) {
		old = here
	}
	if old == nil || old.Type != here.Type || fresh.Type != here.Type || m.fixed(here.Path) {
		return to
	}
	return manifest.WithAttr(to, old, here, fresh)
}

// fills reports whether the release brings something into the directory dir that was not
// deleted here.
func (m *merger) fills(dir Path) bool {
	for _, e := range m.release.Files {
		if e.Path != dir && within(dir, e.Path) && !m.deleted(e.Path) {
			return true
		}
	}
	return false
}

// deleted reports whether a default of the release that runs was removed here on
// purpose: then the next release does not bring it back.
func (m *merger) deleted(p Path) bool {
	if m.facts == nil || !m.old.Knows(p) || !m.old.IsConfig(p) {
		return false
	}
	o := m.facts.At(p)
	return m.facts.Basis.Find(p) == nil || o != nil && o.Finding == tree.Deleted
}

// asShipped reports whether what is here is the default def, with nothing in a journal
// that the application has written since.
func (m *merger) asShipped(here, def *manifest.Entry) bool {
	return def != nil && manifest.SameContent(here, def) && !journaled(m.facts, here.Path)
}

// putBeside puts a default beside configuration that was edited here. What an
// earlier release left there goes, unless somebody edited it.
func (m *merger) putBeside(e, def *manifest.Entry) {
	beside := *e
	beside.Path = besides(e.Path, ".new", e, func(p Path) *manifest.Entry {
		has := taken(m.facts, p, m.here(p))
		if has == nil || def != nil && manifest.SameContent(has, def) {
			return m.config[p]
		}
		return has
	})
	m.config[beside.Path] = &beside
	m.bring(e.Path, &beside)
	m.beside = append(m.beside, beside.Path)
}

// moveBeside puts configuration that has to make way beside its old place.
func (m *merger) moveBeside(p Path, here *manifest.Entry) {
	e := *here
	e.Path = besides(p, ".conflict", here, m.there)
	m.config[e.Path] = &e
	m.kept = append(m.kept, e.Path)
}

func (m *merger) there(p Path) *manifest.Entry {
	if e := m.config[p]; e != nil {
		return e
	}
	if e := manifest.Find(m.release.Files, p); e != nil {
		return e
	}
	return taken(m.facts, p, m.here(p))
}

// local keeps what the device has and the release does not bring.
func (m *merger) local(p Path) {
	if m.config[p] != nil || m.record.Manifest.IsIgnored(p) || manifest.MatchAny(m.release.Remove, p) {
		return
	}
	def := manifest.Find(m.old.Files, p)
	if def != nil && !m.old.IsConfig(p) {
		return // an application file of the version before
	}
	here := m.here(p)
	if here == nil || here.Type != manifest.Dir && m.asShipped(here, def) {
		return // a default that is shipped no longer, and was never edited
	}
	if db := manifest.JournalOf(p); m.brings(db) && m.here(db) != nil {
		return // its database is another one now
	}
	if o := m.facts.At(p); def != nil && here.Type != manifest.Dir && o != nil && o.Finding.IsDamage() && o.Finding != tree.Attributes {
		return
	}
	switch above := m.inTheWay(p); {
	case above != "":
		m.move(above, here)
	case m.release.Knows(p):
		// What is as it was adopted is an application file of the version before.
		if brought := manifest.Find(m.release.Files, p); here.Type != manifest.Dir && !here.Adopted && !manifest.SameContent(here, brought) {
			m.moveBeside(p, here)
		}
	default:
		m.config[p] = here
	}
}

// inTheWay returns the directory above p that the release replaces by something
// else; "" if there is none.
func (m *merger) inTheWay(p Path) Path {
	for dir := path.Dir(string(p)); dir != "."; dir = path.Dir(dir) {
		d := Path(dir)
		if e := m.config[d]; e != nil && e.Type != manifest.Dir {
			return d
		}
		if e := manifest.Find(m.release.Files, d); e != nil && e.Type != manifest.Dir && m.config[d] == nil {
			return d
		}
	}
	return ""
}

// move puts what lies in a directory that makes way into one beside it.
func (m *merger) move(dir Path, here *manifest.Entry) {
	to, ok := m.moved[dir]
	if !ok {
		was := m.here(dir)
		if was == nil || was.Type != manifest.Dir {
			return
		}
		d := *was
		d.Path = besides(dir, ".conflict", was, m.there)
		m.config[d.Path], m.moved[dir] = &d, d.Path
		to = d.Path
	}
	e := *here
	e.Path = to + here.Path[len(dir):]
	m.config[e.Path] = &e
	for up := path.Dir(string(e.Path)); Path(up) != to; up = path.Dir(up) {
		if m.config[Path(up)] == nil {
			m.config[Path(up)] = &manifest.Entry{Path: Path(up), Type: manifest.Dir, Mode: 0o755, UID: e.UID, GID: e.GID, Mtime: e.Mtime}
		}
	}
	if e.Type != manifest.Dir {
		m.kept = append(m.kept, e.Path)
	}
}

// links keeps two names of one file that are, where that file stays as it is.
func (m *merger) links() {
	for p, e := range m.config {
		link := m.facts.Has(p)
		if link == nil || link.Type != manifest.Hardlink || !manifest.Equal(e, m.here(p)) {
			continue
		}
		if to := m.config[link.Link]; to != nil && to.Type == manifest.File && manifest.Equal(to, m.facts.Has(link.Link)) {
			m.config[p] = link
		}
	}
}

// parents keeps the directories of what is kept.
func (m *merger) parents() {
	for p := range m.config {
		for dir := path.Dir(string(p)); dir != "."; dir = path.Dir(dir) {
			d := Path(dir)
			if m.config[d] != nil || m.release.Knows(d) {
				continue
			}
			if here := m.here(d); here != nil && here.Type == manifest.Dir {
				m.config[d] = here
			}
		}
	}
}
