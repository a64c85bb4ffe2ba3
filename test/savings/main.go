// Savings prints what updates of a few real trees cost in each form, as the
// table of docs/publishing.md. It builds tandem twice, takes files of the Go
// distribution, and lets tandem-release make and compare the bundles.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "savings:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "savings")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &shop{dir: dir}
	if err := s.command(nil, "go", "build", "-o", filepath.Join(dir, "tandem-release"), "./cmd/tandem-release"); err != nil {
		return err
	}
	release := filepath.Join(dir, "tandem-release")
	if err := errors.Join(
		s.command(nil, release, "keygen", "--out", s.keys()),
		s.command(nil, release, "repo", "init", filepath.Dir(s.root()), "--keys", s.keys())); err != nil {
		return err
	}
	fmt.Println("| application | what changed | whole bundle | frames | requests | delta bundle |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, r := range []struct {
		application, change string
		old, now            func(tree string) error
	}{
		{"one program", "another version in it", s.program("1.0.0"), s.program("1.0.1")},
		{"2,000 small files", "one line in one file", s.sources(0), s.sources(1)},
		{"2,000 small files", "one line in 20 files", s.sources(0), s.sources(20)},
		{"a program and 2,000 small files", "the program and 20 files", both(s.program("1.0.0"), s.sources(0)), both(s.program("1.0.1"), s.sources(20))},
	} {
		row, err := s.row(r.old, r.now)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", r.application, r.change, err)
		}
		fmt.Printf("| %s | %s | %s |\n", r.application, r.change, row)
	}
	return nil
}

// shop makes trees and bundles in a directory.
type shop struct{ dir string }

func (s *shop) keys() string { return filepath.Join(s.dir, "keys") }
func (s *shop) root() string { return filepath.Join(s.dir, "repo", "root.json") }

func (s *shop) command(env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// program puts tandem for 32-bit ARM, of that version and as a release has it, into a tree.
func (s *shop) program(version string) func(string) error {
	return func(tree string) error {
		dist := filepath.Join(s.dir, "dist")
		if err := errors.Join(
			s.command(nil, "make", "-s", "arm", "DIST="+dist, "VERSION="+version),
			os.MkdirAll(filepath.Join(tree, "bin"), 0o755)); err != nil {
			return err
		}
		return os.Rename(filepath.Join(dist, "tandem-linux-armv7"), filepath.Join(tree, "bin/tandem"))
	}
}

// sources puts 2,000 files of the Go distribution into a tree, with one line more
// in so many of them, evenly spread.
func (s *shop) sources(changed int) func(string) error {
	return func(tree string) error {
		const files = 2000
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return err
		}
		root := filepath.Join(strings.TrimSpace(string(out)), "src")
		n, every := 0, files/max(changed, 1)
		return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(name, ".go") {
				return err
			}
			if n == files {
				return fs.SkipAll
			}
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			if n++; changed > 0 && n%every == 0 {
				data = append(data, fmt.Sprintf("// a line that was not there, %d\n", n)...)
			}
			to := filepath.Join(tree, "share", strings.TrimPrefix(name, root))
			return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o644))
		})
	}
}

func both(a, b func(string) error) func(string) error {
	return func(tree string) error { return errors.Join(a(tree), b(tree)) }
}

// row makes two releases and gives the cells of what an update costs.
func (s *shop) row(old, now func(string) error) (string, error) {
	work, err := os.MkdirTemp(s.dir, "row")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	release := filepath.Join(s.dir, "tandem-release")
	names := []string{filepath.Join(work, "old"), filepath.Join(work, "new")}
	for i, fill := range []func(string) error{old, now} {
		if err := errors.Join(os.Mkdir(names[i], 0o755), fill(names[i])); err != nil {
			return "", err
		}
		if err := s.command(nil, release, "bundle", "create", names[i], "--app", "a", "--version", fmt.Sprint(i+1), "--compatible", "c", "--keys", s.keys(), "--root", s.root(), "--out", names[i]+".tandem"); err != nil {
			return "", err
		}
	}
	delta := filepath.Join(work, "delta.tandem")
	if err := s.command(nil, release, "bundle", "delta", names[0]+".tandem", names[1]+".tandem", "--keys", s.keys(), "--root", s.root(), "--out", delta); err != nil {
		return "", err
	}
	out, err := exec.Command(release, "bundle", "diff", names[0]+".tandem", names[1]+".tandem", "--delta", delta, "--json").Output()
	if err != nil {
		return "", err
	}
	var doc struct {
		Forms []struct {
			Form     string
			Bytes    int64
			Requests int
		}
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return "", err
	}
	bytes, requests := map[string]int64{}, map[string]int{}
	for _, f := range doc.Forms {
		bytes[f.Form], requests[f.Form] = f.Bytes, f.Requests
	}
	kilo := func(form string) string { return fmt.Sprintf("%.1f KB", float64(bytes[form])/1000) }
	return strings.Join([]string{kilo("bundle"), kilo("frames"), fmt.Sprint(requests["frames"]), kilo("delta")}, " | "), nil
}
