package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"tandem/internal/config"
	"tandem/internal/lock"
	"tandem/versioning"
)

// Beside the lock file lie notes for other processes, for as long as something
// is under way. None of them matters after a restart of the device.
//
//	LOCK.hook     the program that runs for Tandem: a process id, a hook, a version
//	LOCK.said     what "tandem confirm" said while it ran: that process id, that version
//	LOCK.stopped  the stop hook has run, and no start hook since
//
// So a hook may call tandem, which would else wait for a tandem that waits for
// the hook: "confirm" is the verdict that the health hook is asked for, and
// whatever needs the device is told at once that it is taken.
const (
	hookNote    = ".hook"
	saidNote    = ".said"
	stoppedNote = ".stopped"
)

// HookVariable is what the environment calls the hook that a process runs in.
const HookVariable = "TANDEM_HOOK"

func (d *Device) note(kind string) string { return d.cfg.Agent.Lock + kind }

// writeNote replaces a note as a whole. What cannot be written costs a hook the
// answers that the note would have given, nothing else.
func (d *Device) writeNote(kind string, words ...string) {
	if err := writeNote(d.note(kind), words...); err != nil {
		d.env.Log.WithError(err).Debug("a note could not be written")
	}
}

func writeNote(name string, words ...string) error {
	tmp := name + ".new"
	if err := os.WriteFile(tmp, []byte(strings.Join(words, " ")+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

func readNote(name string, words int) ([]string, bool) {
	data, err := os.ReadFile(name)
	found := strings.Fields(string(data))
	return found, err == nil && len(found) == words
}

func (d *Device) removeNote(kind string) {
	if err := os.Remove(d.note(kind)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.env.Log.WithError(err).Debug("a note could not be removed")
	}
}

// announce notes that a hook runs, for the version to. end takes that back, and
// reports whether the version was confirmed meanwhile.
func (d *Device) announce(hook, to string) (end func() (said bool)) {
	if to == "" {
		to = "-"
	}
	self := strconv.Itoa(os.Getpid())
	d.removeNote(saidNote)
	d.writeNote(hookNote, self, hook, to)
	return func() bool {
		d.removeNote(hookNote)
		words, ok := readNote(d.note(saidNote), 2)
		d.removeNote(saidNote)
		return ok && words[0] == self && words[1] == to
	}
}

// Running is a hook that runs at this moment, for a tandem that has the device.
type Running struct {
	Process int
	Hook    string
	Version string
}

// HookRunning finds the hook that runs on the device of cfg; nil if none does.
func HookRunning(cfg *config.Config) *Running {
	words, ok := readNote(cfg.Agent.Lock+hookNote, 3)
	if !ok {
		return nil
	}
	pid, err := strconv.Atoi(words[0])
	if err != nil || pid <= 0 {
		return nil
	}
	if pid != os.Getpid() { // its tandem may have been killed: then nobody has the device for it
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return nil
		}
		release, err := lock.Acquire(cfg.Agent.Lock)
		if err == nil {
			_ = release() // it was free
			return nil
		}
		if !errors.Is(err, lock.ErrBusy) {
			return nil
		}
	}
	return &Running{pid, words[1], words[2]}
}

// Busy is the error of what is called in a hook and cannot be done there.
func (r *Running) Busy() error {
	return fmt.Errorf("%w: process %d waits for this, its %s hook: in a hook, only status, history and confirm can be asked for", lock.ErrBusy, r.Process, r.Hook)
}

// Say confirms the version that the start or the health hook is run for at this
// moment, and reports whether there was one: whoever runs the hook goes by it, once
// the hook has ended.
func Say(cfg *config.Config) (v versioning.Version, said bool, err error) {
	r := HookRunning(cfg)
	if r == nil || r.Hook != "health" && r.Hook != "start" {
		return v, false, nil
	}
	if v, err = versioning.Parse(r.Version); err != nil {
		return v, false, err
	}
	if err := writeNote(cfg.Agent.Lock+saidNote, strconv.Itoa(r.Process), r.Version); err != nil {
		return v, false, err
	}
	now := HookRunning(cfg) // it may have ended in between
	return v, now != nil && *now == *r, nil
}
