// Package release has what a publisher and a device share: what a release is
// (release.json), and what a repository says about one.
package release

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"sync"
	"time"
	"unicode/utf8"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/versioning"
)

// The limits of a manifest, which keep a hostile one from costing more than its bytes.
const (
	// MaxManifest is how long release.json may be, in bytes.
	MaxManifest = 32 << 20
	// MaxFiles is how many entries a manifest may have.
	MaxFiles = 1 << 17
	// maxContent bounds the sum of all files, in bytes.
	maxContent = 1 << 42
	// maxTime is the last second of the year 9999.
	maxTime = 253402300799
	// maxPatterns is how many patterns a manifest may have, all kinds together,
	// and MaxPatternBytes how long they may be together: each is held against
	// each path of a tree.
	maxPatterns     = 256
	maxPatternBytes = 16 << 10
)

// Kind says what a bundle carries.
type Kind string

// The kinds of bundle.
const (
	App      Kind = "app"      // an application
	Firmware Kind = "firmware" // something that only a handler of the device can write
	Agent    Kind = "agent"    // the tandem program itself
)

// Manifest is what a release is: the content of release.json. It is the same
// in whatever form the release is carried, and the SHA-256 of its bytes is the
// release.
type Manifest struct {
	Kind       Kind               `json:"kind"` // absent means App
	App        string             `json:"app"`
	Version    versioning.Version `json:"version"`
	Compatible []string           `json:"compatible"` // hardware names, at least one
	// Time is when the release was made, in seconds since 1970; 0 = not said.
	Time    int64    `json:"time,omitempty"`
	Config  []string `json:"config,omitempty"`
	Ignore  []string `json:"ignore,omitempty"`
	Replace []string `json:"replace,omitempty"`
	Remove  []string `json:"remove,omitempty"`
	// Files are sorted by path. Mtime 0 stands for the time of installation.
	Files Files `json:"files"`
}

// Files is the list of a manifest's entries.
type Files []manifest.Entry

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
		var e manifest.Entry
		if err := dec.Decode(&e); err != nil {
			return fmt.Errorf("files: entry %d: %w", len(list)+1, err)
		}
		list = append(list, e)
	}
	*f = list
	return nil
}

// Backup returns the manifest as a side records it. It shares its entries with m.
func (m *Manifest) Backup() backup.Manifest {
	b := backup.Manifest{
		App:        m.App,
		Version:    m.Version,
		Compatible: m.Compatible,
		Config:     m.Config,
		Ignore:     m.Ignore,
		Replace:    m.Replace,
		Remove:     m.Remove,
		Files:      make([]*manifest.Entry, len(m.Files)),
	}
	for i := range m.Files {
		b.Files[i] = &m.Files[i]
	}
	return b
}

// IsConfig reports whether the file at p may change on the device.
func (m *Manifest) IsConfig(p backup.Path) bool { return manifest.MatchAny(m.Config, p) }

// Rebuild returns release.json of a release that tandem-release made at that time
// out of what a side records of it. A side keeps neither the owner nor the times
// that the release has of its files, and these are the same for all. Whether it
// is right its hash says.
func Rebuild(recorded *backup.Manifest, at int64) ([]byte, error) {
	m := &Manifest{
		Kind: App, App: recorded.App, Version: recorded.Version, Compatible: recorded.Compatible, Time: at,
		Config: recorded.Config, Ignore: recorded.Ignore, Replace: recorded.Replace, Remove: recorded.Remove,
		Files: make(Files, len(recorded.Files)),
	}
	for i, e := range recorded.Files {
		m.Files[i] = *e
		m.Files[i].UID, m.Files[i].GID, m.Files[i].Mtime = 0, 0, at*int64(time.Second)
		if e.Type == manifest.Hardlink { // a side records it with the times of its file
			m.Files[i].Mtime = 0
		}
	}
	return m.Encode()
}

// ProgramName is the app of a release of the kind Agent, and its one file.
const ProgramName = "tandem"

// Program returns the one file of a release of the kind Agent.
func (m *Manifest) Program() (*manifest.Entry, error) {
	switch {
	case m.Kind != Agent:
		return nil, fmt.Errorf("of the kind %s, expected %s", m.Kind, Agent)
	case m.App != ProgramName:
		return nil, fmt.Errorf("app %.80q: expected %s, as the kind is %s", m.App, ProgramName, Agent)
	case len(m.Files) != 1 || m.Files[0].Path != ProgramName || m.Files[0].Type != manifest.File || m.Files[0].SHA256 == nil:
		return nil, fmt.Errorf("expected one file, %s, as the kind is %s", ProgramName, Agent)
	}
	return &m.Files[0], nil
}

// Content returns how many files the release has, and how many bytes they have
// together.
func (m *Manifest) Content() (files int, size int64) {
	for i := range m.Files {
		if e := &m.Files[i]; e.Type == manifest.File {
			files++
			size += e.Size
		}
	}
	return files, size
}

// Encode returns the content of release.json: compact JSON in the order of the
// fields here, with one newline at its end.
func (m *Manifest) Encode() ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// DecodeManifest reads release.json and checks every rule of its format.
func DecodeManifest(data []byte) (*Manifest, error) {
	if len(data) > MaxManifest {
		return nil, fmt.Errorf("%d bytes long, at most %d are allowed", len(data), MaxManifest)
	}
	m := &Manifest{Kind: App}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, err
	}
	return m, m.Check()
}

// appName keeps an app's name usable in file names, URLs and messages.
var appName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`) })

// CheckFacts is the part of Check that does not concern files.
func (m *Manifest) CheckFacts() error {
	switch {
	case m.Kind != App && m.Kind != Firmware && m.Kind != Agent:
		return fmt.Errorf("unknown kind %.40q: expected %s, %s or %s", m.Kind, App, Firmware, Agent)
	case !appName().MatchString(m.App):
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
	return m.checkPatterns()
}

func (m *Manifest) checkPatterns() error {
	count, size := 0, 0
	for _, patterns := range [][]string{m.Config, m.Ignore, m.Replace, m.Remove} {
		count += len(patterns)
		if count > maxPatterns {
			return fmt.Errorf("%d patterns or more, at most %d are allowed", count, maxPatterns)
		}
		for _, p := range patterns {
			if size += len(p); size > maxPatternBytes {
				return fmt.Errorf("patterns of %d bytes or more together, at most %d are allowed", size, maxPatternBytes)
			}
			if !utf8.ValidString(p) {
				return fmt.Errorf("pattern %q is not UTF-8", p)
			}
			if err := manifest.CheckPattern(p); err != nil {
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

// Check returns which rule of its format m breaks.
func (m *Manifest) Check() error {
	if err := m.CheckFacts(); err != nil {
		return err
	}
	if len(m.Files) > MaxFiles {
		return fmt.Errorf("%d entries, at most %d are allowed", len(m.Files), MaxFiles)
	}
	var content int64
	for i := range m.Files {
		e := &m.Files[i]
		if i > 0 && e.Path < m.Files[i-1].Path {
			return fmt.Errorf("entry %d, %.80q, comes after %.80q: expected them sorted by path", i+1, e.Path, m.Files[i-1].Path)
		}
		if e.Mtime < 0 {
			return fmt.Errorf("entry %d, %.80q: mtime %d is before 1970", i+1, e.Path, e.Mtime)
		}
		if e.Type != manifest.File {
			continue
		}
		if e.Size < 0 || e.Size > maxContent-content {
			return fmt.Errorf("entry %d, %.80q: size %d: expected all files to have at most %d bytes together", i+1, e.Path, e.Size, int64(maxContent))
		}
		content += e.Size
	}
	if _, err := m.Program(); m.Kind == Agent && err != nil {
		return err
	}
	b := m.Backup()
	return b.Check()
}
