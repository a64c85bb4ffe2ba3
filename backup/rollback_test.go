package backup

import (
	"context"
	"errors"
	"testing"

	"tandem/backup/change"
	"tandem/internal/digest"
	"tandem/internal/fsys/memfs"
	"tandem/versioning"
)

func (l *lab) rollback(to string) error {
	r := l.reconciler()
	var target versioning.Version
	if to != "" {
		target = v(to)
	}
	if _, _, err := r.Rollback(context.Background(), target, func(versioning.Version, versioning.Version) {}); err != nil {
		return err
	}
	_, err := r.Reconcile(context.Background(), Options{})
	return err
}

func TestRollback(t *testing.T) {
	for _, o := range []memfs.Options{{}, {NoExchange: true, NoSyncReports: true}} {
		l := newLab(t, o)
		l.mustInstall("1.0.0", nil, InstallOptions{})
		l.write(System, "apps/etc/app.conf", "as it was in 1.0.0")
		l.mustInstall("1.1.0", nil, InstallOptions{})
		l.write(System, "apps/etc/app.conf", "as 1.1.0 wants it")
		l.mustBoot()
		l.must(l.rollback(""))
		l.wantInStep("1.0.0")
		if err := l.holdsRelease(System, change.AppsDir, "1.0.0"); err != nil {
			t.Error(err)
		}
		if got := l.read(System, "apps/etc/app.conf"); got != "as it was in 1.0.0" {
			t.Errorf("configuration is %q", got)
		}
		if err := l.rollback(""); !errors.Is(err, ErrNothingToReturnTo) {
			t.Errorf("again: %v, want nothing to return to: 1.1.0 is revoked", err)
		}
		l.must(l.rollback("1.1.0"))
		l.wantInStep("1.1.0")
		bad, err := l.reconciler().Revoked()
		if err != nil || len(bad) != 1 || bad[0].String() != "1.0.0" {
			t.Errorf("revoked: %v, %v", bad, err)
		}
		l.must(l.reconciler().Unrevoke(v("1.0.0")))
		l.mustInstall("1.2.0", nil, InstallOptions{})
		l.wantInStep("1.2.0")
	}
}

func TestRollbackLeavesADamagedPreviousAlone(t *testing.T) {
	l := newLab(t, memfs.Options{})
	l.mustInstall("1.0.0", nil, InstallOptions{})
	l.mustInstall("1.1.0", nil, InstallOptions{})
	kept := change.Kept(change.PreviousDir, digest.Of([]byte("binary of 1.0.0")).String())
	for _, side := range []SideName{System, UsrData} {
		l.must(l.m.Disk(string(side)).Damage(kept, func(b []byte) []byte { b[0] ^= 1; return b }))
	}
	if err := l.rollback(""); !errors.Is(err, ErrNothingToReturnTo) {
		t.Errorf("%v, want nothing to return to", err)
	}
	l.wantInStep("1.1.0")
}

// Files of the same content stay files of their own when they come back: an
// application that writes one of them writes that one.
func TestRollbackKeepsFilesApart(t *testing.T) {
	l := newLab(t, memfs.Options{})
	with := func(content string) func(map[string]string) {
		return func(files map[string]string) {
			files["etc/one.conf"], files["etc/two.conf"] = content, content
		}
	}
	l.mustInstall("1.0.0", with("of 1.0.0"), InstallOptions{})
	l.mustInstall("1.1.0", with("of 1.1.0"), InstallOptions{})
	l.must(l.rollback(""))
	for _, side := range []SideName{System, UsrData} {
		l.must(l.m.Disk(string(side)).Edit("apps/etc/one.conf", func([]byte) []byte { return []byte("edited") }))
		if got := l.read(side, "apps/etc/two.conf"); got != "of 1.0.0" {
			t.Errorf("%s: the other file is %q", side, got)
		}
	}
}
