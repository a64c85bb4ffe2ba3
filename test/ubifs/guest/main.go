//go:build linux

// Command guest is the init of the machine: it sets up the flash, runs tandem
// on it, cuts the power, and checks.
package main

import (
	"fmt"
	"time"

	"tandem/test/internal/guest"
)

func main() { guest.Main(run) }

type lab struct {
	*guest.Lab
	flash *flash
}

func run(o guest.Options) error {
	start := time.Now()
	if err := guest.LoadModules("nandsim"); err != nil {
		return err
	}
	f := newFlash(o.Seed)
	if err := f.set(usual); err != nil {
		return err
	}
	shared, err := guest.NewLab(f, o, "usual")
	if err != nil {
		return err
	}
	l := &lab{shared, f}
	operations, err := o.Matching()
	if err != nil {
		return err
	}
	if o.Run == nil {
		l.facts()
		l.functions()
	}
	f.measure()

	all := guest.Limit{Budget: o.Budget, Cuts: o.Cuts}
	if o.Run != nil {
		l.part("Power cuts", "small", small, operations, all)
	} else {
		l.part("Power cuts, a larger application", "usual", usual, operations, all.Part(.12))
		l.part("Power cuts while updating by ranges and deltas", "usual", usual, guest.Updates(), all.Part(.15))
		l.part("Power cuts", "small", small, operations, all.Part(.45))
		// The more is written, the more fails.
		l.part("Power cuts while bits flip and writes fail", "usual", faulty, operations, all.Part(.14))
		// A rollback has nothing to return to, and nothing that was lost can be
		// put beside what is there.
		l.InPlace = true
		l.part("Power cuts, room for one version only", "tight", tight, guest.Named("back up", "restore", "back up again", "install", "capture", "repair"), all.Part(.14))
		l.vendor(all.Part(.14)) // on top of all
	}
	fmt.Println("== What was cut")
	l.Report.Print(kinds)
	f.print()
	l.Summary(o.Seed, time.Since(start))
	return l.Result()
}

// part does a share of the cuts on a flash of its own.
func (l *lab) part(title, application string, g geometry, operations []*guest.Operation, n guest.Limit) {
	reset := func() error {
		if err := l.flash.set(g); err != nil {
			return err
		}
		return l.Reset()
	}
	err := l.Use(application)
	if err == nil {
		err = reset()
	}
	if err != nil {
		l.Fail("%s: %v", title, err)
		return
	}
	l.Rounds(title, operations, n, reset)
}
