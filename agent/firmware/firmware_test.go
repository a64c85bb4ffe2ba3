package firmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/sirupsen/logrus"

	"tandem/backup"
	"tandem/internal/child"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
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

// image is what a bundle of a version has in image.bin.
func image(version string) string { return strings.Repeat("image "+version+"\n", 500) }

// firmwareBundle makes a bundle with a file, a directory and links.
func firmwareBundle(t testing.TB, version string) []byte {
	t.Helper()
	m := memfs.NewMachine()
	dir := m.NewDisk("build", memfs.Options{}).FS()
	err := errors.Join(
		dir.Mkdir("tree", 0o755), dir.Mkdir("tree/tools", 0o755),
		fsys.WriteFile(dir, "tree/image.bin", []byte(image(version)), 0o644),
		fsys.WriteFile(dir, "tree/tools/flash", []byte("#!/bin/sh\n"), 0o755),
		dir.Symlink("tools/flash", "tree/flash"),
		dir.Link("tree/image.bin", "tree/same.bin"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = bundle.Create(t.Context(), m.Disk("build").Sub("tree"), dir, "bundle", bundle.Options{
		Kind: release.Firmware, App: "modem", Version: parse(t, version), Compatible: []string{"demo"},
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := fsys.ReadFile(dir, "bundle", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// modem is a device whose memory survives power cuts, with its handler. What
// the handler is to say is in says, by version; nil is done.
type modem struct {
	t     testing.TB
	disk  fsys.FS // of the modem
	state fsys.FS // of the agent
	says  map[string]error
	runs  int
}

func (h *modem) read(name string) string {
	data, err := fsys.ReadFile(h.disk, name, 1<<20)
	if err != nil && !fsys.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return string(data)
}

func (h *modem) Version(context.Context) (versioning.Version, error) {
	if v := h.read("version"); v != "" {
		return parse(h.t, v), nil
	}
	return versioning.Version{}, nil
}

func (h *modem) Install(_ context.Context, dir string, from, to versioning.Version, progress func(int64)) error {
	h.runs++
	rel := strings.TrimPrefix(dir, h.state.Path(".")+"/")
	for name, want := range map[string]string{"image.bin": image(to.String()), "same.bin": image(to.String()), "tools/flash": "#!/bin/sh\n"} {
		got, err := fsys.ReadFile(h.state, path.Join(rel, name), 1<<20)
		if err != nil || string(got) != want {
			h.t.Fatalf("the handler was given %s with %d bytes, %v", name, len(got), err)
		}
	}
	if link, err := h.state.Readlink(path.Join(rel, "flash")); err != nil || link != "tools/flash" {
		h.t.Fatalf("the handler was given a link to %q, %v", link, err)
	}
	// The image may be half written when the power goes; the version is not.
	if err := fsys.WriteFile(h.disk, "image", []byte(image(to.String())), 0o644); err != nil {
		return err
	}
	said := h.says[to.String()]
	name := "version"
	if errors.Is(said, errRestart) {
		name = "after-restart"
	}
	if said == nil || errors.Is(said, errRestart) {
		if err := fsys.WriteFile(h.disk, name, []byte(to.String()), 0o644); err != nil {
			return err
		}
	}
	return said
}

// boot is what the modem does when the device starts.
func (h *modem) boot() {
	if v := h.read("after-restart"); v != "" {
		err := errors.Join(fsys.WriteFile(h.disk, "version", []byte(v), 0o644), h.disk.Remove("after-restart"), h.disk.SyncDir("."))
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

func quiet() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// testModem is a machine with a modem at version 1.0.0.
func testModem(t testing.TB, o memfs.Options) *memfs.Machine {
	t.Helper()
	m := memfs.NewMachine()
	m.NewDisk("state", o)
	err := fsys.WriteFile(m.NewDisk("modem", memfs.Options{}).FS(), "version", []byte("1.0.0"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func firmwareOn(t testing.TB, m *memfs.Machine, says map[string]error) (*Firmware, *modem) {
	h := &modem{t: t, disk: m.Disk("modem").FS(), state: m.Disk("state").FS(), says: says}
	return &Firmware{name: "modem", fs: h.state, handler: h, cuts: 3, log: quiet()}, h
}

// install does what an update does with a bundle.
func install(t testing.TB, f *Firmware, data []byte, o backup.InstallOptions) (Record, error) {
	r, err := bundle.NewReader(bytes.NewReader(data), bundle.Inspect{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Unpack(t.Context(), r, o); err != nil {
		s, _ := f.Load() // the disk may be gone with the power
		return s, err
	}
	return f.GoOn(t.Context(), AtOnce)
}

func load(t testing.TB, f *Firmware) Record {
	t.Helper()
	s, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkFirmware looks whether what the record says is so.
func checkFirmware(t testing.TB, f *Firmware, h *modem) {
	t.Helper()
	s := load(t, f)
	now, _ := h.Version(t.Context())
	switch s.State {
	case Done:
		if now.String() != s.Version.String() {
			t.Fatalf("done with %s, but %s is installed", s.Version, now)
		}
	case Failed:
		if now.String() == s.Version.String() {
			t.Fatalf("%s failed, but is installed", s.Version)
		}
	case Restart, Unpacked, Installing, Postponed:
		if whole, err := f.whole(t.Context(), &s); err != nil || !whole {
			t.Fatalf("%s, but its payload is not whole: %v", s.State, err)
		}
	}
}

// Whatever operation the power is cut at, during an update and again during the
// recovery from that, the handler is never given anything but a whole payload,
// the record never says anything untrue, and in the end it is as if the power
// had never gone.
func TestFirmwarePowerCuts(t *testing.T) {
	t.Parallel()
	data := map[string][]byte{"1.1.0": firmwareBundle(t, "1.1.0"), "1.2.0": firmwareBundle(t, "1.2.0")}
	failed := fmt.Errorf("%w: exit 3", child.ErrRefused)
	for _, c := range []struct {
		name  string
		first error // what the handler says of 1.1.0
		then  error // what it says of it when it is called again later
		want  State // in the end, of 1.1.0
		boot  bool
	}{
		{"done", nil, nil, Done, false},
		{"done, found at the start", nil, nil, Done, true},
		{"postponed, then done", child.ErrPostponed, nil, Done, false},
		{"postponed, then failed", child.ErrPostponed, failed, Failed, false},
		{"failed", failed, failed, Failed, false},
		{"after a restart", errRestart, errRestart, Done, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			start := testModem(t, memfs.Options{})
			update := func(m *memfs.Machine) {
				f, _ := firmwareOn(t, m, map[string]error{"1.1.0": c.first})
				_, _ = install(t, f, data["1.1.0"], backup.InstallOptions{}) // the power may go
			}
			when := Later
			if c.boot {
				when = AtStart
			}
			recover := func(m *memfs.Machine) {
				f, _ := firmwareOn(t, m, map[string]error{"1.1.0": c.then})
				_, _ = f.GoOn(t.Context(), when) // the power may go again
			}
			for n, cut := range start.Cuts(update) {
				seed := func() *rand.Rand { return rand.New(rand.NewPCG(1, uint64(n))) }
				for _, choice := range []memfs.Choice{memfs.Nothing(), memfs.Prefix(seed()), memfs.Random(seed())} {
					m := cut.Clone()
					m.Restart(choice)
					f, h := firmwareOn(t, m, nil)
					checkFirmware(t, f, h)
					h.boot()
					for k, again := range m.Cuts(recover) {
						again.Restart(memfs.Prefix(nil))
						f, h := firmwareOn(t, again, map[string]error{"1.1.0": c.then})
						checkFirmware(t, f, h)
						h.boot()
						s, _ := f.GoOn(t.Context(), when)
						if s.State == Restart { // the handler ran only now
							h.boot()
							s, _ = f.GoOn(t.Context(), AtStart)
						}
						checkFirmware(t, f, h)
						if s.State == None { // nothing of it had arrived: the source has it still
							s, _ = install(t, f, data["1.1.0"], backup.InstallOptions{})
							if s.State == Restart {
								h.boot()
								s, _ = f.GoOn(t.Context(), AtStart)
							}
						}
						if s.State != c.want {
							t.Fatalf("cut at %d (%s), then at %d: %s (%s), want %s", n, choice, k, s.State, s.Reason, c.want)
						}
						// The end holds: the handler is left alone.
						runs := h.runs
						if s, err := f.GoOn(t.Context(), AtStart); s.State != c.want || err != nil || h.runs != runs {
							t.Fatalf("cut at %d (%s), then at %d: gone on with all the same: %s, %v", n, choice, k, s.State, err)
						}
						if c.want == Failed {
							if _, err := install(t, f, data["1.1.0"], backup.InstallOptions{}); !errors.Is(err, backup.ErrRevoked) {
								t.Fatalf("cut at %d (%s), then at %d: the failed version is taken again: %v", n, choice, k, err)
							}
						}
					}
				}
			}
		})
	}
}

// A payload that waits is replaced by that of a higher version in one step.
func TestFirmwareReplacedUnderPowerCuts(t *testing.T) {
	t.Parallel()
	first, second := firmwareBundle(t, "1.1.0"), firmwareBundle(t, "1.2.0")
	start := testModem(t, memfs.Options{})
	f, _ := firmwareOn(t, start, map[string]error{"1.1.0": child.ErrPostponed})
	if s, err := install(t, f, first, backup.InstallOptions{}); s.State != Postponed || !errors.Is(err, child.ErrPostponed) {
		t.Fatal(s.State, err)
	}
	for n, m := range start.Cuts(func(m *memfs.Machine) {
		f, _ := firmwareOn(t, m, map[string]error{})
		_, _ = install(t, f, second, backup.InstallOptions{})
	}) {
		for _, choice := range memfs.Choices(uint64(n), 2) {
			m := m.Clone()
			m.Restart(choice)
			f, h := firmwareOn(t, m, map[string]error{})
			checkFirmware(t, f, h)
			s, err := f.GoOn(t.Context(), AtStart)
			if s.State != Done || err != nil {
				t.Fatalf("cut at %d (%s): %s, %v", n, choice, s.State, err)
			}
			checkFirmware(t, f, h)
		}
	}
}

func TestFirmwareGoesOn(t *testing.T) {
	t.Parallel()
	data := firmwareBundle(t, "1.1.0")
	failed := fmt.Errorf("%w: exit 3", child.ErrRefused)
	prepare := func(t *testing.T, says error) (*Firmware, *modem) {
		f, h := firmwareOn(t, testModem(t, memfs.Options{}), map[string]error{"1.1.0": says})
		if s, _ := install(t, f, data, backup.InstallOptions{}); s.State == None {
			t.Fatal("nothing was installed")
		}
		return f, h
	}
	expect := func(t *testing.T, f *Firmware, when Occasion, want State, target error) {
		t.Helper()
		s, err := f.GoOn(t.Context(), when)
		if s.State != want || !errors.Is(err, target) {
			t.Fatalf("%s, %v; want %s, %v", s.State, err, want, target)
		}
		if got := load(t, f); got.State != want {
			t.Fatalf("the record says %s, want %s", got.State, want)
		}
	}

	t.Run("the handler goes down with the device again and again", func(t *testing.T) {
		f, h := prepare(t, child.ErrPostponed)
		s := load(t, f)
		s.State, s.Cuts = Installing, f.cuts-1
		if err := f.save(s); err != nil {
			t.Fatal(err)
		}
		expect(t, f, AtStart, Postponed, child.ErrPostponed)
		s = load(t, f)
		s.State = Installing
		if err := f.save(s); err != nil {
			t.Fatal(err)
		}
		expect(t, f, AtStart, Failed, child.ErrRefused)
		if h.runs != 2 {
			t.Fatalf("%d runs of the handler, want 2", h.runs)
		}
	})
	t.Run("told to end", func(t *testing.T) {
		f, h := firmwareOn(t, testModem(t, memfs.Options{}), nil)
		ctx, cancel := context.WithCancel(t.Context())
		f.handler = cancelling{h, cancel}
		r, err := bundle.NewReader(bytes.NewReader(data), bundle.Inspect{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Unpack(ctx, r, backup.InstallOptions{}); err != nil {
			t.Fatal(err)
		}
		if s, err := f.GoOn(ctx, AtOnce); s.State != Postponed || !errors.Is(err, context.Canceled) {
			t.Fatal(s.State, err)
		}
		f.handler = h
		expect(t, f, Later, Done, nil)
	})
	t.Run("the handler cannot be run", func(t *testing.T) {
		f, h := prepare(t, child.ErrNotRun)
		if s := load(t, f); s.State != Postponed || len(s.Revoked) > 0 {
			t.Fatalf("%s, revoked %v", s.State, s.Revoked)
		}
		h.says = nil
		expect(t, f, Later, Done, nil)
	})
	t.Run("restart that has not come yet", func(t *testing.T) {
		f, h := prepare(t, errRestart)
		expect(t, f, Later, Restart, nil)
		h.boot()
		expect(t, f, Later, Done, nil)
	})
	t.Run("restart in vain", func(t *testing.T) {
		f, _ := prepare(t, errRestart)
		expect(t, f, AtStart, Failed, child.ErrRefused)
	})
	t.Run("a version that is not the one", func(t *testing.T) {
		f, h := firmwareOn(t, testModem(t, memfs.Options{}), nil)
		f.handler = lying{h}
		if s, err := install(t, f, data, backup.InstallOptions{}); s.State != Failed || !errors.Is(err, child.ErrRefused) {
			t.Fatal(s.State, err)
		}
	})
	t.Run("installed by hand meanwhile", func(t *testing.T) {
		for version, want := range map[string]State{"1.1.0": Done, "1.5.0": Failed} {
			f, h := prepare(t, child.ErrPostponed)
			if err := fsys.WriteFile(h.disk, "version", []byte(version), 0o644); err != nil {
				t.Fatal(err)
			}
			runs := h.runs
			if s, _ := f.GoOn(t.Context(), Later); s.State != want || h.runs != runs {
				t.Fatalf("%s by hand: %s, want %s", version, s.State, want)
			}
		}
	})
	t.Run("payload damaged", func(t *testing.T) {
		f, h := prepare(t, child.ErrPostponed)
		name := f.path(path.Join(load(t, f).Payload, "image.bin"))
		if err := fsys.WriteFile(h.state, name, []byte("rotten"), 0o600); err != nil {
			t.Fatal(err)
		}
		expect(t, f, Later, None, backup.ErrDamage)
		if h.says = nil; h.runs != 1 {
			t.Fatal("the handler was given a damaged payload")
		}
		if s, err := install(t, f, data, backup.InstallOptions{}); s.State != Done || err != nil {
			t.Fatal(s.State, err)
		}
	})
	t.Run("record damaged", func(t *testing.T) {
		for _, content := range []string{"", "garbage", strings.Repeat("0", 64) + "\n{}"} {
			f, h := prepare(t, child.ErrPostponed)
			if err := fsys.WriteFile(h.state, f.path(firmwareRecord), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			expect(t, f, Later, None, nil)
			h.says = nil
			if s, err := install(t, f, data, backup.InstallOptions{}); s.State != Done || err != nil {
				t.Fatal(s.State, err)
			}
		}
	})
	t.Run("something else in its place", func(t *testing.T) {
		f, h := firmwareOn(t, testModem(t, memfs.Options{}), nil)
		if err := fsys.WriteFile(h.state, firmwareDir, []byte("garbage"), 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err := install(t, f, data, backup.InstallOptions{}); s.State != Done || err != nil {
			t.Fatal(s.State, err)
		}
	})
	t.Run("forced anew", func(t *testing.T) {
		f, h := prepare(t, nil)
		h.says = map[string]error{"1.1.0": child.ErrPostponed}
		if s, err := install(t, f, data, backup.InstallOptions{AllowDowngrade: true}); s.State != Postponed || !errors.Is(err, child.ErrPostponed) {
			t.Fatal(s.State, err)
		}
		h.says = nil
		expect(t, f, Later, Done, nil)
		if h.runs != 3 {
			t.Fatalf("%d runs of the handler, want 3", h.runs)
		}
	})
	t.Run("failed, but allowed", func(t *testing.T) {
		f, h := prepare(t, failed)
		h.says = nil
		if s, err := install(t, f, data, backup.InstallOptions{AllowRevoked: true}); s.State != Done || err != nil || len(s.Revoked) > 0 {
			t.Fatal(s.State, s.Revoked, err)
		}
	})
	t.Run("gone back", func(t *testing.T) {
		f, h := firmwareOn(t, testModem(t, memfs.Options{}), nil)
		if err := fsys.WriteFile(h.disk, "version", []byte("2.0.0"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := install(t, f, data, backup.InstallOptions{}); !errors.Is(err, backup.ErrDowngrade) {
			t.Fatal(err)
		}
		s, err := install(t, f, data, backup.InstallOptions{AllowDowngrade: true})
		if s.State != Done || err != nil || len(s.Revoked) != 1 || s.Revoked[0].String() != "2.0.0" {
			t.Fatal(s.State, s.Revoked, err)
		}
	})
}

// cancelling is a handler during whose work tandem is told to end.
type cancelling struct {
	*modem
	cancel func()
}

func (h cancelling) Install(ctx context.Context, _ string, _, _ versioning.Version, _ func(int64)) error {
	h.cancel()
	return ctx.Err()
}

// lying says that it is done when it is not.
type lying struct{ *modem }

func (h lying) Install(context.Context, string, versioning.Version, versioning.Version, func(int64)) error {
	return nil
}

// A bundle that turns out to be bad leaves what was there, and nothing of its own.
func TestFirmwareBadBundle(t *testing.T) {
	t.Parallel()
	f, h := firmwareOn(t, testModem(t, memfs.Options{}), map[string]error{"1.1.0": child.ErrPostponed})
	if s, _ := install(t, f, firmwareBundle(t, "1.1.0"), backup.InstallOptions{}); s.State != Postponed {
		t.Fatal(s.State)
	}
	data := firmwareBundle(t, "1.2.0")
	for _, cut := range []int{1, 1024, 1500, len(data) - 2000} {
		r, err := bundle.NewReader(io.MultiReader(bytes.NewReader(data[:len(data)-cut]), iotest.ErrReader(io.ErrUnexpectedEOF)), bundle.Inspect{})
		if err == nil {
			_, err = f.Unpack(t.Context(), r, backup.InstallOptions{})
		}
		if err == nil {
			t.Fatalf("a bundle without its last %d bytes was taken", cut)
		}
		checkFirmware(t, f, h)
		if s := load(t, f); s.State != Postponed || s.Version.String() != "1.1.0" {
			t.Fatal(s.State, s.Version)
		}
		entries, err := h.state.ReadDir(f.path("."))
		if err != nil || len(entries) != 2 {
			t.Fatalf("left in the folder: %v, %v", entries, err)
		}
	}
}

// Room is asked for before the first byte; an older payload goes where there is
// no room for both.
func TestFirmwareSpace(t *testing.T) {
	t.Parallel()
	on := func(blocks int64) (*Firmware, *modem) {
		return firmwareOn(t, testModem(t, memfs.Options{Capacity: blocks * 4096}), map[string]error{"1.1.0": child.ErrPostponed})
	}
	first, second := firmwareBundle(t, "1.1.0"), firmwareBundle(t, "1.2.0")

	f, h := on(8)
	_, err := install(t, f, first, backup.InstallOptions{})
	if entries, e := h.state.ReadDir(f.path(".")); !errors.Is(err, backup.ErrNoSpace) || e != nil || len(entries) > 0 {
		t.Fatalf("%v; in the folder: %v, %v", err, entries, e)
	}

	f, _ = on(16)
	if s, err := install(t, f, first, backup.InstallOptions{}); s.State != Postponed {
		t.Fatal(s.State, err)
	}
	if s, err := install(t, f, second, backup.InstallOptions{}); s.State != Done || err != nil {
		t.Fatal(s.State, err)
	}
}

func TestParseProgress(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]int64{
		"progress 0": 0, "progress 42": 42, "progress 100": 100, "progress  7 ": 7,
		"progress": -1, "progress x": -1, "progress 101": -1, "progress -1": -1, "Progress 5": -1, " progress 5": -1, "progress 1 2": -1,
	} {
		n, ok := parseProgress(line)
		if !ok {
			n = -1
		}
		if n != want {
			t.Errorf("%q: %d, want %d", line, n, want)
		}
	}
}

// The scripts that drive the programs have the sample handler in them: it is
// the one in examples/.
func TestSampleHandlerIsTheTestedOne(t *testing.T) {
	t.Parallel()
	sample, err := os.ReadFile("../../examples/firmware/image-update")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("../../cmd/tandem/testdata/script/firmware.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(script, append([]byte("-- image-update --\n"), sample...)) {
		t.Error("examples/firmware/image-update and the one in firmware.txtar differ: copy the first one into the second")
	}
}

// A record that cannot be read just now is not a missing one: nothing is done by it, and
// nothing is written over it. One that failed here stays revoked.
func TestNoDescriptors(t *testing.T) {
	m := testModem(t, memfs.Options{})
	f, h := firmwareOn(t, m, map[string]error{"1.1.0": child.ErrRefused})
	data := firmwareBundle(t, "1.1.0")
	if s, _ := install(t, f, data, backup.InstallOptions{}); s.State != Failed {
		t.Fatal(s.State)
	}
	m.FailReads(func(p string) error {
		if strings.HasSuffix(p, firmwareRecord) {
			return syscall.EMFILE
		}
		return nil
	})
	if _, err := f.Load(); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("the record: %v", err)
	}
	if r, news := f.Advance(t.Context(), AtStart); !errors.Is(r.Err, syscall.EMFILE) || news {
		t.Errorf("gone on with: %v, news %t", r.Err, news)
	}
	r, err := bundle.NewReader(bytes.NewReader(data), bundle.Inspect{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Unpack(t.Context(), r, backup.InstallOptions{}); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("unpacked: %v", err)
	}
	m.FailReads(nil)
	if s := load(t, f); s.State != Failed || len(s.Revoked) != 1 || h.runs != 1 {
		t.Errorf("afterwards: %s, revoked %v, %d runs of the handler", s.State, s.Revoked, h.runs)
	}
}
