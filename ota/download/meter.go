package download

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"sync"

	"tandem/backup/manifest"
	"tandem/backup/record"
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
	by   record.Author
	stem string // "" where there is no limit to what a release may cost
	most int64
	told int64 // what may come now; 0 is without limit

	mu     sync.Mutex
	read   bool // what was spent before is known
	spent  int64
	noted  int64 // what is written
	now    int64 // what came since the meter was made
	failed error
}

func (d *Downloader) meter(f *File) *meter {
	m := &meter{fs: d.o.FS, by: d.o.By, most: f.Most, told: f.Told}
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

// load reads what was spent before. A damaged note counts for what can be made out of it;
// one that cannot be read just now is an error.
func (m *meter) load() error {
	if m.read || m.stem == "" {
		return nil
	}
	var n int64
	_, err := record.ReadJSON(m.fs, spentKind, m.name(), maxNote, &n)
	if errors.Is(err, manifest.ErrInvalid) { // better than to spend it all again
		var body []byte
		if body, err = record.Salvage(m.fs, m.name(), maxNote); err == nil && json.Unmarshal(body, &n) != nil {
			n = 0
		}
	}
	if err != nil {
		return fmt.Errorf("what was spent for this release cannot be read: %w", err)
	}
	m.read = true
	if n > 0 {
		m.spent, m.noted = n, n
	}
	return nil
}

// allows returns why n bytes more may not come. The error wraps fault.ErrBudget, or says
// that it is not known how many came.
func (m *meter) allows(n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(); err != nil {
		return err
	}
	left := n // there is no limit
	if m.told > 0 {
		left = max(m.told-m.now, 0)
	}
	if m.stem != "" {
		left = min(left, max(m.most-m.spent, 0))
	}
	if n <= left {
		return nil
	}
	return fmt.Errorf("%w: %d bytes more are needed, %d may still come for this release", fault.ErrBudget, n, left)
}

// came counts n bytes that have come. The error wraps fault.ErrBudget once they
// are too many, or says that they cannot be remembered.
func (m *meter) came(n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now += int64(n)
	if m.told > 0 && m.now > m.told {
		return fmt.Errorf("%w: it was to cost %d", fault.ErrBudget, m.told)
	}
	if m.stem == "" {
		return nil
	}
	if err := m.load(); err != nil {
		return err
	}
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
	err := m.by.Write(m.fs, spentKind, m.name(), n, 0o600)
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
