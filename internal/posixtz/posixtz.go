// Package posixtz finds out in which time zone a device lives, also where that is
// said as POSIX has it, such as "CST-8" or "CET-1CEST,M3.5.0,M10.5.0/3": in TZ or
// /etc/TZ, on systems that carry no files of zones. Go's own time package knows
// only such files, and takes all else for UTC without a word.
package posixtz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Device is what is asked for the zone. Its functions are those of the packages
// os and time.
type Device struct {
	LookupEnv func(name string) (string, bool)
	ReadFile  func(name string) ([]byte, error)
	Load      func(name string) (*time.Location, error) // of the zones that have files
}

// Zone returns the device's time zone. TZ counts, then /etc/localtime, then
// /etc/TZ; without them it is UTC. So it is beside an error, which says what names
// a zone that cannot be used.
func (d Device) Zone() (*time.Location, error) {
	if tz, ok := d.LookupEnv("TZ"); ok {
		return d.named("TZ", tz)
	}
	const local, etc = "/etc/localtime", "/etc/TZ"
	data, err := d.ReadFile(local)
	if err == nil {
		if zone, bad := time.LoadLocationFromTZData("Local", data); bad == nil {
			return zone, nil
		}
		err = errors.New("it is no file of a zone")
	}
	tz, bad := d.ReadFile(etc)
	switch {
	case bad == nil:
		line, _, _ := strings.Cut(string(tz), "\n")
		return d.named(etc, strings.TrimSpace(line))
	case !errors.Is(bad, fs.ErrNotExist):
		return time.UTC, fmt.Errorf("%s: %w", etc, bad)
	case !errors.Is(err, fs.ErrNotExist):
		return time.UTC, fmt.Errorf("%s: %w", local, err)
	}
	return time.UTC, nil
}

// named returns the zone that where calls tz: by a file, or by a POSIX string.
func (d Device) named(where, tz string) (*time.Location, error) {
	name := strings.TrimPrefix(tz, ":")
	if name == "" {
		return time.UTC, nil
	}
	if path.IsAbs(name) {
		data, err := d.ReadFile(name)
		if err == nil {
			var zone *time.Location
			if zone, err = time.LoadLocationFromTZData(name, data); err == nil {
				return zone, nil
			}
		}
		return time.UTC, fmt.Errorf("%s: %w", where, err)
	}
	if zone, err := d.Load(name); err == nil {
		return zone, nil
	}
	zone, err := parse(name)
	if err != nil {
		return time.UTC, fmt.Errorf("%s: %w", where, err)
	}
	return zone, nil
}

// parse returns the zone that a POSIX TZ string describes.
func parse(tz string) (*time.Location, error) {
	bad := fmt.Errorf(`%q is neither a zone that this device has a file of nor a POSIX one such as "CST-8"`, tz)
	if len(tz) > maxLength || strings.ContainsAny(tz, "\n\x00") {
		return nil, bad
	}
	zone, err := time.LoadLocationFromTZData(tz, compile(tz))
	if err != nil {
		return nil, bad
	}
	// What cannot be read is passed over silently: then the file's own zone shows.
	for _, month := range []time.Month{time.January, time.July} {
		if name, _ := time.Date(2024, month, 1, 0, 0, 0, 0, time.UTC).In(zone).Zone(); name == unread {
			return nil, bad
		}
	}
	return zone, nil
}

const (
	maxLength = 200
	unread    = "?" // no name of a zone
)

// compile makes a file of a zone as RFC 9636 has it, version 2, whose footer is a
// POSIX string: that is how files say what holds after their last transition. Theirs
// is the first one that can be told.
func compile(tz string) []byte {
	var b bytes.Buffer
	header := func(transitions uint32) {
		b.WriteString("TZif2" + strings.Repeat("\x00", 15))
		for _, n := range []uint32{0, 0, 0, transitions, 1, uint32(len(unread) + 1)} { // … types, characters
			b.Write(binary.BigEndian.AppendUint32(nil, n))
		}
	}
	zone := func() {
		b.WriteString("\x00\x00\x00\x00\x00\x00" + unread + "\x00") // its offset, no daylight saving, its name
	}
	header(0)
	zone()
	header(1)
	b.WriteString("\xf8\x00\x00\x00\x00\x00\x00\x00") // -1<<59
	b.WriteByte(0)                                    // the type from then on
	zone()
	b.WriteString("\n" + tz + "\n")
	return b.Bytes()
}
