package hawkbit

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// windowSpec is a maintenance window as an operator gives it.
type windowSpec struct {
	Schedule string `json:"schedule"`
	Duration string `json:"duration"`
	Timezone string `json:"timezone"`
}

// window is a maintenance window: at one moment, or at a time of each day.
type window struct {
	spec   windowSpec
	zone   *time.Location
	length time.Duration
	daily  bool
	once   time.Time
	clock  [3]int // hour, minute, second
}

// newWindow reads a window. The schedules that it knows are
// "S M H D M ? Y" and "S M H ? * *".
func newWindow(spec *windowSpec, now time.Time) (*window, error) {
	if spec == nil {
		return nil, nil
	}
	bad := func(message string) error {
		return &failure{
			status: http.StatusBadRequest, code: "maintenanceScheduleInvalid",
			class: repoException + "InvalidMaintenanceScheduleException", message: message,
		}
	}
	w := &window{spec: *spec}
	var err error
	if w.length, err = clockTime(spec.Duration); err != nil {
		return nil, bad(err.Error())
	}
	offset, err := clockTime(strings.TrimLeft(spec.Timezone, "+-") + ":00")
	if err != nil {
		return nil, bad(err.Error())
	}
	if strings.HasPrefix(spec.Timezone, "-") {
		offset = -offset
	}
	w.zone = time.FixedZone(spec.Timezone, int(offset/time.Second))
	var numbers []int
	fields := strings.Fields(spec.Schedule)
	for _, f := range fields {
		n, err := strconv.Atoi(f)
		if err != nil {
			n = -1
		}
		numbers = append(numbers, n)
	}
	if len(numbers) < 6 || numbers[0] < 0 || numbers[1] < 0 || numbers[2] < 0 {
		return nil, bad("a schedule of another kind")
	}
	w.clock = [3]int{numbers[2], numbers[1], numbers[0]}
	switch {
	case len(numbers) == 7 && numbers[6] > 0:
		w.once = time.Date(numbers[6], time.Month(numbers[4]), numbers[3], numbers[2], numbers[1], numbers[0], 0, w.zone)
	default:
		w.daily = true
	}
	if w.state(now) == windowOver {
		return nil, bad("No valid maintenance window available after current time")
	}
	return w, nil
}

// clockTime reads HH:MM:SS.
func clockTime(s string) (time.Duration, error) {
	var h, m, sec int
	if _, err := fmt.Sscanf(s, "%d:%d:%d", &h, &m, &sec); err != nil {
		return 0, fmt.Errorf("%q: expected HH:MM:SS", s)
	}
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(sec)*time.Second, nil
}

func clockText(d time.Duration) string {
	s := int(d / time.Second)
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

type windowState int

const (
	windowAhead windowState = iota
	windowOpen
	windowOver
)

// next gives the start of the window that is open at a time, or of the next.
func (w *window) next(now time.Time) time.Time {
	if !w.daily {
		return w.once
	}
	t := now.In(w.zone)
	start := time.Date(t.Year(), t.Month(), t.Day()-1, w.clock[0], w.clock[1], w.clock[2], 0, w.zone)
	for !now.Before(start.Add(w.length)) {
		start = start.AddDate(0, 0, 1)
	}
	return start
}

func (w *window) state(now time.Time) windowState {
	start := w.next(now)
	switch {
	case now.Before(start):
		return windowAhead
	case now.Before(start.Add(w.length)):
		return windowOpen
	}
	return windowOver
}
