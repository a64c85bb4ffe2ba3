package handover

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// serve answers each request with what was handed over with it.
func serve(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ConnContext: Context, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := File(r.Context())
		if f == nil {
			http.Error(w, "nothing was handed over", http.StatusNotFound)
			return
		}
		defer f.Close()
		if File(r.Context()) != nil {
			t.Error("it can be taken twice")
		}
		data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(data)
	})}
	go s.Serve(Listen(l.(*net.UnixListener))) // until Close
	t.Cleanup(func() { s.Close() })
	return name
}

// client hands f over with the first request on each of its connections.
func client(name string, f *os.File) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", name)
		if err != nil || f == nil {
			return c, err
		}
		return Offer(c.(*net.UnixConn), f), nil
	}}}
}

func get(t *testing.T, c *http.Client) string {
	t.Helper()
	resp, err := c.Post("http://agent/", "", strings.NewReader(strings.Repeat("a body of its own ", 10_000)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// What is handed over is the open file, whatever its name says by now.
func TestHandOver(t *testing.T) {
	name := serve(t)
	file := filepath.Join(t.TempDir(), "bundle")
	if err := os.WriteFile(file, []byte("of the caller"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	c := client(name, f)
	if got := get(t, c); got != "of the caller" {
		t.Errorf("got %q", got)
	}
	if got := get(t, c); got != "nothing was handed over" {
		t.Errorf("the next request on that connection got %q", got)
	}
	if got := get(t, client(name, nil)); got != "nothing was handed over" {
		t.Errorf("without a file: got %q", got)
	}
	if _, err := f.Stat(); err != nil {
		t.Errorf("the caller's own file: %v", err)
	}
}

// A file that nobody takes is closed with the connection.
func TestNotTaken(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := Listen(l.(*net.UnixListener)).Accept()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := Offer(here.(*net.UnixConn), w).Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), there.Close()); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the pipe's other end is held: %d, %v", n, err)
	}
	if err := there.(*taking).UnixConn.Close(); !errors.Is(err, net.ErrClosed) && !errors.Is(err, fs.ErrClosed) {
		t.Errorf("the connection: %v", err)
	}
}

// A read that fails tells so, and reads nothing: a caller that goes away before it has
// the whole answer is no panic.
func TestReadAfterReset(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	taken := Listen(l.(*net.UnixListener))
	defer taken.Close()
	caller, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := taken.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("an answer")); err != nil {
		t.Fatal(err)
	}
	caller.Close() // with the answer unread
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
