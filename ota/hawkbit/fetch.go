package hawkbit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/ota"
	"tandem/ota/download"
	"tandem/packaging/release"
)

// Fetch downloads an offer of the last View. Meanwhile the server is polled and
// told each tenth; where it withdraws the offer the download ends, and the error
// wraps ErrWithdrawn. What is on the disk afterwards is said at
// download.Downloader.Get.
func (s *Source) Fetch(ctx context.Context, o ota.Offer, p ota.Progress) (string, error) {
	st, part, err := s.offered(o)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", o.Name, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &watcher{s: s, number: st.Action.Number, query: st.Action.Query, cancel: cancel, tenths: make(chan int64, 1)}
	fetcher := s.fetcher(o, func() { cancel(errMissing) })
	var watching sync.WaitGroup
	stop, over := context.WithCancel(ctx)
	watching.Go(func() { w.watch(stop) })
	file, err := fetcher.Fetch(ctx, part.wanted(), func(done, total int64) {
		w.at(done, total)
		if p != nil {
			p(done, total)
		}
	})
	over()
	watching.Wait()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	switch {
	case errors.Is(err, errMissing):
		return "", fmt.Errorf("fetch %s: %w: %w", o.Name, ErrWithdrawn, s.lost(o.SHA256))
	case err != nil:
		return "", fmt.Errorf("fetch %s: %w", o.Name, err)
	}
	return file, s.fetched(ctx, o.SHA256)
}

// fetcher makes what fetches an offer's bundles. missing is told of one that is not there.
func (s *Source) fetcher(o ota.Offer, missing func()) *ota.Fetcher {
	t := &ranged{next: s.o.Client.Transport, missing: missing, links: map[string]string{}}
	t.renew = func(ctx context.Context, link string) string { return s.renew(ctx, o.SHA256, link) }
	return s.o.Fetcher(&http.Client{Transport: t, CheckRedirect: s.o.Client.CheckRedirect})
}

// renew asks the server for the links of an offer's bundles again, as some are good for a
// while only, and durably keeps them. It returns the one that takes the place of link: "" if
// there is none, or no other.
func (s *Source) renew(ctx context.Context, sum digest.SHA256, link string) string {
	st, p, err := s.offered(ota.Offer{SHA256: sum})
	if err != nil {
		return ""
	}
	d, err := s.c.deployment(ctx, "deploymentBase", offered{st.Action.Number, st.Action.Query})
	if err != nil {
		s.o.Log.WithError(err).Debug("the server was not asked for another link")
		return ""
	}
	found := ""
	for _, part := range []*Part{p, p.Whole} {
		if part == nil {
			continue
		}
		old := part.URL
		part.relink(s.o.Origin, d)
		if old == link && part.URL != old {
			found = part.URL
		}
	}
	if found != "" && s.save(st) != nil {
		return ""
	}
	return found
}

// relink takes the present link to the part's file from what the server says of its action.
func (p *Part) relink(origin string, d *deployment) {
	for _, c := range d.Chunks {
		for _, a := range c.Artifacts {
			if sum, err := digest.Parse(strings.ToLower(a.Hashes.SHA256)); err != nil || sum != p.SHA256 {
				continue
			}
			if at, err := artifactURL(origin, a.Links); err == nil && spaced(at) != p.URL {
				p.URL = at
			}
		}
	}
}

// wanted is the bundle of a part, as its signed head says. A firmware is fetched
// whole, as nothing is known of what is installed; so is a delta bundle, which has
// nothing that the device has.
func (p *Part) wanted() ota.Wanted {
	w := ota.Wanted{Head: p.Head, File: download.File{
		URL: p.URL, Size: p.Size, SHA256: p.SHA256, For: p.App, Room: p.Unpacked, Release: p.Release,
	}}
	if p.Kind != release.App || !p.Base.IsZero() {
		w.Head = 0
	}
	return w
}

// Cheapest returns the form of an offer that costs least, and fetches what it takes
// to know it.
func (s *Source) Cheapest(ctx context.Context, o ota.Offer) (ota.Form, error) {
	_, p, err := s.offered(o)
	if err != nil {
		return ota.Form{}, fmt.Errorf("%s: %w", o.Name, err)
	}
	form, err := s.fetcher(o, func() {}).Cheapest(ctx, p.wanted())
	if !p.Base.IsZero() {
		form.Kind = ota.DeltaBundle
	}
	return form, err
}

// Complete gets what a file that Fetch gave lacks of the files that want names.
func (s *Source) Complete(ctx context.Context, o ota.Offer, want func(backup.Path) bool) error {
	_, p, err := s.offered(o)
	if err == nil {
		err = s.fetcher(o, func() {}).Complete(ctx, p.wanted(), want)
	}
	if err != nil {
		return fmt.Errorf("complete %s: %w", o.Name, err)
	}
	return nil
}

// Rest returns the path of a file with what the delta bundle that Fetch gave cannot
// bring, out of the whole bundle of the same action: the frames that hold the files
// which want names, nil standing for all that the device lacks.
func (s *Source) Rest(ctx context.Context, o ota.Offer, want func(backup.Path) bool, p ota.Progress) (string, error) {
	_, part, err := s.offered(o)
	if err == nil && part.Whole == nil {
		err = fmt.Errorf("%w: the server's action brings no whole bundle of the release", ota.ErrRefused)
	}
	if err != nil {
		return "", fmt.Errorf("fetch more of %s: %w", o.Name, err)
	}
	file, err := s.fetcher(o, func() {}).Rest(ctx, part.Whole.wanted(), want, p)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", part.Whole.Artifact, err)
	}
	return file, nil
}

// offered finds what an offer of the last View is about.
func (s *Source) offered(o ota.Offer) (*State, *Part, error) {
	st, err := s.load()
	if err != nil {
		return nil, nil, err
	}
	p := st.part(o.SHA256)
	if p == nil {
		return nil, nil, ErrWithdrawn
	}
	return st, p, nil
}

// part finds a part of the open action by its file.
func (st *State) part(sum digest.SHA256) *Part {
	if st.Action == nil || st.Action.Step != Open {
		return nil
	}
	for i := range st.Action.Parts {
		if p := &st.Action.Parts[i]; p.SHA256 == sum && p.Failed == "" {
			return p
		}
	}
	return nil
}

// lost counts that a file was not there, though its action may still be. It
// returns errMissing.
func (s *Source) lost(sum digest.SHA256) error {
	st, err := s.load()
	if err != nil {
		return err
	}
	p := st.part(sum)
	if p == nil {
		return errMissing
	}
	if st.Action.Misses++; st.Action.Misses >= maxMisses {
		p.Failed, p.Code = fmt.Sprintf("%s: %s", p.Artifact, errMissing), codeOther
	}
	if err := s.save(st); err != nil {
		return err
	}
	return errMissing
}

// fetched durably notes that a file is here, and tells the server.
func (s *Source) fetched(ctx context.Context, sum digest.SHA256) error {
	st, err := s.load()
	if err != nil {
		return err
	}
	p := st.part(sum)
	if p == nil {
		return nil
	}
	if !p.Fetched {
		p.Fetched, st.Action.Misses = true, 0
		if err := s.save(st); err != nil {
			return err
		}
	}
	return s.tellFetched(ctx, st)
}

// tellFetched tells the server that all is here that it wants here and not
// installed yet, once. What does not reach it is told by the next Sync.
func (s *Source) tellFetched(ctx context.Context, st *State) error {
	a := st.Action
	if a == nil || a.Step != Open || a.Update != Skip || a.Told || !a.Looked {
		return nil
	}
	for _, p := range a.Parts {
		if !p.Fetched && !p.Had {
			return nil
		}
	}
	if err := s.progress(ctx, a.Number, status{Execution: downloaded}); err != nil {
		s.o.Log.WithError(err).Warn("the server was not told that the download is complete; it is tried again")
		return nil
	}
	a.Told = true
	return s.save(st)
}

// watcher is what goes on with the server while a file is downloaded.
type watcher struct {
	s      *Source
	number int64
	query  string
	cancel context.CancelCauseFunc
	tenths chan int64 // that are to be told; the newest at most
	last   atomic.Int64
}

// at takes how far the download has come.
func (w *watcher) at(done, total int64) {
	if total <= 0 {
		return
	}
	tenth := done * 10 / total
	if tenth <= w.last.Load() || tenth >= 10 {
		return
	}
	w.last.Store(tenth)
	select {
	case <-w.tenths: // nobody told the one before
	default:
	}
	w.tenths <- tenth
}

// minWatch and maxWatch bound how often the server is polled meanwhile.
const (
	minWatch = time.Second
	maxWatch = 5 * time.Minute
)

func (w *watcher) watch(ctx context.Context) {
	sleep := w.s.c.cache.base.sleep()
	for {
		timer, stop := w.s.o.After(min(max(sleep, minWatch), maxWatch))
		select {
		case <-ctx.Done():
			stop()
			return
		case tenth := <-w.tenths:
			stop()
			text := fmt.Sprintf("downloading: %d %%", tenth*10)
			if err := w.s.progress(ctx, w.number, status{Execution: proceeding, Details: []string{text}}); err != nil {
				w.s.o.Log.WithError(err).Debug("the progress could not be told")
			}
		case <-timer:
			b, err := w.s.c.poll(ctx)
			if err != nil {
				continue // the download itself finds out whether there is a network
			}
			sleep = b.sleep()
			if now, err := want(b); err == nil && now.deploy.number != w.number {
				w.cancel(ErrWithdrawn)
				return
			}
		}
	}
}

// ranged asks for ranges even where a file is wanted as a whole: the server
// counts whole downloads, and refuses them once there were too many. It asks for a link
// anew that is refused.
type ranged struct {
	next    http.RoundTripper
	missing func()                                                // is told of a file that is not there
	renew   func(ctx context.Context, link string) (other string) // that takes its place; "": none
	links   map[string]string                                     // that took the place of others
}

func (t *ranged) RoundTrip(req *http.Request) (*http.Response, error) {
	link := req.URL.String()
	if other, ok := t.links[link]; ok {
		req = at(req, other)
	}
	resp, err := t.ask(req)
	if err != nil || !isRefused(resp.StatusCode) {
		return resp, err
	}
	other := ""
	if req.Response == nil { // nobody redirected it
		other = t.renew(req.Context(), req.URL.String())
	}
	if other != "" {
		t.links[link] = other
		resp.Body.Close()
		resp, err = t.ask(at(req, other))
	}
	if err == nil && isMissing(resp.StatusCode) {
		t.missing()
	}
	return resp, err
}

// isRefused tells by the status of an answer that a link may lead nowhere any more.
func isRefused(status int) bool {
	return isMissing(status) || status == http.StatusUnauthorized || status == http.StatusForbidden
}

// at is the same request to another address.
func at(req *http.Request, address string) *http.Request {
	u, err := url.Parse(address)
	if err != nil {
		return req
	}
	other := req.Clone(req.Context())
	other.URL, other.Host = u, u.Host
	return other
}

func (t *ranged) ask(req *http.Request) (*http.Response, error) {
	whole, plain := req.Header.Get("Range") == "", req
	if whole {
		req = req.Clone(req.Context())
		req.Header.Set("Range", "bytes=0-")
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch {
	case whole && resp.Header.Get("Content-Range") == fmt.Sprintf("bytes 0-%d/%d", resp.ContentLength-1, resp.ContentLength):
		resp.StatusCode, resp.Status = http.StatusOK, "200 OK"
		resp.Header.Del("Content-Range")
	case whole && (resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable):
		resp.Body.Close() // it is another range
		return t.next.RoundTrip(plain)
	}
	return resp, nil
}
