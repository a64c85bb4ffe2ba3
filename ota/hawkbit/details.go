package hawkbit

import (
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxDetails   = 49  // of a report, its code not counted
	maxDetail    = 512 // UTF-16 units; the server splits what is longer
	maxAttribute = 128 // characters of a name or a value
	// maxAttributes is how many a device may have.
	maxAttributes = 100
)

// cleanDetails makes of messages what no server refuses: nothing that looks like
// a tag, no control characters, none too long, none too many. The newest stay.
func cleanDetails(messages []string) []string {
	var all []string
	for _, m := range messages {
		if m = cut16(clean(m), maxDetail); m != "" {
			all = append(all, m)
		}
	}
	return all[max(0, len(all)-maxDetails):]
}

// clean replaces what a server may take for markup, and what has no shape.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '<' || r == '>':
			return '\''
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == utf8.RuneError:
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}

// cut16 cuts a text to a number of UTF-16 units, between characters.
func cut16(s string, limit int) string {
	n := 0
	for i, r := range s {
		if n += utf16.RuneLen(r); n > limit {
			return s[:i]
		}
	}
	return s
}

// cleanAttributes makes of attributes what no server refuses. first are kept if
// there are too many; of the others those with the first names.
func cleanAttributes(first, others map[string]string) map[string]string {
	out := map[string]string{}
	for _, set := range []map[string]string{first, others} {
		for _, k := range sortedKeys(set) {
			name := cutRunes(clean(k), maxAttribute)
			if _, known := out[name]; name == "" || known || len(out) == maxAttributes {
				continue
			}
			out[name] = cutRunes(clean(set[k]), maxAttribute)
		}
	}
	return out
}

func cutRunes(s string, limit int) string {
	n := 0
	for i := range s {
		if n++; n > limit {
			return s[:i]
		}
	}
	return s
}
