// Package fault has the errors of a source, and says what a server did wrong.
package fault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tandem/internal/fsys"
)

// Sentinels of this package.
var (
	// ErrUnreachable says that the source gave no answer that is one: no such
	// host, refused, timed out, cut off, or an HTTP error.
	ErrUnreachable = errors.New("source unreachable")
	// ErrRefused says that the source answered and that the answer is not
	// trusted: signature, expiry, an older version, length or hash.
	ErrRefused = errors.New("answer of the source refused")
	// ErrNoSpace says that the agent's state directory has not enough room. It
	// wraps syscall.ENOSPC.
	ErrNoSpace = fmt.Errorf("not enough space: %w", syscall.ENOSPC)
	// ErrBudget says that a release would cost more bytes than it may.
	ErrBudget = errors.New("more bytes than may be downloaded")
	// ErrNotWritable says that the agent's state directory may not be written.
	ErrNotWritable = errors.New("not writable")
)

// Problem is an error with a source: what went wrong where, what was expected,
// and what can be done. It wraps ErrUnreachable or ErrRefused, and the cause.
type Problem struct {
	URL      string // without its password
	Found    string
	Expected string // "" if that goes without saying
	Advice   string // what to do
	// RetryAfter is how long the server asked to be left alone; 0 if it did not.
	RetryAfter time.Duration

	Kind  error // ErrUnreachable or ErrRefused
	Cause error // nil if there is none
}

func (p *Problem) Error() string {
	s := p.URL + ": " + p.Found
	if p.Expected != "" {
		s += ": expected " + p.Expected
	}
	return s
}

// Unwrap returns the sentinel, and the cause if there is one.
func (p *Problem) Unwrap() []error {
	if p.Cause == nil {
		return []error{p.Kind}
	}
	return []error{p.Kind, p.Cause}
}

// Hint says what can be done.
func (p *Problem) Hint() string { return p.Advice }

// Unwritable adds the sentinel to an error of the state directory.
func Unwritable(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrNoSpace), errors.Is(err, ErrNotWritable):
		return err
	case fsys.IsNoSpace(err):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case fsys.IsNotWritable(err):
		return fmt.Errorf("%w: %w", ErrNotWritable, err)
	}
	return err
}

// What can be done about usual problems.
const (
	AdviceNetwork = "check the network and source.url; nothing on the device has changed"
	AdviceServer  = "check that source.url names a repository and that the server is well"
	AdviceMixed   = "see whether the server, or a cache before it, mixes two states of the repository; ask again later"
	AdviceProxy   = "see whether a proxy or a login page answers in place of the server"
)

// The ways to keep a device waiting. A server that sends a byte now and then is
// no better than one that is silent (a slow retrieval attack).
var (
	ErrStalled = errors.New("the server stopped sending")
	ErrSlow    = errors.New("the server sends too slowly")
)

// Unreachable says that a request failed. When it was the caller who ended it,
// the error is the caller's.
func Unreachable(ctx context.Context, shown string, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, ErrStalled) && !errors.Is(cause, ErrSlow) {
		return cause
	}
	// http.Client puts the method and the URL in front; they are named here already.
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &Problem{URL: shown, Found: "no answer: " + err.Error(), Advice: adviceNoAnswer(err), Kind: ErrUnreachable, Cause: err}
}

// adviceNoAnswer says what can be done where no answer came.
func adviceNoAnswer(err error) string {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "see whether this device's clock is right; if it is, the server needs a new certificate"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "name in source.ca the authority that vouches for the server, and the server in source.url as its certificate does; else something between answers in its place"
	}
	return AdviceNetwork
}

// BadStatus says that the server answered with an HTTP error. after is how long
// it asked to be left alone.
func BadStatus(shown string, status int, after time.Duration) error {
	p := &Problem{
		URL: shown, Found: strings.TrimSpace(fmt.Sprintf("the server answered %d %s", status, http.StatusText(status))),
		Expected: "200", Advice: AdviceServer, RetryAfter: after, Kind: ErrUnreachable,
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		p.Advice = "check the credentials in [source]: token_file, user and password_file, client_cert"
	case http.StatusProxyAuthRequired:
		p.Advice = "the proxy asks who you are: HTTPS_PROXY or HTTP_PROXY in the environment can name a user and a password"
	case http.StatusNetworkAuthenticationRequired:
		p.Advice = AdviceProxy
	}
	return p
}

// RetryAfter reads how long a server asks to be left alone; 0 if it does not.
// A date is held against the server's own clock: the device may have none.
func RetryAfter(h http.Header) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(math.MaxInt64/time.Second))) * time.Second
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	return max(until.Sub(now), 0)
}

// StatusError describes an HTTP error of a server. It is a *Problem that wraps
// ErrUnreachable and says how long the server asked to be left alone.
func StatusError(shown string, resp *http.Response) error {
	return BadStatus(shown, resp.StatusCode, RetryAfter(resp.Header))
}
