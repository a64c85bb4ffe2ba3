package ota

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"tandem/ota/fault"
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
	// CAs may vouch for a server, in place of those of TLS; nil leaves them.
	CAs *x509.CertPool
	// Origin is the URL of the server that Credentials are for. No other
	// server sees them: not one that it redirects to, nor the same host on
	// another port or without TLS.
	Origin      string
	Credentials Credentials
	// Received is told of the bytes of bodies as they are read; nil is nobody.
	Received func(n int)
	// Files lets the client read file URLs. It never follows a server there.
	Files bool
}

// Credentials show a server who asks. What is zero is not sent.
type Credentials struct {
	Token          string
	Scheme         string // of the token; "" is Bearer
	User, Password string // basic authentication, unless there is a token
	Certificate    *tls.Certificate
}

// String keeps credentials out of messages.
func (Credentials) String() string { return "credentials" }

// GoString keeps them out of those with %#v.
func (c Credentials) GoString() string { return c.String() }

// NewClient makes an HTTP client for metadata and downloads. It bounds every
// wait but that for a body, which whoever reads it watches. It never
// decompresses: lengths and hashes are those of the bytes sent.
//
// Where Origin is no URL, it is nobody's, and no one sees the credentials.
func NewClient(o ClientOptions) *http.Client {
	client := &http.Client{CheckRedirect: checkRedirect}
	c := o.Credentials
	origin, err := url.Parse(o.Origin)
	if c == (Credentials{}) || err != nil || origin.Host == "" {
		client.Transport = agent{o, newTransport(o, nil)}
		return client
	}
	at := &atOrigin{origin: serverOf(origin), home: newTransport(o, c.Certificate), abroad: newTransport(o, nil)}
	switch {
	case c.Token != "":
		at.authorization = cmp.Or(c.Scheme, "Bearer") + " " + c.Token
	case c.User != "":
		at.authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(c.User+":"+c.Password))
	}
	client.Transport = agent{o, at}
	return client
}

// newTransport makes a transport that shows certificate, if any, to every
// server who asks for one.
func newTransport(o ClientOptions, certificate *tls.Certificate) *http.Transport {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	config := &tls.Config{}
	if o.TLS != nil {
		config = o.TLS.Clone()
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if o.CAs != nil {
		config.RootCAs = o.CAs
	}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
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
	return t
}

// atOrigin shows credentials to one server, and to no other.
type atOrigin struct {
	origin        string
	authorization string // "": none but the certificate of home
	home, abroad  *http.Transport
}

// serverOf names a server: scheme, host and port.
func serverOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.ToLower(u.Scheme + "://" + net.JoinHostPort(u.Hostname(), port))
}

// RoundTrip implements http.RoundTripper.
func (a *atOrigin) RoundTrip(req *http.Request) (*http.Response, error) {
	if serverOf(req.URL) != a.origin {
		return a.abroad.RoundTrip(req)
	}
	if a.authorization != "" {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", a.authorization)
	}
	return a.home.RoundTrip(req)
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach them.
func (a *atOrigin) CloseIdleConnections() {
	a.home.CloseIdleConnections()
	a.abroad.CloseIdleConnections()
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

// agent names the program in each request, and counts what comes back.
type agent struct {
	o    ClientOptions
	next interface {
		http.RoundTripper
		CloseIdleConnections()
	}
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach them.
func (a agent) CloseIdleConnections() { a.next.CloseIdleConnections() }

func (a agent) RoundTrip(req *http.Request) (*http.Response, error) {
	if a.o.UserAgent != "" && req.Header.Get("User-Agent") == "" {
		req = req.Clone(req.Context())
		req.Header.Set("User-Agent", a.o.UserAgent)
	}
	resp, err := a.next.RoundTrip(req)
	if err == nil && a.o.Received != nil {
		resp.Body = &countedBody{resp.Body, a.o.Received}
	}
	return resp, err
}

type countedBody struct {
	io.ReadCloser
	received func(n int)
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.received(n)
	return n, err
}

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
		return document{}, fault.Unreachable(ctx, shown, err)
	}
	defer resp.Body.Close()
	if path.Base(req.URL.Path) == "timestamp.json" {
		r.fresh = maxAge(resp.Header)
	}
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
		return document{}, fault.BadStatus(shown, resp.StatusCode, fault.RetryAfter(resp.Header))
	}
	long := func() error {
		return &Problem{
			URL: shown, Found: fmt.Sprintf("the answer is longer than %d bytes", limit), Expected: "a repository's metadata",
			Advice: fault.AdviceProxy, Kind: ErrRefused,
		}
	}
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return document{}, &Problem{
			URL: shown, Found: fmt.Sprintf("the answer is encoded as %.40q", encoding), Expected: "the file as it is, as was asked for",
			Advice: "have the server, or the proxy before it, leave the repository's files uncompressed", Kind: ErrRefused,
		}
	}
	if resp.ContentLength > limit {
		return document{}, long()
	}
	body, err := r.readAll(ctx, cancel, io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return document{}, fault.Unreachable(ctx, shown, err)
	}
	if int64(len(body)) > limit {
		return document{}, long()
	}
	return document{status: http.StatusOK, body: body, etag: resp.Header.Get("ETag")}, nil
}

// documentFloor is how many bytes of a document must come in twice the stall
// timeout: with the usual 30 seconds, 136 bytes a second.
const documentFloor = 8 << 10

// readAll reads body to its end. When no byte comes for the stall timeout, or
// fewer than documentFloor in twice that, it calls cancel, which ends the read.
func (r *Repo) readAll(ctx context.Context, cancel context.CancelCauseFunc, body io.Reader) ([]byte, error) {
	silent := time.AfterFunc(r.o.Stall, func() { cancel(fault.ErrStalled) })
	defer silent.Stop()
	slow := time.AfterFunc(2*r.o.Stall, func() { cancel(fault.ErrSlow) })
	defer slow.Stop()
	var out []byte
	counted := 0
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
		silent.Reset(r.o.Stall)
		if len(out)-counted >= documentFloor {
			counted = len(out)
			slow.Reset(2 * r.o.Stall)
		}
	}
}
