package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kind is what a pair is, which says what is expected of it.
type kind int

const (
	program kind = iota
	raised       // programs whose dependencies were raised
	data
)

// most is how large a patch may be, against the best of some peers.
func (k kind) most() float64 { return []float64{0.30, 0.45, 1}[k] }

// A pair is two releases that follow each other. make puts one of them into a
// folder.
type pair struct {
	name     string
	kind     kind
	old, new string
	make     func(b *bench, dir, version string) error
}

func pairs() []pair {
	var all []pair
	for _, arch := range []string{"arm", "arm64", "amd64"} {
		all = append(all,
			pair{"mochi-mqtt " + arch, program, "v2.6.5", "v2.6.6", goProgram("github.com/mochi-mqtt/server/v2/cmd", arch)},
			pair{"node_exporter " + arch, program, "v1.8.1", "v1.8.2", goProgram("github.com/prometheus/node_exporter", arch)},
			pair{"toolchain " + arch, program, "v1.8.2 go1.26.7", "v1.8.2 go1.26.8", goProgram("github.com/prometheus/node_exporter", arch)},
		)
	}
	return append(all,
		pair{"grpcurl arm", raised, "v1.9.1", "v1.9.2", goProgram("github.com/fullstorydev/grpcurl/cmd/grpcurl", "arm")},
		pair{"openssl armhf", program, "3.0.17-1~deb12u2", "3.0.20-1~deb12u2", debian("libssl3", "openssl")},
		pair{"openssh armhf", program, "1:9.2p1-2+deb12u7", "1:9.2p1-2+deb12u10", debian("openssh-server", "openssh-client", "openssh-sftp-server")},
		pair{"samba armhf", program, "2:4.17.12+dfsg-0+deb12u2", "2:4.17.12+dfsg-0+deb12u4", debian("samba-libs")},
		pair{"node-red", data, "4.0.8", "4.0.9", npm("node-red")},
		pair{"sqlite", data, "1", "2", database},
	)
}

// fetch returns the folders of both releases of a pair, and makes them first
// where they are not there.
func (b *bench) fetch(p pair) (old, new string, err error) {
	var dirs [2]string
	for i, v := range []string{p.old, p.new} {
		dirs[i] = filepath.Join(b.dir, "trees", plain(p.name), plain(v))
		if _, err := os.Stat(dirs[i]); err == nil {
			continue
		}
		tmp := dirs[i] + ".tmp"
		if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o755)); err != nil {
			return "", "", err
		}
		if err := p.make(b, tmp, v); err != nil {
			return "", "", fmt.Errorf("%s: %w", v, err)
		}
		if err := os.Rename(tmp, dirs[i]); err != nil {
			return "", "", err
		}
	}
	return dirs[0], dirs[1], nil
}

func plain(s string) string {
	return strings.NewReplacer(" ", "-", ":", "-", "/", "-", "~", "-").Replace(s)
}

// command runs a program in dir; its last line is part of the error.
func (b *bench) command(dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return fmt.Errorf("%s: %w: %.200s", name, err, lines[len(lines)-1])
}

// goProgram builds a static, stripped program of a module; a version may name
// the toolchain after a space.
func goProgram(pkg, arch string) func(*bench, string, string) error {
	return func(b *bench, dir, version string) error {
		version, toolchain, _ := strings.Cut(version, " ")
		if toolchain == "" {
			toolchain = "local"
		}
		path := filepath.Join(b.dir, "gopath")
		if err := os.RemoveAll(filepath.Join(path, "bin")); err != nil {
			return err
		}
		env := []string{
			"GOOS=linux", "GOARCH=" + arch, "GOARM=7", "CGO_ENABLED=0", "GOTOOLCHAIN=" + toolchain,
			"GOFLAGS=-buildvcs=false -modcacherw", "GOPATH=" + path, "GOBIN=",
		}
		if err := b.command(b.dir, env, "go", "install", "-trimpath", "-ldflags=-s -w", pkg+"@"+version); err != nil {
			return err
		}
		return os.CopyFS(dir, os.DirFS(filepath.Join(path, "bin")))
	}
}

// debian unpacks packages for armhf, without what is no program or data.
func debian(packages ...string) func(*bench, string, string) error {
	return func(b *bench, dir, version string) error {
		state := filepath.Join(b.dir, "apt")
		for _, d := range []string{"lists/partial", "cache/archives/partial", "deb"} {
			if err := os.MkdirAll(filepath.Join(state, d), 0o755); err != nil {
				return err
			}
		}
		status := filepath.Join(state, "status")
		options := []string{
			"-q", "-o", "APT::Architecture=armhf", "-o", "APT::Architectures=armhf", "-o", "Dir::State::Lists=" + filepath.Join(state, "lists"),
			"-o", "Dir::Cache=" + filepath.Join(state, "cache"), "-o", "Dir::State::status=" + status, "-o", "APT::Sandbox::User=",
		}
		if _, err := os.Stat(status); err != nil {
			if err := os.WriteFile(status, nil, 0o644); err != nil {
				return err
			}
			_ = b.command(state, nil, "apt-get", append(options, "update")...) // what is missing is told below
		}
		for _, p := range packages {
			deb := filepath.Join(state, "deb", plain(version+p))
			if err := errors.Join(os.RemoveAll(deb), os.MkdirAll(deb, 0o755)); err != nil {
				return err
			}
			if err := b.command(deb, nil, "apt-get", append(options, "download", p+"="+version)...); err != nil {
				return err
			}
			files, err := filepath.Glob(filepath.Join(deb, "*.deb"))
			if err != nil || len(files) != 1 {
				return fmt.Errorf("%s: %d packages, %v", p, len(files), err)
			}
			if err := b.command(deb, nil, "dpkg", "-x", files[0], dir); err != nil {
				return err
			}
		}
		for _, d := range []string{"doc", "man", "lintian", "locale", "bug"} {
			if err := os.RemoveAll(filepath.Join(dir, "usr/share", d)); err != nil {
				return err
			}
		}
		return nil
	}
}

// npm installs a package with what it needs.
func npm(name string) func(*bench, string, string) error {
	return func(b *bench, dir, version string) error {
		return b.command(dir, nil, "npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", dir, name+"@"+version)
	}
}

//go:embed database.py
var databaseScript string

// database makes a database, or the same some days later.
func database(b *bench, dir, version string) error {
	return b.command(dir, nil, "python3", "-c", databaseScript, filepath.Join(dir, "app.db"), version)
}
