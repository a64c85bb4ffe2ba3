package main

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

// kernel is what of Debian's packages the machine needs.
type kernel struct {
	image   string
	busybox string
	modules []string // in the order in which they are to be loaded
}

// fetch gets the packages once and unpacks them below the cache. Nothing is
// installed but QEMU, and that only by root and where it is missing.
func fetch(ctx context.Context, cache string) (kernel, error) {
	var k kernel
	cache, err := filepath.Abs(cache)
	if err != nil {
		return k, err
	}
	if err := needQEMU(ctx); err != nil {
		return k, err
	}
	root := filepath.Join(cache, "root")
	if _, err := os.Stat(filepath.Join(cache, "done")); err != nil {
		if err := download(ctx, cache, root); err != nil {
			return k, err
		}
	}
	images, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return k, fmt.Errorf("%s: expected one kernel, found %d; remove the folder to fetch it again", root, len(images))
	}
	k.image = images[0]
	for _, dir := range []string{"bin", "usr/bin"} {
		if b := filepath.Join(root, dir, "busybox"); exists(b) {
			k.busybox = b
		}
	}
	// UBIFS refuses to load without its compressors, which nothing says it
	// depends on. A newer kernel has some of them built in.
	k.modules, err = moduleOrder(root, []string{"lzo", "lzo-rle", "deflate", "zstd", "nandsim", "ubi", "ubifs"})
	return k, err
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func needQEMU(ctx context.Context) error {
	if _, err := exec.LookPath("qemu-system-x86_64"); err == nil {
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("qemu-system-x86_64 is missing: install the package qemu-system-x86")
	}
	if _, err := output(ctx, "", nil, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	_, err := output(ctx, "", []string{"DEBIAN_FRONTEND=noninteractive"}, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "qemu-system-x86")
	return err
}

var kernelPackage = regexp.MustCompile(`Depends: (linux-image-[0-9]\S*)`)

func download(ctx context.Context, cache, root string) error {
	for _, dir := range []string{root, filepath.Join(cache, "deb")} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	debs := filepath.Join(cache, "deb")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	if os.Geteuid() == 0 { // the lists of a fresh container are empty or old
		if _, err := output(ctx, "", nil, "apt-get", "update", "-qq"); err != nil {
			return err
		}
	}
	out, err := output(ctx, "", nil, "apt-cache", "depends", "linux-image-amd64")
	if err != nil {
		return err
	}
	m := kernelPackage.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("apt-cache knows no linux-image-amd64: is this Debian, and was apt-get update run?")
	}
	if _, err := output(ctx, debs, nil, "apt-get", "download", "-qq", m[1], "busybox-static"); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := output(ctx, "", nil, "dpkg", "-x", f, root); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(debs); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cache, "done"), nil, 0o644)
}

// moduleOrder finds modules and what they depend on, the latter first. Those
// that are not there are taken to be built in.
func moduleOrder(root string, names []string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(p), ".ko"); ok && err == nil && !d.IsDir() {
			files[moduleName(name)] = p
		}
		return err
	})
	if err != nil {
		return nil, err
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
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	for _, n := range []string{"nandsim", "ubi", "ubifs"} {
		if files[n] == "" {
			return nil, fmt.Errorf("the kernel package has no module %s", n)
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
