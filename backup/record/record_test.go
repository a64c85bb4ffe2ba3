package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/versioning"
)

func sample(t testing.TB) *Record {
	v, err := versioning.Parse("1.2.0-rc.1")
	if err != nil {
		t.Fatal(err)
	}
	sum := digest.Of([]byte("x"))
	file := func(p manifest.Path) *manifest.Entry {
		return &manifest.Entry{Path: p, Type: manifest.File, Mode: 0o4755, UID: 7, Size: 1, Mtime: 5, SHA256: &sum, Xattrs: map[string][]byte{"user.a": {0, 255}}}
	}
	plain := &manifest.Entry{Path: "etc/p", Type: manifest.File, Mode: 0o644, Size: 1, Mtime: -5, SHA256: &sum}
	return &Record{
		Manifest: manifest.Manifest{App: "hello", Version: v, Config: []string{"etc/**"}, Ignore: []string{"log/*"}, Files: []*manifest.Entry{
			{Path: "bin", Type: manifest.Dir, Mode: 0o755}, file("bin/a"), {Path: "bin/b", Type: manifest.Hardlink, Link: "bin/a"},
			{Path: "bin/c", Type: manifest.Symlink, Target: "../x"}, {Path: "etc", Type: manifest.Dir, Mode: 0o700}, file("etc/d"),
		}},
		Config:   []*manifest.Entry{file("etc/d"), plain, file("odd\xffname%\n")},
		Revision: 3,
	}
}

// Each bit of a file of ours is under its seal: one that flips makes the file
// damaged, and neither another record nor one of a newer Tandem.
func TestRoundTrip(t *testing.T) {
	r := sample(t)
	data, err := encode(r, Author{Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := encode(got, Author{Version: "1.0.0"})
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("read back as\n%s\nwant\n%s", again, data)
	}
	if last := len(got.Config) - 1; got.Config[last].Path != r.Config[last].Path {
		t.Errorf("path %q came back as %q", r.Config[last].Path, got.Config[last].Path)
	}
	for i := range data {
		for bit := range 8 {
			broken := bytes.Clone(data)
			broken[i] ^= 1 << bit
			if _, err := decode(broken); !errors.Is(err, manifest.ErrInvalid) {
				t.Fatalf("bit %d of byte %d flipped: %v, want ErrInvalid", bit, i, err)
			}
		}
	}
	for n := range data {
		if _, err := decode(data[:n]); !errors.Is(err, manifest.ErrInvalid) {
			t.Fatalf("cut after %d bytes: %v, want ErrInvalid", n, err)
		}
	}
}

// A file that a newer Tandem wrote is known as such, whatever its body is.
func TestNewer(t *testing.T) {
	body := []byte("what nobody knows yet")
	data := append(Head{Kind: "record", Format: 9, Reads: 9, By: "9.1.0", Size: int64(len(body)), SHA256: digest.Of(body)}.line(), body...)
	var newer *NewerError
	if _, err := decode(data); !errors.As(err, &newer) || newer.By != "9.1.0" || !errors.Is(err, ErrNewer) {
		t.Errorf("%v, want a NewerError", err)
	}
	// One that it still writes for us can be read.
	r := sample(t)
	old, err := encode(r, Author{})
	if err != nil {
		t.Fatal(err)
	}
	_, raw, _ := bytes.Cut(old, []byte("\n"))
	data = append(Head{Kind: "record", Format: 9, Reads: Format, By: "9.1.0", Size: int64(len(raw)), SHA256: digest.Of(raw)}.line(), raw...)
	if got, err := decode(data); err != nil || got.Revision != r.Revision {
		t.Errorf("a newer format that can be read: %v", err)
	}
}

// The parser takes what encoding/json would, and nothing else.
func TestParserAgrees(t *testing.T) {
	r := sample(t)
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parse(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := got.writeBody(&buf); err != nil || buf.String() != string(raw)+"\n" {
		t.Errorf("written as\n%swant\n%s", buf.String(), raw)
	}
}

// FuzzRecord holds that a record is refused with ErrInvalid, or obeys every
// rule and comes back the same.
func FuzzRecord(f *testing.F) {
	good, err := json.Marshal(sample(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"manifest":{"version":"1.0.0","files":[]},"config":[],"revision":0}`))
	f.Add([]byte(`{"manifest":{"version":"1","files":[{"path":"../x","type":"file"}]}}`))
	f.Add([]byte(`{"manifest":{"version":"1","files":[{"path":"a%2F..%2Fb","type":"dir"}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decode(Author{}.SealBytes("record", body)) // the digest is no obstacle for whoever writes the file
		if err != nil {
			if !errors.Is(err, manifest.ErrInvalid) {
				t.Fatalf("not ErrInvalid: %v", err)
			}
			return
		}
		again, err := encode(r, Author{})
		if err != nil {
			t.Fatal(err)
		}
		r2, err := decode(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if third, _ := encode(r2, Author{}); !bytes.Equal(again, third) {
			t.Fatalf("not stable:\n%s\n%s", again, third)
		}
	})
}

// decode reads the content of a record.
func decode(data []byte) (r *Record, err error) {
	_, err = readEnvelope("record", bytes.NewReader(data), int64(len(data)), maxRecord, func(_ Head, body io.Reader) (err error) {
		r, err = parse(body)
		return err
	})
	return r, err
}

// encode returns the content of r, as the Tandem by writes it.
func encode(r *Record, by Author) ([]byte, error) {
	var b bytes.Buffer
	body, err := r.Body()
	if err == nil {
		err = r.Write(&b, by, body)
	}
	return b.Bytes(), err
}
