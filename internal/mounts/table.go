package mounts

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Table is the list of all mount points that this process sees. It is read
// once, and again when the kernel tells that it has changed. It may be used by
// several goroutines at once.
type Table struct {
	mu     sync.Mutex
	file   *os.File
	points map[string]bool // nil until it is read
}

// OpenTable opens the list. The caller closes it. An os.Open would not do: Go
// asks the kernel for changes of what it opens, which then tells us no more.
func OpenTable() (*Table, error) {
	fd, err := unix.Open(table, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: table, Err: err}
	}
	return &Table{file: os.NewFile(uintptr(fd), table)}, nil
}

// Close lets go of the list.
func (t *Table) Close() error { return t.file.Close() }

// Has reports whether path, absolute and without symbolic links, is a mount point.
func (t *Table) Has(path string) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.points == nil || t.changed() {
		if err := t.read(); err != nil {
			t.points = nil
			return false, fmt.Errorf("%s: %w", table, err)
		}
	}
	return t.points[path], nil
}

// changed asks the kernel, which tells each change once. Where it cannot be
// asked the list counts as changed.
func (t *Table) changed() bool {
	p := []unix.PollFd{{Fd: int32(t.file.Fd()), Events: unix.POLLPRI}}
	n, err := unix.Poll(p, 0)
	return err != nil || n > 0
}

func (t *Table) read() error {
	if _, err := t.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	t.points = make(map[string]bool)
	lines := bufio.NewScanner(t.file)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			t.points[unescape(fields[4])] = true
		}
	}
	return lines.Err()
}
