package bundle

import (
	"bytes"
	"strconv"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/packaging/release"
)

// layout is the tar that the payload decodes to. All of it but the contents of
// files follows from the release: for each file a header, the content and
// padding, and two empty blocks at the end.
type layout struct {
	files []*manifest.Entry
	mtime int64
	// patches are those of files that come as patches: size and hash in files
	// are then the patch's.
	patches map[backup.Path]*patched
}

func newLayout(m *release.Manifest) *layout {
	n, _ := m.Content()
	l := &layout{files: make([]*manifest.Entry, 0, n), mtime: m.Time}
	for i := range m.Files {
		if e := &m.Files[i]; e.Type == manifest.File {
			l.files = append(l.files, e)
		}
	}
	return l
}

// len returns how many parts the tar has that a frame may begin with: its
// files or, where there are none, its end alone.
func (l *layout) len() int { return max(len(l.files), 1) }

// size returns how many bytes file i takes; the last one has the tar's end.
func (l *layout) size(i int) int64 {
	var n int64
	if i < len(l.files) {
		e := l.files[i]
		n = headerSize(e) + e.Size + pad(e.Size)
	}
	if i == l.len()-1 {
		n += 2 * block
	}
	return n
}

// name names part i for messages.
func (l *layout) name(i int) string {
	if i < len(l.files) {
		return l.files[i].Path.String()
	}
	return "the end"
}

// maxName is how long a name a ustar header holds.
const maxName = 100

// headerSize is how long the headers of e are.
func headerSize(e *manifest.Entry) int64 {
	if n := int64(len(records(e))); n > 0 {
		return block + n + pad(n) + block
	}
	return block
}

// header returns what stands before the content of e: a ustar header and, where
// that cannot say the name or the length, an extended header before it.
func header(e *manifest.Entry, mtime int64) []byte {
	size := e.Size
	if size > maxMember {
		size = 0 // the record has it
	}
	plain := ustar(string(e.Path[:min(len(e.Path), maxName)]), '0', int64(e.Mode), size, mtime)
	rec := records(e)
	if len(rec) == 0 {
		return plain[:]
	}
	n := int64(len(rec))
	extended := ustar("PaxHeader", 'x', 0o644, n, mtime)
	return bytes.Join([][]byte{extended[:], rec, make([]byte, pad(n)), plain[:]}, nil)
}

// records are the extended header records of e.
func records(e *manifest.Entry) []byte {
	var b []byte
	if len(e.Path) > maxName {
		b = appendRecord(b, "path", string(e.Path))
	}
	if e.Size > maxMember {
		b = appendRecord(b, "size", strconv.FormatInt(e.Size, 10))
	}
	return b
}

// appendRecord appends a record, which begins with its own length.
func appendRecord(b []byte, key, value string) []byte {
	rest := " " + key + "=" + value + "\n"
	n := len(rest) + len(strconv.Itoa(len(rest)))
	n = len(rest) + len(strconv.Itoa(n))
	return append(strconv.AppendInt(b, int64(n), 10), rest...)
}
