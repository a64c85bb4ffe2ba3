package machine

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// Options are a lab's flags.
type Options struct {
	Budget time.Duration
	Cuts   int
	Seed   int64
	Match  string // a regular expression; only the operations that it matches are cut
	First  bool   // stop after the first failure
	Cache  string
	Tandem string // a program to test, or "" for the one built from here
	Dir    string // for scratch files; removed at the end
}

// Main runs a lab: flags, signals, scratch folder, exit code.
func Main(name string, lab func(context.Context, Options) error) {
	var o Options
	flag.DurationVar(&o.Budget, "budget", 3*time.Minute, "time for power cuts")
	flag.IntVar(&o.Cuts, "cuts", 0, "make so many power cuts, whatever time it takes, instead of -budget")
	flag.Int64Var(&o.Seed, "seed", time.Now().UnixNano()%1e9, "seed of the random choices")
	flag.StringVar(&o.Match, "run", "", "cut only the operations that match this `regular expression`, and leave out what is no cut")
	flag.BoolVar(&o.First, "first", false, "stop after the first failure")
	flag.StringVar(&o.Cache, "cache", ".cache/machine", "`folder` for kernel and packages")
	flag.StringVar(&o.Tandem, "tandem", "", "a static tandem to test (default: built from here)")
	flag.Parse()
	// Where mke2fs lies is not on every user's path.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := withFolder(ctx, o, lab)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

func withFolder(ctx context.Context, o Options, lab func(context.Context, Options) error) (err error) {
	if o.Dir, err = os.MkdirTemp("", "tandem-lab-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.Dir)
	return lab(ctx, o)
}

// Run starts the machine with what the flags say.
func (o Options) Run(ctx context.Context, m Machine) error {
	env := map[string]string{
		"LAB_BUDGET": o.Budget.String(),
		"LAB_CUTS":   strconv.Itoa(o.Cuts),
		"LAB_SEED":   strconv.FormatInt(o.Seed, 10),
		"LAB_RUN":    o.Match,
		"LAB_FIRST":  strconv.FormatBool(o.First),
	}
	maps.Copy(env, m.Env)
	m.Env = env
	// An emulated processor is slow, and slower still beside other work.
	m.Timeout = 2*o.Budget + time.Duration(o.Cuts)*5*time.Second + 10*time.Minute
	return m.Run(ctx)
}
