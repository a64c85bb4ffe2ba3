package bundle

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/packaging/release"
)

// Extract unpacks the bundle that r reads into root, which must be empty:
// modes are set, owners and extended attributes are not. Nothing is written
// outside of root.
//
// The files are complete and verified if it returns nil. After an error some
// of them may be there, unverified; none of them is made durable.
func Extract(r *Reader, root *os.Root) error {
	if err := checkEmpty(root); err != nil {
		return err
	}
	m := r.Manifest()
	for i := range m.Files {
		if e := &m.Files[i]; e.Type == manifest.Dir {
			if err := root.Mkdir(string(e.Path), 0o700); err != nil {
				return err
			}
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
		if err := extractFile(root, e, content); err != nil {
			return err
		}
	}
	if err := r.Finish(); err != nil {
		return err
	}
	if err := extractBase(r, root, m); err != nil {
		return err
	}
	return extractRest(root, m)
}

// extractBase takes the files that a delta bundle does not carry from its base.
func extractBase(r *Reader, root *os.Root, m *release.Manifest) error {
	if r.parts.Delta == nil {
		return nil
	}
	for i := range m.Files {
		e := &m.Files[i]
		if e.Type != manifest.File {
			continue
		}
		if _, err := root.Lstat(string(e.Path)); err == nil {
			continue // the bundle carried it
		}
		if err := extractFrom(r.base, root, e); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	return nil
}

func extractFrom(base Base, root *os.Root, e *manifest.Entry) error {
	f, err := base.Open(*e.SHA256, e.Size)
	if err != nil {
		return err
	}
	defer f.Close()
	h := digest.New()
	if err := extractFile(root, e, io.TeeReader(io.NewSectionReader(f, 0, e.Size), h)); err != nil {
		return err
	}
	if digest.Sum(h) != *e.SHA256 {
		return fmt.Errorf("%w: what is there has another SHA-256 than %s", ErrBase, e.SHA256)
	}
	return nil
}

func checkEmpty(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	switch names, err := d.Readdirnames(1); {
	case len(names) > 0:
		return fmt.Errorf("%s is not empty: expected a directory without anything in it", root.Name())
	case err != nil && err != io.EOF:
		return err
	}
	return nil
}

func extractFile(root *os.Root, e *manifest.Entry, content io.Reader) error {
	f, err := root.OpenFile(string(e.Path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Chmod(fileMode(e.Mode))
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// extractRest makes the links, and sets the directories' modes last, since
// they may forbid writing; the deepest first.
func extractRest(root *os.Root, m *release.Manifest) error {
	for i := range m.Files {
		var err error
		switch e := &m.Files[i]; e.Type {
		case manifest.Symlink:
			err = root.Symlink(string(e.Target), string(e.Path))
		case manifest.Hardlink:
			err = root.Link(string(e.Link), string(e.Path))
		}
		if err != nil {
			return err
		}
	}
	for i := len(m.Files) - 1; i >= 0; i-- {
		if e := &m.Files[i]; e.Type == manifest.Dir {
			if err := root.Chmod(string(e.Path), fileMode(e.Mode)); err != nil {
				return err
			}
		}
	}
	return nil
}

func fileMode(m manifest.Mode) fs.FileMode {
	mode := fs.FileMode(m) & fs.ModePerm
	for bit, flag := range map[manifest.Mode]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	return mode
}
