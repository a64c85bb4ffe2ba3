package change

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"
	"testing"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/versioning"
)

// FuzzCommit holds that a commit is refused with ErrInvalid, or names nothing
// outside of the side.
func FuzzCommit(f *testing.F) {
	sum := digest.Of([]byte("x"))
	e := &manifest.Entry{Path: "a", Type: manifest.File, Size: 1, SHA256: &sum}
	good, err := json.Marshal(commit{Ops: []Op{{Path: "a", New: e, Slot: "0"}, {Path: "b"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":"1.0.0","ops":[{"path":"../x","slot":"../y"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := decodeCommit(body)
		if err != nil {
			if !errors.Is(err, manifest.ErrInvalid) {
				t.Fatalf("not ErrInvalid: %v", err)
			}
			return
		}
		for _, o := range c.Ops {
			if o.Path != "." && manifest.CheckPath(o.Path) != nil || strings.ContainsAny(o.Slot, "./") || o.New != nil && o.New.Path != o.Path {
				t.Fatalf("%+v was let through", o)
			}
		}
	})
}

// TestAsideOfFileAndWhatIsBelowIt has somebody make a directory of a file between two
// steps of a change: both find a place, under the names that they had.
func TestAsideOfFileAndWhatIsBelowIt(t *testing.T) {
	m := memfs.NewMachine()
	m.NewDisk("system", memfs.Options{})
	fs := m.Disk("system").FS()
	if err := errors.Join(fsys.MkdirAll(fs, OwnDir, 0o700), fsys.WriteFile(fs, AsideDir, []byte("no directory"), 0o600)); err != nil {
		t.Fatal(err)
	}
	a := &aside{fs: fs}
	for _, p := range []manifest.Path{"own", "own/sub/file", "own/a"} {
		if err := errors.Join(fsys.WriteFile(fs, "from", []byte(p), 0o600), a.move("from", p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.sync(); err != nil {
		t.Fatal(err)
	}
	list, err := ListAside(fs)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, it := range list {
		got = append(got, string(it.Path))
	}
	if want := "own/a own/sub/file own"; strings.Join(got, " ") != want {
		t.Errorf("aside lies %q, want %q", got, want)
	}
}

// vouched is content that says that it has a digest.
type vouched struct {
	io.Reader
	sum digest.SHA256
}

func (v vouched) Verified() digest.SHA256 { return v.sum }

// broken ends with an error, as content does that found itself to be wrong.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// Content that hashes itself is believed only for the digest that is wanted,
// and only if it comes to its end.
func TestVerifiedContent(t *testing.T) {
	good, bad := []byte("what the release says"), []byte("something of that size")[:21]
	refused := errors.New("not what the manifest says")
	for name, c := range map[string]struct {
		content io.Reader
		err     error
	}{
		"good":          {vouched{bytes.NewReader(good), digest.Of(good)}, nil},
		"of another":    {vouched{bytes.NewReader(bad), digest.Of(bad)}, ErrContent},
		"too short":     {vouched{bytes.NewReader(good[:5]), digest.Of(good)}, ErrContent},
		"too long":      {vouched{bytes.NewReader(append(bytes.Clone(good), '!')), digest.Of(good)}, ErrContent},
		"wrong":         {vouched{io.MultiReader(bytes.NewReader(good), broken{refused}), digest.Of(good)}, refused},
		"not vouched":   {bytes.NewReader(bad), ErrContent},
		"good, unaware": {bytes.NewReader(good), nil},
	} {
		t.Run(name, func(t *testing.T) {
			sum := digest.Of(good)
			v, err := versioning.Parse("1.0.0")
			if err != nil {
				t.Fatal(err)
			}
			r := &record.Record{Manifest: manifest.Manifest{Version: v, Files: []*manifest.Entry{{Path: "f", Type: manifest.File, Mode: 0o644, Size: int64(len(good)), SHA256: &sum}}}}
			fs := memfs.NewMachine().NewDisk("system", memfs.Options{}).FS()
			p, err := NewPlan(Target{Record: r, Tag: true})
			if err != nil {
				t.Fatal(err)
			}
			ch, err := Begin(fs, p)
			if err != nil {
				t.Fatal(err)
			}
			if err := ch.Put(context.Background(), p.Content()[0], c.content); !errors.Is(err, c.err) {
				t.Fatalf("error %v: want %v", err, c.err)
			}
			if _, err := ch.Commit(nil); (err == nil) != (c.err == nil) {
				t.Errorf("commit: %v", err)
			}
		})
	}
}

// What is displaced again and again at one path, because others put something there
// each time, is all kept: in the undo log, then aside.
func TestDisplacedAgain(t *testing.T) {
	fs := memfs.NewMachine().NewDisk("system", memfs.Options{}).FS()
	for _, dir := range []string{AppsDir, path.Join(oldDir, contentDir), path.Join(oldDir, oddDir)} {
		if err := fsys.MkdirAll(fs, dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sum := digest.Of([]byte("first"))
	o := &Op{Path: "a.conf", Old: &manifest.Entry{Path: "a.conf", Type: manifest.File, Size: 5, SHA256: &sum}, Config: true}
	a := &applier{fs: fs, commit: &commit{Ops: []Op{*o}}, live: true, dirs: map[string]bool{}}
	content, odd := a.slots(0, o)
	all := map[string]string{
		content: "first", odd: "second",
		path.Join(AsideDir, "00000001/a.conf"): "third", path.Join(AsideDir, "00000002/a.conf"): "fourth",
	}
	for _, text := range []string{"first", "second", "third", "fourth"} {
		if err := fsys.WriteFile(fs, Name(o.Path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := a.displace(0, o, Name(o.Path)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range all {
		if got, err := fsys.ReadFile(fs, name, 10); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v: want %q", name, got, err, want)
		}
	}
	if len(a.out.Aside) != 2 {
		t.Errorf("told to have gone aside: %q, want the path twice", a.out.Aside)
	}
}
