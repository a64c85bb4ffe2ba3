package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/cenkalti/backoff/v5"

	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/ota/fault"
	"tandem/packaging/bundle"
)

// ErrNoRanges says that a server does not send parts of a file, or makes a mess
// of it: only the whole file can be had from there.
var ErrNoRanges = errors.New("the server sends no parts of files")

// maxShort is how often a server may send less than it was asked for.
const maxShort = 8

// Span is a part of a file.
type Span struct {
	At, Length int64
	// Check returns why these bytes are not what belongs there.
	Check func([]byte) error
}

// Missing returns how many bytes GetSpans would fetch. Spans must be in order,
// and none may reach into the next.
func (d *Downloader) Missing(f File, spans []Span) (int64, error) {
	g, err := d.gather(f, spans, nil)
	if err != nil {
		return 0, err
	}
	defer g.close()
	if err := g.look(); err != nil {
		return 0, fault.Unwritable(err)
	}
	return g.lacks(), nil
}

// GetSpans returns the path of a file of f's size that has the right bytes at
// each span; elsewhere it has what it has. Spans must be in order, and none may
// reach into the next. A span whose bytes are there and right is not fetched
// again, and of another one only what is not there. The name in f.URL is taken
// to stand for one content: no entity tag is asked about, but each span is
// checked.
//
// The error wraps ErrNoRanges where the server sends the whole file in place of
// a part, or anything else than what it was asked for; that is remembered, and
// the beginning of the file, if that was asked for, is taken all the same. It wraps ErrRefused where
// what it sends for a span is wrong twice. After success the spans are durable.
// After an error or a power cut what came is there, up to the last place at
// which it was synced for sure.
func (d *Downloader) GetSpans(ctx context.Context, f File, spans []Span, p Progress) (string, error) {
	g, err := d.gather(f, spans, p)
	if err != nil {
		return "", err
	}
	defer g.close()
	defer g.meter.close()
	err = g.get(ctx)
	d.hopeless[f.For] = err != nil && !g.later && ctx.Err() == nil
	if err != nil {
		return "", err
	}
	return d.o.FS.Path(g.frames), nil
}

// Whole reports whether the server was found to send f whole only.
func (d *Downloader) Whole(f File) bool {
	var whole bool
	_, err := record.ReadJSON(d.o.FS, wholeKind, f.stem()+".whole", maxNote, &whole)
	return err == nil && whole
}

// ReadSpan returns the bytes of a span that GetSpans has brought.
func (d *Downloader) ReadSpan(f File, s Span) ([]byte, error) {
	g, err := d.gather(f, []Span{s}, nil)
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.open(false); err != nil {
		return nil, err
	}
	data, err := g.read(&g.spans[0])
	if err != nil {
		return nil, err
	}
	return data, s.Check(data)
}

// Seed lets a Get of f go on from the beginning of the file, which is known, if
// nothing of it is here yet.
//
// After an error or a power cut less may be there than was given.
func (d *Downloader) Seed(f File, head []byte) error {
	t, err := d.transfer(f, nil)
	if err != nil {
		return err
	}
	if err := t.clear(); err != nil {
		return fault.Unwritable(err)
	}
	if have, err := t.size(); err != nil || have > 0 {
		return err
	}
	if _, err := t.doubt(0); err != nil {
		return fault.Unwritable(err)
	}
	err = os.WriteFile(d.o.FS.Path(t.part), head, 0o600)
	if err == nil {
		err = t.sync()
	}
	if err != nil {
		_ = t.discard()
	}
	return fault.Unwritable(err)
}

func (p *piece) end() int64 { return p.At + p.Length }

// gather is one call of GetSpans.
type gather struct {
	*transfer
	spans []piece
	file  *os.File // nil until it is there
	size  int64    // of it
	step  int64    // how far the places to sync at are apart
	loose int64    // bytes that were written and not synced
	total int64    // that were to be fetched at the start
	short int      // how often less came than was asked for
}

// piece is a span and what is there of it.
type piece struct {
	Span
	have   int64 // from its beginning; all of it only once it was checked
	unsure bool  // some of that came before, and may be torn
	bad    bool  // it was wrong once
}

func (d *Downloader) gather(f File, spans []Span, p Progress) (*gather, error) {
	t, err := d.transfer(f, p)
	if err != nil {
		return nil, err
	}
	g := &gather{transfer: t}
	var wanted, at int64
	for _, s := range spans {
		if s.At < at || s.Length <= 0 || s.Length > f.Size-s.At || s.Check == nil {
			return nil, fmt.Errorf("%s: bytes %d to %d are no part of it that can be asked for", t.shown, s.At, s.At+s.Length)
		}
		at = s.At + s.Length
		wanted += s.Length
		g.spans = append(g.spans, piece{Span: s})
	}
	// A power cut costs one step, two at most: ten of them 2 % of much, and no
	// more than a page or two of flash each of little.
	g.step = max(wanted/1024, 2<<10)
	g.here = func() (int64, error) { return g.present(), nil }
	return g, nil
}

func (g *gather) close() {
	if g.file != nil {
		g.file.Close()
	}
}

// open opens the file; only write makes it.
func (g *gather) open(write bool) error {
	if g.file != nil {
		return nil
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | os.O_CREATE
	}
	file, err := os.OpenFile(g.o.FS.Path(g.frames), flags, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	g.file, g.size = file, info.Size()
	return nil
}

// read returns the bytes of a piece as they are; what the file lacks is zeros.
func (g *gather) read(p *piece) ([]byte, error) {
	data := make([]byte, p.Length)
	n, err := g.file.ReadAt(data, p.At)
	if err == io.EOF {
		err = nil
		clear(data[n:])
	}
	return data, err
}

// look finds out what is there. What it cannot read is not there.
func (g *gather) look() error {
	info, err := g.o.FS.Lstat(g.frames)
	switch {
	case fsys.IsNotExist(err):
		return nil
	case err != nil:
		return err
	case info.Type != fsys.TypeFile:
		return nil
	}
	if err := g.open(false); err != nil {
		return err
	}
	torn := !g.o.wroteHere(g.boot)
	for i := range g.spans {
		p := &g.spans[i]
		if p.At >= g.size {
			continue
		}
		data, err := g.read(p)
		if err != nil {
			g.o.Log.WithError(err).Debug("a part of a download cannot be read: fetched again")
			continue
		}
		if p.Check(data) == nil {
			p.have = p.Length
			continue
		}
		// Its end is told by the zeros that nobody wrote over; where it ends in
		// zeros itself these come once more.
		p.have = int64(len(bytes.TrimRight(data, "\x00")))
		if torn && p.have > 0 {
			p.have = max((p.At+p.have-1)/g.step*g.step-p.At, 0)
		}
		if p.have == p.Length {
			p.have = 0
		}
		p.unsure = p.have > 0
	}
	return nil
}

// present returns how many bytes of the spans are there.
func (g *gather) present() (n int64) {
	for i := range g.spans {
		n += g.spans[i].have
	}
	return n
}

// segment is what one request asks for: it begins in one piece and may reach
// over several.
type segment struct {
	from, to    int64
	first, last int // pieces
}

// segments returns what is to be asked for, nearby pieces together.
func (g *gather) segments() (list []segment) {
	for i := range g.spans {
		p := &g.spans[i]
		if p.have == p.Length {
			continue
		}
		s := segment{p.At + p.have, p.end(), i, i}
		if n := len(list) - 1; n >= 0 && s.from-list[n].to <= bundle.JoinGap {
			list[n].to, list[n].last = s.to, i
			continue
		}
		list = append(list, s)
	}
	return list
}

// lacks returns how many bytes are to be fetched.
func (g *gather) lacks() (n int64) {
	for _, s := range g.segments() {
		n += s.to - s.from
	}
	return n
}

func (g *gather) get(ctx context.Context) error {
	if err := g.clear(); err != nil {
		return fault.Unwritable(err)
	}
	if err := g.look(); err != nil {
		return fault.Unwritable(err)
	}
	g.close()
	g.file = nil
	g.total = g.lacks()
	if err := g.meter.allows(g.total); err != nil {
		return err
	}
	if g.total > 0 {
		if err := g.makeRoom(g.present(), g.total); err != nil {
			return fault.Unwritable(err)
		}
	}
	part, err := g.transfer.size()
	if err == nil {
		_, err = g.doubt(part)
	}
	if err == nil {
		err = g.open(true)
	}
	if err == nil && g.size != g.f.Size {
		err = g.file.Truncate(g.f.Size)
	}
	if err != nil {
		return fault.Unwritable(err)
	}
	g.most = g.present()
	if err := g.run(ctx); err != nil {
		return err
	}
	if err := g.file.Sync(); err != nil {
		_ = os.Remove(g.file.Name()) // the data is in doubt
		return fault.Unwritable(err)
	}
	return fault.Unwritable(g.o.FS.SyncDir(downloadDir))
}

// run fetches what is missing.
func (g *gather) run(ctx context.Context) error {
	g.retries = &retries{BackOff: g.o.Backoff(), left: g.o.Attempts}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := g.all(ctx)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return struct{}{}, backoff.Permanent(cause)
		}
		if err == nil {
			return struct{}{}, nil
		}
		if errors.Is(err, errNoRange) {
			return struct{}{}, backoff.Permanent(fmt.Errorf("%s: %w: %w", g.shown, ErrNoRanges, err))
		}
		err = g.forCaller(err)
		var permanent *backoff.PermanentError
		g.later = !errors.As(err, &permanent)
		return struct{}{}, err
	}, backoff.WithBackOff(g.retries), backoff.WithMaxElapsedTime(0), backoff.WithNotify(g.notify))
	var permanent *backoff.PermanentError
	if errors.As(err, &permanent) {
		return permanent.Unwrap()
	}
	return err
}

// all makes the requests that are needed, one after the other.
func (g *gather) all(ctx context.Context) error {
	for {
		list := g.segments()
		if len(list) == 0 {
			return nil
		}
		if g.Whole(g.f) {
			return errNoRange
		}
		if err := g.request(ctx, list[0]); err != nil {
			return err
		}
	}
}

// request asks for one segment, and writes and checks what comes.
func (g *gather) request(ctx context.Context, s segment) error {
	if err := g.meter.allows(s.to - s.from); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.f.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", s.from, s.to-1))
	w := &spanWriter{gather: g, segment: s, at: s.from, next: s.first}
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		var skipped atomic.Int64
		g.watch(done, w.arrived.Load, s.to-s.from, &skipped, cancel)
	}()
	err = g.exchange(req, w)
	close(done)
	<-watched
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, fault.ErrStalled) || errors.Is(cause, fault.ErrSlow)) {
		return cause
	}
	return err
}

func (g *gather) exchange(req *http.Request, w *spanWriter) error {
	resp, err := g.o.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	to, err := g.partial(resp, w.from, w.to)
	if errors.Is(err, errNoRange) {
		if err := g.remember(); err != nil {
			return err
		}
		if resp.StatusCode == http.StatusOK && w.from == 0 && checkEncoding(resp) == nil && (resp.ContentLength < 0 || resp.ContentLength == g.f.Size) {
			to, err = w.to, nil // the beginning of the whole is what was asked for
		}
	}
	if err != nil {
		return err
	}
	if to < w.to {
		if g.short++; g.short > maxShort {
			return errors.Join(errNoRange, g.remember())
		}
	}
	var body io.ReadCloser = &meteredBody{resp.Body, g.meter.came}
	if g.limit != nil {
		body = &limitedBody{body, req.Context(), g.limit}
	}
	n, err := io.CopyBuffer(w, struct{ io.Reader }{io.LimitReader(body, to-w.from)}, make([]byte, maxRead))
	if err == nil && n < to-w.from {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// remember notes that the server sends no parts of the file.
func (g *gather) remember() error {
	return fault.Unwritable(g.o.By.Write(g.o.FS, wholeKind, g.whole, true, 0o644))
}

// partial returns up to where resp brings what was asked for.
func (g *gather) partial(resp *http.Response, from, to int64) (int64, error) {
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK, http.StatusRequestedRangeNotSatisfiable:
		return 0, errNoRange
	default:
		return 0, statusError{resp.StatusCode, fault.RetryAfter(resp.Header)}
	}
	if err := checkEncoding(resp); err != nil {
		return 0, err
	}
	first, last, total, ok := contentRange(resp.Header.Get("Content-Range"))
	if !ok || first != from || last < first || last >= to || total >= 0 && total != g.f.Size ||
		resp.ContentLength >= 0 && resp.ContentLength != last+1-first {
		return 0, errNoRange
	}
	return last + 1, nil
}

// spanWriter writes a segment as it comes: what is missing of its pieces, and
// nothing else of it.
type spanWriter struct {
	*gather
	segment
	at      int64
	next    int          // the piece that at is in, or comes to next
	arrived atomic.Int64 // bytes, for whoever watches
}

// Write implements io.Writer.
func (w *spanWriter) Write(data []byte) (int, error) {
	written := 0
	for len(data) > 0 {
		n, err := w.some(data)
		w.at += int64(n)
		w.arrived.Add(int64(n))
		written += n
		if err == nil {
			err = w.settle()
		}
		if err != nil {
			return written, err
		}
		data = data[n:]
	}
	return written, nil
}

// some takes the beginning of data. It syncs before it goes beyond a place to
// sync at.
func (w *spanWriter) some(data []byte) (int, error) {
	for w.next <= w.last && (w.spans[w.next].have == w.spans[w.next].Length || w.at >= w.spans[w.next].end()) {
		w.next++
	}
	if w.next > w.last {
		return len(data), nil
	}
	p := &w.spans[w.next]
	if from := p.At + p.have; w.at < from {
		return int(min(int64(len(data)), from-w.at)), nil
	}
	if w.loose > 0 && w.at%w.step == 0 {
		if err := w.file.Sync(); err != nil {
			_ = os.Remove(w.file.Name()) // the data is in doubt
			return 0, err
		}
		w.loose = 0
	}
	n, err := w.file.WriteAt(data[:min(int64(len(data)), p.end()-w.at, w.step-w.at%w.step)], w.at)
	w.loose += int64(n)
	p.have += int64(n)
	return n, err
}

// settle checks a piece that is complete now.
func (w *spanWriter) settle() error {
	if w.next > w.last {
		return nil
	}
	p := &w.spans[w.next]
	w.report()
	if w.at < p.end() || p.have < p.Length {
		return nil
	}
	w.next++
	data, err := w.read(p)
	if err != nil {
		return err
	}
	err = p.Check(data)
	if err == nil {
		p.unsure = false
		return nil
	}
	first := !p.bad
	p.bad = p.bad || !p.unsure
	p.have, p.unsure = 0, false
	if !first {
		return &wrongError{p.At, p.Length, err}
	}
	w.o.Log.WithError(err).Debugf("bytes %d to %d are not right: fetched again", p.At, p.end())
	return nil
}

// report tells how much of what was to be fetched is here.
func (g *gather) report() { g.progress(max(g.total-g.lacks(), 0), g.total) }

// wrongError says that a server sent other bytes than belong to a span, twice.
type wrongError struct {
	at, length int64
	why        error
}

func (e *wrongError) Error() string {
	return fmt.Sprintf("bytes %d to %d are not what belongs there: %v", e.at, e.at+e.length, e.why)
}

func (e *wrongError) Unwrap() error { return e.why }
