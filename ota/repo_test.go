package ota

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/ota/internal/webtest"
)

// The first poll of a device, one that finds nothing changed, and one that
// finds a new release.
func TestPolls(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)

	d.wants("1.1.0")
	want := []string{"GET /metadata/2.root.json", "GET /metadata/timestamp.json", "GET /metadata/2.snapshot.json", "GET /metadata/2.targets.json"}
	if diff := cmp.Diff(want, s.Requests()); diff != "" {
		t.Errorf("requests of the first poll (-want +got):\n%s", diff)
	}

	s.Serve(p.files)
	d.clock = d.clock.Add(time.Hour)
	d.wants("1.1.0")
	if diff := cmp.Diff([]string{"GET /metadata/timestamp.json"}, s.Requests()); diff != "" {
		t.Errorf("requests of an idle poll (-want +got):\n%s", diff)
	}

	p.add("1.2.0", []byte("twelve"))
	p.publish()
	s.Serve(p.files)
	d.wants("1.2.0")
	want = []string{"GET /metadata/timestamp.json", "GET /metadata/2.root.json", "GET /metadata/3.snapshot.json", "GET /metadata/3.targets.json"}
	if diff := cmp.Diff(want, s.Requests()); diff != "" {
		t.Errorf("requests after a release (-want +got):\n%s", diff)
	}
}

func TestIdlePollWritesNothing(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	m := memfs.NewMachine()
	d.fs = m.NewDisk("state", memfs.Options{}).FS()
	d.wants("")
	before := m.Ops()
	d.clock = start.Add(timeStep - time.Second)
	d.wants("")
	if n := m.Ops() - before; n != 0 {
		t.Errorf("%d operations on the disk: %v", n, m.Trace()[before:])
	}
	// The time is written once an hour.
	d.clock = start.Add(timeStep)
	d.wants("")
	if got := OpenStore(d.fs, d.root, quiet()).poll().Time; !got.Equal(d.clock) {
		t.Errorf("the remembered time is %s, want %s", got, d.clock)
	}
	before = m.Ops()
	d.clock = start.Add(timeStep + time.Minute)
	d.wants("")
	if n := m.Ops() - before; n != 0 {
		t.Errorf("%d operations on the disk: %v", n, m.Trace()[before:])
	}
}

// Without an ETag, or with one that answers for other bytes, a poll is still right.
func TestServerWithoutETag(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		if data, ok := p.files[req.URL.Path]; ok {
			w.Write(data)
			return true
		}
		return false
	})
	d := newDevice(t, s, p)
	d.wants("")
	before := len(s.Requests())
	d.wants("")
	if diff := cmp.Diff([]string{"GET /metadata/2.root.json", "GET /metadata/timestamp.json"}, s.Requests()[before:]); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// A server that says "not modified" to whatever it is asked.
func TestNotModifiedUnasked(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		w.WriteHeader(http.StatusNotModified)
		return true
	})
	if _, err := d.check(); !errors.Is(err, ErrUnreachable) {
		t.Errorf("error %v, want ErrUnreachable", err)
	}
	s.Serve(p.files)
	d.wants("")
	s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		w.WriteHeader(http.StatusNotModified)
		return true
	})
	d.wants("") // freeze: believed until the timestamp expires
	d.clock = d.clock.Add(72 * time.Hour)
	if _, err := d.check(); !errors.Is(err, ErrUnreachable) {
		t.Errorf("after the timestamp expired: error %v, want ErrUnreachable", err)
	}
}

func status(path string, code int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != path {
			return false
		}
		http.Error(w, "secret page of the server", code)
		return true
	}
}

// TestBadAnswers gives a device that has polled once a bad server each. It must
// say so, keep what it trusts, and take the next good answer.
func TestBadAnswers(t *testing.T) {
	const timestamp = "/metadata/timestamp.json"
	for _, tt := range []struct {
		name string
		// bad changes what the publisher signs or the server does; after it a
		// release 1.2.0 was published.
		bad   func(t *testing.T, p *publisher, s *webtest.Server)
		hangs bool          // the device waits for the server until it has enough
		later time.Duration // by which the clock has moved
		want  error
		says  string // part of the message; it begins with the URL
	}{
		{
			name: "404", want: ErrUnreachable, says: "/metadata/timestamp.json: the server answered 404 Not Found: expected 200",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) { s.Misbehave(status(timestamp, 404)) },
		},
		{
			name: "500", want: ErrUnreachable, says: "/metadata/timestamp.json: the server answered 500 Internal Server Error: expected 200",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) { s.Misbehave(status(timestamp, 500)) },
		},
		{
			name: "500 for the next root", want: ErrUnreachable, says: "/metadata/2.root.json: the server answered 500",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) { s.Misbehave(status("/metadata/2.root.json", 500)) },
		},
		{
			name: "404 for the snapshot", want: ErrUnreachable, says: "/metadata/2.snapshot.json: the server answered 404",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) { delete(s.Files, "/metadata/2.snapshot.json") },
		},
		{
			name: "404 for the targets", want: ErrUnreachable, says: "/metadata/2.targets.json: the server answered 404",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) { delete(s.Files, "/metadata/2.targets.json") },
		},
		{
			name: "garbage", want: ErrRefused, says: "/metadata/timestamp.json: not TUF metadata of the role timestamp: expected the file that tandem-release wrote",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Files[timestamp] = []byte("<html>secret page of the server</html>")
			},
		},
		{
			name: "a login page for everything", want: ErrRefused, says: "/metadata/2.root.json: ",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
					io.WriteString(w, "<html>secret page of the server</html>")
					return true
				})
			},
		},
		{
			name: "empty answer", want: ErrRefused, says: "/metadata/timestamp.json: not TUF metadata",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) { s.Files[timestamp] = nil },
		},
		{
			name: "redirect to a file of the device", want: ErrUnreachable, says: "redirected from http to file",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
					http.Redirect(w, req, "file:///etc/hostname", http.StatusFound)
					return true
				})
			},
		},
		{
			name: "short body", want: ErrUnreachable, says: "/metadata/timestamp.json: no answer: unexpected EOF",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
					w.Header().Set("Content-Length", "500")
					w.Write([]byte(`{"signed":`))
					return true
				})
			},
		},
		{
			name: "no answer at all", hangs: true, want: ErrUnreachable, says: "/metadata/timestamp.json: no answer: ",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool { s.Hang(req); return true })
			},
		},
		{
			name: "half an answer, then silence", hangs: true, want: ErrUnreachable, says: "/metadata/timestamp.json: no answer: the server stopped sending",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
					io.WriteString(w, `{"signed":`)
					w.(http.Flusher).Flush()
					s.Hang(req)
					return true
				})
			},
		},
		{
			name: "nobody there", want: ErrUnreachable, says: "connection refused",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) { s.Server.Close() },
		},
		{
			name: "endless timestamp", want: ErrRefused, says: "/metadata/timestamp.json: the answer is longer than 16384 bytes",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) { s.Misbehave(webtest.Endless(timestamp, s)) },
		},
		{
			name: "endless root", want: ErrRefused, says: "/metadata/2.root.json: the answer is longer than 524288 bytes",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Misbehave(webtest.Endless("/metadata/2.root.json", s))
			},
		},
		{
			name: "endless snapshot", want: ErrRefused, says: "/metadata/2.snapshot.json: the answer is longer than ",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Misbehave(webtest.Endless("/metadata/2.snapshot.json", s))
			},
		},
		{
			name: "endless targets", want: ErrRefused, says: "/metadata/2.targets.json: the answer is longer than ",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Misbehave(webtest.Endless("/metadata/2.targets.json", s))
			},
		},
		{
			name: "expired timestamp", want: ErrRefused, later: 49 * time.Hour,
			says: "/metadata/timestamp.json: expired on 2026-06-03T12:00:00Z: expected metadata that is valid on 2026-06-03T13:00:00Z",
			bad:  func(t *testing.T, p *publisher, s *webtest.Server) {},
		},
		{
			name: "freeze: the old timestamp until it expires", want: ErrRefused, later: 49 * time.Hour,
			says: "/metadata/timestamp.json: expired on 2026-06-03T12:00:00Z",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Files[timestamp] = p.files["/old"+timestamp]
			},
		},
		{
			name: "older timestamp", want: ErrRefused, says: "/metadata/timestamp.json: a version that is older than this device has seen",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				p.stamp(0, pin(1, p.files["/metadata/1.snapshot.json"]))
				s.Files[timestamp] = p.files[timestamp]
			},
		},
		{
			name: "older snapshot in a newer timestamp", want: ErrRefused, says: "/metadata/timestamp.json: a version that is older",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				p.stamp(3, pin(0, p.files["/metadata/1.snapshot.json"]))
				s.Files[timestamp] = p.files[timestamp]
			},
		},
		{
			name: "older targets in a newer snapshot", want: ErrRefused, says: "/metadata/3.snapshot.json: a version that is older",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				snapshot := metadata.Snapshot(p.expires)
				snapshot.Signed.Version = 3
				snapshot.Signed.Meta["targets.json"] = pin(0, p.files["/metadata/1.targets.json"])
				data := signed(p, snapshot, p.keys[metadata.SNAPSHOT])
				p.stamp(3, pin(3, data))
				s.Files[timestamp], s.Files["/metadata/3.snapshot.json"] = p.files[timestamp], data
			},
		},
		{
			name: "snapshot of another day", want: ErrRefused, says: "/metadata/2.snapshot.json: its length or SHA-256 is not the one that was announced: expected the document that the repository's timestamp.json names",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Files["/metadata/2.snapshot.json"] = s.Files["/metadata/1.snapshot.json"]
			},
		},
		{
			name: "targets of another day", want: ErrRefused, says: "/metadata/2.targets.json: its length or SHA-256 is not the one that was announced: expected the document that the repository's snapshot.json names",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Files["/metadata/2.targets.json"] = s.Files["/metadata/1.targets.json"]
			},
		},
		{
			name: "timestamp of another key", want: ErrRefused, says: "/metadata/timestamp.json: not signed by the keys that this device trusts for timestamp: expected signatures that root version 1 asks for",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				other := newPublisher(t)
				other.publish()
				s.Files[timestamp] = other.files[timestamp]
			},
		},
		{
			name: "timestamp signed by the targets key", want: ErrRefused, says: "not signed by the keys that this device trusts for timestamp",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				p.keys[metadata.TIMESTAMP] = p.keys[metadata.TARGETS]
				p.stamp(2, pin(2, p.files["/metadata/2.snapshot.json"]))
				s.Files[timestamp] = p.files[timestamp]
			},
		},
		{
			name: "snapshot in place of the timestamp", want: ErrRefused, says: "/metadata/timestamp.json: not TUF metadata",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Files[timestamp] = s.Files["/metadata/2.snapshot.json"]
			},
		},
		{
			name: "root of another repository", want: ErrRefused, says: "/metadata/2.root.json: not trusted: root",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				other := newPublisher(t)
				other.rotate(metadata.TIMESTAMP)
				s.Files["/metadata/2.root.json"] = other.files["/metadata/2.root.json"]
			},
		},
		{
			name: "root that skips a version", want: ErrRefused, says: "/metadata/2.root.json: not trusted: root has version 3",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				p.root.Signed.Version++
				p.rotate()
				s.Files["/metadata/2.root.json"] = p.files["/metadata/3.root.json"]
			},
		},
		{
			name: "root without keys", want: ErrRefused, says: "/metadata/2.root.json: not trusted: root",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				s.Files["/metadata/2.root.json"] = []byte(`{"signatures":[],"signed":{"_type":"root","version":2,"spec_version":"1.0","expires":"2030-01-01T00:00:00Z","consistent_snapshot":true,"keys":{"a":null},"roles":{"root":null}}}`)
			},
		},
		{
			name: "timestamp that names no snapshot", want: ErrRefused, says: "/metadata/timestamp.json: not TUF metadata",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				p.stamp(3, nil)
				s.Files[timestamp] = p.files[timestamp]
			},
		},
		{
			name: "snapshot with a null entry", want: ErrRefused, says: "/metadata/3.snapshot.json: not TUF metadata",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				snapshot := metadata.Snapshot(p.expires)
				snapshot.Signed.Version = 3
				snapshot.Signed.Meta["targets.json"] = nil
				data := signed(p, snapshot, p.keys[metadata.SNAPSHOT])
				p.stamp(3, pin(3, data))
				s.Files[timestamp], s.Files["/metadata/3.snapshot.json"] = p.files[timestamp], data
			},
		},
		{
			name: "snapshot that does not pin the targets", want: ErrRefused, says: "names targets.json without its SHA-256",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				p.noHashes = true
				p.publish()
				p.noHashes = false
				s.Serve(p.files)
			},
		},
		{
			name: "the targets of a bundle", want: ErrRefused, says: "lists release.json.zst, as the metadata inside a bundle does",
			bad: func(t *testing.T, p *publisher, s *webtest.Server) {
				p.targets.Signed.Targets["release.json.zst"] = p.targets.Signed.Targets["hello-1.1.0.bundle"]
				p.publish()
				delete(p.targets.Signed.Targets, "release.json.zst")
				s.Serve(p.files)
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPublisher(t)
			p.add("1.1.0", []byte("eleven"))
			p.version = 0
			p.publish()
			provisioned, timestampKey := *p, p.keys[metadata.TIMESTAMP]
			s := webtest.New(t, p.files)
			d := newDevice(t, s, p)
			d.wants("1.1.0")
			p.files["/old"+timestamp] = p.files[timestamp]
			p.add("1.2.0", []byte("twelve"))
			p.publish()
			s.Serve(p.files)
			tt.bad(t, p, s)

			d.clock = d.clock.Add(tt.later)
			if tt.hangs {
				d.patience = 200 * time.Millisecond
			}
			_, err := d.check()
			d.patience = time.Minute
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("message\n got %s\nwant %s", err, tt.says)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the body is dumped: %s", err)
			}
			var problem *Problem
			if !errors.As(err, &problem) || problem.Hint() == "" || !strings.HasPrefix(problem.URL, s.URL) {
				t.Errorf("no address or advice in %#v", problem)
			}

			// The bad answer has cost nothing: the next good one is taken.
			*p = provisioned
			p.keys[metadata.TIMESTAMP] = timestampKey
			p.files = map[string][]byte{}
			p.version = 10
			p.expires = p.expires.Add(tt.later)
			p.publish()
			good := webtest.New(t, p.files)
			d.url = good.URL
			d.wants("1.2.0")
		})
	}
}

// A device that follows several new roots, each with other keys.
func TestRootsAreFollowed(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	d.wants("1.1.0")

	p.rotate(metadata.ROOT)
	p.rotate(metadata.TIMESTAMP, metadata.SNAPSHOT)
	p.rotate(metadata.ROOT, metadata.TARGETS)
	p.version = 0 // new keys start anew: what was trusted of the old ones does not bind them
	p.add("1.2.0", []byte("twelve"))
	p.publish()
	s.Serve(p.files)
	d.wants("1.2.0")
	if v := OpenStore(d.fs, d.root, quiet()).Root().Version(); v != 4 {
		t.Errorf("root version %d after a restart, want 4", v)
	}
	s.Serve(p.files)
	d.wants("1.2.0")
	if got := s.Requests(); len(got) != 1 {
		t.Errorf("an idle poll asked %v", got)
	}
}

// The timestamp came before the root that replaced its key.
func TestRootChangesDuringPoll(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	d.wants("")
	before := append(p.files["/metadata/timestamp.json"], ' ') // which has another ETag
	p.rotate(metadata.TIMESTAMP)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	s.Serve(p.files)
	first := true
	s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/metadata/timestamp.json" && first {
			first = false
			w.Write(before)
			return true
		}
		return false
	})
	d.wants("1.1.0")
}

// A device whose clock stands still at 1970, or falls back to it.
func TestNoClock(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	d.clock = time.Unix(0, 0)
	d.built = start.Add(-time.Hour)
	d.wants("1.1.0")

	// With a clock it learns how late it is, and does not forget it.
	old := p.files["/metadata/timestamp.json"]
	p.expires = start.AddDate(0, 0, 30)
	p.publish()
	s.Serve(p.files)
	d.clock = start.AddDate(0, 0, 20)
	d.wants("1.1.0")
	d.clock = time.Unix(0, 0)
	if got := OpenStore(d.fs, d.root, quiet()).RefTime(d.clock, d.built); !got.Equal(start.AddDate(0, 0, 20)) {
		t.Errorf("reference time %s after the clock was lost", got)
	}
	d.wants("1.1.0")

	// So what has expired since stays expired, also where nothing else is left.
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		if err := d.fs.Remove("trust/" + role + ".json"); err != nil {
			t.Fatal(err)
		}
	}
	s.Serve(p.files)
	s.Files["/metadata/timestamp.json"] = old
	if _, err := d.check(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "expired on") {
		t.Errorf("stale timestamp: %v", err)
	}
}

// A clock that was ahead once, while all that was signed held for long, does not
// lock the device out for as long as it was ahead.
func TestClockOnceAhead(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.expires = start.AddDate(0, 11, 0)
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	d.clock = start.AddDate(0, 0, 300)
	d.wants("1.1.0")
	d.clock = start.AddDate(0, 0, 1)
	d.wants("1.1.0")

	// What is published from then on expires before the remembered time.
	p.expires = start.AddDate(0, 0, 30)
	p.publish()
	s.Serve(p.files)
	d.wants("1.1.0")
	if got := OpenStore(d.fs, d.root, quiet()).RefTime(d.clock, d.built); !got.Equal(d.clock) {
		t.Errorf("reference time %s, the clock says %s", got, d.clock)
	}
	// It is a clock again that nobody sets back.
	d.clock = start.AddDate(0, 0, 20)
	d.wants("1.1.0")
	d.clock = time.Unix(0, 0)
	p.expires = start.AddDate(0, 0, 10)
	p.publish()
	s.Serve(p.files)
	d.built = start.AddDate(0, 0, 15)
	if _, err := d.check(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "expired on") {
		t.Errorf("stale for whoever was built since: %v", err)
	}
}

// A name that a server has for its metadata never makes the time unreadable.
func TestLongETag(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	s := webtest.New(t, p.files)
	s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		data, ok := s.Files[req.URL.Path]
		if !ok {
			return false
		}
		w.Header().Set("ETag", `"`+strings.Repeat("x", 6000)+`"`)
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
		return true
	})
	d := newDevice(t, s, p)
	d.wants("1.1.0")
	if poll := OpenStore(d.fs, d.root, quiet()).poll(); !poll.Time.Equal(d.clock) || poll.ETag != "" {
		t.Errorf("remembered: %s, a name of %d bytes", poll.Time, len(poll.ETag))
	}
	d.wants("1.1.0")
}

func TestExpiredRoot(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	d.clock = start.AddDate(1, 0, 1)
	_, err := d.check()
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the root in force, version 1, expired on 2027-06-01T12:00:00Z") {
		t.Errorf("expired root: %v", err)
	}
	// A newer root mends it.
	p.root.Signed.Expires = start.AddDate(3, 0, 0)
	p.targets.Signed.Expires = start.AddDate(3, 0, 0)
	p.rotate()
	p.expires = d.clock.Add(time.Hour)
	p.publish()
	s.Serve(p.files)
	d.wants("")
}

// One release that cannot be read does not hide the others.
func TestUnreadableRelease(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	good := p.targets.Signed.Targets["hello-1.1.0.bundle"]
	p.targets.Signed.Targets["strange"] = &metadata.TargetFiles{Length: 1, Hashes: good.Hashes}
	p.targets.Signed.Targets["empty"] = &metadata.TargetFiles{Length: 0, Hashes: good.Hashes, Custom: good.Custom}
	p.targets.Signed.Targets["../out"] = &metadata.TargetFiles{Length: 1, Hashes: good.Hashes, Custom: good.Custom}
	p.publish()
	s := webtest.New(t, p.files)
	newDevice(t, s, p).wants("1.1.0")
}

func TestConsiderTellsReasons(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.add("0.9.0", []byte("nine"))
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	dec, err := must[*Listing](t)(d.repo().List(t.Context())).Choose(d.about)
	if err != nil {
		t.Fatal(err)
	}
	if dec.Best == nil || dec.Best.Name != "hello-1.1.0.bundle" || dec.Best.Size != 6 || dec.Best.SHA256 != digest.Of([]byte("eleven")) {
		t.Errorf("best %+v", dec.Best)
	}
	if len(dec.Passed) != 1 || dec.Passed[0].String() != "hello-0.9.0.bundle: version 0.9.0 is not higher than 1.0.0, which is installed" {
		t.Errorf("passed over: %v", dec.Passed)
	}
}

func TestCancelledPoll(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	ctx, cancel := context.WithCancel(t.Context())
	s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool { cancel(); s.Hang(req); return true })
	if _, err := best(ctx, d.repo(), d.about); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnreachable) {
		t.Errorf("error %v, want context.Canceled alone", err)
	}
}

func TestPasswordIsNotShown(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	d.url = strings.Replace(s.URL, "http://", "http://user:hunter2@", 1)
	s.Misbehave(status("/metadata/timestamp.json", 500))
	_, err := d.check()
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "/metadata/timestamp.json") {
		t.Errorf("message %v", err)
	}
	d.url = "http://user:hunter2@127.0.0.1:1/"
	if _, err = d.check(); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("message %v", err)
	}
}

// A repository in a directory: checked, and fetched from.
func TestFileURL(t *testing.T) {
	p := newPublisher(t)
	content := []byte(strings.Repeat("eleven ", 10000))
	p.add("1.1.0", content)
	p.publish()
	dir := t.TempDir()
	for name, data := range p.files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := newDevice(t, &webtest.Server{Server: &httptest.Server{URL: "file://" + dir}}, p)
	d.fs = must[*fsys.OS](t)(fsys.OpenOS(t.TempDir()))
	for range 2 {
		d.wants("1.1.0")
	}
	r := d.repo()
	o := must[*Offer](t)(best(t.Context(), r, d.about))
	file, err := r.Fetch(t.Context(), *o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := must[[]byte](t)(os.ReadFile(file)); string(got) != string(content) {
		t.Errorf("%d bytes fetched, want %d", len(got), len(content))
	}
}

// While a release is fetched its publisher replaces it: the device takes no mix
// of the two, finds the new one at its next poll, and keeps nothing of the old.
func TestReleaseReplacedMidway(t *testing.T) {
	p := newPublisher(t)
	old, replacement := bytes.Repeat([]byte("old "), 50_000), bytes.Repeat([]byte("new "), 50_000)
	p.add("1.1.0", old)
	p.publish()
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	state := must[*fsys.OS](t)(fsys.OpenOS(t.TempDir()))
	d.fs = state
	r := d.repo()
	o := must[*Offer](t)(best(t.Context(), r, d.about))
	path := "/targets/" + o.SHA256.String() + "." + o.Name

	ctx, cancel := context.WithCancel(t.Context())
	s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != path {
			return false
		}
		webtest.Raw(http.StatusOK, old[:len(old)/2])(w, req)
		cancel()
		return true
	})
	if _, err := r.Fetch(ctx, *o, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want context.Canceled", err)
	}
	// The same name has other content; then it is gone.
	s.Misbehave(nil)
	s.Files[path] = replacement
	if _, err := r.Fetch(t.Context(), *o, nil); !errors.Is(err, ErrRefused) {
		t.Errorf("mixed: error %v, want ErrRefused", err)
	}
	delete(p.files, path)
	p.add("1.1.0", replacement)
	p.publish()
	s.Serve(p.files)
	if _, err := r.Fetch(t.Context(), *o, nil); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "404") {
		t.Errorf("gone: error %v, want ErrUnreachable", err)
	}
	o = must[*Offer](t)(best(t.Context(), r, d.about))
	file, err := r.Fetch(t.Context(), *o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := must[[]byte](t)(os.ReadFile(file)); !bytes.Equal(got, replacement) {
		t.Error("other content than the new release's")
	}
	if left := must[[]fsys.Info](t)(state.ReadDir("downloads")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// What is left of a download goes once there is nothing to download.
func TestNothingOnOfferLeavesNothing(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	d := newDevice(t, webtest.New(t, p.files), p)
	mkdir(t, d.fs, "downloads")
	name := "downloads/hello." + digest.Of([]byte("eleven")).String() + ".part"
	if err := fsys.WriteFile(d.fs, name, []byte("ele"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.wants("1.1.0")
	if _, err := d.fs.Lstat(name); err != nil {
		t.Errorf("with a release on offer: %v", err)
	}
	d.about.Installed = version(t, "1.1.0")
	d.wants("")
	if _, err := d.fs.Lstat(name); !fsys.IsNotExist(err) {
		t.Errorf("without one: %v, want it gone", err)
	}
}

// What nothing goes without is asked for when a Repo is made, by its name.
func TestNewRepoChecks(t *testing.T) {
	p := newPublisher(t)
	whole := newDevice(t, webtest.New(t, p.files), p).repo().o
	for name, change := range map[string]func(*RepoOptions){
		"Client": func(o *RepoOptions) { o.Client = nil }, "Store": func(o *RepoOptions) { o.Store = nil }, "Log": func(o *RepoOptions) { o.Log = nil },
		"Downloads": func(o *RepoOptions) { o.Downloads = nil }, "Now": func(o *RepoOptions) { o.Now = nil },
	} {
		o := whole
		change(&o)
		if _, err := NewRepo(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: error %v", name, err)
		}
	}
}
