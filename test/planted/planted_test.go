package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every planted bug still fits the sources, compiles, and is in the book.
func TestPlanted(t *testing.T) {
	t.Parallel()
	root, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "crash-safety.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bugs {
		var packages []string
		for _, e := range b.edits {
			packages = append(packages, "./"+filepath.Dir(e.file))
		}
		if _, err := b.sources(root); err != nil {
			t.Errorf("%s: %v", b.name, err)
		} else if err := b.compile(t.Context(), root, packages...); err != nil {
			t.Error(err)
		}
		if !strings.Contains(string(page), "| `"+b.name+"` |") {
			t.Errorf("docs/crash-safety.md does not list %s", b.name)
		}
	}
}

// The model lab finds every planted bug. It is built anew for each, so the short form has
// two of them alone.
func TestLongPlanted(t *testing.T) {
	if os.Getenv("TANDEM_LONG") == "" {
		t.Skip("set TANDEM_LONG=1 to run it")
	}
	root, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bugs {
		if os.Getenv("TANDEM_LONG") == "short" && b.name != "undo-log-left-out" && b.name != "error-taken-for-damage" {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			found, err := b.search(t.Context(), root, false)
			if err != nil {
				t.Fatal(err)
			}
			if found == "" {
				t.Fatalf("%s: not found in the scenarios %s", b.about, b.where)
			}
			t.Log(found)
		})
	}
}

// An edit that no longer fits is told, with what to do.
func TestEditThatDoesNotFit(t *testing.T) {
	b := bug{name: "gone", edits: []edit{{"bugs.go", "text that " + "is not there", ""}}}
	if _, err := b.sources("."); err == nil || !strings.Contains(err.Error(), "must follow") {
		t.Errorf("%v", err)
	}
}

func TestRealSummary(t *testing.T) {
	const out = "== Power cuts\nFAILED: install: the sides differ:\n    x\n7 power cuts and 2 more just after the end, seed 5, 9 s in all: 1 failures\n"
	if got := realSummary(out); got != "install: the sides differ (7 power cuts and 2 more just after the end, seed 5)" {
		t.Errorf("%q", got)
	}
	if got := realSummary("ubifs: no such kernel\n"); got != "" {
		t.Errorf("%q", got)
	}
}

func TestSummarize(t *testing.T) {
	const out = "--- FAIL: TestPowerCut (0.00s)\n    --- FAIL: TestPowerCut/install,_downgrade/exchange (0.1s)\n        model_test.go:94: seed 7: cut 3.1: P1: gone\n"
	if got := summarize(out); got != "install, downgrade/exchange: cut 3.1: P1: gone" {
		t.Errorf("%q", got)
	}
	if got := summarize("FAIL tandem/test/model [build failed]\n"); got != "" {
		t.Errorf("%q", got)
	}
}
