// Package search looks for the power cut or the disk error that an operation
// does not survive. It runs the operation on a memfs.Machine again and again:
// with the power cut at each of its changing operations in turn, with each state
// that the disks may fall into then, and with the power cut once more at each
// operation of the recovery from that; and with each operation failing instead.
//
// States that hold the same are looked at once. The same seed finds the same,
// and what goes wrong has a name by which it alone is run again.
package search

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"tandem/internal/fsys/memfs"
)

// Case is one operation on one device, and what must hold whatever becomes of it.
type Case struct {
	Name string
	// Start is the device before the operation, everything on it durable. It is
	// only ever cloned.
	Start *memfs.Machine
	// Work is the operation, Recover what the device does when it starts. They
	// must do the same each time.
	Work, Recover func(*memfs.Machine) error
	// Expect says what a device in this state must come to: what is promised may
	// depend on how far the operation came. It is handed to the checks of all
	// states that recovery goes through from there. nil expects "".
	Expect func(*memfs.Machine) string
	// During checks a state before recovery. first is "" at the first cut, after
	// that it is what was expected then.
	During func(m *memfs.Machine, first string) error
	// After checks a device that has recovered with err.
	After func(m *memfs.Machine, expect string, err error) error
	// Done checks each state that a cut right after Work's success may leave.
	Done func(m *memfs.Machine) error
	// Failed checks what Work returned when one of its operations failed with
	// fault. nil lets anything pass.
	Failed func(fault, err error) error
}

// Options say how far to look.
type Options struct {
	Seed uint64
	// States is how many random states of two kinds each cut is followed by,
	// beside the fixed ones; Second is that for cuts of the recovery.
	States, Second int
	// CutStep cuts the work at every CutStep-th operation only, if above 1.
	CutStep int
	// Every lets each Every-th state only be recovered from with a second cut at
	// each operation. 0 lets none.
	Every int
	// FaultStep lets operations fail, too. There are four kinds of error for each
	// changing operation, and one for each reading of a file; of all these every
	// FaultStep-th is tried. 0 tries none.
	FaultStep int
	// LookStep lets looks fail, too, as they do when the kernel or the process is
	// short of something: each operation that changes nothing, with three kinds of
	// error; of all these every LookStep-th is tried. 0 tries none.
	LookStep int
	// Only runs nothing but the state of that name.
	Only string
}

// Report says what was looked at.
type Report struct {
	Case       string
	Cuts       map[string]int // first cuts, by kind of operation
	States     int            // that those cuts were followed by
	Distinct   int            // of those, which hold different things
	Second     int            // cuts of the recovery
	SecondSeen int            // different states that those were followed by
	Faults     int            // operations that failed
	Failure    *Failure       // the first one; nil if all held
}

// Failure is what did not hold.
type Failure struct {
	Name  string // what Options.Only is for
	Err   error
	Trace []string // the last operations
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s: %v\nlast operations:\n  %s", f.Name, f.Err, strings.Join(f.Trace, "\n  "))
}

// Total sums the first cuts.
func (r *Report) Total() int {
	n := 0
	for _, k := range r.Cuts {
		n += k
	}
	return n
}

// Run searches until something does not hold.
func (c *Case) Run(o Options) *Report {
	s := &searcher{Case: c, o: o, seen: map[key]bool{}, checked: map[key]bool{}, report: &Report{Case: c.Name, Cuts: map[string]int{}}}
	if err := s.run(); err != nil {
		if !errors.As(err, &s.report.Failure) {
			s.report.Failure = &Failure{Name: c.Name, Err: err}
		}
	}
	return s.report
}

// key tells states apart: two that hold the same, but must come to something
// else, are two.
type key struct {
	disks  [32]byte
	expect string
}

type searcher struct {
	*Case
	o       Options
	seen    map[key]bool
	checked map[key]bool // by During
	report  *Report
	count   int // of distinct states
}

// state is a device before recovery.
type state struct {
	name   string
	m      *memfs.Machine
	expect string
}

func (s *searcher) run() error {
	whole := s.Start.Clone()
	if err := s.Work(whole); err != nil {
		return fail("no cut", whole, fmt.Errorf("without a cut: %w", err))
	}
	ops := whole.Ops() - s.Start.Ops()
	var left []state
	for n := 1; n <= ops; n++ {
		if s.o.Only == "" && s.o.CutStep > 1 && (n+len(s.Name)+int(s.o.Seed))%s.o.CutStep != 0 {
			continue
		}
		m := s.Start.Clone()
		m.CutAt(n)
		_ = s.Work(m) // what it says of the cut is of no matter
		_, what := m.LastOp()
		s.report.Cuts[what]++
		for i, choices := range s.choices(n, s.o.States) {
			st := state{name: fmt.Sprintf("cut %d.%d", n, i), m: restarted(m, choices)}
			s.report.States++
			if err := s.admit(&st, "", &left); err != nil {
				return err
			}
		}
	}
	if err := s.succeeded("done", ops+1, whole, &left); err != nil {
		return err
	}
	if s.o.FaultStep > 0 {
		if err := s.faults(ops, &left); err != nil {
			return err
		}
		if err := s.lookFaults(unreadable, s.o.FaultStep, &left); err != nil {
			return err
		}
	}
	if s.o.LookStep > 0 {
		for _, fault := range short {
			if err := s.lookFaults(fault, s.o.LookStep, &left); err != nil {
				return err
			}
		}
	}
	s.report.Distinct = len(left)
	for _, st := range left {
		if err := s.recover(st); err != nil {
			return err
		}
	}
	return nil
}

func restarted(m *memfs.Machine, choices []memfs.Choice) *memfs.Machine {
	c := m.Clone()
	c.Restart(choices[0], choices[1:]...)
	return c
}

// choices returns the states that a cut may leave: those that are the same for
// all disks, those in which one keeps what another loses, and random ones.
func (s *searcher) choices(cut, random int) [][]memfs.Choice {
	all := [][]memfs.Choice{
		{memfs.Nothing()}, {memfs.Everything()}, {memfs.EntriesOnly()}, {memfs.Zeros()}, {memfs.DataOnly()},
		{memfs.Nothing(), memfs.Everything()}, {memfs.Everything(), memfs.Nothing()},
	}
	return append(all, s.random(cut, random)...)
}

func (s *searcher) random(cut, n int) [][]memfs.Choice {
	h := fnv.New64a()
	fmt.Fprint(h, s.Name, cut) // a hash.Hash gives no error
	var all [][]memfs.Choice
	for i := range uint64(n) {
		rng := rand.New(rand.NewPCG(s.o.Seed+i, h.Sum64()))
		all = append(all, []memfs.Choice{memfs.Prefix(rng)}, []memfs.Choice{memfs.Random(rng)})
	}
	return all
}

// wanted reports whether a state is to be looked at when only one of that name
// is, or what comes of it.
func (s *searcher) wanted(name string) bool {
	return s.o.Only == "" || s.o.Only == name || strings.HasPrefix(s.o.Only, name+", ")
}

// admit checks a state, and adds it to those that are left to recover from
// unless one that holds the same was seen.
func (s *searcher) admit(st *state, first string, left *[]state) error {
	if !s.wanted(st.name) {
		return nil
	}
	k := key{st.m.Fingerprint(), first}
	if s.o.Only == "" && s.seen[k] {
		return nil
	}
	s.seen[k] = true
	if err := s.during(st, k); err != nil {
		return err
	}
	st.expect = first
	if first == "" && s.Expect != nil {
		st.expect = s.Expect(st.m)
		s.seen[key{k.disks, st.expect}] = true
	}
	*left = append(*left, *st)
	return nil
}

// during checks a state, once for all that hold the same: it is of no matter here what is
// durable.
func (s *searcher) during(st *state, k key) error {
	if s.During == nil || s.checked[k] {
		return nil
	}
	s.checked[k] = true
	if err := s.During(st.m, k.expect); err != nil {
		return fail(st.name, st.m, err)
	}
	return nil
}

func fail(name string, m *memfs.Machine, err error) error {
	trace := m.Trace()
	return &Failure{Name: name, Err: err, Trace: trace[max(0, len(trace)-16):]}
}

// succeeded cuts the power right after the work's success: what it promised is
// durable.
func (s *searcher) succeeded(name string, n int, m *memfs.Machine, left *[]state) error {
	for i, choices := range s.choices(n, s.o.States) {
		st := state{name: fmt.Sprintf("%s.%d", name, i), m: restarted(m, choices)}
		if !s.wanted(st.name) {
			continue
		}
		s.report.States++
		if s.Done != nil {
			if err := s.Done(st.m); err != nil {
				return fail(st.name, st.m, fmt.Errorf("after success: %w", err))
			}
		}
		if err := s.admit(&st, "", left); err != nil {
			return err
		}
	}
	return nil
}

// faults are the errors that an operation may give, and how many bytes a write
// takes before it does.
var faults = []struct {
	name    string
	err     error
	written int
}{
	{"EIO", syscall.EIO, 0},
	{"ENOSPC", syscall.ENOSPC, 3},
	{"EROFS", syscall.EROFS, 0},
	{"short write", syscall.EIO, 7},
}

// faults lets each operation of the work fail. A device that goes on running
// recovers at once, from what it has in its cache or what is left when that is
// dropped; or its power is cut then.
func (s *searcher) faults(ops int, left *[]state) error {
	for n := 1; n <= ops; n++ {
		for i, fault := range faults {
			if (n*len(faults)+i+int(s.o.Seed))%s.o.FaultStep != 0 {
				continue
			}
			name := fmt.Sprintf("%s %d", fault.name, n)
			if s.o.Only != "" && !strings.HasPrefix(s.o.Only, name) {
				continue
			}
			m := s.Start.Clone()
			m.FailWriteAt(n, fault.written, fault.err)
			err := s.Work(m)
			s.report.Faults++
			if s.Failed != nil && err != nil {
				if err := s.Failed(fault.err, err); err != nil {
					return fail(name, m, err)
				}
			}
			if err == nil {
				if err := s.succeeded(name, n, m.Clone(), left); err != nil {
					return err
				}
			}
			if err := s.afterFault(name, n, m, left); err != nil {
				return err
			}
		}
	}
	return nil
}

// afterFault goes on from a device on which an operation has failed.
func (s *searcher) afterFault(name string, n int, m *memfs.Machine, left *[]state) error {
	for i, live := range []func(*memfs.Machine){func(*memfs.Machine) {}, (*memfs.Machine).Evict} {
		st := state{name: fmt.Sprintf("%s running.%d", name, i), m: m.Clone()}
		if !s.wanted(st.name) {
			continue
		}
		live(st.m)
		if err := s.goOn(st); err != nil {
			return err
		}
	}
	for i, choices := range append(s.random(n, 1), []memfs.Choice{memfs.Nothing()}, []memfs.Choice{memfs.Everything()}) {
		st := state{name: fmt.Sprintf("%s cut.%d", name, i), m: restarted(m, choices)}
		s.report.States++
		if err := s.admit(&st, "", left); err != nil {
			return err
		}
	}
	return nil
}

// lookFault is an error that some of the operations may give that change nothing.
type lookFault struct {
	name string
	err  error
	ops  []string // as memfs.Machine.FailLooks knows them; nil are all
}

// unreadable is flash whose bits can be read at the next try.
var unreadable = lookFault{"unreadable", syscall.EIO, []string{"open", "read"}}

// short is what ends by itself and says nothing about what is on the disk.
var short = []lookFault{
	{"no memory", syscall.ENOMEM, nil},
	{"no descriptors", syscall.EMFILE, []string{"open", "readdir", "xattrs"}},
	{"interrupted", syscall.EINTR, nil},
}

// lookFaults lets each of those operations of the work fail once.
func (s *searcher) lookFaults(fault lookFault, step int, left *[]state) error {
	// strike lets the at-th fail, none for 0, and counts them.
	strike := func(m *memfs.Machine, at int, n *int) {
		m.FailLooks(func(op, _ string) error {
			if fault.ops != nil && !slices.Contains(fault.ops, op) {
				return nil
			}
			if *n++; *n == at {
				return fault.err
			}
			return nil
		})
	}
	looks := 0
	m := s.Start.Clone()
	strike(m, 0, &looks)
	_ = s.Work(m)
	for n := 1; n <= looks; n++ {
		name := fmt.Sprintf("%s %d", fault.name, n)
		if s.o.Only != "" && !strings.HasPrefix(s.o.Only, name) || s.o.Only == "" && (n+int(s.o.Seed))%step != 0 {
			continue
		}
		m, k := s.Start.Clone(), 0
		strike(m, n, &k)
		err := s.Work(m)
		m.FailLooks(nil)
		s.report.Faults++
		if err == nil { // it had what it needs from elsewhere, or at the next try
			if err := s.succeeded(name, n, m.Clone(), left); err != nil {
				return err
			}
		}
		if err := s.afterFault(name, n, m, left); err != nil {
			return err
		}
	}
	return nil
}

// goOn recovers on a device that was not restarted, then cuts its power: what
// recovery says to be done must be durable.
func (s *searcher) goOn(st state) error {
	if err := s.during(&st, key{st.m.Fingerprint(), ""}); err != nil {
		return err
	}
	if s.Expect != nil {
		st.expect = s.Expect(st.m)
	}
	err := s.Recover(st.m)
	if e := s.After(st.m, st.expect, err); e != nil {
		return fail(st.name, st.m, e)
	}
	st.m.Restart(memfs.Nothing())
	err = s.Recover(st.m)
	if e := s.After(st.m, st.expect, err); e != nil {
		return fail(st.name+", cut after recovery", st.m, e)
	}
	return nil
}

// recover recovers from a state, and from those that a cut at each operation of
// that leaves.
func (s *searcher) recover(st state) error {
	m := st.m.Clone()
	err := s.Recover(m)
	if s.o.Only == "" || s.o.Only == st.name {
		if e := s.After(m, st.expect, err); e != nil {
			return fail(st.name, m, e)
		}
	}
	s.count++
	if s.o.Only == "" && (s.o.Every == 0 || (s.count+int(s.o.Seed))%s.o.Every != 0) {
		return nil
	}
	var left []state
	for n, m := range st.m.Cuts(func(m *memfs.Machine) { _ = s.Recover(m) }) {
		if !m.Off() {
			break
		}
		s.report.Second++
		for i, choices := range s.choices(n, s.o.Second) {
			again := state{name: fmt.Sprintf("%s, cut %d.%d", st.name, n, i), m: restarted(m, choices)}
			if err := s.admit(&again, st.expect, &left); err != nil {
				return err
			}
		}
	}
	for _, again := range left {
		s.report.SecondSeen++
		err := s.Recover(again.m)
		if e := s.After(again.m, again.expect, err); e != nil {
			return fail(again.name, again.m, e)
		}
	}
	return nil
}

// Kinds lists the operations that were cut at, most often first.
func (r *Report) Kinds() string {
	kinds := slices.SortedFunc(func(yield func(string) bool) {
		for k := range r.Cuts {
			if !yield(k) {
				return
			}
		}
	}, func(a, b string) int {
		if n := r.Cuts[b] - r.Cuts[a]; n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	for i, k := range kinds {
		kinds[i] = k + " " + strconv.Itoa(r.Cuts[k])
	}
	return strings.Join(kinds, ", ")
}
