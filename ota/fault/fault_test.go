package fault

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What can be done is said of what stands in the way: a certificate, a proxy, a network
// that asks for a login.
func TestAdvice(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	_, untrusted := (&http.Client{Transport: &http.Transport{}}).Get(server.URL)
	trusting := server.Client()
	trusting.Transport.(*http.Transport).TLSClientConfig.ServerName = "another.example"
	_, misnamed := trusting.Get(server.URL)
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"an authority that is not known": {Unreachable(t.Context(), server.URL, untrusted), "source.ca"},
		"the certificate of another":     {Unreachable(t.Context(), server.URL, misnamed), "source.url as its certificate does"},
		"a proxy's login":                {BadStatus(server.URL, http.StatusProxyAuthRequired, 0), "HTTPS_PROXY"},
		"a network's login":              {BadStatus(server.URL, http.StatusNetworkAuthenticationRequired, 0), "login page"},
		"no such file":                   {BadStatus(server.URL, http.StatusNotFound, 0), "names a repository"},
	} {
		var p *Problem
		if !errors.As(c.err, &p) || !strings.Contains(p.Hint(), c.want) {
			t.Errorf("%s: %v: %q: expected %q", name, c.err, p.Hint(), c.want)
		}
	}
}

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
