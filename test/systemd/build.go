package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"tandem/packaging/release"
	"tandem/test/internal/machine"
)

// releases is how many there are: 1.0.0, 1.1.0 and so on.
const releases = 24

func version(n int) string { return fmt.Sprintf("1.%d.0", n) }

// builder makes the machine's disks. After an error it does nothing more.
type builder struct {
	ctx   context.Context
	dir   string // for scratch files
	disks map[string]string
	err   error
}

func (b *builder) run(dir string, env []string, name string, args ...string) {
	if b.err == nil {
		_, b.err = machine.Output(b.ctx, dir, env, name, args...)
	}
}

func (b *builder) write(name, data string, mode os.FileMode) {
	if b.err == nil {
		b.err = os.MkdirAll(filepath.Dir(name), 0o755)
	}
	if b.err == nil {
		b.err = os.WriteFile(name, []byte(data), mode)
	}
}

// program is the application: it runs until it is told to end.
const program = `#!/bin/sh
# hello VERSION
trap 'exit 0' TERM
while :; do sleep 1 & wait $!; done
`

// unit is how it is started. It is well once it runs.
const unit = `[Unit]
Description=The application
ConditionPathExists=/usrapp/apprun/apps/bin/hello

[Service]
ExecStart=/usrapp/apprun/apps/bin/hello

[Install]
WantedBy=multi-user.target
`

// An emulated processor on a busy computer takes long to find its own disks; what is
// missing on purpose gets the 10 seconds of the book.
const fstab = `LABEL=root / ext4 defaults 0 1
LABEL=usrapp /usrapp ext4 nofail,x-systemd.device-timeout=4min 0 2
LABEL=usrdata /usrdata ext4 nofail,x-systemd.device-timeout=4min 0 2
LABEL=lab /lab ext4 ro 0 0
`

const configuration = `[device]
compatible = ["qemu"]
app = "hello"

[system]
mount = "/usrapp"

[agent]
trial = "5s"

[hooks]
stop = ["systemctl", "stop", "hello"]
start = ["systemctl", "start", "hello"]
`

// initrd makes what the machine starts with.
func (b *builder) initrd() {
	b.run("", []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(b.dir, "initrd/lab-guest"), "./test/systemd/guest")
	b.write(filepath.Join(b.dir, "initrd/init"), first, 0o755)
	b.write(filepath.Join(b.dir, "initrd/root/.keep"), "", 0o644)
}

// files makes what the lab brings into each machine, but for the packages: the
// releases, and what configures the device.
func (b *builder) files(to string) {
	b.write(filepath.Join(to, "fstab"), fstab, 0o644)
	b.write(filepath.Join(to, "tandem.toml"), configuration, 0o644)
	b.write(filepath.Join(to, "hello.service"), unit, 0o644)
	b.units(filepath.Join(to, "units"))
	b.bundles(to)
	b.tandem(to, newTandem, "./cmd/tandem", "")
	b.tandem(to, brokenTandem, "./cmd/tandem/testdata/self/broken", "-X main.how=crashes")
}

// tandem makes a release of Tandem itself.
func (b *builder) tandem(to, version, pkg, flags string) {
	program := filepath.Join(b.dir, "tandem-"+version)
	b.run("", []string{"CGO_ENABLED=0", "GOARCH=amd64"}, "go", "build", "-o", program, "-ldflags",
		fmt.Sprintf("-s -w -X main.version=%s -X 'main.mark=%s%s:' %s", version, release.ProgramMark, version, flags), pkg)
	b.run(b.dir, nil, filepath.Join(b.dir, "tandem-release"), "bundle", "create", "--kind", "agent", "--arch", "amd64", program,
		"--keys", "keys", "--root", "repo/root.json", "--out", filepath.Join(to, itselfBundle(version)))
}

// packages makes of the package that is to be tried both that the machine gets.
func (b *builder) packages(pkg, to string) {
	b.repack(pkg, filepath.Join(to, "tandem.deb"), "true")
	b.repack(pkg, filepath.Join(to, "newer.deb"), newer)
}

// build makes a device's disks: Debian's, one with what the lab brings, and the two
// partitions. In an image everything is there before the first start.
func (b *builder) build(base, files string, image bool) {
	for _, name := range []string{"root", "lab", "usrapp", "usrdata"} {
		b.disks[name] = filepath.Join(b.dir, name+".ext4")
	}
	b.run("", nil, "cp", "--sparse=always", base, b.disks["root"])
	factory := ""
	if image {
		factory = filepath.Join(b.dir, "factory")
		b.write(filepath.Join(factory, "apprun/app_ver.txt"), version(0)+"\n", 0o644)
		b.run("", nil, "cp", "-a", filepath.Join(files, "factory"), filepath.Join(factory, "apprun/apps"))
		b.run("", nil, "sh", "-c", install, "sh", b.disks["root"], filepath.Join(b.dir, "mnt"), files)
	}
	b.disk("lab", "176M", files)
	b.disk("usrapp", "64M", factory)
	b.disk("usrdata", "64M", "")
}

func (b *builder) disk(name, size, from string) {
	if b.err == nil {
		b.err = disk(b.ctx, b.disks[name], name, size, from)
	}
}

// install puts the package and what configures the device into an image, as who makes
// images does: IMAGE MOUNTPOINT FILES. Nothing is started in it.
const install = `set -e
mkdir "$2"
mount -o loop "$1" "$2"
trap 'umount "$2"' EXIT
printf '#!/bin/sh\nexit 101\n' >"$2/usr/sbin/policy-rc.d"
chmod +x "$2/usr/sbin/policy-rc.d"
cp "$3/tandem.deb" "$2"
PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$2" dpkg -i /tandem.deb </dev/null
rm "$2/tandem.deb" "$2/usr/sbin/policy-rc.d"
cp "$3/fstab" "$3/tandem.toml" "$2/etc"
cp "$3/hello.service" "$2/etc/systemd/system"
cp "$3/root.json" "$2/etc/tandem"
mkdir -p "$2/etc/systemd/system/multi-user.target.wants"
ln -s ../hello.service "$2/etc/systemd/system/multi-user.target.wants"
`

// newer makes of the package its next version, whose sample is another one, and
// whose scripts are, too.
const newer = `set -e
sed -i 's/^Version: .*/&+newer/' DEBIAN/control
for f in usr/share/doc/tandem/examples/tandem.toml etc/init.d/tandem-boot etc/init.d/tandem-agent etc/logrotate.d/tandem; do
	echo '# of the next version' >>$f
done`

// repack changes the package with a script, and leaves it uncompressed: that
// takes an emulated processor long.
func (b *builder) repack(from, to, script string) {
	tree := to + ".tree"
	b.run("", nil, "dpkg-deb", "-R", from, tree)
	b.run(tree, nil, "sh", "-c", script)
	b.run("", nil, "dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, to)
	if b.err == nil {
		b.err = os.RemoveAll(tree)
	}
}

// bundles makes the releases, and the first one as the factory puts it on system.
func (b *builder) bundles(to string) {
	publisher := filepath.Join(b.dir, "tandem-release")
	b.run("", []string{"CGO_ENABLED=0"}, "go", "build", "-o", publisher, "./cmd/tandem-release")
	b.run(b.dir, nil, publisher, "keygen", "--out", "keys")
	b.run(b.dir, nil, publisher, "repo", "init", "repo", "--keys", "keys")
	b.run(b.dir, nil, "cp", "repo/root.json", filepath.Join(to, "root.json"))
	for n := range releases {
		tree := filepath.Join(b.dir, version(n))
		b.write(filepath.Join(tree, "bin/hello"), program, 0o755)
		b.write(filepath.Join(tree, "version"), version(n)+"\n", 0o644)
		b.write(filepath.Join(tree, "etc/hello.conf"), "name=World\n", 0o644)
		for i := range 20 {
			b.write(filepath.Join(tree, fmt.Sprintf("lib/%d.so", i)), noise(fmt.Sprint(n, i), 60_000), 0o644)
		}
		b.run(b.dir, nil, publisher, "bundle", "create", version(n), "--app", "hello", "--version", version(n), "--compatible", "qemu",
			"--config-pattern", "etc/*.conf", "--keys", "keys", "--root", "repo/root.json", "--out", filepath.Join(to, bundle(n)))
	}
	b.run(b.dir, nil, "cp", "-a", version(0), filepath.Join(to, "factory"))
	b.run(b.dir, nil, "cp", "-a", "repo", filepath.Join(to, "repo"))
	b.write(filepath.Join(b.dir, "modem/version"), "2.0.0\n", 0o644)
	b.run(b.dir, nil, publisher, "bundle", "create", "modem", "--kind", "firmware", "--app", "modem", "--version", "2.0.0", "--compatible", "qemu",
		"--keys", "keys", "--root", "repo/root.json", "--out", filepath.Join(to, "modem.tandem"))
}

func bundle(n int) string { return "hello-" + version(n) + ".tandem" }

// noise is text that does not compress, the same for the same seed.
func noise(seed string, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return string(b)
}
