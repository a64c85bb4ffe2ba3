package model

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/backup"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/internal/fsys/memfs/search"
	"tandem/ota"
	"tandem/ota/download"
	"tandem/packaging/bundle"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
	"tandem/packaging/trust"
)

// publisher is a repository in memory, which a device asks as it would a
// server. Its disk never fails.
type publisher struct {
	m    *memfs.Machine
	keys *signing.Ring
}

func (p *publisher) disk() *memfs.Disk { return p.m.Disk("server") }

func (p *publisher) repository() *repository.Repository {
	return repository.New(p.disk().Sub("repo"), p.m.Now, repository.Expiry{})
}

// newPublisher makes a repository that offers 1.0.0.
func newPublisher() *publisher {
	p := &publisher{m: memfs.NewMachine()}
	fs := p.m.NewDisk("server", memfs.Options{}).FS()
	must(fs.Mkdir("repo", 0o755))
	for _, d := range []string{"keys", "newer"} {
		must(fs.Mkdir(d, 0o755))
		must(signing.Generate(p.disk().Sub(d), rand.Reader, signing.GenerateOptions{}))
	}
	p.keys = signing.NewRing(nil, p.disk().Sub("keys"), p.disk().Sub("newer"))
	_, err := p.repository().Init(signing.NewRing(nil, p.disk().Sub("keys")))
	must(err)
	p.add("1.0.0")
	return p
}

func (p *publisher) root() *trust.Root { return get(p.repository().Root()) }

// add publishes a version, signed.
func (p *publisher) add(version string) {
	sign := get(signing.ForBundle(p.keys, p.root()))
	data := makeBundle(version, bundle.Signing{Sign: sign})
	_, err := p.repository().Add(context.Background(), bytes.NewReader(data), p.keys, repository.AddOptions{})
	must(err)
}

// rotate gives a role the newer key.
func (p *publisher) rotate(role string) {
	dir := p.disk().Sub("newer")
	newer := get(signing.NewRing(nil, dir).Public(role, dir.Path(".")))
	c := get(p.repository().StageRotate(role, newer, 1))
	_, err := c.Sign(p.keys)
	must(err)
	must(p.repository().Apply(c, p.keys))
}

// RoundTrip implements http.RoundTripper.
func (p *publisher) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: req}
	data, err := fsys.ReadFile(p.disk().Sub("repo"), strings.TrimPrefix(req.URL.Path, "/"), 1<<24)
	if err != nil {
		resp.StatusCode = http.StatusNotFound
	}
	resp.Status, resp.ContentLength = http.StatusText(resp.StatusCode), int64(len(data))
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return resp, nil
}

// poll asks for a release. root is what the device was provisioned with.
func (d *device) poll(p *publisher, root *trust.Root) (*ota.Offer, error) {
	client, state := &http.Client{Transport: p}, d.given(d.state())
	downloads, err := download.New(download.Options{FS: state, Client: client, Log: quiet()})
	if err != nil {
		return nil, err
	}
	r, err := ota.NewRepo(ota.RepoOptions{
		URL: "http://server/", Client: client, Now: d.m.Now, Log: quiet(),
		Store: ota.OpenStore(state, root, quiet()), Downloads: downloads,
	})
	if err != nil {
		return nil, err
	}
	look, err := d.reconciler().Look(context.Background(), backup.Options{})
	if err != nil && !errors.Is(err, backup.ErrNoApplication) {
		return nil, err
	}
	listing, err := r.List(context.Background())
	if err != nil {
		return nil, err
	}
	dec, err := listing.Choose(ota.Device{
		ID: "model", App: "hello", Compatible: []string{"model"}, Channels: []string{repository.DefaultChannel}, Installed: look.Version,
	})
	return dec.Best, err
}

// update polls, installs what is offered, and backs it up. The download goes
// by path, past the model: what it brings is as the server has it.
func (d *device) update(p *publisher, root *trust.Root) error {
	offer, err := d.poll(p, root)
	if err != nil || offer == nil {
		return err
	}
	name := path.Join("targets", offer.SHA256.String()+"."+offer.Name)
	data := get(fsys.ReadFile(p.disk().Sub("repo"), name, 1<<24))
	store := ota.OpenStore(d.given(d.state()), root, quiet())
	if err := d.installBundle(data, trust.Options{Root: store.Root(), Time: d.m.Now()}, backup.InstallOptions{Pending: true}); err != nil {
		return err
	}
	if err := d.boot(); err != nil {
		return err
	}
	return d.confirm()
}

// updateSearch is the search of an update that follows new roots on its way:
// trusted metadata is never older than it was, and whatever becomes of it the
// next update gets through.
func updateSearch(flavour string) *search.Case {
	p := newPublisher()
	root := p.root()
	var docs [][]byte // what may be stored, of all times
	roles := []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS}
	known := func(d *device) {
		store := ota.OpenStore(d.state(), root, quiet())
		for _, role := range roles {
			docs = append(docs, store.Document(role))
		}
	}
	sc := &scenario{
		name: "update, with new roots", goal: "1.1.0",
		prepare: func(d *device) {
			d.m.Advance(p.m.Now().Sub(d.m.Now()) + time.Hour)
			must(d.update(p, root))
			known(d)
			p.rotate(metadata.ROOT)
			p.rotate(metadata.TIMESTAMP)
			p.add("1.1.0")
			after := d.on(d.m.Clone())
			must(after.update(p, root))
			known(after)
		},
		work:    func(d *device) error { return d.update(p, root) },
		recover: func(d *device) error { return errors.Join(d.boot(), d.update(p, root)) },
		during: func(d *device) error {
			store := ota.OpenStore(d.state(), root, quiet())
			if store.Root().Version() < root.Version() {
				return fmt.Errorf("the root in force is version %d, it was %d", store.Root().Version(), root.Version())
			}
			for _, role := range roles {
				doc := store.Document(role)
				forgotten := doc == nil && role != metadata.TARGETS // its key was withdrawn
				if !forgotten && !slices.ContainsFunc(docs, func(k []byte) bool { return bytes.Equal(k, doc) }) {
					return fmt.Errorf("%s metadata is neither the old nor the new: %.60q", role, doc)
				}
			}
			return nil
		},
		after: func(d *device, _ string) error {
			store := ota.OpenStore(d.state(), root, quiet())
			if got, want := store.Root().Version(), p.root().Version(); got != want {
				return fmt.Errorf("the root in force is version %d, expected %d", got, want)
			}
			for i, role := range roles {
				if !bytes.Equal(store.Document(role), docs[len(roles)+i]) {
					return fmt.Errorf("%s metadata is not the newest", role)
				}
			}
			return nil
		},
	}
	c := sc.search(flavour)
	c.Expect = func(*memfs.Machine) string { return sc.goal } // whatever happened, the next poll gets it
	c.Done = nil
	return c
}
