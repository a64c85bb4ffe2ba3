package backup

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys/memfs"
)

// bundleOf makes the manifest of a release and its content.
func bundleOf(version string, change func(map[string]string)) (*Manifest, map[Path]string) {
	files := releaseFiles(version)
	if change != nil {
		change(files)
	}
	m := &Manifest{App: "hello", Version: v(version), Config: []string{"etc/*.conf"}, Ignore: []string{"log/**"}}
	content := map[Path]string{}
	dirs := map[Path]bool{}
	for name, c := range files {
		sum := digest.Of([]byte(c))
		m.Files = append(m.Files, &manifest.Entry{Path: Path(name), Type: manifest.File, Mode: 0o644, Size: int64(len(c)), SHA256: &sum})
		content[Path(name)] = c
		for i := range name {
			if d := Path(name[:i]); name[i] == '/' && !dirs[d] {
				dirs[d] = true
				m.Files = append(m.Files, &manifest.Entry{Path: d, Type: manifest.Dir, Mode: 0o755})
			}
		}
	}
	slices.SortFunc(m.Files, manifest.ByPath)
	return m, content
}

// install does what ota.Installer does with a verified bundle, and the backup
// after it.
func (l *lab) install(m *Manifest, content map[Path]string, o InstallOptions) (*Install, error) {
	ctx := context.Background()
	r := l.reconciler()
	o.Now = l.m.Now()
	if _, err := r.Admit(ctx, m, o); err != nil {
		return nil, err
	}
	i, err := r.BeginInstall(ctx, m, o)
	if err != nil {
		return nil, err
	}
	for _, e := range m.Files {
		if i.Wants(e.Path) {
			if err := i.Put(ctx, e.Path, strings.NewReader(content[e.Path])); err != nil {
				return nil, errors.Join(err, i.Discard())
			}
		}
	}
	if err := i.Commit(ctx); err != nil {
		return nil, err
	}
	_, err = r.Reconcile(ctx, Options{})
	return i, err
}

func (l *lab) mustInstall(version string, change func(map[string]string), o InstallOptions) *Install {
	l.t.Helper()
	m, content := bundleOf(version, change)
	i, err := l.install(m, content, o)
	if err != nil {
		l.t.Fatalf("install %s: %v", version, err)
	}
	return i
}

func TestInstall(t *testing.T) {
	for _, o := range []memfs.Options{{}, {NoExchange: true, NoSyncReports: true}} {
		l := newLab(t, o)
		l.mustInstall("1.0.0", nil, InstallOptions{})
		l.wantInStep("1.0.0")
		before, err := l.fs(System).Lstat("apps/bin/helper")
		l.must(err)
		l.mustInstall("1.1.0", nil, InstallOptions{})
		l.wantInStep("1.1.0")
		if err := l.holdsRelease(System, change.AppsDir, "1.1.0"); err != nil {
			t.Error(err)
		}
		after, err := l.fs(System).Lstat("apps/bin/helper")
		l.must(err)
		if before.Ino != after.Ino {
			t.Error("an unchanged file was written again")
		}
		for _, side := range []SideName{System, UsrData} {
			if err := l.keeps(side, "1.0.0"); err != nil {
				t.Errorf("previous: %v", err)
			}
		}
		for _, version := range []string{"1.0.0", "1.1.0"} {
			m, content := bundleOf(version, nil)
			ops := l.m.Ops()
			if _, err := l.install(m, content, InstallOptions{}); !errors.Is(err, ErrDowngrade) || l.m.Ops() != ops {
				t.Errorf("%s over 1.1.0: %v, %d changes", version, err, l.m.Ops()-ops)
			}
		}
	}
}

// A program that never stops writing to a file of the version that runs keeps no other one
// waiting: what it wrote goes aside.
func TestInstallBesideWriter(t *testing.T) {
	const name = "apps/bin/app"
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	ctx, r := context.Background(), l.reconciler()
	r.System.FS = beats{r.System.FS, func() {
		l.m.Advance(time.Millisecond)
		l.must(l.m.Disk("system").Edit(name, func(was []byte) []byte { return append(slices.Clone(was), '+') }))
	}}
	m, content := bundleOf("1.1.0", nil)
	i, err := r.BeginInstall(ctx, m, InstallOptions{Both: true, Now: l.m.Now()})
	l.must(err)
	for _, e := range m.Files {
		if i.Wants(e.Path) {
			l.must(i.Put(ctx, e.Path, strings.NewReader(content[e.Path])))
		}
	}
	l.must(i.Commit(ctx))
	l.mustBoot()
	l.wantInStep("1.1.0")
	list, err := l.reconciler().ListAside()
	l.must(err)
	if !slices.ContainsFunc(list, func(a Aside) bool {
		return a.Path == "bin/app" && strings.HasPrefix(l.read(System, a.it.Name), "binary of 1.0.0+")
	}) {
		t.Errorf("aside lies %v", list)
	}
}

// What Lacks leaves out need not be fetched: the installation has it from the
// device, by whatever name it lies there. What turns out to be damaged is wanted.
func TestWantsWhatLacksTells(t *testing.T) {
	const helper, moved = "bin/helper", "lib/moved"
	move := func(files map[string]string) {
		files[moved] = files[helper]
		delete(files, helper)
	}
	for name, c := range map[string]struct {
		prepare func(*lab) // 1.0.0 is installed
		damage  string     // what cannot be read once the installation begins
	}{
		"moved":          {func(*lab) {}, ""},
		"moved, damaged": {func(*lab) {}, "apps/" + helper},
		"kept for a rollback": {func(l *lab) {
			l.mustInstall("1.0.1", func(files map[string]string) { delete(files, helper) }, InstallOptions{})
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, memfs.Options{})
			l.mustInstall("1.0.0", nil, InstallOptions{})
			c.prepare(l)
			m, _ := bundleOf("1.1.0", move)
			r := l.reconciler()
			lacks, err := r.Lacks(t.Context(), m)
			l.must(err)
			if lacks(moved) {
				t.Errorf("%s is said to be lacking", moved)
			}
			if c.damage != "" {
				l.m.FailReads(func(path string) error {
					if strings.HasSuffix(path, c.damage) {
						return syscall.EIO
					}
					return nil
				})
			}
			i, err := r.BeginInstall(t.Context(), m, InstallOptions{Both: true, Now: l.m.Now()})
			l.must(err)
			for _, e := range m.Files {
				if want := e.Type == manifest.File && (lacks(e.Path) || c.damage != "" && e.Path == moved); i.Wants(e.Path) != want {
					t.Errorf("%s: wanted %v, expected %v", e.Path, !want, want)
				}
			}
			l.must(i.Discard())
		})
	}
}

// Another build of a revoked version is revoked, and so is a version of which
// another build was; by name it is installed, and then no longer revoked.
func TestRevokedBuilds(t *testing.T) {
	for revoked, other := range map[string]string{"1.1.0": "1.1.0+fix", "1.1.0+b1": "1.1.0", "1.1.0+b2": "1.1.0+b3"} {
		l := newLab(t, memfs.Options{})
		l.mustInstall("1.0.0", nil, InstallOptions{})
		l.mustInstall(revoked, nil, InstallOptions{})
		if err := l.reconciler().Revoke(v(revoked)); err != nil {
			t.Fatal(err)
		}
		l.mustBoot()
		l.wantInStep("1.0.0")
		m, content := bundleOf(other, nil)
		if _, err := l.install(m, content, InstallOptions{}); !errors.Is(err, ErrRevoked) {
			t.Errorf("%s revoked, %s installed: %v, want ErrRevoked", revoked, other, err)
		}
		l.mustInstall(other, nil, InstallOptions{AllowRevoked: true})
		l.mustBoot()
		l.wantInStep(other)
		if bad, err := l.reconciler().Revoked(); err != nil || len(bad) > 0 {
			t.Errorf("revoked after %s was installed: %v, %v", other, bad, err)
		}
	}
}

func TestDowngradeSticks(t *testing.T) {
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.mustInstall("1.1.0", nil, InstallOptions{})
	l.mustInstall("1.0.0", nil, InstallOptions{AllowDowngrade: true})
	l.wantInStep("1.0.0")
	m, content := bundleOf("1.1.0", nil)
	if _, err := l.install(m, content, InstallOptions{}); !errors.Is(err, ErrRevoked) {
		t.Errorf("1.1.0 again: %v, want ErrRevoked", err)
	}
	l.mustInstall("1.1.0", nil, InstallOptions{AllowRevoked: true})
	l.wantInStep("1.1.0")
	if bad, err := l.reconciler().Revoked(); err != nil || len(bad) != 0 {
		t.Errorf("still revoked: %v, %v", bad, err)
	}
}

// TestMerge has the three ways of configuration across an update, and what
// else a device may have in its tree.
func TestMerge(t *testing.T) {
	conf := func(name, content string) func(map[string]string) {
		return func(f map[string]string) { f[name] = content }
	}
	for _, tc := range []struct {
		name     string
		old, new func(map[string]string)
		edit     func(l *lab)
		want     map[string]string // "" = must be gone
	}{
		{"not edited: the new default", conf("etc/a.conf", "1"), conf("etc/a.conf", "22"), nil,
			map[string]string{"etc/a.conf": "22", "etc/a.conf.new": ""}},
		{"edited, default unchanged: the edit", conf("etc/a.conf", "1"), conf("etc/a.conf", "1"),
			func(l *lab) { l.write(System, "apps/etc/a.conf", "mine") },
			map[string]string{"etc/a.conf": "mine", "etc/a.conf.new": ""}},
		{"both changed: the edit, and the default beside it", conf("etc/a.conf", "1"), conf("etc/a.conf", "22"),
			func(l *lab) { l.write(System, "apps/etc/a.conf", "mine") },
			map[string]string{"etc/a.conf": "mine", "etc/a.conf.new": "22"}},
		{"edited to what the new default is", conf("etc/a.conf", "1"), conf("etc/a.conf", "22"),
			func(l *lab) { l.write(System, "apps/etc/a.conf", "22") },
			map[string]string{"etc/a.conf": "22", "etc/a.conf.new": ""}},
		{"an application file edited by hand: the release's", conf("bin/x", "1"), conf("bin/x", "22"), nil,
			map[string]string{"bin/x": "22"}},
		{"a file the application made stays", nil, nil,
			func(l *lab) { l.write(System, "apps/var/lib/state", "made here") },
			map[string]string{"var/lib/state": "made here"}},
		{"an ignored file stays on system", nil, nil,
			func(l *lab) { l.write(System, "apps/log/today", "a line") },
			map[string]string{"log/today": "a line"}},
		{"a default that is shipped no longer goes", conf("etc/gone.conf", "1"), nil, nil,
			map[string]string{"etc/gone.conf": ""}},
		{"a default that is shipped no longer but was edited stays", conf("etc/gone.conf", "1"), nil,
			func(l *lab) { l.write(System, "apps/etc/gone.conf", "mine") },
			map[string]string{"etc/gone.conf": "mine"}},
		{"a new default where the device has a file of its own", nil, conf("etc/b.conf", "theirs"),
			func(l *lab) { l.write(System, "apps/etc/b.conf", "mine") },
			map[string]string{"etc/b.conf": "mine", "etc/b.conf.new": "theirs"}},
		{"an application file that is shipped no longer goes", conf("lib/old.so", "1"), nil, nil,
			map[string]string{"lib/old.so": ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, memfs.Options{})
			l.mustInstall("1.0.0", tc.old, InstallOptions{})
			l.m.Advance(time.Second)
			if tc.edit != nil {
				tc.edit(l)
			}
			l.mustInstall("1.1.0", tc.new, InstallOptions{})
			for name, want := range tc.want {
				got := l.read(System, "apps/"+name)
				if want == "" && !strings.HasPrefix(got, "error:") || want != "" && got != want {
					t.Errorf("%s has %q, want %q", name, got, want)
				}
			}
			l.remove(System, "apps/log")
			if err := l.inStep("1.1.0"); err != nil && !strings.Contains(tc.name, "ignored") {
				t.Error(err)
			}
		})
	}
}

// A release over what a factory laid down takes its files for the version before, whatever
// tags that had; only what was written since then is kept beside.
func TestInstallOverAdopted(t *testing.T) {
	for _, bumped := range []bool{false, true} {
		testInstallOverAdopted(t, bumped)
	}
}

func testInstallOverAdopted(t *testing.T, bumped bool) {
	l := newLab(t, memfs.Options{})
	l.release(System, "1.0.0")
	l.mustBoot()
	l.m.Advance(time.Second)
	l.write(System, "apps/bin/helper", "mine")
	if bumped {
		l.write(System, "app_ver.txt", "1.0.1\n")
		l.mustBoot()
	}
	l.mustInstall("1.1.0", nil, InstallOptions{})
	for name, want := range map[string]string{
		"bin/app":             "binary of 1.1.0",
		"bin/helper":          "the same in all versions",
		"bin/helper.conflict": "mine",
		"share/1.0.0":         "only in 1.0.0",
	} {
		if got := l.read(System, "apps/"+name); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	if got := l.read(System, "apps/bin/app.conflict"); !strings.HasPrefix(got, "error:") {
		t.Errorf("a file of the factory is kept beside: %q", got)
	}
	if err := l.inStep("1.1.0"); err != nil {
		t.Error(err)
	}
}

// TestTwoEditsInASecond has a file system that keeps whole seconds, as UBIFS
// does: an edit that leaves size and time as they were is captured all the same,
// and never taken for damage.
func TestTwoEditsInASecond(t *testing.T) {
	for _, full := range []bool{false, true} {
		l := newLab(t, memfs.Options{CoarseMtime: true})
		l.mustInstall("1.0.0", nil, InstallOptions{})
		for _, content := range []string{"edited 1", "edited 2", "edited 3"} {
			l.write(System, "apps/etc/app.conf", content)
			if _, err := l.reconciler().Reconcile(t.Context(), Options{Full: full}); err != nil {
				t.Fatal(err)
			}
			for _, side := range []SideName{System, UsrData} {
				if got := l.read(side, "apps/etc/app.conf"); got != content {
					t.Fatalf("full %v: %s has %q, want %q", full, side, got, content)
				}
			}
		}
	}
}

// TestConfigurationSavedAtStop has an application that writes its
// configuration when it is stopped, which is after everything was staged.
func TestConfigurationSavedAtStop(t *testing.T) {
	l := newLab(t, memfs.Options{})
	conf := func(c string) func(map[string]string) {
		return func(f map[string]string) { f["etc/a.conf"], f["etc/b.conf"], f["etc/c.conf"] = c, c, "same" }
	}
	l.mustInstall("1.0.0", conf("1"), InstallOptions{})
	l.write(System, "apps/etc/a.conf", "edited before")
	r := l.reconciler()
	m, content := bundleOf("1.1.0", conf("22"))
	i, err := r.BeginInstall(t.Context(), m, InstallOptions{Now: l.m.Now()})
	l.must(err)
	for p, c := range content {
		if i.Wants(p) {
			l.must(i.Put(t.Context(), p, strings.NewReader(c)))
		}
	}
	l.write(System, "apps/etc/a.conf", "saved at stop")
	l.write(System, "apps/etc/b.conf", "saved at stop")
	l.write(System, "apps/etc/c.conf", "saved at stop")
	l.write(System, "apps/var/new/state", "saved at stop")
	l.must(i.Commit(t.Context()))
	l.mustBoot()
	l.wantInStep("1.1.0")
	for name, want := range map[string]string{
		"etc/a.conf": "saved at stop", "etc/a.conf.new": "22",
		"etc/b.conf": "saved at stop", "etc/b.conf.new": "22",
		"etc/c.conf": "saved at stop", "var/new/state": "saved at stop",
	} {
		if got := l.read(System, "apps/"+name); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	if got := l.read(System, "apps/etc/c.conf.new"); !strings.HasPrefix(got, "error:") {
		t.Errorf("etc/c.conf.new has %q", got)
	}
}
