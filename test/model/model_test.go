// Package model is the lab that needs nothing but memory: the real code on a
// model of the disks, with the power cut and errors at every operation. It has
// no code of its own; make lab-model runs all of it, make test a part.
package model

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/internal/fsys/memfs/search"
)

var (
	seed   = flag.Uint64("lab.seed", 1, "seed of the random choices")
	full   = flag.Bool("lab.full", false, "search for minutes, with errors at every operation")
	states = flag.Int("lab.states", -1, "random states of two kinds after each cut, beside the seven fixed ones")
	every  = flag.Int("lab.second", -1, "cut each operation of the recovery from every `n`-th state, 1 is from all, 0 from none")
	looks  = flag.Int("lab.looks", -1, "of the looks that may fail for want of memory or descriptors, try every `n`-th; 1 is all, 0 none")
	step   = flag.Int("lab.errors", -1, "of the errors that each operation may give, and each reading of a file, try every `n`-th; 1 is all, 0 none")
	only   = flag.String("lab.run", "", "run the scenarios that match this regular expression")
	first  = flag.Bool("lab.first", false, "stop after the first scenario that fails")
	replay = flag.String("lab.replay", "", "run one case again: SCENARIO: STATE, as a failure names it")
)

// summary collects what was searched.
var summary struct {
	sync.Mutex
	reports []*search.Report
	lives   int
	start   time.Time
}

func TestMain(m *testing.M) {
	flag.Parse()
	summary.start = time.Now()
	debug.SetGCPercent(400) // memory is there, and a third of the time went into saving it
	if *full {
		debug.SetGCPercent(1200) // half a gigabyte
		fmt.Printf("%-70s %6s %7s %8s %7s %8s %7s\n", "scenario/file system", "cuts", "states", "distinct", "second", "distinct", "errors")
	}
	code := m.Run()
	if *full {
		printSummary()
	}
	os.Exit(code)
}

func printSummary() {
	var cuts, second, states, faults, failures int
	kinds := &search.Report{Cuts: map[string]int{}}
	for _, r := range summary.reports {
		cuts, second, states, faults = cuts+r.Total(), second+r.Second, states+r.Distinct+r.SecondSeen, faults+r.Faults
		for k, n := range r.Cuts {
			kinds.Cuts[k] += n
		}
		if r.Failure != nil {
			failures++
		}
	}
	fmt.Printf("\nfirst cuts at: %s\n", kinds.Kinds())
	fmt.Printf("seed %d: %d first cuts, %d second cuts, %d operations that failed, %d different states recovered from, %d device lives; %d scenarios failed; %s\n",
		*seed, cuts, second, faults, states, summary.lives, failures, time.Since(summary.start).Round(time.Second))
}

// options are how far the search goes.
func options() search.Options {
	o := search.Options{Seed: *seed, CutStep: 23, Every: 90, FaultStep: 149, LookStep: 211}
	switch {
	case *full:
		o = search.Options{Seed: *seed, States: 1, Every: 50, FaultStep: 1, LookStep: 7}
	case *only != "": // there is time for it
		o.CutStep, o.Every = 1, 30
	}
	for _, set := range []struct{ flag, to *int }{{states, &o.States}, {every, &o.Every}, {step, &o.FaultStep}, {looks, &o.LookStep}} {
		if *set.flag >= 0 {
			*set.to = *set.flag
		}
	}
	return o
}

// TestPowerCut searches all scenarios on all flavours of file system.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	match := regexp.MustCompile(*only)
	searches := map[string]func(flavour string) *search.Case{"update, with new roots": updateSearch, "an action of a server": actionSearch(true)}
	if *full || *only != "" || *replay != "" { // it takes a minute
		searches["an action that brings what does not work"] = actionSearch(false)
	}
	for _, sc := range scenarios() {
		searches[sc.name] = sc.search
	}
	for _, scenario := range slices.Sorted(maps.Keys(searches)) {
		for flavour := range flavours {
			name := scenario + "/" + flavour
			one, state, _ := strings.Cut(*replay, ": ")
			if !match.MatchString(name) || *replay != "" && one != name {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if *first && anyFailed() {
					t.Skip("another one has failed")
				}
				o := options()
				o.Only = state
				report(t, searches[scenario](flavour).Run(o))
			})
		}
	}
}

func anyFailed() bool {
	summary.Lock()
	defer summary.Unlock()
	return slices.ContainsFunc(summary.reports, func(r *search.Report) bool { return r.Failure != nil })
}

// report keeps a report for the summary and fails with what it found.
func report(t *testing.T, r *search.Report) {
	t.Helper()
	summary.Lock()
	summary.reports = append(summary.reports, r)
	if *full {
		fmt.Printf("%-70s %6d %7d %8d %7d %8d %7d\n", r.Case, r.Total(), r.States, r.Distinct, r.Second, r.SecondSeen, r.Faults)
	}
	summary.Unlock()
	if f := r.Failure; f != nil {
		t.Errorf("seed %d: %v\nagain: %s", *seed, f, again(r.Case, f.Name))
	}
}

// again is the command that runs one case again.
func again(name, state string) string {
	o := options()
	return fmt.Sprintf("go test ./test/model -run TestPowerCut -lab.seed=%d -lab.states=%d -lab.errors=1 -lab.replay='%s: %s'", o.Seed, o.States, name, state)
}
