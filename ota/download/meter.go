package download

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"

	"tandem/internal/fsys"
	"tandem/ota/fault"
)

// ahead is by how much what is written of a meter runs ahead of what came: a
// power cut never makes it forget a byte, and it is seldom written.
const ahead = 256 << 10

// meter counts the bytes that come for one release, over files, attempts and
// restarts, where there is a limit to them.
type meter struct {
	fs   fsys.FS
	stem string // "" where there is no limit
	most int64

	mu     sync.Mutex
	read   bool // what was spent before is known
	spent  int64
	noted  int64 // what is written
	failed error
}

func (d *Downloader) meter(f *File) *meter {
	m := &meter{fs: d.o.FS, most: f.Most}
	if f.Most > 0 && !f.Release.IsZero() {
		stem := f.Release.String()
		if f.For != "" {
			stem = f.For + "." + stem
		}
		m.stem = path.Join(downloadDir, stem)
	}
	return m
}

func (m *meter) name() string { return m.stem + ".spent" }

// load reads what was spent before. What cannot be read counts as nothing.
func (m *meter) load() {
	if m.read {
		return
	}
	m.read = true
	data, err := fsys.ReadFile(m.fs, m.name(), 64)
	if err != nil {
		return
	}
	if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && n > 0 {
		m.spent, m.noted = n, n
	}
}

// left returns how many bytes may still come; below 0 there is no limit.
func (m *meter) left() int64 {
	if m.stem == "" {
		return -1
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.load()
	return max(m.most-m.spent, 0)
}

// allows returns why n bytes more may not come. The error wraps fault.ErrBudget.
func (m *meter) allows(n int64) error {
	left := m.left()
	if left < 0 || n <= left {
		return nil
	}
	return fmt.Errorf("%w: %d bytes more are needed, %d of the %d that a release may cost are left", fault.ErrBudget, n, left, m.most)
}

// came counts n bytes that have come. The error wraps fault.ErrBudget once they
// are too many, or says that they cannot be remembered.
func (m *meter) came(n int) error {
	if m.stem == "" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.load()
	m.spent += int64(n)
	if m.spent > m.noted {
		if err := m.note(m.spent + ahead); err != nil {
			return err
		}
	}
	if m.spent > m.most {
		return fmt.Errorf("%w: a release may cost %d", fault.ErrBudget, m.most)
	}
	return nil
}

func (m *meter) note(n int64) error {
	if m.failed != nil {
		return m.failed
	}
	err := fsys.WriteFile(m.fs, m.name(), []byte(strconv.FormatInt(n, 10)+"\n"), 0o600)
	if err != nil {
		m.failed = fault.Unwritable(err)
		return m.failed
	}
	m.noted = n
	return nil
}

// close writes down what was spent, to the byte.
func (m *meter) close() {
	if m.stem == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.read && m.noted != m.spent {
		_ = m.note(m.spent) // it says too much then, never too little
	}
}
