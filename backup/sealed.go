package backup

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"tandem/internal/digest"
	"tandem/internal/fsys"
)

// sealedFormat is the version of the form of our files, which has no other yet.
const sealedFormat = 1

// envelope is the outer form of our files: the body with its digest, so that
// a damaged file is never taken for a good one.
type envelope struct {
	Tandem string        `json:"tandem"` // what the body is
	Format int           `json:"format"`
	SHA256 digest.SHA256 `json:"sha256"` // of the body's bytes, as they stand
}

// The outer form is written in one way only, so that the body can be found,
// hashed and parsed while it is read.
const (
	bodyMark = `,"body":`
	bodyEnd  = "}\n"
	maxHead  = 512 // bytes; what comes before the body is short
)

// writeSealed writes one of our files: the body, whose digest is sum.
func writeSealed(w io.Writer, kind string, sum digest.SHA256, body func(io.Writer) error) error {
	if _, err := fmt.Fprintf(w, `{"tandem":%q,"format":%d,"sha256":"%s"`+bodyMark, kind, sealedFormat, sum); err != nil {
		return err
	}
	if err := body(w); err != nil {
		return err
	}
	_, err := io.WriteString(w, bodyEnd)
	return err
}

func seal(kind string, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = writeSealed(&b, kind, digest.Of(raw), func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	})
	return b.Bytes(), err
}

func unseal(kind string, data []byte, body any) error {
	_, err := readEnvelope(kind, bytes.NewReader(data), int64(len(data)), func(_ digest.SHA256, r io.Reader) error {
		dec := json.NewDecoder(r)
		if err := dec.Decode(body); err != nil {
			return err
		}
		return endOf(dec)
	})
	return err
}

// endOf says whether nothing follows what dec has read.
func endOf(dec *json.Decoder) error {
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows after its end")
	}
	return nil
}

// readEnvelope reads what writeSealed wrote, of size bytes, and gives the
// digest of the body. parse is given the body as it is read, with the digest
// that it should have; what it took from it counts only if there is no error.
// The error wraps ErrInvalid, unless it is one of reading.
func readEnvelope(kind string, src io.Reader, size int64, parse func(digest.SHA256, io.Reader) error) (digest.SHA256, error) {
	in := bufio.NewReaderSize(src, 32<<10)
	e, err := readHead(in, &size)
	switch {
	case err != nil:
		return e.SHA256, err
	case e.Tandem != kind:
		return e.SHA256, fmt.Errorf("%w: a %q where a %q was expected", ErrInvalid, e.Tandem, kind)
	case e.Format != sealedFormat:
		return e.SHA256, fmt.Errorf("%w: format %d: this Tandem knows %d", ErrInvalid, e.Format, sealedFormat)
	}
	h := digest.New()
	body := &readErrors{r: io.TeeReader(io.LimitReader(in, size-int64(len(bodyEnd))), h)}
	parseErr := parse(e.SHA256, body)
	_, err = io.Copy(io.Discard, body) // what parse left
	var end []byte
	if err == nil {
		end, err = io.ReadAll(io.LimitReader(in, int64(len(bodyEnd))+1))
	}
	switch {
	case body.err != nil:
		return e.SHA256, body.err
	case err != nil:
		return e.SHA256, err
	case string(end) != bodyEnd:
		return e.SHA256, errCutShort
	case digest.Sum(h) != e.SHA256:
		return e.SHA256, fmt.Errorf("%w: its content does not match its sha256", ErrInvalid)
	case parseErr != nil && !errors.Is(parseErr, ErrInvalid):
		parseErr = fmt.Errorf("%w: %w", ErrInvalid, parseErr)
	}
	return e.SHA256, parseErr
}

var errCutShort = fmt.Errorf("%w: not a file of Tandem's, or cut short", ErrInvalid)

// readHead reads what comes before the body, and takes it from size.
func readHead(in *bufio.Reader, size *int64) (envelope, error) {
	var e envelope
	head, err := in.Peek(maxHead)
	if err != nil && err != io.EOF {
		return e, err
	}
	head, _, ok := bytes.Cut(head, []byte(bodyMark))
	if !ok {
		return e, errCutShort
	}
	if err := json.Unmarshal(append(head[:len(head):len(head)], '}'), &e); err != nil {
		return e, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	n, err := in.Discard(len(head) + len(bodyMark))
	*size -= int64(n)
	return e, err
}

// openSealed opens one of our files. A missing one gives nil and no error;
// something else of that name, or one that is too long, wraps ErrInvalid.
func openSealed(fs fsys.FS, name string, limit int64) (fsys.File, int64, error) {
	info, err := fs.Lstat(name)
	switch {
	case fsys.IsNotExist(err):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	case info.Type != fsys.TypeFile:
		return nil, 0, fmt.Errorf("%s: %w: a %s, expected a file", fs.Path(name), ErrInvalid, info.Type)
	case info.Size > limit:
		return nil, 0, fmt.Errorf("%w: %w", ErrInvalid, &fsys.TooLongError{Path: fs.Path(name), Limit: limit})
	}
	f, err := fs.Open(name)
	if fsys.IsNotExist(err) {
		return nil, 0, nil
	}
	return f, info.Size, asDamage(err)
}

// asDamage takes a read error of the disk for what it is.
func asDamage(err error) error {
	if fsys.IsUnreadable(err) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return err
}

// readSealed reads one of our files whole; openSealed says what its errors are.
func readSealed(fs fsys.FS, name string, limit int64) ([]byte, error) {
	f, size, err := openSealed(fs, name, limit)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, size))
	return data, asDamage(err)
}
