// Package text makes what came from elsewhere fit to be shown: names of files, a
// server's words, certificates, what a bundle says of itself. On a terminal and in
// a log such text could hide, forge or rewrite lines; here it becomes visible.
package text

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Line returns s as one line: each control character (a line end, too), each
// character that steers the direction of text or shows nothing, and each byte
// that is no text stands there as an escape, such as \n, \x1b or \u202e.
func Line(s string) string {
	if fit(s) {
		return s
	}
	var b strings.Builder
	for i, n := 0, 0; i < len(s); i += n {
		var r rune
		r, n = utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case !unseen(r):
			b.WriteRune(r)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// JSON returns a JSON document with what Line escapes written as escapes of JSON:
// it means the same. What is no text in it becomes U+FFFD.
func JSON(doc []byte) []byte {
	s := string(bytes.ToValidUTF8(doc, []byte("\ufffd")))
	at := strings.IndexFunc(s, unseenInJSON)
	if at < 0 {
		return []byte(s)
	}
	b := bytes.NewBufferString(s[:at])
	for _, r := range s[at:] {
		switch {
		case !unseenInJSON(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := (r-0x10000)>>10, (r-0x10000)&0x3ff
			fmt.Fprintf(b, `\u%04x\u%04x`, 0xd800+high, 0xdc00+low)
		default:
			fmt.Fprintf(b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

func fit(s string) bool { return utf8.ValidString(s) && strings.IndexFunc(s, unseen) < 0 }

// unseen reports whether a character shows nothing by itself, or steers what
// others show: controls of ASCII and C1, marks and overrides of direction, joiners,
// separators of lines, and the like.
func unseen(r rune) bool {
	if r < utf8.RuneSelf {
		return r < ' ' || r == 0x7f
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co)
}

// unseenInJSON is unseen, but for the white space between JSON's tokens: inside
// of strings it is escaped already.
func unseenInJSON(r rune) bool { return r != '\n' && r != '\r' && r != '\t' && unseen(r) }

// Size writes a number of bytes for people.
func Size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d bytes", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 3 {
		v, i = v/unit, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGT"[i])
}

// Time writes a moment for people.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// Count writes a number of things for people.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
