package ota

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
	"tandem/packaging/trust"
)

func openDir(t *testing.T) *fsys.OS {
	t.Helper()
	o, err := fsys.OpenOS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// What tandem-release publishes and serves, a device finds and fetches, at the
// cost of one request when nothing has changed.
func TestPublishedRepository(t *testing.T) {
	keys, app, out, dir := openDir(t), openDir(t), openDir(t), openDir(t)
	if err := signing.Generate(keys, rand.Reader, signing.GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	signer := signing.Dir{FS: keys}
	publisher := repository.New(dir, func() time.Time { return start }, repository.Expiry{})
	rootFile := must[string](t)(publisher.Init(signer))
	provisioned := must[*trust.Root](t)(trust.ParseRoot(must[[]byte](t)(os.ReadFile(rootFile))))

	if err := os.WriteFile(app.Path("hello"), bytes.Repeat([]byte("hello "), 1000), 0o755); err != nil {
		t.Fatal(err)
	}
	release := func(v string) release.Target {
		t.Helper()
		_, err := bundle.Create(t.Context(), app, out, v, bundle.Options{
			App: "hello", Version: version(t, v), Compatible: []string{"demo"},
			Signing: bundle.Signing{Sign: func(targets *bundle.Targets) error {
				s, err := signer.Signer(metadata.TARGETS)
				if err != nil {
					return err
				}
				_, err = targets.Sign(s)
				return err
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		f := must[*os.File](t)(os.Open(out.Path(v)))
		defer f.Close()
		return must[release.Target](t)(publisher.Add(t.Context(), f, signer, repository.AddOptions{}))
	}
	release("1.1.0")
	want := release("1.2.0")

	root := must[*os.Root](t)(os.OpenRoot(dir.Path(".")))
	defer root.Close()
	requests := 0
	files := repository.NewHandler(root)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { requests++; files.ServeHTTP(w, req) }))
	defer srv.Close()

	d := &device{
		t: t, fs: openDir(t), root: provisioned, clock: start.Add(time.Hour), url: srv.URL, patience: time.Minute,
		about: Device{ID: "gate-17", App: "hello", Compatible: []string{"demo"}, Channels: []string{"stable"}, Installed: version(t, "1.0.0")},
	}
	d.wants("1.2.0")
	requests = 0
	d.wants("1.2.0")
	if requests != 1 {
		t.Errorf("an idle poll took %d requests", requests)
	}
	r := d.repo()
	o := must[*Offer](t)(best(t.Context(), r, d.about))
	if o.SHA256 != want.SHA256 || o.Size != want.Length || o.Name != want.Name {
		t.Errorf("offer %+v, want %+v", o, want)
	}
	path, err := r.Fetch(t.Context(), *o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := must[[]byte](t)(os.ReadFile(path)); digest.Of(got) != want.SHA256 {
		t.Errorf("%d other bytes than were published", len(got))
	}
}

func TestClient(t *testing.T) {
	var got http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { got = req.Header.Clone() }))
	defer srv.Close()
	client := NewClient(ClientOptions{UserAgent: "tandem/1.0", TLS: &tls.Config{MinVersion: tls.VersionTLS10}})
	defer client.CloseIdleConnections()
	resp, err := client.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if got.Get("User-Agent") != "tandem/1.0" || got.Get("Accept-Encoding") != "" {
		t.Errorf("headers %v", got)
	}
	transport := client.Transport.(agent).next.(*http.Transport)
	if v := transport.TLSClientConfig.MinVersion; v != tls.VersionTLS12 {
		t.Errorf("lowest TLS version %x", v)
	}
	if transport.ResponseHeaderTimeout == 0 || transport.TLSHandshakeTimeout == 0 || transport.IdleConnTimeout == 0 {
		t.Error("a wait without bound")
	}
	if _, err := client.Get("file:///etc/hostname"); err == nil {
		t.Error("a client without Files reads files")
	}
}

func TestRedirects(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		hops     int
		ok       bool
	}{
		{"http", "http", 1, true},
		{"http", "https", 1, true},
		{"https", "https", 9, true},
		{"https", "https", 10, false},
		{"https", "http", 1, false},
		{"http", "file", 1, false},
		{"https", "ftp", 1, false},
	} {
		via := make([]*http.Request, tt.hops)
		for i := range via {
			via[i] = &http.Request{URL: &url.URL{Scheme: tt.from}}
		}
		if err := checkRedirect(&http.Request{URL: &url.URL{Scheme: tt.to}}, via); (err == nil) != tt.ok {
			t.Errorf("%s to %s after %d: %v", tt.from, tt.to, tt.hops, err)
		}
	}
}
