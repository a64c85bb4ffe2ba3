package self

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"tandem/backup"
	"tandem/internal/child"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/internal/fsys/memfs/search"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/versioning"
)

func parse(t testing.TB, v string) versioning.Version {
	t.Helper()
	p, err := versioning.Parse(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// world is a device with two disks: that of the program, and usr_data. What the
// script does is done here step by step as it does it, and programs are those of
// releases: what is wrong with one is in its file.
type world struct {
	t        testing.TB
	programs map[string][]byte // by version
	kinds    map[string]string // what is wrong with each
	proofs   map[string]*bundle.Proof
}

const (
	good     = "good"
	badBoot  = "bad boot"  // comes to no decision in boot
	badAgent = "bad agent" // nor in the agent
	badTest  = "bad test"  // does not pass its test
	foreign  = "foreign"   // is for another machine
	cutShort = "cut short" // is not what its release says
	program  = "tandem"
	limit    = 3 // as the script has it
)

func newWorld(t testing.TB, kinds map[string]string) *world {
	w := &world{t, map[string][]byte{}, kinds, map[string]*bundle.Proof{}}
	for v, kind := range kinds {
		machine, arch := byte(62), "amd64"
		if kind == foreign {
			machine, arch = 183, "arm64"
		}
		head := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
		head = append(head, 2, 0, machine, 0)
		w.programs[v] = append(head, fmt.Sprintf("\n%s\n%s\n%s", v, kind, strings.Repeat("code of "+v+"\n", 700))...)
		m := memfs.NewMachine()
		dir := m.NewDisk("build", memfs.Options{}).FS()
		err := errors.Join(dir.Mkdir("tree", 0o755), fsys.WriteFile(dir, "tree/"+program, w.programs[v], 0o755))
		if err != nil {
			t.Fatal(err)
		}
		_, err = bundle.Create(t.Context(), m.Disk("build").Sub("tree"), dir, "bundle", bundle.Options{
			Kind: release.Agent, App: release.ProgramName, Version: parse(t, v), Compatible: []string{arch},
		})
		if err != nil {
			t.Fatal(err)
		}
		data, err := fsys.ReadFile(dir, "bundle", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		r, err := bundle.NewReader(bytes.NewReader(data), bundle.Inspect{})
		if err != nil {
			t.Fatal(err)
		}
		if w.proofs[v], err = r.Proof(); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// machine is a device that has a version in place, with what vouches for it, and
// another one on usr_data; "" for none. The disk of the program has room for so many
// bytes; 0 is no limit.
func (w *world) machine(version, kept string, room int64) *memfs.Machine {
	w.t.Helper()
	m := memfs.NewMachine()
	system, usrData := m.NewDisk("system", memfs.Options{Capacity: room}).FS(), m.NewDisk("usr_data", memfs.Options{}).FS()
	put := func(v string) error {
		return errors.Join(fsys.WriteFile(system, program, w.programs[v], 0o755), By(v).Write(system, ProofKind, program+proofExt, w.proofs[v], 0o644))
	}
	err := usrData.Mkdir(".tandem", 0o700)
	if kept != "" {
		err = errors.Join(err, put(kept))
		s := w.self(m, kept)
		_, e := s.keep(w.copy(m), bundle.Inspect{})
		err = errors.Join(err, e, s.remove(knownExt)) // the factory knows nothing of it
	}
	if err = errors.Join(err, put(version), system.Sync(), usrData.Sync()); err != nil {
		w.t.Fatal(err)
	}
	m.Restart(memfs.Nothing())
	return m
}

func (w *world) copy(m *memfs.Machine) *Copy { return NewCopy(m.Disk("usr_data").FS()) }

func (w *world) self(m *memfs.Machine, running string) *Self {
	w.t.Helper()
	disk := m.Disk("system").FS()
	was, _ := disk.Lstat(program)
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := New(Options{
		FS: disk, Name: program, Running: parse(w.t, running), Arch: "amd64", Log: log,
		Probe: func(context.Context, string) (string, error) {
			v, kind, err := w.what(disk, program+nextExt)
			if kind == badTest {
				err = child.ErrRefused
			}
			return v, err
		},
		Replaced: func() bool {
			now, err := disk.Lstat(program)
			return err == nil && now.Ino != was.Ino
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// what says which program a file is, and how it is. One that is not whole is none.
func (w *world) what(disk fsys.FS, name string) (version, kind string, err error) {
	data, err := fsys.ReadFile(disk, name, 1<<20)
	if err != nil {
		return "", "", err
	}
	for v, p := range w.programs {
		if bytes.Equal(p, data) {
			return v, w.kinds[v], nil
		}
	}
	return "", "", fmt.Errorf("%s is no program, or not a whole one", name)
}

func there(disk fsys.FS, name string) bool {
	_, err := disk.Lstat(name)
	return err == nil
}

// back and start are the script's.
func back(disk fsys.FS) error {
	if !there(disk, program+failedExt) || !there(disk, program+previousExt) {
		return nil
	}
	return errors.Join(disk.Sync(), disk.Rename(program+previousExt, program), disk.Sync())
}

func (w *world) start(m *memfs.Machine, command string) error {
	disk := m.Disk("system").FS()
	if err := back(disk); err != nil {
		return err
	}
	counted := program + startsExt + command
	for range 4 * limit {
		if !there(disk, program+trialExt) {
			break
		}
		had, err := fsys.ReadFile(disk, counted, 1<<10)
		if err != nil && !fsys.IsNotExist(err) {
			return err
		}
		had = append(had, "start\n"...)
		if err := errors.Join(fsys.WriteFile(disk, counted, had, 0o644), disk.Sync()); err != nil {
			return err
		}
		if bytes.Count(had, []byte("start")) > limit && there(disk, program+previousExt) {
			if err := errors.Join(disk.Rename(program+trialExt, program+failedExt), back(disk)); err != nil {
				return err
			}
			break
		}
		if err := w.run(m, command); err != nil {
			return err
		}
		if !there(disk, counted) {
			return nil
		}
	}
	return w.run(m, command)
}

// run is what a program does about itself.
func (w *world) run(m *memfs.Machine, command string) error {
	version, kind, err := w.what(m.Disk("system").FS(), program)
	if err != nil {
		return err
	}
	if kind == "bad "+command {
		return nil
	}
	s, c := w.self(m, version), w.copy(m)
	failed, err := s.Recover()
	if err != nil {
		return err
	}
	if failed != nil {
		if err := errors.Join(s.Revoke(failed.Version), c.Revoke(failed.Version, version)); err != nil {
			return err
		}
		if err := s.Forget(); err != nil {
			return err
		}
	}
	if command == "boot" {
		brought, err := s.Bring(w.t.Context(), c, inspect)
		if err != nil {
			return err
		}
		if !brought.IsZero() {
			return w.start(m, command)
		}
		return s.Decided(command)
	}
	if err := s.Decided(command); err != nil {
		return err
	}
	_, err = s.Settle(c, inspect, false)
	return err
}

func inspect() (bundle.Verifier, error) { return bundle.Inspect{}, nil }

// device is a whole start of the device, and the agent once it has settled.
func (w *world) device(m *memfs.Machine) error {
	if err := w.start(m, "boot"); err != nil {
		return err
	}
	return w.start(m, "agent")
}

// update puts a version in place, and starts the device, also where that was refused.
func (w *world) update(version string) func(*memfs.Machine) error {
	return func(m *memfs.Machine) error { return errors.Join(w.put(m, version, false), w.device(m)) }
}

// refused does that where it must be refused, for a reason.
func refused(why error, tight bool) func(*world) func(*memfs.Machine) error {
	return func(w *world) func(*memfs.Machine) error {
		return func(m *memfs.Machine) error {
			if err := w.put(m, "1.1.0", tight); !errors.Is(err, why) {
				return fmt.Errorf("the update: %w: expected that it is refused: %w", err, why)
			}
			return w.device(m)
		}
	}
}

func (w *world) put(m *memfs.Machine, version string, tight bool) error {
	running, _, err := w.what(m.Disk("system").FS(), program)
	if err != nil {
		return err
	}
	man, err := w.proofs[version].Verify(bundle.Inspect{})
	if err != nil {
		return err
	}
	e, err := man.Program()
	if err != nil {
		return err
	}
	data := w.programs[version]
	if _, kind, _ := w.kindOf(version); kind == cutShort {
		data = data[:len(data)-1]
	}
	return w.self(m, running).Put(w.t.Context(), Candidate{
		Version: parse(w.t, version), Program: e, Proof: w.proofs[version], Tight: tight,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	})
}

// safe checks what must hold at every instant: a whole program is in place; the way
// back is there while that one may be bad; what usr_data keeps is whole.
func (w *world) safe(m *memfs.Machine) error {
	disk := m.Disk("system").FS()
	version, kind, err := w.what(disk, program)
	if err != nil {
		return err
	}
	if kind != good {
		if !there(disk, program+trialExt) && !there(disk, program+failedExt) {
			return fmt.Errorf("%s, which is bad, is in place for good", version)
		}
		if _, was, err := w.what(disk, program+previousExt); err != nil || was != good {
			return fmt.Errorf("%s, which is bad, is in place, and there is no way back: %s, %v", version, was, err)
		}
	}
	c := w.copy(m)
	k, err := c.Load()
	if err != nil || k.Version.IsZero() {
		return err
	}
	if v, _, err := w.what(m.Disk("usr_data").FS(), c.path(k.Program)); err != nil || v != k.Version.String() {
		return fmt.Errorf("usr_data says that it keeps %s: found %s, %v", k.Version, v, err)
	}
	return nil
}

// settled checks what a device comes to: one of those versions is in place and kept,
// nothing is on trial, nothing is left over; what is bad is revoked on both sides.
func (w *world) settled(m *memfs.Machine, may ...string) error {
	m = m.Clone()
	for range 2 { // what was put in place just now starts the device once, and settles
		if err := w.device(m); err != nil {
			return err
		}
	}
	if err := w.safe(m); err != nil {
		return err
	}
	disk := m.Disk("system").FS()
	version, kind, err := w.what(disk, program)
	if err != nil || kind != good || !slices.Contains(may, version) {
		return fmt.Errorf("in place is %s, which is %s: expected one of %v (%w)", version, kind, may, err)
	}
	for _, ext := range append(starts(), nextExt, nextExt+proofExt, trialExt, failedExt) {
		if there(disk, program+ext) {
			return fmt.Errorf("%s is left", program+ext)
		}
	}
	k, err := w.copy(m).Load()
	if err != nil || k.Version.String() != version {
		return fmt.Errorf("usr_data keeps %s, in place is %s (%w)", k.Version, version, err)
	}
	known, err := w.self(m, version).Known()
	if err != nil {
		return err
	}
	for _, v := range slices.Concat(known.Revoked, k.Revoked) {
		if _, kind, _ := w.kindOf(v.String()); kind == good {
			return fmt.Errorf("%s is revoked, and is good", v)
		}
	}
	if len(known.Revoked) != len(k.Revoked) {
		return fmt.Errorf("revoked are %v on system and %v on usr_data", known.Revoked, k.Revoked)
	}
	return nil
}

func (w *world) kindOf(version string) (v, kind string, ok bool) {
	kind, ok = w.kinds[version]
	return version, kind, ok
}

// Whatever step the power is cut at, and again while the device recovers, a Tandem
// that works is in place or the script brings it back.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		kind         string // of 1.1.0
		system, kept string
		work         func(*world) func(*memfs.Machine) error
		may          []string // be in place in the end
		done         []string // and where the power was not cut
	}{
		{"an update", good, "1.0.0", "1.0.0", updated, []string{"1.0.0", "1.1.0"}, []string{"1.1.0"}},
		{"an update that cannot boot", badBoot, "1.0.0", "1.0.0", updated, []string{"1.0.0"}, []string{"1.0.0"}},
		{"an update whose agent fails", badAgent, "1.0.0", "1.0.0", updated, []string{"1.0.0"}, []string{"1.0.0"}},
		{"the factory's state", good, "1.0.0", "1.1.0", started, []string{"1.1.0"}, []string{"1.1.0"}},
		{"a downgrade by an operator", good, "1.1.0", "1.1.0", downgraded, []string{"1.0.0", "1.1.0"}, []string{"1.0.0"}},
		{"an update that fails its test", badTest, "1.0.0", "1.0.0", refused(child.ErrRefused, false), []string{"1.0.0"}, []string{"1.0.0"}},
		{"an update for another machine", foreign, "1.0.0", "1.0.0", refused(ota.ErrIncompatible, false), []string{"1.0.0"}, []string{"1.0.0"}},
		{"an update that is cut short", cutShort, "1.0.0", "1.0.0", refused(backup.ErrDamage, false), []string{"1.0.0"}, []string{"1.0.0"}},
		{"no room for two", good, "1.0.0", "1.0.0", refused(backup.ErrNoSpace, false), []string{"1.0.0"}, []string{"1.0.0"}},
		{"no room for two, and the operator insists", good, "1.0.0", "1.0.0", refused(backup.ErrNoSpace, true), []string{"1.0.0"}, []string{"1.0.0"}},
		{"room for two, which the file system denies, and the operator insists", good, "1.0.0", "1.0.0", insisted, []string{"1.0.0", "1.1.0"}, []string{"1.1.0"}},
		{"the factory's state, and what is kept cannot boot", badBoot, "1.0.0", "1.1.0", started, []string{"1.0.0"}, []string{"1.0.0"}},
		{"the factory's state, and what is kept fails in the agent", badAgent, "1.0.0", "1.1.0", started, []string{"1.0.0"}, []string{"1.0.0"}},
		{"nothing can be written", good, "1.0.0", "1.0.0", unwritable, []string{"1.0.0"}, []string{"1.0.0"}},
		{"usr_data is lost", good, "1.1.0", "", started, []string{"1.1.0"}, []string{"1.1.0"}},
		{"an older one on usr_data", good, "1.1.0", "1.0.0", started, []string{"1.1.0"}, []string{"1.1.0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, map[string]string{"1.0.0": good, "1.1.0": c.kind})
			room := int64(0)
			if strings.HasPrefix(c.name, "no room") {
				room = 8 * 4096 // for one of them, and what lies beside it
			} else if strings.HasPrefix(c.name, "room") {
				room = 20 * 4096
			}
			s := search.Case{
				Name: c.name, Start: w.machine(c.system, c.kept, room), Work: c.work(w), Recover: w.device,
				// What is once in place, and good, stays: nobody takes the older one back.
				Expect: func(m *memfs.Machine) string {
					if v, kind, _ := w.what(m.Disk("system").FS(), program); kind == good && v == c.done[0] {
						return v
					}
					return ""
				},
				During: func(m *memfs.Machine, _ string) error { return w.safe(m) },
				After: func(m *memfs.Machine, expect string, err error) error {
					may := c.may
					if expect != "" {
						may = []string{expect}
					}
					return errors.Join(err, w.safe(m), w.settled(m, may...))
				},
				Done: func(m *memfs.Machine) error { return w.settled(m, c.done...) },
			}
			const seed = 1
			every := 12
			if c.kind == good && len(c.may) == 1 || c.kind == badTest || c.kind == foreign || c.kind == cutShort {
				every = 3 // there is little to cut
			}
			r := s.Run(search.Options{Seed: seed, States: 1, Every: every})
			if r.Failure != nil {
				t.Fatalf("seed %d: %v", seed, r.Failure)
			}
			if r.Total() == 0 || r.Second == 0 {
				t.Fatalf("nothing was searched: %+v", r)
			}
		})
	}
}

func downgraded(w *world) func(*memfs.Machine) error { return w.update("1.0.0") }

func unwritable(w *world) func(*memfs.Machine) error {
	return func(m *memfs.Machine) error {
		m.Disk("system").SetReadOnly(true)
		err := w.put(m, "1.1.0", false)
		m.Disk("system").SetReadOnly(false)
		if !errors.Is(err, backup.ErrUnavailable) {
			return fmt.Errorf("the update of what cannot be written: %w", err)
		}
		return w.device(m)
	}
}

func insisted(w *world) func(*memfs.Machine) error {
	return func(m *memfs.Machine) error {
		if err := w.put(m, "1.1.0", false); !errors.Is(err, backup.ErrNoSpace) {
			return fmt.Errorf("the update where there is no room: %w", err)
		}
		return errors.Join(w.put(m, "1.1.0", true), w.device(m))
	}
}

func updated(w *world) func(*memfs.Machine) error { return w.update("1.1.0") }
func started(w *world) func(*memfs.Machine) error { return w.device }

// A kept program that is revoked, on whichever side, never comes back with the factory's
// state of system.
func TestRevokedStaysAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"1.0.0": good, "1.1.0": good})
	for _, side := range []string{"", "system", "usr_data"} {
		m := w.machine("1.0.0", "1.1.0", 0)
		var err error
		switch bad := parse(t, "1.1.0"); side {
		case "system":
			err = w.self(m, "1.0.0").Revoke(bad)
		case "usr_data":
			err = w.copy(m).Revoke(bad, "1.0.0")
		}
		if err := errors.Join(err, w.device(m)); err != nil {
			t.Fatal(err)
		}
		want := "1.0.0"
		if side == "" {
			want = "1.1.0"
		}
		if got, _, err := w.what(m.Disk("system").FS(), program); got != want || err != nil {
			t.Errorf("revoked on %q: %s is in place: expected %s (%v)", side, got, want, err)
		}
	}
}

// What the factory's Tandem cannot have take over yet, it leaves on usr_data for a start
// that can.
func TestNewerStaysKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"1.0.0": good, "1.1.0": badTest})
	m := w.machine("1.0.0", "1.1.0", 0)
	_, err := w.self(m, "1.0.0").Bring(t.Context(), w.copy(m), inspect)
	if !errors.Is(err, child.ErrRefused) {
		t.Fatal(err)
	}
	_, err = w.self(m, "1.0.0").Settle(w.copy(m), inspect, false)
	if k, e := w.copy(m).Load(); err != nil || e != nil || k.Version.String() != "1.1.0" {
		t.Errorf("usr_data keeps %s: expected 1.1.0 (%v, %v)", k.Version, err, e)
	}
	// It is not staged again at each start, which costs flash.
	for i := 2; i < 6; i++ {
		before := m.Ops()
		v, err := w.self(m, "1.0.0").Bring(t.Context(), w.copy(m), inspect)
		if tried := errors.Is(err, child.ErrRefused); tried != (i <= maxTries) || !v.IsZero() || !tried && (err != nil || m.Ops() != before) {
			t.Errorf("try %d: brought %s, %d operations: %v", i, v, m.Ops()-before, err)
		}
	}
}

// What failed here is known on both sides, also where one of them was lost.
func TestRevokedIsShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"1.0.0": good})
	m := w.machine("1.0.0", "1.0.0", 0)
	bad := parse(t, "1.1.0")
	if err := w.self(m, "1.0.0").Revoke(bad); err != nil {
		t.Fatal(err)
	}
	for _, lost := range []string{"", "usr_data", "system"} {
		var err error
		switch lost {
		case "usr_data":
			err = fsys.RemoveAll(m.Disk("usr_data").FS(), keptDir)
		case "system":
			err = w.self(m, "1.0.0").remove(knownExt)
		}
		if err := errors.Join(err, w.device(m)); err != nil {
			t.Fatal(err)
		}
		known, err := w.self(m, "1.0.0").Known()
		kept, err2 := w.copy(m).Load()
		if err := errors.Join(err, err2); err != nil || !bad.In(known.Revoked) || !bad.In(kept.Revoked) {
			t.Errorf("%q was lost: revoked are %v on system and %v on usr_data (%v)", lost, known.Revoked, kept.Revoked, err)
		}
	}
}
