package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"tandem/internal/text"
)

// Screen is where a program's messages go, and how far something has come: on a
// terminal in a line below them that is drawn again and again, elsewhere in lines
// of their own. It writes no character that is not ASCII. Its methods may be called
// from several goroutines.
type Screen struct {
	to    io.Writer
	now   func() time.Time
	width func() int
	pass  func(string) string // what messages are written as; nil: as they are

	mu    sync.Mutex
	job   *job
	drawn int // characters of the line that is to be drawn over
}

// NewScreen returns one that writes to w. width returns the columns of the
// terminal that w is; 0 says that it is none, or that nobody knows: such as a
// serial line.
func NewScreen(w io.Writer, now func() time.Time, width func() int) *Screen {
	return &Screen{to: w, now: now, width: width}
}

// Through has all messages from now on pass through f, which may change them.
func (s *Screen) Through(f func(string) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pass = f
}

// job is what goes on for a while.
type job struct {
	what  string
	began time.Time
	first int64     // bytes that were done when it began
	shown time.Time // when it was shown last
	part  int64     // quarters that were told
	// terminal says that it is drawn on one, not told in lines.
	terminal bool
}

const (
	redraw  = 100 * time.Millisecond // between two drawings of a line
	retell  = 30 * time.Second       // between two lines, at the most
	settled = time.Second            // after which a speed says something
	small   = 1 << 20                // bytes; what is less is done before anybody has read of it
)

// Write writes messages, above the line.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	if s.pass == nil {
		return s.to.Write(p)
	}
	if _, err := io.WriteString(s.to, s.pass(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Progress shows that done of total bytes of something are done.
func (s *Screen) Progress(what string, done, total int64) {
	if total < small {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.job == nil || s.job.what != what || done < s.job.first {
		s.erase()
		s.job = &job{what: what, began: now, first: done, shown: now, part: done * 4 / total, terminal: s.width() > 0}
	}
	done = min(done, total)
	if s.job.terminal {
		if s.drawn == 0 || now.Sub(s.job.shown) >= redraw {
			s.draw(s.job.line(now, done, total, s.width()-1))
			s.job.shown = now
		}
		return
	}
	if part := done * 4 / total; part > s.job.part || now.Sub(s.job.shown) >= retell {
		s.job.part, s.job.shown = part, now
		fmt.Fprintf(s.to, "%s: %d %% of %s%s\n", what, done*100/total, text.Size(total), s.job.speed(now, done))
	}
}

// Done says that what went on has ended: its line goes.
func (s *Screen) Done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	s.job = nil
}

func (s *Screen) draw(line string) {
	pad := max(s.drawn-len(line), 0)
	fmt.Fprint(s.to, "\r", line, strings.Repeat(" ", pad), strings.Repeat("\b", pad))
	s.drawn = len(line)
}

func (s *Screen) erase() {
	if s.drawn > 0 {
		fmt.Fprint(s.to, "\r", strings.Repeat(" ", s.drawn), "\r")
		s.drawn = 0
	}
}

// speed says how fast it goes, once that can be told. What was there before it
// began does not count.
func (j *job) speed(now time.Time, done int64) string {
	took := now.Sub(j.began)
	if took < settled {
		return ""
	}
	return fmt.Sprintf(", %s/s", text.Size(int64(float64(done-j.first)/took.Seconds())))
}

// line is what is shown in at most width columns: what does not fit is left out,
// the speed first, then the sizes, then the bar.
func (j *job) line(now time.Time, done, total int64, width int) string {
	const bar = 20
	full := int(done * bar / total)
	what, percent := j.what, fmt.Sprintf(" %3d %%", done*100/total)
	if room := width - len(percent); len(what) > room {
		what = what[:max(room, 0)]
	}
	line := what + percent
	more := what + " [" + strings.Repeat("#", full) + strings.Repeat(".", bar-full) + "]" + percent
	for _, part := range []string{"", " of " + text.Size(total), j.speed(now, done)} {
		if more += part; len(more) > width {
			break
		}
		line = more
	}
	if len(line) > width { // not even the number fits
		return ""
	}
	return line
}
