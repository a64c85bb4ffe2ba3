package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"unicode/utf8"

	"tandem/backup"
	"tandem/versioning"
)

// The limits of a manifest, which keep a hostile one from costing more than its bytes.
const (
	// MaxManifest is how long manifest.json may be, in bytes.
	MaxManifest = 32 << 20
	// MaxFiles is how many entries a manifest may have.
	MaxFiles = 1 << 17
	// maxContent bounds the sum of all files, in bytes.
	maxContent = 1 << 42
	// maxTime is the last second of the year 9999.
	maxTime = 253402300799
)

// Kind says what a bundle carries.
type Kind string

// The kinds of bundle.
const (
	App      Kind = "app"      // an application
	Firmware Kind = "firmware" // something that only a handler of the device can write
)

// Codec says where the bytes of a file come from.
type Codec string

// The codecs that this program knows.
const (
	Full Codec = "full" // the payload holds them
	Base Codec = "base" // the device has them already: a file with this SHA-256
)

// File is one entry of a bundle's manifest.
type File struct {
	backup.Entry
	// From is set for files only. Mtime 0 stands for the time of installation.
	From Codec `json:"from,omitempty"`
}

// Payload describes payload.tar.zst once decompressed.
type Payload struct {
	Compression string `json:"compression"` // zstd
	Size        int64  `json:"size"`        // of the tar, in bytes
	Files       int    `json:"files"`       // in the tar
}

// Manifest is what a bundle says about the release it carries.
type Manifest struct {
	Kind       Kind               `json:"kind"` // absent means App
	App        string             `json:"app"`
	Version    versioning.Version `json:"version"`
	Compatible []string           `json:"compatible"` // hardware names, at least one
	// Base is the version whose files the entries with codec Base are of.
	Base versioning.Version `json:"base,omitzero"`
	// Time is when the release was made, in seconds since 1970; 0 = not said.
	Time    int64    `json:"time,omitempty"`
	Config  []string `json:"config,omitempty"`
	Ignore  []string `json:"ignore,omitempty"`
	Replace []string `json:"replace,omitempty"`
	Remove  []string `json:"remove,omitempty"`
	Payload Payload  `json:"payload"`
	// Files are sorted by path.
	Files Files `json:"files"`
}

// Files is the list of a manifest's entries.
type Files []File

// UnmarshalJSON stops at MaxFiles entries: an entry can be much larger in
// memory than in JSON.
func (f *Files) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	switch t, err := dec.Token(); {
	case err != nil:
		return err
	case t == nil:
		return nil
	case t != json.Delim('['):
		return fmt.Errorf("files: expected a list, found %v", t)
	}
	// As many as there are, at once: the list is what most of a manifest is.
	list := make(Files, 0, min(bytes.Count(data, []byte(`"path"`)), MaxFiles))
	for dec.More() {
		if len(list) == MaxFiles {
			return fmt.Errorf("files: more than %d entries", MaxFiles)
		}
		var e File
		if err := dec.Decode(&e); err != nil {
			return fmt.Errorf("files: entry %d: %w", len(list)+1, err)
		}
		if e.Type == backup.File && e.From == "" {
			e.From = Full
		}
		list = append(list, e)
	}
	*f = list
	return nil
}

// Backup gives the manifest as a side records it. It shares its entries with m.
func (m *Manifest) Backup() backup.Manifest {
	b := backup.Manifest{
		App:        m.App,
		Version:    m.Version,
		Compatible: m.Compatible,
		Config:     m.Config,
		Ignore:     m.Ignore,
		Replace:    m.Replace,
		Remove:     m.Remove,
		Files:      make([]*backup.Entry, len(m.Files)),
	}
	for i := range m.Files {
		b.Files[i] = &m.Files[i].Entry
	}
	return b
}

// Content says how many bytes all files of the release have together, and how
// many of them the payload carries.
func (m *Manifest) Content() (all, carried int64) {
	for i := range m.Files {
		if e := &m.Files[i]; e.Type == backup.File {
			all += e.Size
			if e.From == Full {
				carried += e.Size
			}
		}
	}
	return all, carried
}

// Encode gives the content of manifest.json.
func (m *Manifest) Encode() ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// DecodeManifest reads manifest.json and checks every rule of its format. The
// error wraps ErrMalformed, or ErrCodec where a codec is not known.
func DecodeManifest(data []byte) (*Manifest, error) {
	if len(data) > MaxManifest {
		return nil, malformed(manifestName, "%d bytes long, at most %d are allowed", len(data), MaxManifest)
	}
	m := &Manifest{Kind: App}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, malformed(manifestName, "%w", err)
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	return m, nil
}

// appName keeps an app's name usable in file names, URLs and messages.
var appName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// checkFacts is the part of Check that does not concern files.
func (m *Manifest) checkFacts() error {
	switch {
	case m.Kind != App && m.Kind != Firmware:
		return fmt.Errorf("unknown kind %.40q: expected %s or %s", m.Kind, App, Firmware)
	case !appName.MatchString(m.App):
		return fmt.Errorf("app %.80q: expected up to 64 letters, digits, dots, dashes and underscores", m.App)
	case m.Version.IsZero():
		return fmt.Errorf("no version")
	case len(m.Compatible) == 0:
		return fmt.Errorf("no compatible hardware named")
	case m.Time < 0 || m.Time > maxTime:
		return fmt.Errorf("time %d: expected seconds since 1970", m.Time)
	}
	for _, c := range m.Compatible {
		if !isWord(c) {
			return fmt.Errorf("compatible %.80q: expected up to 128 characters without spaces", c)
		}
	}
	for _, patterns := range [][]string{m.Config, m.Ignore, m.Replace, m.Remove} {
		for _, p := range patterns {
			if !utf8.ValidString(p) {
				return fmt.Errorf("pattern %q is not UTF-8", p)
			}
			if err := backup.CheckPattern(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func isWord(s string) bool {
	if s == "" || len(s) > 128 || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f {
			return false
		}
	}
	return true
}

// Check says whether m obeys the rules of its format. The error wraps
// ErrMalformed, or ErrCodec where a codec is not known.
func (m *Manifest) Check() error {
	if err := m.checkFacts(); err != nil {
		return malformed(manifestName, "%w", err)
	}
	if len(m.Files) > MaxFiles {
		return malformed(manifestName, "%d entries, at most %d are allowed", len(m.Files), MaxFiles)
	}
	full := 0
	var content int64
	for i := range m.Files {
		e := &m.Files[i]
		if i > 0 && e.Path < m.Files[i-1].Path {
			return malformed(manifestName, "entry %d, %.80q, comes after %.80q: expected them sorted by path", i+1, e.Path, m.Files[i-1].Path)
		}
		if e.Mtime < 0 {
			return malformed(manifestName, "entry %d, %.80q: mtime %d is before 1970", i+1, e.Path, e.Mtime)
		}
		switch {
		case e.Type != backup.File:
			if e.From != "" {
				return malformed(manifestName, "entry %d, %.80q: a %s comes from %.40q: expected that of files only", i+1, e.Path, e.Type, e.From)
			}
			continue
		case e.From == Full:
			full++
		case e.From == Base:
		default:
			return fmt.Errorf("%w: %s: entry %d, %.80q: from %.40q: expected %s or %s; a newer tandem may know it",
				ErrCodec, manifestName, i+1, e.Path, e.From, Full, Base)
		}
		if e.Size < 0 || e.Size > maxContent-content {
			return malformed(manifestName, "entry %d, %.80q: size %d: expected all files to have at most %d bytes together", i+1, e.Path, e.Size, int64(maxContent))
		}
		content += e.Size
	}
	b := m.Backup()
	if err := b.Check(); err != nil {
		return malformed(manifestName, "%w", err)
	}
	if m.Payload.Compression != compression {
		return fmt.Errorf("%w: %s: payload compression %.40q: expected %s", ErrCodec, manifestName, m.Payload.Compression, compression)
	}
	if m.Payload.Files != full {
		return malformed(manifestName, "payload has %d files, but %d entries come from it", m.Payload.Files, full)
	}
	if low, high := m.tarBounds(); m.Payload.Size < low || m.Payload.Size > high {
		return malformed(manifestName, "payload has %d bytes: expected %d to %d for its files", m.Payload.Size, low, high)
	}
	return nil
}

// tarBounds says between which sizes a tar of the payload's files lies: each
// has a header and padding, and where the name is long one more header with a
// record that holds the name.
func (m *Manifest) tarBounds() (low, high int64) {
	low = 2 * block
	high = low
	for i := range m.Files {
		e := &m.Files[i]
		if e.From != Full {
			continue
		}
		low += block + e.Size + pad(e.Size)
		long := int64(len(e.Path)) + 128
		high += 2*block + long + pad(long) + block + e.Size + pad(e.Size)
	}
	return low, high
}
