package device

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/sirupsen/logrus"

	"tandem/agent/self"
	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/fsys/memfs"
	"tandem/versioning"
)

// A server that is told of a device is told which Tandems it has.
func TestAttributesOfTandemItself(t *testing.T) {
	t.Parallel()
	v := func(text string) versioning.Version {
		v, err := versioning.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := memfs.NewMachine()
	disk, usrData := m.NewDisk("system", memfs.Options{}).FS(), m.NewDisk("usr_data", memfs.Options{}).FS()
	own, err := self.New(self.Options{
		FS: disk, Name: "tandem", Running: v("2.0.0"), Arch: "amd64", Log: log, Replaced: func() bool { return false },
		Probe: func(context.Context, string) (string, error) { return "", errors.New("not asked") },
	})
	by := self.By("2.0.0")
	err = errors.Join(err, usrData.Mkdir(".tandem", 0o700), usrData.Mkdir(".tandem/self", 0o700),
		by.Write(disk, "known", "tandem.known", self.Known{Previous: v("1.0.0")}, 0o644),
		by.Write(usrData, "kept", ".tandem/self/kept.json", self.Kept{Version: v("1.5.0")}, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	d := &Device{own: own, cfg: &config.Config{}, env: Environment{Version: "2.0.0", Log: log},
		reconciler: &backup.Reconciler{UsrData: backup.NewSide(backup.UsrData, usrData)}}
	for _, pending := range []string{"none", "2.0.0"} {
		if pending != "none" {
			if err := by.Write(disk, "trial", "tandem.trial", self.Trial{Version: v(pending), Format: 1}, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		a := d.attributes(&backup.Result{}, true, nil)
		for name, want := range map[string]string{"tandem": "2.0.0", "tandem_previous": "1.0.0", "tandem_kept": "1.5.0", "tandem_pending": pending} {
			if a[name] != want {
				t.Errorf("%s is %q: expected %q", name, a[name], want)
			}
		}
	}
}
