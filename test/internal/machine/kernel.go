package machine

import (
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Arch is a kind of computer.
type Arch struct {
	debian  string   // its name in Debian
	kernel  string   // the package that depends on its newest kernel
	qemu    string   // the program that emulates it
	pkg     string   // the package of that program
	args    []string // what kind of machine of it
	console string
}

// The computers that machines can be.
var (
	AMD64 = &Arch{"amd64", "linux-image-amd64", "qemu-system-x86_64", "qemu-system-x86",
		[]string{"-cpu", "qemu64", "-m", "1024"}, "ttyS0"}
	// ARM is a module with one 32-bit core and little memory.
	ARM = &Arch{"armhf", "linux-image-armmp", "qemu-system-arm", "qemu-system-arm",
		[]string{"-M", "virt", "-cpu", "cortex-a7", "-m", "128"}, "ttyAMA0"}
)

// Kernel is what of Debian's packages a machine is made of.
type Kernel struct {
	Arch    *Arch
	Image   string
	Busybox string
	root    string // where the packages are unpacked
}

// Fetch gets Debian's kernel and busybox once and unpacks them below the
// cache. They come from wherever apt gets its packages on this computer. Nothing
// is installed but QEMU and the other programs named, by command and package,
// and those only by root and where they are missing.
func Fetch(ctx context.Context, cache string, arch *Arch, programs map[string]string) (*Kernel, error) {
	cache, err := filepath.Abs(cache)
	if err != nil {
		return nil, err
	}
	if arch != AMD64 {
		cache = filepath.Join(cache, arch.debian)
	}
	if err := install(ctx, arch, programs); err != nil {
		return nil, err
	}
	k := &Kernel{Arch: arch, root: filepath.Join(cache, "root")}
	if !exists(filepath.Join(cache, "done")) {
		if err := download(ctx, cache, k.root, arch); err != nil {
			return nil, err
		}
	}
	images, err := filepath.Glob(filepath.Join(k.root, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%s: expected one kernel, found %d; remove the folder to fetch it again", k.root, len(images))
	}
	k.Image = images[0]
	for _, dir := range []string{"bin", "usr/bin"} {
		if b := filepath.Join(k.root, dir, "busybox"); exists(b) {
			k.Busybox = b
		}
	}
	return k, nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// install makes sure of the programs that run on this computer.
func install(ctx context.Context, arch *Arch, programs map[string]string) error {
	missing := []string{}
	need := func(program, pkg string) {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	need(arch.qemu, arch.pkg)
	need("xz", "xz-utils")
	for program, pkg := range programs {
		need(program, pkg)
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("missing: install these packages first: %s", strings.Join(missing, " "))
	}
	if _, err := Output(ctx, "", nil, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	args := append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)
	_, err := Output(ctx, "", []string{"DEBIAN_FRONTEND=noninteractive"}, "apt-get", args...)
	return err
}

var kernelPackage = regexp.MustCompile(`Depends: (linux-image-[0-9]\S*)`)

func download(ctx context.Context, cache, root string, arch *Arch) error {
	for _, program := range []string{"apt-get", "dpkg"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing: the machine's kernel is taken from Debian's packages", program)
		}
	}
	debs := filepath.Join(cache, "deb")
	for _, dir := range []string{root, debs} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	options, err := lists(ctx, cache, arch)
	if err != nil {
		return err
	}
	apt := func(program string, args ...string) (string, error) {
		return Output(ctx, debs, nil, program, slices.Concat(options, args)...)
	}
	out, err := apt("apt-cache", "depends", arch.kernel)
	if err != nil {
		return err
	}
	m := kernelPackage.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("apt knows no %s: is this Debian on amd64, and was apt-get update run?", arch.kernel)
	}
	if _, err := apt("apt-get", "download", "-qq", m[1], "busybox-static"); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := Output(ctx, "", nil, "dpkg", "-x", f, root); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(debs); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cache, "done"), nil, 0o644)
}

// lists brings the lists of packages up to date, and gives the options with which
// apt reads them. Those of another computer are kept apart: dpkg of this one is
// to know nothing of them.
func lists(ctx context.Context, cache string, arch *Arch) (options []string, err error) {
	if arch == AMD64 {
		if os.Geteuid() == 0 { // those of a fresh container are empty or old
			_, err = Output(ctx, "", nil, "apt-get", "update", "-qq")
		}
		return nil, err
	}
	dir := filepath.Join(cache, "apt")
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	options = []string{"-o", "APT::Architecture=" + arch.debian, "-o", "APT::Architectures=" + arch.debian,
		"-o", "Dir::State::Lists=" + filepath.Join(dir, "lists"), "-o", "Dir::Cache=" + dir}
	_, err = Output(ctx, "", nil, "apt-get", append(options, "update", "-qq")...)
	if list, _ := filepath.Glob(filepath.Join(dir, "lists", "*_Packages*")); len(list) > 0 {
		err = nil // one list of several is enough to go on with
	}
	return options, err
}

// Modules finds modules and what they depend on, the latter first. The kernel
// must have those of must; those of may that it lacks are taken to be built in.
func (k *Kernel) Modules(may, must []string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(k.root, func(p string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(p), ".ko"); ok && err == nil && !d.IsDir() {
			files[moduleName(name)] = p
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, n := range must {
		if files[moduleName(n)] == "" {
			return nil, fmt.Errorf("the kernel package has no module %s", n)
		}
	}
	var order []string
	var add func(name string) error
	add = func(name string) error {
		p, ok := files[moduleName(name)]
		if !ok || slices.Contains(order, p) {
			return nil
		}
		if p, err = plainModule(p); err != nil {
			return err
		}
		files[moduleName(name)] = p
		needs, err := dependsOf(p)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		order = append(order, p)
		return nil
	}
	for _, n := range slices.Concat(may, must) {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// plainModule unpacks a module, which newer packages compress.
func plainModule(p string) (string, error) {
	if filepath.Ext(p) == ".ko" {
		return p, nil
	}
	if out, err := exec.Command("xz", "-d", p).CombinedOutput(); err != nil {
		return "", fmt.Errorf("xz -d %s: %w: %s", p, err, out)
	}
	return strings.TrimSuffix(p, ".xz"), nil
}

func dependsOf(p string) ([]string, error) {
	f, err := elf.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("%s: no section .modinfo", p)
	}
	data, err := s.Data()
	if err != nil {
		return nil, err
	}
	for _, field := range strings.Split(string(data), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
