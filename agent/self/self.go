// Package self keeps Tandem's own program: it puts another one in its place, keeps
// the one before, and a second copy of the confirmed one on usr_data.
package self

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sirupsen/logrus"

	"tandem/backup"
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

// The files beside the program, which is called N here. All of them lie in its
// directory, and so on its file system; each step of putting another program in
// place is one of these names coming, going or changing. None but N.next is ever
// written in place, and N itself is only ever replaced by a rename.
//
//	N            the program
//	N.next       the one that is being put in place; of no use after a power cut
//	N.previous   the one before
//	N.proof      what vouches for N; N.next.proof and N.previous.proof for these
//	N.trial      N waits to be confirmed: the script beside it counts its starts
//	N.starts-C   a line for each start of the command C that came to no decision
//	N.failed     N.trial, once the script had to go back
//	N.known      what is known of itself: versions, and which are revoked
//
// A program that finds N.trial, and is not the version that it names, was not
// replaced: the power went before the rename, and N.trial goes.
const (
	nextExt     = ".next"
	previousExt = ".previous"
	proofExt    = ".proof"
	trialExt    = ".trial"
	startsExt   = ".starts-"
	failedExt   = ".failed"
	knownExt    = ".known"

	trialKind = "trial"
	knownKind = "known"
	// ProofKind is what a file is that holds a bundle.Proof.
	ProofKind = "proof"
	maxState  = 64 << 10
	keepLast  = 100 // revoked versions, the newest

	// reserve is what stays free beside another program, in bytes.
	reserve = 256 << 10
)

// commands are those whose starts the script counts.
var commands = []string{"boot", "agent"}

// Trial is what N.trial says.
type Trial struct {
	Version  versioning.Version `json:"version"`
	Previous versioning.Version `json:"previous,omitzero"`
	// Boot is the run of the machine in which it was put in place; "" where any
	// start proves as much as another.
	Boot string `json:"boot,omitempty"`
	// Format is the newest format of our files that the one before reads: until it is
	// confirmed the new one writes no other.
	Format int `json:"format"`
	// Booted says that it has started the device once, and come to a decision.
	Booted bool `json:"booted,omitempty"`
}

// Known is what Tandem knows of itself.
type Known struct {
	Previous versioning.Version   `json:"previous,omitzero"` // of N.previous
	Kept     versioning.Version   `json:"kept,omitzero"`     // on usr_data, when it was looked for last
	Revoked  []versioning.Version `json:"revoked,omitempty"` // that failed here, oldest first
	Unfit    Unfit                `json:"unfit,omitzero"`
}

// Unfit is a program of usr_data that did not pass its test in place of the one that runs.
type Unfit struct {
	SHA256 digest.SHA256 `json:"sha256"`
	Tries  int           `json:"tries"`
}

// Options is what a Self works with.
type Options struct {
	FS      fsys.FS            // the directory of the program
	Name    string             // of the program there
	Running versioning.Version // of the program that runs
	Arch    string             // that programs must be for
	Boot    string             // this run of the machine; "" where it cannot be told
	// Probe runs a program, within a time, and returns which version it says that it
	// is, once it has tested itself. The error wraps child.ErrRefused.
	Probe func(ctx context.Context, program string) (string, error)
	// Replaced reports whether the program in place is another than the one that runs.
	Replaced func() bool
	Log      logrus.FieldLogger
}

// Self is Tandem's own program.
type Self struct{ o Options }

// ErrOnTrial says that the program that runs is to be confirmed before another one
// takes its place.
var ErrOnTrial = fmt.Errorf("%w: Tandem itself waits to be confirmed", child.ErrPostponed)

// New makes a Self.
func New(o Options) (*Self, error) {
	missing := ""
	switch {
	case o.FS == nil:
		missing = "FS"
	case o.Name == "":
		missing = "Name"
	case o.Running.IsZero():
		missing = "Running"
	case o.Probe == nil:
		missing = "Probe"
	case o.Replaced == nil:
		missing = "Replaced"
	case o.Log == nil:
		missing = "Log"
	default:
		return &Self{o}, nil
	}
	return nil, fmt.Errorf("self.Options: %s is missing", missing)
}

func (s *Self) name(ext string) string { return s.o.Name + ext }

func (s *Self) exists(ext string) (bool, error) {
	_, err := s.o.FS.Lstat(s.name(ext))
	if fsys.IsNotExist(err) {
		return false, nil
	}
	return err == nil, err
}

// path returns where the program lies.
func (s *Self) path() string { return s.o.FS.Path(s.o.Name) }

// format is what the files of this package are written in: a Tandem of any age is to
// find what a newer one left for it.
const format = 1

func (s *Self) by() record.Author { return By(s.o.Running.String()) }

// By is who writes the files of this package.
func By(version string) record.Author { return record.Author{Version: version, Format: format} }

// Running returns the version of the program that runs.
func (s *Self) Running() versioning.Version { return s.o.Running }

// Known returns what is known; nothing, where that is damaged.
func (s *Self) Known() (k Known, err error) {
	there, err := record.Remembered(s.o.FS, knownKind, s.name(knownExt), maxState, &k, s.o.Log)
	if !there {
		return Known{}, err
	}
	return k, nil
}

// know durably changes what is known. What is the same is not written.
func (s *Self) know(change func(*Known)) error {
	k, err := s.Known()
	if err != nil {
		return err
	}
	was, err := s.by().Seal(knownKind, k)
	if err != nil {
		return err
	}
	change(&k)
	k.Revoked = k.Revoked[max(0, len(k.Revoked)-keepLast):]
	data, err := s.by().Seal(knownKind, k)
	if err != nil || string(was) == string(data) {
		return err
	}
	return s.unwritable(fsys.WriteFile(s.o.FS, s.name(knownExt), data, 0o644))
}

// Revoke durably notes that a version failed here, and was gone back from.
func (s *Self) Revoke(v versioning.Version) error {
	return s.know(func(k *Known) {
		k.Previous, k.Revoked = versioning.Version{}, append(versioning.Without(k.Revoked, v), v)
	})
}

// Unrevoke durably forgets that it did.
func (s *Self) Unrevoke(v versioning.Version) error {
	return s.know(func(k *Known) { k.Revoked = versioning.Without(k.Revoked, v) })
}

// Newer returns a *record.NewerError if a newer Tandem made one of the files beside the
// program, in a form that this one does not know.
func (s *Self) Newer() error {
	return record.Newer(s.o.FS, s.name(knownExt), s.name(trialExt), s.name(failedExt), s.name(proofExt))
}

// Trial returns what waits to be confirmed; nil if nothing does. One that is
// damaged is that of the program that runs.
func (s *Self) Trial() (*Trial, error) { return s.readTrial(trialExt) }

func (s *Self) readTrial(ext string) (*Trial, error) {
	t := &Trial{}
	there, err := record.ReadJSON(s.o.FS, trialKind, s.name(ext), maxState, t)
	switch {
	case errors.Is(err, manifest.ErrInvalid) && ext == trialExt:
		return &Trial{Version: s.o.Running, Format: format}, nil
	case !there || err != nil:
		return nil, err
	}
	return t, nil
}

// Swapped returns the version of the program that has taken the place of the one
// that runs; zero if none has.
func (s *Self) Swapped() (v versioning.Version, err error) {
	t, err := s.Trial()
	if err != nil || t == nil || t.Version.String() == s.o.Running.String() || !s.o.Replaced() {
		return v, err
	}
	return t.Version, nil
}

// Candidate is a program that is to take the place of the present one. What vouches
// for it was verified.
type Candidate struct {
	Version versioning.Version
	Program *manifest.Entry // size and hash
	Proof   *bundle.Proof   // may be nil
	Open    func() (io.ReadCloser, error)
	Boot    string // as in Trial
	// Tight has it put in place also where the file system says that there is no
	// room for two, without keeping the one before.
	Tight bool
}

// Check reports whether there is room for a program of that size, and whether it can
// be written at all, before anything is changed. The error wraps backup.ErrNoSpace,
// backup.ErrUnavailable or ErrOnTrial.
func (s *Self) Check(size int64, tight bool) error {
	if t, err := s.Trial(); err != nil {
		return err
	} else if t != nil {
		return ErrOnTrial
	}
	const touch = nextExt + ".tmp"
	if err := s.remove(touch); err != nil {
		return err
	}
	err := fsys.WriteSynced(s.o.FS, s.name(touch), 0o600, func(io.Writer) error { return nil })
	if err != nil {
		return s.unwritable(err)
	}
	if err := s.remove(touch); err != nil {
		return err
	}
	if tight {
		return nil
	}
	return s.room(size)
}

// room reports whether there is room for a program beside the present one, that of
// the one before included.
func (s *Self) room(size int64) error {
	space, err := s.o.FS.Space()
	if err != nil {
		return err
	}
	free := space.Free
	for _, ext := range []string{previousExt, nextExt} { // which go first
		if info, err := s.o.FS.Lstat(s.name(ext)); err == nil && info.Nlink == 1 {
			free += info.Alloc
		}
	}
	if need := size + reserve; need > free {
		return &backup.SpaceError{Path: s.path(), NeedBytes: need, FreeBytes: free, FreeEntries: space.Inodes}
	}
	return nil
}

// Put puts a program in place of the present one, which it keeps: it stages it,
// has it tested, and renames it over. The program is on trial then.
//
// After success that is durable. After an error or a power cut the present program
// is in place, whole, or the new one is, on trial, with the one before beside it;
// Recover puts away what is left. The error wraps backup.ErrNoSpace,
// backup.ErrUnavailable, ErrOnTrial, ota.ErrIncompatible, or child.ErrRefused where
// the program does not pass its test.
func (s *Self) Put(ctx context.Context, c Candidate) error {
	if err := s.Check(c.Program.Size, c.Tight); err != nil {
		return err
	}
	if err := s.remove(nextExt, nextExt+proofExt, previousExt, previousExt+proofExt); err != nil {
		return err
	}
	if err := s.stage(c); err != nil {
		return errors.Join(s.unwritable(err), s.remove(nextExt))
	}
	said, err := s.o.Probe(ctx, s.o.FS.Path(s.name(nextExt)))
	if err == nil && said != c.Version.String() {
		err = fmt.Errorf("%w: the program says that it is version %.40q: expected %s", child.ErrRefused, said, c.Version)
	}
	if err != nil {
		return errors.Join(err, s.remove(nextExt))
	}
	if err := s.prepare(c); err != nil {
		return errors.Join(s.unwritable(err), s.remove(trialExt, nextExt, nextExt+proofExt))
	}
	if err := s.o.FS.Rename(s.name(nextExt), s.o.Name); err != nil {
		return errors.Join(s.unwritable(err), s.remove(trialExt, nextExt, nextExt+proofExt))
	}
	if err := s.o.FS.SyncDir("."); err != nil {
		return err
	}
	s.o.Log.WithField("version", c.Version).WithField("previous", s.o.Running).Info("Tandem itself was replaced, and is on trial")
	return nil
}

// stage durably writes N.next.
func (s *Self) stage(c Candidate) error {
	src, err := c.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	head := &header{}
	sum := digest.New()
	err = fsys.WriteSynced(s.o.FS, s.name(nextExt), 0o755, func(w io.Writer) error {
		n, err := io.Copy(io.MultiWriter(w, sum, head), io.LimitReader(src, c.Program.Size+1))
		if err == nil && (n != c.Program.Size || digest.Sum(sum) != *c.Program.SHA256) {
			err = fmt.Errorf("%w: the program is not what its release says", backup.ErrDamage)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := release.CheckProgram(head.first, s.o.Arch); err != nil {
		return fmt.Errorf("%w: %w", ota.ErrIncompatible, err)
	}
	return s.o.FS.SyncDir(".")
}

// header keeps the first bytes that are written to it.
type header struct{ first []byte }

func (h *header) Write(p []byte) (int, error) {
	h.first = append(h.first, p[:min(len(p), release.ElfHeader-len(h.first))]...)
	return len(p), nil
}

// prepare durably makes all that has to be there before the rename: the one before,
// what vouches for the new one, and last that it is on trial.
func (s *Self) prepare(c Candidate) error {
	if err := s.remove(append(starts(), failedExt)...); err != nil {
		return err
	}
	t := Trial{Version: c.Version, Boot: c.Boot, Format: record.Format}
	if !c.Tight {
		t.Previous = s.o.Running
		if err := s.o.FS.Link(s.o.Name, s.name(previousExt)); err != nil {
			return err
		}
		if err := s.o.FS.SyncDir("."); err != nil {
			return err
		}
	}
	if err := s.know(func(k *Known) { k.Previous, k.Unfit = t.Previous, Unfit{} }); err != nil {
		return err
	}
	if c.Proof != nil {
		if err := s.by().Write(s.o.FS, ProofKind, s.name(nextExt+proofExt), c.Proof, 0o644); err != nil {
			return err
		}
	}
	return s.writeTrial(t)
}

func (s *Self) writeTrial(t Trial) error {
	return s.by().Write(s.o.FS, trialKind, s.name(trialExt), t, 0o644)
}

func starts() (all []string) {
	for _, c := range commands {
		all = append(all, startsExt+c)
	}
	return all
}

// remove durably removes files beside the program; those that are not there are none.
func (s *Self) remove(exts ...string) error {
	gone := false
	for _, ext := range exts {
		there, err := s.exists(ext)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		if err := fsys.RemoveAll(s.o.FS, s.name(ext)); err != nil {
			return s.unwritable(err)
		}
		gone = true
	}
	if !gone {
		return nil
	}
	return s.o.FS.SyncDir(".")
}

// unwritable tells that the file system of the program cannot be written.
func (s *Self) unwritable(err error) error {
	switch {
	case err == nil, errors.Is(err, backup.ErrNoSpace), errors.Is(err, backup.ErrUnavailable):
		return err
	case fsys.IsNoSpace(err):
		return fmt.Errorf("%w: %w", backup.ErrNoSpace, err)
	case fsys.IsNotWritable(err):
		return fmt.Errorf("%w: %s cannot be replaced: %w", backup.ErrUnavailable, s.path(), err)
	}
	return err
}

// Recover finishes or undoes what a power cut or the script left, and returns the
// trial that the script had to go back from; nil if there is none. It is the
// caller's to revoke that on both sides, and to call Forget then.
//
// After an error or a power cut the next Recover goes on.
func (s *Self) Recover() (failed *Trial, err error) {
	if failed, err = s.readTrial(failedExt); err != nil && !errors.Is(err, manifest.ErrInvalid) {
		return nil, err
	} else if err != nil { // it is over, whatever it was about
		return nil, s.remove(failedExt)
	}
	if failed != nil && failed.Version.String() == s.o.Running.String() {
		failed = nil // the script has not gone back: it tries again
	}
	t, err := s.Trial()
	if err != nil {
		return failed, err
	}
	swapped, err := s.Swapped()
	switch {
	case err != nil:
		return failed, err
	case t == nil && failed == nil:
		return nil, s.remove(nextExt, nextExt+proofExt)
	case t == nil:
		if err := s.rename(previousExt+proofExt, proofExt); err != nil {
			return failed, err
		}
		return failed, s.remove(append(starts(), nextExt, nextExt+proofExt)...)
	case t.Version.String() == s.o.Running.String():
		proved, err := s.exists(nextExt + proofExt)
		if err != nil || !proved {
			return failed, err
		}
		if err := s.rename(proofExt, previousExt+proofExt); err != nil {
			return failed, err
		}
		return failed, s.rename(nextExt+proofExt, proofExt)
	case !swapped.IsZero(): // the next start is that program's
		return failed, nil
	}
	// The power went before the rename, or a person put another program in place.
	return failed, s.remove(append(starts(), nextExt, nextExt+proofExt, trialExt)...)
}

// rename durably renames a file beside the program; one that is not there is none.
func (s *Self) rename(from, to string) error {
	there, err := s.exists(from)
	if err != nil || !there {
		return err
	}
	if err := s.o.FS.Rename(s.name(from), s.name(to)); err != nil {
		return s.unwritable(err)
	}
	return s.o.FS.SyncDir(".")
}

// Forget durably removes what the script left when it went back.
func (s *Self) Forget() error { return s.remove(failedExt) }

// Decided notes that a command of the program that runs came to a decision: the
// starts that were counted of it count no more. Of boot it notes that the program
// has started the device.
func (s *Self) Decided(command string) error {
	t, err := s.Trial()
	if err != nil || t == nil || t.Version.String() != s.o.Running.String() {
		return err
	}
	if command == "boot" && !t.Booted && (t.Boot == "" || t.Boot != s.o.Boot) {
		t.Booted = true
		if err := s.unwritable(s.writeTrial(*t)); err != nil {
			return err
		}
	}
	return s.remove(startsExt + command)
}

// started reports whether the program that runs is on trial, and has started the device.
func (s *Self) started(t *Trial) bool {
	return t.Booted && t.Version.String() == s.o.Running.String()
}

// confirm durably ends the trial of the program that runs, if it has started the
// device or whatever is so. It reports whether it did.
func (s *Self) confirm(whatever bool) (bool, error) {
	t, err := s.Trial()
	if err != nil || t == nil || !whatever && !s.started(t) {
		return false, err
	}
	if err := s.remove(trialExt); err != nil {
		return false, err
	}
	return true, s.remove(append(starts(), nextExt, failedExt)...)
}

// Read returns what is known, and the trial, of the program of that name in a
// directory.
func Read(fs fsys.FS, name string) (k Known, t *Trial, err error) {
	if _, err := record.ReadJSON(fs, knownKind, name+knownExt, maxState, &k); err != nil {
		return k, nil, err
	}
	t = &Trial{}
	there, err := record.ReadJSON(fs, trialKind, name+trialExt, maxState, t)
	if !there {
		t = nil
	}
	return k, t, err
}
