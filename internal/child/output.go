package child

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"tandem/internal/text"
	"time"

	"golang.org/x/sys/unix"
)

// How much of a program's output is passed on. A longer line is cut into several;
// what comes after the last byte is read and thrown away, and so the program
// never waits for somebody to read it.
const (
	maxLine   = 4096
	maxOutput = 1 << 20
)

// output takes what a program prints and gives it away line by line.
//
// It is a pipe of which the program has both ends in one: whoever the program
// leaves running can go on writing when nobody reads any more. It is then told to
// try again later, once the pipe is full; no signal ends it, and it does not hang.
type output struct {
	writer *os.File // for the program
	reader *os.File
	read   chan struct{} // closed when nobody reads any more
	line   func(string)

	begun []byte // of a line
	cut   bool   // the line was longer than maxLine
	taken int    // bytes in all
}

func newOutput(line func(string)) (*output, error) {
	if line == nil {
		line = func(string) {}
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	both, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", ends[1]), unix.O_RDWR|unix.O_CLOEXEC, 0)
	_ = unix.Close(ends[1]) // nothing was written to it
	if err == nil {
		err = unix.SetNonblock(ends[0], true) // its end is waited for with a deadline
	}
	if err != nil {
		_ = unix.Close(ends[0])
		return nil, fmt.Errorf("pipe: %w", err)
	}
	o := &output{
		writer: os.NewFile(uintptr(both), "output"), reader: os.NewFile(uintptr(ends[0]), "output"),
		read: make(chan struct{}), line: line,
	}
	go func() {
		defer close(o.read)
		buf := make([]byte, maxLine)
		for {
			n, err := o.reader.Read(buf)
			o.add(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	return o, nil
}

// finish takes what the program wrote before it ended, and lets go of the pipe.
func (o *output) finish() {
	_ = o.reader.SetReadDeadline(time.Unix(1, 0)) // a pipe has deadlines
	<-o.read
	_ = unix.SetNonblock(int(o.writer.Fd()), true) // for whoever has it still: see output
	o.rest()
	if len(o.begun) > 0 {
		o.give()
	}
	o.writer.Close() // neither has anything to flush
	o.reader.Close()
}

// rest reads what is in the pipe now, and not what somebody adds meanwhile.
func (o *output) rest() {
	conn, err := o.reader.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		left, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		if err != nil {
			return
		}
		buf := make([]byte, maxLine)
		for left > 0 {
			n, err := unix.Read(int(fd), buf[:min(left, len(buf))])
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n <= 0 {
				return
			}
			o.add(buf[:n])
			left -= n
		}
	})
}

// add cuts what was read into lines.
func (o *output) add(data []byte) {
	for _, b := range data {
		if o.taken++; o.taken > maxOutput {
			if o.taken == maxOutput+1 {
				o.give()
				o.line("(more than that is not shown)")
			}
			return
		}
		switch {
		case b == '\n' && o.cut && len(o.begun) == 0: // all of it was given
			o.cut = false
		case b == '\n':
			o.give()
			o.cut = false
		default:
			if o.begun = append(o.begun, b); len(o.begun) == maxLine {
				o.give()
				o.cut = true
			}
		}
	}
}

func (o *output) give() {
	o.line(text.Line(strings.TrimSuffix(string(o.begun), "\r")))
	o.begun = o.begun[:0]
}
