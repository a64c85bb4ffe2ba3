package ota

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/ota/internal/webtest"
	"tandem/packaging/trust"
)

// TestPowerCuts cuts the power at every operation of a poll that brings new
// roots and a new release, and finds that the device trusts nothing older than
// before and takes the release at its next poll.
func TestPowerCuts(t *testing.T) {
	p := newPublisher(t)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	s := webtest.New(t, p.files)
	first := newDevice(t, s, p)
	m := memfs.NewMachine()
	m.NewDisk("state", memfs.Options{})
	on := func(m *memfs.Machine) *device {
		d := *first
		d.fs = m.Disk("state").FS()
		return &d
	}
	on(m).wants("1.1.0")
	old := OpenStore(m.Disk("state").FS(), first.root, quiet())
	p.rotate(metadata.TIMESTAMP, metadata.ROOT)
	p.rotate(metadata.ROOT)
	p.add("1.2.0", []byte("twelve"))
	p.publish()
	s.Serve(p.files)

	states := 0
	for n, cut := range m.Cuts(func(m *memfs.Machine) { on(m).check() }) {
		if testing.Short() && n%10 != 1 {
			continue // one poll after the other is nothing for the race detector
		}
		for _, choice := range memfs.Choices(uint64(n), 1) {
			c := cut.Clone()
			c.Restart(choice)
			states++
			store := OpenStore(c.Disk("state").FS(), first.root, quiet())
			for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
				data := store.Document(role)
				// A root that withdraws the timestamp's key makes the device
				// forget it, and the snapshot.
				if forgotten := data == nil && role != metadata.TARGETS; !forgotten && !bytes.Equal(data, old.Document(role)) && !bytes.Equal(data, fileOf(p, role)) {
					t.Fatalf("cut at %d, %s: %s.json is %.40q", n, choice, role, data)
				}
			}
			on(c).wants("1.2.0")
			if v := OpenStore(c.Disk("state").FS(), first.root, quiet()).Root().Version(); v != 3 {
				t.Fatalf("cut at %d, %s: root version %d after the next poll, want 3", n, choice, v)
			}
			s.Serve(p.files)
			on(c).wants("1.2.0")
			if got := s.Requests(); len(got) != 1 {
				t.Fatalf("cut at %d, %s: the poll after that asked %v", n, choice, got)
			}
		}
	}
	t.Logf("%d states", states)
}

// fileOf gives the metadata of a role as published last.
func fileOf(p *publisher, role string) []byte {
	if role == metadata.TIMESTAMP {
		return p.files["/metadata/timestamp.json"]
	}
	return p.files[fmt.Sprintf("/metadata/%d.%s.json", p.version, role)]
}

// TestDamagedStore damages each stored file in turn: the device must still poll.
func TestDamagedStore(t *testing.T) {
	damage := map[string]func(t *testing.T, fs fsys.FS, name string){
		"torn": func(t *testing.T, fs fsys.FS, name string) {
			rewrite(t, fs, name, func(b []byte) []byte { return b[:len(b)/2] })
		},
		"empty": func(t *testing.T, fs fsys.FS, name string) { rewrite(t, fs, name, func([]byte) []byte { return nil }) },
		"zeros": func(t *testing.T, fs fsys.FS, name string) {
			rewrite(t, fs, name, func(b []byte) []byte { return make([]byte, len(b)) })
		},
		"huge": func(t *testing.T, fs fsys.FS, name string) {
			rewrite(t, fs, name, func([]byte) []byte { return make([]byte, 6_000_000) })
		},
		"null": func(t *testing.T, fs fsys.FS, name string) {
			rewrite(t, fs, name, func([]byte) []byte { return []byte("null") })
		},
		"flipped": func(t *testing.T, fs fsys.FS, name string) {
			rewrite(t, fs, name, func(b []byte) []byte { b[len(b)-20] ^= 4; return b })
		},
		"gone": func(t *testing.T, fs fsys.FS, name string) { remove(t, fs, name) },
		"directory": func(t *testing.T, fs fsys.FS, name string) {
			remove(t, fs, name)
			mkdir(t, fs, name)
			mkdir(t, fs, name+"/x")
		},
		"dangling": func(t *testing.T, fs fsys.FS, name string) { remove(t, fs, name); symlink(t, fs, "nowhere", name) },
		"tmp blocked": func(t *testing.T, fs fsys.FS, name string) {
			remove(t, fs, name)
			mkdir(t, fs, name+".tmp")
			mkdir(t, fs, name+".tmp/x")
		},
	}
	for what, hurt := range damage {
		for _, name := range []string{"2.root.json", "3.root.json", "timestamp.json", "snapshot.json", "targets.json", "poll.json"} {
			t.Run(what+" "+name, func(t *testing.T) {
				p := newPublisher(t)
				p.rotate(metadata.ROOT)
				p.rotate(metadata.TIMESTAMP)
				p.add("1.1.0", []byte("eleven"))
				p.publish()
				s := webtest.New(t, p.files)
				d := newDevice(t, s, p)
				d.wants("1.1.0")
				hurt(t, d.fs, "trust/"+name)
				d.wants("1.1.0")
				if v := OpenStore(d.fs, d.root, quiet()).Root().Version(); v != 3 {
					t.Errorf("root version %d, want 3", v)
				}
				s.Serve(p.files)
				d.wants("1.1.0")
				if got := s.Requests(); len(got) != 1 {
					t.Errorf("the poll after that asked %v", got)
				}
			})
		}
	}
}

func TestTrustIsAFile(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	if err := fsys.WriteFile(d.fs, "trust", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.wants("")
	d.wants("")
}

// A stored root that does not follow from the provisioned one is worth nothing,
// whoever signed it.
func TestForeignStoredRoot(t *testing.T) {
	p, thief := newPublisher(t), newPublisher(t)
	thief.rotate(metadata.ROOT)
	d := newDevice(t, webtest.New(t, p.files), p)
	mkdir(t, d.fs, "trust")
	if err := fsys.WriteFile(d.fs, "trust/2.root.json", thief.files["/metadata/2.root.json"], 0o644); err != nil {
		t.Fatal(err)
	}
	if v := OpenStore(d.fs, d.root, quiet()).Root().Version(); v != 1 {
		t.Errorf("root version %d is trusted, want 1", v)
	}
	d.wants("")
}

// A device that is provisioned anew with a later root goes on from that.
func TestProvisionedWithLaterRoot(t *testing.T) {
	p := newPublisher(t)
	p.rotate(metadata.ROOT)
	p.rotate(metadata.ROOT)
	d := newDevice(t, webtest.New(t, p.files), p)
	d.wants("")
	later := must[*trust.Root](t)(trust.ParseRoot(p.files["/metadata/2.root.json"]))
	if v := OpenStore(d.fs, later, quiet()).Root().Version(); v != 3 {
		t.Errorf("root version %d, want 3", v)
	}
}

func TestAddRoot(t *testing.T) {
	p, other := newPublisher(t), newPublisher(t)
	p.rotate(metadata.ROOT)
	other.rotate(metadata.ROOT)
	d := newDevice(t, webtest.New(t, p.files), p)
	store := OpenStore(d.fs, d.root, quiet())
	for _, data := range [][]byte{nil, []byte("{}"), p.files["/metadata/1.root.json"], other.files["/metadata/2.root.json"]} {
		if err := store.AddRoot(data); !errors.Is(err, trust.ErrUntrusted) {
			t.Errorf("root %.20q: error %v, want ErrUntrusted", data, err)
		}
	}
	if err := store.AddRoot(p.files["/metadata/2.root.json"]); err != nil {
		t.Fatal(err)
	}
	if v := OpenStore(d.fs, d.root, quiet()).Root().Version(); v != 2 {
		t.Errorf("root version %d, want 2", v)
	}
}

// What cannot be written is said, with the reason.
func TestUnwritableStore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		errno  error
		want   error
		isAlso error
	}{
		{"full", syscall.ENOSPC, ErrNoSpace, syscall.ENOSPC},
		{"quota", syscall.EDQUOT, ErrNoSpace, syscall.EDQUOT},
		{"read-only", syscall.EROFS, ErrNotWritable, syscall.EROFS},
		{"forbidden", syscall.EACCES, ErrNotWritable, syscall.EACCES},
		{"broken", syscall.EIO, syscall.EIO, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPublisher(t)
			s := webtest.New(t, p.files)
			d := newDevice(t, s, p)
			for n := 1; ; n++ {
				m := memfs.NewMachine()
				d.fs = m.NewDisk("state", memfs.Options{}).FS()
				m.FailAt(n, tt.errno)
				_, err := d.check()
				if m.Ops() < n {
					break
				}
				if !errors.Is(err, tt.want) || tt.isAlso != nil && !errors.Is(err, tt.isAlso) || errors.Is(err, ErrRefused) || errors.Is(err, ErrUnreachable) {
					t.Fatalf("operation %d: error %v, want %v", n, err, tt.want)
				}
				if !strings.Contains(err.Error(), "keep trusted metadata") {
					t.Errorf("message %v", err)
				}
				d.wants("")
			}
		})
	}
}

func TestPollIsRemembered(t *testing.T) {
	p := newPublisher(t)
	d := newDevice(t, webtest.New(t, p.files), p)
	store := OpenStore(d.fs, d.root, quiet())
	if got := store.poll(); got != (Poll{}) {
		t.Errorf("before the first: %+v", got)
	}
	want := Poll{Time: start, ETag: `W/"x"`, Timestamp: digest.Of([]byte("x"))}
	if err := store.savePoll(want); err != nil {
		t.Fatal(err)
	}
	if got := OpenStore(d.fs, d.root, quiet()).poll(); !got.Time.Equal(want.Time) || got.ETag != want.ETag || got.Timestamp != want.Timestamp {
		t.Errorf("remembered %+v, want %+v", got, want)
	}
	if got := store.RefTime(start.Add(-time.Hour), time.Time{}); !got.Equal(start) {
		t.Errorf("reference time %s, want the remembered one", got)
	}
	if got := store.RefTime(start.Add(time.Hour), time.Time{}); !got.Equal(start.Add(time.Hour)) {
		t.Errorf("reference time %s, want the clock's", got)
	}
	if got := store.RefTime(start.Add(-time.Hour), start.Add(2*time.Hour)); !got.Equal(start.Add(2 * time.Hour)) {
		t.Errorf("reference time %s, want the build's", got)
	}
}

// A file of ours that is damaged, or gone, takes no time back.
func TestDamageTakesNoTimeBack(t *testing.T) {
	p := newPublisher(t)
	for _, name := range []string{"poll.json", "time.json"} {
		for what, damage := range map[string]func(d *device) error{
			"garbage": func(d *device) error { return fsys.WriteFile(d.fs, "trust/"+name, []byte("garbage"), 0o644) },
			"empty":   func(d *device) error { return fsys.WriteFile(d.fs, "trust/"+name, nil, 0o644) },
			"long":    func(d *device) error { return fsys.WriteFile(d.fs, "trust/"+name, make([]byte, 10_000), 0o644) },
			"gone":    func(d *device) error { return d.fs.Remove("trust/" + name) },
		} {
			d := newDevice(t, webtest.New(t, p.files), p)
			at := start.AddDate(0, 0, 20)
			if err := OpenStore(d.fs, d.root, quiet()).remember(Poll{Time: at, ETag: `"x"`}); err != nil {
				t.Fatal(err)
			}
			if err := damage(d); err != nil {
				t.Fatal(err)
			}
			if got := OpenStore(d.fs, d.root, quiet()).RefTime(time.Unix(0, 0), time.Time{}); !got.Equal(at) {
				t.Errorf("%s is %s: the time is %s, it was %s", name, what, got, at)
			}
		}
	}
}

func rewrite(t *testing.T, fs fsys.FS, name string, change func([]byte) []byte) {
	t.Helper()
	data := must[[]byte](t)(fsys.ReadFile(fs, name, 1<<24))
	if err := fsys.WriteFile(fs, name, change(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, fs fsys.FS, name string) {
	t.Helper()
	if err := fs.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, fs fsys.FS, name string) {
	t.Helper()
	if err := fs.Mkdir(name, 0o755); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, fs fsys.FS, target, name string) {
	t.Helper()
	if err := fs.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// What cannot be read just now is not missing: nothing is trusted by the rest, and nothing
// is written, whichever file it is. Else a device would take what is older than it has seen.
func TestNoDescriptors(t *testing.T) {
	p := newPublisher(t)
	p.rotate(metadata.ROOT)
	p.add("1.1.0", []byte("eleven"))
	p.publish()
	older := maps.Clone(p.files)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	m := memfs.NewMachine()
	d.fs = m.NewDisk("state", memfs.Options{}).FS()
	p.add("1.2.0", []byte("twelve"))
	p.publish()
	s.Serve(p.files)
	d.wants("1.2.0")
	content := func() map[string]string {
		all := map[string]string{}
		for _, e := range must[[]fsys.Info](t)(d.fs.ReadDir(trustDir)) {
			all[e.Name] = string(must[[]byte](t)(fsys.ReadFile(d.fs, path.Join(trustDir, e.Name), 1<<20)))
		}
		return all
	}
	before := content()
	if len(before) < 6 {
		t.Fatalf("the store has only %d files", len(before))
	}
	d.clock = d.clock.Add(2 * timeStep)
	for name := range before {
		for _, err := range []error{syscall.EMFILE, syscall.ENOMEM} {
			m.FailReads(func(p string) error {
				if path.Base(p) == name {
					return err
				}
				return nil
			})
			s.Serve(p.files)
			if got, e := d.check(); !errors.Is(e, err) {
				t.Errorf("%s: %v: on offer: %q, %v", name, err, got, e)
			}
			s.Serve(older)
			if got, e := d.check(); !errors.Is(e, err) && !errors.Is(e, ErrRefused) {
				t.Errorf("%s: %v: older ones: on offer: %q, %v", name, err, got, e)
			}
			m.FailReads(nil)
			if diff := cmp.Diff(before, content()); diff != "" {
				t.Fatalf("%s: %v: the store (-before +after):\n%s", name, err, diff)
			}
		}
	}
	if got, err := d.check(); !errors.Is(err, ErrRefused) {
		t.Errorf("an older list: on offer: %q, %v", got, err)
	}
}
