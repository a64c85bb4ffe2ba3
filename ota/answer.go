package ota

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fresh is how long the server said that its last timestamp metadata stays
// current: a poll before that is for nothing. 0 says that it did not tell.
func (r *Repo) Fresh() time.Duration { return r.fresh }

// maxAge reads how long an answer stays fresh, as RFC 9111 has it: max-age of
// Cache-Control, less the time that the answer spent in caches.
func maxAge(h http.Header) time.Duration {
	for part := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch strings.ToLower(name) {
		case "no-cache", "no-store":
			return 0
		case "max-age":
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				return 0
			}
			age, _ := strconv.ParseUint(h.Get("Age"), 10, 31) // 0 where there is none
			return time.Duration(seconds-min(seconds, age)) * time.Second
		}
	}
	return 0
}
