//go:build linux

package guest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report counts what was done.
type Report struct {
	cuts   map[string]map[string]int // by operation and kind
	rounds map[string]int
	wrong  map[string]int // rounds after which something was wrong
	Took   map[string]time.Duration
}

// NewReport has counted nothing yet.
func NewReport() *Report {
	return &Report{cuts: map[string]map[string]int{}, rounds: map[string]int{}, wrong: map[string]int{}, Took: map[string]time.Duration{}}
}

// Cut counts one.
func (r *Report) Cut(operation, kind string) {
	if r.cuts[operation] == nil {
		r.cuts[operation] = map[string]int{}
	}
	r.cuts[operation][kind]++
}

// Round counts an operation with all the cuts that belong to it.
func (r *Report) Round(operation string, took time.Duration, ok bool) {
	r.rounds[operation]++
	if !ok {
		r.wrong[operation]++
	}
	r.Took[operation] += took
}

// Cuts is how many cuts struck, not counting those that came after the end.
func (r *Report) Cuts() (n int) {
	for _, kinds := range r.cuts {
		for kind, k := range kinds {
			if kind != Outlasted {
				n += k
			}
		}
	}
	return n
}

// Of is how many rounds of an operation there were, and after how many
// something was wrong.
func (r *Report) Of(operation string) (rounds, wrong int) {
	return r.rounds[operation], r.wrong[operation]
}

// Wrong is after how many rounds something was wrong.
func (r *Report) Wrong() (n int) {
	for _, k := range r.wrong {
		n += k
	}
	return n
}

// Print prints a table: operations down, kinds of cuts across.
func (r *Report) Print(kinds []string) {
	kinds = append(slices.Clone(kinds), Outlasted)
	width := 0
	for op := range r.cuts {
		width = max(width, len(op))
	}
	row := func(name string, cells []string) {
		line := fmt.Sprintf("  %-*s", width, name)
		for i, c := range cells {
			line += fmt.Sprintf("  %*s", len(kinds[i]), c)
		}
		fmt.Println(strings.TrimRight(line, " "))
	}
	row("", kinds)
	sum := map[string]int{}
	for _, op := range slices.Sorted(maps.Keys(r.cuts)) {
		var cells []string
		for _, k := range kinds {
			cells = append(cells, fmt.Sprint(r.cuts[op][k]))
			sum[k] += r.cuts[op][k]
		}
		row(op, cells)
	}
	var cells []string
	for _, k := range kinds {
		cells = append(cells, fmt.Sprint(sum[k]))
	}
	row("all", cells)
}

// Outlasted is how many cuts came after the end of what they were to cut.
func (r *Report) Outlasted() (n int) {
	for _, kinds := range r.cuts {
		n += kinds[Outlasted]
	}
	return n
}
