package hawkbit_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"tandem/test/hawkbit"
)

// Servers and what is before them answer oddly: it costs time, and nothing else. No
// report counts as told that did not reach the server, nobody else sees the token or
// what the device tells of itself, and once the server is well the action comes to its end.
func TestOddAnswers(t *testing.T) {
	page := func(w http.ResponseWriter, status int) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<html><body>Welcome to the hotel. Please log in.</body></html>")
	}
	endless := func(w http.ResponseWriter, r *http.Request, piece string) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, piece); err != nil {
				return
			}
		}
	}
	answers := map[string]func(w http.ResponseWriter, r *http.Request){
		"a login page":               func(w http.ResponseWriter, _ *http.Request) { page(w, http.StatusOK) },
		"a page of a proxy, 404":     func(w http.ResponseWriter, _ *http.Request) { page(w, http.StatusNotFound) },
		"a page of a proxy, 410":     func(w http.ResponseWriter, _ *http.Request) { page(w, http.StatusGone) },
		"a page of a proxy, 403":     func(w http.ResponseWriter, _ *http.Request) { page(w, http.StatusForbidden) },
		"bad gateway":                func(w http.ResponseWriter, _ *http.Request) { page(w, http.StatusBadGateway) },
		"redirected to another host": nil,
		"redirected as it is":        nil,
		"redirected in a circle":     nil,
		"too many requests": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"the token is not taken": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		"JSON of something else": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `[1,2,3]`) },
		"an empty answer":        func(w http.ResponseWriter, _ *http.Request) {},
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"con`)
			panic(http.ErrAbortHandler)
		},
		"endless":      func(w http.ResponseWriter, r *http.Request) { endless(w, r, strings.Repeat(" ", 64<<10)) },
		"endless JSON": func(w http.ResponseWriter, r *http.Request) { endless(w, r, strings.Repeat("[", 64<<10)) },
		"links to no action": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"_links":{"deploymentBase":{"href":"http://x/-1"}}}`)
		},
		"a sleep of a thousand years": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"config":{"polling":{"sleep":"99999999:00:00"}}}`)
		},
	}
	// What the server itself may answer to what is installed: that it does not know
	// the set, or that it does.
	asServer := []string{
		"a page of a proxy, 404", "a page of a proxy, 410", "JSON of something else", "an empty answer", "links to no action", "a sleep of a thousand years",
	}
	steps := map[string]func(r *http.Request) bool{
		"poll": func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/"+device) },
		"deployment": func(r *http.Request) bool {
			return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/deploymentBase/")
		},
		"a report":    func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/feedback") },
		"attributes":  func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/configData") },
		"installed":   func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/installedBase") },
		"an artifact": func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/artifacts/") },
	}
	for step, is := range steps {
		for name, answer := range answers {
			if step == "installed" && slices.Contains(asServer, name) {
				continue
			}
			t.Run(step+": "+name, func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				b.o.SetName = "hello"
				b.release("1.0.0")
				var told atomic.Int64 // what another host was told
				other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if body, _ := io.ReadAll(r.Body); r.Header.Get("Authorization") != "" || len(body) > 0 {
						told.Add(1)
					}
					page(w, http.StatusOK)
				}))
				defer other.Close()
				to := answer
				if strings.HasPrefix(name, "redirected") {
					to = func(w http.ResponseWriter, r *http.Request) {
						code := http.StatusFound
						target := strings.Replace(other.URL, "127.0.0.1", "localhost", 1) + r.URL.Path
						switch name {
						case "redirected as it is":
							code = http.StatusTemporaryRedirect
						case "redirected in a circle":
							code, target = http.StatusPermanentRedirect, r.URL.Path
						}
						http.Redirect(w, r, target, code)
					}
				}
				n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
				left := 2 // the third time that an artifact is not there is the outcome
				b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
					b.mu.Lock()
					odd := left > 0 && is(r)
					if odd {
						left--
					}
					b.mu.Unlock()
					if odd {
						to(w, r)
					}
					return odd
				})
				for range 12 {
					v, err := b.source().Sync(b.ctx, b.facts())
					if err != nil {
						continue
					}
					for _, o := range v.Offers {
						if _, err := b.source().Fetch(b.ctx, o, nil); err != nil {
							continue
						}
						b.installed[o.Release.App] = o.Release.Version.String()
						b.installs = append(b.installs, fmt.Sprint(o.Release.App, " ", o.Release.Version))
					}
				}
				b.sees(n, "finished", false)
				b.expectInstalls("hello 2.0.0")
				a, err := b.op.Attributes(b.ctx, device)
				b.check(err)
				if a["version.system"] != "2.0.0" {
					t.Errorf("the server has the attributes %v", a)
				}
				if step == "installed" {
					b.installed["hello"], b.failed["2.0.0"] = "1.0.0", "gone back from by hand"
					for range 4 {
						_, _ = b.source().Sync(b.ctx, b.facts())
					}
					b.installedIs("hello:1.0.0")
				}
				if told.Load() > 0 {
					t.Errorf("another host was told something %d times", told.Load())
				}
			})
		}
	}
}

// What serves the artifacts sends other ranges than it is asked for: they come all the same.
func TestOddRanges(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, data []byte, from, to int){
		"less": func(w http.ResponseWriter, data []byte, from, to int) {
			to = min(to, from+50)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[from:to])
		},
		"in blocks": func(w http.ResponseWriter, data []byte, from, _ int) {
			from -= from % 64
			to := min(from+64, len(data))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[from:to])
		},
		"not told": func(w http.ResponseWriter, data []byte, _, _ int) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data)
		},
		"none": func(w http.ResponseWriter, _ []byte, _, _ int) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
		"all": func(w http.ResponseWriter, data []byte, _, _ int) { _, _ = w.Write(data) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			data := pack("hello", "2.0.0", "", 2000) // as release makes it
			n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
			b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") == "" || !strings.Contains(r.URL.Path, "/artifacts/") {
					return false
				}
				from, to := 0, len(data)-1
				_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to) // the end may be missing
				answer(w, data, from, min(to+1, len(data)))
				return true
			})
			for range 3 {
				v, err := b.source().Sync(b.ctx, b.facts())
				b.check(err)
				for _, o := range v.Offers {
					_, err := b.source().Fetch(b.ctx, o, nil)
					b.check(err)
					b.installed["hello"] = "2.0.0"
				}
			}
			b.sees(n, "finished", false)
		})
	}
}
