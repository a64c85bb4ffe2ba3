// Package download fetches files into the agent's state directory: whole, or
// the ranges of one that are needed.
package download

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// downloadDir holds what is being fetched and what is complete, below the
// agent's state directory, as FOR.SHA256.part and FOR.SHA256.bundle, or
// FOR.SHA256.frames for one of which only some ranges are needed, with
// FOR.SHA256.whole if the server is known to send no ranges of it. Beside them
// FOR.SHA256.boot says during which run of the machine they were written, and
// FOR.RELEASE.spent how many bytes came for a release.
const downloadDir = "downloads"

// File is something to download: what it is, and where it can be had.
type File struct {
	URL    string
	Size   int64 // bytes, more than 0
	SHA256 digest.SHA256
	// SHA512 is what is verified where SHA256 is zero.
	SHA512 []byte
	// For is the application or firmware that the file is for: what is here of
	// another file for the same goes. "" is nobody in particular.
	For string
	// Room is how many bytes should be free beside the whole file, to make use
	// of it.
	Room int64
	// Most is how many bytes may come for Release, whatever files carry it and
	// however often it is tried; 0 is as many as it takes.
	Most    int64
	Release digest.SHA256
	// Told is how many bytes may come in this one call; 0 is as many as it takes.
	Told int64
}

// hash returns what verifies f, and what must come of it.
func (f *File) hash() (hash.Hash, []byte) {
	if f.SHA256.IsZero() {
		return digest.New512(), f.SHA512
	}
	return digest.New(), f.SHA256[:]
}

// stem is how the names of f's files begin.
func (f *File) stem() string {
	_, sum := f.hash()
	stem := hex.EncodeToString(sum)
	if f.For != "" {
		stem = f.For + "." + stem
	}
	return path.Join(downloadDir, stem)
}

// step is how far the places in a part are apart at which it is synced. A power
// cut costs one step, two at most: so ten of them cost about 2 % of the file,
// and it is synced some 500 times at most.
func (f *File) step() int64 { return max(f.Size/512, 2<<10) }

// Progress is told how many bytes of a file are here, out of how many. It may
// be nil.
type Progress func(done, total int64)

// Options is what a Downloader works with. FS, Client and Log are needed.
type Options struct {
	// FS is the agent's state directory on the running system: the download
	// itself is written by path.
	FS     fsys.FS
	By     record.Author
	Client *http.Client
	Log    *logrus.Logger
	// For names all that this device downloads for. What is here for anyone
	// else is removed; nil leaves it.
	For []string
	// Hopeless is where it is remembered, from one Downloader to the next, for
	// whom the last download ended in an error that another attempt would not mend;
	// nil forgets it with this one.
	Hopeless map[string]bool
	// Boot tells this run of the machine from others; "" is the kernel's boot id.
	// What another run wrote a power cut may have torn.
	Boot string
	// Bandwidth is how many bytes a second may come; 0 is as many as do.
	Bandwidth int64
	// Stall is how long a server may send nothing; 0 is one minute.
	Stall time.Duration
	// Floor is how many bytes must come in twice that; 0 is 16 KiB. A server
	// that sends a byte now and then is no better than one that is silent (a
	// slow retrieval attack).
	Floor int64
	// Attempts is how often in a row a request may fail without having brought
	// a byte more; 0 is 5.
	Attempts int
	// Backoff gives the waits between attempts; nil is half a second to 30 seconds, growing,
	// with jitter.
	Backoff func() backoff.BackOff
	// MaxRetryAfter is how long a server that asks to be left alone is waited
	// for at most before it is asked again; 0 is 10 minutes.
	MaxRetryAfter time.Duration
	// Ticker gives a channel that receives every d, and a way to stop it; nil
	// is time.NewTicker. It drives the stall watchdog and the progress.
	Ticker func(d time.Duration) (<-chan time.Time, func())
}

// Downloader fetches files into the agent's state directory. One at a time may
// be under way.
type Downloader struct {
	o        Options
	limit    *rate.Limiter // nil without a limit
	hopeless map[string]bool
}

// maxRead is how much is read at once.
const maxRead = 32 << 10

// validate says what is missing that nothing goes without.
func (o *Options) validate() error {
	missing := ""
	switch {
	case o.FS == nil:
		missing = "FS"
	case o.Client == nil:
		missing = "Client"
	case o.Log == nil:
		missing = "Log"
	case o.Bandwidth < 0, o.Stall < 0, o.Floor < 0, o.Attempts < 0, o.MaxRetryAfter < 0:
		return errors.New("download.Options: a limit is negative")
	default:
		return nil
	}
	return fmt.Errorf("download.Options: %s is missing", missing)
}

// By returns a Downloader that asks by another client, and is d in all else.
func (d *Downloader) By(client *http.Client) *Downloader {
	other := *d
	other.o.Client = client
	return &other
}

// New makes a Downloader.
func New(o Options) (*Downloader, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	if o.Floor == 0 {
		o.Floor = 16 << 10
	}
	if o.MaxRetryAfter == 0 {
		o.MaxRetryAfter = 10 * time.Minute
	}
	if o.Attempts == 0 {
		o.Attempts = 5
	}
	if o.Backoff == nil {
		o.Backoff = func() backoff.BackOff {
			b := backoff.NewExponentialBackOff()
			b.InitialInterval, b.MaxInterval, b.Multiplier = time.Second/2, 30*time.Second, 2
			return b
		}
	}
	if o.Ticker == nil {
		o.Ticker = func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTicker(d)
			return t.C, t.Stop
		}
	}
	if o.Boot == "" {
		// Where it cannot be read every run counts as another one.
		id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
		o.Boot = strings.TrimSpace(string(id))
	}
	if o.Hopeless == nil {
		o.Hopeless = map[string]bool{}
	}
	d := &Downloader{o: o, hopeless: o.Hopeless}
	if o.Bandwidth > 0 {
		// What a quarter of a second brings is read at once, so that a slow
		// limit does not look like a stall.
		d.limit = rate.NewLimiter(rate.Limit(o.Bandwidth), int(min(max(o.Bandwidth/4, 512), maxRead)))
	}
	return d, nil
}

// Get returns the path of a local copy of f, its length and hash verified. A copy
// that is complete already is used without a request; a part of one is
// continued. Files for others stay while there is room for all; where there is
// not, those that have not come as far as f go. A file that has come further
// stays, and the error wraps fault.ErrNoSpace: of two that do not fit together one is
// done first, however often both are interrupted.
//
// After success the copy is durable. After an error, a cancelled context or a
// power cut a part may be left, from which the next Get goes on: after an error
// from its last byte, after a power cut from the last place at which it was
// synced for sure. A name that ends in .bundle is never anything but a verified copy.
func (d *Downloader) Get(ctx context.Context, f File, p Progress) (string, error) {
	t, err := d.transfer(f, p)
	if err != nil {
		return "", err
	}
	defer t.meter.close()
	err = t.get(ctx)
	d.hopeless[f.For] = err != nil && !t.later && ctx.Err() == nil
	if err != nil {
		return "", err
	}
	t.progress(f.Size, f.Size)
	return d.o.FS.Path(t.bundle), nil
}

// Left returns how many bytes a Get of f would fetch, as far as can be told
// without reading what is here.
func (d *Downloader) Left(f File) (int64, error) {
	t, err := d.transfer(f, nil)
	if err != nil {
		return 0, err
	}
	if info, err := d.o.FS.Lstat(t.bundle); err == nil && info.Size == f.Size {
		return 0, nil
	}
	have, err := t.size()
	if err != nil || have > f.Size {
		have = 0
	}
	return f.Size - have, nil
}

func (d *Downloader) transfer(f File, p Progress) (*transfer, error) {
	u, err := url.Parse(f.URL)
	if err != nil {
		return nil, err
	}
	if f.Size <= 0 {
		return nil, fmt.Errorf("%s: a length of %d bytes: expected more than 0", u.Redacted(), f.Size)
	}
	if f.For != "" && !validFor().MatchString(f.For) {
		return nil, fmt.Errorf("%s: for %.80q: expected the name of an application or firmware", u.Redacted(), f.For)
	}
	if p == nil {
		p = func(int64, int64) {}
	}
	stem := f.stem()
	t := &transfer{
		Downloader: d, f: f, shown: u.Redacted(), progress: p, meter: d.meter(&f),
		part: stem + ".part", bundle: stem + ".bundle", boot: stem + ".boot", frames: stem + ".frames", whole: stem + ".whole",
	}
	t.here = t.size
	return t, nil
}
