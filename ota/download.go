package ota

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cavaliergopher/grab/v3"
	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// downloadDir holds what is being fetched and what is complete, below the
// agent's state directory, as FOR.SHA256.part and FOR.SHA256.bundle. Beside a
// part FOR.SHA256.boot says during which run of the machine it was written.
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
}

// hash gives what verifies f, and what must come of it.
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
func (f *File) step() int64 { return max(f.Size/512, 16<<10) }

// DownloadOptions is what a Downloader works with. FS, Client and Log are needed.
type DownloadOptions struct {
	// FS is the agent's state directory on the running system: the download
	// itself is written by path.
	FS     fsys.FS
	Client *http.Client
	Log    *logrus.Logger
	// For names all that this device downloads for. What is here for anyone
	// else is removed; nil leaves it.
	For []string
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
	// Backoff gives the waits between attempts; nil is 1 to 30 seconds, growing,
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
	o     DownloadOptions
	limit *rate.Limiter // nil without a limit
	// hopeless are those for whom the last download ended in an error that
	// another attempt would not mend.
	hopeless map[string]bool
}

// maxRead is how much is read at once.
const maxRead = 32 << 10

// NewDownloader makes a Downloader.
func NewDownloader(o DownloadOptions) *Downloader {
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
			b.InitialInterval, b.MaxInterval, b.Multiplier = time.Second, 30*time.Second, 2
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
	d := &Downloader{o: o, hopeless: map[string]bool{}}
	if o.Bandwidth > 0 {
		// What a quarter of a second brings is read at once, so that a slow
		// limit does not look like a stall.
		d.limit = rate.NewLimiter(rate.Limit(o.Bandwidth), int(min(max(o.Bandwidth/4, 512), maxRead)))
	}
	return d
}

// Get gives the path of a local copy of f, its length and hash verified. A copy
// that is complete already is used without a request; a part of one is
// continued. Files for others stay while there is room for all; where there is
// not, those that have not come as far as f go. A file that has come further
// stays, and the error wraps ErrNoSpace: of two that do not fit together one is
// done first, however often both are interrupted.
//
// After success the copy is durable. After an error, a cancelled context or a
// power cut a part may be left, from which the next Get goes on: after an error
// from its last byte, after a power cut from the last place at which it was
// synced for sure. A name that ends in .bundle is never anything but a verified copy.
func (d *Downloader) Get(ctx context.Context, f File, p Progress) (string, error) {
	u, err := url.Parse(f.URL)
	if err != nil {
		return "", err
	}
	if f.Size <= 0 {
		return "", fmt.Errorf("%s: a length of %d bytes: expected more than 0", u.Redacted(), f.Size)
	}
	if f.For != "" && !validFor.MatchString(f.For) {
		return "", fmt.Errorf("%s: for %.80q: expected the name of an application or firmware", u.Redacted(), f.For)
	}
	if p == nil {
		p = func(int64, int64) {}
	}
	stem := f.stem()
	t := &transfer{
		Downloader: d, f: f, shown: u.Redacted(), progress: p,
		part: stem + ".part", bundle: stem + ".bundle", boot: stem + ".boot",
	}
	err = t.get(ctx)
	d.hopeless[f.For] = err != nil && !t.later && ctx.Err() == nil
	if err != nil {
		return "", err
	}
	p(f.Size, f.Size)
	return d.o.FS.Path(t.bundle), nil
}

// Drop removes what is here for an application or firmware that has nothing to
// download. It is no error if that fails: the next download for it tidies up.
func (d *Downloader) Drop(who string) {
	all, err := d.downloads()
	if err != nil {
		return
	}
	for _, e := range all {
		if e.who != who {
			continue
		}
		if err := fsys.RemoveAll(d.o.FS, e.name); err != nil {
			d.o.Log.WithError(err).Debug("a download that is of no use any more stays")
		}
	}
}

// transfer is one call of Get.
type transfer struct {
	*Downloader
	f                  File
	shown              string // the URL for messages
	part, bundle, boot string // names below FS
	progress           Progress

	most     int64 // the most bytes that were ever here
	noRanges bool  // the server makes a mess of ranges: it is not asked for one
	restart  bool  // a bad part was thrown away once
	resumed  bool  // the last attempt went on from an earlier one's bytes
	later    bool  // another attempt may bring more
	retries  *retries
}

func (t *transfer) get(ctx context.Context) error {
	done, err := t.prepare()
	if err != nil {
		return unwritable(err)
	}
	if done {
		return nil
	}
	if err := t.run(ctx); err != nil {
		return err
	}
	return unwritable(t.finish())
}

// prepare looks at what is here. done says that a verified copy is.
func (t *transfer) prepare() (done bool, err error) {
	fs := t.o.FS
	if err := makeDir(fs, t.o.Log, downloadDir, 0o755); err != nil {
		return false, err
	}
	for _, name := range []string{t.part, t.bundle, t.boot, t.boot + ".tmp"} {
		if err := evict(fs, t.o.Log, name, fsys.TypeFile); err != nil {
			return false, err
		}
	}
	if err := t.tidy(); err != nil {
		return false, err
	}
	ok, err := t.verify()
	if ok || err != nil {
		return ok, err
	}
	have, err := t.size()
	if err != nil {
		return false, err
	}
	if have > t.f.Size { // grab would refuse it for good
		if err := t.discard(); err != nil {
			return false, err
		}
		have = 0
	}
	if err := t.makeRoom(have); err != nil {
		return false, err
	}
	if have, err = t.doubt(have); err != nil {
		return false, err
	}
	t.most = have
	return false, nil
}

// doubt cuts from a part what another run of the machine wrote last: a power
// cut may have torn it. A byte after a place to sync at was written only once
// all before that place was synced. It gives what is left.
//
// Until this run is noted the note is that of another, or none: whenever the
// power goes, no more is believed than is right.
func (t *transfer) doubt(have int64) (int64, error) {
	note, err := fsys.ReadFile(t.o.FS, t.boot, 128)
	if err == nil && t.o.Boot != "" && string(note) == t.o.Boot {
		return have, nil
	}
	if have > 0 {
		sure := (have - 1) / t.f.step() * t.f.step()
		t.o.Log.Debugf("the last %d bytes of the part may be torn: fetched again", have-sure)
		have = sure
		// By its path, as it is written.
		if err := os.Truncate(t.o.FS.Path(t.part), have); err != nil {
			return 0, err
		}
	}
	return have, fsys.WriteFile(t.o.FS, t.boot, []byte(t.o.Boot), 0o644)
}

var (
	validFor     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	downloadName = regexp.MustCompile(`^(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63})\.)?([0-9a-f]{64}|[0-9a-f]{128})\.(part|bundle|boot|boot\.tmp)$`)
)

// download is a file that a download left.
type download struct {
	name string // below FS
	who  string // whom it is for
	stem string
	size int64
	note bool // of the run of the machine, beside a part
}

// downloads lists what downloads have left. A file that is not ours is not there.
func (d *Downloader) downloads() ([]download, error) {
	entries, err := d.o.FS.ReadDir(downloadDir)
	if err != nil {
		return nil, err
	}
	var all []download
	for _, e := range entries {
		if m := downloadName.FindStringSubmatch(e.Name); m != nil {
			stem := m[2]
			if m[1] != "" {
				stem = m[1] + "." + stem
			}
			all = append(all, download{
				name: path.Join(downloadDir, e.Name), who: m[1], stem: path.Join(downloadDir, stem), size: e.Size,
				note: m[3] != "part" && m[3] != "bundle",
			})
		}
	}
	return all, nil
}

// tidy removes other files for the same, and those for nobody here.
func (t *transfer) tidy() error {
	all, err := t.downloads()
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.stem == t.f.stem() || e.who != t.f.For && e.who != "" && (t.o.For == nil || slices.Contains(t.o.For, e.who)) {
			continue
		}
		if err := fsys.RemoveAll(t.o.FS, e.name); err != nil {
			return err
		}
	}
	return nil
}

// makeRoom removes files for others where there is no room for all, but none
// that has come further than this one, unless nothing can come of it.
func (t *transfer) makeRoom(have int64) error {
	need := t.f.Size - have
	all, err := t.downloads()
	if err != nil {
		return err
	}
	free, err := t.free()
	if err != nil {
		return err
	}
	var ahead int64
	var whose []string
	for _, e := range all {
		switch {
		case e.stem == t.f.stem(), e.note:
		case e.size > have && !t.hopeless[e.who]:
			ahead += e.size
			whose = append(whose, e.who)
		case free < need+t.f.Room:
			t.o.Log.Infof("%s: removed to make room", t.o.FS.Path(e.name))
			if err := fsys.RemoveAll(t.o.FS, e.name); err != nil {
				return err
			}
			if free, err = t.free(); err != nil {
				return err
			}
		}
	}
	where := t.o.FS.Path(".")
	switch {
	case free < need+t.f.Room && free+ahead >= need+t.f.Room:
		return fmt.Errorf("%w: the download needs %d bytes more and %d to unpack, %d are free in %s until what was downloaded for %s is installed",
			ErrNoSpace, need, t.f.Room, free, where, list(whose))
	case free < need:
		return fmt.Errorf("%w: the download needs %d bytes more, %d are free in %s", ErrNoSpace, need, free, where)
	}
	return nil
}

func (t *transfer) free() (int64, error) {
	space, err := t.o.FS.Space()
	return space.Free, err
}

// verify says whether the complete copy is here. One that is damaged is removed.
func (t *transfer) verify() (bool, error) {
	file, err := t.o.FS.Open(t.bundle)
	if fsys.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	h, want := t.f.hash()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, io.LimitReader(file, t.f.Size+1), make([]byte, 64<<10))
	if err == nil && n == t.f.Size && bytes.Equal(h.Sum(nil), want) {
		return true, nil
	}
	t.o.Log.Warnf("%s is damaged: fetched again", t.o.FS.Path(t.bundle))
	return false, t.o.FS.Remove(t.bundle)
}

// size gives the length of the part, 0 if there is none.
func (t *transfer) size() (int64, error) {
	info, err := t.o.FS.Lstat(t.part)
	if fsys.IsNotExist(err) {
		return 0, nil
	}
	return info.Size, err
}

// discard removes the part.
func (t *transfer) discard() error {
	if err := t.o.FS.Remove(t.part); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	return nil
}

// retries counts down the attempts that bring nothing.
type retries struct {
	backoff.BackOff
	left  int
	after time.Duration // how long the server asked to be left alone
}

// NextBackOff implements backoff.BackOff.
func (r *retries) NextBackOff() time.Duration {
	after := r.after
	r.after = 0
	if r.left--; r.left <= 0 {
		return backoff.Stop
	}
	return max(r.BackOff.NextBackOff(), after)
}

// run brings the part to its full length and verifies it.
func (t *transfer) run(ctx context.Context) error {
	t.retries = &retries{BackOff: t.o.Backoff(), left: t.o.Attempts}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		for {
			err := t.attempt(ctx)
			if cause := context.Cause(ctx); err != nil && cause != nil {
				return struct{}{}, backoff.Permanent(cause)
			}
			if err == nil {
				return struct{}{}, nil
			}
			again, err := t.startOver(err)
			if !again {
				err = t.judge(err)
				var permanent *backoff.PermanentError
				t.later = !errors.As(err, &permanent)
				return struct{}{}, err
			}
		}
	}, backoff.WithBackOff(t.retries), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, wait time.Duration) {
		t.o.Log.WithError(err).Infof("download interrupted: trying again in %s", wait.Round(100*time.Millisecond))
	}))
	var permanent *backoff.PermanentError
	if errors.As(err, &permanent) {
		return permanent.Unwrap()
	}
	return err
}

// startOver says whether to try again at once, because err speaks of how the
// part was to be gone on with, not of the server. A part that is bad itself
// goes.
func (t *transfer) startOver(err error) (again bool, _ error) {
	switch {
	case errors.Is(err, errNoRange):
		again, t.noRanges = !t.noRanges, true
		return again, err
	case errors.Is(err, grab.ErrBadChecksum):
		// What was resumed may be of another day: torn by a power cut, or of
		// a file that was replaced.
		again = t.resumed && !t.restart
	case errors.Is(err, errOverlong):
	case errors.Is(err, grab.ErrBadLength):
		n, sizeErr := t.size()
		if sizeErr != nil {
			return false, sizeErr
		}
		if n <= t.f.Size {
			return false, err
		}
		again = !t.restart
	default:
		return false, err
	}
	t.restart = t.restart || again
	if discardErr := t.discard(); discardErr != nil {
		return false, discardErr
	}
	return again, err
}

// judge makes an error of an attempt one for the caller. Those that another
// attempt would not mend are permanent.
func (t *transfer) judge(err error) error {
	have, sizeErr := t.size()
	if sizeErr != nil {
		return backoff.Permanent(sizeErr)
	}
	if have > t.most {
		t.most = have
		t.retries.left = t.o.Attempts + 1
		t.retries.Reset()
	}
	refused := func(found string) error {
		_, sum := t.f.hash()
		return backoff.Permanent(&Problem{
			URL: t.shown, Found: found, Expected: fmt.Sprintf("%d bytes with the SHA-%d %x", t.f.Size, 8*len(sum), sum),
			Advice: "see whether the repository is complete, and whether a proxy changes what it serves", kind: ErrRefused, cause: err,
		})
	}
	var (
		status statusError
		length lengthError
		file   *fs.PathError
		link   *os.LinkError
	)
	switch {
	case errors.As(err, &file), errors.As(err, &link):
		// The part stays even on a full disk: without it there would seem to
		// be room again, and the same bytes be paid for twice.
		return backoff.Permanent(unwritable(err))
	case errors.As(err, &length):
		return refused(fmt.Sprintf("the server has %d bytes of it", int64(length)))
	case errors.Is(err, errOverlong):
		return refused("the server sent more than was announced")
	case errors.Is(err, grab.ErrBadChecksum):
		_, sum := t.f.hash()
		return refused(fmt.Sprintf("what the server sent has another SHA-%d", 8*len(sum)))
	case errors.As(err, &status):
		bad := badStatus(t.shown, status.code, status.after)
		if status.code >= 500 || status.code == http.StatusTooManyRequests || status.code == http.StatusRequestTimeout || status.code == http.StatusTooEarly {
			t.retries.after = min(status.after, t.o.MaxRetryAfter)
			return bad
		}
		return backoff.Permanent(bad)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL is named already
	}
	found := "cut off: " + err.Error()
	if errors.Is(err, grab.ErrBadLength) || errors.Is(err, io.ErrUnexpectedEOF) {
		found = "cut off: the body ended early"
	}
	return &Problem{
		URL: t.shown, Found: fmt.Sprintf("%s; %d of %d bytes are here", found, have, t.f.Size),
		Advice: "check the network; the next attempt goes on from there", kind: ErrUnreachable, cause: err,
	}
}

// attempt makes one request, unless the part has its full length already, and
// verifies what came of it.
func (t *transfer) attempt(ctx context.Context) error {
	have, err := t.size()
	if err != nil {
		return err
	}
	t.resumed = have > 0
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A request and a hash serve for one attempt only.
	req, err := grab.NewRequest(t.o.FS.Path(t.part), t.f.URL)
	if err != nil {
		return err
	}
	req.Size = t.f.Size
	h, sum := t.f.hash()
	req.SetChecksum(h, sum, false)
	req.NoCreateDirectories = true
	req.IgnoreRemoteTime = true
	req.BufferSize = maxRead
	strict := &strictClient{client: t.o.Client, size: t.f.Size, noRanges: t.noRanges, limit: t.limit, step: t.f.step(), sync: t.sync}
	resp := (&grab.Client{HTTPClient: strict}).Do(req.WithContext(ctx))
	t.watch(resp, &strict.skipped, cancel)
	if err := resp.Err(); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errStalled) || errors.Is(cause, errSlow) {
			return cause
		}
		return err
	}
	return nil
}

// sync makes durable what has come. Where that fails the data is in doubt, and
// the part goes.
func (t *transfer) sync() error {
	file, err := t.o.FS.Open(t.part)
	if err != nil {
		return err
	}
	err = file.Sync()
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = t.discard()
	}
	return err
}

// watch reports progress until the attempt ends, and cancels it when no byte
// comes for the stall timeout, or too few in twice that. It counts ticks, so
// that a clock that is set meanwhile does not matter.
func (t *transfer) watch(resp *grab.Response, skipped *atomic.Int64, cancel context.CancelCauseFunc) {
	interval := min(max(t.o.Stall/8, time.Millisecond), 500*time.Millisecond)
	patience := int((t.o.Stall + interval - 1) / interval)
	tick, stop := t.o.Ticker(interval)
	defer stop()
	last, counted := int64(-1), int64(0) // bytes at the last tick, and when enough had come last
	silent, slow := 0, 0                 // ticks since then
	for {
		select {
		case <-resp.Done:
			return
		case <-tick:
		}
		n := resp.BytesComplete()
		t.progress(min(n, t.f.Size), t.f.Size)
		came := n + skipped.Load()
		whole := n >= t.f.Size // it is being hashed
		silent, slow = silent+1, slow+1
		if came != last || whole {
			last, silent = came, 0
		}
		if came-counted >= t.o.Floor || whole {
			counted, slow = came, 0
		}
		switch {
		case silent >= patience:
			cancel(errStalled)
		case slow >= 2*patience:
			cancel(errSlow)
		}
	}
}

// finish makes the verified part the complete copy, durably.
func (t *transfer) finish() error {
	if err := t.sync(); err != nil {
		return err
	}
	if err := t.o.FS.Rename(t.part, t.bundle); err != nil {
		return err
	}
	if err := t.o.FS.Remove(t.boot); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	return t.o.FS.SyncDir(downloadDir)
}

// errNoRange says that a server sent another range than was asked for, or none.
var errNoRange = errors.New("the server did not send the range that was asked for")

// errOverlong says that a body goes on after its announced end.
var errOverlong = errors.New("the body is too long")

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
	skipped  atomic.Int64 // bytes that came and are here already
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
	if c.limit != nil {
		resp.Body = &limitedBody{resp.Body, req.Context(), c.limit}
	}
	body := &exactBody{ReadCloser: resp.Body, left: c.size - from, skipped: &c.skipped, at: from, step: c.step, sync: c.sync, unsure: from > 0}
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

// check says whether resp brings the file, whole or from that byte on.
func (c *strictClient) check(resp *http.Response, from int64, ranged bool) error {
	switch {
	case resp.StatusCode == http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != c.size {
			return lengthError(resp.ContentLength)
		}
		return nil
	case ranged && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return errNoRange
	case !ranged || resp.StatusCode != http.StatusPartialContent:
		return statusError{resp.StatusCode, retryAfter(resp.Header)}
	}
	first, last, total, ok := contentRange(resp.Header.Get("Content-Range"))
	switch {
	case !ok || first != from:
		return errNoRange
	case total >= 0 && total != c.size:
		return lengthError(total)
	case last != c.size-1, resp.ContentLength >= 0 && resp.ContentLength != c.size-from:
		return errNoRange
	}
	return nil
}

var contentRangeForm = regexp.MustCompile(`^bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)$`)

// contentRange reads a Content-Range header; total is -1 if it is not told.
func contentRange(header string) (first, last, total int64, ok bool) {
	m := contentRangeForm.FindStringSubmatch(header)
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

// exactBody is a body without what is to be skipped. It ends in an error when
// more bytes come than there should be left.
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
		n, err := b.ReadCloser.Read(p[:1])
		if n > 0 {
			return 0, errOverlong
		}
		return 0, err
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
