package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Outcome is one way in which a command can end: the errors that it is about, the
// exit code, what that code means, and what to do next.
type Outcome struct {
	Exit  int
	Means string           // "" in all rows of an exit code but one
	Errs  []error          // it is about what wraps one of these,
	Is    func(error) bool // and what this, if it is not nil, is true of
	Hint  string           // "" where nothing can be said that fits each time
}

// Outcomes are all of a program. Exit codes, hints, help and the book come from
// this one table. Where an error fits several rows, the first one counts.
type Outcomes []Outcome

// is reports whether the row is about an error.
func (o *Outcome) is(err error) bool {
	return slices.ContainsFunc(o.Errs, func(e error) bool { return errors.Is(err, e) }) || o.Is != nil && o.Is(err)
}

// IsUsage reports whether err is about the command line.
func IsUsage(err error) bool {
	_, ok := errors.AsType[*UsageError](err)
	return ok
}

// Of returns exit code and hint of an error: both are the error's own, if it has a
// method Outcome, and the hint is, if it has a method Hint. An error that no row is
// about is 1; nil is 0.
func (o Outcomes) Of(err error) (exit int, hint string) {
	if err == nil {
		return 0, ""
	}
	exit = 1
	for _, row := range o {
		if row.is(err) {
			exit, hint = row.Exit, row.Hint
			break
		}
	}
	if own, ok := errors.AsType[interface {
		error
		Outcome() (exit int, hint string)
	}](err); ok {
		return own.Outcome()
	}
	if own, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		hint = cmp.Or(own.Hint(), hint)
	}
	return exit, hint
}

// Knows reports whether a row is about an error: what went wrong is then known by its
// name. nil is known.
func (o Outcomes) Knows(err error) bool {
	return err == nil || slices.ContainsFunc(o, func(row Outcome) bool { return row.is(err) })
}

// Code is what is said of an exit code, in one place for all its errors.
type Code struct {
	Exit         int
	Means, Hints string
}

// Codes returns the exit codes in ascending order.
func (o Outcomes) Codes() []Code {
	rows := slices.Clone(o)
	sort.SliceStable(rows, func(i, j int) bool { return rows[i].Exit < rows[j].Exit })
	var codes []Code
	for _, row := range rows {
		if len(codes) == 0 || codes[len(codes)-1].Exit != row.Exit {
			codes = append(codes, Code{Exit: row.Exit})
		}
		c := &codes[len(codes)-1]
		c.Means = cmp.Or(c.Means, row.Means)
		if row.Exit == 1 {
			c.Hints = "the message says what went wrong, and its hint what to do"
		} else if row.Hint != "" && !strings.Contains(c.Hints, row.Hint) {
			c.Hints = strings.TrimPrefix(c.Hints+"; "+row.Hint, "; ")
		}
	}
	return codes
}

// Help returns the exit codes as help text.
func (o Outcomes) Help() string {
	var b strings.Builder
	for _, c := range o.Codes() {
		fmt.Fprintf(&b, "%4d  %s\n", c.Exit, c.Means)
		if c.Hints != "" {
			for hint := range strings.SplitSeq(c.Hints, "; ") {
				fmt.Fprintf(&b, "      - %s\n", hint)
			}
		}
	}
	return b.String()
}

// Markdown returns the exit codes as a table of the book.
func (o Outcomes) Markdown() string {
	var b strings.Builder
	b.WriteString("| code | means | what to do |\n|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`)
	for _, c := range o.Codes() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", c.Exit, cell.Replace(c.Means), cell.Replace(c.Hints))
	}
	return b.String()
}

// Summary returns the exit codes and their meanings as a sentence, broken into
// lines of at most width characters.
func (o Outcomes) Summary(width int) string {
	var parts []string
	for _, c := range o.Codes() {
		parts = append(parts, fmt.Sprintf("%d %s", c.Exit, c.Means))
	}
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields("Exit codes: " + strings.Join(parts, "; ") + ".") {
		switch {
		case column == 0:
		case column+1+len(word) > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
