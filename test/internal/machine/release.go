package machine

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// Application is the shape of one whose releases a lab installs.
type Application struct {
	Name    string
	Program int // bytes of a program that each release changes
	Libs    int // number of libraries
	Lib     int // bytes of each
	Change  int // each release changes every Change-th library
	Text    int // bytes that compress well
}

// The applications of the labs. Most cuts are made with the small one: a
// second operation of the same kind finds more than more bytes do.
var (
	Small = Application{Name: "small", Program: 5_000, Libs: 4, Lib: 1_000, Change: 2, Text: 4_000}
	Usual = Application{Name: "usual", Program: 60_000, Libs: 10, Lib: 10_000, Change: 4, Text: 32_000}
	// Tight fits its partition once, not twice.
	Tight = Application{Name: "tight", Program: 260_000, Libs: 6, Lib: 40_000, Change: 1, Text: 8_000}
)

// Versions are the releases of each application.
var Versions = []string{"1.0.0", "1.1.0", "1.2.0"}

// Root makes the root of a machine below dir: init from the guest's package,
// tandem, and for each application /releases/NAME/VERSION with a signed bundle
// beside each, the delta bundles between them, and a repository of them with delta
// bundles and one without. tandem is a program to use instead of one built from here.
func Root(ctx context.Context, dir, guest, tandem string, apps ...Application) (string, error) {
	root, bin := filepath.Join(dir, "root"), filepath.Join(dir, "bin")
	for _, d := range []string{"bin", "etc", "usrapp", "usrdata"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(bin, 0o755); err != nil {
		return "", err
	}
	programs := map[string]string{"./cmd/tandem-release": filepath.Join(bin, "tandem-release"), guest: filepath.Join(root, "init")}
	if tandem == "" {
		programs["./cmd/tandem"] = filepath.Join(root, "bin", "tandem")
	} else if err := copyFile(filepath.Join(root, "bin", "tandem"), tandem); err != nil {
		return "", err
	}
	for pkg, to := range programs {
		if _, err := Output(ctx, "", []string{"CGO_ENABLED=0", "GOARCH=amd64"}, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, pkg); err != nil {
			return "", err
		}
	}
	release := filepath.Join(bin, "tandem-release")
	for _, args := range [][]string{{"keygen", "--out", "keys"}, {"repo", "init", "repo", "--keys", "keys"}} {
		if _, err := Output(ctx, dir, nil, release, args...); err != nil {
			return "", err
		}
	}
	if err := copyFile(filepath.Join(root, "etc", "root.json"), filepath.Join(dir, "repo", "root.json")); err != nil {
		return "", err
	}
	for _, a := range apps {
		for i, v := range Versions {
			tree := filepath.Join("root", "releases", a.Name, v)
			if err := a.write(filepath.Join(dir, tree), v, i); err != nil {
				return "", err
			}
			if _, err := Output(ctx, dir, nil, release, "bundle", "create", tree, "--app", "lab", "--version", v, "--compatible", "qemu",
				"--config-pattern", "etc/*.conf", "--keys", "keys", "--root", "repo/root.json", "--out", tree+".tandem"); err != nil {
				return "", err
			}
		}
		if err := a.publish(ctx, dir, release); err != nil {
			return "", err
		}
	}
	return root, nil
}

// publish makes the delta bundles of an application, and its repositories.
func (a Application) publish(ctx context.Context, dir, release string) error {
	folder := filepath.Join("root", "releases", a.Name)
	bundle := func(name string) string { return filepath.Join(folder, name+".tandem") }
	for _, old := range Versions {
		for _, v := range Versions {
			if v == old {
				continue
			}
			if _, err := Output(ctx, dir, nil, release, "bundle", "delta", bundle(old), bundle(v), "--keys", "keys", "--root", "repo/root.json",
				"--out", filepath.Join(folder, "delta-"+old+"-"+v)); err != nil {
				return err
			}
		}
	}
	for name, deltas := range map[string]string{"plain": "0", "deltas": "9"} {
		repo := filepath.Join(folder, name)
		if err := os.CopyFS(filepath.Join(dir, repo), os.DirFS(filepath.Join(dir, "repo"))); err != nil {
			return err
		}
		for _, v := range Versions {
			if _, err := Output(ctx, dir, nil, release, "repo", "add", repo, bundle(v), "--keys", "keys", "--deltas", deltas); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// write writes the i-th release: a program that always changes, libraries of
// which some change, a few odds and ends.
func (a Application) write(dir, version string, i int) error {
	files := map[string]string{
		"bin/app":               noise("app "+version, a.Program),
		"etc/app.conf":          "name=World\n",
		"etc/empty.conf":        "",
		"share/text":            strings.Repeat("compresses well\n", a.Text/16),
		"share/only-" + version: version + "\n",
	}
	for n := range a.Libs {
		lib := noise(fmt.Sprint("lib ", n), a.Lib)
		if n%a.Change == i%a.Change { // by little, so that a delta bundle has a patch
			lib = version + lib[len(version):]
		}
		files[fmt.Sprintf("lib/%d.so", n)] = lib
	}
	for name, data := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if filepath.Base(name) == "app" {
			mode = 0o755
		}
		if err := os.WriteFile(name, []byte(data), mode); err != nil {
			return err
		}
	}
	return os.Symlink("../lib/0.so", filepath.Join(dir, "bin", "link"))
}

// noise is text that does not compress, the same for the same seed.
func noise(seed string, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return string(b)
}
