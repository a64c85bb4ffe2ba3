//go:build linux

package main

import (
	_ "embed"
	"fmt"
	"maps"
	"os"
	"strconv"
	"time"
)

//go:embed vendor.sh
var vendorScript string

// vendor puts the vendor's logic through the same cuts, for comparison: once
// with its nested copy as printed, once with that mended. What it gets wrong is
// no failure of the lab.
func (l *lab) vendor(budget time.Duration) {
	for _, how := range []string{"printed", "mended"} {
		cuts, wrong, first, fresh := 0, 0, "", true
		for end := time.Now().Add(budget / 2); time.Now().Before(end); cuts++ {
			why, err := l.vendorRound(how, cuts, fresh)
			if err != nil {
				l.fail("the vendor's logic, %s: %v", how, err)
				return
			}
			fresh = why != ""
			if fresh {
				wrong++
			}
			if first == "" {
				first = why
			}
		}
		fmt.Printf("the vendor's logic, %s: %d cuts, %d times wrong after the boot", how, cuts, wrong)
		if first != "" {
			fmt.Printf(", such as: %s", first)
		}
		fmt.Println()
	}
}

// vendorRound upgrades live by hand or takes one side away, cuts the power
// while the script copies, runs it again to its end, and says what is wrong.
// fresh starts over first.
func (l *lab) vendorRound(how string, n int, fresh bool) (string, error) {
	const live, backup = "/usrapp/vendor", "/usrdata/vendor"
	run := []string{"busybox", "sh", "-c", vendorScript, "vendor.sh", live, backup, how}
	if fresh {
		finish(command("busybox", "rm", "-rf", live, backup))
		if err := os.MkdirAll(live, 0o755); err != nil {
			return "", err
		}
		finish(command("busybox", "cp", "-a", "/releases/1.0.0", live+"/apps"))
		if err := replace(live+"/app_ver.txt", []byte("1\n")); err != nil {
			return "", err
		}
		finish(command(run...))
	}
	want, err := side(live)
	if err != nil {
		return "", err
	}
	switch n % 3 {
	case 0:
		tag, _ := strconv.Atoi(want["tag"])
		if err := replace(live+"/apps/share/text", []byte(fmt.Sprint("upgrade ", n))); err != nil {
			return "", err
		}
		if err := replace(live+"/app_ver.txt", []byte(fmt.Sprintln(tag+1))); err != nil {
			return "", err
		}
		if want, err = side(live); err != nil {
			return "", err
		}
	case 1:
		finish(command("busybox", "rm", "-rf", live))
	case 2:
		finish(command("busybox", "rm", "-rf", backup))
	}
	finish(command("busybox", "sync"))
	op := &operation{lasts: 300 * time.Millisecond, next: l.rand.IntN(12)}
	c := l.choose(op, 0)
	if _, _, _, err := l.cutDuring(op, c, run); err != nil {
		return "", err
	}
	if err := remount(); err != nil {
		return "", err
	}
	finish(command(run...))
	a, errA := side(live)
	b, errB := side(backup)
	switch {
	case errA != nil || errB != nil:
		return fmt.Sprint(errA, errB), nil
	case !maps.Equal(a, want):
		return fmt.Sprintf("after a cut (%v) the live side has lost its version", c), nil
	case !maps.Equal(a, b):
		return fmt.Sprintf("after a cut (%v) the sides differ", c), nil
	}
	return "", nil
}
