package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tandem/packaging/delta"
	"tandem/packaging/delta/encode"
)

// A cost is what a run of a program took.
type cost struct {
	cpu time.Duration
	rss int64 // bytes
}

func (c *cost) add(d cost) {
	c.cpu += d.cpu
	c.rss = max(c.rss, d.rss)
}

// measured runs a program and returns what it took. This one runs it through
// another of itself: Linux counts for a program what the one that started it had
// in memory, and that is much here.
func (b *bench) measured(name string, args ...string) (cost, error) {
	cmd := exec.CommandContext(b.ctx, b.self, append([]string{"run", name}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return cost{}, fmt.Errorf("%s: %w: %.200s", filepath.Base(name), err, bytes.TrimSpace(errs.Bytes()))
	}
	var c cost
	if _, err := fmt.Sscan(string(out), &c.cpu, &c.rss); err != nil {
		return cost{}, fmt.Errorf("%s: its costs: %w", name, err)
	}
	return c, nil
}

// runMeasured runs a program, and prints nanoseconds of CPU and bytes of memory.
func runMeasured(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	_, err := fmt.Println(int64(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()), u.Maxrss<<10)
	return err
}

// A peer makes a patch at file, and applies it.
type peer struct {
	name  string
	make  func(b *bench, old, new, file string) (cost, error)
	apply func(b *bench, old, file, out string) (cost, error)
	// size of what would be sent, where that is not the file
	size func(b *bench, file string) (int64, error)
}

// The columns of the table.
const (
	full      = "zstd -19"
	bsdiff    = "bsdiff+xz"
	xdelta    = "xdelta3"
	zstdPatch = "zstd patch"
	detools   = "detools"
	hdiff     = "hdiffpatch"
	ours      = "TDP1"
)

// peers returns those whose programs are there.
func (t tools) peers() []peer {
	simple := func(name string, args func(a, b, c string) []string) func(*bench, string, string, string) (cost, error) {
		return func(b *bench, x, y, z string) (cost, error) { return b.measured(name, args(x, y, z)...) }
	}
	three := func(before ...string) func(a, b, c string) []string {
		return func(x, y, z string) []string { return append(append([]string{}, before...), x, y, z) }
	}
	list := []peer{{
		name:  full,
		make:  simple("zstd", func(_, new, file string) []string { return []string{"-qf", "-19", "--long=27", new, "-o", file} }),
		apply: simple("zstd", func(_, file, out string) []string { return []string{"-qdf", "--long=27", file, "-o", out} }),
	}, {
		name: ours,
		make: func(b *bench, old, new, file string) (cost, error) {
			return b.measured(b.self, "make", old, new, file)
		},
		apply: func(b *bench, old, file, out string) (cost, error) {
			return b.measured(b.self, "apply", old, file, out)
		},
	}, {
		name: zstdPatch,
		make: simple("zstd", func(old, new, file string) []string {
			return []string{"-qf", "--ultra", "-22", "--long=27", "--patch-from=" + old, new, "-o", file}
		}),
		apply: simple("zstd", func(old, file, out string) []string {
			return []string{"-qdf", "--long=27", "--patch-from=" + old, file, "-o", out}
		}),
	}}
	if t.bsdiff {
		list = append(list, peer{
			name: bsdiff, make: simple("bsdiff", three()), size: recompressed,
			apply: simple("bspatch", func(old, file, out string) []string { return []string{old, out, file} }),
		})
	}
	if t.xdelta {
		list = append(list, peer{
			name: xdelta,
			make: simple("xdelta3", func(old, new, file string) []string {
				return []string{"-D", "-e", "-f", "-9", "-S", "lzma", "-B", "536870912", "-s", old, new, file}
			}),
			apply: simple("xdelta3", func(old, file, out string) []string {
				return []string{"-D", "-d", "-f", "-B", "536870912", "-s", old, file, out}
			}),
		})
	}
	if t.python != "" {
		list = append(list,
			peer{name: detools, make: t.bestDetools, apply: simple(t.python, three("-m", "detools", "apply_patch"))},
			peer{name: hdiff, make: simple(t.python, three("-c", hdiffMake)), apply: simple(t.python, three("-c", hdiffApply))},
		)
	}
	return list
}

const (
	hdiffMake = `import sys, hdiffpatch as h
a, b = (open(n, "rb").read() for n in sys.argv[1:3])
open(sys.argv[3], "wb").write(h.diff(a, b, h.Lzma2Config(level=9), validate=False))`
	hdiffApply = `import sys, hdiffpatch as h
a, b = (open(n, "rb").read() for n in sys.argv[1:3])
open(sys.argv[3], "wb").write(h.apply(a, b))`
)

// bestDetools makes each form that detools has for the files, and keeps the
// smallest.
func (t tools) bestDetools(b *bench, old, new, file string) (cost, error) {
	forms := [][]string{
		{"-c", "lzma"},
		{"-t", "hdiffpatch", "-a", "hdiffpatch", "-c", "lzma"},
	}
	for machine, format := range map[byte]string{40: "arm-cortex-m4", 183: "aarch64"} {
		if isProgram(old, machine) {
			forms = append(forms, []string{"-c", "lzma", "--data-format", format, "--from-elf-file", old, "--from-elf-offset", "0", "--to-elf-file", new, "--to-elf-offset", "0"})
		}
	}
	var total cost
	best := int64(-1)
	for _, form := range forms {
		tmp := file + ".form"
		_ = os.Remove(tmp)
		c, err := b.measured(t.python, append(append([]string{"-m", "detools", "create_patch"}, form...), old, new, tmp)...)
		if err != nil {
			if b.ctx.Err() != nil {
				return total, err
			}
			continue // it does not know every program
		}
		total.add(c)
		if info, err := os.Stat(tmp); err == nil && (best < 0 || info.Size() < best) {
			best = info.Size()
			if err := os.Rename(tmp, file); err != nil {
				return total, err
			}
		}
	}
	if best < 0 {
		return total, errors.New("no form of detools works")
	}
	return total, nil
}

func isProgram(file string, machine byte) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	var h [20]byte
	_, err = io.ReadFull(f, h[:])
	return err == nil && string(h[:4]) == "\x7fELF" && h[18] == machine
}

// recompressed returns how long a patch of bsdiff is with its three streams
// compressed by xz instead of bzip2.
func recompressed(b *bench, file string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	if len(raw) < 32 {
		return 0, errors.New("no patch of bsdiff")
	}
	control, diff := binary.LittleEndian.Uint64(raw[8:]), binary.LittleEndian.Uint64(raw[16:])
	if control > uint64(len(raw)-32) || diff > uint64(len(raw)-32)-control {
		return 0, errors.New("no patch of bsdiff")
	}
	total := int64(32)
	for _, s := range [][]byte{raw[32 : 32+control], raw[32+control : 32+control+diff], raw[32+control+diff:]} {
		cmd := exec.CommandContext(b.ctx, "sh", "-c", "bzip2 -dc | xz -9e --check=none -c | wc -c")
		cmd.Stdin = bytes.NewReader(s)
		out, err := cmd.Output()
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(out)), 10, 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// tools are the peers' programs that are there.
type tools struct {
	bsdiff, xdelta bool
	python         string // with detools and hdiffpatch; "" if that cannot be had
}

// findTools looks for the peers, and has pip install those that are Python's.
func (b *bench) findTools() tools {
	has := func(name string) bool {
		_, err := exec.LookPath(name)
		if err != nil {
			pkg := strings.NewReplacer("xz", "xz-utils").Replace(name)
			fmt.Printf("%s is not installed: left out; for it, install the package %s of Debian\n", name, pkg)
		}
		return err == nil
	}
	t := tools{bsdiff: has("bsdiff") && has("bzip2") && has("xz"), xdelta: has("xdelta3")}
	dir := filepath.Join(b.dir, "tools")
	python := filepath.Join(dir, "bin/python")
	if _, err := os.Stat(python); err != nil {
		if _, err := b.measured("python3", "-m", "venv", dir); err != nil {
			fmt.Println("detools and hdiffpatch are left out:", err)
			return t
		}
	}
	if _, err := b.measured(python, "-m", "pip", "install", "-q", "detools==0.53.0", "hdiffpatch==2.6.0"); err != nil {
		fmt.Println("detools and hdiffpatch are left out:", err)
		return t
	}
	t.python = python
	return t
}

// work makes or applies a patch of ours, in a process of its own.
func work(ctx context.Context, what string, args []string) error {
	if len(args) != 3 {
		return errors.New("expected three files")
	}
	if what == "make" {
		old, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		new, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		p, err := encode.Make(ctx, old, new, encode.Options{})
		if err != nil {
			return err
		}
		return os.WriteFile(args[2], p.Bytes, 0o644)
	}
	old, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer old.Close()
	patch, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer patch.Close()
	info, err := old.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(args[2])
	if err != nil {
		return err
	}
	defer out.Close()
	// The length of the new file is signed elsewhere; here the patch is believed.
	lengths := delta.Lengths{Old: info.Size()}
	var head [16]byte
	if _, err := io.ReadFull(patch, head[:5]); err != nil {
		return err
	}
	n, err := patch.Read(head[5:])
	if err != nil && err != io.EOF {
		return err
	}
	_, skip := binary.Uvarint(head[4 : 5+n])
	length, _ := binary.Uvarint(head[4+max(skip, 0) : 5+n])
	lengths.New = int64(length)
	if _, err := patch.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return delta.Apply(ctx, out, patch, old, lengths)
}
