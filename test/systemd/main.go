// Command systemd runs a whole Debian under QEMU, with systemd, two partitions and
// the package of Tandem as it is shipped, an application that is a unit, and what
// happens to such a device: lost partitions, hard resets, a daemon that is stopped
// or crashes in the midst of an installation, packages that are upgraded, removed
// and installed again.
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
}

func main() {
	var o options
	flag.StringVar(&o.pkg, "package", "", "the `file` of the package: a .deb for amd64, as made by make packages")
	flag.StringVar(&o.cache, "cache", ".cache/machine", "`folder` for Debian and its kernel")
	flag.BoolVar(&o.short, "short", false, "leave out what takes long")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()%1e9), "seed of the random choices")
	flag.StringVar(&o.match, "run", "", "carry out only the steps that match this `regular expression`")
	flag.DurationVar(&o.budget, "budget", 0, "begin no further step after this `time`, and tell which were left out; 0: carry out all")
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

// lab is one run.
type lab struct {
	*device
	ctx    context.Context
	random *rand.Rand
	short  bool
}

func run(ctx context.Context, o options) (err error) {
	if o.pkg == "" {
		return fmt.Errorf("-package says which package to install")
	}
	match, err := regexp.Compile(o.match)
	if err != nil {
		return err
	}
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return err
	}
	kernel, err := machine.Fetch(ctx, o.cache, machine.AMD64, programs)
	if err != nil {
		return err
	}
	modules, err := kernel.Modules([]string{"virtio_pci", "virtio_blk", "crc32c_generic", "libcrc32c"}, []string{"ext4"})
	if err != nil {
		return err
	}
	base, err := baseImage(ctx, o.cache)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tandem-systemd-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := builder{ctx: ctx, dir: dir, pkg: o.pkg, disks: map[string]string{}}
	b.build(base)
	if b.err != nil {
		return b.err
	}
	l := &lab{ctx: ctx, short: o.short, random: rand.New(rand.NewPCG(o.seed, 0)), device: &device{
		disks: b.disks, console: filepath.Join(dir, "console"),
		machine: machine.Machine{Kernel: kernel, Modules: modules, Files: filepath.Join(dir, "initrd"), Timeout: patience},
	}}
	defer func() { err = firstError(err, l.off()) }()
	fmt.Printf("seed %d\n", o.seed)
	begin, left := time.Now(), 0
	for _, s := range steps {
		if l.short && s.long || !match.MatchString(s.name) && !s.always {
			continue
		}
		if o.budget > 0 && time.Since(begin) > o.budget && !s.always {
			fmt.Printf("== left out, for lack of time: %s\n", s.name)
			left++
			continue
		}
		fmt.Printf("== %s\n", s.name)
		at := time.Now()
		if err := s.do(l); err != nil {
			l.tell()
			return fmt.Errorf("seed %d: %s: %w", o.seed, s.name, err)
		}
		fmt.Printf("   held, in %.0f s\n", time.Since(at).Seconds())
	}
	what := "all of it held"
	if left > 0 {
		what = fmt.Sprintf("all of it held, but for %d steps that were left out", left)
	}
	fmt.Printf("%d starts, %.0f s in all: %s\n", len(l.boots), time.Since(begin).Seconds(), what)
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
