package agent

import (
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/config"
)

// Between the look that a watch follows on and the watch itself something may
// change without a word from the kernel: it is looked once more.
func TestWatchLooksOnceMore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "apps"), 0o755); err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cfg := &config.Config{System: config.Side{Path: dir}}
	a := testAgent(t, cfg, log, func() time.Time { return now })
	defer a.config.stop()
	look := &backup.Result{System: &backup.Snapshot{}}
	a.watchConfig(look)
	if due := a.config.due(now); due.IsZero() || due.Sub(now) > promised {
		t.Fatalf("the next look is at %s", due)
	}
	a.config.begin(now)
	a.watchConfig(look)
	if due := a.config.due(now); !due.IsZero() {
		t.Errorf("a watch that goes on has it looked again at %s", due)
	}
}

// Where the kernel cannot tell what changes, the agent looks by itself, from the
// start and again and again; it does not ask the kernel each time.
func TestScanStartsByItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range maxWatched + 1 {
		if err := os.MkdirAll(filepath.Join(dir, "apps", strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	log, hook := test.NewNullLogger()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cfg := &config.Config{System: config.Side{Path: dir}}
	a := testAgent(t, cfg, log, func() time.Time { return now })
	defer a.config.stop()
	look := &backup.Result{System: &backup.Snapshot{}}
	for range 5 {
		a.watchConfig(look)
		due := a.config.due(now)
		if due.IsZero() || due.Sub(now) > promised {
			t.Fatalf("the next look is at %s", due)
		}
		now = due
		a.config.begin(now)
	}
	if n := len(hook.AllEntries()); n != 1 {
		t.Errorf("it was told %d times", n)
	}
	for i := range 3 { // it watches apps, and the directory above, too
		if err := os.Remove(filepath.Join(dir, "apps", strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(watchRetry)
	a.watchConfig(look)
	if a.config.scan {
		t.Error("it scans though the kernel can tell")
	}
}

// testAgent is an agent that does not run.
func testAgent(t *testing.T, cfg *config.Config, log *logrus.Logger, now func() time.Time) *Agent {
	t.Helper()
	a, err := New(Options{
		Config: cfg, Environment: device.Environment{Log: log, Now: now, Random: rand.Reader}, Zone: time.UTC,
		After:  func(time.Duration) (<-chan time.Time, func()) { return nil, func() {} },
		Random: func() float64 { return 0.5 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// promised is within which an edit is backed up.
const promised = 5 * time.Second
