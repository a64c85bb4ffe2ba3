// Command bench measures the built tandem against what a device could do with
// ordinary tools: cp, rsync, find, openssl, tar, the logic of the vendor's
// script, and with RAUC.
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
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
)

type options struct {
	runs           int
	seed           uint64
	json           bool
	big, many      bool
	only           *regexp.Regexp
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
	flag.StringVar(&o.tandem, "tandem", "", "a tandem to measure, instead of bin/tandem")
	flag.BoolVar(&o.big, "big", false, "also install 16 MiB and 1 GiB, for the memory that it takes; needs 10 GiB in $TMPDIR")
	flag.BoolVar(&o.many, "many", false, "also back up, boot, verify and bump 100,000 files, for the memory that it takes; needs 3 GiB in $TMPDIR, and minutes")
	only := flag.String("run", "", "do only the jobs whose names match this regular expression")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil {
		err = run(ctx, o)
	}
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
		return errors.New("usage: bench [-n RUNS] [-seed N] [-run REGEXP] [-big] [-many] [-json] [-tandem PATH]")
	}
	tmp, err := os.MkdirTemp("", "tandem-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	release := filepath.Join(tmp, "tandem-release")
	err = take(ctx, "bin/tandem-release", release)
	if err == nil && o.tandem == "" {
		o.tandem = filepath.Join(tmp, "tandem")
		err = take(ctx, "bin/tandem", o.tandem)
	}
	if err == nil {
		o.tandem, err = filepath.Abs(o.tandem)
	}
	if err != nil {
		return err
	}
	r := &report{Seed: o.seed, Runs: o.runs}
	specs := []treeSpec{
		{Files: 40, Bytes: 12 << 20},
		{Files: 2000, Bytes: 64 << 20},
		{Files: 2000, Bytes: 64 << 20, Words: true, installOnly: true},
	}
	if o.big { // memory goes with the number of files, so both have the same
		specs = append(specs,
			treeSpec{Files: 2000, Bytes: 16 << 20, installOnly: true, once: true},
			treeSpec{Files: 2000, Bytes: 1 << 30, installOnly: true, once: true})
	}
	if o.many {
		specs = append(specs, treeSpec{Files: 100_000, Bytes: 50 << 20, many: true})
	}
	for i, spec := range specs {
		spec.seed = o.seed
		if err := r.add(ctx, o, release, filepath.Join(tmp, fmt.Sprint(i)), spec); err != nil {
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

// take copies a program that "make build" made, with the flags that it is shipped with, as
// an installation would: what a linker has just written lies in memory in small pieces, and
// starts up to a third slower than what was read from a disk.
func take(ctx context.Context, program, to string) error {
	return command(ctx, nil, "cp", program, to)
}

// add measures all jobs on one tree, and leaves nothing of it behind.
func (r *report) add(ctx context.Context, o options, release, tmp string, spec treeSpec) (err error) {
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	unmounted := true
	defer func() {
		if unmounted {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	// Room for the old version, the new one and one to spare.
	size, inodes := 4*spec.Bytes+64<<20, 0
	if spec.many { // each file takes a block of 4 KiB
		size, inodes = 8192*int64(spec.Files)+256<<20, 2*spec.Files
	}
	devs, why, err := devices(ctx, tmp, size, inodes)
	defer func() {
		for _, d := range devs {
			if e := d.close(); e != nil {
				err, unmounted = errors.Join(err, e), false
			}
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
	if spec.many {
		f, err := l.many(ctx, o.only.MatchString)
		if err == nil && len(f) > 0 {
			r.Trees = append(r.Trees, treeReport{Tree: spec, Runs: 1, Figures: f})
		}
		if r.Notes == nil {
			r.Notes = notes(o, l, why)
		}
		return err
	}
	defer func() {
		if l.slot != nil {
			if e := l.slot.close(); e != nil {
				err, unmounted = errors.Join(err, e), false
			}
		}
	}()
	if err := l.prepareRAUC(ctx, size); err != nil {
		return err
	}
	if !spec.installOnly {
		if err := l.checkVerify(ctx); err != nil {
			return err
		}
	}
	jobs, err := l.jobs()
	if err != nil {
		return err
	}
	jobs = slices.DeleteFunc(jobs, func(j job) bool { return !o.only.MatchString(j.name) })
	counts := !spec.installOnly && o.only.MatchString(onAir) && l.peer(onAir, []string{"zstd"}).missing == ""
	if len(jobs) == 0 && !counts {
		return nil
	}
	t := treeReport{Tree: spec, Runs: o.runs, PayloadMiB: mib(l.payload)}
	if spec.once {
		t.Runs = 1
	}
	for _, j := range jobs {
		fmt.Fprintf(o.stderr, "%s: %s\n", spec, j.name)
		samples, err := l.run(ctx, j, t.Runs)
		if err != nil {
			return err
		}
		t.Figures = append(t.Figures, figures(j, samples)...)
	}
	if counts {
		fmt.Fprintf(o.stderr, "%s: %s\n", spec, onAir)
		if t.Air, err = l.air(ctx); err != nil {
			return fmt.Errorf("%s: %w", onAir, err)
		}
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
		"Every result was compared byte by byte with its source. sync is of the file system written to alone.",
		"A tandem that has records was started with them before, unmeasured: it knows its own files.",
		"1 % changed: same sizes, new content and times. Tandem knows the application from its bundle, or, where it",
		"says adopted, from an earlier backup of a tree that it knew nothing of: then every file counts as configuration.",
		"Tandem and openssl verify both sides; the vendor's logic verifies nothing.",
		"Install and update: a bundle signed by one key. tar unpacks that bundle's own payload, taken out before, and RAUC",
		"the same file as its image; of the three tar checks nothing. \"On system\": Tandem's backup waits for a health hook",
		"that postpones. \"And back up\" is what it does as delivered; tar is followed by cp -a then. An update is unpacked",
		"beside the old version. Random content does not compress; the tree of words does, to the size given.",
		"RAUC formats an ext4 slot of its own each time, so an update is the same to it. Its service runs already: the wall",
		"time is that of rauc install, cpu and peak are those of all, the service's start included. Its bundle is in the plain",
		"format, which needs no dm-verity and is mapped into memory whole to be verified.",
	}
	if why == "" {
		n = append(n, "Each side is an ext4 file system on a loop device; bytes written are those of both devices, up to a final sync.")
	} else {
		n = append(n, "No loop devices, both sides are plain directories: "+why,
			"Bytes written are only what the processes wrote themselves, as the kernel counts it.")
	}
	for _, t := range l.missing {
		n = append(n, "Not measured: "+t)
	}
	return n
}
