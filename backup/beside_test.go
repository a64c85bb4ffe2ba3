package backup

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/backup/change"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// beats calls beat before each operation on a side.
type beats struct {
	fsys.FS
	beat func()
}

func (b beats) Lstat(name string) (fsys.Info, error)     { b.beat(); return b.FS.Lstat(name) }
func (b beats) ReadDir(name string) ([]fsys.Info, error) { b.beat(); return b.FS.ReadDir(name) }
func (b beats) Mkdir(name string, mode uint32) error     { b.beat(); return b.FS.Mkdir(name, mode) }
func (b beats) Link(old, new string) error               { b.beat(); return b.FS.Link(old, new) }
func (b beats) Rename(old, new string) error             { b.beat(); return b.FS.Rename(old, new) }
func (b beats) Exchange(x, y string) error               { b.beat(); return b.FS.Exchange(x, y) }
func (b beats) Remove(name string) error                 { b.beat(); return b.FS.Remove(name) }
func (b beats) SetAttr(name string, a fsys.Attr, was fsys.Info) error {
	b.beat()
	return b.FS.SetAttr(name, a, was)
}
func (b beats) SyncDir(name string) error { b.beat(); return b.FS.SyncDir(name) }
func (b beats) Sync() error               { b.beat(); return b.FS.Sync() }
func (b beats) Create(name string, mode uint32) (fsys.File, error) {
	b.beat()
	return b.FS.Create(name, mode)
}

func (b beats) Open(name string) (fsys.File, error) {
	b.beat()
	f, err := b.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return beatsFile{f, b.beat}, nil
}

type beatsFile struct {
	fsys.File
	beat func()
}

func (f beatsFile) Read(p []byte) (int, error) { f.beat(); return f.File.Read(p) }
func (f beatsFile) Stat() (fsys.Info, error)   { f.beat(); return f.File.Stat() }
func (f beatsFile) Sync() error                { f.beat(); return f.File.Sync() }

const (
	conf   = "apps/etc/app.conf"
	newest = "newest"
)

// styles are the ways in which applications write conf, in two steps. What
// the first one gives is kept for the second.
var styles = []struct {
	name   string
	first  func(l *lab) (keep uint64)
	second func(l *lab, kept uint64)
}{
	{"at once", func(l *lab) uint64 { l.fill(newest); return 0 }, func(*lab, uint64) {}},
	{"emptied first", func(l *lab) uint64 { l.fill(""); return l.inode(conf) }, (*lab).fillOpen},
	{"half, then all of it", func(l *lab) uint64 { l.fill("ne"); return l.inode(conf) }, (*lab).fillOpen},
	{"removed first", func(l *lab) uint64 { l.remove(System, conf); return 0 }, func(l *lab, _ uint64) { l.write(System, conf, newest) }},
	{"temporary file", func(l *lab) uint64 { l.write(System, conf+".tmp", newest); return 0 },
		func(l *lab, _ uint64) { l.must(l.fs(System).Rename(conf+".tmp", conf)) }},
	{"old one moved aside", func(l *lab) uint64 { l.must(l.fs(System).Rename(conf, conf+"~")); return 0 },
		func(l *lab, _ uint64) { l.write(System, conf, newest) }},
}

func (l *lab) fill(content string) {
	l.t.Helper()
	l.must(l.m.Disk("system").Edit(conf, func([]byte) []byte { return []byte(content) }))
}

func (l *lab) inode(name string) uint64 {
	l.t.Helper()
	info, err := l.fs(System).Lstat(name)
	l.must(err)
	return info.Ino
}

// fillOpen writes a file that has been open since it had that inode.
func (l *lab) fillOpen(ino uint64) {
	l.t.Helper()
	if now := l.inode(conf); now != ino {
		l.t.Errorf("the application has inode %d open, %s is %d now", ino, conf, now)
	}
	l.fill(newest)
}

// An application writes its configuration beside a reconciliation, its two
// steps before any two of the operations: what it wrote last is what is backed
// up in the end.
func TestApplicationWritesBeside(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a search in memory, with one thing after the other")
	}
	for _, s := range []struct {
		name string
		lone bool // only system has conf: where that is being written, damage remains for now
		make func(l *lab)
	}{
		{"nothing to do", false, func(*lab) {}},
		{"capture", false, func(l *lab) { l.write(System, conf, "edited") }},
		{"capture of another file", false, func(l *lab) { l.write(System, "apps/etc/other.conf", "edited") }},
		{"repair of system", false, func(l *lab) { l.remove(System, "apps/bin/app") }},
		{"repair of usr_data", true, func(l *lab) { l.remove(UsrData, conf) }},
		{"usr_data lost", true, func(l *lab) { l.erase(UsrData) }},
		{"back up", false, func(l *lab) {
			for name, content := range releaseFiles("2.0.0") {
				l.write(System, "apps/"+name, content)
			}
			l.write(System, change.TagFile, "2.0.0\n")
		}},
	} {
		for _, style := range styles {
			t.Run(s.name+", "+style.name, func(t *testing.T) {
				t.Parallel()
				start := newLab(t, memfs.Options{})
				start.release(System, "1.0.0")
				start.mustBoot()
				start.m.Advance(time.Hour)
				s.make(start)
				start.m.Advance(time.Hour)
				for _, between := range []struct{ gap, stride int }{{1, 1}, {7, 5}, {math.MaxInt, 5}} {
					gap := between.gap
					if gap > 1 && style.name == styles[0].name {
						continue // its second step does nothing
					}
					for at := 1; ; at += between.stride {
						l := start.clone()
						l.t = t
						n, done := 0, 0
						var kept uint64
						beat := func() {
							n++
							l.m.Advance(time.Millisecond)
							if done == 0 && n == at {
								done++
								kept = style.first(l)
							} else if done == 1 && n-at >= gap {
								done++
								style.second(l, kept)
							}
						}
						r := l.reconciler()
						r.System.FS, r.UsrData.FS = beats{r.System.FS, beat}, beats{r.UsrData.FS, beat}
						res, err := r.Reconcile(context.Background(), Options{})
						if done == 0 {
							break
						}
						if done == 1 {
							l.m.Advance(time.Second)
							style.second(l, kept)
						}
						l.m.Advance(time.Second)
						l.running(l.reconciler())
						if err != nil && !(s.lone && errors.Is(err, ErrDamage)) {
							t.Errorf("operation %d, then %d: %v", at, gap, err)
						}
						if len(res.Lost) > 0 && !(s.lone && gap == math.MaxInt) {
							t.Errorf("told to be lost: %q", res.Lost)
						}
						l.bothHave(newest)
						if t.Failed() {
							t.Fatalf("before operation %d, then %d later", at, gap)
						}
					}
				}
			})
		}
	}
}

// A directory of configuration that became a link is captured like any other edit: what
// is deleted as soon as that is done stays deleted.
func TestDeletedAfterADirectoryBecameALink(t *testing.T) {
	t.Parallel()
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.write(System, "apps/data/a", "a")
	l.write(System, "apps/data/sub/b", "b")
	l.m.Advance(time.Minute)
	l.mustBoot()
	l.must(l.fs(System).Rename("apps/data/sub", "apps/data/new"))
	l.must(l.fs(System).Symlink("new", "apps/data/sub"))
	l.m.Advance(time.Minute)
	r, captured := l.reconciler(), false
	r.System.FS = beats{l.fs(System), func() {
		there, err := l.fs(UsrData).Lstat("apps/data/sub")
		_, going := l.fs(UsrData).Lstat(change.CommitFile)
		if err == nil && there.Type == fsys.TypeSymlink && fsys.IsNotExist(going) && !captured {
			captured = true
			l.remove(System, "apps/data/a")
		}
	}}
	l.running(r)
	l.m.Advance(time.Minute)
	l.mustBoot()
	if !captured {
		t.Error("the link was not captured")
	}
	for _, side := range []SideName{System, UsrData} {
		if _, err := l.fs(side).Lstat("apps/data/a"); !fsys.IsNotExist(err) {
			t.Errorf("%s has what was deleted: %v", side, err)
		}
	}
}

// What an application writes into a file as soon as it was restored is an edit.
func TestWrittenAsSoonAsItIsThere(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]memfs.Options{"exchange": {}, "two renames": {NoExchange: true}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, o)
			l.mustInstall("1.0.0", nil, InstallOptions{})
			l.write(System, conf, "edited")
			l.m.Advance(time.Minute)
			l.mustBoot()
			l.remove(System, conf, "apps/bin")
			l.m.Restart(memfs.Everything())
			r, written := l.reconciler(), false
			r.System.FS = beats{l.fs(System), func() {
				if _, err := l.fs(System).Lstat(conf); err == nil && !written {
					written = true
					l.fill(newest)
				}
			}}
			l.running(r)
			l.m.Advance(time.Minute)
			if _, err := l.reconciler().Reconcile(context.Background(), Options{Full: true}); err != nil || !written {
				t.Errorf("verify: %v; it was there: %v", err, written)
			}
			l.bothHave(newest)
		})
	}
}

// noIndex is a side that has no room for an index.
type noIndex struct{ fsys.FS }

func (n noIndex) Create(name string, mode uint32) (fsys.File, error) {
	if strings.HasPrefix(name, change.IndexFile) {
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	return n.FS.Create(name, mode)
}

// What is deleted after a capture stays deleted, also where the index could not follow.
func TestDeletedAfterAnIndexThatDidNotFollow(t *testing.T) {
	t.Parallel()
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.write(System, "apps/data/a", "a")
	l.m.Advance(time.Minute)
	l.mustBoot()
	l.write(System, conf, newest)
	l.m.Advance(time.Minute)
	r := l.reconciler()
	r.System.FS = noIndex{l.fs(System)}
	l.running(r)
	l.bothHave(newest)
	l.remove(System, "apps/data/a")
	l.m.Advance(time.Minute)
	l.mustBoot()
	for _, side := range []SideName{System, UsrData} {
		if _, err := l.fs(side).Lstat("apps/data/a"); !fsys.IsNotExist(err) {
			t.Errorf("%s has what was deleted: %v", side, err)
		}
	}
}
