package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
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

var span = regexp.MustCompile(`^([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])$`)

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
	m := span.FindStringSubmatch(fields[len(fields)-1])
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
