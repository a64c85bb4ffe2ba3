package device

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent/firmware"
	"tandem/agent/self"
	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/fsys/memfs"
	"tandem/versioning"
)

// A Tandem that was gone back from is not installed once more, where the power went
// before its installation was noted as done.
func TestGoneBackFromIsWithdrawn(t *testing.T) {
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
	disk, state, usrData := m.NewDisk("system", memfs.Options{}).FS(), m.NewDisk("state", memfs.Options{}).FS(), m.NewDisk("usr_data", memfs.Options{}).FS()
	own, err := self.New(self.Options{
		FS: disk, Name: "tandem", Running: v("2.0.0"), Arch: "amd64", Log: log, Replaced: func() bool { return false },
		Probe: func(context.Context, string) (string, error) { return "", errors.New("not asked") },
	})
	by := self.By("2.0.0")
	err = errors.Join(err, usrData.Mkdir(".tandem", 0o700), state.Mkdir("firmware", 0o700), state.Mkdir("firmware/tandem", 0o700),
		by.Write(disk, "trial", "tandem.failed", self.Trial{Version: v("3.0.0"), Format: 1}, 0o644),
		by.Write(state, "firmware", "firmware/tandem/record.json", firmware.Record{
			State: firmware.Installing, Version: v("3.0.0"), Previous: v("2.0.0"), Payload: "payload.a",
		}, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	d := &Device{own: own, stateFS: state, cfg: &config.Config{}, env: Environment{Version: "2.0.0", Log: log, Now: time.Now, Random: rand.Reader},
		reconciler: &backup.Reconciler{UsrData: backup.NewSide(backup.UsrData, usrData)}}
	d.RecoverItself()
	f, err := d.firmwareOf(config.Firmware{Name: "tandem"}, program{d})
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Load()
	if err != nil || s.State != firmware.Failed || !v("3.0.0").In(s.Revoked) {
		t.Errorf("after it was gone back from there is %+v, error %v: expected it to have failed, and to be revoked", s, err)
	}
	if k, err := own.Known(); err != nil || !v("3.0.0").In(k.Revoked) {
		t.Errorf("revoked are %v, error %v", k.Revoked, err)
	}
	if _, err := disk.Lstat("tandem.failed"); err == nil {
		t.Error("what the script left is there still")
	}
}
