package self

import (
	"context"
	"errors"
	"io"
	"path"
	"slices"

	"tandem/backup"
	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/child"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/versioning"
)

// The second copy lies on usr_data. kept.json names the program that it is about; a
// program that it does not name is of no use.
const (
	keptDir  = ".tandem/self"
	keptKind = "kept"
)

// programs are the names that a kept program may have: a new one takes the name
// that kept.json does not use.
var programs = [2]string{"tandem.a", "tandem.b"}

// Kept is what kept.json says.
type Kept struct {
	Version versioning.Version   `json:"version,omitzero"` // zero: none is kept
	Program string               `json:"program,omitempty"`
	Proof   *bundle.Proof        `json:"proof,omitempty"`
	Revoked []versioning.Version `json:"revoked,omitempty"` // that failed here, oldest first
}

// Copy is the second copy of the confirmed program.
type Copy struct{ fs fsys.FS }

// NewCopy makes the Copy on a side.
func NewCopy(side fsys.FS) *Copy { return &Copy{side} }

func (c *Copy) path(name string) string { return path.Join(keptDir, name) }

// Load returns what is kept. A damaged file keeps nothing.
func (c *Copy) Load() (k Kept, err error) {
	_, err = record.ReadJSON(c.fs, keptKind, change.KeptFile, bundle.MaxProof, &k)
	if errors.Is(err, manifest.ErrInvalid) || k.Program != "" && !slices.Contains(programs[:], k.Program) {
		return Kept{}, nil
	}
	return k, err
}

func (c *Copy) save(k Kept, by string) error {
	if err := fsys.MkdirAll(c.fs, keptDir, 0o700); err != nil {
		return err
	}
	k.Revoked = k.Revoked[max(0, len(k.Revoked)-keepLast):]
	return By(by).Write(c.fs, keptKind, change.KeptFile, k, 0o600)
}

// Revoke durably notes that a version failed here.
func (c *Copy) Revoke(v versioning.Version, by string) error {
	k, err := c.Load()
	if err != nil || v.In(k.Revoked) {
		return err
	}
	k.Revoked = append(k.Revoked, v)
	return c.save(k, by)
}

// Unrevoke durably forgets that it did.
func (c *Copy) Unrevoke(v versioning.Version, by string) error {
	k, err := c.Load()
	if err != nil || !v.In(k.Revoked) {
		return err
	}
	k.Revoked = versioning.Without(k.Revoked, v)
	return c.save(k, by)
}

func (c *Copy) tidy(keep string) error {
	for _, p := range programs {
		if p != keep {
			if err := fsys.RemoveAll(c.fs, c.path(p)); err != nil {
				return err
			}
		}
	}
	return nil
}

// open opens the program that is kept.
func (c *Copy) open(k Kept) (io.ReadCloser, error) { return c.fs.Open(c.path(k.Program)) }

// ErrUnproven says that nothing vouches for the program that runs.
var ErrUnproven = errors.New("nothing vouches for it: it was not installed from a signed release")

// proof returns what vouches for the program in place, and its entry, if v trusts it.
// The error wraps ErrUnproven where there is nothing of the kind.
func (s *Self) proof(v bundle.Verifier) (*bundle.Proof, *manifest.Entry, error) {
	p := &bundle.Proof{}
	there, err := record.ReadJSON(s.o.FS, ProofKind, s.name(proofExt), bundle.MaxProof, p)
	switch {
	case !there && err == nil, errors.Is(err, manifest.ErrInvalid):
		return nil, nil, errors.Join(ErrUnproven, err)
	case err != nil:
		return nil, nil, err
	}
	e, err := s.verify(p, v, s.o.Running)
	if err != nil {
		return nil, nil, errors.Join(ErrUnproven, err)
	}
	return p, e, nil
}

// verify returns the program of a release that v trusts, is that version, and runs here.
func (s *Self) verify(p *bundle.Proof, v bundle.Verifier, want versioning.Version) (*manifest.Entry, error) {
	m, err := p.Verify(v)
	if err != nil {
		return nil, err
	}
	e, err := m.Program()
	if err == nil && (m.Version.String() != want.String() || !slices.Contains(m.Compatible, s.o.Arch)) {
		err = errors.New("it vouches for " + m.Version.String() + ", for " + m.Compatible[0])
	}
	return e, err
}

// Settle confirms the program that runs, if it has started the device or whatever is
// so, and has usr_data keep it. It reports whether that ended a trial. c is nil where
// usr_data cannot be used.
//
// The copy comes first, and the trial ends last: a newer copy takes over at a start, but
// not from a program on trial. One that could not take over yet stays as it is. After an
// error or a power cut the next Settle goes on. The error wraps ErrUnproven where nothing
// vouches for the program: what is kept then is no newer one, and with whatever none.
func (s *Self) Settle(c *Copy, v func() (bundle.Verifier, error), whatever bool) (confirmed bool, err error) {
	t, err := s.Trial()
	if err != nil || t != nil && !whatever && !s.started(t) {
		return false, err
	}
	if c != nil {
		if t == nil && !whatever {
			k, newer, err := s.newer(c)
			if err != nil || newer && c.there(k) { // it stays for a start that can take it
				return false, err
			}
		}
		verifier, e := v()
		if e == nil {
			_, e = s.keep(c, verifier)
		}
		if e != nil && (t != nil || whatever) {
			if err := c.drop(s.o.Running, whatever && errors.Is(e, ErrUnproven)); err != nil {
				return false, err
			}
		}
		err = e
	}
	confirmed, e := s.confirm(whatever)
	if e != nil {
		err = e
	}
	return confirmed, err
}

// newer returns what is kept, and reports whether that is a newer program that may take
// over.
func (s *Self) newer(c *Copy) (Kept, bool, error) {
	k, err := c.Load()
	if err != nil || k.Version.IsZero() || k.Proof == nil || k.Version.Compare(s.o.Running) <= 0 {
		return k, false, err
	}
	known, err := s.Known()
	return k, err == nil && !k.Version.In(k.Revoked) && !k.Version.In(known.Revoked), err
}

// drop durably lets go of a program that is kept and newer than v, or of any.
func (c *Copy) drop(v versioning.Version, any bool) error {
	k, err := c.Load()
	if err != nil || k.Version.IsZero() || !any && k.Version.Compare(v) <= 0 {
		return err
	}
	if err := c.save(Kept{Revoked: k.Revoked}, v.String()); err != nil {
		return err
	}
	return c.tidy("")
}

// keep makes the program that runs the one that is kept, unless it is. It reports
// whether it wrote.
//
// After an error or a power cut the one before is kept, or this one. The error wraps
// ErrUnproven where nothing vouches for the program.
func (s *Self) keep(c *Copy, v bundle.Verifier) (bool, error) {
	k, err := c.Load()
	if err == nil {
		k.Revoked, err = s.share(c, k)
	}
	if err != nil {
		return false, err
	}
	if k.Version.String() == s.o.Running.String() && c.there(k) {
		return false, s.know(func(n *Known) { n.Kept = k.Version })
	}
	p, e, err := s.proof(v)
	if err != nil {
		return false, err
	}
	next := Kept{Version: s.o.Running, Program: programs[0], Proof: p, Revoked: k.Revoked}
	if k.Program == programs[0] {
		next.Program = programs[1]
	}
	if err := errors.Join(fsys.MkdirAll(c.fs, keptDir, 0o700), c.tidy(k.Program)); err != nil {
		return false, err
	}
	if err := c.copy(s, next.Program, e); err != nil {
		if fsys.IsNoSpace(err) {
			err = errors.Join(backup.ErrNoSpace, err)
		}
		return false, errors.Join(err, c.tidy(k.Program))
	}
	if err := errors.Join(c.fs.SyncDir(path.Dir(keptDir)), c.fs.SyncDir(keptDir)); err != nil {
		return false, err
	}
	if err := c.save(next, s.o.Running.String()); err != nil {
		return false, err
	}
	return true, errors.Join(c.tidy(next.Program), s.know(func(n *Known) { n.Kept = next.Version }))
}

// share has either side know what is revoked on the other, so that neither is lost with
// its partition, and returns all of them. The program that runs has shown that it can.
func (s *Self) share(c *Copy, k Kept) ([]versioning.Version, error) {
	known, err := s.Known()
	if err != nil {
		return nil, err
	}
	all := known.Revoked
	for _, v := range k.Revoked {
		if !v.In(all) {
			all = append(all, v)
		}
	}
	all = versioning.Without(all, s.o.Running)
	all = all[max(0, len(all)-keepLast):]
	if len(all) > len(k.Revoked) || s.o.Running.In(k.Revoked) {
		k.Revoked = all
		err = c.save(k, s.o.Running.String())
	}
	if err == nil && (len(all) > len(known.Revoked) || s.o.Running.In(known.Revoked)) {
		err = s.know(func(n *Known) { n.Revoked = all })
	}
	return all, err
}

// there reports whether the program that is kept has its length.
func (c *Copy) there(k Kept) bool {
	if k.Proof == nil {
		return false
	}
	m, err := release.DecodeManifest(k.Proof.Release)
	if err != nil || len(m.Files) != 1 {
		return false
	}
	info, err := c.fs.Lstat(c.path(k.Program))
	return err == nil && info.Type == fsys.TypeFile && info.Size == m.Files[0].Size
}

// copy durably writes the program that runs, if it is what e says.
func (c *Copy) copy(s *Self, name string, e *manifest.Entry) error {
	src, err := s.o.FS.Open(s.o.Name)
	if err != nil {
		return err
	}
	defer src.Close()
	return fsys.WriteSynced(c.fs, c.path(name), 0o600, func(w io.Writer) error {
		sum := digest.New()
		n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(src, e.Size+1))
		if err == nil && (n != e.Size || digest.Sum(sum) != *e.SHA256) {
			err = ErrUnproven
		}
		return err
	})
}

const maxTries = 3

// Bring puts the kept program in place, if it is newer than the one that runs, which
// then has come back with the factory state of system. It returns its version; zero
// if there is nothing to bring. What it changes is said at Put.
//
// A program that is revoked on either side, that v does not trust, or that does not
// pass its test is left where it is. One that did not pass is tried thrice: to stage it
// costs as many bytes as it has.
func (s *Self) Bring(ctx context.Context, c *Copy, v func() (bundle.Verifier, error)) (none versioning.Version, err error) {
	k, newer, err := s.newer(c)
	if err != nil || !newer {
		return none, err
	}
	if t, err := s.Trial(); err != nil || t != nil { // what a person asked for
		return none, err
	}
	verifier, err := v()
	if err != nil {
		return none, err
	}
	e, err := s.verify(k.Proof, verifier, k.Version)
	if err != nil {
		return none, err
	}
	known, err := s.Known()
	if err != nil || known.Unfit.SHA256 == *e.SHA256 && known.Unfit.Tries >= maxTries {
		return none, err
	}
	err = s.Put(ctx, Candidate{Version: k.Version, Program: e, Proof: k.Proof, Open: func() (io.ReadCloser, error) { return c.open(k) }})
	if errors.Is(err, child.ErrRefused) || errors.Is(err, ota.ErrIncompatible) {
		err = errors.Join(err, s.know(func(now *Known) {
			if now.Unfit.SHA256 != *e.SHA256 {
				now.Unfit = Unfit{SHA256: *e.SHA256}
			}
			now.Unfit.Tries++
		}))
	}
	if err != nil {
		return none, err
	}
	return k.Version, nil
}

// Release implements bundle.Base: of the program in place.
func (s *Self) Release(of *bundle.Delta) ([]byte, error) {
	p := &bundle.Proof{}
	_, err := record.ReadJSON(s.o.FS, ProofKind, s.name(proofExt), bundle.MaxProof, p)
	if err != nil || digest.Of(p.Release) != of.Base.Release {
		return nil, bundle.NotHere("tandem %s is here", s.o.Running)
	}
	return p.Release, nil
}

// Open implements bundle.Base.
func (s *Self) Open(sum digest.SHA256, size int64) (bundle.BaseFile, error) {
	f, err := s.o.FS.Open(s.o.Name)
	if err != nil {
		return nil, bundle.NotHere("%v", err)
	}
	h := digest.New()
	n, err := io.Copy(h, f)
	if err != nil || n != size || digest.Sum(h) != sum {
		return nil, errors.Join(bundle.NotHere("tandem %s is another program", s.o.Running), f.Close())
	}
	return f, nil
}
