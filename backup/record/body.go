package record

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"tandem/backup/manifest"
	"tandem/internal/compact"
)

// outline is the first line of a record's body. The entries follow, up to its end: those
// of the manifest and of the configuration in one list, in which what both have comes once.
type outline struct {
	manifest.Manifest
	Files    *struct{} `json:"files,omitempty"` // not here
	Revision int       `json:"revision"`
}

const (
	ofKind   = 3               // an index of kinds
	ofFiles  = 1 << (iota + 1) // in the manifest
	ofConfig                   // in the captured configuration
	hasAttr                    // mode and owner are not those of the last entry of its kind
	hasXattrs
	isAdopted
	allTraits = 1<<(iota+1) - 1
)

var kinds = [...]manifest.EntryType{manifest.File, manifest.Dir, manifest.Symlink, manifest.Hardlink}

// attr is what most entries of a kind have in common.
type attr struct {
	mode     manifest.Mode
	uid, gid uint32
}

// before is what was said of the entries before, by their kinds, and how much memory is
// left for what is read.
type before struct {
	attr  [len(kinds)]attr
	mtime [len(kinds)]int64
	left  int
}

const (
	entryWeight = 192 // bytes of memory that an entry takes at least, but for its path
	xattrWeight = 128
)

// writeBody writes the body of r piece by piece: in one piece it would take as much
// memory as all that it describes.
func (r *Record) writeBody(dst io.Writer) error {
	line, err := json.Marshal(outline{Manifest: r.Manifest, Revision: r.Revision})
	if err != nil {
		return err
	}
	w := &writer{before: before{left: maxRecord}}
	w.Bytes = append(line, '\n')
	for files, config := r.Manifest.Files, r.Config; len(files) > 0 || len(config) > 0; {
		if len(config) == 0 || len(files) > 0 && files[0].Path <= config[0].Path {
			if len(config) > 0 && files[0].Path == config[0].Path && same(files[0], config[0]) {
				w.entry(files[0], ofFiles|ofConfig)
				config = config[1:]
			} else {
				w.entry(files[0], ofFiles)
			}
			files = files[1:]
		} else {
			w.entry(config[0], ofConfig)
			config = config[1:]
		}
		if len(w.Bytes) >= writeChunk {
			if _, err := dst.Write(w.Bytes); err != nil {
				return err
			}
			w.Bytes = w.Bytes[:0]
		}
	}
	if w.left < 0 { // it could not be read back
		return errTooLarge
	}
	_, err = dst.Write(w.Bytes)
	return err
}

const writeChunk = 32 << 10

var errTooLarge = fmt.Errorf("%w: a record that takes more than %d bytes", manifest.ErrInvalid, maxRecord)

type writer struct {
	compact.Writer
	before
}

func (w *writer) entry(e *manifest.Entry, traits uint64) {
	kind := slices.Index(kinds[:], e.Type)
	traits |= uint64(kind)
	a := attr{e.Mode, e.UID, e.GID}
	if a != w.attr[kind] {
		traits |= hasAttr
	}
	if len(e.Xattrs) > 0 {
		traits |= hasXattrs
	}
	if e.Adopted {
		traits |= isAdopted
	}
	w.left -= entryWeight + len(e.Path)
	w.Path(string(e.Path))
	w.Uint(traits)
	if traits&hasAttr != 0 {
		w.Uint(uint64(a.mode))
		w.Uint(uint64(a.uid))
		w.Uint(uint64(a.gid))
		w.attr[kind] = a
	}
	w.Int(e.Mtime - w.mtime[kind])
	w.mtime[kind] = e.Mtime
	switch e.Type {
	case manifest.File:
		w.Uint(uint64(e.Size))
		w.Bytes = append(w.Bytes, e.SHA256[:]...)
	case manifest.Symlink:
		w.Text(string(e.Target))
	case manifest.Hardlink:
		w.Text(string(e.Link))
	}
	if traits&hasXattrs != 0 {
		w.Uint(uint64(len(e.Xattrs)))
		for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
			w.left -= xattrWeight + len(name) + len(e.Xattrs[name])
			w.Text(name)
			w.Text(string(e.Xattrs[name]))
		}
	}
}

// parse reads what writeBody wrote, entry by entry, and checks every rule of the format.
func parse(src io.Reader) (*Record, error) {
	r := &reader{Reader: compact.NewReader(src), before: before{left: maxRecord}}
	o, err := readOutline(r.Reader)
	if err != nil {
		return nil, err
	}
	rec := &Record{Manifest: o.Manifest, Revision: o.Revision}
	for r.More() {
		e, traits := r.entry()
		switch {
		case r.left < 0:
			return nil, errTooLarge
		case r.Err() == nil && traits&(ofFiles|ofConfig) == 0:
			return nil, fmt.Errorf("%w: path %q is of no list", manifest.ErrInvalid, e.Path)
		}
		if traits&ofFiles != 0 {
			rec.Manifest.Files = append(rec.Manifest.Files, e)
		}
		if traits&ofConfig != 0 {
			rec.Config = append(rec.Config, e)
		}
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return rec, rec.check()
}

func readOutline(r *compact.Reader) (outline, error) {
	var o outline
	line, err := r.Line(), r.Err()
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	return o, err
}

// reader makes room for entries, and for their paths, many at once.
type reader struct {
	*compact.Reader
	before
	room  []manifest.Summed
	paths strings.Builder
}

const (
	roomEntries = 63      // 8 KiB with what the allocator notes of them
	roomPaths   = 4 << 10 // bytes
)

// path reads a path.
func (r *reader) path() manifest.Path {
	p := r.Path()
	if r.paths.Cap()-r.paths.Len() < len(p) { // what was given out of the last one stays
		r.paths.Reset()
		r.paths.Grow(max(roomPaths, len(p)))
	}
	r.paths.Write(p)
	all := r.paths.String()
	return manifest.Path(all[len(all)-len(p):])
}

func (r *reader) entry() (*manifest.Entry, uint64) {
	p := r.path()
	r.left -= entryWeight + len(p)
	traits := r.UpTo(allTraits)
	kind := traits & ofKind
	if traits&hasAttr != 0 {
		r.attr[kind] = attr{manifest.Mode(r.UpTo(0o7777)), uint32(r.UpTo(math.MaxUint32)), uint32(r.UpTo(math.MaxUint32))}
	}
	a := r.attr[kind]
	r.mtime[kind] += r.Int()
	if len(r.room) == 0 {
		r.room = make([]manifest.Summed, roomEntries)
	}
	s := &r.room[0]
	r.room = r.room[1:]
	s.Entry = manifest.Entry{Path: p, Type: kinds[kind], Mode: a.mode, UID: a.uid, GID: a.gid, Mtime: r.mtime[kind], Adopted: traits&isAdopted != 0}
	switch s.Type {
	case manifest.File:
		s.Size, s.SHA256 = int64(r.Uint()), &s.Sum
		r.Fill(s.Sum[:])
	case manifest.Symlink:
		s.Target = manifest.Path(r.Text(compact.MaxPath))
	case manifest.Hardlink:
		s.Link = manifest.Path(r.Text(compact.MaxPath))
	}
	if traits&hasXattrs != 0 {
		s.Xattrs = map[string][]byte{}
		for n := r.Uint(); n > 0 && r.Err() == nil && r.left >= 0; n-- {
			name, value := r.Text(maxRecord), r.Text(maxRecord)
			r.left -= xattrWeight + len(name) + len(value)
			s.Xattrs[name] = []byte(value)
		}
	}
	return &s.Entry, traits
}
