//go:build linux

package main

import (
	_ "embed"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tandem/test/internal/guest"
)

//go:embed vendor.sh
var vendorScript string

const (
	vendorLive   = guest.SystemDir + "/vendor"
	vendorBackup = guest.UsrDataDir + "/vendor"
)

// vendorOperations are those of tandem's that the vendor's logic has as well.
var vendorOperations = []string{"back up", "restore", "back up again"}

// vendor puts the vendor's logic through the same cuts, for comparison: once
// with its nested copy as printed, once with that mended. What it gets wrong is
// no failure of the lab.
func (l *lab) vendor(n guest.Limit) {
	fmt.Println("== The vendor's logic, the same cuts")
	err := l.Use("small")
	if err == nil {
		err = l.flash.set(small)
	}
	reports := map[string]*guest.Report{}
	for _, how := range []string{"printed", "mended"} {
		first, fresh, start := "", true, time.Now()
		r := guest.NewReport()
		reports[how] = r
		for i := 0; err == nil && n.Part(.5).Left(start, r.Cuts()); i++ {
			op, began, why := vendorOperations[i%len(vendorOperations)], time.Now(), ""
			if why, err = l.vendorRound(how, op, fresh, r); err != nil {
				break
			}
			r.Round(op, time.Since(began), why == "")
			if fresh = why != ""; first == "" {
				first = why
			}
		}
		if first != "" {
			fmt.Printf("as %s, the first wrong: %s\n", how, first)
		}
	}
	if err != nil {
		l.Fail("the vendor's logic: %v", err)
		return
	}
	cell := func(r *guest.Report, op string) string {
		rounds, wrong := r.Of(op)
		return fmt.Sprintf("%d of %d", wrong, rounds)
	}
	fmt.Printf("wrong after the boot that follows a cut:\n  %-14s  %14s  %14s  %14s\n", "", "tandem", "vendor", "vendor, mended")
	for _, op := range vendorOperations {
		fmt.Printf("  %-14s  %14s  %14s  %14s\n", op, cell(l.Report, op), cell(reports["printed"], op), cell(reports["mended"], op))
	}
}

// vendorRound upgrades live by hand or takes one side away, cuts the power
// while the script copies, runs it again to its end, and says what is wrong.
// fresh starts over first.
func (l *lab) vendorRound(how, op string, fresh bool, r *guest.Report) (string, error) {
	run := []string{"busybox", "sh", "-c", vendorScript, "vendor.sh", vendorLive, vendorBackup, how}
	if fresh {
		guest.Run("busybox", "rm", "-rf", vendorLive, vendorBackup)
		if err := os.MkdirAll(vendorLive, 0o755); err != nil {
			return "", err
		}
		guest.Run("busybox", "cp", "-a", "/releases/small/1.0.0", vendorLive+"/apps")
		unix.Sync()
		if err := guest.Replace(vendorLive+"/app_ver.txt", []byte("1\n")); err != nil {
			return "", err
		}
		guest.Run(run...)
	}
	want, err := guest.ReadSide(vendorLive)
	if err != nil {
		return "", err
	}
	switch op {
	case "back up":
		tag, _ := strconv.Atoi(want["tag"])
		if err := guest.Replace(vendorLive+"/apps/share/text", []byte(fmt.Sprint("upgrade ", tag+1))); err != nil {
			return "", err
		}
		if err := guest.Replace(vendorLive+"/app_ver.txt", []byte(fmt.Sprintln(tag+1))); err != nil {
			return "", err
		}
		if want, err = guest.ReadSide(vendorLive); err != nil {
			return "", err
		}
	case "restore":
		guest.Run("busybox", "rm", "-rf", vendorLive)
	case "back up again":
		guest.Run("busybox", "rm", "-rf", vendorBackup)
	}
	unix.Sync()
	c, err := l.flash.Cut("the vendor's "+op, run)
	if err != nil {
		return "", err
	}
	r.Cut(op, c.Kind)
	guest.Run(run...)
	a, errA := guest.ReadSide(vendorLive)
	b, errB := guest.ReadSide(vendorBackup)
	wrong := func(what string) (string, error) {
		return strings.ReplaceAll(fmt.Sprintf("%s, cut %s: %s", op, c.At, what), "\n", " "), nil
	}
	switch {
	case errA != nil || errB != nil:
		return wrong(fmt.Sprint(errA, errB))
	case !maps.Equal(a, want):
		return wrong("the live side has lost its version")
	case !maps.Equal(a, b):
		return wrong("the sides differ")
	}
	return "", nil
}
