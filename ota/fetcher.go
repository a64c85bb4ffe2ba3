package ota

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/sirupsen/logrus"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/ota/download"
	"tandem/ota/fault"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
)

// FormKind is a way in which a release can be had.
type FormKind string

// The forms of a release.
const (
	WholeBundle FormKind = "bundle" // all of the bundle
	Frames      FormKind = "frames" // those frames of the bundle that hold what the device lacks
	DeltaBundle FormKind = "delta"  // the delta bundle that builds on what the device has
)

// Form is a way in which a release can be had, and what that costs.
type Form struct {
	Kind  FormKind `json:"form"`
	Bytes int64    `json:"bytes"` // that are still to come
}

const (
	// minForFrames is how long a bundle is that is worth two requests.
	minForFrames = 64 << 10
	// maxHead is how much is fetched to learn what else is needed.
	maxHead = bundle.MaxHead
)

// Lacks tells which files of a release the device has nowhere, by content. It
// gives nil if it has nothing of any release.
type Lacks func(ctx context.Context, m *release.Manifest) (func(backup.Path) bool, error)

// Wanted is a bundle that a source offers.
type Wanted struct {
	download.File
	Head int64 // bytes that come before its first frame; 0: not known
}

// Fetcher gets bundles, each in the form that costs least.
type Fetcher struct {
	Downloads *download.Downloader
	// Verifier gives what decides whether a bundle is trusted.
	Verifier func() (bundle.Verifier, error)
	// Lacks may be nil: then bundles are fetched whole.
	Lacks Lacks
	// Most is how many bytes may come for one release; 0 is as many as it takes.
	Most int64
	// Told keeps each fetch to what Cheapest said before.
	Told bool
	Log  logrus.FieldLogger
}

// Cheapest returns the form of w that costs least. To know it, it fetches the
// head of the bundle, which is then there and verified.
//
// Where frames cannot be had the whole bundle is the answer, with no error. The
// error wraps ErrUnreachable or fault.ErrBudget, or is one of the disk.
func (f *Fetcher) Cheapest(ctx context.Context, w Wanted) (Form, error) {
	form, _, err := f.cheapest(ctx, w)
	return form, err
}

func (f *Fetcher) cheapest(ctx context.Context, w Wanted) (Form, []download.Span, error) {
	left, err := f.Downloads.Left(w.File)
	if err != nil {
		return Form{}, nil, err
	}
	whole := Form{WholeBundle, left}
	if left == 0 || f.Lacks == nil || w.Head <= 0 || w.Head > maxHead || w.Head*2 > w.Size || w.Size < minForFrames || f.Downloads.Whole(w.File) {
		return whole, nil, nil
	}
	spans, err := f.plan(ctx, w)
	switch {
	case err == nil && spans == nil:
		return whole, nil, nil
	case errors.Is(err, trust.ErrUntrusted): // so is the whole
		return Form{}, nil, err
	case errors.Is(err, download.ErrNoRanges), errors.Is(err, fault.ErrRefused), errors.Is(err, errHead):
		f.Log.WithError(err).Info("the bundle is to be had whole only")
		return whole, nil, nil
	case err != nil:
		return Form{}, nil, err
	}
	if f.Downloads.Whole(w.File) {
		return whole, nil, nil
	}
	n, err := f.Downloads.Missing(w.File, spans)
	if err != nil {
		return Form{}, nil, err
	}
	// The head is here: a whole bundle goes on from it.
	if whole.Bytes = min(whole.Bytes, w.Size-w.Head); n >= whole.Bytes {
		return whole, nil, f.seed(w, spans)
	}
	return Form{Frames, n}, spans, nil
}

// left returns how many bytes of w are still to come, as far as that can be told
// from what lies here: nothing is fetched.
func (f *Fetcher) left(w Wanted) int64 {
	left, err := f.Downloads.Left(w.File)
	if err != nil {
		return w.Size
	}
	if left == 0 || f.Lacks == nil || w.Head <= 0 || w.Head > maxHead || f.Downloads.Whole(w.File) {
		return left
	}
	head := f.head(w)
	first := download.Span{At: 0, Length: w.Head, Check: head.check}
	if _, err := f.Downloads.ReadSpan(w.File, first); err != nil {
		return left
	}
	spans, err := f.spans(context.Background(), head, first)
	if err != nil || spans == nil {
		return left
	}
	if n, err := f.Downloads.Missing(w.File, spans); err == nil {
		left = min(left, n)
	}
	return left
}

// errHead says that the head of a bundle is not what it should be.
var errHead = errors.New("the head of the bundle is not the one that was announced")

// plan returns the parts of w that the device lacks, the head first; nil if that
// is all of it.
func (f *Fetcher) plan(ctx context.Context, w Wanted) ([]download.Span, error) {
	head := f.head(w)
	spans := []download.Span{{At: 0, Length: w.Head, Check: head.check}}
	if _, err := f.Downloads.GetSpans(ctx, w.File, spans, nil); err != nil {
		return nil, err
	}
	if head.parsed == nil { // it was there already, and is read for the first time
		if _, err := f.Downloads.ReadSpan(w.File, spans[0]); err != nil {
			return nil, fmt.Errorf("%w: %w", errHead, err)
		}
	}
	return f.spans(ctx, head, spans[0])
}

// spans returns the parts of a bundle that the device lacks, the head, which is
// here, first; nil if that is all of it.
func (f *Fetcher) spans(ctx context.Context, head *announced, first download.Span) ([]download.Span, error) {
	spans := []download.Span{first}
	h := head.parsed
	want, err := f.Lacks(ctx, h.Manifest())
	if err != nil || want == nil {
		return nil, err
	}
	checker, err := bundle.NewChecker()
	if err != nil {
		return nil, err
	}
	h.Frames(want, func(at int64, frame bundle.Frame) {
		spans = append(spans, download.Span{At: at, Length: frame.Length, Check: func(data []byte) error { return checker.Check(data, frame) }})
	})
	return spans, nil
}

// announced is the head of a bundle as it was announced.
type announced struct {
	f      *Fetcher
	w      Wanted
	parsed *bundle.Head
	sum    digest.SHA256 // of the bytes that parsed was read from
}

func (f *Fetcher) head(w Wanted) *announced { return &announced{f: f, w: w} }

func (a *announced) check(data []byte) error {
	sum := digest.Of(data)
	if a.parsed != nil && sum == a.sum {
		return nil
	}
	v, err := a.f.Verifier()
	if err != nil {
		return err
	}
	h, err := bundle.ReadHead(bytes.NewReader(data), v)
	switch {
	case err != nil:
		return err
	case !a.w.Release.IsZero() && h.Release() != a.w.Release:
		return fmt.Errorf("it is of the release %s: expected %s", h.Release(), a.w.Release)
	case h.Length() != int64(len(data)) || h.Size() != a.w.Size:
		return fmt.Errorf("it is of a bundle of %d bytes, %d of them before its first frame: expected %d and %d", h.Size(), h.Length(), a.w.Size, len(data))
	}
	a.parsed, a.sum = h, sum
	return nil
}

// seed lets the whole bundle go on from the head.
func (f *Fetcher) seed(w Wanted, spans []download.Span) error {
	head, err := f.Downloads.ReadSpan(w.File, spans[0])
	if err != nil {
		return nil // it is fetched again
	}
	return f.Downloads.Seed(w.File, head)
}

// Fetch returns the path of a file that can be read as w: the whole bundle, or
// one that lacks the frames which nobody here needs. It falls back to the whole
// bundle where the server cannot send parts, or sends wrong ones.
//
// What it changes on the disk is said at download.Downloader.
func (f *Fetcher) Fetch(ctx context.Context, w Wanted, p Progress) (string, error) {
	w.Most = f.Most
	form, spans, err := f.cheapest(ctx, w)
	if err != nil {
		return "", err
	}
	if f.Told {
		w.Told = max(form.Bytes, 1)
	}
	if form.Kind == Frames {
		file, err := f.Downloads.GetSpans(ctx, w.File, spans, p)
		if err == nil || !errors.Is(err, download.ErrNoRanges) && !errors.Is(err, fault.ErrRefused) {
			return file, err
		}
		f.Log.WithError(err).Warn("the frames that are needed cannot be had: fetching the whole bundle")
	}
	return f.Downloads.Get(ctx, w.File, p)
}

// Rest is Fetch for w in place of a delta bundle, of which less was told; what it
// fetches are the files that want names, nil standing for all that the device lacks.
func (f *Fetcher) Rest(ctx context.Context, w Wanted, want func(backup.Path) bool, p Progress) (string, error) {
	rest := *f
	rest.Told = false
	if want != nil {
		rest.Lacks = func(context.Context, *release.Manifest) (func(backup.Path) bool, error) { return want, nil }
	}
	return rest.Fetch(ctx, w, p)
}

// Complete fetches those frames of w, of which Fetch has brought some, that
// hold the files that want names.
func (f *Fetcher) Complete(ctx context.Context, w Wanted, want func(backup.Path) bool) error {
	w.Most = f.Most
	more := *f
	more.Lacks = func(context.Context, *release.Manifest) (func(backup.Path) bool, error) { return want, nil }
	spans, err := more.plan(ctx, w)
	if err == nil {
		_, err = f.Downloads.GetSpans(ctx, w.File, spans, nil)
	}
	return err
}
