package ota

import (
	"net/http"
	"testing"
	"time"
)

func TestMaxAge(t *testing.T) {
	for _, tt := range []struct {
		control, age string
		want         time.Duration
	}{
		{"", "", 0},
		{"no-cache", "", 0},
		{"public, max-age=3600", "", time.Hour},
		{"max-age=3600", "600", 50 * time.Minute},
		{"max-age=60", "600", 0},
		{`Max-Age="60"`, "", time.Minute},
		{"no-cache, max-age=60", "", 0},
		{"max-age=-1", "", 0},
		{"max-age=99999999999999999999", "", 0},
		{"max-age=60", "soon", time.Minute},
	} {
		h := http.Header{}
		h.Set("Cache-Control", tt.control)
		h.Set("Age", tt.age)
		if got := maxAge(h); got != tt.want {
			t.Errorf("Cache-Control %q, Age %q: %v, want %v", tt.control, tt.age, got, tt.want)
		}
	}
}
