package manifest

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Path is the name of an entry below apps/, its elements separated by slashes.
//
// File names are bytes, JSON is Unicode: in its text form each byte that is
// not part of valid UTF-8, each control character and each "%" is written as
// "%" and two upper-case hexadecimal digits.
type Path string

// String returns the text form, so that messages stay readable whatever a file
// is called.
func (p Path) String() string {
	b, _ := p.MarshalText() // has no error to give
	return string(b)
}

// MarshalText implements encoding.TextMarshaler.
func (p Path) MarshalText() ([]byte, error) {
	var b strings.Builder
	for i := 0; i < len(p); {
		r, n := utf8.DecodeRuneInString(string(p[i:]))
		if r < 0x20 || r == 0x7f || r == '%' || r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, "%%%02X", p[i])
		} else {
			b.WriteString(string(p[i : i+n]))
		}
		i += n
	}
	return []byte(b.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Path) UnmarshalText(text []byte) error {
	if !strings.Contains(string(text), "%") {
		*p = Path(text)
		return nil
	}
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' {
			if i+2 >= len(text) {
				return fmt.Errorf("path %.80q: a %% needs two hexadecimal digits after it", text)
			}
			n, err := strconv.ParseUint(string(text[i+1:i+3]), 16, 8)
			if err != nil {
				return fmt.Errorf("path %.80q: a %% needs two hexadecimal digits after it", text)
			}
			c = byte(n)
			i += 2
		}
		b = append(b, c)
	}
	*p = Path(b)
	return nil
}

// The limits of a tree, which keep a hostile manifest from costing more than
// its bytes. Linux has the same for a path and its elements.
const (
	maxPath    = 4095
	maxElement = 255
)

// CheckPath reports whether p is a clean relative path that stays below its root.
func CheckPath(p Path) error {
	s := string(p)
	switch {
	case s == "" || s == ".":
		return fmt.Errorf("%w: empty path", ErrInvalid)
	case len(s) > maxPath:
		return fmt.Errorf("%w: path %.40q… has %d bytes, at most %d are allowed", ErrInvalid, s, len(s), maxPath)
	case strings.HasPrefix(s, "/"):
		return fmt.Errorf("%w: path %q is absolute: expected one below apps/", ErrInvalid, s)
	case strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%w: path %q holds a zero byte", ErrInvalid, s)
	}
	for rest, more := s, true; more; { // allocates nothing, as there are many
		var el string
		el, rest, more = strings.Cut(rest, "/")
		switch {
		case el == "..":
			return fmt.Errorf("%w: path %q climbs out of its directory", ErrInvalid, s)
		case el == "" || el == ".":
			return fmt.Errorf("%w: path %q is not clean: expected %q", ErrInvalid, s, path.Clean(s))
		case len(el) > maxElement:
			return fmt.Errorf("%w: path %.40q… has an element of %d bytes, at most %d are allowed", ErrInvalid, s, len(el), maxElement)
		}
	}
	return nil
}
