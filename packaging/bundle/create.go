package bundle

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Options say what a bundle is to be.
type Options struct {
	Kind       release.Kind // "" means App
	App        string
	Version    versioning.Version
	Compatible []string
	Config     []string
	Ignore     []string
	Replace    []string
	Remove     []string
	// Time is SOURCE_DATE_EPOCH: the time of the release and of all its files.
	// 0 leaves both unsaid.
	Time int64
	// Tell is told what was left out of the bundle, and what may have been
	// forgotten, for people; nil is nobody.
	Tell func(string)
	// Builder is who makes the bundle: files that belong to somebody else, who is
	// not root, are told of.
	Builder int
	// Attributes gives the names of all attributes of an entry, also of those that
	// fsys.FS keeps to itself, such as security.ima. nil: there are no others.
	Attributes func(name string) ([]string, error)
	// Frame is how many bytes small files that share a frame of the payload have
	// together at most; 0 is DefaultFrame.
	Frame int64
	Signing
}

func (o *Options) manifest() *release.Manifest {
	m := &release.Manifest{
		Kind:       o.Kind,
		App:        o.App,
		Version:    o.Version,
		Compatible: o.Compatible,
		Time:       o.Time,
		Config:     o.Config,
		Ignore:     o.Ignore,
		Replace:    o.Replace,
		Remove:     o.Remove,
		Files:      release.Files{},
	}
	if m.Kind == "" {
		m.Kind = release.App
	}
	return m
}

// Create makes a bundle of the tree app and writes it to the file name of out.
// The same tree and options give the same bytes, wherever and whenever: files
// belong to root, their times are that of the release, their order is that of
// their paths; modes and extended attributes are those of the tree.
//
// After success the bundle is durable. After an error or a power cut name is
// what it was before, or the new bundle, whole; name+".tmp" and
// name+".payload.tmp" may be left, which the next Create replaces. Errors wrap
// ErrOptions or ErrTree where those are at fault.
func Create(ctx context.Context, app fsys.FS, out fsys.FS, name string, o Options) (m *release.Manifest, err error) {
	m = o.manifest()
	if err := m.CheckFacts(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	tell := &tellers{tell: o.Tell}
	if err := scan(ctx, app, m, &o, tell); err != nil {
		return nil, err
	}
	if err := keepable(m); err != nil {
		return nil, fmt.Errorf("%s: %w", app.Path("."), err)
	}
	advise(m, tell)
	tell.say()
	cut, err := newCuts(o.Frame)
	if err != nil {
		return nil, err
	}
	enc, err := newEncoder()
	if err != nil {
		return nil, err
	}
	payload := name + ".payload.tmp"
	defer func() {
		if e := out.Remove(payload); e != nil && !fsys.IsNotExist(e) && err == nil {
			err = e
		}
	}()
	frames, err := writePayload(ctx, treeOpener{app}, out, payload, newLayout(m), cut, enc)
	if err != nil {
		return nil, err
	}
	if err := m.Check(); err != nil { // what no reader would take is not written
		return nil, fmt.Errorf("%w: %s: %v", ErrTree, app.Path("."), err)
	}
	b, err := carry(m, frames, enc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", app.Path("."), err)
	}
	if b.targets, err = o.targets(*b.signed(), nil); err != nil {
		return nil, err
	}
	f, err := out.Open(payload)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b.payload = fsys.InContext(ctx, f)
	return m, write(out, name, &o.Signing, b)
}

// carry makes the part of the head that is signed.
func carry(m *release.Manifest, frames []Frame, enc *encoder) (*content, error) {
	raw, err := m.Encode()
	if err != nil {
		return nil, err
	}
	if len(raw) > release.MaxManifest {
		return nil, fmt.Errorf("%w: its release.json would have %d bytes, at most %d are allowed", ErrTree, len(raw), release.MaxManifest)
	}
	parts := &Parts{Release: Whole{Length: int64(len(raw)), SHA256: digest.Of(raw)}, Frames: frames}
	b := &content{release: enc.encode(raw), mtime: m.Time, length: parts.Payload()}
	if b.parts, err = parts.Encode(); err != nil {
		return nil, err
	}
	if len(b.release) > maxPacked || len(b.parts) > maxParts {
		return nil, fmt.Errorf("%w: the description of its files is too long: %d and %d bytes, at most %d and %d are allowed", ErrTree, len(b.release), len(b.parts), maxPacked, maxParts)
	}
	return b, nil
}

// scan lists the tree, without hashes, sorted by path.
func scan(ctx context.Context, app fsys.FS, m *release.Manifest, o *Options, tell *tellers) error {
	s := &scanner{app: app, m: m, o: o, tell: tell}
	if err := s.dir(ctx, "."); err != nil {
		return err
	}
	if len(m.Files) == 0 {
		return fmt.Errorf("%w: %s is empty", ErrTree, app.Path("."))
	}
	slices.SortFunc(m.Files, func(a, b manifest.Entry) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return findLinks(app, m)
}

// scanner lists a tree into m.
type scanner struct {
	app  fsys.FS
	m    *release.Manifest
	o    *Options
	tell *tellers
}

func (s *scanner) dir(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	infos, err := s.app.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, info := range infos {
		name := path.Join(dir, info.Name)
		e := manifest.Entry{Path: backup.Path(name), Mode: manifest.Mode(info.Mode), Mtime: s.m.Time * int64(time.Second)}
		switch info.Type {
		case fsys.TypeFile:
			e.Type, e.Size = manifest.File, info.Size
		case fsys.TypeDir:
			e.Type = manifest.Dir
		case fsys.TypeSymlink:
			e.Type, e.Mode = manifest.Symlink, 0
			target, err := s.app.Readlink(name)
			if err != nil {
				return err
			}
			e.Target = backup.Path(target)
		default:
			return fmt.Errorf("%w: %s is a socket, a FIFO or a device: expected files, directories and links", ErrTree, s.app.Path(name))
		}
		if info.Type != fsys.TypeSymlink {
			if e.Xattrs, err = s.xattrs(name); err != nil {
				return err
			}
		}
		if info.UID != 0 && int(info.UID) != s.o.Builder {
			s.tell.add("left out: the owner of %s: on devices all belongs to root", e.Path)
		}
		if len(s.m.Files) == release.MaxFiles {
			return fmt.Errorf("%w: %s has more than %d entries", ErrTree, s.app.Path("."), release.MaxFiles)
		}
		s.m.Files = append(s.m.Files, e)
		if info.Type == fsys.TypeDir {
			if err := s.dir(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// xattrs returns the extended attributes that mean the same on every machine. What
// only the machine that a file lies on can make is refused: without it a device
// that asks for it would not run the file.
func (s *scanner) xattrs(name string) (map[string][]byte, error) {
	all, err := s.app.Xattrs(name)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(all))
	if s.o.Attributes != nil {
		more, err := s.o.Attributes(name)
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
		slices.Sort(names)
		names = slices.Compact(names)
	}
	var kept map[string][]byte
	for _, n := range names {
		switch {
		case n == "security.ima" || n == "security.evm":
			return nil, fmt.Errorf("%w: %s has the attribute %s, which no bundle can carry: remove it, or sign the file on the device", ErrTree, s.app.Path(name), n)
		case n == "security.selinux": // each machine labels files by its own rules
			continue
		case n != "security.capability" && !strings.HasPrefix(n, "user."):
			s.tell.add("left out: the attribute "+strings.ReplaceAll(n, "%", "%%")+" of %s", backup.Path(name))
			continue
		}
		if !utf8.ValidString(n) {
			return nil, fmt.Errorf("%w: %s: extended attribute %q is not UTF-8", ErrTree, s.app.Path(name), n)
		}
		if kept == nil {
			kept = make(map[string][]byte)
		}
		kept[n] = all[n]
	}
	return kept, nil
}

// findLinks turns all names but the first of a file into hard links.
func findLinks(app fsys.FS, m *release.Manifest) error {
	type inode struct{ dev, ino uint64 }
	first := make(map[inode]backup.Path)
	for i := range m.Files {
		e := &m.Files[i]
		if e.Type != manifest.File {
			continue
		}
		info, err := app.Lstat(string(e.Path))
		if err != nil {
			return err
		}
		if info.Nlink < 2 {
			continue
		}
		id := inode{info.Dev, info.Ino}
		if to, ok := first[id]; ok {
			m.Files[i] = manifest.Entry{Path: e.Path, Type: manifest.Hardlink, Link: to}
			continue
		}
		first[id] = e.Path
	}
	return nil
}
