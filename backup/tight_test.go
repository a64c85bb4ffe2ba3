package backup

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"tandem/backup/change"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// big is a release with one large file of its own: 40 blocks.
func big(version string) func(map[string]string) {
	return func(f map[string]string) { f["bin/big"] = strings.Repeat(version+" ", 40*4096/(len(version)+1)) }
}

// tightLab has a disk for one version of the big release and some more blocks.
func tightLab(t testing.TB, blocks int64) *lab {
	return newLab(t, memfs.Options{Capacity: blocks * 4096})
}

func TestTightFlash(t *testing.T) {
	t.Run("room for old and new", func(t *testing.T) {
		l := tightLab(t, 200)
		l.mustInstall("1.0.0", big("1.0.0"), InstallOptions{})
		l.mustInstall("1.1.0", big("1.1.0"), InstallOptions{})
		l.wantInStep("1.1.0")
		if got := l.read(System, ".tandem/previous/app_ver.txt"); got != "1.0.0\n" {
			t.Errorf("previous is %q", got)
		}
	})
	t.Run("room without previous", func(t *testing.T) {
		l := tightLab(t, 150)
		l.mustInstall("1.0.0", big("1.0.0"), InstallOptions{})
		l.mustInstall("1.1.0", big("1.1.0"), InstallOptions{})
		l.mustInstall("1.2.0", big("1.2.0"), InstallOptions{})
		l.wantInStep("1.2.0")
		if got := l.read(System, ".tandem/previous/app_ver.txt"); got != "1.1.0\n" {
			t.Errorf("previous is %q", got)
		}
	})
	t.Run("in place", func(t *testing.T) {
		l := tightLab(t, 90)
		l.mustInstall("1.0.0", big("1.0.0"), InstallOptions{})
		m, content := bundleOf("1.1.0", big("1.1.0"))
		ops := l.m.Ops()
		if _, err := l.install(m, content, InstallOptions{}); !errors.Is(err, ErrInPlace) || len(l.changes(ops)) != 0 {
			t.Fatalf("not asked for: %v, %v, want ErrInPlace and no change", err, l.changes(ops))
		}
		l.mustInstall("1.1.0", big("1.1.0"), InstallOptions{InPlace: true})
		l.wantInStep("1.1.0")
	})
	t.Run("in place, said so", func(t *testing.T) {
		l := tightLab(t, 90)
		l.mustInstall("1.0.0", big("1.0.0"), InstallOptions{})
		l.remove(System, "apps/bin/big")
		l.write(System, "apps/bin/big", strings.Repeat("9", 40*4096))
		l.write(System, "app_ver.txt", "1.1.0\n")
		res := l.mustBoot()
		if !slices.Equal(res.InPlace, []SideName{UsrData}) {
			t.Errorf("in place: %v", res.InPlace)
		}
		l.wantInStep("1.1.0")
	})
	t.Run("not while the other side is damaged", func(t *testing.T) {
		l := tightLab(t, 90)
		l.mustInstall("1.0.0", big("1.0.0"), InstallOptions{})
		l.remove(System, "apps/bin/big")
		l.write(System, "apps/bin/big", strings.Repeat("9", 40*4096))
		l.write(System, "app_ver.txt", "1.1.0\n")
		l.mustBootRecord()
		l.must(l.m.Disk("system").Damage("apps/share/1.0.0", func(b []byte) []byte { b[0] ^= 1; return b }))
		l.mustBoot() // it is mended from there first
		l.wantInStep("1.1.0")
		if got := l.read(UsrData, "apps/share/1.0.0"); got != "only in 1.0.0" {
			t.Errorf("usr_data has %q", got)
		}
	})
	t.Run("no room at all", func(t *testing.T) {
		l := newLab(t, memfs.Options{})
		l.m.NewDisk("small", memfs.Options{Capacity: 20 * 4096})
		l.mustInstall("1.0.0", big("1.0.0"), InstallOptions{})
		r := l.reconciler()
		r.UsrData = &Side{Name: UsrData, FS: l.m.Disk("small").FS()}
		ops := l.m.Ops()
		_, err := r.Reconcile(t.Context(), Options{})
		var short *SpaceError
		if !errors.As(err, &short) || !errors.Is(err, ErrNoSpace) || short.NeedBytes <= short.FreeBytes {
			t.Errorf("%v, want a SpaceError with the numbers", err)
		}
		if c := l.changes(ops); len(c) != 0 {
			t.Errorf("changes: %v", c)
		}
	})
}

// A quota of which the file system tells nothing: what is too large is named, all else is
// backed up, and what is kept for a rollback goes where that helps.
func TestQuota(t *testing.T) {
	l := newLab(t, memfs.Options{})
	l.m.NewDisk("quota", memfs.Options{Capacity: 80 * 4096, Quota: true})
	reconcile := func() error {
		r := l.reconciler()
		r.UsrData = &Side{Name: UsrData, FS: l.m.Disk("quota").FS()}
		_, err := r.Reconcile(t.Context(), Options{})
		return err
	}
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.must(reconcile())
	l.write(System, "apps/etc/large", strings.Repeat("large", 100*4096))
	l.write(System, "apps/etc/own.conf", "own")
	for range 2 {
		if err := reconcile(); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "etc/large") {
			t.Errorf("%v, want ErrTooLarge for etc/large", err)
		}
	}
	read := func(name string) string {
		data, err := fsys.ReadFile(l.m.Disk("quota").FS(), name, 1<<20)
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	if got := read("apps/etc/own.conf"); got != "own" {
		t.Errorf("own.conf is backed up as %q", got)
	}
	l.remove(System, "apps/etc/large")
	l.must(reconcile())
	for _, version := range []string{"1.1.0", "1.2.0", "1.3.0"} {
		l.mustInstall(version, func(f map[string]string) { f["bin/big"] = strings.Repeat(version[2:3], 25*4096) }, InstallOptions{})
		l.must(reconcile())
		if got := read("app_ver.txt"); got != version+"\n" {
			t.Errorf("usr_data has %q, want %s", got, version)
		}
	}
}

// changes lists the operations since, but for syncs and the index.
func (l *lab) changes(since int) []string {
	return slices.DeleteFunc(l.m.Trace()[since:], func(op string) bool { return strings.HasSuffix(op, ": sync") || strings.Contains(op, change.IndexFile) })
}

// mustBootRecord makes the record of what lies on system, and nothing else.
func (l *lab) mustBootRecord() {
	l.t.Helper()
	c := l.clone()
	r := c.reconciler()
	m := c.m
	m.NewDisk("room", memfs.Options{})
	r.UsrData = &Side{Name: UsrData, FS: m.Disk("room").FS()}
	if _, err := r.Reconcile(l.t.Context(), Options{}); err != nil {
		l.t.Fatal(err)
	}
	for _, name := range []string{change.RecordFile, change.IndexFile} {
		l.write(System, name, c.read(System, name))
	}
}

func TestDamagedHigherVersionIsKeptAside(t *testing.T) {
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	m, content := bundleOf("2.0.0", nil)
	r := l.reconciler()
	i, err := r.BeginInstall(t.Context(), m, InstallOptions{Now: l.m.Now()})
	l.must(err)
	for p, c := range content {
		if i.Wants(p) {
			l.must(i.Put(t.Context(), p, strings.NewReader(c)))
		}
	}
	l.must(i.Commit(t.Context()))
	l.must(l.m.Disk("system").Damage("apps/bin/app", func([]byte) []byte { return nil }))
	res := l.mustBoot()
	if res.Decision.Action != Restore {
		t.Errorf("decided to %s (%s)", res.Decision.Action, res.Decision.Reason)
	}
	l.wantInStep("1.0.0")
	aside, err := change.ListAside(l.fs(System))
	if err != nil || !slices.ContainsFunc(aside, func(a change.Aside) bool { return a.Path == "share/2.0.0" }) {
		t.Errorf("aside: %v, %v: want what the damaged version still had", aside, err)
	}
}
