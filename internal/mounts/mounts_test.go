package mounts

import (
	"strings"
	"testing"
)

func TestListed(t *testing.T) {
	const sample = `21 1 0:19 / / rw,relatime shared:1 - ubifs ubi0:rootfs rw
35 21 0:31 / /usrdata rw,relatime - ubifs ubi0:usr_data rw
36 21 0:32 / /mnt/a\040b\134c rw - tmpfs tmpfs rw
`
	for dir, want := range map[string]bool{"/": true, "/usrdata": true, "/usrdata/appbackup": false, "/usr": false, `/mnt/a b\c`: true} {
		if got, err := listed(strings.NewReader(sample), dir); err != nil || got != want {
			t.Errorf("listed(%q) = %v, %v, want %v", dir, got, err, want)
		}
	}
}

func TestMounted(t *testing.T) {
	if ok, err := Mounted("/"); err != nil || !ok {
		t.Errorf("Mounted(/) = %v, %v", ok, err)
	}
	dir := t.TempDir()
	for _, d := range []string{dir, dir + "/missing"} {
		if ok, err := Mounted(d); err != nil || ok {
			t.Errorf("Mounted(%s) = %v, %v", d, ok, err)
		}
	}
}
