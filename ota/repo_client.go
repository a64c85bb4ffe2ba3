package ota

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ClientOptions describes an HTTP client.
type ClientOptions struct {
	UserAgent string
	// Timeout bounds connecting, the TLS handshake and the wait for the head
	// of an answer, each. 0 is 30 seconds.
	Timeout time.Duration
	// Proxy chooses the proxy of a request, as http.ProxyFromEnvironment does.
	// nil is none.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS is the configuration to start from; nil is the system's trust. The
	// lowest version is TLS 1.2 whatever it says.
	TLS *tls.Config
	// Files lets the client read file URLs. It never follows a server there.
	Files bool
}

// NewClient makes an HTTP client for metadata and downloads. It bounds every
// wait but that for a body, which whoever reads it watches. It never
// decompresses: lengths and hashes are those of the bytes sent.
func NewClient(o ClientOptions) *http.Client {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	config := &tls.Config{}
	if o.TLS != nil {
		config = o.TLS.Clone()
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	t := &http.Transport{
		Proxy:                  o.Proxy,
		DialContext:            (&net.Dialer{Timeout: o.Timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    o.Timeout,
		ResponseHeaderTimeout:  o.Timeout,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    1,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	if o.Files {
		t.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	}
	return &http.Client{Transport: agent{o.UserAgent, t}, CheckRedirect: checkRedirect}
}

// checkRedirect keeps a server from sending the device to its own files, or
// from TLS to plain HTTP.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL.Scheme
	switch to := req.URL.Scheme; {
	case len(via) >= 10:
		return errors.New("redirected ten times")
	case to != "http" && to != "https", from == "https" && to == "http":
		return fmt.Errorf("redirected from %s to %s", from, to)
	}
	return nil
}

// agent names the program in each request.
type agent struct {
	name string
	next http.RoundTripper
}

func (a agent) RoundTrip(req *http.Request) (*http.Response, error) {
	if a.name != "" && req.Header.Get("User-Agent") == "" {
		req = req.Clone(req.Context())
		req.Header.Set("User-Agent", a.name)
	}
	return a.next.RoundTrip(req)
}

const (
	adviceNetwork = "check the network and source.url; nothing on the device has changed"
	adviceServer  = "check that source.url names a repository and that the server is well"
	adviceProxy   = "see whether a proxy or a login page answers in place of the server"
)

// document is an answer to a request for metadata.
type document struct {
	status int // 200, 304, or one that says that there is none
	body   []byte
	etag   string
}

// get requests a document of at most limit bytes, with etag as the version that
// is here already. Of an HTTP error only the status is told; those in missing
// are no errors.
func (r *Repo) get(ctx context.Context, address string, limit int64, etag string, missing ...int) (document, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return document{}, err
	}
	shown := req.URL.Redacted()
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := r.o.Client.Do(req)
	if err != nil {
		return document{}, unreachable(ctx, shown, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return document{status: resp.StatusCode}, nil
	default:
		for _, s := range missing {
			if s == resp.StatusCode {
				return document{status: s}, nil
			}
		}
		return document{}, badStatus(shown, resp.StatusCode)
	}
	long := func() error {
		return &Problem{
			URL: shown, Found: fmt.Sprintf("the answer is longer than %d bytes", limit), Expected: "a repository's metadata",
			Advice: adviceProxy, kind: ErrRefused,
		}
	}
	if resp.ContentLength > limit {
		return document{}, long()
	}
	body, err := r.readAll(ctx, cancel, io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return document{}, unreachable(ctx, shown, err)
	}
	if int64(len(body)) > limit {
		return document{}, long()
	}
	return document{status: http.StatusOK, body: body, etag: resp.Header.Get("ETag")}, nil
}

// errStalled says that a server stopped sending.
var errStalled = errors.New("the server stopped sending")

// readAll reads body to its end. When no byte comes for the stall timeout it
// calls cancel, which ends the read.
func (r *Repo) readAll(ctx context.Context, cancel context.CancelCauseFunc, body io.Reader) ([]byte, error) {
	timer := time.AfterFunc(r.o.Stall, func() { cancel(errStalled) })
	defer timer.Stop()
	var out []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		out = append(out, buf[:n]...)
		switch {
		case err == io.EOF:
			return out, nil
		case err != nil && ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			return nil, err
		}
		timer.Reset(r.o.Stall)
	}
}

// unreachable says that a request failed. When it was the caller who ended it,
// the error is the caller's.
func unreachable(ctx context.Context, shown string, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errStalled) {
		return cause
	}
	// http.Client puts the method and the URL in front; they are named here already.
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &Problem{URL: shown, Found: "no answer: " + err.Error(), Advice: adviceNetwork, kind: ErrUnreachable, cause: err}
}

// badStatus says that the server answered with an HTTP error.
func badStatus(shown string, status int) error {
	return &Problem{
		URL: shown, Found: strings.TrimSpace(fmt.Sprintf("the server answered %d %s", status, http.StatusText(status))),
		Expected: "200", Advice: adviceServer, kind: ErrUnreachable,
	}
}
