package record

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"tandem/backup/manifest"
	"tandem/internal/digest"
)

// entryWriter writes entries as json.Marshal would.
type entryWriter struct {
	w   io.Writer
	buf []byte
	err error
}

const writeChunk = 32 << 10

func (w *entryWriter) text(s string) { w.buf = append(w.buf, s...) }

func (w *entryWriter) list(entries []*manifest.Entry) {
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

func (w *entryWriter) entry(e *manifest.Entry) {
	w.text(`{"path":`)
	w.path(e.Path)
	w.text(`,"type":`)
	w.path(manifest.Path(e.Type))
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
	if e.Adopted {
		w.text(`,"adopted":true`)
	}
	w.text("}")
}

func (w *entryWriter) number(name string, n int64) {
	if n != 0 {
		w.text(name)
		w.buf = strconv.AppendInt(w.buf, n, 10)
	}
}

func (w *entryWriter) path(p manifest.Path) {
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

// parse reads what Record.writeBody wrote, entry by entry, and checks every
// rule of the format. A field that it does not know is passed over.
func parse(src io.Reader) (*Record, error) {
	r := &Record{}
	m := &r.Manifest
	in := newScanner(src)
	entries := func(to *[]*manifest.Entry) func() error {
		return func() error {
			return in.list(func(raw []byte) error {
				e, err := parseEntry(raw)
				if err != nil {
					return fmt.Errorf("entry %d: %w", len(*to)+1, err)
				}
				*to = append(*to, e)
				return nil
			})
		}
	}
	err := in.object(map[string]func() error{
		"manifest": func() error { return in.manifest(m, entries(&m.Files)) },
		"config":   entries(&r.Config),
		"revision": in.into(&r.Revision),
	})
	if err == nil {
		err = in.end()
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// manifest reads the manifest that a record begins with; its files are read by that
// function.
func (s *scanner) manifest(m *manifest.Manifest, files func() error) error {
	return s.object(map[string]func() error{
		"app": s.into(&m.App), "version": s.into(&m.Version), "release": s.into(&m.Release), "compatible": s.into(&m.Compatible),
		"config": s.into(&m.Config), "ignore": s.into(&m.Ignore), "replace": s.into(&m.Replace), "remove": s.into(&m.Remove),
		"files": files,
	})
}

// scanner finds the values of a JSON document while it is read. encoding/json
// reads each of them, so that what is accepted is what that accepts; it would
// take twenty times as long to find them.
type scanner struct {
	in  *bufio.Reader
	raw []byte // of the value found last
}

func newScanner(src io.Reader) *scanner {
	return &scanner{in: bufio.NewReaderSize(src, 32<<10)}
}

func (s *scanner) skip() (byte, error) {
	for {
		c, err := s.in.ReadByte()
		switch {
		case err == io.EOF:
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case c != ' ' && c != '\n' && c != '\t' && c != '\r':
			return c, nil
		}
	}
}

func (s *scanner) expect(want byte) error {
	c, err := s.skip()
	if err == nil && c != want {
		err = fmt.Errorf("found %q, expected %q", c, want)
	}
	return err
}

// value reads one value whole. What it returns is good until the next call.
func (s *scanner) value() ([]byte, error) {
	if _, err := s.skip(); err != nil {
		return nil, err
	}
	_ = s.in.UnreadByte() // it was read a moment ago
	s.raw = s.raw[:0]
	depth, quoted, escaped := 0, false, false
	for {
		switch _, err := s.in.Peek(1); {
		case err == io.EOF && depth == 0 && !quoted:
			return s.raw, nil
		case err == io.EOF:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		window, _ := s.in.Peek(s.in.Buffered())
		n := len(window)
	search:
		for i, c := range window {
			switch {
			case escaped:
				escaped = false
			case quoted:
				quoted, escaped = c != '"', c == '\\'
			case c == '"':
				quoted = true
			case c == '{' || c == '[':
				depth++
			case depth > 0 && (c == '}' || c == ']'):
				depth--
			case depth == 0 && (c == ',' || c == '}' || c == ']' || c == ':' || c == '\n'):
				n = i
				break search
			}
		}
		s.raw = append(s.raw, window[:n]...)
		_, _ = s.in.Discard(n) // they are buffered
		switch {
		case n == len(window):
		case len(s.raw) == 0:
			return nil, fmt.Errorf("found %q, expected a value", window[0])
		default:
			return s.raw, nil
		}
	}
}

// into returns a function that reads the next value into to.
func (s *scanner) into(to any) func() error {
	return func() error {
		raw, err := s.value()
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, to)
	}
}

// object reads an object, each field by its function.
func (s *scanner) object(fields map[string]func() error) error {
	if err := s.expect('{'); err != nil {
		return err
	}
	for {
		var name string
		if err := s.into(&name)(); err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		field := fields[name]
		if field == nil {
			field = func() error { _, err := s.value(); return err }
		}
		if err := field(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		switch c, err := s.skip(); {
		case err != nil:
			return err
		case c == '}':
			return nil
		case c != ',':
			return fmt.Errorf("found %q, expected a comma or the end of the object", c)
		}
	}
}

// list reads a list, or null, each value by element.
func (s *scanner) list(element func(raw []byte) error) error {
	if err := s.expect('['); err != nil {
		return err
	}
	if next, err := s.in.Peek(1); err == nil && next[0] == ']' {
		return s.expect(']')
	}
	for {
		raw, err := s.value()
		if err != nil {
			return err
		}
		if err := element(raw); err != nil {
			return err
		}
		switch c, err := s.skip(); {
		case err != nil:
			return err
		case c == ']':
			return nil
		case c != ',':
			return fmt.Errorf("found %q, expected a comma or the end of the list", c)
		}
	}
}

// end reports what follows after the document, if anything does.
func (s *scanner) end() error {
	if c, err := s.skip(); err == nil {
		return fmt.Errorf("found %q after its end", c)
	} else if err != io.ErrUnexpectedEOF {
		return err
	}
	return nil
}

// summed is an entry with the digest that it points to, in one piece of memory.
type summed struct {
	manifest.Entry
	sum digest.SHA256
}

// parseEntry reads an entry. The fields that every file has are read here, in
// the order in which entryWriter writes them; the rest is left to encoding/json.
func parseEntry(raw []byte) (*manifest.Entry, error) {
	s := &summed{}
	if p := (plain{raw: raw}); p.entry(s) {
		return &s.Entry, nil
	}
	*s = summed{}
	s.SHA256 = &s.sum
	if err := json.Unmarshal(raw, &s.Entry); err != nil {
		return nil, err
	}
	if s.sum.IsZero() {
		s.SHA256 = nil
	}
	return &s.Entry, nil
}

// plain reads an entry that has no more than what most have.
type plain struct{ raw []byte }

func (p *plain) entry(s *summed) bool {
	path, ok := p.quoted(`{"path":"`)
	if !ok {
		return false
	}
	s.Path = manifest.Path(path)
	kind, ok := p.quoted(`,"type":"`)
	switch {
	case !ok:
		return false
	case string(kind) == string(manifest.File):
		s.Type = manifest.File
	case string(kind) == string(manifest.Dir):
		s.Type = manifest.Dir
	default:
		return false
	}
	if mode, ok := p.quoted(`,"mode":"`); ok && s.Mode.UnmarshalText(mode) != nil {
		return false
	}
	uid, ok1 := p.number(`,"uid":`)
	gid, ok2 := p.number(`,"gid":`)
	size, ok3 := p.number(`,"size":`)
	mtime, ok4 := p.number(`,"mtime":`)
	if !ok1 || !ok2 || !ok3 || !ok4 || int64(int32(uid)) != uid || int64(int32(gid)) != gid {
		return false
	}
	s.UID, s.GID, s.Size, s.Mtime = int(uid), int(gid), size, mtime
	if sum, ok := p.quoted(`,"sha256":"`); ok {
		if len(sum) != 2*len(s.sum) {
			return false
		}
		if _, err := hex.Decode(s.sum[:], sum); err != nil {
			return false
		}
		s.SHA256 = &s.sum
	}
	s.Adopted = string(p.raw) == `,"adopted":true}`
	return s.Adopted || string(p.raw) == "}"
}

// quoted takes a string that stands for itself, after name.
func (p *plain) quoted(name string) ([]byte, bool) {
	if len(p.raw) < len(name) || string(p.raw[:len(name)]) != name {
		return nil, false
	}
	for i, c := range p.raw[len(name):] {
		switch {
		case c == '"':
			s := p.raw[len(name) : len(name)+i]
			p.raw = p.raw[len(name)+i+1:]
			return s, true
		case c < ' ' || c > '~' || c == '\\' || c == '%':
			return nil, false
		}
	}
	return nil, false
}

// number takes a number after name; without the name it is 0.
func (p *plain) number(name string) (int64, bool) {
	if len(p.raw) < len(name) || string(p.raw[:len(name)]) != name {
		return 0, true
	}
	rest, n := p.raw[len(name):], 0
	for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || n == 0 && rest[n] == '-') {
		n++
	}
	v, err := strconv.ParseInt(string(rest[:n]), 10, 64)
	if err != nil {
		return 0, false
	}
	p.raw = rest[n:]
	return v, true
}
