package device

import (
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"tandem/backup"
	"tandem/internal/child"
	"tandem/internal/config"
	"tandem/internal/digest"
	"tandem/ota"
	"tandem/packaging/release"
)

// Work is what is under way for one unit: a release and how far it has come, with
// waits of its own.
type Work struct {
	Course
	NotYet time.Time `json:"-"` // when the step is tried again
	Tries  int       `json:"-"` // of it that failed
	Failed string    `json:"-"` // why the last one did
	Barred string    `json:"-"` // why a release that there is was not begun with
}

// Machine takes releases onto a device step by step: each unit has its own work,
// so that one which fails keeps no other one waiting. It decides; Advance acts.
type Machine struct {
	Works []Work `json:"works,omitempty"` // in the order in which they are updated
	Bars  []Bar  `json:"bars,omitempty"`

	alone time.Time // until then nothing is begun: a person ended an update
}

// Bar keeps a device from a release that it could not take, so that a full disk
// or a hook that refuses costs no data for nothing.
type Bar struct {
	SHA256 digest.SHA256 `json:"sha256"`
	Reason string        `json:"reason"`
	Until  time.Time     `json:"until,omitzero"` // zero: until there is more room
	Path   string        `json:"path,omitempty"` // where there was none
	Free   int64         `json:"free,omitempty"` // bytes that must be free there
}

const (
	barTime       = 24 * time.Hour   // that a release which was refused is left alone
	cancelTime    = time.Hour        // that one which a person cancelled is
	postponeRetry = 10 * time.Minute // until a hook that postponed is asked again
	maxTries      = 8                // of an installation, until its release is left alone
	maxBars       = 20
	moreRoom      = 64 << 10 // bytes by which a disk must have grown to be tried again
	firstRetry    = 30 * time.Second
	maxRetry      = time.Hour
	maxWish       = 24 * time.Hour // that a server may put off a poll
)

// NextTry is how long to wait after the given number of failures in a row: the
// double each time, half of it more or less, but no shorter than a server asks. r
// is random, from 0 up to 1.
func NextTry(failures int, wish time.Duration, r float64) time.Duration {
	d := min(float64(maxRetry), float64(firstRetry)*math.Pow(2, float64(max(0, failures-1))))
	return max(time.Duration((0.5+r)*d), min(wish, maxWish))
}

// Choose makes of a poll's answers what each unit is busy with. It returns the
// works that are about another release now.
func (m *Machine) Choose(ans *Answers, now time.Time) (begun []Course) {
	old := m.Works
	m.Works = make([]Work, len(ans.Units))
	for i := range ans.Units {
		u, w := &ans.Units[i], &m.Works[i]
		w.Course = Course{Step: Idle, Kind: u.Kind, App: u.Name}
		if was := workOf(old, &w.Course); was != nil {
			*w = *was
		}
		if w.Step == Installing { // that is not over
			continue
		}
		w.Barred = ""
		options := u.courses(ans, w)
		if len(options) == 0 && u.Offered.Err != nil { // not known: what was begun goes on
			continue
		}
		next := Course{Step: Idle, Kind: u.Kind, App: u.Name}
		for _, c := range options {
			b := m.barred(c.SHA256, now, ans.Free)
			if b == nil {
				next = c
				break
			}
			if w.Barred == "" {
				w.Barred = c.App + " " + c.Version.String() + ": " + b.Reason
			}
		}
		if next.Step == Idle {
			barred := w.Barred
			w.begin(next)
			w.Barred = barred
			continue
		}
		w.Barred = ""
		if w.Step == Idle || !w.about(next) {
			w.begin(next)
			begun = append(begun, next)
			if left := m.alone.Sub(now); left > 0 && left <= cancelTime {
				w.leaveAlone(m.alone)
			}
		}
		w.Urgent, w.Hold = next.Urgent, next.Hold
	}
	return begun
}

// patience is how often the download of a higher version may fail until a device
// leaves a release that is recalled for the one before.
const patience = 3

// courses are what can be done for a unit, the best first. A release that is
// recalled is left for a higher one where that can be had, else for the one before.
func (u *UnitAnswer) courses(ans *Answers, w *Work) (all []Course) {
	best := u.Offered.Best
	if r := u.Recalled; r != nil && r.Stays == "" {
		all = append(all, r.course(u.Name))
	}
	switch {
	case best != nil && best.Release.Version.Compare(u.Unpacked.Version) > 0:
		c := courseOf(best, u.Installed)
		c.Urgent, c.Hold = c.Urgent || ans.Urgent, ans.Hold
		if ans.Metered || w.about(c) && w.Step == Downloading && w.Tries > patience {
			return append(all, c)
		}
		all = append([]Course{c}, all...)
	case u.Unpacked.State.Open():
		c := unpackedCourse(u.Kind, u.Unpacked)
		c.From = u.Installed
		all = append(all, c)
	}
	return all
}

// begin makes a work one about c.
func (w *Work) begin(c Course) {
	if w.Course != c {
		*w = Work{Course: c}
	}
}

// about reports whether a work is about the release of c.
func (w *Work) about(c Course) bool {
	return w.SHA256 == c.SHA256 && w.Version.String() == c.Version.String()
}

// leaveAlone has a person's word count for a release.
func (w *Work) leaveAlone(until time.Time) { w.Failed, w.NotYet = ErrCancelled.Error(), until }

// LeaveAlone keeps the device from going on with any release by itself for an hour:
// a person ended an update that was asked for.
func (m *Machine) LeaveAlone(now time.Time) {
	m.alone = now.Add(cancelTime)
	for i := range m.Works {
		if w := &m.Works[i]; w.Step == Downloading || w.Step == Ready {
			w.leaveAlone(m.alone)
		}
	}
}

// ErrCancelled says that a person ended what was under way.
var ErrCancelled = errors.New("cancelled: what was not in place yet was not installed")

// Verdict is what a step led to.
type Verdict string

// The verdicts.
const (
	Advanced  Verdict = "advanced"   // the next step can begin
	Installed Verdict = "installed"  // there is nothing left to do
	TakenBack Verdict = "taken back" // it did not work, and is revoked
	NoRoom    Verdict = "no room"    // it is left alone until there is more
	Postponed Verdict = "postponed"  // a hook wants to be asked again
	Refused   Verdict = "refused"    // it is left alone for a day, or until there is another one
	Cancelled Verdict = "cancelled"  // a person ended it; it is left alone for an hour
	Failed    Verdict = "failed"     // it is tried again
)

// Circumstances are what the waits after a step depend on.
type Circumstances struct {
	Now    time.Time
	Free   map[string]int64 // bytes before the step, by where a release needs them
	State  string           // the path of the agent's state
	Wish   time.Duration    // how long a server asked to be left alone
	Random float64          // from 0 up to 1
}

// workOf returns the work on what c is about; nil if there is none.
func workOf(works []Work, c *Course) *Work {
	for i := range works {
		if w := &works[i]; w.App == c.App && w.Kind == c.Kind {
			return w
		}
	}
	return nil
}

// Settle takes in what a step of the work of c led to: next and err are what
// Advance returned.
func (m *Machine) Settle(c, next Course, err error, at Circumstances) Verdict {
	w := workOf(m.Works, &c)
	if w == nil { // the configuration has it no more
		return Refused
	}
	idle := Course{Step: Idle, Kind: c.Kind, App: c.App}
	later := func(next Course, wait time.Duration) Verdict {
		tries := w.Tries
		w.begin(next)
		w.Tries, w.Failed, w.NotYet = tries+1, err.Error(), at.Now.Add(wait)
		return Failed
	}
	switch {
	case err == nil && next.Step == Idle, errors.Is(err, ErrNotStarted):
		w.begin(idle)
		return Installed
	case err == nil:
		w.begin(next)
		return Advanced
	case errors.Is(err, ErrCancelled) && next.Step == Idle: // it is in place
		w.begin(idle)
		return Installed
	case errors.Is(err, ErrCancelled):
		later(next, cancelTime)
		w.Tries = 0
		return Cancelled
	case errors.Is(err, ErrUnhealthy):
		w.begin(idle)
		return TakenBack
	case errors.Is(err, backup.ErrNoSpace), errors.Is(err, ota.ErrNoSpace):
		more := int64(moreRoom)
		if c.Step != Downloading {
			more += c.Size
		}
		m.bar(noRoom(c, err, at.Free, at.State, more))
		w.begin(idle)
		return NoRoom
	case errors.Is(err, child.ErrPostponed):
		later(next, postponeRetry)
		w.Tries = 0
		return Postponed
	case errors.Is(err, ErrNoBundle):
		w.begin(next)
		return Advanced
	case errors.Is(err, ErrHook): // to try it costs two changes of the version
		m.bar(Bar{SHA256: c.SHA256, Reason: err.Error(), Until: at.Now.Add(barTime)})
		w.begin(idle)
		return Refused
	case errors.Is(err, child.ErrNotRun), errors.Is(err, config.ErrInvalid): // the device's own fault
		return later(next, NextTry(w.Tries+1, 0, at.Random))
	case c.Step == Downloading:
		return later(next, NextTry(w.Tries+1, at.Wish, at.Random))
	case Final(err), w.Tries+1 > maxTries:
		m.bar(Bar{SHA256: c.SHA256, Reason: err.Error(), Until: at.Now.Add(barTime)})
		w.begin(idle)
		return Refused
	}
	return later(next, NextTry(w.Tries+1, 0, at.Random))
}

// noRoom keeps a device from a release until so many more bytes are free than
// there were, where the error says that there was no room. An error that does
// not say where is one of the state directory.
func noRoom(c Course, err error, free map[string]int64, state string, more int64) Bar {
	b := Bar{SHA256: c.SHA256, Reason: err.Error(), Path: state}
	var full *backup.SpaceError
	if errors.As(err, &full) {
		for path := range free {
			if full.Path == path || strings.HasPrefix(full.Path, path+"/") {
				b.Path = path
			}
		}
	}
	b.Free = free[b.Path] + more
	return b
}

// bar keeps the device from a release; the oldest bars make room.
func (m *Machine) bar(b Bar) {
	m.Bars = without(m.Bars, b.SHA256)
	m.Bars = append(m.Bars, b)
	m.Bars = m.Bars[max(0, len(m.Bars)-maxBars):]
}

// barred returns what keeps the device from a release; nil if nothing does. free is
// how many bytes are free now, by place.
func (m *Machine) barred(sum digest.SHA256, now time.Time, free map[string]int64) *Bar {
	for i := range m.Bars {
		b := &m.Bars[i]
		if b.SHA256 != sum {
			continue
		}
		left := b.Until.Sub(now)
		if b.Until.IsZero() && free[b.Path] > b.Free || !b.Until.IsZero() && (left <= 0 || left > barTime) { // or the clock went back
			return nil
		}
		return b
	}
	return nil
}

// Forgive takes away what keeps the device from a release.
func (m *Machine) Forgive(sum digest.SHA256) {
	m.Bars = without(m.Bars, sum)
}

// Hold keeps each release from being installed until a poll says otherwise.
func (m *Machine) Hold(why string) {
	for i := range m.Works {
		if w := &m.Works[i]; w.Step == Downloading || w.Step == Ready {
			w.Course.Hold = why
		}
	}
}

// Sane reports whether what was read from a disk can be gone on with.
func (m *Machine) Sane() bool {
	for i := range m.Works {
		w := &m.Works[i]
		known := slices.Contains([]Step{Idle, Downloading, Ready, Installing}, w.Step)
		if !known || w.Step != Idle && w.Version.IsZero() || w.Kind != release.App && w.Kind != release.Firmware && w.Kind != release.Agent {
			return false
		}
	}
	return true
}

// Of returns the work for the unit of c; an empty one if there is none.
func (m *Machine) Of(c Course) Work {
	if w := workOf(m.Works, &c); w != nil {
		return *w
	}
	return Work{Course: Course{Step: Idle, Kind: c.Kind, App: c.App}}
}

// Put makes c what its unit is busy with.
func (m *Machine) Put(c Course) {
	if w := workOf(m.Works, &c); w != nil {
		w.begin(c)
	}
}

// At puts the work that c is about at a step; its waits stay.
func (m *Machine) At(c Course, s Step) {
	if w := workOf(m.Works, &c); w != nil && w.about(c) {
		w.Step = s
	}
}

// Underway returns what is being installed; else what has come farthest.
func (m *Machine) Underway() Course {
	best := Course{Step: Idle}
	for _, step := range []Step{Installing, Ready, Downloading} {
		for _, w := range m.Works {
			if w.Step == step && best.Step == Idle {
				best = w.Course
			}
		}
	}
	return best
}

// without returns the bars of other releases than sum.
func without(bars []Bar, sum digest.SHA256) []Bar {
	var rest []Bar
	for i := range bars {
		if bars[i].SHA256 != sum {
			rest = append(rest, bars[i])
		}
	}
	return rest
}
