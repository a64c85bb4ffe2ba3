package main

import (
	"archive/tar"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed rauc.sh
var raucScript string

// waiting makes the backup wait for a check of the version's health, which
// says that it cannot tell yet: then an installation is one on system alone.
const waiting = `backup = "confirmed"
[hooks]
health = ["sh", "-c", "exit 75"]
`

func (l *lab) held() string { return filepath.Join(l.tmp, "held.toml") }

func (l *lab) keys() string { return filepath.Join(l.tmp, "keys") }

func (l *lab) root() string { return filepath.Join(l.tmp, "repo", "root.json") }

func (l *lab) bundle(tree string) string { return filepath.Join(l.tmp, tree+".tandem") }

func (l *lab) image(tree string) string { return filepath.Join(l.tmp, tree+".tar.zst") }

// makeKeys makes what bundles are signed with, and gives the root that devices trust.
func (l *lab) makeKeys(ctx context.Context) (root string, err error) {
	return l.root(), errors.Join(
		command(ctx, nil, l.release, "keygen", "--out", l.keys()),
		command(ctx, nil, l.release, "repo", "init", filepath.Dir(l.root()), "--keys", l.keys()))
}

// makeBundle makes a signed bundle of a saved tree, and takes its payload out
// for the other programs.
func (l *lab) makeBundle(ctx context.Context, s state, epoch int64) error {
	if err := command(ctx, []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch)},
		l.release, "bundle", "create", l.saved(s.tree), "--app", "bench", "--version", fmt.Sprint(s.version),
		"--compatible", "bench", "--config-pattern", "etc/**", "--keys", l.keys(), "--root", l.root(), "--out", l.bundle(s.tree)); err != nil {
		return err
	}
	size, err := takeOut(l.bundle(s.tree), "payload.tar.zst", l.image(s.tree))
	if s.tree == shipped {
		l.payload = size
	}
	return err
}

func (l *lab) delta() string { return filepath.Join(l.tmp, "delta.tandem") }

// makeDelta makes the delta bundle from the release before to the next one.
func (l *lab) makeDelta(ctx context.Context) error {
	return command(ctx, nil, l.release, "bundle", "delta", l.bundle(shipped), l.bundle(next), "--keys", l.keys(), "--root", l.root(), "--out", l.delta())
}

// takeOut writes one member of a tar to a file of its own.
func takeOut(archive, member, to string) (size int64, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	t := tar.NewReader(f)
	for {
		h, err := t.Next()
		if err != nil {
			return 0, fmt.Errorf("%s: look for %s: %w", archive, member, err)
		}
		if h.Name != member {
			continue
		}
		out, err := os.Create(to)
		if err != nil {
			return 0, err
		}
		size, err = io.Copy(out, t)
		return size, errors.Join(err, out.Close())
	}
}

// install gives the command for a release, alone or with the backup held back.
func (l *lab) install(name, config, tree string) *program {
	p := l.own(name, "install", l.bundle(tree))
	p.argv[2] = config
	return p
}

// unpack gives a line of shell that has the payload of tree as $3.
func (l *lab) unpack(name, tree, line string) *program {
	p := l.shell(name, []string{"tar", "zstd"}, line)
	p.argv = append(p.argv, l.image(tree))
	p.anyTime = true
	return p
}

// installs are the jobs on a device that has no application.
func (l *lab) installs() []job {
	fresh := state{shipped, 1}
	const unpack = `mkdir "$1/apps" && tar --zstd -xf "$3" -C "$1/apps" && echo 1 >"$1/app_ver.txt" && flush "$1"`
	return []job{
		{"install on system", sides{}, sides{system: fresh}, []*program{
			l.install("tandem install, backup held", l.held(), shipped),
			l.unpack("tar --zstd -x + sync", shipped, unpack),
			l.rauc(),
		}},
		{"install and back up", sides{}, sides{fresh, fresh}, []*program{
			l.install("tandem install", l.config(), shipped),
			l.unpack("tar --zstd -x, cp -a + syncs", shipped, unpack+` && mkdir -p "$2" && cp -a "$1/apps" "$1/app_ver.txt" "$2/" && flush "$2"`),
		}},
	}
}

// updates are the jobs on a device that has the release before.
func (l *lab) updates() []job {
	old, updated := state{shipped, 1}, state{next, 2}
	const unpack = `mkdir "$1.new" && tar --zstd -xf "$3" -C "$1.new" && flush "$1" &&
		mv "$1/apps" "$1.old" && mv "$1.new" "$1/apps" && echo 2 >"$1/app_ver.txt" && flush "$1"`
	return []job{
		{"update, 1 % changed, on system", sides{old, old}, sides{updated, old}, []*program{
			l.install("tandem install, backup held", l.held(), next).with(installed),
			l.unpack("tar --zstd -x beside, mv + syncs", next, unpack),
		}},
		{"update, 1 % changed, and back up", sides{old, old}, sides{updated, updated}, []*program{
			l.install("tandem install", l.config(), next).with(installed),
			l.own("tandem install, delta bundle", "install", l.delta()).with(installed),
			l.unpack("tar --zstd -x beside, mv, rm + cp -a, syncs", next,
				unpack+` && rm -rf "$2/apps" "$2/app_ver.txt" && mkdir -p "$2" && cp -a "$1/apps" "$1/app_ver.txt" "$2/" && flush "$2"`),
		}},
	}
}

// slot is a block device that RAUC formats, mounts and fills by itself.
type slot struct {
	dir, device, stat string
}

// raucTools are what it takes to make a RAUC bundle and install it.
var raucTools = []string{"rauc", "mksquashfs", "openssl", "dbus-run-session", "losetup"}

func (l *lab) raucConfig() string { return filepath.Join(l.tmp, "rauc.conf") }

func (l *lab) raucBundle() string { return filepath.Join(l.tmp, "release.raucb") }

// rauc gives the program that installs the release in the slot.
func (l *lab) rauc() *program {
	p := l.peer("rauc install", raucTools,
		"dbus-run-session", "--", "sh", filepath.Join(l.tmp, "rauc.sh"), l.raucConfig(), l.raucBundle())
	if p.missing == "" && l.raucWhy != "" {
		l.leaveOut(p, l.raucWhy)
	}
	p.slot, p.clock, p.trial, p.anyTime = l.slot, true, true, true
	return p
}

// prepareRAUC makes the slot, the configuration and a signed bundle with the
// payload of Tandem's. Where that cannot be, it keeps the reason.
func (l *lab) prepareRAUC(ctx context.Context, size int64) error {
	for _, t := range raucTools {
		if _, err := exec.LookPath(t); err != nil {
			return nil // its programs say so
		}
	}
	if !l.counted {
		l.raucWhy = "rauc install: it needs a block device"
		return nil
	}
	if err := l.makeRAUC(ctx, size); err != nil {
		l.raucWhy = "rauc install: " + oneLine(err)
	}
	return ctx.Err()
}

func (l *lab) makeRAUC(ctx context.Context, size int64) error {
	var err error
	if l.slot, err = newSlot(ctx, filepath.Join(l.tmp, "slot"), size); err != nil {
		return err
	}
	key, cert := filepath.Join(l.tmp, "key.pem"), filepath.Join(l.tmp, "cert.pem")
	config := fmt.Sprintf(`[system]
compatible=bench
bootloader=noop
mountprefix=%s
statusfile=%s
bundle-formats=plain
[keyring]
path=%s
[slot.app.0]
device=%s
type=ext4
`, l.slot.mounts(), filepath.Join(l.devices[1].dir, "rauc.status"), cert, l.slot.device)
	if err := errors.Join(
		os.WriteFile(l.raucConfig(), []byte(config), 0o600),
		os.WriteFile(filepath.Join(l.tmp, "rauc.sh"), []byte(raucScript), 0o600),
		command(ctx, nil, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bench",
			"-keyout", key, "-out", cert)); err != nil {
		return err
	}
	dir := filepath.Join(l.tmp, "rauc")
	const manifest = "[update]\ncompatible=bench\nversion=1\n[image.app]\nfilename=app.tar.zst\n"
	return errors.Join(
		os.Mkdir(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "manifest.raucm"), []byte(manifest), 0o644),
		os.Link(l.image(shipped), filepath.Join(dir, "app.tar.zst")),
		command(ctx, nil, "rauc", "--cert", cert, "--key", key, "bundle", dir, l.raucBundle()))
}

// newSlot makes a block device of a file beside dir, where it is mounted to be looked at.
func newSlot(ctx context.Context, dir string, size int64) (*slot, error) {
	image := dir + ".img"
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "losetup", "--find", "--show", image).Output()
	if err != nil {
		return nil, fmt.Errorf("losetup: %w", err)
	}
	device := strings.TrimSpace(string(out))
	s := &slot{dir, device, filepath.Join("/sys/block", filepath.Base(device), "stat")}
	return s, os.MkdirAll(s.mounts(), 0o755)
}

// mounts is where RAUC mounts the slot and the bundle.
func (s *slot) mounts() string { return s.dir + ".mounts" }

// check compares what the slot holds with a tree.
func (s *slot) check(ctx context.Context, want string) error {
	if err := command(ctx, nil, "mount", s.device, s.dir); err != nil {
		return err
	}
	err := errors.Join(os.Remove(filepath.Join(s.dir, "lost+found")), same(want, s.dir, true))
	return errors.Join(err, (&device{s.dir, s.stat}).close())
}

// close gives the block device back, also after a command was killed that had it mounted.
func (s *slot) close() error {
	for _, dir := range []string{s.dir, filepath.Join(s.mounts(), "app.0"), filepath.Join(s.mounts(), "bundle")} {
		_ = exec.Command("umount", dir).Run() // normally nothing is mounted there
	}
	return command(context.Background(), nil, "losetup", "--detach", s.device)
}

// oneLine gives the end of an error, where commands say what is wrong.
func oneLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	if len(lines) == 1 {
		return lines[0]
	}
	return lines[0] + " … " + lines[len(lines)-1]
}
