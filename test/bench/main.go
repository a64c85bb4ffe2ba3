// Command bench measures the built tandem against what a device could do with
// ordinary tools: cp, rsync, find, openssl and the logic of the vendor's script.
// All run in turn on the same trees, on ext4 file systems of their own, and
// each result is compared byte by byte with what it should be. Times are
// reported, never judged.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

type options struct {
	runs           int
	seed           uint64
	json           bool
	tandem         string
	stdout, stderr io.Writer
}

func main() {
	// A reader of our output that goes away must not end us before the file systems are unmounted.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	o := options{stdout: os.Stdout, stderr: os.Stderr}
	flag.IntVar(&o.runs, "n", 5, "how often each program does each job")
	flag.Uint64Var(&o.seed, "seed", 1, "what the content of the trees is made from")
	flag.BoolVar(&o.json, "json", false, "print one JSON document")
	flag.StringVar(&o.tandem, "tandem", "", "a built tandem, instead of building it")
	flag.Parse()
	err := run(ctx, o)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run leaves nothing behind, also after an error or a signal.
func run(ctx context.Context, o options) (err error) {
	if flag.NArg() > 0 || o.runs < 1 {
		return errors.New("usage: bench [-n RUNS] [-seed N] [-json] [-tandem PATH]")
	}
	tmp, err := os.MkdirTemp("", "tandem-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	release := filepath.Join(tmp, "tandem-release")
	err = build(ctx, release)
	if err == nil && o.tandem == "" {
		o.tandem = filepath.Join(tmp, "tandem")
		err = build(ctx, o.tandem)
	}
	if err == nil {
		o.tandem, err = filepath.Abs(o.tandem)
	}
	if err != nil {
		return err
	}
	r := &report{Seed: o.seed, Runs: o.runs}
	for _, spec := range []treeSpec{
		{Files: 40, Bytes: 12 << 20, seed: o.seed},
		{Files: 2000, Bytes: 64 << 20, seed: o.seed},
	} {
		if err := r.add(ctx, o, release, filepath.Join(tmp, fmt.Sprint(spec.Files)), spec); err != nil {
			return err
		}
	}
	if o.json {
		e := json.NewEncoder(o.stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.print(o.stdout)
}

// build makes a program as it is shipped: without cgo and stripped.
func build(ctx context.Context, out string) error {
	name := filepath.Base(out)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "tandem/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", name, err, strings.TrimSpace(string(msg)))
	}
	return nil
}

// add measures all jobs on one tree.
func (r *report) add(ctx context.Context, o options, release, tmp string, spec treeSpec) (err error) {
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	// Room for the old version, the new one and one to spare.
	devs, why, err := devices(ctx, tmp, 4*spec.Bytes+(64<<20))
	defer func() {
		for _, d := range devs {
			err = errors.Join(err, d.close())
		}
	}()
	if err != nil {
		return err
	}
	l := &lab{tmp: tmp, spec: spec, devices: devs, tandem: o.tandem, release: release, counted: why == ""}
	fmt.Fprintf(o.stderr, "%s: writing the trees\n", spec)
	if err := l.prepare(ctx); err != nil {
		return err
	}
	if err := l.checkVerify(ctx); err != nil {
		return err
	}
	jobs, err := l.jobs()
	if err != nil {
		return err
	}
	t := treeReport{Tree: spec}
	for _, j := range jobs {
		fmt.Fprintf(o.stderr, "%s: %s\n", spec, j.name)
		samples, err := l.run(ctx, j, o.runs)
		if err != nil {
			return err
		}
		t.Figures = append(t.Figures, figures(j, samples)...)
	}
	r.Trees = append(r.Trees, t)
	if r.Notes == nil {
		r.Notes = notes(o, l, why)
	}
	return nil
}

// notes says under which conditions the figures hold.
func notes(o options, l *lab, why string) []string {
	n := []string{
		fmt.Sprintf("seed %d; median of %d runs each, in turn, after one to warm up; all reads from warm caches.", o.seed, o.runs),
		"Every result was compared byte by byte with its source. sync is of the backup's file system alone.",
		"1 % changed: same sizes, new content and times. Tandem knows the application from its bundle, or, where it",
		"says adopted, from an earlier backup of a tree that it knew nothing of: then every file counts as configuration.",
		"Tandem and openssl verify both sides; the vendor's logic verifies nothing.",
	}
	if why == "" {
		n = append(n, "Each side is an ext4 file system on a loop device; bytes written are those of both devices, up to a final sync.")
	} else {
		n = append(n, "No loop devices, both sides are plain directories: "+why,
			"Bytes written are only what the processes wrote themselves, as the kernel counts it.")
	}
	for _, t := range l.missing {
		n = append(n, "Not installed, so not measured: "+t)
	}
	return n
}
