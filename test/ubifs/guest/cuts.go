//go:build linux

package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tandem/test/internal/guest"
	"tandem/test/internal/guest/nand"
)

// flash is a device whose power fails.
type flash struct {
	*nand.Flash
	faults   bool // bits flip, and writes and erasures fail
	rand     *rand.Rand
	swept    map[string]*sweep // by operation
	starts   time.Duration     // what a program takes before it does anything
	emulated int               // writes and erasures that failed on request
	faulted  int               // cuts with faults besides
}

// geometry is what a part of the lab runs on.
type geometry struct {
	nand.Geometry
	faults bool
}

var (
	usual  = geometry{nand.Geometry{Blocks: 2048, Volume: 900, Spare: 1}, false}
	small  = geometry{nand.Geometry{Blocks: 512, Volume: 230, Spare: 1}, false}
	faulty = geometry{nand.Geometry{Blocks: 1024, Volume: 230, Spare: 20}, true}
	tight  = geometry{nand.Geometry{Blocks: 256, Volume: 90, Spare: 1}, false}
)

// set makes a new flash, with two empty partitions.
func (f *flash) set(g geometry) error {
	f.faults = g.faults
	return f.Set(g.Geometry)
}

// sweep goes through the erase blocks of an operation one by one.
type sweep struct {
	next  int           // the erase block at which to cut next
	most  int           // the furthest that was struck
	whole int           // how often it went through all of them
	step  int           // the step at which to cut next
	steps int           // the furthest that was struck
	walks int           // how often it went through all of them
	lasts time.Duration // what the operation takes, as seen so far
}

func newFlash(seed uint64) *flash {
	return &flash{Flash: nand.New(""), rand: rand.New(rand.NewPCG(seed, 1)), swept: map[string]*sweep{}}
}

// measure sees how long a program takes before it does anything: a cut then
// would tell nothing.
func (f *flash) measure() {
	for range 3 {
		start := time.Now()
		guest.Tandem("--version")
		if took := time.Since(start); f.starts == 0 || took < f.starts {
			f.starts = took
		}
	}
}

// How the power fails.
const (
	mapping = "block mapped" // UBI stops when it writes the header of an erase block that gets data
	erasure = "block erased" // UBI stops when it writes the header of an erase block that was erased
	torn    = "torn write"   // UBIFS stops in the middle of a write and leaves garbage; when it does is left to UBIFS
	step    = "step"         // UBIFS stops just after tandem has changed a directory of its own
	moment  = "any moment"   // UBIFS stops between any two of its writes
)

var kinds = []string{mapping, erasure, torn, step, moment}

// What the kernel's tst_emulate_power_cut counts.
const (
	atErasure = 1
	atMapping = 2
)

// choose takes every erase block and every step in turn, and moments at random
// in between.
func (f *flash) choose(s *sweep) (kind string, n int, after time.Duration) {
	from := f.starts * 3 / 4
	after = from + time.Duration(f.rand.Int64N(int64(max(s.lasts*21/20-from, time.Millisecond))))
	switch f.rand.IntN(12) {
	case 0, 1, 2:
		s.next++
		return mapping, s.next, 0
	case 3:
		return erasure, 1 + f.rand.IntN(4), 0
	case 4, 5:
		return torn, 0, after
	case 6, 7, 8, 9:
		s.step++
		return step, s.step, time.Duration(f.rand.IntN(8)) * time.Millisecond
	}
	return moment, 0, after
}

// arm gets the cut ready.
func (f *flash) arm(kind string, n int) error {
	if f.faults {
		for _, k := range []string{"tst_emulate_bitflips", "tst_emulate_io_failures"} {
			if err := nand.Knob(1, "ubi/ubi0", k); err != nil {
				return err
			}
		}
	}
	at := atMapping
	switch kind {
	case erasure:
		at = atErasure
		fallthrough
	case mapping:
		for _, k := range []string{"tst_emulate_power_cut_min", "tst_emulate_power_cut_max"} {
			if err := nand.Knob(n, "ubi/ubi0", k); err != nil {
				return err
			}
		}
		return nand.Knob(at, "ubi/ubi0/tst_emulate_power_cut")
	case torn:
		for _, v := range f.Volumes {
			if err := nand.Knob(1, "ubifs", v.Dev, "tst_recovery"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *flash) Cut(operation string, args []string) (guest.Cut, error) {
	s := f.swept[operation]
	if s == nil {
		s = &sweep{lasts: time.Second}
		f.swept[operation] = s
	}
	kind, n, after := f.choose(s)
	c := guest.Cut{Kind: kind, At: kind}
	switch {
	case kind == step:
		c.At = fmt.Sprintf("%v after step %d", after, n)
	case n > 0:
		c.At = fmt.Sprintf("%s, number %d", kind, n)
	case kind == moment:
		c.At = fmt.Sprintf("after %v", after)
	}
	if err := f.arm(kind, n); err != nil {
		return c, err
	}
	start := time.Now()
	hit, err := f.run(&c, kind, n, after, args)
	if err != nil {
		return c, err
	}
	if !hit {
		c.Kind = guest.Outlasted
		if took := time.Since(start); kind != torn { // those are slowed down
			s.lasts = (3*s.lasts + took) / 4
		}
	}
	switch {
	case kind == mapping && hit:
		s.most = max(s.most, n)
	case kind == mapping: // it has no more erase blocks than this
		s.next = 0
		s.whole++
	case kind == step && hit:
		s.steps = max(s.steps, n)
	case kind == step:
		s.step = 0
		s.walks++
	}
	if err = guest.NewRun(); err == nil {
		err = f.Remount()
	}
	c.Log = guest.KernelLog()
	if f.faults {
		f.faulted++
		f.emulated += strings.Count(c.Log, "(emulated)")
	}
	return c, err
}

// run runs the program until its end or until the power fails; afterwards it has
// failed in any case. hit says that it failed before the end.
func (f *flash) run(c *guest.Cut, kind string, n int, after time.Duration, args []string) (hit bool, err error) {
	var said bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	pulled := make(chan struct{})
	if kind == step {
		s, err := watchSteps(f)
		if err != nil {
			return false, err
		}
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			s.pullAt(n, after, pulled)
		}()
		defer func() { // not that it strikes what is mounted next
			s.file.Close()
			<-gone
		}()
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	var timer <-chan time.Time
	if after > 0 && kind != step {
		timer = time.After(after)
	}
	if kind == torn {
		hit = f.watch(ended, timer)
		if !hit {
			select {
			case <-ended:
			default:
				hit, c.Kind = true, moment // UBIFS let it pass
			}
		}
		f.Pull() // the other volume as well
	} else {
		select {
		case <-ended:
			hit = f.Struck()
			f.Pull()
		case <-timer:
			f.Pull()
			hit = true
		case <-pulled:
			hit = true
		}
	}
	<-ended // it fails, now that it can write no more
	c.Code, c.Out = cmd.ProcessState.ExitCode(), said.String()
	c.Done = c.Code == 0
	return hit, nil
}

// watch makes UBIFS commit again and again, because that is when it tears most,
// until it has, or the time is over, or the program has ended.
func (f *flash) watch(ended <-chan struct{}, timer <-chan time.Time) (hit bool) {
	var dirs []int
	for _, v := range f.Volumes {
		if fd, err := unix.Open(v.Dir, unix.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
			dirs = append(dirs, fd)
			defer unix.Close(fd)
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, fd := range dirs {
			_ = unix.Syncfs(fd)
			if f.Struck() {
				return true
			}
		}
		select {
		case <-ended:
			return f.Struck()
		case <-timer:
			return f.Struck()
		case <-tick.C:
		}
	}
}

func (f *flash) print() {
	fmt.Println("erase blocks and steps at which an operation was cut in turn:")
	for _, op := range slices.Sorted(maps.Keys(f.swept)) {
		if s := f.swept[op]; s.most+s.steps > 0 {
			fmt.Printf("  %s: blocks 1 to %d, %d times through; steps 1 to %d, %d times through\n", op, s.most, s.whole, s.steps, s.walks)
		}
	}
	fmt.Printf("%d commands ran while bits flipped and writes failed: %d failures were emulated\n", f.faulted, f.emulated)
}
