package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tandem/agent/firmware"
	"tandem/agent/self"
	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/boot"
	"tandem/internal/child"
	"tandem/internal/config"
	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/versioning"
)

// Tandem itself is followed as a firmware is: its bundle is unpacked into the
// agent's state, and written by a handler, which is this program.

// probeTimeout is how long a program may take to tell its version, or to test itself.
const probeTimeout = time.Minute

// proofFile is where what vouches for an unpacked Tandem waits, in the agent's state.
const proofFile = "firmware/" + release.ProgramName + "/proof.json"

// itself returns Tandem's own program; nil where this one has no version, or its
// place is not known.
func (d *Device) itself() (*self.Self, error) {
	if d.own != nil || d.env.Program == "" {
		return d.own, nil
	}
	running, err := versioning.Parse(d.env.Version)
	if err != nil {
		return nil, nil // of no release: nothing is newer or older
	}
	disk, err := fsys.OpenOS(filepath.Dir(d.env.Program))
	if err != nil {
		return nil, err
	}
	d.open = append(d.open, disk)
	d.own, err = self.New(self.Options{
		FS: disk, Name: filepath.Base(d.env.Program), Running: running, Arch: release.Architecture(), Boot: boot.ID(),
		Probe: d.probe, Replaced: d.replaced, Log: d.env.Log,
	})
	return d.own, err
}

// modest has a Tandem on trial write only what the one before reads.
func (d *Device) modest() error {
	if d.env.Program == "" {
		return nil
	}
	if _, err := os.Lstat(d.env.Program + ".trial"); err != nil {
		return nil
	}
	own, err := d.itself()
	if own == nil || err != nil {
		return err
	}
	t, err := own.Trial()
	switch {
	case errors.Is(err, record.ErrNewer): // another one is on trial: told where it matters
		return nil
	case err == nil && t != nil && t.Version.String() == own.Running().String():
		d.env.Format = t.Format
	}
	return err
}

// replaced reports whether the program in place is another than the one that runs.
func (d *Device) replaced() bool {
	runs, err := os.Stat("/proc/self/exe")
	there, err2 := os.Stat(d.env.Program)
	return err == nil && err2 == nil && !os.SameFile(runs, there)
}

// probe has a program test itself with the configuration of the device. It is
// another process, which is killed when its time is up.
func (d *Device) probe(ctx context.Context, program string) (string, error) {
	var lines, said []string
	err := child.Run(ctx, child.Program{
		Name: "the new tandem", Verb: "selftest", Argv: []string{program, "--config", d.cfg.File, "selftest", "--json"},
		Timeout: probeTimeout, Bound: true, Out: func(l string) { lines = append(lines, l) },
		Err: func(l string) { said = append(said, l) },
	})
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if errors.Is(err, syscall.ENOEXEC) || errors.Is(err, fs.ErrNotExist) { // nor will it run at the start of the device
		err = fmt.Errorf("%w: %v", child.ErrRefused, err)
	}
	if len(said) > 0 && err != nil {
		err = fmt.Errorf("%w: %s", err, strings.Join(said[max(0, len(said)-3):], "; "))
	}
	if err != nil {
		return "", err
	}
	var doc SelfTest
	if err := json.Unmarshal([]byte(strings.Join(lines, "\n")), &doc); err != nil {
		return "", fmt.Errorf("%w: the new tandem: selftest: %w", child.ErrRefused, err)
	}
	return doc.Version, nil
}

// SelfTest is the document of selftest.
type SelfTest struct {
	Version string   `json:"version"`
	Program string   `json:"program,omitempty"` // what its maker put into it
	Arch    string   `json:"architecture"`
	Remarks []string `json:"remarks,omitempty"` // what is not well on the device
	Failure
}

// SelfTest does what a start does, and writes nothing: it looks at both sides, at
// whom the device trusts, and at the agent's state. What is wrong with the device is
// a remark; the error says that this program is of no use here.
func (d *Device) SelfTest(ctx context.Context) (*SelfTest, error) {
	doc := &SelfTest{Version: d.env.Version, Arch: release.Architecture()}
	remark := func(what string, err error) {
		if err != nil {
			doc.Remarks = append(doc.Remarks, what+": "+err.Error())
		}
	}
	_, err := d.reconciler.Look(ctx, backup.Options{})
	if errors.Is(err, backup.ErrNewer) || ctx.Err() != nil {
		return doc, err
	}
	remark("the sides", err)
	_, err = d.provisioned()
	if errors.Is(err, trust.ErrRoot) {
		return doc, err
	}
	remark("trust", err)
	_, err = d.History()
	remark("the history", err)
	if err := child.Check([]string{"/proc/self/exe"}); err != nil {
		remark("the program", err)
	}
	return doc, nil
}

// followed lists what is followed beside the application.
func (d *Device) followed() []config.Firmware {
	all := d.cfg.Firmware
	if own, err := d.itself(); own != nil || err != nil {
		all = append(all[:len(all):len(all)], config.Firmware{Name: release.ProgramName})
	}
	return all
}

// kind returns the kind of releases for one of those.
func kind(c config.Firmware) release.Kind {
	if c.Handler == nil {
		return release.Agent
	}
	return release.Firmware
}

// program is Tandem's handler of itself.
type program struct{ d *Device }

// Version implements firmware.Handler.
func (p program) Version(context.Context) (versioning.Version, error) {
	own, err := p.d.itself()
	if err != nil {
		return versioning.Version{}, err
	}
	if v, err := own.Swapped(); err != nil || !v.IsZero() {
		return v, err
	}
	return own.Running(), nil
}

// Install implements firmware.Handler.
func (p program) Install(ctx context.Context, dir string, _, to versioning.Version, _ func(int64)) error {
	own, err := p.d.itself()
	if err != nil {
		return err
	}
	state, err := p.d.State()
	if err != nil {
		return err
	}
	var proof bundle.Proof
	there, err := record.ReadJSON(state, self.ProofKind, proofFile, bundle.MaxProof, &proof)
	if err != nil && !errors.Is(err, manifest.ErrInvalid) {
		return fmt.Errorf("%w: %w", child.ErrPostponed, err)
	}
	m, err := proof.Verify(bundle.Inspect{})                       // it was verified when it was unpacked
	if !there || err != nil || m.Version.String() != to.String() { // that of the one before, where the power was cut
		return fmt.Errorf("%w: what vouches for the unpacked Tandem is not there", backup.ErrDamage)
	}
	e, err := m.Program()
	if err != nil {
		return err
	}
	err = own.Put(ctx, self.Candidate{
		Version: to, Program: e, Proof: &proof, Boot: boot.ID(), Tight: p.d.tight,
		Open: func() (io.ReadCloser, error) { return os.Open(filepath.Join(dir, release.ProgramName)) },
	})
	switch {
	case err == nil:
		p.d.forgive(own, to)
	case !errors.Is(err, child.ErrRefused) && !errors.Is(err, ota.ErrIncompatible) && !errors.Is(err, backup.ErrDamage):
		return fmt.Errorf("%w: %w", child.ErrPostponed, err) // it says nothing against it
	}
	return err
}

// unpackItself takes a bundle that carries Tandem.
func (d *Device) unpackItself(ctx context.Context, r *bundle.Reader, o backup.InstallOptions) (from versioning.Version, err error) {
	own, err := d.itself()
	if err != nil {
		return from, err
	}
	m := r.Manifest()
	e, err := m.Program()
	if err != nil {
		return from, err
	}
	if revoked := d.revokedItself(own); !o.AllowRevoked && m.Version.In(revoked) {
		return from, fmt.Errorf("%w: tandem %s failed here, or was gone back from", backup.ErrRevoked, m.Version)
	}
	f, err := d.firmwareOf(config.Firmware{Name: release.ProgramName}, program{d})
	if err != nil {
		return from, err
	}
	if m.Version.Compare(own.Running()) != 0 || o.Reinstall {
		if err := own.Check(e.Size, o.Tight); err != nil {
			return from, err
		}
	}
	proof, err := r.Proof()
	if err != nil {
		return from, err
	}
	if from, err = f.Unpack(ctx, r, o); err != nil {
		return from, err
	}
	state, err := d.State()
	if err != nil {
		return from, err
	}
	return from, d.Author().Write(state, self.ProofKind, proofFile, proof, 0o600)
}

// copyOf returns the second copy, on usr_data; nil where that cannot be used.
func (d *Device) copyOf() *self.Copy {
	side := d.reconciler.UsrData
	if side.FS == nil || side.Ready != nil && side.Ready() != nil {
		return nil
	}
	return self.NewCopy(side.FS)
}

// verifier is who decides whether a Tandem is trusted.
func (d *Device) verifier() (bundle.Verifier, error) {
	root, err := d.root()
	if errors.Is(err, ErrNoRoot) {
		err = errors.Join(self.ErrUnproven, err)
	}
	if err != nil {
		return nil, err
	}
	return trust.New(trust.Options{Root: root, Time: d.now(), AllowUnsigned: d.cfg.Trust.AllowUnsigned})
}

// revokedItself lists the versions of Tandem that are revoked on either side.
func (d *Device) revokedItself(own *self.Self) []versioning.Version {
	k, err := own.Known()
	if err != nil {
		d.env.Log.WithError(err).Warn("it is not known which versions of Tandem failed here")
	}
	if c := d.copyOf(); c != nil {
		if kept, err := c.Load(); err == nil {
			return append(k.Revoked[:len(k.Revoked):len(k.Revoked)], kept.Revoked...)
		}
	}
	return k.Revoked
}

// forgive forgets that a version of Tandem failed here, as an operator wants it.
func (d *Device) forgive(own *self.Self, v versioning.Version) {
	err := own.Unrevoke(v)
	if c := d.copyOf(); c != nil {
		err = errors.Join(err, c.Unrevoke(v, d.env.Version))
	}
	if err != nil {
		d.env.Log.WithError(err).Warn("it could not be written down that a version of Tandem is wanted again")
	}
}

// Renewed reports whether another program has taken the place of the one that runs,
// which is to go on in its stead.
func (d *Device) Renewed() bool {
	own, err := d.itself()
	if own == nil || err != nil {
		return false
	}
	v, err := own.Swapped()
	return err == nil && !v.IsZero()
}

// recoverItself finishes what a power cut left of a change of Tandem, and revokes the
// version that the script went back from.
func (d *Device) recoverItself() error {
	own, err := d.itself()
	if own == nil || err != nil {
		return err
	}
	failed, err := own.Recover()
	if failed == nil {
		return err
	}
	v := failed.Version
	err = errors.Join(err, own.Revoke(v))
	if c := d.copyOf(); c != nil {
		err = errors.Join(err, c.Revoke(v, d.env.Version))
	}
	const why = "it did not come to a decision in the starts that it had: gone back from"
	// The power may have gone before its installation was noted as done.
	f, e := d.firmwareOf(config.Firmware{Name: release.ProgramName}, program{d})
	if e == nil {
		e = f.Withdraw(v, why)
	}
	err = errors.Join(err, e)
	d.Remember(Event{Command: "firmware", Action: string(firmware.Failed), Reason: release.ProgramName, From: own.Running(), Version: v, Error: why})
	d.env.Log.WithField("version", v).Error("Tandem went back to the version before: the new one is revoked")
	if err == nil {
		err = own.Forget()
	}
	return err
}

// RecoverItself finishes what a power cut or the script left of a change of Tandem.
// What goes wrong with it is logged.
func (d *Device) RecoverItself() {
	if err := d.recoverItself(); err != nil {
		d.env.Log.WithError(err).Warn("Tandem itself could not be looked after")
	}
}

// StartItself is what boot does before anything else: after a factory state of
// system it has the newer Tandem of usr_data take over. It returns true where that is
// in place, and is to be started in the stead of this one. What goes wrong with it is
// logged, and keeps no application waiting.
func (d *Device) StartItself(ctx context.Context) bool {
	own, err := d.itself()
	if own == nil && err == nil {
		return false
	}
	d.RecoverItself()
	c := d.copyOf()
	if own == nil || c == nil {
		return false
	}
	v, err := own.Bring(ctx, c, d.verifier)
	if err != nil {
		d.env.Log.WithError(err).Warn("the newer Tandem that usr_data keeps cannot take over")
		return false
	}
	if v.IsZero() {
		return false
	}
	d.env.Log.WithField("version", v).Info("the Tandem that usr_data keeps takes over")
	d.Remember(Event{Command: "firmware", Action: "installed", Reason: release.ProgramName, From: own.Running(), Version: v})
	return true
}

// DecidedItself notes that a command came to a decision, whatever it was.
func (d *Device) DecidedItself(command string) {
	own, err := d.itself()
	if own != nil {
		err = own.Decided(command)
	}
	if err != nil {
		d.env.Log.WithError(err).Warn("it could not be noted that Tandem came to a decision")
	}
}

// SettleItself confirms a Tandem that has started the device, and has usr_data keep
// the confirmed one. It is called where the agent has polled, or was idle for a while.
func (d *Device) SettleItself() {
	own, err := d.itself()
	if own == nil || err != nil || d.Renewed() {
		return
	}
	d.RecoverItself()
	d.DecidedItself("agent")
	confirmed, err := own.Settle(d.copyOf(), d.verifier, false)
	if confirmed {
		d.env.Log.WithField("version", own.Running()).Info("Tandem itself is confirmed")
		d.Remember(Event{Command: "firmware", Action: "confirmed", Reason: release.ProgramName, Version: own.Running()})
	}
	if err != nil && !errors.Is(err, self.ErrUnproven) {
		d.env.Log.WithError(err).Warn("usr_data could not be made to keep Tandem itself")
	}
}

// KeepItself makes the program that runs the one that the device keeps: it ends its
// trial, and usr_data keeps it, also in place of a newer one.
func (d *Device) KeepItself() (*TandemStatus, error) {
	own, err := d.itself()
	if err != nil {
		return nil, err
	}
	if own == nil {
		return nil, fmt.Errorf("%w: this tandem is of no release", self.ErrUnproven)
	}
	if err := d.recoverItself(); err != nil {
		return nil, err
	}
	_, err = own.Settle(d.copyOf(), d.verifier, true)
	if errors.Is(err, self.ErrUnproven) {
		d.env.Log.WithError(err).Warn("usr_data keeps no copy of this Tandem")
	} else if err != nil {
		return nil, err
	}
	d.forgive(own, own.Running())
	return d.Itself()
}

// TandemStatus is what is known of Tandem itself.
type TandemStatus struct {
	Version  string               `json:"version"`
	Previous versioning.Version   `json:"previous,omitzero"` // kept beside it
	Kept     versioning.Version   `json:"kept,omitzero"`     // on usr_data
	Pending  versioning.Version   `json:"pending,omitzero"`  // in place, and not confirmed yet
	Revoked  []versioning.Version `json:"revoked,omitempty"`
}

// Itself returns what is known of Tandem itself; nil for one that is of no release.
func (d *Device) Itself() (*TandemStatus, error) {
	own, err := d.itself()
	if own == nil || err != nil {
		return nil, err
	}
	k, err := own.Known()
	if err != nil {
		return nil, err
	}
	s := &TandemStatus{Version: d.env.Version, Previous: k.Previous, Kept: k.Kept, Revoked: d.revokedItself(own)}
	if c := d.copyOf(); c != nil {
		if kept, err := c.Load(); err == nil {
			s.Kept = kept.Version
		}
	}
	if t, err := own.Trial(); err == nil && t != nil {
		s.Pending = t.Version
	}
	return s, nil
}

// Program returns where Tandem's own program lies.
func (d *Device) Program() string { return d.env.Program }

// StartScript is the script beside a program that starts it and counts; "" if there
// is none.
func StartScript(program string) string {
	script := path.Join(path.Dir(program), "start")
	if info, err := os.Stat(script); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return script
}

// ReadVersions returns what a program knows of itself and its like, without a device:
// which is kept on usr_data is what was found there last.
func ReadVersions(dir, name, version string) (*TandemStatus, error) {
	disk, err := fsys.OpenOS(dir)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	k, t, err := self.Read(disk, name)
	if err != nil {
		return nil, err
	}
	s := &TandemStatus{Version: version, Previous: k.Previous, Kept: k.Kept, Revoked: k.Revoked}
	if t != nil {
		s.Pending = t.Version
	}
	return s, nil
}
