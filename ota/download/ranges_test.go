package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/go-cmp/cmp"

	"tandem/internal/digest"
	"tandem/ota/fault"
	"tandem/ota/internal/webtest"
)

// spansOf are parts of the lab's file, each checked by what must be there.
func (l *lab) spansOf(ranges ...[2]int64) []Span {
	var all []Span
	for _, r := range ranges {
		want := l.body[r[0] : r[0]+r[1]]
		all = append(all, Span{At: r[0], Length: r[1], Check: func(got []byte) error {
			if !bytes.Equal(got, want) {
				return errors.New("other bytes")
			}
			return nil
		}})
	}
	return all
}

func (l *lab) someSpans() []Span {
	return l.spansOf([2]int64{0, 5000}, [2]int64{40_000, 30_000}, [2]int64{71_000, 20_000}, [2]int64{250_000, 50_000})
}

func (l *lab) downloader() *Downloader {
	o := l.options
	o.FS = l.fs
	return made(o)
}

func (l *lab) spans(ctx context.Context, all []Span) error {
	l.t.Helper()
	d := l.downloader()
	path, err := d.GetSpans(ctx, l.file, all, nil)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	if len(data) != len(l.body) {
		l.t.Fatalf("the file has %d bytes, want %d", len(data), len(l.body))
	}
	for _, s := range all {
		if err := s.Check(data[s.At : s.At+s.Length]); err != nil {
			l.t.Fatalf("bytes from %d: %v", s.At, err)
		}
	}
	if n, err := d.Missing(l.file, all); err != nil || n != 0 {
		l.t.Errorf("%d bytes are missing after success, %v", n, err)
	}
	return nil
}

// asked lists the ranges that a server was asked for, and lets it answer.
func asked(list *[]string) webtest.Handler {
	return func(_ http.ResponseWriter, req *http.Request) bool {
		*list = append(*list, strings.TrimPrefix(req.Header.Get("Range"), "bytes="))
		if req.Header.Get("If-Range") != "" {
			*list = append(*list, "If-Range")
		}
		return false
	}
}

func TestSpans(t *testing.T) {
	l := newLab(t)
	var got []string
	l.s.Misbehave(asked(&got))
	all := l.someSpans()
	if n, err := l.downloader().Missing(l.file, all); err != nil || n != 106_000 {
		t.Errorf("%d bytes are missing before, %v; want 106000", n, err)
	}
	if err := l.spans(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	// Two that are near each other are one request.
	if diff := cmp.Diff([]string{"0-4999", "40000-90999", "250000-299999"}, got); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
	if sent := l.s.BytesSent(); sent != 106_000 {
		t.Errorf("%d bytes sent", sent)
	}
	// What is there and right is not fetched again; what is damaged is.
	got = nil
	f, err := os.OpenFile(l.name("frames"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{l.body[75_000] ^ 1}, 75_000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := l.spans(t.Context(), append(all[:3:3], l.spansOf([2]int64{200_000, 10}, [2]int64{250_000, 50_000})...)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"71000-90999", "200000-200009"}, got); diff != "" {
		t.Errorf("ranges, the second time (-want +got):\n%s", diff)
	}
}

// Servers that cannot send parts, or do it badly. None of them is asked for
// ever, and none ends in wrong bytes.
func TestSpansFromOddServers(t *testing.T) {
	part := func(l *lab, req *http.Request) (a, b int) {
		text := strings.TrimPrefix(req.Header.Get("Range"), "bytes=")
		x, y, _ := strings.Cut(text, "-")
		a, _ = strconv.Atoi(x)
		b, _ = strconv.Atoi(y)
		return a, b + 1
	}
	says := func(a, b int) string { return fmt.Sprintf("bytes %d-%d/%d", a, b-1, bodySize) }
	for name, c := range map[string]struct {
		answer   func(l *lab, w http.ResponseWriter, a, b int)
		want     error
		requests int // at most
	}{
		"whole": {func(l *lab, w http.ResponseWriter, a, b int) { w.Write(l.body) }, ErrNoRanges, 1}, // which has the first part
		"the part as a whole": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Range", says(a, b))
			w.Write(l.body[a:b])
		}, ErrNoRanges, 1},
		"from the beginning": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Range", says(0, bodySize))
			w.WriteHeader(206)
			w.Write(l.body)
		}, ErrNoRanges, 1},
		"no Content-Range": {func(l *lab, w http.ResponseWriter, a, b int) { w.WriteHeader(206); w.Write(l.body[a:b]) }, ErrNoRanges, 1},
		"416": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Range", "bytes */300000")
			w.WriteHeader(416)
		}, ErrNoRanges, 1},
		"multipart": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Type", "multipart/byteranges; boundary=X")
			w.WriteHeader(206)
			fmt.Fprintf(w, "--X\r\nContent-Range: %s\r\n\r\n%s\r\n--X--\r\n", says(a, b), l.body[a:b])
		}, ErrNoRanges, 1},
		"another total": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", a, b-1, bodySize+5))
			w.WriteHeader(206)
			w.Write(l.body[a:b])
		}, ErrNoRanges, 1},
		"compressed": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Range", says(a, b))
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(206)
			w.Write(l.body[a:b])
		}, fault.ErrRefused, 1},
		"longer than asked": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Range", says(a, bodySize))
			w.WriteHeader(206)
			w.Write(l.body[a:])
		}, ErrNoRanges, 1},
		"total is not told": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", a, b-1))
			w.WriteHeader(206)
			w.Write(l.body[a:b])
		}, nil, 3},
		"another tag each time, and weak": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("ETag", fmt.Sprintf(`W/"%d"`, rand.Int()))
			w.Header().Set("Content-Range", says(a, b))
			w.WriteHeader(206)
			w.Write(l.body[a:b])
		}, nil, 3},
		"a byte at a time": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Range", says(a, a+1))
			w.WriteHeader(206)
			w.Write(l.body[a : a+1])
		}, ErrNoRanges, maxShort + 1},
		"half at a time": {func(l *lab, w http.ResponseWriter, a, b int) {
			half := a + (b-a+1)/2
			if b-a < 20_000 {
				half = b
			}
			w.Header().Set("Content-Range", says(a, half))
			w.WriteHeader(206)
			w.Write(l.body[a:half])
		}, nil, 9},
		"other bytes": {func(l *lab, w http.ResponseWriter, a, b int) {
			bad := bytes.Clone(l.body[a:b])
			bad[len(bad)/2] ^= 1
			w.Header().Set("Content-Range", says(a, b))
			w.WriteHeader(206)
			w.Write(bad)
		}, fault.ErrRefused, 2},
		"zeros": {func(l *lab, w http.ResponseWriter, a, b int) {
			w.Header().Set("Content-Range", says(a, b))
			w.WriteHeader(206)
			w.Write(make([]byte, b-a))
		}, fault.ErrRefused, 2},
		"gone": {func(l *lab, w http.ResponseWriter, a, b int) { w.WriteHeader(404) }, fault.ErrUnreachable, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			requests := 0
			l.s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
				requests++
				a, b := part(l, req)
				c.answer(l, w, a, b)
				return true
			})
			err := l.spans(t.Context(), l.someSpans())
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if requests > c.requests {
				t.Errorf("%d requests, want at most %d", requests, c.requests)
			}
			if errors.Is(c.want, ErrNoRanges) != l.downloader().Whole(l.file) {
				t.Errorf("the server is remembered to know no ranges: %v", l.downloader().Whole(l.file))
			}
			// From a good server the rest comes, whatever was left behind.
			l.s.Misbehave(nil)
			os.Remove(l.name("whole"))
			if err := l.spans(t.Context(), l.someSpans()); err != nil {
				t.Errorf("from a good server after it: %v", err)
			}
		})
	}
}

// A file that is replaced halfway: wrong bytes are noticed, the good ones stay.
func TestSpansOfAReplacedFile(t *testing.T) {
	l := newLab(t)
	l.s.Misbehave(webtest.Times(1, l.cutOff(30_000)))
	ctx, cancel := context.WithCancel(t.Context())
	l.options.Backoff = func() backoff.BackOff { return cancelling{cancel} }
	all := l.spansOf([2]int64{0, 10_000}, [2]int64{10_000, 100_000})
	if err := l.spans(ctx, all); err == nil {
		t.Fatal("success")
	}
	cancel()
	l.options.Backoff = func() backoff.BackOff { return counted{l} }
	other := bytes.Repeat([]byte("other"), bodySize/5)
	l.s.Serve(map[string][]byte{"/targets/f": other})
	var got []string
	l.s.Misbehave(asked(&got))
	if err := l.spans(t.Context(), all); !errors.Is(err, fault.ErrRefused) || !strings.Contains(err.Error(), "bytes 10000 to 110000") {
		t.Errorf("error %v, want that they are wrong", err)
	}
	if len(got) != 3 { // the rest, then all of it, twice
		t.Errorf("asked for %v", got)
	}
	l.s.Serve(map[string][]byte{"/targets/f": l.body})
	if err := l.spans(t.Context(), all); err != nil {
		t.Error(err)
	}
}

// Ten power cuts, each with what was not synced lost, cost less than 5 %.
func TestSpansAcrossPowerCuts(t *testing.T) {
	l := newLab(t)
	rnd := rand.New(rand.NewPCG(5, 5))
	l.large(1_200_000)
	all := l.spansOf([2]int64{0, 80_000}, [2]int64{120_000, 520_000}, [2]int64{680_000, 520_000})
	const wanted = 1_120_000
	for i := range 10 {
		l.options.Boot = fmt.Sprint("boot", i)
		l.s.Misbehave(webtest.Times(1, l.cutOff(80_000+rnd.IntN(20_000))))
		ctx, cancel := context.WithCancel(t.Context())
		l.options.Backoff = func() backoff.BackOff { return cancelling{cancel} }
		_, _ = l.downloader().GetSpans(ctx, l.file, all, nil)
		cancel()
		// The last step may be lost, or torn.
		f, err := os.OpenFile(l.name("frames"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(l.name("frames"))
		if err != nil {
			t.Fatal(err)
		}
		if end := len(bytes.TrimRight(data, "\x00")); end > 0 {
			from := (end - 1) / 2048 * 2048
			if _, err := f.WriteAt(make([]byte, end-from), int64(from)); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	l.options.Boot = "last"
	l.options.Backoff = func() backoff.BackOff { return counted{l} }
	l.s.Misbehave(nil)
	if err := l.spans(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if sent := l.s.BytesSent(); sent > wanted+wanted*5/100 {
		t.Errorf("%d bytes sent of %d", sent, wanted)
	} else {
		t.Logf("%d bytes sent of %d, %.2f times", sent, wanted, float64(sent)/wanted)
	}
}

// A limit bounds what comes for a release, over files, attempts and restarts.
func TestBudget(t *testing.T) {
	l := newLab(t)
	l.file.Release, l.file.Most = digest.Of([]byte("a release")), 200_000
	// More than is left is not even asked for.
	if _, err := l.get(t.Context()); !errors.Is(err, fault.ErrBudget) || l.s.BytesSent() > 0 {
		t.Fatalf("the whole file: error %v, %d bytes sent", err, l.s.BytesSent())
	}
	if err := l.spans(t.Context(), l.spansOf([2]int64{0, 120_000})); err != nil {
		t.Fatal(err)
	}
	// What was spent is remembered.
	if err := l.spans(t.Context(), l.spansOf([2]int64{150_000, 90_000})); !errors.Is(err, fault.ErrBudget) {
		t.Errorf("210000 bytes of 200000: error %v", err)
	}
	if err := l.spans(t.Context(), l.spansOf([2]int64{0, 120_000}, [2]int64{150_000, 50_000})); err != nil {
		t.Errorf("170000 bytes of 200000: error %v", err)
	}
	if sent := l.s.BytesSent(); sent != 170_000 {
		t.Errorf("%d bytes sent", sent)
	}
	// A server that sends more than was asked for gets no further.
	l.file.Most = 180_000
	l.s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 210000-210999/%d", bodySize))
		w.WriteHeader(206)
		for range 1000 {
			w.Write(l.body[210_000:211_000])
		}
		return true
	})
	err := l.spans(t.Context(), l.spansOf([2]int64{210_000, 1000}))
	if err != nil {
		t.Errorf("the first thousand bytes are right: %v", err)
	}
	// Another release starts anew.
	l.file.Release = digest.Of([]byte("another"))
	l.s.Misbehave(nil)
	if err := l.spans(t.Context(), l.spansOf([2]int64{220_000, 60_000})); err != nil {
		t.Error(err)
	}
}

// A whole download goes on from the head that is known.
func TestSeed(t *testing.T) {
	l := newLab(t)
	d := l.downloader()
	if err := d.Seed(l.file, l.body[:100_000]); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Left(l.file); err != nil || n != 200_000 {
		t.Errorf("%d bytes are left, %v", n, err)
	}
	l.fetched(d.Get(t.Context(), l.file, nil))
	if sent := l.s.BytesSent(); sent != 200_000 {
		t.Errorf("%d bytes sent", sent)
	}
	if n, err := d.Left(l.file); err != nil || n != 0 {
		t.Errorf("%d bytes are left at the end, %v", n, err)
	}
}
