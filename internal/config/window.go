package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Window is a span of local time, on some days of the week, in which updates
// may be installed. One that ends before it begins runs past midnight and
// belongs to the day on which it begins.
type Window struct {
	Days     [7]bool // indexed by time.Weekday
	From, To int     // minutes since midnight; To is up to 24*60
}

var days = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

var span = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])$`)
})

// ParseWindow reads a window: days and hours, as in "Mon-Fri 02:00-04:30",
// "Sat,Sun 22:00-06:00", or hours alone for every day.
func ParseWindow(text string) (Window, error) {
	bad := func() (Window, error) {
		return Window{}, fmt.Errorf(`%q is no window: expected days and hours such as "Mon-Fri 02:00-04:30"`, text)
	}
	var w Window
	fields := strings.Fields(text)
	switch len(fields) {
	case 1:
		for d := range w.Days {
			w.Days[d] = true
		}
	case 2:
		for part := range strings.SplitSeq(fields[0], ",") {
			if !w.addDays(part) {
				return bad()
			}
		}
	default:
		return bad()
	}
	m := span().FindStringSubmatch(fields[len(fields)-1])
	if m == nil {
		return bad()
	}
	w.From, w.To = minutes(m[1], m[2]), minutes(m[3], m[4])
	if w.To > 24*60 {
		return bad()
	}
	if w.From == w.To {
		return Window{}, fmt.Errorf(`%q is an empty window: expected it to end later than it begins; leave out window for any time`, text)
	}
	return w, nil
}

// open reports whether t lies in the window, in the time zone of t.
func (w Window) open(t time.Time) bool {
	now := t.Hour()*60 + t.Minute()
	today, yesterday := w.Days[t.Weekday()], w.Days[(t.Weekday()+6)%7]
	if w.From < w.To {
		return today && now >= w.From && now < w.To
	}
	return today && now >= w.From || yesterday && now < w.To
}

// Open reports whether t lies in one of the windows, in the time zone of t; without
// windows any time does. Where it does not, next is when one opens: at most a
// week ahead, to the minute.
func Open(windows []Window, t time.Time) (open bool, next time.Time) {
	if len(windows) == 0 {
		return true, time.Time{}
	}
	for _, w := range windows {
		if w.open(t) {
			return true, time.Time{}
		}
	}
	for day := range 8 {
		for _, w := range windows {
			// time.Date makes a time of one that a change of the clocks leaves out.
			at := time.Date(t.Year(), t.Month(), t.Day()+day, w.From/60, w.From%60, 0, 0, t.Location())
			if w.Days[at.Weekday()] && at.After(t) && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
		if !next.IsZero() {
			return false, next
		}
	}
	return false, t.AddDate(0, 0, 7) // not reached: a window has a day
}

// addDays adds a day, or a range of days that may run past Saturday.
func (w *Window) addDays(part string) bool {
	from, to, isRange := strings.Cut(part, "-")
	if !isRange {
		to = from
	}
	a, okA := weekday(from)
	b, okB := weekday(to)
	if !okA || !okB {
		return false
	}
	for d := a; ; d = (d + 1) % 7 {
		w.Days[d] = true
		if d == b {
			return true
		}
	}
}

func weekday(name string) (time.Weekday, bool) {
	for i, d := range days {
		if strings.EqualFold(name, d) {
			return time.Weekday(i), true
		}
	}
	return 0, false
}

// minutes takes two texts of two digits each.
func minutes(hours, mins string) int {
	h, _ := strconv.Atoi(hours)
	m, _ := strconv.Atoi(mins)
	return h*60 + m
}
