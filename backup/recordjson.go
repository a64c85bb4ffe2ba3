package backup

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"tandem/internal/digest"
)

// A record is written and read entry by entry: in one piece it would take
// several times the memory of all that it describes.

// entryWriter writes entries as json.Marshal would.
type entryWriter struct {
	w   io.Writer
	buf []byte
	err error
}

const writeChunk = 32 << 10

func (w *entryWriter) text(s string) {
	w.buf = append(w.buf, s...)
}

func (w *entryWriter) list(entries []*Entry) {
	if entries == nil {
		w.text("null")
		return
	}
	w.text("[")
	for i, e := range entries {
		if i > 0 {
			w.text(",")
		}
		if w.entry(e); len(w.buf) >= writeChunk {
			_ = w.flush() // the error is kept
		}
	}
	w.text("]")
}

func (w *entryWriter) flush() error {
	if w.err == nil {
		_, w.err = w.w.Write(w.buf)
	}
	w.buf = w.buf[:0]
	return w.err
}

func (w *entryWriter) entry(e *Entry) {
	w.text(`{"path":`)
	w.path(e.Path)
	w.text(`,"type":`)
	w.path(Path(e.Type))
	if e.Mode != 0 {
		w.text(`,"mode":"`)
		text, _ := e.Mode.MarshalText() // has no error to give
		w.buf = append(w.buf, text...)
		w.text(`"`)
	}
	w.number(`,"uid":`, int64(e.UID))
	w.number(`,"gid":`, int64(e.GID))
	w.number(`,"size":`, e.Size)
	w.number(`,"mtime":`, e.Mtime)
	if e.SHA256 != nil {
		w.text(`,"sha256":"`)
		w.buf = hex.AppendEncode(w.buf, e.SHA256[:])
		w.text(`"`)
	}
	if e.Target != "" {
		w.text(`,"target":`)
		w.path(e.Target)
	}
	if e.Link != "" {
		w.text(`,"link":`)
		w.path(e.Link)
	}
	if len(e.Xattrs) > 0 {
		w.text(`,"xattrs":`)
		w.marshal(e.Xattrs)
	}
	if e.Fresh {
		w.text(`,"fresh":true`)
	}
	w.text("}")
}

func (w *entryWriter) number(name string, n int64) {
	if n != 0 {
		w.text(name)
		w.buf = strconv.AppendInt(w.buf, n, 10)
	}
}

func (w *entryWriter) path(p Path) {
	for i := range len(p) {
		if c := p[i]; c < ' ' || c > '~' || c == '%' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			w.marshal(p)
			return
		}
	}
	w.buf = append(w.buf, '"')
	w.buf = append(w.buf, p...)
	w.buf = append(w.buf, '"')
}

func (w *entryWriter) marshal(v any) {
	data, err := json.Marshal(v)
	if w.err == nil {
		w.err = err
	}
	w.buf = append(w.buf, data...)
}

// parseRecord reads what Record.writeBody wrote. It checks nothing but that.
func parseRecord(src io.Reader) (*Record, error) {
	r := &Record{}
	dec := json.NewDecoder(src)
	var m = &r.Manifest
	err := parseObject(dec, map[string]func() error{
		"manifest": func() error {
			return parseObject(dec, map[string]func() error{
				"app":        func() error { return dec.Decode(&m.App) },
				"version":    func() error { return dec.Decode(&m.Version) },
				"compatible": func() error { return dec.Decode(&m.Compatible) },
				"config":     func() error { return dec.Decode(&m.Config) },
				"ignore":     func() error { return dec.Decode(&m.Ignore) },
				"replace":    func() error { return dec.Decode(&m.Replace) },
				"remove":     func() error { return dec.Decode(&m.Remove) },
				"files":      func() (err error) { m.Files, err = parseEntries(dec); return err },
			})
		},
		"config":   func() (err error) { r.Config, err = parseEntries(dec); return err },
		"revision": func() error { return dec.Decode(&r.Revision) },
	})
	if err != nil {
		return nil, err
	}
	return r, endOf(dec)
}

// parseObject reads an object, each field by its function. Others are passed over.
func parseObject(dec *json.Decoder, fields map[string]func() error) error {
	if err := expect(dec, json.Delim('{')); err != nil {
		return err
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		field := fields[name.(string)]
		if field == nil {
			var other json.RawMessage
			err = dec.Decode(&other)
		} else {
			err = field()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return expect(dec, json.Delim('}'))
}

func expect(dec *json.Decoder, want json.Delim) error {
	got, err := dec.Token()
	if err == nil && got != want {
		err = fmt.Errorf("found %v, expected %v", got, want)
	}
	return err
}

func parseEntries(dec *json.Decoder) ([]*Entry, error) {
	switch t, err := dec.Token(); {
	case err != nil:
		return nil, err
	case t == nil:
		return nil, nil
	case t != json.Delim('['):
		return nil, fmt.Errorf("found %v, expected a list", t)
	}
	list := []*Entry{}
	var raw json.RawMessage
	for dec.More() {
		raw = raw[:0]
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		e, err := parseEntry(raw)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(list)+1, err)
		}
		list = append(list, e)
	}
	return list, expect(dec, json.Delim(']'))
}

// summed is an entry with the digest that it points to, in one piece of memory.
type summed struct {
	Entry
	sum digest.SHA256
}

func parseEntry(raw []byte) (*Entry, error) {
	s := &summed{}
	s.SHA256 = &s.sum
	if err := json.Unmarshal(raw, &s.Entry); err != nil {
		return nil, err
	}
	if s.sum.IsZero() {
		s.SHA256 = nil
	}
	return &s.Entry, nil
}
