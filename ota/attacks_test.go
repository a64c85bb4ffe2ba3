package ota

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/ota/internal/webtest"
)

// attack is a device that follows a repository, has seen its release 1.1.0, and
// now faces somebody else. The repository has 1.2.0 by then.
type attack struct {
	*device
	p     *publisher
	s     *webtest.Server
	store map[string][]byte // what the repository served before 1.2.0
}

const timestampPath = "/metadata/timestamp.json"

// file gives the path of the file of a release.
func (a *attack) file(v string) string {
	name := "hello-" + v + ".bundle"
	sum := a.p.targets.Signed.Targets[name].Hashes["sha256"]
	return "/targets/" + sum.String() + "." + name
}

// fetch checks for 1.2.0, which must be on offer, and gets it.
func (a *attack) fetch() error {
	a.t.Helper()
	r := a.repo()
	o, err := best(a.t.Context(), r, a.about)
	if err != nil || o == nil {
		a.t.Fatalf("on offer: %v, %v", o, err)
	}
	_, err = r.Fetch(a.t.Context(), *o, nil)
	return err
}

// drip sends one byte now and then, for ever.
func drip(path string, body []byte, s *webtest.Server) webtest.Handler {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != path {
			return false
		}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for _, b := range body {
			w.Write([]byte{b})
			w.(http.Flusher).Flush()
			select {
			case <-tick.C:
			case <-req.Context().Done():
				return true
			case <-s.Gone:
				return true
			}
		}
		return true
	}
}

// TestAttacks is the list of attacks in the TUF specification. Extraneous
// dependencies, the one that is missing, needs releases that depend on others:
// a bundle is complete.
func TestAttacks(t *testing.T) {
	for _, tt := range []struct {
		attack string
		how    string
		// mount makes the attack, and run the device's answer to it; nil is
		// a check for releases.
		mount func(a *attack)
		run   func(a *attack) error
		want  error
		says  string
	}{
		{
			"arbitrary software", "other content under the name of a release",
			func(a *attack) { a.s.Files[a.file("1.2.0")] = []byte("dozens") },
			(*attack).fetch, ErrRefused, "what the server sent has another SHA-256",
		},
		{
			"arbitrary software", "a release that the thief lists, with a key of his own",
			func(a *attack) {
				thief := newPublisher(a.t)
				a.p.keys[metadata.TARGETS] = thief.keys[metadata.TARGETS]
				a.p.add("6.6.6", []byte("beast"))
				a.p.publish()
				a.s.Serve(a.p.files)
			},
			nil, ErrRefused, "/metadata/3.targets.json: not signed by the keys that this device trusts for targets",
		},
		{
			"arbitrary software", "a signature copied from other metadata",
			func(a *attack) {
				doc := bytes.Replace(a.s.Files[timestampPath], []byte(`"version":2}`), []byte(`"version":9}`), 1)
				if bytes.Equal(doc, a.s.Files[timestampPath]) {
					a.t.Fatal("nothing was replaced")
				}
				a.s.Files[timestampPath] = doc
			},
			nil, ErrRefused, "/metadata/timestamp.json: a signature for timestamp does not match what is signed",
		},
		{
			"endless data", "metadata",
			func(a *attack) { a.s.Misbehave(webtest.Endless(timestampPath, a.s)) },
			nil, ErrRefused, "/metadata/timestamp.json: the answer is longer than 16384 bytes",
		},
		{
			"endless data", "metadata that is announced to be huge",
			func(a *attack) {
				a.p.publish()
				huge := pin(a.p.version, nil)
				huge.Length, huge.Hashes = math.MaxInt64, nil
				a.p.stamp(a.p.version, huge)
				a.s.Serve(a.p.files)
				a.s.Misbehave(webtest.Endless("/metadata/3.snapshot.json", a.s))
			},
			nil, ErrRefused, "/metadata/3.snapshot.json: the answer is longer than 262144 bytes",
		},
		{
			"endless data", "a release",
			func(a *attack) { a.s.Misbehave(webtest.Endless(a.file("1.2.0"), a.s)) },
			(*attack).fetch, ErrRefused, "what the server sent has another SHA-256",
		},
		{
			"fast-forward", "with the timestamp's key, to keep the device from what follows",
			func(a *attack) {
				honest := bytes.Clone(a.s.Files[timestampPath])
				a.p.stamp(math.MaxInt64, pin(2, a.s.Files["/metadata/2.snapshot.json"]))
				a.s.Files[timestampPath] = a.p.files[timestampPath]
				a.wants("1.2.0") // nobody can tell by now
				a.s.Files[timestampPath] = honest
			},
			nil, ErrRefused, "/metadata/timestamp.json: a version that is older than this device has seen (new timestamp version 2 must be >= 9223372036854775807)",
		},
		{
			"indefinite freeze", "the last timestamp for ever",
			func(a *attack) {
				a.s.Files[timestampPath] = a.store[timestampPath]
				a.clock = a.clock.Add(49 * time.Hour)
			},
			nil, ErrRefused, "/metadata/timestamp.json: expired on 2026-06-03T12:00:00Z: expected metadata that is valid on 2026-06-03T13:00:00Z",
		},
		{
			"indefinite freeze", "not modified for ever",
			func(a *attack) {
				a.s.Misbehave(webtest.Raw(http.StatusNotModified, nil))
				a.clock = a.clock.Add(49 * time.Hour)
			},
			nil, ErrUnreachable, "/metadata/2.root.json: the server answered 304 Not Modified",
		},
		{
			"indefinite freeze", "a snapshot that has expired, in a timestamp that has not",
			func(a *attack) {
				a.p.expires = start.Add(-time.Hour)
				a.p.publish()
				a.p.expires = start.Add(48 * time.Hour)
				a.p.stamp(a.p.version, pin(a.p.version, fileOf(a.p, metadata.SNAPSHOT)))
				a.s.Serve(a.p.files)
			},
			nil, ErrRefused, "/metadata/3.snapshot.json: expired on 2026-06-01T11:00:00Z",
		},
		{
			"indefinite freeze", "releases that have expired",
			func(a *attack) {
				a.p.targets.Signed.Expires = start.Add(-time.Hour)
				a.p.publish()
				a.s.Serve(a.p.files)
			},
			nil, ErrRefused, "/metadata/3.targets.json: expired on 2026-06-01T11:00:00Z",
		},
		{
			"malicious mirror", "a whole repository of its own",
			func(a *attack) {
				mirror := newPublisher(a.t)
				mirror.add("6.6.6", []byte("beast"))
				mirror.publish()
				mirror.publish()
				a.s.Serve(mirror.files)
			},
			nil, ErrRefused, "/metadata/timestamp.json: not signed by the keys that this device trusts for timestamp",
		},
		{
			"malicious mirror", "a root of its own, so that the rest would be trusted",
			func(a *attack) {
				mirror := newPublisher(a.t)
				mirror.rotate(metadata.ROOT)
				mirror.publish()
				a.s.Serve(mirror.files)
			},
			nil, ErrRefused, "/metadata/2.root.json: not trusted: root version 2: root metadata is signed by key ",
		},
		{
			"mix and match", "the releases of one day in the snapshot of another",
			func(a *attack) { a.s.Files["/metadata/2.targets.json"] = a.store["/metadata/1.targets.json"] },
			nil, ErrRefused, "/metadata/2.targets.json: its length or SHA-256 is not the one that was announced",
		},
		{
			"mix and match", "a snapshot of another version than the timestamp names",
			func(a *attack) {
				loose := pin(3, nil)
				loose.Length, loose.Hashes = 0, nil
				a.p.stamp(3, loose)
				a.s.Files[timestampPath] = a.p.files[timestampPath]
				a.s.Files["/metadata/3.snapshot.json"] = a.s.Files["/metadata/2.snapshot.json"]
			},
			nil, ErrRefused, "/metadata/3.snapshot.json: has version 2: expected version 3, which the repository's timestamp.json names",
		},
		{
			"mix and match", "a snapshot that drops what it has named",
			func(a *attack) {
				// One that names more, then one that does not.
				more := metadata.Snapshot(a.p.expires)
				more.Signed.Version = 3
				more.Signed.Meta["targets.json"] = pin(2, fileOf(a.p, metadata.TARGETS))
				more.Signed.Meta["other.json"] = pin(1, nil)
				data := signed(a.p, more, a.p.keys[metadata.SNAPSHOT])
				a.p.stamp(3, pin(3, data))
				a.s.Files[timestampPath], a.s.Files["/metadata/3.snapshot.json"] = a.p.files[timestampPath], data
				a.wants("1.2.0")
				a.p.version = 3
				a.p.publish()
				a.s.Serve(a.p.files)
			},
			nil, ErrRefused, "/metadata/4.snapshot.json: not what may follow on what this device has seen (repository error: new snapshot is missing info for other.json)",
		},
		{
			"rollback", "an older timestamp",
			func(a *attack) { a.wants("1.2.0"); a.s.Files[timestampPath] = a.store[timestampPath] },
			nil, ErrRefused, "/metadata/timestamp.json: a version that is older than this device has seen (new timestamp version 1 must be >= 2)",
		},
		{
			"rollback", "an older snapshot, with the timestamp's key",
			func(a *attack) {
				a.wants("1.2.0")
				a.p.stamp(3, pin(1, a.store["/metadata/1.snapshot.json"]))
				a.s.Files[timestampPath] = a.p.files[timestampPath]
			},
			nil, ErrRefused, "/metadata/timestamp.json: a version that is older than this device has seen (new snapshot version 1 must be >= 2)",
		},
		{
			"rollback", "older releases, with the keys of timestamp and snapshot",
			func(a *attack) {
				a.wants("1.2.0")
				snapshot := metadata.Snapshot(a.p.expires)
				snapshot.Signed.Version = 3
				snapshot.Signed.Meta["targets.json"] = pin(1, a.store["/metadata/1.targets.json"])
				data := signed(a.p, snapshot, a.p.keys[metadata.SNAPSHOT])
				a.p.stamp(3, pin(3, data))
				a.s.Files[timestampPath], a.s.Files["/metadata/3.snapshot.json"] = a.p.files[timestampPath], data
			},
			nil, ErrRefused, "/metadata/3.snapshot.json: a version that is older than this device has seen, of metadata that it names",
		},
		{
			"slow retrieval", "metadata, byte by byte",
			func(a *attack) {
				a.patience = 100 * time.Millisecond
				a.s.Misbehave(drip(timestampPath, a.s.Files[timestampPath], a.s))
			},
			nil, ErrUnreachable, "/metadata/timestamp.json: no answer: the server sends too slowly",
		},
		{
			"key compromise", "one of the two keys that the timestamp needs",
			func(a *attack) {
				a.p.need(metadata.TIMESTAMP, 2)
				a.p.rotate()
				a.p.publish()
				a.s.Serve(a.p.files)
				a.wants("1.2.0")
				a.p.more[metadata.TIMESTAMP] = nil
				a.p.publish()
				a.s.Serve(a.p.files)
			},
			nil, ErrRefused, "/metadata/timestamp.json: signed by 1 of the keys that this device trusts for timestamp: expected 2 signatures that root version 2 asks for",
		},
		{
			"key compromise", "one key, which signs twice",
			func(a *attack) {
				a.p.need(metadata.TIMESTAMP, 2)
				a.p.rotate()
				a.p.more[metadata.TIMESTAMP] = a.p.signers(metadata.TIMESTAMP)[1:]
				a.p.publish()
				a.s.Serve(a.p.files)
			},
			nil, ErrRefused, "/metadata/timestamp.json: not TUF metadata of the role timestamp",
		},
		{
			"key compromise", "one of the two keys that the root needs",
			func(a *attack) {
				a.p.need(metadata.ROOT, 2)
				a.p.rotate()
				a.p.publish()
				a.s.Serve(a.p.files)
				a.wants("1.2.0")
				a.p.more[metadata.ROOT] = nil
				a.p.rotate()
				a.p.publish()
				a.s.Serve(a.p.files)
			},
			nil, ErrRefused, "/metadata/3.root.json: not trusted: root version 3: root metadata has 1 of the 2 signatures that version 2 of the root asks for",
		},
		{
			"key compromise", "all keys that are online: timestamp and snapshot",
			func(a *attack) {
				thief := newPublisher(a.t)
				thief.keys[metadata.TIMESTAMP], thief.keys[metadata.SNAPSHOT] = a.p.keys[metadata.TIMESTAMP], a.p.keys[metadata.SNAPSHOT]
				thief.add("6.6.6", []byte("beast"))
				thief.version = 2
				thief.publish()
				delete(thief.files, "/metadata/2.root.json")
				a.s.Serve(thief.files)
			},
			nil, ErrRefused, "/metadata/3.targets.json: not signed by the keys that this device trusts for targets",
		},
		{
			"key compromise", "a key that was withdrawn since",
			func(a *attack) {
				stolen := a.p.keys[metadata.TIMESTAMP]
				a.p.rotate(metadata.TIMESTAMP)
				a.p.publish()
				a.s.Serve(a.p.files)
				a.wants("1.2.0")
				a.p.keys[metadata.TIMESTAMP] = stolen
				a.p.publish()
				a.s.Serve(a.p.files)
			},
			nil, ErrRefused, "/metadata/timestamp.json: not signed by the keys that this device trusts for timestamp: expected signatures that root version 2 asks for",
		},
		{
			"wrong software", "a genuine release of another version under the name of the new one",
			func(a *attack) { a.s.Files[a.file("1.2.0")] = a.s.Files[a.file("1.1.0")] },
			(*attack).fetch, ErrRefused, "what the server sent has another SHA-256: expected 6 bytes with the SHA-256 ",
		},
		{
			"wrong length", "a release that is too short",
			func(a *attack) { a.s.Files[a.file("1.2.0")] = []byte("twe") },
			(*attack).fetch, ErrRefused, "the server has 3 bytes of it: expected 6 bytes",
		},
		{
			"wrong length", "a release that is too long",
			func(a *attack) { a.s.Files[a.file("1.2.0")] = []byte("twelve!") },
			(*attack).fetch, ErrRefused, "the server has 7 bytes of it: expected 6 bytes",
		},
		{
			"wrong length", "metadata that goes on after its end",
			func(a *attack) {
				a.s.Files["/metadata/2.targets.json"] = append(bytes.Clone(a.s.Files["/metadata/2.targets.json"]), ' ')
			},
			nil, ErrRefused, "/metadata/2.targets.json: the answer is longer than ",
		},
	} {
		t.Run(tt.attack+": "+tt.how, func(t *testing.T) {
			p := newPublisher(t)
			p.version = 0
			p.add("1.1.0", []byte("eleven"))
			p.publish()
			s := webtest.New(t, p.files)
			a := &attack{device: newDevice(t, s, p), p: p, s: s, store: s.Files}
			a.fs = must[*fsys.OS](t)(fsys.OpenOS(t.TempDir()))
			a.wants("1.1.0")
			p.add("1.2.0", []byte("twelve"))
			p.publish()
			s.Serve(p.files)
			tt.mount(a)

			run := tt.run
			if run == nil {
				run = func(a *attack) error { _, err := a.check(); return err }
			}
			err := run(a)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("message\n got %s\nwant %s", err, tt.says)
			}
			var problem *Problem
			if !errors.As(err, &problem) || problem.Hint() == "" {
				t.Errorf("no advice in %#v", err)
			}
		})
	}
}

// A device that was led forward with stolen keys comes back once its publisher
// has withdrawn them, whichever of the two roles they were of.
func TestFastForwardRecovery(t *testing.T) {
	for _, stolen := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT} {
		t.Run(stolen, func(t *testing.T) {
			p := newPublisher(t)
			p.add("1.1.0", []byte("eleven"))
			p.version = 1000
			p.publish()
			s := webtest.New(t, p.files)
			d := newDevice(t, s, p)
			d.wants("1.1.0")
			p.version = 4
			p.publish()
			s.Serve(p.files)
			if _, err := d.check(); !errors.Is(err, ErrRefused) {
				t.Errorf("before: error %v, want ErrRefused", err)
			}
			p.rotate(stolen)
			p.add("1.2.0", []byte("twelve"))
			p.publish()
			s.Serve(p.files)
			d.wants("1.2.0")
			if got := digest.Of(OpenStore(d.fs, d.root, quiet()).Document(metadata.SNAPSHOT)); got != digest.Of(fileOf(p, metadata.SNAPSHOT)) {
				t.Error("another snapshot is stored")
			}
		})
	}
}

// What is stored is forgotten for a key that goes, not for one that comes.
func TestNewKeyForgetsNothing(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	before := p.files[timestampPath]
	p.publish()
	s.Serve(p.files)
	d.wants("")
	p.need(metadata.TIMESTAMP, 2)
	p.root.Signed.Roles[metadata.TIMESTAMP].Threshold = 1
	p.rotate(metadata.TARGETS)
	s.Serve(p.files)
	s.Files[timestampPath] = before
	if _, err := d.check(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "older than this device has seen") {
		t.Errorf("an older timestamp after a new root: %v", err)
	}
}

// A device that was offline while every role changed its keys and the root its
// threshold, twice, follows link by link; with one root missing it stays.
func TestOfflineWhileKeysChange(t *testing.T) {
	p := newPublisher(t)
	p.need(metadata.ROOT, 2)
	p.writeRoot()
	d := newDevice(t, webtest.New(t, p.files), p)
	d.wants("")
	p.rotate(metadata.ROOT, metadata.TIMESTAMP)
	p.need(metadata.ROOT, 3)
	p.rotate(metadata.ROOT, metadata.SNAPSHOT)
	p.need(metadata.TARGETS, 2)
	p.rotate(metadata.TARGETS)
	p.add("1.2.0", []byte("twelve"))
	p.publish()

	gap := webtest.New(t, p.files)
	delete(gap.Files, "/metadata/3.root.json")
	d.url = gap.URL
	if _, err := d.check(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "expected signatures that root version 2 asks for") {
		t.Errorf("with a root missing: %v", err)
	}
	if v := OpenStore(d.fs, d.root, quiet()).Root().Version(); v != 2 {
		t.Errorf("root version %d is trusted, want 2", v)
	}
	d.url = webtest.New(t, p.files).URL
	d.wants("1.2.0")
	if v := OpenStore(d.fs, d.root, quiet()).Root().Version(); v != 4 {
		t.Errorf("root version %d is trusted, want 4", v)
	}
}

// A bundle brings roots, too: what they withdraw is forgotten all the same.
func TestRootFromABundleForgets(t *testing.T) {
	p := newPublisher(t)
	d := newDevice(t, webtest.New(t, p.files), p)
	d.wants("")
	p.rotate(metadata.SNAPSHOT)
	store := OpenStore(d.fs, d.root, quiet())
	if err := store.AddRoot(p.files["/metadata/2.root.json"]); err != nil {
		t.Fatal(err)
	}
	store = OpenStore(d.fs, d.root, quiet())
	if store.Document(metadata.TIMESTAMP) != nil || store.Document(metadata.SNAPSHOT) != nil || store.Document(metadata.TARGETS) == nil {
		t.Error("want timestamp and snapshot forgotten, and targets kept")
	}
}

// What go-tuf 2.4.2 would panic on is refused before it is given to it, also
// where it comes from the disk.
func TestMetadataThatWouldPanic(t *testing.T) {
	documents := []string{
		`null`, `{}`, `{"signed":null,"signatures":null}`,
		`{"signed":{"_type":"timestamp","version":2,"meta":null},"signatures":[]}`,
		`{"signed":{"_type":"timestamp","version":2,"meta":{}},"signatures":[null]}`,
		`{"signed":{"_type":"timestamp","version":2,"meta":{"snapshot.json":null}},"signatures":[]}`,
		`{"signed":{"_type":"snapshot","version":2,"meta":{"targets.json":null}},"signatures":[]}`,
		`{"signed":{"_type":"targets","version":2,"targets":{"x":null}},"signatures":[]}`,
		`{"signed":{"_type":"targets","version":2,"targets":{},"delegations":{"keys":{"a":null},"roles":[null]}},"signatures":[]}`,
	}
	p := newPublisher(t)
	p.publish()
	for i, doc := range documents {
		for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
			s := webtest.New(t, p.files)
			d := newDevice(t, s, p)
			d.wants("")
			if err := fsys.WriteFile(d.fs, "trust/"+role+".json", []byte(doc), 0o644); err != nil {
				t.Fatal(err)
			}
			d.wants("")
			s.Misbehave(func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.HasSuffix(req.URL.Path, role+".json") {
					return false
				}
				fmt.Fprint(w, doc)
				return true
			})
			if err := fsys.RemoveAll(d.fs, "trust"); err != nil {
				t.Fatal(err)
			}
			if _, err := d.check(); !errors.Is(err, ErrRefused) {
				t.Errorf("document %d as %s: error %v, want ErrRefused", i, role, err)
			}
		}
	}
}

// The reference time never goes back, whatever happens to the clock, and is
// there again after a restart.
func TestReferenceTimeOnlyMovesForward(t *testing.T) {
	p := newPublisher(t)
	p.expires = start.AddDate(0, 6, 0)
	p.publish()
	d := newDevice(t, webtest.New(t, p.files), p)
	latest := time.Time{}
	for _, days := range []int{0, 10, -400, 3, 30, 0, -20000, 31} {
		d.clock = start.AddDate(0, 0, days)
		d.wants("")
		got := OpenStore(d.fs, d.root, quiet()).RefTime(time.Time{}, time.Time{})
		if got.Before(latest) || got.Before(d.clock.Add(-timeStep)) {
			t.Errorf("clock at day %d: reference time %s after %s", days, got, latest)
		}
		latest = got
	}
	// A clock that has run away makes what is served seem expired, and is not
	// believed: the device is well again once it is set.
	d.clock = start.AddDate(50, 0, 0)
	if _, err := d.check(); !errors.Is(err, ErrRefused) {
		t.Errorf("fifty years later: error %v, want ErrRefused", err)
	}
	d.clock = start.AddDate(0, 0, 32)
	d.wants("")
}

// Within one run the reference time does not even go back by what is not written.
func TestReferenceTimeWithinARun(t *testing.T) {
	p := newPublisher(t)
	d := newDevice(t, webtest.New(t, p.files), p)
	r := d.repo()
	for _, minutes := range []int{0, 20, 59} {
		d.clock = start.Add(time.Duration(minutes) * time.Minute)
		must[*Listing](t)(r.List(t.Context()))
	}
	latest := d.clock
	d.clock = time.Unix(0, 0)
	if got := r.o.Store.RefTime(d.clock, d.built); !got.Equal(latest) {
		t.Errorf("reference time %s, want %s", got, latest)
	}
}

// Wherever the power goes during a poll: what is stored then was accepted at a
// time that is not forgotten, so that the device, its clock lost, never judges
// it by an earlier one.
func TestReferenceTimeSurvivesPowerCuts(t *testing.T) {
	p := newPublisher(t)
	p.delegate("A", "*")
	p.expires = start.AddDate(0, 3, 0)
	p.publish()
	s := webtest.New(t, p.files)
	first := newDevice(t, s, p)
	m := memfs.NewMachine()
	m.NewDisk("state", memfs.Options{})
	on := func(m *memfs.Machine, clock time.Time) *device {
		d := *first
		d.fs, d.clock = m.Disk("state").FS(), clock
		return &d
	}
	on(m, start).wants("")
	old := OpenStore(m.Disk("state").FS(), first.root, quiet())
	p.addTo("A", "1.1.0", []byte("eleven"))
	p.publish()
	s.Serve(p.files)
	later := start.AddDate(0, 1, 0)
	states, accepted := 0, 0
	for n, cut := range m.Cuts(func(m *memfs.Machine) { on(m, later).check() }) {
		for _, choice := range memfs.Choices(uint64(n), 1) {
			c := cut.Clone()
			c.Restart(choice)
			states++
			store := OpenStore(c.Disk("state").FS(), first.root, quiet())
			for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS, "A"} {
				if bytes.Equal(store.Document(role), old.Document(role)) {
					continue
				}
				accepted++
				if got := store.RefTime(time.Time{}, time.Time{}); !got.Equal(later) {
					t.Fatalf("cut at %d, %s: %s was accepted at %s, and the reference time is %s", n, choice, role, later, got)
				}
			}
		}
	}
	if accepted == 0 {
		t.Error("no state with new metadata was looked at")
	}
	t.Logf("%d states", states)
}

// With every file of the store torn, the device is back at the root that it was
// provisioned with, and goes on from there.
func TestTornStore(t *testing.T) {
	p := newPublisher(t)
	p.rotate(metadata.ROOT, metadata.TIMESTAMP)
	p.rotate(metadata.SNAPSHOT)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	d := newDevice(t, webtest.New(t, p.files), p)
	d.wants("1.1.0")
	for _, e := range must[[]fsys.Info](t)(d.fs.ReadDir("trust")) {
		rewrite(t, d.fs, "trust/"+e.Name, func(b []byte) []byte { return b[:len(b)/3] })
	}
	if v := OpenStore(d.fs, d.root, quiet()).Root().Version(); v != 1 {
		t.Errorf("root version %d is trusted, want the provisioned one", v)
	}
	d.wants("1.1.0")
	if v := OpenStore(d.fs, d.root, quiet()).Root().Version(); v != 3 {
		t.Errorf("root version %d is trusted, want 3", v)
	}
}

// A server in trouble says when to come back, and the caller learns of it.
func TestPollTellsRetryAfter(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	s.Misbehave(webtest.Raw(http.StatusServiceUnavailable, nil, "Retry-After", "3600"))
	var problem *Problem
	if _, err := d.check(); !errors.As(err, &problem) || problem.RetryAfter != time.Hour {
		t.Errorf("problem %#v, want one that says to retry after an hour", problem)
	}
}

// What whoever has the timestamp key alone can do, and what not, as docs/security.md says.
func TestTimestampKeyAlone(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	old, oldSnapshot := p.version, p.files[fmt.Sprintf("/metadata/%d.snapshot.json", p.version)]
	p.add("1.2.0", []byte("twelve"))
	p.publish()
	s := webtest.New(t, p.files)
	seen := newDevice(t, s, p)
	seen.wants("1.2.0")

	// A new device takes an older list for the newest; one that has seen the newer does not.
	honest := p.files[timestampPath]
	p.stamp(100, pin(old, oldSnapshot))
	s.Serve(p.files)
	newDevice(t, s, p).wants("1.1.0")
	if _, err := seen.check(); !errors.Is(err, ErrRefused) {
		t.Errorf("an older list, where a newer one was seen: error %v, want ErrRefused", err)
	}

	// Nothing that the snapshot's key did not sign can be pointed at.
	forged := metadata.Snapshot(p.expires)
	forged.Signed.Version = p.version + 1
	forged.Signed.Meta["targets.json"] = pin(p.version, p.files[fmt.Sprintf("/metadata/%d.targets.json", p.version)])
	data := signed(p, forged, p.keys[metadata.TIMESTAMP])
	p.files[fmt.Sprintf("/metadata/%d.snapshot.json", p.version+1)] = data
	p.stamp(101, pin(p.version+1, data))
	s.Serve(p.files)
	if _, err := newDevice(t, s, p).check(); !errors.Is(err, ErrRefused) {
		t.Errorf("a snapshot of its own: error %v, want ErrRefused", err)
	}

	// Too high a number locks devices out, until the key is withdrawn.
	p.stamp(1<<40, pin(p.version, p.files[fmt.Sprintf("/metadata/%d.snapshot.json", p.version)]))
	s.Serve(p.files)
	locked := newDevice(t, s, p)
	locked.wants("1.2.0")
	p.files[timestampPath] = honest
	s.Serve(p.files)
	if _, err := locked.check(); !errors.Is(err, ErrRefused) {
		t.Errorf("the true repository: error %v, want ErrRefused", err)
	}
	p.rotate(metadata.TIMESTAMP)
	p.publish()
	s.Serve(p.files)
	locked.wants("1.2.0")
}
