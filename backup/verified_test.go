package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"tandem/internal/digest"
	"tandem/internal/fsys/memfs"
)

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
		"of another":    {vouched{bytes.NewReader(bad), digest.Of(bad)}, errContent},
		"too short":     {vouched{bytes.NewReader(good[:5]), digest.Of(good)}, errContent},
		"too long":      {vouched{bytes.NewReader(append(bytes.Clone(good), '!')), digest.Of(good)}, errContent},
		"wrong":         {vouched{io.MultiReader(bytes.NewReader(good), broken{refused}), digest.Of(good)}, refused},
		"not vouched":   {bytes.NewReader(bad), errContent},
		"good, unaware": {bytes.NewReader(good), nil},
	} {
		t.Run(name, func(t *testing.T) {
			system := &Side{Name: System, FS: newLab(t, memfs.Options{}).fs(System)}
			sum := digest.Of(good)
			st := &staging{side: system, record: &Record{}, buf: make([]byte, 1<<10), direct: true}
			if err := system.FS.Mkdir(appsDir, 0o755); err != nil {
				t.Fatal(err)
			}
			err := st.give(context.Background(), &Entry{Path: "f", Type: File, Mode: 0o644, Size: int64(len(good)), SHA256: &sum}, c.content)
			if !errors.Is(err, c.err) {
				t.Errorf("error %v: want %v", err, c.err)
			}
		})
	}
}
