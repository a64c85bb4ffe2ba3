// Command device runs a whole module: 32-bit ARM with 128 MiB of memory in QEMU,
// Debian's kernel, simulated NAND with two UBI volumes, busybox as init, and the
// package of Tandem as it is shipped. The agent updates an application and itself from
// a repository on this computer, while the module is reset again and again.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tandem/test/internal/machine"
)

func main() {
	pkg := flag.String("package", "", "the `file` of the package: an .ipk for 32-bit ARM, as made by make packages")
	machine.Main("device", func(ctx context.Context, o machine.Options) error { return run(ctx, o, *pkg) })
}

func run(ctx context.Context, o machine.Options, pkg string) error {
	if pkg == "" {
		return fmt.Errorf("-package says which package to put into the image")
	}
	kernel, err := machine.Fetch(ctx, o.Cache, machine.ARM, nil)
	if err != nil {
		return err
	}
	modules, err := kernel.Modules([]string{"lzo", "lzo-rle", "deflate", "zstd", "virtio_mmio"}, []string{"virtio_net", "nandsim", "ubi", "ubifs"})
	if err != nil {
		return err
	}
	b := builder{ctx: ctx, dir: o.Dir, root: filepath.Join(o.Dir, "root")}
	b.releases()
	b.itself()
	if b.err != nil {
		return b.err
	}
	s, err := newServer(o.Dir, b.publish)
	if err != nil {
		return err
	}
	defer s.close()
	b.factory()
	b.module(pkg, s.url+"/repo")
	if b.err != nil {
		return b.err
	}
	return machine.Machine{Kernel: kernel, Modules: modules, Files: b.root, Net: true, Timeout: 30 * time.Minute,
		Memory: 224, // its flash is there as well, which is no memory of a module
		Env: map[string]string{"LAB_BUDGET": "0s", "LAB_CUTS": strconv.Itoa(cmp.Or(o.Cuts, 2)), "LAB_SEED": strconv.FormatInt(o.Seed, 10),
			"LAB_FIRST": "false", "LAB_HOST": s.url}}.Run(ctx)
}

// The releases: each is cut somewhere else, the last is unhealthy.
var versions = []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"}

const unhealthy = "1.4.0"

// builder makes what the machine and its server need. After an error it does
// nothing more.
type builder struct {
	ctx       context.Context
	dir, root string
	err       error
}

func (b *builder) run(dir string, env []string, name string, args ...string) {
	if b.err == nil {
		_, b.err = machine.Output(b.ctx, dir, env, name, args...)
	}
}

// build compiles for the module, or for this computer.
func (b *builder) build(arm bool, to, ldflags, pkg string) {
	env := []string{"CGO_ENABLED=0"}
	if arm {
		env = append(env, "GOARCH=arm", "GOARM=7")
	}
	b.run("", env, "go", "build", "-trimpath", "-ldflags", "-s -w "+ldflags, "-o", to, pkg)
}

func (b *builder) write(name string, data string) {
	if b.err == nil {
		b.err = os.MkdirAll(filepath.Dir(name), 0o755)
	}
	if b.err == nil {
		b.err = os.WriteFile(name, []byte(data), 0o644)
	}
}

func (b *builder) read(name string) string {
	data, err := os.ReadFile(name)
	if b.err == nil {
		b.err = err
	}
	return string(data)
}

func (b *builder) release() string { return filepath.Join(b.dir, "tandem-release") }

// releases makes keys, a repository without a release, and a bundle of each.
func (b *builder) releases() {
	b.build(false, b.release(), "", "./cmd/tandem-release")
	b.run(b.dir, nil, b.release(), "keygen", "--out", "keys")
	b.run(b.dir, nil, b.release(), "repo", "init", "repo", "--keys", "keys")
	for i, v := range versions {
		tree := filepath.Join(b.dir, v)
		flags := "-X main.version=" + v
		if v == unhealthy {
			flags += " -X main.defect=broken"
		}
		b.write(filepath.Join(tree, "etc/app.conf"), "name=World\n")
		for n := range 6 {
			seed := fmt.Sprint("lib ", n)
			if n < i { // each release changes one more
				seed += " changed"
			}
			b.write(filepath.Join(tree, fmt.Sprintf("lib/%d.so", n)), noise(seed, 100_000))
		}
		b.build(true, filepath.Join(tree, "bin/app"), flags, "./test/device/app")
		b.run(b.dir, nil, b.release(), "bundle", "create", v, "--app", "app", "--version", v, "--compatible", "virt",
			"--config-pattern", "etc/*.conf", "--keys", "keys", "--root", "repo/root.json", "--out", bundle(v))
	}
}

// itself makes bundles of Tandem: one that is newer than the package, and of use, and
// some that pass their test and are of none.
func (b *builder) itself() {
	good := filepath.Join(b.dir, "tandem")
	b.run("", nil, "make", "-s", "arm", "DIST="+good, "VERSION=2.0.0")
	programs := map[string]string{"2.0.0": filepath.Join(good, "tandem-linux-armv7")}
	for version, how := range map[string]string{"3.0.0": "boot", "4.0.0": "agent-hangs"} {
		programs[version] = filepath.Join(b.dir, "broken-"+version)
		b.build(true, programs[version], "-X main.how="+how+" -X main.version="+version, "./cmd/tandem/testdata/self/broken")
	}
	for version, program := range programs {
		b.run(b.dir, nil, b.release(), "bundle", "create", "--kind", "agent", "--arch", "armv7", "--version", version, program,
			"--keys", "keys", "--root", "repo/root.json", "--out", bundle("tandem-"+version))
	}
}

// bundle is the file of a release: of the application, or of Tandem itself.
func bundle(version string) string {
	if strings.HasPrefix(version, "tandem-") {
		return version + ".tandem"
	}
	return "app-" + version + ".tandem"
}

// publish adds a release to the repository, and what makes it of the one before.
func (b *builder) publish(version string) error {
	_, err := machine.Output(b.ctx, b.dir, nil, b.release(), "repo", "add", "repo", bundle(version), "--deltas", "1", "--keys", "keys")
	return err
}

// noise is text that does not compress, the same for the same seed.
func noise(seed string, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return string(b)
}

// factory is what the factory puts on system: the first version and its tag.
func (b *builder) factory() {
	b.build(true, filepath.Join(b.root, "init"), "", "./test/device/guest")
	if b.err == nil {
		b.err = os.CopyFS(filepath.Join(b.root, "factory/apprun/apps"), os.DirFS(filepath.Join(b.dir, versions[0])))
	}
	b.write(filepath.Join(b.root, "factory/apprun/app_ver.txt"), versions[0]+"\n")
}

// module is the module's own file system: busybox, its start scripts, and the
// package, put there as one that builds an image does.
func (b *builder) module(pkg, url string) {
	root := filepath.Join(b.root, "module")
	for _, d := range []string{"bin", "sbin", "dev", "proc", "run", "var", "tmp", "usrapp", "usrdata", "etc/rcS.d", "etc/rc5.d"} {
		if b.err == nil {
			b.err = os.MkdirAll(filepath.Join(root, d), 0o755)
		}
	}
	for link, to := range map[string]string{"etc/rcS.d/S30find_partitions": "../init.d/find_partitions", "etc/rc5.d/S90app": "../init.d/app"} {
		if b.err == nil {
			b.err = os.Symlink(to, filepath.Join(root, link))
		}
	}
	unpacked := filepath.Join(b.dir, "package")
	if b.err == nil {
		b.err = os.Mkdir(unpacked, 0o755)
	}
	b.run("", nil, "tar", "-xzf", pkg, "-C", unpacked)
	b.run(unpacked, nil, "tar", "-xzf", "control.tar.gz")
	b.run(unpacked, nil, "tar", "-xzf", "data.tar.gz", "-C", root)
	b.run("", []string{"IPKG_INSTROOT=" + root}, "sh", filepath.Join(unpacked, "postinst"), "configure")
	if b.err == nil {
		b.err = os.CopyFS(root, os.DirFS("test/device/module"))
	}
	// On a module all of this is on system, which is a partition of its own here.
	if b.err == nil {
		b.err = os.Rename(filepath.Join(root, "usr/lib/tandem"), filepath.Join(b.root, "factory/tandem"))
	}
	if b.err == nil {
		b.err = os.Symlink("/usrapp/tandem", filepath.Join(root, "usr/lib/tandem"))
	}
	config := filepath.Join(root, "etc/tandem.toml")
	b.write(config, strings.ReplaceAll(b.read(config), "@URL@", url))
	b.write(filepath.Join(root, "etc/tandem/root.json"), b.read(filepath.Join(b.dir, "repo/root.json")))
	if b.err == nil { // memory is scarce, and a module has no use for its pages
		b.err = os.RemoveAll(filepath.Join(root, "usr/share"))
	}
}
