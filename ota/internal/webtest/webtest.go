// Package webtest is a web server for tests.
package webtest

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/internal/digest"
)

// Server serves files, as a good server does, unless told
// otherwise. It remembers what it was asked.
type Server struct {
	*httptest.Server
	mu    sync.Mutex
	Files map[string][]byte // what is served
	asked []string
	sent  int64 // bytes of bodies under /targets/
	// odd answers in place of the good server if it returns true.
	odd func(w http.ResponseWriter, req *http.Request) bool
	// Gone is closed when the server is to let go of requests it left hanging.
	Gone chan struct{}
}

// New starts a server.
func New(t testing.TB, files map[string][]byte) *Server {
	s := &Server{Files: maps.Clone(files), Gone: make(chan struct{})}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() { close(s.Gone); s.Close() })
	return s
}

type countingWriter struct {
	http.ResponseWriter
	s *Server
}

func (c countingWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.s.mu.Lock()
	c.s.sent += int64(n)
	c.s.mu.Unlock()
	return n, err
}

func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, req.Method+" "+req.URL.Path)
	odd := s.odd
	data, ok := s.Files[req.URL.Path]
	s.mu.Unlock()
	if strings.HasPrefix(req.URL.Path, "/targets/") {
		w = countingWriter{w, s}
	}
	switch {
	case odd != nil && odd(w, req):
	case !ok:
		http.Error(w, "secret page of the server", http.StatusNotFound)
	default:
		w.Header().Set("ETag", `"`+digest.Of(data).String()+`"`)
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
	}
}

// Serve replaces what is served, and forgets what was asked.
func (s *Server) Serve(files map[string][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Files, s.asked, s.sent, s.odd = maps.Clone(files), nil, 0, nil
}

// Misbehave lets odd answer first; nil is nobody.
func (s *Server) Misbehave(odd func(w http.ResponseWriter, req *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.odd = odd
}

// Requests returns what was asked.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// BytesSent returns how many bytes of bodies under /targets/ were sent.
func (s *Server) BytesSent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// Hang answers nothing until the client goes away.
func (s *Server) Hang(req *http.Request) {
	select {
	case <-req.Context().Done():
	case <-s.Gone:
	}
}

// Handler answers a request if it returns true.
type Handler = func(w http.ResponseWriter, req *http.Request) bool

func (c countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// Times lets the first n requests be answered by h.
func Times(n int, h Handler) Handler {
	var asked atomic.Int64
	return func(w http.ResponseWriter, req *http.Request) bool {
		if asked.Add(1) > int64(n) {
			return false
		}
		return h(w, req)
	}
}

// Raw answers with a status, headers, and a body whose length is not told.
func Raw(status int, body []byte, headers ...string) Handler {
	return func(w http.ResponseWriter, req *http.Request) bool {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		http.NewResponseController(w).Flush()
		w.Write(body)
		return true
	}
}

// Endless sends a body without end, and says nothing of its length.
func Endless(path string, s *Server) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != path {
			return false
		}
		for req.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				break
			}
		}
		return true
	}
}
