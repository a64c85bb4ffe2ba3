// Command systemd runs whole Debians under QEMU, with systemd, two partitions and
// the package of Tandem as it is shipped, an application that is a unit, and what
// happens to such devices: lost partitions, hard resets, a daemon that is stopped
// or crashes in the midst of an installation, packages that are upgraded, removed
// and installed again, a Tandem that replaces itself.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"tandem/test/internal/machine"
)

// options are the lab's flags.
type options struct {
	pkg, cache string
	short      bool
	seed       uint64
	match      string
	budget     time.Duration
	planted    bool
	prepare    bool
	goOn       bool
	patience   time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.pkg, "package", "", "the `file` of the package: a .deb for amd64, as made by make packages")
	flag.StringVar(&o.cache, "cache", ".cache/machine", "`folder` for Debian and its kernel")
	flag.BoolVar(&o.short, "short", false, "leave out what takes long")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()%1e9), "seed of the random choices")
	flag.StringVar(&o.match, "run", "", "carry out only the steps that match this `regular expression`; with -planted: only these bugs")
	flag.DurationVar(&o.budget, "budget", 0, "begin no further step after this `time`, and tell which were left out; 0: carry out all")
	flag.BoolVar(&o.planted, "planted", false, "plant bugs, one after the other, and want the step that is for each to fail")
	flag.BoolVar(&o.prepare, "prepare", false, "fetch the kernel and make the Debian, where they are not there, and nothing else")
	flag.BoolVar(&o.goOn, "go-on", false, "after a step that failed, carry out the others all the same")
	flag.DurationVar(&o.patience, "patience", 10*time.Minute, "how `long` to wait for what has to happen; an emulated processor is slow, and much slower beside other work")
	flag.Parse()
	// Where mke2fs lies is not on every user's path.
	err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if err == nil {
		err = run(ctx, o)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "systemd:", err)
		os.Exit(1)
	}
}

// site is what all devices of a run are made of.
type site struct {
	options
	match   *regexp.Regexp
	dir     string // for scratch files
	kernel  *machine.Kernel
	modules []string
	base    string // Debian's image
}

func run(ctx context.Context, o options) (err error) {
	if o.pkg == "" && !o.prepare {
		return fmt.Errorf("-package says which package to install")
	}
	s := site{options: o}
	if s.match, err = regexp.Compile(o.match); err != nil {
		return err
	}
	if s.cache, err = filepath.Abs(o.cache); err != nil {
		return err
	}
	if s.kernel, err = machine.Fetch(ctx, s.cache, machine.AMD64, programs); err != nil {
		return err
	}
	if s.modules, err = s.kernel.Modules([]string{"virtio_pci", "virtio_blk", "crc32c_generic", "libcrc32c"}, []string{"ext4"}); err != nil {
		return err
	}
	if s.base, err = baseImage(ctx, s.cache); err != nil {
		return err
	}
	if o.prepare {
		return nil
	}
	if s.dir, err = os.MkdirTemp("", "tandem-systemd-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	fmt.Printf("seed %d\n", o.seed)
	files := filepath.Join(s.dir, "files")
	b := builder{ctx: ctx, dir: s.dir}
	b.initrd()
	b.files(files)
	if !o.planted {
		b.packages(s.pkg, files)
	}
	if b.err != nil {
		return b.err
	}
	if o.planted {
		return s.plantAll(ctx, files)
	}
	begin := time.Now()
	results := make([]result, len(series))
	// The first failure ends the others: nobody waits for them.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for i, one := range series {
		all.Go(func() {
			results[i] = s.device(ctx, one, files, s.patience)
			if results[i].err != nil && !s.goOn {
				cancel(results[i].err)
			}
		})
	}
	all.Wait()
	err = context.Cause(ctx)
	boots, left := 0, 0
	for _, r := range results {
		boots, left = boots+r.boots, left+r.left
		if err == nil {
			err = r.err
		}
	}
	if err != nil {
		return fmt.Errorf("seed %d: %w", o.seed, err)
	}
	what := "all of it held"
	if left > 0 {
		what = fmt.Sprintf("all of it held, but for %d steps that were left out", left)
	}
	fmt.Printf("%d starts, %.0f s in all: %s\n", boots, time.Since(begin).Seconds(), what)
	return nil
}

// lab is what happens to one device.
type lab struct {
	*device
	ctx    context.Context
	random *rand.Rand
	short  bool
}

// result is how a series ended.
type result struct {
	boots, left int
	failed      string // the step
	err         error
}

// device makes a device of the files that the lab brings, and carries out a series
// of steps on it.
func (s *site) device(ctx context.Context, one steps, files string, patience time.Duration) (r result) {
	chosen := one.all
	if !s.planted {
		chosen = one.chosen(s.match, s.short)
	}
	if chosen == nil {
		return result{}
	}
	dir, err := os.MkdirTemp(s.dir, one.name+"-")
	if err != nil {
		return result{err: err}
	}
	b := builder{ctx: ctx, dir: dir, disks: map[string]string{}}
	b.build(s.base, files, one.image)
	if b.err != nil {
		return result{err: fmt.Errorf("%s: %w", one.name, b.err)}
	}
	l := &lab{ctx: ctx, short: s.short, random: rand.New(rand.NewPCG(s.seed, uint64(len(one.name)))), device: &device{
		disks: b.disks, console: filepath.Join(dir, "console"), patience: patience,
		say:     func(format string, args ...any) { report(one.name, fmt.Sprintf(format, args...)) },
		machine: machine.Machine{Kernel: s.kernel, Modules: s.modules, Files: filepath.Join(s.dir, "initrd"), Timeout: patience},
	}}
	defer func() {
		if err := l.off(); r.err == nil {
			r.err = err
		}
		r.boots = len(l.boots)
		if err := os.RemoveAll(dir); r.err == nil {
			r.err = err
		}
	}()
	begin := time.Now()
	for _, step := range chosen {
		if s.budget > 0 && time.Since(begin) > s.budget && !step.always {
			l.say("== left out, for lack of time: %s", step.name)
			r.left++
			continue
		}
		l.say("== %s", step.name)
		at := time.Now()
		if err := step.do(l); err != nil {
			if ctx.Err() == nil && !s.planted {
				l.tell()
			}
			err = fmt.Errorf("%s: %s: %w", one.name, step.name, err)
			if r.err == nil {
				r.failed, r.err = step.name, err
			}
			if !s.goOn || ctx.Err() != nil || l.running == nil {
				return r
			}
			l.say("%v", err)
			continue
		}
		l.say("   held, in %.0f s", time.Since(at).Seconds())
	}
	return r
}

// report prints what is said of a device, each line with the device's name.
func report(name, text string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintf(&b, "%-8s %s\n", name, strings.TrimSuffix(line, "\n"))
	}
	fmt.Print(b.String())
}
