package hawkbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"tandem/internal/digest"
	"tandem/ota"
	"tandem/packaging/bundle"
)

// errMissing says that the server has no such file, or not for this device now.
var errMissing = errors.New("the server does not have it")

// isMissing tells by the status of an answer that no repetition brings the file. The server
// answers 400 where it does not like the name that it gave the file itself.
func isMissing(status int) bool {
	return status == http.StatusNotFound || status == http.StatusGone || status == http.StatusBadRequest
}

// look reads the head of each artifact of a deployment. An error says that not
// all could be looked at; what cannot be taken is no error.
func (s *Source) look(ctx context.Context, d *deployment) ([]found, error) {
	var all []found
	for _, c := range d.Chunks {
		for _, a := range c.Artifacts {
			if len(all) == maxParts {
				return nil, fmt.Errorf("%w: the action brings more than %d artifacts", ota.ErrRefused, maxParts)
			}
			x, err := s.lookAt(ctx, a)
			if err != nil {
				return nil, err
			}
			all = append(all, *x)
		}
	}
	return all, nil
}

func (s *Source) lookAt(ctx context.Context, a artifact) (*found, error) {
	x := &found{artifact: cutRunes(clean(a.Name), maxAttribute)}
	no := func(err error, code int) (*found, error) {
		x.failed, x.code = err.Error(), code
		return x, nil
	}
	var err error
	if x.sha256, err = digest.Parse(strings.ToLower(a.Hashes.SHA256)); err != nil {
		return no(errors.New("the server tells no SHA-256 of it"), codeOther)
	}
	if x.url, err = artifactURL(s.o.Origin, a.Links); err != nil {
		return no(err, codeOther)
	}
	x.head, err = s.inspect(ctx, x.url)
	if plus := spaced(x.url); errors.Is(err, errMissing) && plus != "" {
		x.url = plus
		x.head, err = s.inspect(ctx, x.url)
	}
	var bad *badHead
	switch {
	case errors.As(err, &bad):
		if errors.Is(err, bundle.ErrMalformed) {
			if err := s.isIt(ctx, x); err != nil {
				return nil, err
			}
		}
		return no(bad.error, s.o.Code(bad.error))
	case errors.Is(err, errMissing):
		return nil, fmt.Errorf("%s: %w", x.artifact, err)
	case err != nil:
		return nil, err
	}
	if s.o.Vouch == nil {
		return x, nil
	}
	err = s.o.Vouch(ctx, x.head)
	switch {
	case ctx.Err() != nil || errors.Is(err, ota.ErrUnreachable):
		return nil, err
	case err != nil:
		return no(err, s.o.Code(err))
	}
	return x, nil
}

// badHead says that a file is not one that the device may take.
type badHead struct{ error }

// Unwrap implements the interface of errors.Is.
func (b *badHead) Unwrap() error { return b.error }

// maxProof is how much is read of what is no bundle, to see that it is what the
// server has: a login page on the way is short.
const maxProof = 1 << 20

// isIt makes sure that what came for x is what the server has, by its hash. The error
// wraps errMissing if it is not, or if it is too long to tell.
func (s *Source) isIt(ctx context.Context, x *found) error {
	r := &pieces{ctx: ctx, client: s.o.Client, address: x.url, size: maxProof + 1}
	defer r.close()
	data, err := io.ReadAll(io.LimitReader(r, maxProof+1))
	if err == nil && digest.Of(data) != x.sha256 {
		err = fmt.Errorf("%s: no bundle, and not what was announced: %w", x.url, errMissing)
	}
	return err
}

// headTime bounds how long the head of a bundle may take to come.
const headTime = 10 * time.Minute

// inspect reads the head of the bundle at an address, and little more.
func (s *Source) inspect(ctx context.Context, address string) (*Head, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, headTime, errors.New("the head of the bundle took too long"))
	defer cancel()
	r := &pieces{ctx: ctx, client: s.o.Client, address: address, size: firstPiece}
	defer r.close()
	h, err := s.o.Inspect(ctx, r)
	switch {
	case r.err != nil: // whatever was made of it: the server or the link failed
		return nil, r.err
	case err != nil:
		return nil, &badHead{err}
	}
	return h, nil
}

// The first piece holds the whole head of most bundles.
const (
	firstPiece = 16 << 10
	maxPiece   = 1 << 20
)

// pieces reads a file range by range, as far as it is read: what is on its way when
// the reader has enough is not much. The server does not count ranges as downloads.
type pieces struct {
	ctx     context.Context
	client  *http.Client
	address string
	at      int64 // where the next piece begins
	size    int64 // of the next piece
	begun   int64 // where the present one begins
	body    io.ReadCloser
	plain   bool // it sends other ranges than it is asked for: the whole is
	whole   bool // the server sends no ranges: the present piece is all the rest
	err     error
}

func (p *pieces) close() {
	if p.body != nil {
		p.body.Close()
		p.body = nil
	}
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	if p.body == nil {
		if more, err := p.open(); err != nil || !more {
			p.err = err
			return 0, cmp.Or(err, io.EOF)
		}
	}
	n, err := p.body.Read(b)
	p.at += int64(n)
	switch {
	case err == io.EOF && !p.whole && p.at > p.begun: // it may be less than was asked for
		p.close()
		return n, nil
	case err != nil && err != io.EOF:
		p.err = unreachable(p.ctx, p.address, err)
		return n, p.err
	}
	return n, err
}

// open asks for the next piece. more is false at the end of the file.
func (p *pieces) open() (more bool, err error) {
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, p.address, nil)
	if err != nil {
		return false, err
	}
	shown := req.URL.Redacted()
	if !p.plain {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", p.at, p.at+p.size-1))
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return false, unreachable(p.ctx, shown, err)
	}
	p.body, p.begun = resp.Body, p.at
	p.size = min(2*p.size, maxPiece)
	switch {
	case resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", p.at)):
		return true, nil
	case !p.plain && (resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && p.at == 0):
		p.close()
		p.plain = true
		return p.open()
	case resp.StatusCode == http.StatusOK:
		p.whole = true
		if _, err := io.CopyN(io.Discard, p.body, p.at); err != nil {
			return false, unreachable(p.ctx, shown, err)
		}
		return true, nil
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return false, nil
	case isMissing(resp.StatusCode):
		return false, fmt.Errorf("%s: %w: %d", shown, errMissing, resp.StatusCode)
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return false, errDenied{ota.StatusError(shown, resp)}
	}
	return false, ota.StatusError(shown, resp)
}
