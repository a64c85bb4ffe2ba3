package model

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/backup"
	"tandem/internal/fsys/memfs"
)

var lives = flag.Int("lab.lives", 60, "how many devices live through random things, one seed each")

// TestLives lets random things happen to a device, and compares it after each
// boot with what must survive: the highest version that was ever complete, and
// all configuration that a boot backed up, with the edits made since.
func TestLives(t *testing.T) {
	if *replay != "" || *only != "" {
		t.Skip("a scenario was asked for")
	}
	t.Parallel()
	n := *lives
	if *full && n == 60 {
		n = 2000
	}
	for s := *seed; s < *seed+uint64(n); s++ {
		l := newLife(s)
		if err := l.run(14); err != nil {
			t.Fatalf("seed %d (go test ./test/model -run TestLives -lab.seed=%d -lab.lives=1): %v\n%s", s, s, err, strings.Join(l.did, "\n"))
		}
		summary.Lock()
		summary.lives++
		summary.Unlock()
	}
}

// life is a device to which things happen.
type life struct {
	*device
	rng     *rand.Rand
	did     []string
	w       *world
	minor   int
	version []string          // what the device may have after the next boot
	backed  map[string]string // configuration that the last boot backed up
	edits   map[string]string // made on system since
	full    bool              // the next boot has to hash everything
	hurt    map[string]bool   // paths damaged since the last boot, on whichever side
	erased  backup.SideName   // since the last boot
	handled backup.SideName   // where a tag was raised by hand since the last boot
}

func newLife(seed uint64) *life {
	rng := rand.New(rand.NewPCG(seed, 17))
	o := memfs.Options{NoExchange: rng.IntN(3) == 0, NoSyncReports: rng.IntN(3) == 0, SyncCheap: rng.IntN(2) == 0}
	l := &life{device: newDevice(o), rng: rng}
	must(l.installAndBackUp("1.0.0", backup.InstallOptions{}))
	l.settle("1.0.0")
	return l
}

func (l *life) say(format string, args ...any) { l.did = append(l.did, fmt.Sprintf(format, args...)) }

// settle takes what lies on system after a good boot as what must survive.
func (l *life) settle(version string) {
	l.version = []string{version}
	l.backed, l.edits, l.hurt = map[string]string{}, map[string]string{}, map[string]bool{}
	l.full, l.erased, l.handled = false, "", ""
	l.w = newWorld(l.device)
	l.w.ours = nil // edits replace each other
	for name, content := range l.w.start.sides[backup.System].files {
		if isConfig(name) && !strings.HasPrefix(content, "default of ") { // those change with the version
			l.backed[name] = content
		}
	}
}

func (l *life) run(steps int) error {
	for range steps {
		for range 1 + l.rng.IntN(3) {
			l.happen()
		}
		if err := l.bootAndCheck(); err != nil {
			return err
		}
	}
	return nil
}

func (l *life) pick(of ...string) string { return of[l.rng.IntN(len(of))] }

// happen does one thing to the device, of those that the promises allow for:
// never are both copies of something hurt between two boots.
func (l *life) happen() {
	l.m.Advance(time.Duration(1+l.rng.IntN(5000)) * time.Millisecond)
	side := backup.SideName(l.pick(string(backup.System), string(backup.UsrData)))
	switch l.rng.IntN(9) {
	case 0, 1: // the application writes configuration
		if l.erased == backup.System || l.handled == backup.UsrData || len(l.version) > 1 {
			return
		}
		name := l.pick("etc/app.conf", "etc/a.conf", "etc/b.conf", "etc/sub/c.conf")
		content := fmt.Sprintf("edit-%d", l.rng.IntN(1000))
		l.say("edit %s = %s", name, content)
		l.write(backup.System, path.Join(appsDir, name), content)
		must(l.fs(backup.System).Sync())
		l.edits[name] = content
		delete(l.hurt, name)
	case 2: // configuration is deleted or emptied
		name := l.victim(l.backed)
		if name == "" || l.hurt[name] || len(l.version) > 1 || l.erased != "" || l.handled != "" || l.edits[name] != "" {
			return
		}
		l.hurt[name] = true
		if side == backup.System { // it was meant, unless a power cut comes: both may be found
			delete(l.backed, name)
		}
		if l.rng.IntN(2) == 0 {
			l.say("delete %s on %s", name, side)
			l.remove(side, path.Join(appsDir, name))
		} else {
			l.say("empty %s on %s", name, side)
			l.write(side, path.Join(appsDir, name), "")
		}
		must(l.fs(side).Sync())
	case 3, 4: // an application file is damaged
		name := l.pick("bin/app", "bin/helper", "share/deep/er/file")
		if l.hurt[name] || len(l.version) > 1 || l.erased != "" || l.handled != "" {
			return
		}
		l.hurt[name] = true
		switch l.rng.IntN(3) {
		case 0:
			l.say("delete %s on %s", name, side)
			l.remove(side, path.Join(appsDir, name))
		case 1:
			l.say("overwrite %s on %s", name, side)
			l.write(side, path.Join(appsDir, name), "garbage")
		default:
			l.say("flip a bit of %s on %s", name, side)
			l.full = true
			l.damage(side, name)
		}
		must(l.fs(side).Sync())
	case 5: // a partition is lost
		if l.erased != "" || len(l.version) > 1 || len(l.hurt) > 0 || l.handled != "" || side == backup.System && len(l.edits) > 0 {
			return
		}
		l.say("erase %s", side)
		l.erased = side
		l.erase(side)
		must(l.fs(side).Sync())
	case 6: // factory reset
		if l.erased != "" || len(l.hurt) > 0 || l.handled != "" || len(l.edits) > 0 || len(l.version) > 1 {
			return
		}
		l.say("factory reset of system to 0.9.0")
		l.erased = backup.System
		l.erase(backup.System)
		l.lay(backup.System, "0.9.0")
		l.sync()
	case 7: // a person raises the version
		if l.erased != "" || len(l.version) > 1 || len(l.hurt) > 0 || l.handled != "" || side == backup.UsrData && len(l.edits) > 0 {
			return
		}
		v := l.next()
		l.say("raise %s to %s by hand", side, v)
		l.handled = side
		l.remove(side, "apps/share/"+l.tag(side))
		for name, content := range release(v) {
			if !isConfig(name) {
				l.write(side, path.Join(appsDir, name), content)
			}
		}
		l.write(side, tagFile, v+"\n")
		must(l.fs(side).Sync())
		l.version = []string{v}
	case 8:
		if l.handled != "" || len(l.hurt) > 0 || l.erased != "" {
			return
		}
		l.install(l.next())
	}
}

func (l *life) victim(of map[string]string) string {
	names := slices.Sorted(maps.Keys(of))
	if len(names) == 0 {
		return ""
	}
	return names[l.rng.IntN(len(names))]
}

func (l *life) next() string {
	l.minor++
	return fmt.Sprintf("1.%d.0", l.minor)
}

// install installs a release, now and then with the power cut or the disk
// full in the middle: then the device has the old version or the new one.
func (l *life) install(version string) {
	switch l.rng.IntN(4) {
	case 0:
		n := 1 + l.rng.IntN(90)
		l.say("install %s, power cut at operation %d", version, n)
		l.m.CutAt(n)
	case 1:
		n := 1 + l.rng.IntN(90)
		l.say("install %s, disk full at operation %d", version, n)
		l.m.FailWriteAt(n, 2, syscall.ENOSPC)
	default:
		l.say("install %s", version)
	}
	err := l.installAndBackUp(version, backup.InstallOptions{})
	switch {
	case err == nil && !l.m.Off():
		l.version = []string{version}
	default:
		l.version = append(l.version, version)
	}
	if l.m.Off() {
		l.m.Restart(memfs.Random(l.rng))
	}
	l.m.CutAt(0)
}

// bootAndCheck boots until no power cut comes in between, and compares.
func (l *life) bootAndCheck() error {
	for range l.rng.IntN(3) {
		n := 1 + l.rng.IntN(60)
		if l.rng.IntN(4) == 0 {
			l.say("boot, operation %d fails", n)
			l.m.FailAt(n, []error{syscall.EIO, syscall.ENOSPC}[l.rng.IntN(2)])
			_ = l.boot()
			l.m.Restart(memfs.Everything())
			continue
		}
		l.say("boot, power cut at operation %d", n)
		l.m.CutAt(n)
		_ = l.boot()
		l.m.Restart(memfs.Random(l.rng))
	}
	l.say("boot (full: %v)", l.full)
	res, err := l.reconciler().Reconcile(context.Background(), backup.Options{Full: l.full})
	if errors.Is(err, backup.ErrNoApplication) {
		return errors.New("nothing is left")
	}
	if err != nil {
		return err
	}
	version := l.tag(backup.System)
	if !slices.Contains(l.version, version) {
		return fmt.Errorf("the device has %s, want one of %v (%s)", version, l.version, res.Decision.Reason)
	}
	if err := errors.Join(P2(l.w, l.device, version, nil), P5(l.w, l.device), P6(l.w, l.device)); err != nil {
		return err
	}
	want := maps.Clone(l.backed)
	maps.Copy(want, l.edits)
	for name, content := range want {
		if got, _ := l.read(backup.System, path.Join(appsDir, name)); got != content {
			return fmt.Errorf("P4: %s has %q, want %q", name, got, content)
		}
	}
	l.settle(version)
	return nil
}
