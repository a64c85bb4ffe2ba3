package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
)

// onAir is the job that counts what comes from a server.
const onAir = "bytes on the air, 1 % changed"

// air is how many bytes of an update come from a server, in one form.
type air struct {
	Form  string  `json:"form"`
	KB    float64 `json:"kb"`
	Ratio float64 `json:"ratio"` // to the changed files as zstd -19, with the manifest
}

// air updates a device from a repository with the next release in it, by frames and by
// a delta bundle. What is counted is all of bundles; the repository's own metadata comes on top.
func (l *lab) air(ctx context.Context) ([]air, error) {
	least, err := l.least(ctx)
	if err != nil {
		return nil, err
	}
	all := []air{{Form: "changed files, zstd -19, and the manifest", KB: float64(least) / 1000, Ratio: 1}}
	for _, form := range []struct{ name, deltas string }{{"tandem update, frames", "0"}, {"tandem update, delta bundle", "1"}} {
		n, err := l.fetched(ctx, form.deltas)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", form.name, err)
		}
		all = append(all, air{form.name, float64(n) / 1000, float64(n) / float64(least)})
	}
	return all, nil
}

// least returns the bytes that an update takes that knows the old release: of the changed
// files, each alone, and of the manifest.
func (l *lab) least(ctx context.Context) (int64, error) {
	n, err := takeOut(l.bundle(next), "release.json.zst", filepath.Join(l.tmp, "release.json.zst"))
	for i := range l.spec.onePercent(false) {
		out, e := exec.CommandContext(ctx, "zstd", "-19", "-c", filepath.Join(l.saved(next), name(i))).Output()
		n, err = n+int64(len(out)), errors.Join(err, e)
	}
	return n, err
}

// fetched returns how many bytes of bundles an update takes from a repository with so many delta bundles.
func (l *lab) fetched(ctx context.Context, deltas string) (int64, error) {
	repo := filepath.Join(l.tmp, "air"+deltas)
	err := os.CopyFS(repo, os.DirFS(filepath.Dir(l.root())))
	for _, tree := range []string{shipped, next} {
		err = errors.Join(err, command(ctx, nil, l.release, "repo", "add", repo, l.bundle(tree), "--deltas", deltas, "--keys", l.keys()))
	}
	if err != nil {
		return 0, err
	}
	var sent atomic.Int64
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	files := http.FileServer(http.Dir(repo))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if filepath.Base(filepath.Dir(r.URL.Path)) == "targets" {
			w = &counted{w, &sent}
		}
		files.ServeHTTP(w, r)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until it is closed
	}()
	defer func() { _ = server.Close(); <-done }()
	config, err := os.ReadFile(l.config())
	if err != nil {
		return 0, err
	}
	source := fmt.Sprintf("[source]\nurl = \"http://%s\"\n", listener.Addr())
	p := l.own("tandem update", "update").with(installed)
	p.argv[2] = filepath.Join(l.tmp, "air.toml")
	if err := os.WriteFile(p.argv[2], append(config, source...), 0o600); err != nil {
		return 0, err
	}
	old, updated := state{shipped, 1}, state{next, 2}
	j := job{onAir, sides{old, old}, sides{updated, updated}, []*program{p}}
	if err := errors.Join(l.before(ctx, j, p), command(ctx, nil, p.argv...)); err != nil {
		return 0, err
	}
	return sent.Load(), l.checkRun(ctx, j, p)
}

// counted counts what is sent.
type counted struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}
