package main

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
	"tandem/versioning"
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

// What the suite does with the client, with a repository of ours.
func TestProtocol(t *testing.T) {
	keys, app, out, dir := openDir(t), openDir(t), openDir(t), openDir(t)
	if err := signing.Generate(keys, rand.Reader, signing.GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	signer := signing.Dir{FS: keys}
	publisher := repository.New(dir, time.Now, repository.Expiry{})
	root, err := publisher.Init(signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(app.Path("hello"), []byte("hello"), 0o755); err != nil {
		t.Fatal(err)
	}
	version, err := versioning.Parse("1.1.0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Create(t.Context(), app, out, "bundle", bundle.Options{
		App: "hello", Version: version, Compatible: []string{"demo"},
		Signing: bundle.Signing{Sign: func(targets *bundle.Targets) error {
			s, err := signer.Signer(metadata.TARGETS)
			if err == nil {
				_, err = targets.Sign(s)
			}
			return err
		}},
	}); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(out.Path("bundle"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	release, err := publisher.Add(t.Context(), file, signer, repository.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	served, err := os.OpenRoot(dir.Path("."))
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	srv := httptest.NewServer(repository.NewHandler(served))
	defer srv.Close()

	trusted, targets := t.TempDir(), t.TempDir()
	download := func(name string) []string {
		return []string{"--metadata-dir", trusted, "--metadata-url", srv.URL + "/metadata/", "--target-name", name, "--target-base-url", srv.URL + "/targets/", "--target-dir", targets, "download"}
	}
	for _, tt := range []struct {
		args []string
		ok   bool
	}{
		{[]string{"refresh"}, false},
		{[]string{"--metadata-dir", trusted, "explode"}, false},
		{[]string{"--metadata-dir", trusted, "--metadata-url", srv.URL + "/metadata/", "refresh"}, false}, // before init
		{[]string{"--metadata-dir", trusted, "init", root}, true},
		{[]string{"--metadata-dir", trusted, "--metadata-url", srv.URL + "/elsewhere/", "refresh"}, false},
		{[]string{"--metadata-dir", trusted, "--metadata-url", srv.URL + "/metadata/", "refresh"}, true},
		{download("another"), false},
		{download(release.Name), true},
		{download(release.Name), true},
	} {
		if err := run(t.Context(), tt.args, io.Discard); (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.args, err)
		}
	}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		if _, err := os.Stat(filepath.Join(trusted, role+".json")); err != nil {
			t.Error(err)
		}
	}
	want, err := os.ReadFile(out.Path("bundle"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(targets, release.Name)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes downloaded, %v, want %d", len(got), err, len(want))
	}
}
