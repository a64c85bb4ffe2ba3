// Command soak has the daemon run for a long time with faults on the network,
// edits of the configuration and kills, and requires that it takes no more
// memory, descriptors and goroutines at the end than at the beginning.
//
// First the agent runs in this process, and an hour of its time passes in
// milliseconds. Then the built program runs in real time and is killed now and
// then. Last it is left alone, and it is counted how often it wakes up.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cycles := flag.Int("cycles", 5000, "polls of the agent whose time passes fast")
	kills := flag.Duration("kills", 2*time.Minute, "how long the built program runs and is killed")
	rest := flag.Duration("rest", 30*time.Second, "how long the built program is left alone")
	seed := flag.Uint64("seed", 0, "what the random moments come from; 0 chooses one")
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64N(1 << 32)
	}
	if err := run(ctx, *cycles, *kills, *rest, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cycles int, kills, rest time.Duration, seed uint64) error {
	dir, err := os.MkdirTemp("", "tandem-soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Println("seed", seed)
	p, err := publish(ctx, dir)
	if err != nil {
		return err
	}
	report, err := fast(ctx, p, cycles, seed)
	fmt.Print(report)
	if err != nil {
		return err
	}
	return errors.Join(killed(ctx, p, kills, seed), atRest(ctx, p, rest))
}
