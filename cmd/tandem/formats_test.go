package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent/self"
	"tandem/backup"
	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/ota/hawkbit"
	"tandem/packaging/bundle"
	"tandem/versioning"
)

var writeFormats = flag.Bool("write-formats", false, "write test/formats/VERSION, for the version that CHANGELOG.md begins with")

const formatsDir = "../../test/formats"

// kinds are those of our files, as docs/formats.md names them.
var kinds = []string{"agent", "boot", "commit", "firmware", "hawkbit", "history", "index", "kept", "known", "pending", "poll", "proof", "record", "revoked", "spent", "trial", "whole"}

// nextRelease is the version that CHANGELOG.md begins with; 1.0.0 where nothing has been
// released yet.
func nextRelease(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	if m := regexp.MustCompile(`(?m)^## \[?([0-9]+\.[0-9]+\.[0-9]+)`).FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return "1.0.0"
}

// TestWriteFormats is the command that "make formats" runs: a device is brought to where
// each kind of file that Tandem writes lies on it, and kept as an archive.
func TestWriteFormats(t *testing.T) {
	if !*writeFormats {
		t.Skip("only make formats asks for it")
	}
	release := nextRelease(t)
	build := exec.Command("go", "build", "-ldflags", "-X main.version="+release, "-o", binDir+"/", "tandem/cmd/tandem")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := newDevice(t, "backup = \"confirmed\"\npoll = \"1000h\"\nsocket = \"socket\"\n\n[source]\nurl = \"file:///nowhere\"\n"+
		"\n[hooks]\nhealth = [\"/bin/sh\", \"-c\", \"exit 75\"]\n"+
		"\n[[firmware]]\nname = \"modem\"\nhandler = [\"/bin/sh\", \"-c\", \"[ $0 = version ] && echo 1.0.0 || exit 75\"]\n")
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	d.must("confirm")
	d.write("system/apps/etc/hello.conf", "greeting = edited\n")
	d.must("backup")
	d.must("revoke", "0.9.0")
	config := d.read("tandem.toml")
	d.write("tandem.toml", strings.Replace(config, "file:///nowhere", "file://"+bundleFile("repo"), 1))
	d.must("check")
	d.write("tandem.toml", config)
	d.must("install", bundleFile("hello-1.1.0.tandem"))
	image := t.TempDir()
	if err := os.WriteFile(filepath.Join(image, "image"), []byte("modem 2.0.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := releaseTool("bundle", "create", image, "--kind", "firmware", "--app", "modem", "--version", "2.0.0", "--compatible", "demo",
		"--keys", "keys", "--root", "repo/root.json", "--out", filepath.Join(d.dir, "modem.tandem")); err != nil {
		t.Fatal(err)
	}
	d.run("install", "modem.tandem") // which its handler postpones
	t.Run("agent", func(t *testing.T) { (&unit{t, d.dir}).startAgent() })

	// What only a server brings, and a power cut.
	state, err := fsys.OpenOS(filepath.Join(d.dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	by := record.Author{Version: release}
	if err := fsys.MkdirAll(state, "downloads", 0o700); err != nil {
		t.Fatal(err)
	}
	download := "downloads/hello." + strings.Repeat("ba5eba11", 8) + "."
	for _, f := range []struct {
		kind, name string
		body       any
	}{
		{"hawkbit", "hawkbit.json", hawkbit.State{Server: "https://updates.example/default/controller/v1/test", Action: &hawkbit.Action{Number: 17, Step: hawkbit.Open}}},
		{"boot", download + "boot", "0a1b2c3d-0000-4000-8000-000000000000"}, {"spent", download + "spent", 262144}, {"whole", download + "whole", true},
	} {
		if err := by.Write(state, f.kind, f.name, f.body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.keepsItself(release)
	d.cutBackup(by)
	d.archive(filepath.Join(formatsDir, release))
}

// keepsItself writes what a Tandem on trial has of itself, but for the programs, which
// are large.
func (d *unit) keepsItself(release string) {
	d.t.Helper()
	parse := func(text string) versioning.Version {
		v, err := versioning.Parse(text)
		if err != nil {
			d.t.Fatal(err)
		}
		return v
	}
	data, err := os.ReadFile(bundleFile("hello-1.0.0.tandem"))
	if err != nil {
		d.t.Fatal(err)
	}
	r, err := bundle.NewReader(bytes.NewReader(data), bundle.Inspect{})
	if err != nil {
		d.t.Fatal(err)
	}
	proof, err := r.Proof()
	if err == nil {
		err = os.Mkdir(filepath.Join(d.dir, "lib"), 0o755)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	disk, err := fsys.OpenOS(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer disk.Close()
	by, revoked := self.By(release), []versioning.Version{parse("0.9.0")}
	err = errors.Join(
		by.Write(disk, "known", "lib/tandem.known", self.Known{Previous: parse("0.9.1"), Kept: parse("0.9.1"), Revoked: revoked}, 0o644),
		by.Write(disk, "trial", "lib/tandem.trial", self.Trial{Version: parse(release), Previous: parse("0.9.1"), Boot: "0a1b2c3d-0000-4000-8000-000000000000", Format: 1, Booted: true}, 0o644),
		by.Write(disk, self.ProofKind, "lib/tandem.proof", proof, 0o644),
		fsys.MkdirAll(disk, "usr_data/.tandem/self", 0o700),
		by.Write(disk, "kept", "usr_data/.tandem/self/kept.json", self.Kept{Version: parse("0.9.1"), Program: "tandem.a", Proof: proof, Revoked: revoked}, 0o600))
	if err != nil {
		d.t.Fatal(err)
	}
}

// knowsItself reads what keepsItself wrote.
func (d *unit) knowsItself(release string) {
	d.t.Helper()
	disk, err := fsys.OpenOS(filepath.Join(d.dir, "lib"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer disk.Close()
	usrData, err := fsys.OpenOS(filepath.Join(d.dir, "usr_data"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer usrData.Close()
	known, trial, err := self.Read(disk, "tandem")
	if err != nil || trial == nil || trial.Version.String() != release || trial.Previous.String() != "0.9.1" || !trial.Booted || trial.Boot == "" || trial.Format != 1 ||
		known.Previous.String() != "0.9.1" || known.Kept.String() != "0.9.1" || len(known.Revoked) != 1 {
		d.t.Errorf("beside the program: %+v %+v %v", known, trial, err)
	}
	kept, err := self.NewCopy(usrData).Load()
	if err != nil || kept.Version.String() != "0.9.1" || kept.Program != "tandem.a" || kept.Proof == nil || len(kept.Revoked) != 1 {
		d.t.Errorf("usr_data keeps %+v: %v", kept, err)
	} else if _, err := kept.Proof.Verify(bundle.Inspect{}); err != nil {
		d.t.Errorf("what vouches for what usr_data keeps: %v", err)
	}
}

// cutFS fails once a commit is there, as a disk does whose power goes.
type cutFS struct{ fsys.FS }

func (c cutFS) cut() error {
	if _, err := c.Lstat(".tandem/commit.json"); err == nil {
		return syscall.EROFS
	}
	return nil
}

func (c cutFS) Rename(oldname, newname string) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.FS.Rename(oldname, newname)
}

func (c cutFS) Exchange(a, b string) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.FS.Exchange(a, b)
}

// cutBackup backs system up to usr_data, and leaves that in the midst of it.
func (d *unit) cutBackup(by record.Author) {
	d.t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	var disks [2]*fsys.OS
	for i, side := range []string{"system", "usr_data"} {
		disk, err := fsys.OpenOS(filepath.Join(d.dir, side))
		if err != nil {
			d.t.Fatal(err)
		}
		defer disk.Close()
		disks[i] = disk
	}
	r := &backup.Reconciler{
		System: backup.NewSide(backup.System, disks[0]), UsrData: backup.NewSide(backup.UsrData, cutFS{disks[1]}), Log: log, Now: time.Now, By: by,
	}
	if _, err := r.Reconcile(context.Background(), backup.Options{}); !errors.Is(err, syscall.EROFS) {
		d.t.Fatalf("the backup: %v", err)
	}
}

// archive packs the device into device.tar.gz in dir.
func (d *unit) archive(dir string) {
	d.t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
	args := []string{"-C", d.dir, "--sort=name", "--numeric-owner", "--owner=0", "--group=0", "--format=pax", "--pax-option=delete=atime,delete=ctime",
		"-czf", filepath.Join(dir, "device.tar.gz"), "--exclude=*.lock", "tandem.toml", "root.json", "lib", "system", "usr_data", "state"}
	if out, err := exec.Command("tar", args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%v\n%s", err, out)
	}
}

// Every Tandem reads what each release before it wrote: nothing is taken for damaged,
// and what a power cut interrupted is finished.
func TestFormats(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the files that are kept belong to root")
	}
	archives, err := filepath.Glob(filepath.Join(formatsDir, "*", "device.tar.gz"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("no release has left its files: %v", err)
	}
	for _, archive := range archives {
		t.Run(filepath.Base(filepath.Dir(archive)), func(t *testing.T) {
			t.Parallel()
			d := &unit{t, t.TempDir()}
			unpack(t, archive, d.dir)
			release := filepath.Base(filepath.Dir(archive))
			d.knowsKinds(release)
			d.knowsItself(release)
			var s struct {
				Pending  *backup.Pending
				Revoked  []string
				Firmware []struct{ Name, State, Next string }
			}
			o := d.must("status", "--json")
			if err := json.Unmarshal([]byte(o.stdout), &s); err != nil {
				t.Fatal(err)
			}
			if s.Pending == nil || s.Pending.Version.String() != "1.1.0" || !slices.Equal(s.Revoked, []string{"0.9.0"}) {
				t.Errorf("pending and revoked: %+v", s)
			}
			if len(s.Firmware) != 1 || s.Firmware[0].State != "postponed" || s.Firmware[0].Next != "2.0.0" {
				t.Errorf("the firmware: %+v", s.Firmware)
			}
			outcomes := []outcome{o, d.must("history"), d.must("boot"), d.must("confirm")}
			if !strings.Contains(outcomes[1].stdout, "backup capture 1.0.0") {
				t.Errorf("history: %s", outcomes[1])
			}
			log := &strings.Builder{}
			if st, err := hawkbit.Load(d.state(), logger(log)); err != nil || st.Action == nil || st.Action.Number != 17 {
				t.Errorf("hawkbit.json: %+v %v %s", st, err, log)
			}
			for _, side := range []string{"system", "usr_data"} {
				if got := d.read(side+"/app_ver.txt") + d.read(side+"/apps/etc/hello.conf"); got != "1.1.0\ngreeting = edited\n" {
					t.Errorf("%s: %s", side, got)
				}
			}
			outcomes = append(outcomes, d.must("verify"), d.must("rollback"), d.must("recall"))
			if got := d.read("system/app_ver.txt"); got != "1.0.0\n" {
				t.Errorf("rollback: %s", got)
			}
			for _, o := range outcomes {
				if text := o.stdout + o.stderr; strings.Contains(text, "damaged") || strings.Contains(text, "cannot be") || strings.Contains(text, "ignored") {
					t.Errorf("%s", o)
				}
			}
		})
	}
}

// state opens the agent's state.
func (d *unit) state() *fsys.OS {
	d.t.Helper()
	disk, err := fsys.OpenOS(filepath.Join(d.dir, "state"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { disk.Close() })
	return disk
}

func logger(w io.Writer) *logrus.Logger {
	l := logrus.New()
	l.SetOutput(w)
	return l
}

// knowsKinds finds a file of each kind on the device, whole and of that release.
func (d *unit) knowsKinds(release string) {
	d.t.Helper()
	disk, err := fsys.OpenOS(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer disk.Close()
	found := map[string]bool{}
	err = filepath.WalkDir(d.dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil || !bytes.HasPrefix(data, []byte(`{"tandem":`)) {
			return err
		}
		rel, err := filepath.Rel(d.dir, name)
		if err != nil {
			return err
		}
		h, err := record.ReadHead(disk, rel)
		if err == nil {
			_, err = record.Read(disk, h.Kind, rel, int64(len(data)))
		}
		if err != nil {
			d.t.Errorf("%s: %v", rel, err)
			return nil
		}
		if h.By != release {
			d.t.Errorf("%s is of %q", rel, h.By)
		}
		found[h.Kind] = true
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, k := range kinds {
		if !found[k] {
			d.t.Errorf("no file of kind %s", k)
		}
	}
}

// unpack unpacks an archive as tar does.
func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []*tar.Header
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err, dirs = os.Mkdir(name, 0o700), append(dirs, h)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, name)
		case tar.TypeLink:
			err = os.Link(filepath.Join(dir, h.Linkname), name)
		default:
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(name, data, 0o600)
			}
			err = errors.Join(err, os.Chmod(name, h.FileInfo().Mode()), os.Chtimes(name, h.ModTime, h.ModTime))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range dirs {
		if err := os.Chmod(filepath.Join(dir, h.Name), h.FileInfo().Mode()); err != nil {
			t.Fatal(err)
		}
	}
}
