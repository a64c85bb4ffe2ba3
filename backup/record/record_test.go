package record

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"tandem/backup/manifest"
	"tandem/internal/compact"
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
		return &manifest.Entry{Path: p, Type: manifest.File, Mode: 0o4755, UID: 1<<32 - 2, Size: 1, Mtime: 5, SHA256: &sum, Xattrs: map[string][]byte{"user.a": {0, 255}}}
	}
	plain := &manifest.Entry{Path: "etc/p", Type: manifest.File, Mode: 0o644, Size: 1, Mtime: -5, SHA256: &sum}
	mine, theirs := *plain, *plain
	mine.Path, mine.Adopted = "etc/m", true
	theirs.Path, theirs.Mtime, theirs.GID = "etc/m", 1<<62, 100
	return &Record{
		Manifest: manifest.Manifest{App: "hello", Version: v, Config: []string{"etc/**"}, Ignore: []string{"log/*"}, Files: []*manifest.Entry{
			{Path: "bin", Type: manifest.Dir, Mode: 0o755}, file("bin/a"), {Path: "bin/b", Type: manifest.Hardlink, Link: "bin/a"},
			{Path: "bin/c", Type: manifest.Symlink, Target: "../x"}, {Path: "etc", Type: manifest.Dir, Mode: 0o700}, file("etc/d"), &theirs,
		}},
		Config:   []*manifest.Entry{file("etc/d"), &mine, plain, file("odd\xffname%\n")},
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
	if !reflect.DeepEqual(got, r) {
		t.Errorf("read back as\n%+v\nwant\n%+v", got, r)
	}
	if again, err := encode(got, Author{Version: "1.0.0"}); err != nil || !bytes.Equal(data, again) {
		t.Errorf("written again as\n%q\nwant\n%q", again, data)
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

// bodyOf returns a body of the version 1.0.0 and what follows its first line.
func bodyOf(config string, entries func(*compact.Writer)) []byte {
	w := &compact.Writer{Bytes: []byte(`{"version":"1.0.0","config":[` + config + `],"revision":0}` + "\n")}
	if entries != nil {
		entries(w)
	}
	return w.Bytes
}

// dir writes a directory with that mode.
func dir(w *compact.Writer, p string, traits, mode uint64) {
	w.Path(p)
	w.Uint(traits | hasAttr | 1)
	w.Uint(mode)
	w.Uint(0)
	w.Uint(0)
	w.Int(0)
}

// What breaks a rule of the format is refused, in little memory.
func TestParseRefuses(t *testing.T) {
	good := bodyOf("", func(w *compact.Writer) { dir(w, "a", ofFiles, 0o755) })
	if r, err := parse(bytes.NewReader(good)); err != nil || len(r.Manifest.Files) != 1 {
		t.Fatal(err)
	}
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 20)
	for name, body := range map[string][]byte{
		"nothing":          {},
		"no version":       []byte(`{"revision":0}` + "\n"),
		"below zero":       []byte(`{"version":"1.0.0","revision":-1}` + "\n"),
		"files in JSON":    []byte(`{"version":"1.0.0","files":[],"revision":0}` + "\n"),
		"no end of line":   []byte(`{"version":"1.0.0","revision":0}`),
		"out of order":     bodyOf("", func(w *compact.Writer) { dir(w, "b", ofFiles, 0o755); dir(w, "a", ofFiles, 0o755) }),
		"twice":            bodyOf("", func(w *compact.Writer) { dir(w, "a", ofFiles, 0o755); dir(w, "a", ofFiles, 0o755) }),
		"climbs out":       bodyOf("", func(w *compact.Writer) { dir(w, "../a", ofFiles, 0o755) }),
		"no directory":     bodyOf("", func(w *compact.Writer) { dir(w, "a/b", ofFiles, 0o755) }),
		"configuration":    bodyOf(`"a/**"`, func(w *compact.Writer) { dir(w, "a/b", ofConfig, 0o755) }),
		"of no list":       bodyOf("", func(w *compact.Writer) { dir(w, "a", 0, 0o755) }),
		"unknown traits":   bodyOf("", func(w *compact.Writer) { dir(w, "a", ofFiles|allTraits+1, 0o755) }),
		"mode":             bodyOf("", func(w *compact.Writer) { dir(w, "a", ofFiles, 0o10000) }),
		"long mode":        bodyOf("", func(w *compact.Writer) { dir(w, "a", ofFiles, 1<<32|0o755) }),
		"shares too much":  append(bodyOf("", nil), 1, 1, 'a'),
		"path too long":    append(bodyOf("", nil), 0, 0x80, 0x20),
		"absurd path":      append(bodyOf("", nil), 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
		"absurd number":    append(bodyOf("", nil), bytes.Repeat([]byte{0xff}, 20)...),
		"absurd target":    append(bodyOf("", nil), 0, 1, 'a', ofFiles|2, 0, 0xff, 0xff, 0xff, 0x3f),
		"absurd attribute": append(bodyOf("", nil), 0, 1, 'a', ofFiles|hasXattrs|1, 0, 1, 0xff, 0xff, 0xff, 0x3f),
		"short digest":     append(bodyOf("", nil), 0, 1, 'a', ofFiles, 0, 1, 2, 3),
		"long paths of few bytes": bodyOf("", func(w *compact.Writer) {
			for i := range 100_000 {
				dir(w, fmt.Sprintf("%s%08d", deep, i), ofFiles, 0o755)
			}
		}),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decode(Author{}.SealBytes("record", body))
		runtime.ReadMemStats(&after)
		if !errors.Is(err, manifest.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 2*maxRecord || name != "long paths of few bytes" && took > 1<<20 {
			t.Errorf("%s: took %d bytes", name, took)
		}
	}
}

// A record that is too large to be read back is not written.
func TestTooLarge(t *testing.T) {
	r := sample(t)
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 20)
	for i := range 40_000 {
		r.Config = append(r.Config, &manifest.Entry{Path: manifest.Path(fmt.Sprintf("%s%08d", deep, i)), Type: manifest.Dir})
	}
	if _, err := r.Body(); !errors.Is(err, manifest.ErrInvalid) {
		t.Errorf("%v, want ErrInvalid", err)
	}
}

// Most entries cost little more than their digests.
func TestSize(t *testing.T) {
	r := sample(t)
	empty, err := r.Body()
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	for i := range n {
		sum := digest.Of([]byte{byte(i), byte(i >> 8)})
		e := &manifest.Entry{Path: manifest.Path(fmt.Sprintf("file%04d.bin", i)), Type: manifest.File, Mode: 0o644, Size: 30_000, Mtime: 1_704_067_200e9, SHA256: &sum}
		r.Manifest.Files = append(r.Manifest.Files, e)
		if i%2 == 0 { // as the release has it
			r.Config = append(r.Config, e)
		}
	}
	slices.SortFunc(r.Config, manifest.ByPath)
	slices.SortFunc(r.Manifest.Files, manifest.ByPath)
	if full, err := r.Body(); err != nil || (full.Size-empty.Size)/n > 48 {
		t.Errorf("%d bytes for each entry: %v", (full.Size-empty.Size)/n, err)
	}
}

// FuzzRecord holds that a record is refused with ErrInvalid, or obeys every
// rule and comes back the same.
func FuzzRecord(f *testing.F) {
	var good bytes.Buffer
	if err := sample(f).writeBody(&good); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:good.Len()/2])
	f.Add(bodyOf("", nil))
	f.Add(bodyOf("", func(w *compact.Writer) { dir(w, "../x", ofFiles, 0o755) }))
	f.Add(bodyOf(`"a/*"`, func(w *compact.Writer) { dir(w, "a", ofFiles, 0o755); dir(w, "a/b", ofFiles|ofConfig, 0o700) }))
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
			t.Fatalf("%q: %v", again, err)
		}
		if third, _ := encode(r2, Author{}); !bytes.Equal(again, third) {
			t.Fatalf("not stable:\n%q\n%q", again, third)
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
