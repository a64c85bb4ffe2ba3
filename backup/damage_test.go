package backup

import (
	"errors"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// TestDamageIsNotCopied has bits that flipped under an unchanged size and time,
// which a quick look cannot see: the copy sees them (P5).
func TestDamageIsNotCopied(t *testing.T) {
	flip := func(b []byte) []byte { b[0] ^= 1; return b }
	for _, tc := range []struct {
		name string
		bad  SideName // whose file is damaged
		hurt func(l *lab)
	}{
		{"the backup is made from it", System, func(l *lab) { l.erase(UsrData) }},
		{"system is restored from it", UsrData, func(l *lab) { l.erase(System) }},
		{"a file is mended from it", UsrData, func(l *lab) { l.remove(System, "apps/bin/app") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, memfs.Options{})
			l.mustInstall("1.0.0", nil, InstallOptions{})
			tc.hurt(l)
			l.must(l.m.Disk(string(tc.bad)).Damage("apps/bin/app", flip))
			if _, err := l.boot(); !errors.Is(err, ErrDamage) {
				t.Errorf("boot: %v, want ErrDamage", err)
			}
			other := tc.bad.Other()
			if _, err := l.fs(other).Lstat("apps/bin/app"); !fsys.IsNotExist(err) {
				t.Errorf("%s has the file now: %q (%v)", other, l.read(other, "apps/bin/app"), err)
			}
			if got := l.tag(other); got != "" && tc.name != "a file is mended from it" {
				t.Errorf("%s has the tag %s", other, got)
			}
		})
	}
}
