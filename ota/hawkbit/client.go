package hawkbit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tandem/ota"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 4 << 20

// answerTime bounds how long an answer may take to come, as a whole.
const answerTime = 2 * time.Minute

// Cache is what a poll found last, so that an idle one costs one small
// conditional request. It is lost with the process; then the server is told all of
// the device once more, as an answer may have been cut off with it. A Cache is for
// one Source at a time.
type Cache struct {
	tag  string
	base base
	told bool // the server has heard from this process what the device is
}

// client speaks DDI.
type client struct {
	http  *http.Client
	at    address
	cache *Cache
}

// errVanished says that the server does not know what was asked about, or wants
// to hear no more of it.
var errVanished = errors.New("the server does not know the action any more")

// errDenied says that the server does not let the device in. It wraps
// ota.ErrUnreachable: all is kept until it does.
type errDenied struct{ error }

func (e errDenied) Unwrap() error { return e.error }

// Hint says what can be done.
func (errDenied) Hint() string {
	return "check that the server has this device (source.controller) with this token (source.target_token_file or gateway_token_file), and that it lets tokens in"
}

// reply is an answer that was read.
type reply struct {
	status int
	tag    string
	body   []byte
}

func (c *client) ask(ctx context.Context, method, address string, body any, tag string) (*reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errors.New("the answer took too long"))
	defer cancel()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/hal+json, application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	// A server of this interface redirects nobody: a login page does, to where what
	// the device tells is none of anybody's business.
	once := http.Client{Transport: c.http.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := once.Do(req)
	if err != nil {
		return nil, unreachable(ctx, req.URL.Redacted(), err)
	}
	defer resp.Body.Close()
	r := &reply{status: resp.StatusCode, tag: resp.Header.Get("ETag")}
	if r.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return nil, unreachable(ctx, req.URL.Redacted(), err)
	}
	if len(r.body) > maxAnswer {
		return nil, fmt.Errorf("%w: %s: an answer of more than %d bytes", ota.ErrRefused, req.URL.Redacted(), maxAnswer)
	}
	switch {
	case r.status == http.StatusUnauthorized || r.status == http.StatusForbidden:
		return nil, errDenied{ota.StatusError(req.URL.Redacted(), resp)}
	case r.status >= 500, r.status == http.StatusTooManyRequests && !isQuota(r.body):
		return nil, ota.StatusError(req.URL.Redacted(), resp)
	}
	return r, nil
}

// unreachable says that a request failed. When it was the caller who ended it,
// the error is the caller's.
func unreachable(ctx context.Context, shown string, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, context.Canceled) {
		return cause
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return fmt.Errorf("%w: %s: no answer: %w", ota.ErrUnreachable, shown, err)
}

// isQuota tells a quota that is used up, which no repetition helps, from a rate
// that was too high.
func isQuota(body []byte) bool {
	var e struct {
		Code string `json:"errorCode"`
	}
	return json.Unmarshal(body, &e) == nil && e.Code != ""
}

// unexpected says that an answer has a status that the interface does not know.
func unexpected(what string, status int) error {
	return fmt.Errorf("%w: %s: the server answered %d %s", ota.ErrUnreachable, what, status, http.StatusText(status))
}

func (c *client) read(r *reply, what string, into any) error {
	if err := json.Unmarshal(r.body, into); err != nil {
		return fmt.Errorf("%w: %s: an answer that is no JSON: %w", ota.ErrRefused, what, err)
	}
	return nil
}

func (c *client) poll(ctx context.Context) (*base, error) {
	r, err := c.ask(ctx, http.MethodGet, c.at.base(), nil, c.cache.tag)
	if err != nil {
		return nil, err
	}
	switch r.status {
	case http.StatusNotModified:
		return &c.cache.base, nil
	case http.StatusOK:
	default:
		return nil, unexpected("poll", r.status)
	}
	var b base
	if err := c.read(r, "poll", &b); err != nil {
		return nil, err
	}
	c.cache.tag, c.cache.base = r.tag, b
	return &b, nil
}

// deployment reads what an action brings; rel is deploymentBase or confirmationBase.
func (c *client) deployment(ctx context.Context, rel string, o offered) (*deployment, error) {
	r, err := c.ask(ctx, http.MethodGet, c.at.of(rel, o), nil, "")
	if err != nil {
		return nil, err
	}
	switch r.status {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("action %d: %w", o.number, errVanished)
	default:
		return nil, unexpected(rel, r.status)
	}
	var a answerBody
	if err := c.read(r, rel, &a); err != nil {
		return nil, err
	}
	d := a.Deployment
	if rel == "confirmationBase" {
		d = a.Confirmation
	}
	if d == nil {
		return nil, fmt.Errorf("%w: %s: an answer without what it is about", ota.ErrRefused, rel)
	}
	return d, nil
}

// report sends a feedback; rel is deploymentBase or cancelAction. What the server
// takes, or wants to hear no more of, is told. A report that the server finds too
// long or too much is errTooMuch.
func (c *client) report(ctx context.Context, rel string, number int64, s status) error {
	s.Details = cleanDetails(s.Details)
	return c.send(ctx, http.MethodPost, c.at.feedback(rel, number), fmt.Sprintf("action %d", number), feedback{s})
}

// errTooMuch says that the server refuses a report as it stands.
var errTooMuch = errors.New("the server refuses the report")

func (c *client) send(ctx context.Context, method, address, what string, body any) error {
	r, err := c.ask(ctx, method, address, body, "")
	if err != nil {
		return err
	}
	switch r.status {
	case http.StatusOK, http.StatusCreated, http.StatusNoContent:
		if len(r.body) > 0 && !json.Valid(r.body) {
			return fmt.Errorf("%w: %s: something else than the server answers", ota.ErrUnreachable, what)
		}
		return nil
	case http.StatusGone, http.StatusNotFound, http.StatusMethodNotAllowed:
		return fmt.Errorf("%s: %w", what, errVanished)
	case http.StatusBadRequest, http.StatusTooManyRequests, http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%s: %w: %d %s", what, errTooMuch, r.status, strings.TrimSpace(http.StatusText(r.status)))
	}
	return unexpected(what, r.status)
}

// final sends a report that must arrive: what the server refuses is sent again
// with nothing but the outcome. taken is false if the server wants no more reports
// of the action: it has heard one, or has dropped the action.
func (c *client) final(ctx context.Context, rel string, number int64, s status) (taken bool, err error) {
	err = c.report(ctx, rel, number, s)
	if errors.Is(err, errTooMuch) {
		s.Details, s.Code = nil, nil
		err = c.report(ctx, rel, number, s)
	}
	if errors.Is(err, errVanished) {
		return false, nil
	}
	return err == nil, err
}
