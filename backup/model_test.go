package backup

import (
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

	"tandem/internal/fsys/memfs"
)

var (
	modelSeed = flag.Uint64("model.seed", 0, "run only this seed of the model test")
	modelRuns = flag.Int("model.runs", 120, "how many seeds the model test runs")
)

// TestModel lets random things happen to a device, and compares it after each
// boot with a model that only knows what must survive: the highest version
// that was ever complete, and all configuration that a boot backed up, with the
// edits made since.
func TestModel(t *testing.T) {
	first, runs := uint64(1), *modelRuns
	if *modelSeed != 0 {
		first, runs = *modelSeed, 1
	}
	for seed := first; seed < first+uint64(runs); seed++ {
		m := newModel(t, seed)
		if err := m.run(14); err != nil {
			t.Fatalf("seed %d (go test ./backup -run TestModel -model.seed=%d): %v\n%s", seed, seed, err, strings.Join(m.did, "\n"))
		}
	}
	t.Logf("seeds %d to %d", first, first+uint64(runs)-1)
}

type model struct {
	*lab
	rng     *rand.Rand
	did     []string
	minor   int
	version []string          // what the device may have after the next boot
	backed  map[string]string // configuration that the last boot backed up
	edits   map[string]string // made on system since
	full    bool              // the next boot has to hash everything
	hurt    map[string]bool   // paths damaged since the last boot, on whichever side
	erased  SideName          // since the last boot
	handled SideName          // where a tag was raised by hand since the last boot
}

func newModel(t testing.TB, seed uint64) *model {
	rng := rand.New(rand.NewPCG(seed, 17))
	o := memfs.Options{NoExchange: rng.IntN(3) == 0, NoSyncReports: rng.IntN(3) == 0}
	m := &model{lab: newLab(t, o), rng: rng}
	m.mustInstall("1.0.0", nil, InstallOptions{})
	m.settle("1.0.0")
	return m
}

func (m *model) say(format string, args ...any) { m.did = append(m.did, fmt.Sprintf(format, args...)) }

// settle takes what lies on system after a good boot as what must survive.
func (m *model) settle(version string) {
	m.version = []string{version}
	m.backed, m.edits, m.hurt = map[string]string{}, map[string]string{}, map[string]bool{}
	m.full, m.erased, m.handled = false, "", ""
	for name, entry := range m.files(System, appsDir) {
		if strings.HasPrefix(name, "etc/") && !strings.HasSuffix(name, "/") {
			m.backed[name] = entry[strings.LastIndexByte(entry, ' ')+1:]
		}
	}
}

func (m *model) run(steps int) error {
	for range steps {
		for range 1 + m.rng.IntN(3) {
			m.happen()
		}
		if err := m.bootAndCheck(); err != nil {
			return err
		}
	}
	return nil
}

func (m *model) pick(of ...string) string { return of[m.rng.IntN(len(of))] }

// happen does one thing to the device, of those that the promises allow for:
// never are both copies of something hurt between two boots.
func (m *model) happen() {
	m.m.Advance(time.Duration(1+m.rng.IntN(5000)) * time.Millisecond)
	side := SideName(m.pick(string(System), string(UsrData)))
	switch m.rng.IntN(9) {
	case 0, 1: // the application writes configuration
		if m.erased == System || m.handled == UsrData || len(m.version) > 1 {
			return
		}
		name := m.pick("etc/app.conf", "etc/a.conf", "etc/b.conf", "etc/sub/c.conf")
		content := fmt.Sprintf("edit-%d", m.rng.IntN(1000))
		m.say("edit %s = %s", name, content)
		m.write(System, path.Join(appsDir, name), content)
		m.must(m.fs(System).Sync())
		m.edits[name] = content
		delete(m.hurt, name)
	case 2: // configuration is deleted or emptied
		name := m.victim(m.backed)
		if name == "" || m.hurt[name] || len(m.version) > 1 || m.erased != "" || m.handled != "" || m.edits[name] != "" {
			return
		}
		m.hurt[name] = true
		if m.rng.IntN(2) == 0 {
			m.say("delete %s on %s", name, side)
			m.remove(side, path.Join(appsDir, name))
		} else {
			m.say("empty %s on %s", name, side)
			m.write(side, path.Join(appsDir, name), "")
		}
		m.must(m.fs(side).Sync())
	case 3, 4: // an application file is damaged
		name := m.pick("bin/app", "bin/helper", "share/deep/er/file")
		if m.hurt[name] || len(m.version) > 1 || m.erased != "" || m.handled != "" {
			return
		}
		m.hurt[name] = true
		switch m.rng.IntN(3) {
		case 0:
			m.say("delete %s on %s", name, side)
			m.remove(side, path.Join(appsDir, name))
		case 1:
			m.say("overwrite %s on %s", name, side)
			m.write(side, path.Join(appsDir, name), "garbage")
		default:
			m.say("flip a bit of %s on %s", name, side)
			m.full = true
			m.must(m.m.Disk(string(side)).Damage(path.Join(appsDir, name), func(b []byte) []byte { b[m.rng.IntN(len(b))] ^= 4; return b }))
		}
		m.must(m.fs(side).Sync())
	case 5: // a partition is lost
		if m.erased != "" || len(m.version) > 1 || len(m.hurt) > 0 || m.handled != "" || side == System && len(m.edits) > 0 {
			return
		}
		m.say("erase %s", side)
		m.erased = side
		m.erase(side)
		m.must(m.fs(side).Sync())
	case 6: // factory reset
		if m.erased != "" || len(m.hurt) > 0 || m.handled != "" || len(m.edits) > 0 || len(m.version) > 1 {
			return
		}
		m.say("factory reset of system to 0.9.0")
		m.erased = System
		m.erase(System)
		m.release(System, "0.9.0")
	case 7: // a person raises the version
		if m.erased != "" || len(m.version) > 1 || len(m.hurt) > 0 || m.handled != "" || side == UsrData && len(m.edits) > 0 {
			return
		}
		v := m.next()
		m.say("raise %s to %s by hand", side, v)
		m.handled = side
		m.remove(side, "apps/share/"+m.tag(side))
		for name, content := range releaseFiles(v) {
			if !strings.HasPrefix(name, "etc/") {
				m.write(side, path.Join(appsDir, name), content)
			}
		}
		m.write(side, tagFile, v+"\n")
		m.must(m.fs(side).Sync())
		m.version = []string{v}
	case 8:
		if m.handled != "" || len(m.hurt) > 0 || m.erased != "" {
			return
		}
		m.install(m.next())
	}
}

func (m *model) victim(of map[string]string) string {
	names := slices.Sorted(maps.Keys(of))
	if len(names) == 0 {
		return ""
	}
	return names[m.rng.IntN(len(names))]
}

func (m *model) next() string {
	m.minor++
	return fmt.Sprintf("1.%d.0", m.minor)
}

// install installs a release, now and then with the power cut or the disk
// full in the middle: then the device has the old version or the new one.
func (m *model) install(version string) {
	manifest, content := bundleOf(version, nil)
	switch m.rng.IntN(4) {
	case 0:
		n := 1 + m.rng.IntN(90)
		m.say("install %s, power cut at operation %d", version, n)
		m.m.CutAt(n)
	case 1:
		n := 1 + m.rng.IntN(90)
		m.say("install %s, disk full at operation %d", version, n)
		m.m.FailWriteAt(n, 2, syscall.ENOSPC)
	default:
		m.say("install %s", version)
	}
	_, err := m.lab.install(manifest, content, InstallOptions{})
	switch {
	case err == nil && !m.m.Off():
		m.version = []string{version}
	default:
		m.version = append(m.version, version)
	}
	if m.m.Off() {
		m.m.Restart(memfs.Random(m.rng))
	}
	m.m.CutAt(0)
}

// bootAndCheck boots until no power cut comes in between, and compares.
func (m *model) bootAndCheck() error {
	for range m.rng.IntN(3) {
		n := 1 + m.rng.IntN(60)
		if m.rng.IntN(4) == 0 {
			m.say("boot, operation %d fails", n)
			m.m.FailAt(n, []error{syscall.EIO, syscall.ENOSPC}[m.rng.IntN(2)])
			_, _ = m.boot()
			m.m.Restart(memfs.Everything())
			continue
		}
		m.say("boot, power cut at operation %d", n)
		m.m.CutAt(n)
		_, _ = m.boot()
		m.m.Restart(memfs.Random(m.rng))
	}
	m.say("boot (full: %v)", m.full)
	res, err := m.reconciler().Reconcile(m.t.Context(), Options{Full: m.full})
	if errors.Is(err, ErrNoApplication) {
		return errors.New("nothing is left")
	}
	if err != nil {
		return err
	}
	version := m.tag(System)
	if !slices.Contains(m.version, version) {
		return fmt.Errorf("the device has %s, want one of %v (%s)", version, m.version, res.Decision.Reason)
	}
	if err := m.inStep(version); err != nil {
		return err
	}
	for name, content := range releaseFiles(version) {
		if got := m.read(System, path.Join(appsDir, name)); got != content && !strings.HasPrefix(name, "etc/") {
			return fmt.Errorf("%s has %.40q, want %.40q", name, got, content)
		}
	}
	want := maps.Clone(m.backed)
	maps.Copy(want, m.edits)
	for name, content := range want {
		if got := m.read(System, path.Join(appsDir, name)); got != content {
			return fmt.Errorf("%s has %q, want %q", name, got, content)
		}
	}
	m.settle(version)
	return nil
}
