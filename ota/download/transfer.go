package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cavaliergopher/grab/v3"
	"github.com/cenkalti/backoff/v5"

	"tandem/internal/fsys"
	"tandem/ota/fault"
	"tandem/ota/internal/statedir"
)

// transfer is one call of Get.
type transfer struct {
	*Downloader
	f                  File
	shown              string // the URL for messages
	part, bundle, boot string // names below FS
	frames, whole      string
	progress           Progress
	meter              *meter
	here               func() (int64, error) // how many bytes are here

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
		return fault.Unwritable(err)
	}
	if done {
		return nil
	}
	if err := t.run(ctx); err != nil {
		return err
	}
	return fault.Unwritable(t.finish())
}

// prepare looks at what is here. done says that a verified copy is.
func (t *transfer) prepare() (done bool, err error) {
	if err := t.clear(); err != nil {
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
	if err := t.makeRoom(have, t.f.Size-have); err != nil {
		return false, err
	}
	if have, err = t.doubt(have); err != nil {
		return false, err
	}
	t.most = have
	return false, nil
}

// clear makes the directory, and removes what does not belong there.
func (t *transfer) clear() error {
	fs := t.o.FS
	if err := statedir.MakeDir(fs, t.o.Log, downloadDir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{t.part, t.bundle, t.frames, t.whole, t.boot, t.boot + ".tmp"} {
		if err := statedir.Evict(fs, t.o.Log, name, fsys.TypeFile); err != nil {
			return err
		}
	}
	return t.tidy()
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
				err = t.forCaller(err)
				var permanent *backoff.PermanentError
				t.later = !errors.As(err, &permanent)
				return struct{}{}, err
			}
		}
	}, backoff.WithBackOff(t.retries), backoff.WithMaxElapsedTime(0), backoff.WithNotify(t.notify))
	var permanent *backoff.PermanentError
	if errors.As(err, &permanent) {
		return permanent.Unwrap()
	}
	return err
}

func (t *transfer) notify(err error, wait time.Duration) {
	t.o.Log.WithError(err).Infof("download interrupted: trying again in %s", wait.Round(100*time.Millisecond))
}

// startOver reports whether to try again at once, because err speaks of how the
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

// forCaller makes an error of an attempt one for the caller. Those that another
// attempt would not mend are permanent.
func (t *transfer) forCaller(err error) error {
	have, sizeErr := t.here()
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
		return backoff.Permanent(&fault.Problem{
			URL: t.shown, Found: found, Expected: fmt.Sprintf("%d bytes with the SHA-%d %x", t.f.Size, 8*len(sum), sum),
			Advice: "see whether the repository is complete, and whether a proxy changes what it serves", Kind: fault.ErrRefused, Cause: err,
		})
	}
	var (
		wrong  *wrongError
		status statusError
		length lengthError
		file   *fs.PathError
		link   *os.LinkError
	)
	switch {
	case errors.As(err, &file), errors.As(err, &link):
		// The part stays even on a full disk: without it there would seem to
		// be room again, and the same bytes be paid for twice.
		return backoff.Permanent(fault.Unwritable(err))
	case errors.Is(err, fault.ErrBudget):
		return backoff.Permanent(err)
	case errors.As(err, &wrong):
		return refused(wrong.Error())
	case errors.Is(err, errEncoded):
		return refused("the server sent it in an encoding (" + strings.TrimPrefix(err.Error(), errEncoded.Error()+": ") + ")")
	case errors.As(err, &length):
		return refused(fmt.Sprintf("the server has %d bytes of it", int64(length)))
	case errors.Is(err, grab.ErrBadChecksum):
		_, sum := t.f.hash()
		return refused(fmt.Sprintf("what the server sent has another SHA-%d", 8*len(sum)))
	case errors.As(err, &status):
		bad := fault.BadStatus(t.shown, status.code, status.after)
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
	return &fault.Problem{
		URL: t.shown, Found: fmt.Sprintf("%s; %d of %d bytes are here", found, have, t.f.Size),
		Advice: "check the network; the next attempt goes on from there", Kind: fault.ErrUnreachable, Cause: err,
	}
}

// attempt makes one request, unless the part has its full length already, and
// verifies what came of it.
func (t *transfer) attempt(ctx context.Context) error {
	have, err := t.size()
	if err != nil {
		return err
	}
	if err := t.meter.allows(t.f.Size - have); err != nil {
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
	strict := &strictClient{client: t.o.Client, size: t.f.Size, noRanges: t.noRanges, limit: t.limit, step: t.f.step(), sync: t.sync, came: t.meter.came}
	resp := (&grab.Client{HTTPClient: strict}).Do(req.WithContext(ctx))
	t.watch(resp.Done, func() int64 {
		n := resp.BytesComplete()
		t.progress(min(n, t.f.Size), t.f.Size)
		return n
	}, t.f.Size, &strict.skipped, cancel)
	if err := resp.Err(); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, fault.ErrStalled) || errors.Is(cause, fault.ErrSlow) {
			return cause
		}
		// Some send the rest alone and call it the whole.
		t.noRanges = t.noRanges || strict.whole
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

// watch waits until the attempt ends, and cancels it when no byte
// comes for the stall timeout, or too few in twice that. It counts ticks, so
// that a clock that is set meanwhile does not matter.
func (t *transfer) watch(done <-chan struct{}, complete func() int64, total int64, skipped *atomic.Int64, cancel context.CancelCauseFunc) {
	interval := min(max(t.o.Stall/8, time.Millisecond), 500*time.Millisecond)
	patience := int((t.o.Stall + interval - 1) / interval)
	tick, stop := t.o.Ticker(interval)
	defer stop()
	last, counted := int64(-1), int64(0) // bytes at the last tick, and when enough had come last
	silent, slow := 0, 0                 // ticks since then
	for {
		select {
		case <-done:
			return
		case <-tick:
		}
		n := complete()
		came := n + skipped.Load()
		whole := n >= total // it is being hashed
		silent, slow = silent+1, slow+1
		if came != last || whole {
			last, silent = came, 0
		}
		if came-counted >= t.o.Floor || whole {
			counted, slow = came, 0
		}
		switch {
		case silent >= patience:
			cancel(fault.ErrStalled)
		case slow >= 2*patience:
			cancel(fault.ErrSlow)
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
	for _, name := range []string{t.boot, t.frames, t.whole} {
		if err := t.o.FS.Remove(name); err != nil && !fsys.IsNotExist(err) {
			return err
		}
	}
	return t.o.FS.SyncDir(downloadDir)
}
