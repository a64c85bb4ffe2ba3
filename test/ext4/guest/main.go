//go:build linux

// Command guest is the init of the machine: it sets up the disk, runs tandem
// on it, cuts the power, and checks.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"tandem/test/internal/guest"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "fail" { // as a hook
		if err := fail(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	guest.Main(run)
}

func run(o guest.Options) error {
	start := time.Now()
	if err := guest.LoadModules("brd"); err != nil {
		return err
	}
	if err := guest.LoadModule("brd", "rd_nr=2 rd_size=131072"); err != nil {
		return err
	}
	d, err := newDisk(o.Seed)
	if err != nil {
		return err
	}
	l, err := guest.NewLab(d, o, "small")
	if err != nil {
		return err
	}
	operations, err := o.Matching()
	if err != nil {
		return err
	}
	all := guest.Limit{Budget: o.Budget, Cuts: o.Cuts}
	for _, data := range []string{"data=ordered", "data=writeback"} {
		// The kernel writes back soon or late: what has no fsync reaches the disk
		// in another order. It does not make up for a missing fsync before a rename.
		for _, soon := range []bool{false, true} {
			title := "Power cuts, " + data
			if soon {
				title += ", early write-back"
			}
			if err := writeBack(soon); err != nil {
				return err
			}
			if err := d.use(data + ",noauto_da_alloc"); err != nil {
				return err
			}
			if err := l.Reset(); err != nil {
				return err
			}
			l.Rounds(title, operations, all.Part(.25), l.Reset)
		}
	}
	if o.Run == nil { // on top of all
		if err := l.Use("usual"); err != nil {
			return err
		}
		if err := l.Reset(); err != nil {
			return err
		}
		l.Rounds("Power cuts while updating by ranges and deltas", guest.Updates(), all.Part(.25), l.Reset)
		if err := errors.Join(d.stopWhole(), l.Use("small")); err != nil {
			return err
		}
		others(l)
	}
	fmt.Println("== What was cut")
	l.Report.Print(kinds)
	fmt.Printf("the records had %d writes and flushes\n", d.entries)
	l.Summary(o.Seed, time.Since(start))
	return l.Result()
}

// writeBack sets when the kernel writes what nobody has flushed.
func writeBack(soon bool) error {
	age := "3000"
	if soon {
		age = "5"
	}
	for _, name := range []string{"dirty_expire_centisecs", "dirty_writeback_centisecs"} {
		if err := os.WriteFile("/proc/sys/vm/"+name, []byte(age), 0); err != nil {
			return err
		}
	}
	return nil
}
