package fault

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	const date = "Mon, 01 Jun 2026 12:00:00 GMT"
	for _, tt := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", date, 0},
		{"0", date, 0},
		{" 120 ", "", 2 * time.Minute},
		{"99999999999999999", "", 9223372036 * time.Second},
		{"99999999999999999999999", "", 0},
		{"-5", "", 0},
		{"1.5", "", 0},
		{"soon", date, 0},
		{"Mon, 01 Jun 2026 12:05:00 GMT", date, 5 * time.Minute},
		{"Mon, 01 Jun 2026 11:00:00 GMT", date, 0},
		{"Mon, 01 Jun 2026 12:05:00 GMT", "", 0}, // without the server's clock it says nothing
	} {
		h := http.Header{}
		h.Set("Retry-After", tt.value)
		h.Set("Date", tt.date)
		if got := RetryAfter(h); got != tt.want {
			t.Errorf("%q at %q: %s, want %s", tt.value, tt.date, got, tt.want)
		}
	}
}
