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
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/packaging/bundle"
	"tandem/versioning"
)

// itself is a device of whose parts there is what its own program, here 2.0.0, needs:
// where that lies, the agent's state, and usr_data.
func itself(t *testing.T) (d *Device, program, state, usrData fsys.FS) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := memfs.NewMachine()
	disk := func(name string) fsys.FS { return m.NewDisk(name, memfs.Options{}).FS() }
	program, state, usrData = disk("system"), disk("state"), disk("usr_data")
	own, err := self.New(self.Options{
		FS: program, Name: "tandem", Running: version(t, "2.0.0"), Arch: "amd64", Log: log, Replaced: func() bool { return false },
		Probe: func(context.Context, string) (string, error) { return "", errors.New("not asked") },
	})
	err = errors.Join(err, usrData.Mkdir(".tandem", 0o700), usrData.Mkdir(".tandem/self", 0o700),
		state.Mkdir("firmware", 0o700), state.Mkdir("firmware/tandem", 0o700))
	if err != nil {
		t.Fatal(err)
	}
	d = &Device{
		own: own, stateFS: state, cfg: &config.Config{}, env: Environment{Version: "2.0.0", Log: log, Now: time.Now, Random: rand.Reader},
		reconciler: &backup.Reconciler{UsrData: backup.NewSide(backup.UsrData, usrData)},
	}
	return d, program, state, usrData
}

// A server that is told of a device is told which Tandems it has.
func TestAttributesOfTandemItself(t *testing.T) {
	t.Parallel()
	d, program, _, usrData := itself(t)
	by := self.By("2.0.0")
	err := errors.Join(by.Write(program, "known", "tandem.known", self.Known{Previous: version(t, "1.0.0")}, 0o644),
		by.Write(usrData, "kept", ".tandem/self/kept.json", self.Kept{Version: version(t, "1.5.0")}, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for _, pending := range []string{"none", "2.0.0"} {
		if pending != "none" {
			if err := by.Write(program, "trial", "tandem.trial", self.Trial{Version: version(t, pending), Format: 1}, 0o644); err != nil {
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

// A Tandem that was gone back from is not installed once more, where the power went
// before its installation was noted as done.
func TestGoneBackFromIsWithdrawn(t *testing.T) {
	t.Parallel()
	d, disk, state, _ := itself(t)
	by, bad := self.By("2.0.0"), version(t, "3.0.0")
	err := errors.Join(by.Write(disk, "trial", "tandem.failed", self.Trial{Version: bad, Format: 1}, 0o644),
		by.Write(state, "firmware", "firmware/tandem/record.json", firmware.Record{
			State: firmware.Installing, Version: bad, Previous: version(t, "2.0.0"), Payload: "payload.a",
		}, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	d.RecoverItself()
	f, err := d.firmwareOf(config.Firmware{Name: "tandem"}, program{d})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := f.Load(); err != nil || s.State != firmware.Failed || !bad.In(s.Revoked) {
		t.Errorf("after it was gone back from there is %+v, error %v: expected it to have failed, and to be revoked", s, err)
	}
	if k, err := d.own.Known(); err != nil || !bad.In(k.Revoked) {
		t.Errorf("revoked are %v, error %v", k.Revoked, err)
	}
	if _, err := disk.Lstat("tandem.failed"); err == nil {
		t.Error("what the script left is there still")
	}
}

// What vouches for an unpacked Tandem is written after that: where the power went between
// the two, or it is damaged, that is no verdict on the version.
func TestProofOfAnotherTandem(t *testing.T) {
	t.Parallel()
	for _, proof := range []string{"missing", "another's", "damaged"} {
		d, _, state, _ := itself(t)
		newer := version(t, "3.0.0")
		d.followAt(t, state, newer)
		switch proof {
		case "another's":
			if err := self.By("2.0.0").Write(state, self.ProofKind, proofFile, bundle.Proof{}, 0o600); err != nil {
				t.Fatal(err)
			}
		case "damaged":
			if err := fsys.WriteFile(state, proofFile, []byte("nothing of ours\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := d.advance(t.Context(), config.Firmware{Name: "tandem"}, firmware.AtOnce)
		if !errors.Is(r.Err, backup.ErrDamage) || r.State != firmware.None {
			t.Errorf("%s: %+v", proof, r)
		}
		f, err := d.firmwareOf(config.Firmware{Name: "tandem"}, program{d})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := f.Load(); err != nil || len(s.Revoked) > 0 || s.Payload != "" {
			t.Errorf("%s: %+v, error %v", proof, s, err)
		}
	}
}

// followAt has a version of Tandem unpacked.
func (d *Device) followAt(t *testing.T, state fsys.FS, v versioning.Version) {
	t.Helper()
	err := errors.Join(state.Mkdir("firmware/tandem/payload.a", 0o700), fsys.WriteFile(state, "firmware/tandem/payload.a/tandem", []byte("a program"), 0o700),
		self.By("2.0.0").Write(state, "firmware", "firmware/tandem/record.json", firmware.Record{
			State: firmware.Unpacked, Version: v, Previous: version(t, "2.0.0"), Payload: "payload.a",
		}, 0o600))
	if err != nil {
		t.Fatal(err)
	}
}
