package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/sirupsen/logrus"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/versioning"
)

// FirmwareState is how far a firmware has come.
type FirmwareState string

// The states of a firmware. Each is in its record, which is replaced as a whole
// and durably; nothing else decides what a power cut leaves behind. The folder
// of a firmware lies below the agent's state: firmware/NAME/.
//
//	state        on the disk                          the next start, update or install
//	none         no record, or a damaged one          –
//	unpacked     a verified payload, durable          runs the handler
//	installing   the same; the handler was running    asks the handler for the version: the new
//	             when the power went                  one is done, else runs the handler again;
//	                                                  after [agent] boots such cuts it has failed
//	postponed    the same; the handler said "later",  runs the handler
//	             or tandem was told to end
//	restart      the same; the handler has written    at the start, asks for the version: the new
//	             it, for after a restart              one is done, another one has failed
//	done         the record alone                     –
//	failed       the record alone, which revokes      –
//	             the version here
//
// A payload that the record does not name, because the power went while it was
// unpacked or removed, is removed when the next one is unpacked. One that was
// damaged since is not given to the handler.
const (
	FirmwareNone       FirmwareState = "none"
	FirmwareUnpacked   FirmwareState = "unpacked"
	FirmwareInstalling FirmwareState = "installing"
	FirmwarePostponed  FirmwareState = "postponed"
	FirmwareRestart    FirmwareState = "restart"
	FirmwareDone       FirmwareState = "done"
	FirmwareFailed     FirmwareState = "failed"
)

const (
	firmwareDir       = "firmware" // below the agent's state
	firmwareRecord    = "record.json"
	maxFirmwareRecord = 64 << 10
	keepRevoked       = 100 // versions, the newest ones
)

// payloads are the names that a payload may have. A new one takes the name that
// the record does not use, so that the old one stays whole beside it.
var payloads = [2]string{"payload.a", "payload.b"}

// firmwareState is the record of a firmware.
type firmwareState struct {
	State    FirmwareState      `json:"state"`
	Version  versioning.Version `json:"version,omitzero"`  // that the state is about
	Previous versioning.Version `json:"previous,omitzero"` // that was installed before
	Reason   string             `json:"reason,omitempty"`  // of a postponed or failed one
	// Downgrade says that an operator asked for an older version.
	Downgrade bool          `json:"downgrade,omitempty"`
	Cuts      int           `json:"cuts,omitempty"`    // of the power, while the handler ran
	Payload   string        `json:"payload,omitempty"` // one of payloads; "" if none is kept
	Size      int64         `json:"size,omitempty"`    // of the payload's files, bytes
	Sum       digest.SHA256 `json:"sum,omitzero"`      // of the payload
	// Revoked versions failed here, or were gone back from.
	Revoked []versioning.Version `json:"revoked,omitempty"`
}

// open says whether there is a payload that the handler has yet to write.
func (s *firmwareState) open() bool {
	switch s.State {
	case FirmwareUnpacked, FirmwareInstalling, FirmwarePostponed:
		return true
	}
	return false
}

func (s *firmwareState) revoke(v versioning.Version) {
	s.unrevoke(v)
	s.Revoked = append(s.Revoked, v)
	s.Revoked = s.Revoked[max(0, len(s.Revoked)-keepRevoked):]
}

func (s *firmwareState) unrevoke(v versioning.Version) {
	s.Revoked = versioning.Without(s.Revoked, v)
}

// handler is the part of the device that knows how to write a firmware.
type handler interface {
	Version(ctx context.Context) (versioning.Version, error)
	Install(ctx context.Context, dir string, from, to versioning.Version, progress func(percent int64)) error
}

// firmware is one firmware of the device.
type firmware struct {
	name     string
	fs       fsys.FS // the agent's state
	handler  handler
	cuts     int // that an installation may go through before it has failed
	log      logrus.FieldLogger
	progress backup.Progress // may be nil
}

func (f *firmware) path(name string) string { return path.Join(firmwareDir, f.name, name) }

// load reads the record. A damaged one counts as missing: all that is lost with
// it is what can be fetched again.
func (f *firmware) load() firmwareState {
	none := firmwareState{State: FirmwareNone}
	data, err := fsys.ReadFile(f.fs, f.path(firmwareRecord), maxFirmwareRecord)
	if fsys.IsNotExist(err) {
		return none
	}
	if err != nil {
		f.log.WithError(err).Warnf("what is known of the firmware %s cannot be read", f.name)
		return none
	}
	sum, body, _ := bytes.Cut(data, []byte("\n"))
	var s firmwareState
	if want, err := digest.Parse(string(sum)); err != nil || want != digest.Of(body) || json.Unmarshal(body, &s) != nil || !s.sane() {
		f.log.Warnf("%s is damaged: ignored", f.fs.Path(f.path(firmwareRecord)))
		return none
	}
	return s
}

func (s *firmwareState) sane() bool {
	return !s.open() && s.State != FirmwareRestart || slices.Contains(payloads[:], s.Payload) && !s.Version.IsZero()
}

// save durably replaces the record. After an error or a power cut the old or
// the new one is there, whole.
func (f *firmware) save(s firmwareState) error {
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	name := f.path(firmwareRecord)
	if info, err := f.fs.Lstat(name); err == nil && info.Type != fsys.TypeFile { // damage
		if err := fsys.RemoveAll(f.fs, name); err != nil {
			return err
		}
	}
	return fsys.WriteFile(f.fs, name, append([]byte(digest.Of(body).String()+"\n"), body...), 0o644)
}

// admit says whether a version may be installed, and gives the one that is.
// The error wraps backup.ErrRevoked, backup.ErrDowngrade or ErrHook.
func (f *firmware) admit(ctx context.Context, s *firmwareState, v versioning.Version, o backup.InstallOptions) (versioning.Version, error) {
	if !o.AllowRevoked && v.In(s.Revoked) {
		return versioning.Version{}, fmt.Errorf("%w: %s %s failed here or was gone back from", backup.ErrRevoked, f.name, v)
	}
	installed, err := f.handler.Version(ctx)
	switch {
	case ctx.Err() != nil:
		return installed, ctx.Err()
	case err != nil && o.AllowDowngrade: // the way out where a firmware is too broken to tell
		f.log.WithError(err).Warn("installing all the same")
		return versioning.Version{}, nil
	case err != nil:
		return installed, err
	}
	switch c := v.Compare(installed); {
	case installed.IsZero(), c > 0, o.AllowDowngrade:
		return installed, nil
	case c == 0:
		return installed, fmt.Errorf("%w: %s %s is installed already", backup.ErrDowngrade, f.name, installed)
	}
	return installed, fmt.Errorf("%w: the bundle has %s %s, the device %s", backup.ErrDowngrade, f.name, v, installed)
}

// unpack reads a bundle to its end and unpacks it. It gives the version that is
// installed.
//
// After success the payload is verified and durable, and takes the place of one
// that was kept before: the state is unpacked. After an error or a power cut it
// is that, or what it was before; only where there is no room for both payloads
// the old one goes first, and the state may be none.
func (f *firmware) unpack(ctx context.Context, r *bundle.Reader, o backup.InstallOptions) (versioning.Version, error) {
	m := r.Manifest()
	old := f.load()
	installed, err := f.admit(ctx, &old, m.Version, o)
	if err != nil {
		return installed, err
	}
	next := firmwareState{
		State: FirmwareUnpacked, Version: m.Version, Previous: installed, Downgrade: o.AllowDowngrade,
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
		old = firmwareState{State: FirmwareNone, Revoked: old.Revoked}
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
func (f *firmware) prepare(old *firmwareState, payload string) error {
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
func (f *firmware) tidy(keep string) error {
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
func (f *firmware) checkSpace(m *release.Manifest) error {
	space, err := f.fs.Space()
	if err != nil {
		return err
	}
	block := max(space.BlockSize, 1)
	need := &backup.SpaceError{Path: f.fs.Path(f.path("")), FreeBytes: space.Free, FreeEntries: space.Inodes}
	need.NeedBytes, need.NeedEntries = 4*block, 4 // the record, old and new, and the folder
	for i := range m.Files {
		e := &m.Files[i]
		if e.Type == backup.Hardlink {
			continue
		}
		need.NeedEntries++
		need.NeedBytes += block
		if e.Type == backup.File {
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
func (f *firmware) extract(r *bundle.Reader, dir string) error {
	m := r.Manifest()
	_, total := m.Content()
	var done int64
	dirs := []string{dir}
	for i := range m.Files {
		if e := &m.Files[i]; e.Type == backup.Dir {
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
		case backup.Symlink:
			err = f.fs.Symlink(string(e.Target), path.Join(dir, string(e.Path)))
		case backup.Hardlink:
			err = f.fs.Link(path.Join(dir, string(e.Link)), path.Join(dir, string(e.Path)))
		}
		if err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(dirs) {
		if err := f.fs.SyncDir(d); err != nil {
			return err
		}
	}
	return f.fs.SyncDir(path.Dir(dir))
}

func (f *firmware) extractFile(name string, mode uint32, content io.Reader) error {
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

func (f *firmware) report(what string, done, total int64) {
	if f.progress != nil {
		f.progress(what, done, total)
	}
}

// measure gives the size and the sum of the payload that m describes.
func measure(m *release.Manifest) (int64, digest.SHA256) {
	var size int64
	var s summer
	sums := map[backup.Path]digest.SHA256{}
	for i := range m.Files {
		e := &m.Files[i]
		if e.Type == backup.File {
			size += e.Size
			sums[e.Path] = *e.SHA256
		}
	}
	for i := range m.Files {
		e := &m.Files[i]
		switch e.Type {
		case backup.File:
			s.add(string(e.Path), fsys.TypeFile, sums[e.Path].String())
		case backup.Hardlink:
			s.add(string(e.Path), fsys.TypeFile, sums[e.Link].String())
		case backup.Symlink:
			s.add(string(e.Path), fsys.TypeSymlink, string(e.Target))
		case backup.Dir:
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

// whole says whether the payload that s names is what was unpacked.
func (f *firmware) whole(ctx context.Context, s *firmwareState) (bool, error) {
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

func (f *firmware) hash(ctx context.Context, name string) (string, error) {
	file, err := f.fs.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := digest.New()
	_, err = io.Copy(h, bundle.InContext(ctx, file))
	return digest.Sum(h).String(), err
}

// When a firmware is gone on with.
type occasion int

const (
	atOnce  occasion = iota // right after it was unpacked
	later                   // by a later run of tandem
	atStart                 // at the start of the device
)

// goOn takes a firmware further, as FirmwareNone's table says, and gives the
// state that it has then; with nothing to do, the one that it had.
//
// After success the state is durable. So it is after an error that says how the
// handler ended. After another error or a power cut it is the one before, or
// installing, and the next goOn finds out which. The error wraps ErrPostponed or
// ErrHook for what the handler said, or is that of ctx: the handler was killed,
// and the state is postponed.
func (f *firmware) goOn(ctx context.Context, when occasion) (firmwareState, error) {
	s := f.load()
	switch {
	case s.State == FirmwareRestart:
		return f.afterRestart(ctx, s, when)
	case !s.open():
		return s, nil
	}
	if when != atOnce {
		if ended, next, err := f.review(ctx, s); ended || err != nil {
			return next, err
		}
	}
	if s.State == FirmwareInstalling {
		if s.Cuts++; s.Cuts > f.cuts {
			return f.fail(s, fmt.Errorf("%w: %s: the device went down %d times while the handler ran", ErrHook, f.name, s.Cuts))
		}
	}
	s.State, s.Reason = FirmwareInstalling, ""
	if err := f.save(s); err != nil {
		return f.load(), err
	}
	f.log.WithFields(logrus.Fields{"firmware": f.name, "from": s.Previous, "version": s.Version}).Info("installing")
	err := f.handler.Install(ctx, f.fs.Path(f.path(s.Payload)), s.Previous, s.Version, func(percent int64) {
		f.report("writing "+f.name, s.Size*percent/100, s.Size)
	})
	switch {
	case err == nil:
		return f.confirm(ctx, s)
	case errors.Is(err, errRestart):
		s.State = FirmwareRestart
		return f.keep(s, nil)
	case ctx.Err() != nil, errors.Is(err, ErrPostponed), errors.Is(err, errNotRun):
		s.State, s.Reason = FirmwarePostponed, err.Error()
		return f.keep(s, err)
	}
	return f.fail(s, err)
}

// review looks whether a payload that was left behind is still to be
// installed. If not, ended is true.
func (f *firmware) review(ctx context.Context, s firmwareState) (ended bool, next firmwareState, err error) {
	now, err := f.handler.Version(ctx)
	switch {
	case ctx.Err() != nil:
		return true, s, ctx.Err()
	case err != nil: // half written it may be unable to tell
		f.log.WithError(err).Warn("installing it again")
	case now.Compare(s.Version) == 0 && s.Previous.Compare(s.Version) != 0:
		next, err = f.finish(s)
		return true, next, err
	case now.Compare(s.Version) > 0 && !s.Downgrade:
		next, err = f.fail(s, fmt.Errorf("%w: %s %s was installed meanwhile", backup.ErrDowngrade, f.name, now))
		return true, next, err
	}
	whole, err := f.whole(ctx, &s)
	if err != nil {
		return true, s, err
	}
	if !whole { // that says nothing against the version
		s.State, s.Payload, s.Reason = FirmwareNone, "", "its payload was damaged"
		err := fmt.Errorf("%w: the unpacked payload of %s %s", backup.ErrDamage, f.name, s.Version)
		next, err = f.keep(s, err)
		return true, next, err
	}
	return false, s, nil
}

// confirm asks whether a handler that says that it is done has done it.
func (f *firmware) confirm(ctx context.Context, s firmwareState) (firmwareState, error) {
	now, err := f.handler.Version(ctx)
	switch {
	case ctx.Err() != nil:
		return s, ctx.Err() // still installing: the next run asks again
	case err != nil:
		f.log.WithError(err).Warn("the handler says that it is done, but not which version is installed now")
	case now.Compare(s.Version) != 0:
		return f.fail(s, fmt.Errorf("%w: %s: the handler says that it is done, but %s is installed", ErrHook, f.name, orNothing(now)))
	}
	return f.finish(s)
}

// afterRestart finds out what came of a firmware that a restart was to bring
// into use.
func (f *firmware) afterRestart(ctx context.Context, s firmwareState, when occasion) (firmwareState, error) {
	now, err := f.handler.Version(ctx)
	switch {
	case ctx.Err() != nil:
		return s, ctx.Err()
	case err != nil:
		return s, err // unknown is not failed: asked again
	case now.Compare(s.Version) == 0:
		return f.finish(s)
	case when != atStart:
		return s, nil
	}
	return f.fail(s, fmt.Errorf("%w: %s: after the restart %s is installed", ErrHook, f.name, orNothing(now)))
}

// finish ends a firmware that is installed. The one that an operator went back
// from is not to be offered again.
func (f *firmware) finish(s firmwareState) (firmwareState, error) {
	s.State, s.Payload, s.Reason, s.Cuts = FirmwareDone, "", "", 0
	s.unrevoke(s.Version)
	if s.Previous.Compare(s.Version) > 0 {
		s.revoke(s.Previous)
	}
	return f.keep(s, nil)
}

// fail ends a firmware that could not be installed.
func (f *firmware) fail(s firmwareState, why error) (firmwareState, error) {
	s.State, s.Payload, s.Reason = FirmwareFailed, "", why.Error()
	s.revoke(s.Version)
	return f.keep(s, why)
}

// keep saves s and gives it, with the error that led to it. A payload that s no
// longer names goes.
func (f *firmware) keep(s firmwareState, why error) (firmwareState, error) {
	if err := f.save(s); err != nil {
		return f.load(), errors.Join(why, err)
	}
	return s, errors.Join(why, f.tidy(s.Payload))
}

func orNothing(v versioning.Version) string {
	if v.IsZero() {
		return "none"
	}
	return v.String()
}
