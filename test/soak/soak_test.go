package main

import (
	"testing"
)

// Hundreds of polls of an agent whose time passes fast leave nothing behind.
func TestFast(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of polls")
	}
	p, err := publish(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const seed = 1
	t.Logf("again with: go run ./test/soak -cycles 200 -kills 0 -rest 0 -seed %d", seed)
	report, err := fast(t.Context(), p, 200, seed)
	t.Log(report)
	if err != nil {
		t.Error(err)
	}
}

// What has grown is found.
func TestGrown(t *testing.T) {
	t.Parallel()
	first := sample{20, 10, 4 << 20}
	for _, c := range []struct {
		last sample
		ok   bool
	}{
		{sample{20, 10, 4 << 20}, true},
		{sample{22, 12, 5 << 20}, true},
		{sample{23, 10, 4 << 20}, false},
		{sample{20, 13, 4 << 20}, false},
		{sample{20, 10, 7 << 20}, false},
	} {
		if err := c.last.grown(first); (err == nil) != c.ok {
			t.Errorf("%v after %v: %v", c.last, first, err)
		}
	}
}
