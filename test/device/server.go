package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"sync"

	"tandem/packaging/repository"
)

// server serves the repository, and does what the lab in the machine asks for.
type server struct {
	url     string
	http    *http.Server
	root    *os.Root
	publish func(version string) error

	mu    sync.Mutex
	limit int // bytes after which a download gets no more; 0: all
	sent  int // bytes of bundles that went out since the last release
}

// newServer listens on loopback, where the machine finds it as 10.0.2.2.
func newServer(dir string, publish func(string) error) (*server, error) {
	root, err := os.OpenRoot(filepath.Join(dir, "repo"))
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{root: root, publish: publish}
	s.url = fmt.Sprintf("http://10.0.2.2:%d", l.Addr().(*net.TCPAddr).Port)
	mux := http.NewServeMux()
	repo := repository.NewHandler(root)
	mux.Handle("/repo/", http.StripPrefix("/repo", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Ext(r.URL.Path) == ".tandem" && r.Method == http.MethodGet {
			w = &slow{w, s, r}
		}
		repo.ServeHTTP(w, r)
	})))
	mux.HandleFunc("POST /publish/{version}", s.add)
	mux.HandleFunc("POST /limit/{bytes}", s.setLimit)
	mux.HandleFunc("GET /sent", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		fmt.Fprintln(w, s.sent)
	})
	s.http = &http.Server{Handler: mux}
	go func() { _ = s.http.Serve(l) }()
	return s, nil
}

func (s *server) close() {
	s.http.Close()
	s.root.Close()
}

// add publishes a release and says how large its bundle is.
func (s *server) add(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.sent = 0
	s.mu.Unlock()
	version := r.PathValue("version")
	if err := s.publish(version); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	info, err := os.Stat(filepath.Join(s.root.Name(), "..", bundle(version)))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, info.Size())
}

func (s *server) setLimit(w http.ResponseWriter, r *http.Request) {
	n := 0
	if _, err := fmt.Sscan(r.PathValue("bytes"), &n); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = n
}

// slow is a download that stands still at the limit until the device is gone.
type slow struct {
	http.ResponseWriter
	s *server
	r *http.Request
}

func (w *slow) Write(p []byte) (int, error) {
	w.s.mu.Lock()
	limit := w.s.limit
	w.s.mu.Unlock()
	if limit > 0 && w.s.count(0)+len(p) > limit {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		<-w.r.Context().Done()
		return 0, w.r.Context().Err()
	}
	n, err := w.ResponseWriter.Write(p)
	w.s.count(n)
	return n, err
}

func (s *server) count(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent += n
	return s.sent
}
