package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sirupsen/logrus"

	"tandem/backup/manifest"
	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// Author is who writes our files, and in which format: the one place that says so.
type Author struct {
	Version string // of this Tandem; "" if it has none
	// Format is the format that is written, which Tandems that know it read; 0, or
	// one that this Tandem does not know, is Format.
	Format int
}

// head returns the head of a body. A body of one format is read by all who know that.
func (a Author) head(kind string, size int64, sum digest.SHA256) Head {
	format := a.Format
	if format < 1 || format > Format {
		format = Format
	}
	return Head{Kind: kind, Format: format, Reads: format, By: a.Version, Size: size, SHA256: sum}
}

// Head is the first line of each of our files. It never changes its own form, so
// that a Tandem of any age can read it; the rest of the file is the body.
type Head struct {
	Kind   string        `json:"tandem"` // what the body is
	Format int           `json:"format"` // of the body
	Reads  int           `json:"reads"`  // the lowest format that a Tandem must know to read the body
	By     string        `json:"by"`     // the version of the Tandem that wrote it; "" if it has none
	Size   int64         `json:"size"`   // of the body, in bytes
	SHA256 digest.SHA256 `json:"sha256"` // of the body
	// Seal is the SHA-256 of the head as it stands before the seal: a bit that
	// flips makes a damaged file, never a newer one.
	Seal digest.SHA256 `json:"seal"`
}

const (
	sealMark = `,"seal":"`
	maxHead  = 1024 // bytes
)

// line returns the head with its seal and a newline.
func (h Head) line() []byte {
	by, _ := json.Marshal(h.By) // a string has no error to give
	head := fmt.Appendf(nil, `{"tandem":%q,"format":%d,"reads":%d,"by":%s,"size":%d,"sha256":"%s"`, h.Kind, h.Format, h.Reads, by, h.Size, h.SHA256)
	return fmt.Appendf(head, "%s%s\"}\n", sealMark, digest.Of(head))
}

// NewerError says that a file was written by a newer Tandem, in a form that
// this one does not know: it is whole, and is not to be touched.
type NewerError struct {
	Path   string `json:"path"`
	By     string `json:"by"` // the version of the Tandem that wrote it; "" if it has none
	Format int    `json:"format"`
}

func (e *NewerError) Error() string {
	by := e.By
	if by == "" {
		by = "a newer version"
	}
	return fmt.Sprintf("%s: made by Tandem %s, in format %d: this Tandem knows %d", e.Path, by, e.Format, Format)
}

// ErrNewer is what every *NewerError wraps.
var ErrNewer = errors.New("made by a newer Tandem")

// Unwrap returns ErrNewer.
func (e *NewerError) Unwrap() error { return ErrNewer }

// Seal returns a file of ours of that kind, with body as JSON.
func (a Author) Seal(kind string, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return a.SealBytes(kind, append(raw, '\n')), nil
}

// SealBytes returns a file of ours of that kind with that body.
func (a Author) SealBytes(kind string, body []byte) []byte {
	return append(a.head(kind, int64(len(body)), digest.Of(body)).line(), body...)
}

// SealTo writes what SealBytes returns, for a body in two pieces that is large.
func (a Author) SealTo(w io.Writer, kind string, first, rest []byte) error {
	sum := digest.New()
	sum.Write(first)
	sum.Write(rest)
	line := a.head(kind, int64(len(first)+len(rest)), digest.Sum(sum)).line()
	if _, err := w.Write(append(line, first...)); err != nil {
		return err
	}
	_, err := w.Write(rest)
	return err
}

// Write durably replaces a file of ours by one with body as JSON. After an error or a
// power cut the old or the new one is there, whole.
func (a Author) Write(fs fsys.FS, kind, name string, body any, mode uint32) error {
	data, err := a.Seal(kind, body)
	if err != nil {
		return err
	}
	return fsys.WriteFile(fs, name, data, mode)
}

// readEnvelope reads a file of ours, of size bytes and at most limit, and returns its
// head. parse is given the body as it is read; what it took from it counts only if
// there is no error. A kind of "" is any. The error wraps manifest.ErrInvalid or is a
// *NewerError, unless it is one of reading.
func readEnvelope(kind string, src io.Reader, size, limit int64, parse func(Head, io.Reader) error) (Head, error) {
	in := bufio.NewReaderSize(src, int(min(max(size, maxHead), 32<<10)))
	h, n, err := readHead(in)
	newer := h.Reads > Format // of what it is, and how long it may be, nothing is known
	switch {
	case err != nil:
		return h, err
	case h.Size != size-n:
		return h, errCutShort
	case newer:
		parse = func(Head, io.Reader) error { return nil }
	case kind != "" && h.Kind != kind:
		return h, fmt.Errorf("%w: a %q where a %q was expected", manifest.ErrInvalid, h.Kind, kind)
	case size > limit:
		return h, fmt.Errorf("%w: more than %d bytes", manifest.ErrInvalid, limit)
	}
	sum := digest.New()
	body := &fsys.ReadErrors{R: io.TeeReader(in, sum)}
	parseErr := parse(h, body)
	if _, err := io.Copy(io.Discard, body); err != nil { // what parse left
		return h, err
	}
	switch {
	case digest.Sum(sum) != h.SHA256:
		return h, fmt.Errorf("%w: its content does not match its sha256", manifest.ErrInvalid)
	case newer:
		return h, &NewerError{By: h.By, Format: h.Format}
	case parseErr != nil && !errors.Is(parseErr, manifest.ErrInvalid):
		parseErr = fmt.Errorf("%w: %w", manifest.ErrInvalid, parseErr)
	}
	return h, parseErr
}

var errCutShort = fmt.Errorf("%w: not a file of Tandem's, or cut short", manifest.ErrInvalid)

// readHead reads the first line, and returns how long it is.
func readHead(in *bufio.Reader) (Head, int64, error) {
	var h Head
	peeked, err := in.Peek(maxHead)
	if err != nil && err != io.EOF {
		return h, 0, err
	}
	line, _, ok := bytes.Cut(peeked, []byte("\n"))
	if !ok {
		return h, 0, errCutShort
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return h, 0, fmt.Errorf("%w: %w", manifest.ErrInvalid, err)
	}
	if !bytes.Equal(h.line(), peeked[:len(line)+1]) { // it is written in one way only
		return h, 0, fmt.Errorf("%w: its head does not match its seal", manifest.ErrInvalid)
	}
	n, err := in.Discard(len(line) + 1)
	return h, int64(n), err
}

// ReadHead returns the head of one of our files alone; nil if there is none. The
// error wraps manifest.ErrInvalid for a damaged one.
func ReadHead(fs fsys.FS, name string) (*Head, error) {
	f, size, err := open(fs, name)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	h, n, err := readHead(bufio.NewReaderSize(f, maxHead))
	if err == nil && h.Size != size-n {
		err = errCutShort
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fs.Path(name), asDamage(err))
	}
	return &h, nil
}

// open opens one of our files. A missing one gives nil and no error, as does one behind a
// link: that is not ours. Something else of that name wraps manifest.ErrInvalid.
func open(fs fsys.FS, name string) (fsys.File, int64, error) {
	info, err := fs.Lstat(name)
	switch {
	case fsys.IsNotExist(err), errors.Is(err, fsys.ErrElsewhere):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	case info.Type != fsys.TypeFile:
		return nil, 0, fmt.Errorf("%s: %w: a %s, expected a file", fs.Path(name), manifest.ErrInvalid, info.Type)
	}
	f, err := fs.Open(name)
	if fsys.IsNotExist(err) {
		return nil, 0, nil
	}
	return f, info.Size, asDamage(err)
}

// asDamage takes an error that the disk says of itself for what it is.
func asDamage(err error) error {
	if fsys.IsUnreadable(err) {
		return fmt.Errorf("%w: %w", manifest.ErrInvalid, err)
	}
	return err
}

// Read reads the body of one of our files whole; nil if there is none. The error
// wraps manifest.ErrInvalid for a damaged one, is a *NewerError for one of a
// newer Tandem, and is the disk's otherwise.
func Read(fs fsys.FS, kind, name string, limit int64) ([]byte, error) {
	f, size, err := open(fs, name)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	var raw []byte
	_, err = readEnvelope(kind, f, size, limit, func(h Head, r io.Reader) error {
		raw = make([]byte, h.Size) // as long as the file, which was compared
		_, err := io.ReadFull(r, raw)
		return err
	})
	if err != nil {
		return nil, named(fs, name, err)
	}
	return raw, nil
}

// named adds the name of the file to an error of reading it.
func named(fs fsys.FS, name string, err error) error {
	var newer *NewerError
	if errors.As(err, &newer) {
		newer.Path = fs.Path(name)
		return newer
	}
	return fmt.Errorf("%s: %w", fs.Path(name), asDamage(err))
}

// Newer returns a *NewerError if one of the named files is whole and was made by a
// newer Tandem. A file that is missing, damaged or unreadable is not: the error is
// that of a look which has found nothing out, for want of memory and the like.
func Newer(fs fsys.FS, names ...string) error {
	for _, name := range names {
		f, size, err := open(fs, name)
		if err == nil && f != nil {
			h, _, headErr := readHead(bufio.NewReaderSize(f, maxHead))
			f.Close()
			if err = headErr; err == nil && h.Reads > Format {
				_, err = Read(fs, "", name, size)
			}
		}
		if errors.Is(err, ErrNewer) || fsys.IsTransient(err) {
			return err
		}
	}
	return nil
}

// ReadJSON is Read for a body that Seal wrote. It reports whether there was a file.
func ReadJSON(fs fsys.FS, kind, name string, limit int64, body any) (bool, error) {
	raw, err := Read(fs, kind, name, limit)
	if raw == nil || err != nil {
		return false, err
	}
	if err := json.Unmarshal(raw, body); err != nil {
		return false, fmt.Errorf("%s: %w: %w", fs.Path(name), manifest.ErrInvalid, err)
	}
	return true, nil
}

// Remembered is ReadJSON for what can be found out again by looking and asking: a damaged
// file is told, and counts as missing. An error says nothing about the file, and nothing
// may be written in its place.
func Remembered(fs fsys.FS, kind, name string, limit int64, body any, log logrus.FieldLogger) (bool, error) {
	there, err := ReadJSON(fs, kind, name, limit, body)
	if errors.Is(err, manifest.ErrInvalid) {
		log.WithError(err).Warn("what was remembered cannot be used: ignored")
		return false, nil
	}
	return there, err
}

// Salvage returns the body of a damaged file of ours as it lies there, unproven; nil
// if there is none, or the disk does not give it. The error is that of a look which has
// found nothing out, for want of memory and the like.
func Salvage(fs fsys.FS, name string, limit int64) ([]byte, error) {
	data, err := fsys.ReadFile(fs, name, limit)
	switch {
	case fsys.IsTransient(err):
		return nil, err
	case err != nil:
		return nil, nil
	}
	if head, body, _ := bytes.Cut(data, []byte("\n")); bytes.HasPrefix(head, []byte(`{"tandem":`)) {
		return body, nil
	}
	return data, nil
}
