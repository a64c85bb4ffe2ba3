package text

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                          "",
		"hello-1.0.0.tandem":        "hello-1.0.0.tandem",
		"Grüße, 你好, С уважением":    "Grüße, 你好, С уважением",
		"a\nb\rc\td":                `a\nb\rc\td`,
		"\x1b[2J\x1b]0;title\x07":   `\x1b[2J\x1b]0;title\x07`,
		"\x7f\x00":                  `\x7f\x00`,
		"\u0085\u009b31m":           `\u0085\u009b31m`,
		"\x9b31m \xff":              `\x9b31m \xff`,
		"gepj.\u202eexe":            `gepj.\u202eexe`,
		"\u2066x\u2069\u200f\u061c": `\u2066x\u2069\u200f\u061c`,
		"a\u2028b\ufeff":            `a\u2028b\ufeff`,
		"tag \U000e0041":            `tag \U000e0041`,
		`a\nb`:                      `a\nb`,
	} {
		if got := Line(in); got != want {
			t.Errorf("Line(%q) = %q, want %q", in, got, want)
		}
	}
}

// Whatever it is given, Line returns one line of text that shows all that it has,
// and JSON a document that means the same.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"", "plain", "\x1b[1m", "\u202e", "\U000e0041", "\xff\xfe", "a\u2028b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Line(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, unseen) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("Line(%q) = %q", s, got)
		}
		if Line(got) != got {
			t.Errorf("Line(%q) changes again what it has changed", s)
		}
		doc, err := json.MarshalIndent(map[string]string{"name": s}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		clean := JSON(doc)
		if strings.ContainsFunc(string(clean), unseenInJSON) {
			t.Errorf("JSON(%q) = %q", doc, clean)
		}
		var before, after map[string]string
		if err := json.Unmarshal(doc, &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(clean, &after); err != nil || before["name"] != after["name"] {
			t.Errorf("JSON(%q) = %q: %v", doc, clean, err)
		}
	})
}

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 1536: "1.5 KiB", 10 << 20: "10.0 MiB", 5 << 30: "5.0 GiB"} {
		if got := Size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
