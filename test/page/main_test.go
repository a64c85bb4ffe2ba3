// Package page opens the technician's page in a real browser, on devices with a built
// agent. "make page" says where the programs are, and axe.
package page

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

var (
	binDir  = os.Getenv("TANDEM_BIN") // tandem and tandem-release
	axe     string                    // the script of axe-core
	chrome  context.Context           // of the one browser; each test has a profile of its own in it
	bundles string                    // the folder with hello's
)

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tandem-page-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = prepare(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	allocator, end := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(filepath.Join(dir, "profile")),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("ignore-certificate-errors", true),
		chromedp.Flag("lang", "en-GB"), chromedp.WSURLReadTimeout(atLast),
		chromedp.Flag("host-resolver-rules", "MAP rebound.example 127.0.0.1"))...)
	defer end()
	browser, end := chromedp.NewContext(allocator)
	defer end()
	if err := chromedp.Do(browser); err != nil {
		fmt.Fprintln(os.Stderr, "chromium:", err)
		return 1
	}
	chrome = browser
	return m.Run()
}

func prepare(dir string) error {
	if binDir == "" || os.Getenv("TANDEM_AXE") == "" {
		return fmt.Errorf("run this by: make page")
	}
	script, err := os.ReadFile(os.Getenv("TANDEM_AXE"))
	if err != nil {
		return err
	}
	axe = string(script)
	bundles = filepath.Join(dir, "bundles")
	return publish(bundles)
}

// Times that the tests wait at most. They are long: the machine may have much else to do.
const (
	atLast = 2 * time.Minute
	often  = 50 * time.Millisecond
)

// eventually waits until what has no error any more.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(atLast)
	defer deadline.Stop()
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %v", what, atLast, err)
		case <-tick.C:
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func contains(text, want string) error {
	if !strings.Contains(text, want) {
		return fmt.Errorf("no %q in %q", want, cmp.Or(text, "nothing"))
	}
	return nil
}
