package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/ota/fault"
	"tandem/ota/internal/webtest"
)

// cutFS is the disk of a machine whose power goes: it knows how much of the
// part was synced. Downloads are written by path, so it is a real disk with a
// note of what a real cut could take.
type cutFS struct {
	fsys.FS
	part    string
	durable int64
	syncs   int
}

type cutFile struct {
	fsys.File
	c *cutFS
}

func (c *cutFS) Open(name string) (fsys.File, error) {
	f, err := c.FS.Open(name)
	if err != nil || filepath.Base(name) != filepath.Base(c.part) {
		return f, err
	}
	return cutFile{f, c}, nil
}

func (f cutFile) Sync() error {
	info, err := f.Stat()
	if err == nil {
		err = f.File.Sync()
	}
	if err == nil {
		f.c.durable, f.c.syncs = info.Size, f.c.syncs+1
	}
	return err
}

// cut takes the power: what was not synced is gone, or zeros, or rubbish.
func (c *cutFS) cut(t *testing.T, rnd *rand.Rand) {
	t.Helper()
	data, err := os.ReadFile(c.part)
	if err != nil {
		t.Fatal(err)
	}
	n := min(c.durable, int64(len(data)))
	tail := data[n:]
	switch rnd.IntN(3) {
	case 0:
		tail = tail[:rnd.IntN(len(tail)+1)]
	case 1:
		clear(tail)
	case 2:
		for i := range tail {
			tail[i] = byte(rnd.Uint32())
		}
	}
	if err := os.WriteFile(c.part, append(data[:n:n], tail...), 0o600); err != nil {
		t.Fatal(err)
	}
	c.durable = min(c.durable, n)
}

// large gives the file of the lab so many bytes.
func (l *lab) large(size int) {
	l.body = make([]byte, size)
	rand.NewChaCha8([32]byte{4}).Read(l.body)
	l.file = File{URL: l.file.URL, Size: int64(size), SHA256: digest.Of(l.body)}
	l.s.Files["/targets/f"] = l.body
}

// Ten power cuts, each at any byte and taking all that it can, cost 2 % of the
// file and a step, be it as long as a whole bundle or as a delta bundle.
func TestTenPowerCuts(t *testing.T) {
	for _, size := range []int{9 << 20, 500_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) { tenPowerCuts(t, size) })
	}
}

func tenPowerCuts(t *testing.T, size int) {
	const seed = 4
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, seed))
	l := newLab(t)
	l.large(size)
	body := l.body
	disk := &cutFS{FS: l.fs, part: l.name("part")}
	l.fs, l.options.Attempts = disk, 1
	lost := int64(0)
	for i := range 10 {
		l.options.Boot = fmt.Sprint("run ", i)
		ctx, cancel := context.WithCancel(t.Context())
		at := int64(size/11*(i+1) + rnd.IntN(size/20))
		l.s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
			from := int64(first(req))
			if from > 0 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, size-1, size))
				w.WriteHeader(http.StatusPartialContent)
			} else {
				w.Header().Set("Content-Length", fmt.Sprint(size))
			}
			w.Write(body[from:at])
			http.NewResponseController(w).Flush()
			l.arrive(req, at)
			cancel() // stands for the power
			l.s.Hang(req)
			return true
		})
		if _, err := l.get(ctx); err == nil {
			t.Fatalf("cut %d: the download succeeded", i)
		}
		if behind := l.part() - disk.durable; behind > l.file.step() {
			t.Errorf("cut %d: %d bytes are not synced, want at most %d", i, behind, l.file.step())
		}
		disk.cut(t, rnd)
		lost += at - min(at, disk.durable)
	}
	l.options.Boot = "the last run"
	l.s.Misbehave(nil)
	l.fetched(l.get(t.Context()))
	if sent, all := l.s.BytesSent(), int64(size); sent > all+max(all/50+l.file.step(), all/20) {
		t.Errorf("%d bytes sent of %d, which is %.2f %% more", sent, size, 100*float64(sent-all)/float64(all))
	}
	t.Logf("%d bytes sent of %d, %d lost by the cuts, %d syncs", l.s.BytesSent(), size, lost, disk.syncs)
	if disk.syncs > 600 {
		t.Errorf("%d syncs", disk.syncs)
	}
}

// What a process that was killed has left is synced before a byte beyond it, or
// the next run of the machine would take it for durable.
func TestSyncAfterAKill(t *testing.T) {
	l := newLab(t)
	at := 5 * l.file.step()
	l.have("part", l.body[:at])
	disk := &cutFS{FS: l.fs, part: l.name("part")}
	l.fs, l.options.Attempts = disk, 1
	ctx, cancel := context.WithCancel(t.Context())
	l.s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		w.Header().Set("Content-Range", contentRangeOf(req))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(l.body[at : at+100])
		http.NewResponseController(w).Flush()
		l.arrive(req, at+100)
		cancel()
		l.s.Hang(req)
		return true
	})
	if _, err := l.get(ctx); err == nil || l.part() != at+100 {
		t.Fatalf("error %v, a part of %d bytes", err, l.part())
	}
	if disk.durable != at {
		t.Errorf("%d bytes are synced, want %d", disk.durable, at)
	}
}

// shared is a disk of a certain size, all of it for downloads.
type shared struct {
	fsys.FS
	size int64
}

func (s shared) Space() (fsys.Space, error) {
	left := s.size
	entries, err := s.ReadDir(downloadDir)
	if err != nil {
		return fsys.Space{}, err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name, ".boot") {
			left -= e.Size
		}
	}
	return fsys.Space{Free: left}, nil
}

// turns is a device that downloads for several, in turn.
type turns struct {
	*lab
	d     *Downloader
	files []File
}

func newTurns(t *testing.T, disk int64, who ...string) *turns {
	l := newLab(t)
	l.options.Attempts = 1
	l.options.FS = shared{l.fs, disk}
	l.options.For = who
	r := &turns{lab: l, d: made(l.options)}
	for i, w := range who {
		body := append(bytes.Clone(l.body), byte(i))
		l.s.Files["/targets/"+w] = body
		r.files = append(r.files, File{URL: l.s.URL + "/targets/" + w, Size: int64(len(body)), SHA256: digest.Of(body), For: w})
	}
	return r
}

// here says how much there is of a file, in whatever state.
func (r *turns) here(f File) int64 {
	for _, kind := range []string{".part", ".bundle"} {
		if info, err := os.Stat(filepath.Join(r.dir, f.stem()+kind)); err == nil {
			return info.Size()
		}
	}
	return 0
}

// interrupted fetches some bytes of a file, no more.
func (r *turns) interrupted(f File, n int64) error {
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	body := r.s.Files[f.URL[len(r.s.URL):]]
	r.s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		from := int64(first(req))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, f.Size-1, f.Size))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(f.Size))
		}
		to := min(from+n, f.Size)
		w.Write(body[from:to])
		if to == f.Size {
			return true
		}
		http.NewResponseController(w).Flush()
		for r.here(f) < to && req.Context().Err() == nil {
		}
		cancel()
		r.s.Hang(req)
		return true
	})
	_, err := r.d.Get(ctx, f, nil)
	return err
}

// Where there is room, downloads that take turns keep what they have.
func TestDownloadsTakeTurns(t *testing.T) {
	r := newTurns(t, 4*bodySize, "hello", "modem", "boot.loader")
	for range 4 {
		for _, f := range r.files {
			r.interrupted(f, bodySize/3)
		}
	}
	for _, f := range r.files {
		if got := r.here(f); got != f.Size {
			t.Errorf("%s: %d bytes are here, want %d", f.For, got, f.Size)
		}
	}
	if sent, all := r.s.BytesSent(), int64(3*(bodySize+1)); sent != all {
		t.Errorf("%d bytes sent, want %d", sent, all)
	}
	// Another file for one of them takes the place of its own only.
	r.s.Misbehave(nil)
	next := r.files[0]
	next.URL, next.SHA256, next.Size = r.s.URL+"/targets/f", digest.Of(r.body), bodySize
	if _, err := r.d.Get(t.Context(), next, nil); err != nil {
		t.Fatal(err)
	}
	if r.here(r.files[0]) != 0 || r.here(r.files[1]) == 0 || r.here(r.files[2]) == 0 {
		t.Error("another release of hello took the place of more, or less, than the one before")
	}
	// What has nothing to download leaves nothing, and neither does what the
	// device does not know any more.
	r.d.Drop("modem")
	if r.here(r.files[1]) != 0 || r.here(r.files[2]) == 0 {
		t.Error("drop took more, or less, than one")
	}
	r.options.For = []string{"hello"}
	if _, err := made(r.options).Get(t.Context(), next, nil); err != nil {
		t.Fatal(err)
	}
	if r.here(r.files[2]) != 0 {
		t.Error("a download for nobody stays")
	}
}

// Two that do not fit together: each is done in the end, however often both are
// interrupted, and none is thrown away that was ahead.
func TestDownloadsWithoutRoomForAll(t *testing.T) {
	r := newTurns(t, bodySize+bodySize/2, "hello", "modem")
	done := map[string]bool{}
	for round := 0; len(done) < 2; round++ {
		if round == 20 {
			t.Fatalf("done after %d rounds: %v", round, done)
		}
		for _, f := range r.files {
			if done[f.For] {
				continue
			}
			err := r.interrupted(f, bodySize/4)
			switch {
			case err == nil: // installed, and gone
				done[f.For] = true
				r.d.Drop(f.For)
			case errors.Is(err, fault.ErrNoSpace):
				if !strings.Contains(err.Error(), "until what was downloaded for") {
					t.Errorf("message %v", err)
				}
			}
		}
	}
	if sent, all := r.s.BytesSent(), int64(2*bodySize); sent > all+all/2 {
		t.Errorf("%d bytes sent for %d", sent, all)
	}
}

// One that nothing can come of keeps no other from its room, and neither does
// one that is behind.
func TestDownloadsMakeRoom(t *testing.T) {
	r := newTurns(t, bodySize+bodySize/2, "hello", "modem")
	r.options.Hopeless = map[string]bool{}
	r.d = made(r.options)
	hello, modem := r.files[0], r.files[1]
	r.interrupted(modem, bodySize*3/4)
	if err := r.interrupted(hello, 1); !errors.Is(err, fault.ErrNoSpace) {
		t.Errorf("beside one that is ahead: %v, want fault.ErrNoSpace", err)
	}
	r.s.Misbehave(webtest.Raw(http.StatusNotFound, nil))
	if _, err := r.d.Get(t.Context(), modem, nil); err == nil {
		t.Error("404 is no error")
	}
	r.s.Misbehave(nil)
	r.d = made(r.options) // an agent makes one for each job
	if _, err := r.d.Get(t.Context(), hello, nil); err != nil {
		t.Error(err)
	}
	if r.here(modem) != 0 {
		t.Error("what was in the way is still here")
	}
	if info, err := os.Stat(filepath.Join(r.dir, downloadDir)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of downloads has the mode %v, %v", info.Mode(), err)
	}

	// Room to unpack counts, where it can be had.
	r = newTurns(t, 3*bodySize, "hello", "modem")
	hello, modem = r.files[0], r.files[1]
	r.interrupted(modem, 1000)
	r.interrupted(hello, 2000)
	hello.Room = 2*bodySize - 500
	r.s.Misbehave(nil)
	if _, err := r.d.Get(t.Context(), hello, nil); err != nil {
		t.Error(err)
	}
	if r.here(modem) != 0 {
		t.Error("what was behind is still here")
	}
	r.d.Drop("hello")
	hello.Room = 100 * bodySize // not to be had: the download is no worse for it
	if _, err := r.d.Get(t.Context(), hello, nil); err != nil {
		t.Error(err)
	}
}

func TestDownloadForABadName(t *testing.T) {
	r := newTurns(t, 4*bodySize, "hello")
	for _, who := range []string{"../x", "a/b", ".x", strings.Repeat("x", 65)} {
		f := r.files[0]
		f.For = who
		if _, err := r.d.Get(t.Context(), f, nil); err == nil {
			t.Errorf("for %q: no error", who)
		}
	}
}
