package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tandem/packaging/repository"
)

// web serves a repository, remembers what was asked for, and does so badly
// where a test wants it.
type web struct {
	url string

	mu    sync.Mutex
	asked []asked
	bad   func(w http.ResponseWriter, r *http.Request, good http.Handler) // nil: it is well
}

// asked is a request: its path and the range that it asks for.
type asked struct{ path, ranges string }

// newWeb serves a repository on loopback.
func newWeb(t testing.TB, repo string) *web {
	t.Helper()
	root, err := os.OpenRoot(repo)
	if err != nil {
		t.Fatal(err)
	}
	good := repository.NewHandler(root)
	w := &web{}
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.asked = append(w.asked, asked{r.URL.Path, r.Header.Get("Range")})
		bad := w.bad
		w.mu.Unlock()
		if bad != nil {
			bad(rw, r, good)
		} else {
			good.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		root.Close()
	})
	w.url = s.URL
	return w
}

// be makes it answer badly; nil, well.
func (w *web) be(bad func(http.ResponseWriter, *http.Request, http.Handler)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad = bad
}

// requests gives those for paths that have a prefix.
func (w *web) requests(prefix string) []asked {
	w.mu.Lock()
	defer w.mu.Unlock()
	var some []asked
	for _, a := range w.asked {
		if strings.HasPrefix(a.path, prefix) {
			some = append(some, a)
		}
	}
	return some
}

// downloads returns how often the content of a bundle was asked for.
func (w *web) downloads() int {
	n := 0
	for _, a := range w.requests(bundles) {
		if !strings.HasPrefix(a.ranges, "bytes=0-") { // that is its head
			n++
		}
	}
	return n
}

// Where releases and metadata are.
const (
	bundles = "/targets/"
	polls   = "/metadata/timestamp.json"
)

// head is more than a bundle's first part, which says what is in it, takes; a
// download asks for it alone, and then for what the device lacks of the rest.
const head = 32 << 10

// stall sends half of a bundle's content and then nothing more.
func stall(w http.ResponseWriter, r *http.Request, good http.Handler) {
	if !strings.HasPrefix(r.URL.Path, bundles) {
		good.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	good.ServeHTTP(rec, r)
	data := rec.Body.Bytes()
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	if len(data) <= head {
		_, _ = w.Write(data)
		return
	}
	_, _ = w.Write(data[:len(data)/2])
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// repo is a repository of a test's own.
type repo struct {
	t   testing.TB
	dir string
}

// newRepo makes a repository with releases in it.
func newRepo(t testing.TB, versions ...string) *repo {
	t.Helper()
	r := &repo{t, filepath.Join(t.TempDir(), "repo")}
	if err := os.CopyFS(r.dir, os.DirFS(filepath.Join(pubDir, "empty"))); err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		r.add(v)
	}
	return r
}

func (r *repo) run(args ...string) {
	r.t.Helper()
	if err := release(args...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repo) add(version string, flags ...string) {
	r.t.Helper()
	r.run(append([]string{"repo", "add", r.dir, bundle(version), "--keys", "keys"}, flags...)...)
}

func (r *repo) yank(version string) {
	r.t.Helper()
	r.run("repo", "yank", r.dir, fmt.Sprint("hello/", version), "--keys", "keys")
}
