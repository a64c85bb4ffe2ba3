package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// scenario is a device before a boot, and what may be there after it.
type scenario struct {
	name    string
	prepare func(l *lab)
	want    []string           // versions allowed after recovery
	check   func(l *lab) error // besides P2; may be nil
}

func scenarios() []scenario {
	installed := func(l *lab, version string) {
		l.release(System, version)
		l.mustBoot()
	}
	return []scenario{
		{"first backup", func(l *lab) { l.release(System, "1.0.0") }, []string{"1.0.0"}, nil},
		{"restore", func(l *lab) { installed(l, "1.0.0"); l.erase(System) }, []string{"1.0.0"}, nil},
		{"upgrade by hand", func(l *lab) {
			installed(l, "1.0.0")
			l.remove(System, "apps")
			l.release(System, "1.1.0")
		}, []string{"1.1.0"}, nil},
		{"factory reset", func(l *lab) {
			installed(l, "1.1.0")
			l.erase(System)
			l.release(System, "1.0.0")
		}, []string{"1.1.0"}, nil},
		{"damage on both sides", func(l *lab) {
			installed(l, "1.0.0")
			l.remove(System, "apps/bin/app")
			l.remove(UsrData, "apps/share/deep")
			l.must(l.fs(System).Sync())
			l.must(l.fs(UsrData).Sync())
		}, []string{"1.0.0"}, nil},
		{"configuration edited", func(l *lab) {
			installed(l, "1.0.0")
			l.write(System, "apps/etc/app.conf", "edited")
			l.write(System, "apps/etc/new.conf", "made by the application")
			l.must(l.fs(System).Sync())
		}, []string{"1.0.0"}, func(l *lab) error {
			for _, side := range []SideName{System, UsrData} {
				if got := l.read(side, "apps/etc/app.conf"); got != "edited" {
					return fmt.Errorf("%s: app.conf has %q", side, got)
				}
			}
			return nil
		}},
		{"two versions of the vendor's", func(l *lab) { l.release(System, "1"); l.release(UsrData, "2") }, []string{"2"}, nil},
	}
}

// TestPowerCut cuts the power at every operation of a boot, lets each disk
// fall into several of the states that the cut may leave, cuts the boot after
// that at a random operation too, and then wants P1, P2 and P3.
func TestPowerCut(t *testing.T) {
	for _, sc := range scenarios() {
		for name, o := range map[string]memfs.Options{"exchange": {}, "two renames": {NoExchange: true, NoSyncReports: true}} {
			t.Run(sc.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, o)
				sc.prepare(l)
				before := l.completeVersions()
				cuts := 0
				for n, m := range l.m.Cuts(func(m *memfs.Machine) { _, _ = (&lab{t, m}).boot() }) {
					for i, choice := range memfs.Choices(uint64(n), 3) {
						after := &lab{t, m.Clone()}
						after.m.Restart(choice)
						if err := after.survives(sc, before, n+i); err != nil {
							tail := m.Trace()
							t.Fatalf("cut at operation %d, state %s (%d): %v\nlast operations:\n%s",
								n, choice, i, err, strings.Join(tail[max(0, len(tail)-12):], "\n"))
						}
						cuts++
					}
				}
				t.Logf("%d cuts", cuts)
			})
		}
	}
}

// completeVersions gives the versions that a side holds whole.
func (l *lab) completeVersions() []string {
	var versions []string
	for _, side := range []SideName{System, UsrData} {
		if v := l.tag(side); v != "" && l.holdsRelease(side, appsDir, v) == nil {
			versions = append(versions, v)
		}
	}
	return versions
}

func (l *lab) survives(sc scenario, before []string, second int) error {
	// P3: a tag without a pending commit names a version that is complete.
	complete := 0
	for _, side := range []SideName{System, UsrData} {
		if _, err := l.fs(side).Lstat(commitFile); err == nil {
			complete++
			continue
		}
		tag := l.tag(side)
		if tag == "" {
			continue
		}
		if err := l.holdsRelease(side, appsDir, tag); err == nil {
			complete++
		} else if len(before) == 2 {
			return fmt.Errorf("P3: tag %s: %w", tag, err)
		}
	}
	if complete == 0 && len(before) > 0 {
		return fmt.Errorf("P1: no side is complete")
	}
	return l.recovers(sc, second)
}

// recovers cuts the boot after the cut, too, and then wants P2.
func (l *lab) recovers(sc scenario, second int) error {
	again := l.m.Clone()
	again.CutAt(1 + second%40)
	_, _ = (&lab{l.t, again}).boot()
	if again.Off() {
		again.Restart(memfs.Choices(uint64(second), 1)[second%6])
	}
	again.CutAt(0)
	l.m = again
	if _, err := l.boot(); errors.Is(err, ErrNoApplication) && slices.Contains(sc.want, "") {
		return nil
	} else if err != nil {
		return fmt.Errorf("boot after the cut: %w", err)
	}
	tag := l.tag(System)
	if !slices.Contains(sc.want, tag) {
		return fmt.Errorf("P2: system has %s, want one of %v", tag, sc.want)
	}
	if err := l.inStep(tag); err != nil {
		return fmt.Errorf("P2: %w", err)
	}
	if err := l.holdsRelease(System, appsDir, tag); err != nil && !strings.Contains(err.Error(), "bin/big") {
		return fmt.Errorf("P2: %w", err)
	}
	if sc.check != nil {
		return sc.check(l)
	}
	return nil
}

// TestRecoversAlone has a side that was cut between the two renames, and the
// other one not mounted: the application is there all the same.
func TestRecoversAlone(t *testing.T) {
	m, content := bundleOf("1.1.0", nil)
	l := newLab(t, memfs.Options{NoExchange: true})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	found := false
	for _, machine := range l.m.Cuts(func(machine *memfs.Machine) { _, _ = (&lab{t, machine}).install(m, content, InstallOptions{}) }) {
		machine.Restart(memfs.Everything())
		after := &lab{t, machine}
		if _, err := after.fs(System).Lstat(appsDir); err == nil {
			continue
		}
		found = true
		r := after.reconciler()
		r.UsrData.Ready = func() error { return ErrUnavailable }
		if _, err := r.Reconcile(t.Context(), Options{}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		if err := after.holdsRelease(System, appsDir, "1.1.0"); err != nil {
			t.Error(err)
		}
	}
	if !found {
		t.Error("no cut fell between the two renames")
	}
}

// TestPlantedBugs shows that the power cuts find what they are for.
func TestPlantedBugs(t *testing.T) {
	for name, broken := range map[string]func(fsys.FS) fsys.FS{
		"files are not synced":       func(fs fsys.FS) fsys.FS { return noSync{fs} },
		"directories are not synced": func(fs fsys.FS) fsys.FS { return noSyncDir{fs} },
	} {
		t.Run(name, func(t *testing.T) {
			for _, sc := range scenarios() {
				l := newLab(t, memfs.Options{NoSyncReports: true})
				sc.prepare(l)
				before := l.completeVersions()
				work := func(m *memfs.Machine) {
					r := (&lab{t, m}).reconciler()
					r.System.FS, r.UsrData.FS = broken(r.System.FS), broken(r.UsrData.FS)
					_, _ = r.Reconcile(context.Background(), Options{})
				}
				for n, m := range l.m.Cuts(work) {
					for i, choice := range memfs.Choices(uint64(n), 3) {
						after := &lab{t, m.Clone()}
						after.m.Restart(choice)
						if err := after.survives(sc, before, n+i); err != nil {
							t.Logf("found: %s: %v", sc.name, err)
							return
						}
					}
				}
			}
			t.Error("not found")
		})
	}
}

type noSync struct{ fsys.FS }

func (n noSync) Create(name string, mode uint32) (fsys.File, error) {
	f, err := n.FS.Create(name, mode)
	return noSyncFile{f}, err
}
func (n noSync) Open(name string) (fsys.File, error) {
	f, err := n.FS.Open(name)
	return noSyncFile{f}, err
}
func (noSync) Sync() error { return nil }

type noSyncFile struct{ fsys.File }

func (noSyncFile) Sync() error { return nil }

type noSyncDir struct{ fsys.FS }

func (noSyncDir) SyncDir(string) error { return nil }
func (noSyncDir) Sync() error          { return nil }
