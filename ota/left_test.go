package ota

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/backup"
	"tandem/ota/download"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
	"tandem/packaging/trust"
)

// A delta bundle is published while a device has most of the whole one already:
// what is still to come decides.
func TestWhatIsHereCounts(t *testing.T) {
	keys, app, out, dir := openDir(t), openDir(t), openDir(t), openDir(t)
	if err := signing.Generate(keys, rand.Reader, signing.GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	signer := signing.Dir{FS: keys}
	publisher := repository.New(dir, func() time.Time { return start }, repository.Expiry{})
	root := must[*trust.Root](t)(trust.ParseRoot(must[[]byte](t)(os.ReadFile(must[string](t)(publisher.Init(signer))))))
	for i := range 3 {
		content := make([]byte, 100<<10)
		_, _ = rand.Read(content)
		if err := os.WriteFile(app.Path(fmt.Sprint(i)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := bundle.Create(t.Context(), app, out, "whole", bundle.Options{
		App: "hello", Version: version(t, "2.0.0"), Compatible: []string{"demo"},
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
	f := must[*os.File](t)(os.Open(out.Path("whole")))
	defer f.Close()
	whole := must[release.Target](t)(publisher.Add(t.Context(), f, signer, repository.AddOptions{}))

	files := must[*os.Root](t)(os.OpenRoot(dir.Path(".")))
	defer files.Close()
	srv := httptest.NewServer(repository.NewHandler(files))
	defer srv.Close()
	state, client := openDir(t), srv.Client()
	r := must[*Repo](t)(NewRepo(RepoOptions{
		URL: srv.URL, Client: client, Store: OpenStore(state, root, quiet()), Now: func() time.Time { return start.Add(time.Hour) }, Log: quiet(),
		Downloads: must[*download.Downloader](t)(download.New(download.Options{FS: state, Client: client, Log: quiet()})),
		// The first file is here.
		Lacks: func(context.Context, *release.Manifest) (func(backup.Path) bool, error) {
			return func(p backup.Path) bool { return p != "0" }, nil
		},
	}))
	l := must[*Listing](t)(r.List(t.Context()))
	about := Device{ID: "gate-17", App: "hello", Compatible: []string{"demo"}, Channels: []string{"stable"}, Installed: version(t, "1.0.0")}
	from := whole
	from.Base = version(t, "1.0.0")
	small := Offer{Release: from, Name: "from-1.0.0", Size: 110 << 10}
	l.offers = append(l.offers, small)
	choice := func() string {
		t.Helper()
		return must[Decision](t)(l.Choose(about)).Best.Name
	}
	if got := choice(); got != small.Name {
		t.Fatalf("nothing of either is here, and %s is taken", got)
	}

	o := must[*Offer](t)(best(t.Context(), r, about))
	w, fetcher := r.wanted(*o), r.fetcher()
	if got := fetcher.left(w); got != w.Size {
		t.Errorf("nothing is here, and %d of %d bytes are left", got, w.Size)
	}
	spans := must[[]download.Span](t)(fetcher.plan(t.Context(), w))
	if len(spans) != 3 {
		t.Fatalf("%d spans, expected the head and two frames", len(spans))
	}
	if got, most := fetcher.left(w), spans[1].Length+spans[2].Length; got != most {
		t.Errorf("the head is here, and %d bytes are left: expected two frames, %d", got, most)
	}
	if got := choice(); got != small.Name {
		t.Errorf("two frames are to come, and %s is taken", got)
	}
	if _, err := r.o.Downloads.GetSpans(t.Context(), w.File, spans[:2], nil); err != nil {
		t.Fatal(err)
	}
	if got := fetcher.left(w); got != spans[2].Length {
		t.Errorf("%d bytes are left: expected one frame, %d", got, spans[2].Length)
	}
	if got := choice(); got != o.Name {
		t.Errorf("one frame of the whole bundle is to come, and %s is taken", got)
	}
}
