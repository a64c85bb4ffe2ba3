package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"tandem/ota/fault"
)

// errNoRange says that a server sent another range than was asked for, or none.
var errNoRange = errors.New("the server did not send the range that was asked for")

// statusError is an HTTP status that is no answer.
type statusError struct {
	code  int
	after time.Duration // which the server asked to be left alone
}

func (e statusError) Error() string { return "status " + strconv.Itoa(e.code) }

// lengthError is the length that a server announces, where it is not the one
// that was signed.
type lengthError int64

func (e lengthError) Error() string { return fmt.Sprintf("length %d", int64(e)) }

// strictClient stands between grab and the server. grab takes any 2xx for what
// it asked for and appends it to the part, sends a request first to learn of
// ranges, and writes as much as a server cares to send.
type strictClient struct {
	client   *http.Client
	size     int64
	limit    *rate.Limiter
	noRanges bool         // ask for the whole file
	step     int64        // how far the places to sync at are apart; 0 is nowhere
	sync     func() error // makes durable what was written
	came     func(n int) error
	skipped  atomic.Int64 // bytes that came and are here already
	whole    bool         // the server sent a whole file in place of a part
}

// Do implements grab.HTTPClient.
func (c *strictClient) Do(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodHead {
		// grab wants to know whether the server knows ranges. It is asked for
		// one, and its answer checked.
		return &http.Response{
			Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Accept-Ranges": {"bytes"}}, ContentLength: c.size, Body: http.NoBody, Request: req,
		}, nil
	}
	from := int64(0)
	if spec := req.Header.Get("Range"); spec != "" {
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(spec, "bytes="), "-"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("range %q: %w", spec, err)
		}
		from = n
	}
	ranged := from > 0 && !c.noRanges
	if !ranged {
		req.Header.Del("Range")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := c.check(resp, from, ranged); err != nil {
		resp.Body.Close()
		return nil, err
	}
	if c.came != nil {
		resp.Body = &meteredBody{resp.Body, c.came}
	}
	if c.limit != nil {
		resp.Body = &limitedBody{resp.Body, req.Context(), c.limit}
	}
	body := &exactBody{ReadCloser: resp.Body, left: c.size - from, skipped: &c.skipped, at: from, step: c.step, sync: c.sync, unsure: from > 0}
	c.whole = ranged && resp.StatusCode == http.StatusOK
	if resp.StatusCode == http.StatusOK && from > 0 {
		// The whole file: what is here already is passed over. That costs
		// the same bytes as to start over, and a part that is good stays if
		// this turns out to be something else.
		body.skip = from
		if resp.ContentLength >= 0 {
			resp.ContentLength -= from
		}
	}
	resp.Body = body
	return resp, nil
}

// check reports whether resp brings the file, whole or from that byte on.
func (c *strictClient) check(resp *http.Response, from int64, ranged bool) error {
	switch {
	case resp.StatusCode == http.StatusOK:
		if err := checkEncoding(resp); err != nil {
			return err
		}
		if resp.ContentLength >= 0 && resp.ContentLength != c.size {
			if ranged { // some send the rest alone and call it the whole
				return errNoRange
			}
			return lengthError(resp.ContentLength)
		}
		return nil
	case ranged && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return errNoRange
	case !ranged || resp.StatusCode != http.StatusPartialContent:
		return statusError{resp.StatusCode, fault.RetryAfter(resp.Header)}
	}
	first, last, total, ok := contentRange(resp.Header.Get("Content-Range"))
	switch {
	case !ok || first != from:
		return errNoRange
	case checkEncoding(resp) != nil, total >= 0 && total != c.size:
		return errNoRange // what it says without a range counts
	case last != c.size-1, resp.ContentLength >= 0 && resp.ContentLength != c.size-from:
		return errNoRange
	}
	return nil
}

// errEncoded says that a body is not sent as it is.
var errEncoded = errors.New("the body is encoded")

// checkEncoding returns an error for a body that was compressed on its way:
// lengths and ranges are those of the file.
func checkEncoding(resp *http.Response) error {
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return fmt.Errorf("%w: %.40q", errEncoded, enc)
	}
	return nil
}

// meteredBody tells how much of a body came, and ends where no more may.
type meteredBody struct {
	io.ReadCloser
	came func(n int) error
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		if e := b.came(n); e != nil {
			return n, e
		}
	}
	return n, err
}

var contentRangeForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)$`)
})

// contentRange reads a Content-Range header; total is -1 if it is not told.
func contentRange(header string) (first, last, total int64, ok bool) {
	m := contentRangeForm().FindStringSubmatch(header)
	if m == nil {
		return 0, 0, 0, false
	}
	// 18 digits always fit.
	first, _ = strconv.ParseInt(m[1], 10, 64)
	last, _ = strconv.ParseInt(m[2], 10, 64)
	total = -1
	if m[3] != "*" {
		total, _ = strconv.ParseInt(m[3], 10, 64)
	}
	return first, last, total, true
}

// limitedBody is a body that is read no faster than it may be. What is not read
// the server does not send, but for what the network holds.
type limitedBody struct {
	io.ReadCloser
	ctx   context.Context
	limit *rate.Limiter
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.limit.Burst())])
	if n > 0 {
		if waited := b.limit.WaitN(b.ctx, n); waited != nil {
			return n, waited
		}
	}
	return n, err
}

// exactBody is a body without what is to be skipped. It ends where the file does:
// whether more would come is not waited for.
type exactBody struct {
	io.ReadCloser
	skip    int64
	left    int64 // after what is skipped
	skipped *atomic.Int64
	at      int64 // place in the file, after what is skipped
	step    int64 // how far the places to sync at are apart; 0 is nowhere
	sync    func() error
	unsure  bool // what is before that place may not be synced
}

func (b *exactBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for b.skip > 0 {
		n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.skip)])
		b.skip -= int64(n)
		b.skipped.Add(int64(n))
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
	}
	// What was given before is written by now: grab reads and writes in turn.
	if b.unsure && b.step > 0 && b.at%b.step == 0 {
		if err := b.sync(); err != nil {
			return 0, err
		}
		b.unsure = false
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	most := min(int64(len(p)), b.left)
	if b.step > 0 {
		most = min(most, b.step-b.at%b.step)
	}
	n, err := b.ReadCloser.Read(p[:most])
	b.left -= int64(n)
	b.at += int64(n)
	b.unsure = b.unsure || n > 0
	return n, err
}
