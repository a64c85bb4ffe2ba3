package firmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/ota/fault"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Unpack reads a bundle to its end and unpacks it. It gives the version that is
// installed.
//
// After success the payload is verified and durable, and takes the place of one
// that was kept before: the state is unpacked. After an error or a power cut it
// is that, or what it was before; only where there is no room for both payloads
// the old one goes first, and the state may be none.
func (f *Firmware) Unpack(ctx context.Context, r *bundle.Reader, o backup.InstallOptions) (versioning.Version, error) {
	from, err := f.unpack(ctx, r, o)
	return from, fault.Unwritable(err)
}

func (f *Firmware) unpack(ctx context.Context, r *bundle.Reader, o backup.InstallOptions) (versioning.Version, error) {
	m := r.Manifest()
	old, err := f.Load()
	if err != nil {
		return versioning.Version{}, err
	}
	installed, err := f.admit(ctx, &old, m.Version, o)
	if err != nil {
		return installed, err
	}
	next := Record{
		State: Unpacked, Version: m.Version, Previous: installed, Downgrade: o.AllowDowngrade,
		Payload: payloads[0], Revoked: old.Revoked,
	}
	if old.Payload == payloads[0] {
		next.Payload = payloads[1]
	}
	next.Size, next.Sum = measure(m)
	if err := f.prepare(&old, next.Payload); err != nil {
		return installed, err
	}
	err = f.checkSpace(m)
	if errors.Is(err, backup.ErrNoSpace) && old.Payload != "" {
		f.log.Warnf("%s: making room: %s, which was still to be installed, is dropped", f.name, old.Version)
		old = Record{State: None, Revoked: old.Revoked}
		if err := errors.Join(f.save(old), f.tidy("")); err != nil {
			return installed, err
		}
		err = f.checkSpace(m)
	}
	if err != nil {
		return installed, err
	}
	if err := f.extract(r, f.path(next.Payload)); err != nil {
		return installed, errors.Join(err, f.tidy(old.Payload))
	}
	if err := f.save(next); err != nil {
		return installed, err
	}
	return installed, f.tidy(next.Payload)
}

// prepare makes the folder, durably, and leaves of payloads only what old names.
func (f *Firmware) prepare(old *Record, payload string) error {
	for _, dir := range []string{firmwareDir, path.Join(firmwareDir, f.name)} {
		if info, err := f.fs.Lstat(dir); err == nil && info.Type != fsys.TypeDir { // damage
			if err := fsys.RemoveAll(f.fs, dir); err != nil {
				return err
			}
		}
		if err := fsys.MkdirAll(f.fs, dir, 0o700); err != nil {
			return err
		}
		if err := f.fs.SyncDir(path.Dir(dir)); err != nil {
			return err
		}
	}
	return f.tidy(old.Payload)
}

// tidy removes all payloads but the one to keep.
func (f *Firmware) tidy(keep string) error {
	for _, name := range payloads {
		if name == keep {
			continue
		}
		if err := fsys.RemoveAll(f.fs, f.path(name)); err != nil {
			return err
		}
	}
	return nil
}

// checkSpace asks for room for a payload, before the first byte of it. The
// error wraps backup.ErrNoSpace.
func (f *Firmware) checkSpace(m *release.Manifest) error {
	space, err := f.fs.Space()
	if err != nil {
		return err
	}
	block := max(space.BlockSize, 1)
	need := &backup.SpaceError{Path: f.fs.Path(f.path("")), FreeBytes: space.Free, FreeEntries: space.Inodes}
	need.NeedBytes, need.NeedEntries = 4*block, 4 // the record, old and new, and the folder
	for i := range m.Files {
		e := &m.Files[i]
		if e.Type == manifest.Hardlink {
			continue
		}
		need.NeedEntries++
		need.NeedBytes += block
		if e.Type == manifest.File {
			need.NeedBytes += (e.Size + block - 1) / block * block
		}
	}
	if need.NeedBytes > need.FreeBytes || need.FreeEntries >= 0 && need.NeedEntries > need.FreeEntries {
		return need
	}
	return nil
}

// extract unpacks what r reads into dir, which does not exist, and makes it
// durable. It belongs to this process and is for nobody else to read; of modes
// the permission to execute is kept.
func (f *Firmware) extract(r *bundle.Reader, dir string) error {
	m := r.Manifest()
	_, total := m.Content()
	var done int64
	dirs := []string{dir}
	for i := range m.Files {
		if e := &m.Files[i]; e.Type == manifest.Dir {
			dirs = append(dirs, path.Join(dir, string(e.Path)))
		}
	}
	for _, d := range dirs {
		if err := f.fs.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	for {
		e, content, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := f.extractFile(path.Join(dir, string(e.Path)), uint32(e.Mode)&0o100|0o600, content); err != nil {
			return err
		}
		done += e.Size
		f.report("unpacking "+f.name, done, total)
	}
	if err := r.Finish(); err != nil {
		return err
	}
	for i := range m.Files {
		var err error
		switch e := &m.Files[i]; e.Type {
		case manifest.Symlink:
			err = f.fs.Symlink(string(e.Target), path.Join(dir, string(e.Path)))
		case manifest.Hardlink:
			err = f.fs.Link(path.Join(dir, string(e.Link)), path.Join(dir, string(e.Path)))
		}
		if err != nil {
			return err
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		d := dirs[i]
		if err := f.fs.SyncDir(d); err != nil {
			return err
		}
	}
	return f.fs.SyncDir(path.Dir(dir))
}

func (f *Firmware) extractFile(name string, mode uint32, content io.Reader) error {
	file, err := f.fs.Create(name, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (f *Firmware) report(what string, done, total int64) {
	if f.progress != nil {
		f.progress(what, done, total)
	}
}

// measure returns the size and the sum of the payload that m describes.
func measure(m *release.Manifest) (int64, digest.SHA256) {
	var size int64
	var s summer
	sums := map[backup.Path]digest.SHA256{}
	for i := range m.Files {
		e := &m.Files[i]
		if e.Type == manifest.File {
			size += e.Size
			sums[e.Path] = *e.SHA256
		}
	}
	for i := range m.Files {
		e := &m.Files[i]
		switch e.Type {
		case manifest.File:
			s.add(string(e.Path), fsys.TypeFile, sums[e.Path].String())
		case manifest.Hardlink:
			s.add(string(e.Path), fsys.TypeFile, sums[e.Link].String())
		case manifest.Symlink:
			s.add(string(e.Path), fsys.TypeSymlink, string(e.Target))
		case manifest.Dir:
			s.add(string(e.Path), fsys.TypeDir, "")
		}
	}
	return size, s.sum()
}

// summer sums up a tree, in whatever order it is walked.
type summer struct{ lines []string }

func (s *summer) add(name string, t fsys.Type, content string) {
	s.lines = append(s.lines, fmt.Sprintf("%q %s %q\n", name, t, content))
}

func (s *summer) sum() digest.SHA256 {
	slices.Sort(s.lines)
	h := digest.New()
	for _, l := range s.lines {
		io.WriteString(h, l) // a hash has no error to give
	}
	return digest.Sum(h)
}

// whole reports whether the payload that s names is what was unpacked.
func (f *Firmware) whole(ctx context.Context, s *Record) (bool, error) {
	var sums summer
	var walk func(dir, rel string) error
	walk = func(dir, rel string) error {
		entries, err := f.fs.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			name, shown := path.Join(dir, e.Name), path.Join(rel, e.Name)
			content := ""
			switch e.Type {
			case fsys.TypeFile:
				content, err = f.hash(ctx, name)
			case fsys.TypeSymlink:
				content, err = f.fs.Readlink(name)
			case fsys.TypeDir:
				err = walk(name, shown)
			}
			if err != nil {
				return err
			}
			sums.add(shown, e.Type, content)
		}
		return nil
	}
	err := walk(f.path(s.Payload), "")
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil: // a read error is damage
		f.log.WithError(err).Warnf("%s: the payload cannot be read", f.name)
		return false, nil
	}
	return sums.sum() == s.Sum, nil
}

func (f *Firmware) hash(ctx context.Context, name string) (string, error) {
	file, err := f.fs.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := digest.New()
	_, err = io.Copy(h, fsys.InContext(ctx, file))
	return digest.Sum(h).String(), err
}
