package manifest

import (
	"bytes"
	"path"
	"strings"
)

// IsConfig reports whether what lies at p may change on the device.
func (m *Manifest) IsConfig(p Path) bool {
	if len(m.Config) > 0 && MatchAny(m.Config, p) {
		return !m.IsIgnored(p)
	}
	return !m.Knows(p) && !m.IsIgnored(p)
}

// IsIgnored reports whether p is neither application file nor configuration:
// an ignore pattern names it, or it is of the passing files that every
// application leaves about, and no config pattern names it.
func (m *Manifest) IsIgnored(p Path) bool {
	switch {
	case m.Knows(p):
		return false
	case len(m.Ignore) > 0 && MatchAny(m.Ignore, p):
		return !MatchAny(m.Config, p)
	}
	return passing(p) && !m.names(p)
}

// names reports whether a config pattern means p by its name, not just by the
// directory that it is in.
func (m *Manifest) names(p Path) bool {
	for _, c := range m.Config {
		if last := path.Base(c); last != "*" && last != "**" && match(c, p) {
			return true
		}
	}
	return false
}

// passingFiles are what programs make for as long as they run, or while they
// write: a copy of them is worth nothing, or worse. docs/concepts.md has the list.
var passingFiles = []string{".pid", ".lock", ".sock", ".socket", ".swp", ".swo", "-shm"}

func passing(p Path) bool {
	for _, end := range passingFiles {
		if strings.HasSuffix(string(p), end) {
			return true
		}
	}
	return strings.HasPrefix(path.Base(string(p)), ".nfs")
}

// Journals are the ends of the names of what SQLite keeps beside a database: what is
// committed lies in both, and neither goes with another one.
var Journals = []string{"-wal", "-journal"}

// JournalOf returns the database that p is a journal of by its name; "" for none.
func JournalOf(p Path) Path {
	for _, end := range Journals {
		if db, ok := strings.CutSuffix(string(p), end); ok {
			return Path(db)
		}
	}
	return ""
}

// Captured reports whether e, a file of the release, is configuration: what the release
// brings of that is its default, and what lies on a side is captured.
func (m *Manifest) Captured(e *Entry) bool { return MatchAny(m.Config, e.Path) }

// Knows reports whether the release shipped something at p.
func (m *Manifest) Knows(p Path) bool { return Find(m.Files, p) != nil }

// Equal reports whether two entries of one path describe the same content
// with the same attributes. Times do not count.
func Equal(a, b *Entry) bool { return SameContent(a, b) && SameAttr(a, b) }

// SameContent reports whether two entries of one path are the same but for attributes.
func SameContent(a, b *Entry) bool {
	if a.Type != b.Type {
		return false
	}
	switch a.Type {
	case File:
		return a.Size == b.Size && *a.SHA256 == *b.SHA256
	case Symlink:
		return a.Target == b.Target
	case Hardlink:
		return a.Link == b.Link
	}
	return true
}

// SameAttr reports whether two entries of one path have the same owner, mode and
// extended attributes.
func SameAttr(a, b *Entry) bool {
	if a.Type == Hardlink { // those of the entry it links to
		return true
	}
	return (a.Type == Symlink || a.Mode == b.Mode) && a.UID == b.UID && a.GID == b.GID && sameXattrs(a.Xattrs, b.Xattrs)
}

// WithAttr returns e with each attribute of here where that is another than old has, and else
// that of fresh: an edit stays, and what nobody edited follows the release.
func WithAttr(e, old, here, fresh *Entry) *Entry {
	to := *e
	to.Mode, to.UID, to.GID, to.Xattrs = here.Mode, here.UID, here.GID, here.Xattrs
	if here.Mode == old.Mode {
		to.Mode = fresh.Mode
	}
	if here.UID == old.UID {
		to.UID = fresh.UID
	}
	if here.GID == old.GID {
		to.GID = fresh.GID
	}
	if sameXattrs(here.Xattrs, old.Xattrs) {
		to.Xattrs = fresh.Xattrs
	}
	if SameAttr(&to, e) {
		return e
	}
	return &to
}

// sameXattrs reports whether two sets of extended attributes are the same.
func sameXattrs(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for n, v := range a {
		if w, ok := b[n]; !ok || !bytes.Equal(v, w) {
			return false
		}
	}
	return true
}
